//! An HTTP/1.1 server with keep-alive on a listener, for everything here that answers HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) type Request = http::Request<Incoming>;
pub(crate) type Response = http::Response<Full<Bytes>>;

/// Answers every request of every connection to `listener`; the address is the client's. Ends,
/// its connections too, when what it returns is dropped.
pub(crate) fn serve<A, F>(listener: TcpListener, answer: A) -> JoinSet<()>
where
    A: Fn(Request, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    accept(listener, move |stream, client| {
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let answered = answer(request, client);
            async move { Ok::<_, Infallible>(answered.await) }
        });
        async move {
            // It fails with the client only.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
}

/// Has `converse` handle every connection to `listener`; the address is the client's. Ends, what
/// `converse` does too, when what it returns is dropped.
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
                    // What `accept` fails with is the fault of one connection (accept(2), "Error handling").
                    let Ok((stream, client)) = accepted else { continue };
                    // Otherwise Nagle's algorithm holds back what is written in two pieces.
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
