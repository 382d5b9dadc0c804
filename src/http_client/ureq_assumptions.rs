//! What this client relies on although ureq's types do not promise it. The tests below check it: look here
//! first when a new version of ureq behaves differently.
//!
//! 1. **One thread makes a whole call.** ureq resolves the name, asks the pool for a connection, opens one if
//!    the pool has none, and sends the request, in this order and on the thread that called it. So a
//!    thread-local value shows how far a failed call got: whether anything was sent, and whether the connection
//!    had been idle. ureq's errors do not say that.
//! 2. **ureq calls the resolver for each call, and the connector only for a new connection.** So a call that
//!    has passed the resolver but not the connector has a connection from the pool.
//! 3. **A request that sets nothing about TLS may use the agent's TLS configuration.** For each request with
//!    its own settings, such as a timeout, ureq makes a new TLS configuration, which has no sessions to resume.
//!    [`of_the_agent`] makes it use the agent's.
//! 4. **The head of an answer is limited**: in bytes by the agent's setting, and always to 128 headers.

use std::cell::Cell;

use ureq::unversioned::transport::ConnectionDetails;

/// How far the call that a thread is making has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The server's name is being resolved.
    Resolving,
    /// The call has a connection that was opened earlier.
    Kept,
    /// It is opening a connection.
    Opening,
    /// It has opened a connection.
    Opened,
}

thread_local! {
    static PROGRESS: Cell<Progress> = const { Cell::new(Progress::Resolving) };
}

/// Records that this thread begins a call.
pub(super) fn begin_call() {
    set_progress(Progress::Resolving);
}

/// How far this thread's current or last call has come.
pub(super) fn progress() -> Progress {
    PROGRESS.get()
}

/// Records how far this thread's call has come.
pub(super) fn set_progress(progress: Progress) {
    PROGRESS.set(progress);
}

/// `details`, as they are for a request without its own settings.
pub(super) fn of_the_agent<'a>(details: &ConnectionDetails<'a>) -> ConnectionDetails<'a> {
    ConnectionDetails {
        uri: details.uri,
        addrs: details.addrs.clone(),
        config: details.config,
        request_level: false,
        resolver: details.resolver,
        now: details.now,
        timeout: details.timeout,
        current_time: details.current_time.clone(),
        run_connector: details.run_connector.clone(),
        register_shutdown: details.register_shutdown.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use http::Request;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::crypto::ring;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{HandshakeKind, ServerConfig, ServerConnection};

    use super::super::{Client, Error, MAX_HEAD, Roots};
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const TIMEOUT: Duration = Duration::from_secs(20);

    fn get(client: &Client, url: &str) -> Result<(), Error> {
        client.send(Request::get(url).body(&b""[..]).expect("a request"), TIMEOUT).map(drop)
    }

    /// Reads a request without a body. Returns whether there was one.
    fn read_request(stream: &mut impl Read) -> bool {
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => request.push(byte[0]),
                _ => return false,
            }
        }
        true
    }

    /// A server that answers `requests` requests on each connection and then closes it.
    fn serve(requests: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream: TcpStream = stream.expect("a connection");
                for _ in 0..requests {
                    if !read_request(&mut stream) {
                        break;
                    }
                    stream.write_all(ANSWER).expect("the client reads");
                }
            }
        });
        url
    }

    #[test]
    fn a_thread_knows_how_far_its_own_call_has_come() {
        let (client, url) = (Client::new(None), serve(usize::MAX));
        get(&client, &url).expect("an answer");
        assert_eq!(progress(), Progress::Opened, "the first call");
        get(&client, &url).expect("an answer");
        assert_eq!(progress(), Progress::Kept, "the second call");

        let refused = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let other = client.clone();
        let elsewhere = thread::spawn(move || {
            assert_eq!(progress(), Progress::Resolving, "a thread that has made no call");
            let outcome = get(&other, &format!("http://{refused}/"));
            assert!(matches!(outcome, Err(Error::NotConnected(_))), "{outcome:?}");
            progress()
        });
        assert_eq!(elsewhere.join().expect("it does not panic"), Progress::Opening, "a connection that is refused");
        assert_eq!(progress(), Progress::Kept, "another thread's call changes nothing here");

        let outcome = get(&client, "http://no-such-host.invalid:1/");
        assert!(matches!(outcome, Err(Error::NotConnected(_))), "{outcome:?}");
        assert_eq!(progress(), Progress::Resolving, "a name that does not exist");
    }

    #[test]
    fn a_broken_connection_is_stale_only_if_it_was_kept() {
        let url = serve(0);
        let fresh = get(&Client::new(None), &url);
        assert!(matches!(fresh, Err(Error::Broken(_))), "{fresh:?}");

        // The server reads a second request and closes the connection instead of answering.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            assert!(read_request(&mut stream));
            stream.write_all(ANSWER).expect("the client reads");
            assert!(read_request(&mut stream));
        });
        let client = Client::new(None);
        get(&client, &url).expect("an answer");
        let kept = get(&client, &url);
        assert!(matches!(kept, Err(Error::Stale(_))), "{kept:?}");
        server.join().expect("it does not panic");
    }

    #[test]
    fn an_answer_whose_head_is_too_long_or_has_too_many_headers_is_not_read() {
        // The status line and the last header, which with `lines` make up the head.
        let rest = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n".len();
        let of_length = |length: usize| format!("a: {}\r\n", "b".repeat(length - rest - "a: \r\n".len()));
        let rows = [
            (of_length(MAX_HEAD), "read"),
            (of_length(MAX_HEAD + 1), "too long"),
            (of_length(20 * MAX_HEAD), "too long"),
            ("a: b\r\n".repeat(127), "read"),
            ("a: b\r\n".repeat(128), "not valid HTTP"),
        ];
        for (lines, expected) in rows {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let url = format!("http://{}/", listener.local_addr().expect("an address"));
            let answer = format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok");
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                assert!(read_request(&mut stream));
                // The client may have hung up.
                let _ = stream.write_all(answer.as_bytes());
            });
            let outcome = match get(&Client::new(None), &url) {
                Ok(()) => "read",
                Err(Error::TooLong(_)) => "too long",
                Err(Error::Invalid(_)) => "not valid HTTP",
                Err(error) => panic!("{error:?}"),
            };
            assert_eq!(outcome, expected, "{} bytes", lines.len());
            server.join().expect("it does not panic");
        }
    }

    #[test]
    fn a_second_handshake_resumes_the_session_of_the_first() {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key));
        let config = Arc::new(config.expect("a configuration"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://localhost:{}/", listener.local_addr().expect("an address").port());
        let server = thread::spawn(move || {
            [(); 2].map(|()| {
                let (mut stream, _) = listener.accept().expect("a connection");
                let mut connection = ServerConnection::new(Arc::clone(&config)).expect("a connection");
                let mut tls = rustls::Stream::new(&mut connection, &mut stream);
                assert!(read_request(&mut tls));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                tls.write_all(answer).expect("the client reads");
                connection.handshake_kind()
            })
        });
        let roots = Roots::from_pem(cert.pem().as_bytes()).expect("the certificate can be a root");
        let client = Client::new(Some(&roots));
        for _ in 0..2 {
            get(&client, &url).expect("an answer");
        }
        let kinds = server.join().expect("it does not panic");
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }
}
