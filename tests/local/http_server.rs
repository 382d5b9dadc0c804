//! The HTTP/1.1 server with keep-alive that everything here uses.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub(crate) type Request = http::Request<Incoming>;
pub(crate) type Response = http::Response<Full<Bytes>>;

/// The sender of a request, and the connection it came on.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    reset: Arc<Notify>,
}

impl Client {
    /// Resets the connection (TCP RST), even in the middle of an exchange.
    pub(crate) fn reset(&self) {
        self.reset.notify_one();
    }
}

/// Answers every request on every connection to `listener`. If a body fails, its connection is dropped.
/// Dropping the returned set ends the server and its connections.
pub(crate) fn serve<A, F, B>(listener: TcpListener, answer: A) -> JoinSet<()>
where
    A: Fn(Request, Client) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    accept(listener, move |stream, address| {
        let answer = answer.clone();
        let client = Client { address, reset: Arc::default() };
        let reset = Arc::clone(&client.reset);
        let service = service_fn(move |request| {
            let answered = answer(request, client.clone());
            async move { Ok::<_, Infallible>(answered.await) }
        });
        async move {
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // It fails if the client or a body fails.
                _ = &mut connection => {}
                () = reset.notified() => {
                    // It fails if the client has gone.
                    let _ = connection.into_parts().io.into_inner().set_zero_linger();
                }
            }
        }
    })
}

/// Lets `converse` handle every connection to `listener`; the address is the client's. Dropping the
/// returned set ends the server and its conversations.
pub(crate) fn accept<C, F>(listener: TcpListener, converse: C) -> JoinSet<()>
where
    C: Fn(TcpStream, SocketAddr) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    // An error of `accept` concerns only one connection (accept(2), "Error handling").
                    let Ok((stream, client)) = accepted else { continue };
                    // Otherwise Nagle's algorithm delays the second of two writes.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(converse(stream, client));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    server
}

/// `body` with this status and content type.
pub(crate) fn response(status: http::StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
