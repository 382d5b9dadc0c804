//! A name server, over UDP and TCP, that answers from a [`Zone`] or from a test's script. It reads and
//! writes messages with a different library from the function's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use simple_dns::rdata::{A, AAAA, CNAME, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http_server::accept;

/// A query as it arrived.
#[derive(Clone, Debug)]
pub struct Query {
    pub id: u16,
    pub name: String,
    /// Whether it asks for IPv6 addresses; otherwise it asks for IPv4.
    pub is_v6: bool,
    pub by_tcp: bool,
    pub client: SocketAddr,
}

impl Query {
    /// A reply without records.
    pub fn reply(&self) -> Packet<'static> {
        self.reply_about(&self.name)
    }

    /// A reply to the same question about another name.
    pub fn reply_about(&self, name: &str) -> Packet<'static> {
        let kind = if self.is_v6 { TYPE::AAAA } else { TYPE::A };
        let question = simple_dns::Question::new(owned(name), kind.into(), CLASS::IN.into(), false);
        let mut packet = Packet::new_reply(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
        packet.questions.push(question);
        packet
    }

    /// A reply with this code.
    pub fn refusal(&self, code: RCODE) -> Packet<'static> {
        let mut packet = self.reply();
        *packet.rcode_mut() = code;
        packet
    }

    /// The name and the record type, for comparisons.
    pub fn asked(&self) -> (&str, &'static str) {
        (&self.name, if self.is_v6 { "AAAA" } else { "A" })
    }
}

/// One thing that a server does with a query; an empty list means that it does not reply.
#[derive(Clone, Debug)]
pub enum Say {
    /// Sends this message.
    Message(Vec<u8>),
    /// Sends this message from another port.
    FromElsewhere(Vec<u8>),
    /// Sends these bytes over TCP without a length prefix.
    Bytes(Vec<u8>),
}

impl From<Packet<'_>> for Say {
    fn from(packet: Packet<'_>) -> Self {
        Self::Message(packet.build_bytes_vec_compressed().expect("a message"))
    }
}

/// The A or AAAA record of `name`.
pub fn address(name: &str, address: IpAddr) -> ResourceRecord<'static> {
    let data = match address {
        IpAddr::V4(address) => RData::A(A::from(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA::from(address)),
    };
    ResourceRecord::new(owned(name), CLASS::IN, 60, data)
}

/// The CNAME record from `name` to `target`.
pub fn alias(name: &str, target: &str) -> ResourceRecord<'static> {
    ResourceRecord::new(owned(name), CLASS::IN, 60, RData::CNAME(CNAME(owned(target))))
}

fn owned(name: &str) -> Name<'static> {
    Name::new(name).expect("a name").into_owned()
}

/// Names and their addresses; every other name does not exist.
#[derive(Clone, Debug, Default)]
pub struct Zone(Vec<(String, Vec<IpAddr>)>);

impl Zone {
    /// A name with addresses, or without.
    ///
    /// # Panics
    /// If one of them is not an IP address.
    #[must_use]
    pub fn with(mut self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address"));
        self.0.push((name.to_owned(), addresses.collect()));
        self
    }

    pub fn reply(&self, query: &Query) -> Packet<'static> {
        let mut packet = query.reply();
        match self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(&query.name)) {
            Some((_, addresses)) => {
                let addresses = addresses.iter().filter(|address| address.is_ipv6() == query.is_v6);
                packet.answers.extend(addresses.map(|one| address(&query.name, *one)));
            }
            None => *packet.rcode_mut() = RCODE::NameError,
        }
        packet
    }
}

type Script = dyn Fn(&Query) -> Vec<Say> + Send + Sync;
type Queries = watch::Sender<Vec<Query>>;

/// A running name server; it ends when dropped.
pub struct NameServer {
    address: SocketAddr,
    queries: Queries,
    _servers: [JoinSet<()>; 2],
}

