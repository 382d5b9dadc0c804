//! One connection to a server, with or without TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::Failure;
use crate::http::Answer;

/// How much is read at first, in bytes.
const BUFFER: usize = 4096;

/// It is kept from one call to the next.
pub(crate) struct Connection {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Its beginning holds the part of an answer that has been received.
    buffer: Vec<u8>,
}

impl Connection {
    /// A connection to `address`, an IP address, or `localhost`, and a port. Every request is sent in one piece,
    /// after the answer to the one before, so Nagle's algorithm has nothing to hold back.
    pub(crate) fn open_plain(address: &str) -> Result<Self, Failure> {
        let socket = match address.strip_prefix("localhost:") {
            Some(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse()?)),
            None => TcpStream::connect(address.parse::<SocketAddr>()?),
        }?;
        Ok(Self { socket, tls: None, buffer: Vec::new() })
    }

    /// A connection with TLS. The client's hello has been sent, and the server has not answered yet.
    pub(crate) fn open_tls(address: &str, config: &Arc<ClientConfig>) -> Result<Self, Failure> {
        let (host, _) = address.rsplit_once(':').ok_or("an address has no port")?;
        let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(host)?.to_owned())?;
        let mut connection = Self::open_plain(address)?;
        tls.write_tls(&mut connection.socket)?;
        connection.tls = Some(Box::new(tls));
        Ok(connection)
    }

    /// Reads and checks the server's part of the handshake. The client's reply to it is sent with the first request.
    pub(crate) fn shake_hands(&mut self) -> Result<(), Failure> {
        if let Some(tls) = &mut self.tls {
            while tls.is_handshaking() {
                if tls.read_tls(&mut self.socket)? == 0 {
                    return Err("a server closes the connection in the handshake".into());
                }
                tls.process_new_packets()?;
            }
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        self.shake_hands()?;
        let Some(tls) = &mut self.tls else { return Ok(self.socket.write_all(request)?) };
        tls.writer().write_all(request)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Waits for the whole answer to what was sent.
    pub(crate) fn receive(&mut self) -> Result<Answer<'_>, Failure> {
        if self.buffer.is_empty() {
            // Not resized from nothing: the memory comes zeroed.
            self.buffer = vec![0; BUFFER];
        }
        let mut received = 0;
        let extent = loop {
            if self.buffer.len() == received {
                self.buffer.resize(2 * received, 0);
            }
            received += self.read(received)?;
            if let Some(extent) = Answer::extent(&self.buffer[..received])? {
                break extent;
            }
        };
        Answer::of(&self.buffer, extent)
    }

    /// Waits for something to read into the buffer, from there on.
    fn read(&mut self, from: usize) -> Result<usize, Failure> {
        let buffer = &mut self.buffer[from..];
        let length = match &mut self.tls {
            None => self.socket.read(buffer)?,
            Some(tls) => loop {
                match tls.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if tls.read_tls(&mut self.socket)? == 0 {
                            break 0;
                        }
                        tls.process_new_packets()?;
                    }
                    read => break read?,
                }
            },
        };
        if length == 0 { Err("a server closes the connection".into()) } else { Ok(length) }
    }
}
