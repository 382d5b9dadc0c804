//! The least that can stand between the model and the caller: a process that copies the bytes of one
//! connection both ways, with blocking reads and writes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::shared::Failure;

/// Prints where it listens, and copies between the first client and `upstream`,
/// until either has gone.
///
/// # Errors
/// There is no port, or nothing listens at `upstream`.
pub(crate) fn run(upstream: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let (caller, _) = listener.accept()?;
    let upstream = TcpStream::connect(upstream)?;
    for stream in [&caller, &upstream] {
        stream.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(&caller, &upstream));
        copy(&upstream, &caller);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // A client that has gone does not need to know.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