impl NameServer {
    /// A server on a free port of 127.0.0.1 that follows `script`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(script: impl Fn(&Query) -> Vec<Say> + Send + Sync + 'static) -> io::Result<Self> {
        loop {
            let (tcp, udp) = {
                let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let udp = UdpSocket::bind(tcp.local_addr()?).await;
                (tcp, udp)
            };
            // The port may be free for only one of TCP and UDP.
            if let Ok(udp) = udp {
                return Self::serve(tcp, udp, script);
            }
        }
    }

    /// A server at this address that answers from `zone`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start_at(address: SocketAddr, zone: Zone) -> io::Result<Self> {
        let (tcp, udp) = (TcpListener::bind(address).await?, UdpSocket::bind(address).await?);
        Self::serve(tcp, udp, move |query| vec![zone.reply(query).into()])
    }

    /// A server that answers from `zone`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn of(zone: Zone) -> Self {
        Self::start(move |query| vec![zone.reply(query).into()]).await.expect("the name server starts")
    }

    fn serve(
        tcp: TcpListener,
        udp: UdpSocket,
        script: impl Fn(&Query) -> Vec<Say> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (script, queries): (Arc<Script>, _) = (Arc::new(script), Queries::default());
        let mut by_udp = JoinSet::new();
        by_udp.spawn(answer_datagrams(udp, Arc::clone(&script), queries.clone()));
        let by_tcp = {
            let queries = queries.clone();
            accept(tcp, move |stream, client| {
                let (script, queries) = (Arc::clone(&script), queries.clone());
                async move {
                    // It fails only if the client does.
                    let _ = answer_stream(stream, client, &*script, &queries).await;
                }
            })
        };
        Ok(Self { address, queries, _servers: [by_udp, by_tcp] })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The queries so far.
    pub fn queries(&self) -> Vec<Query> {
        self.queries.borrow().clone()
    }

    /// The queries, once there are this many.
    pub async fn queried(&self, times: usize) -> Vec<Query> {
        let mut queries = self.queries.subscribe();
        queries.wait_for(|queries| queries.len() >= times).await.expect("its sender lives in self").clone()
    }
}

/// Records the query in `message` in `queries`; `None` if it is not a query.
fn note(message: &[u8], client: SocketAddr, by_tcp: bool, queries: &Queries) -> Option<Query> {
    let packet = Packet::parse(message).ok()?;
    let [question] = packet.questions.as_slice() else { return None };
    let is_v6 = match question.qtype {
        QTYPE::TYPE(TYPE::A) => false,
        QTYPE::TYPE(TYPE::AAAA) => true,
        _ => return None,
    };
    let query = Query { id: packet.id(), name: question.qname.to_string(), is_v6, by_tcp, client };
    queries.send_modify(|queries| queries.push(query.clone()));
    Some(query)
}

async fn answer_datagrams(socket: UdpSocket, script: Arc<Script>, queries: Queries) {
    let mut datagram = vec![0; 65_535];
    loop {
        // An error here only concerns an earlier reply.
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else { continue };
        let Some(query) = note(&datagram[..length], client, false, &queries) else { continue };
        for say in script(&query) {
            let _ = match say {
                Say::Message(message) => socket.send_to(&message, client).await,
                Say::FromElsewhere(message) => match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await {
                    Ok(elsewhere) => elsewhere.send_to(&message, client).await,
                    Err(error) => Err(error),
                },
                Say::Bytes(_) => Ok(0),
            };
        }
    }
}

async fn answer_stream(
    mut stream: TcpStream,
    client: SocketAddr,
    script: &Script,
    queries: &Queries,
) -> io::Result<()> {
    loop {
        let mut message = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut message).await?;
        let Some(query) = note(&message, client, true, queries) else { return Ok(()) };
        for say in script(&query) {
            match say {
                Say::Message(message) => {
                    let length = u16::try_from(message.len()).expect("a message is shorter than 64 KiB");
                    stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await?;
                }
                Say::Bytes(bytes) => stream.write_all(&bytes).await?,
                Say::FromElsewhere(_) => {}
            }
        }
    }
}
