//! An API Gateway HTTP API with one route, `$default`, that hands every request to the function
//! as a payload format 2.0 event.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use super::answer;
use super::environment::Outcome;
use super::event::{self, Arrival, Caller, DEFAULT_STAGE};
use super::function::Function;
use super::http_server::{self, Request, Response, response};

/// The longest request body (API Gateway Developer Guide, "Quotas for HTTP APIs").
const LONGEST_BODY: usize = 10 * 1024 * 1024;

/// How the API is set up.
#[derive(Clone)]
pub(crate) struct GatewayOptions {
    /// `$default`, or a name that then begins every path.
    pub(crate) stage: String,
    /// Tells who sends a request.
    pub(crate) authorizer: Arc<dyn Fn(&Parts) -> Caller + Send + Sync>,
    /// When the gateway stops waiting for the function.
    pub(crate) integration_timeout: Duration,
    /// Whether a line is written for each request.
    pub(crate) access_log: bool,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            stage: DEFAULT_STAGE.to_owned(),
            authorizer: Arc::new(|_| Caller::Unknown),
            integration_timeout: Duration::from_secs(30),
            access_log: false,
        }
    }
}

/// A running API; it ends when dropped.
pub(crate) struct Gateway {
    address: SocketAddr,
    _server: JoinSet<()>,
}

struct Api {
    options: GatewayOptions,
    function: Function,
    port: u16,
}

impl Gateway {
    /// Serves `function` on `listener`.
    pub(crate) fn start(listener: TcpListener, function: Function, options: GatewayOptions) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let api = Arc::new(Api { options, function, port: address.port() });
        let server = http_server::serve(listener, move |request, client| {
            let api = Arc::clone(&api);
            async move { api.answer(request, client.address).await }
        });
        Ok(Self { address, _server: server })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Api {
    async fn answer(&self, request: Request, client: SocketAddr) -> Response {
        let arrived = Instant::now();
        // As long as API Gateway's own ids, and of the same alphabet.
        let request_id = BASE64_STANDARD.encode(&Uuid::new_v4().as_bytes()[..11]);
        let (parts, body) = request.into_parts();
        let mut response = self.respond(&parts, body, client, &request_id).await;
        let id = HeaderValue::try_from(request_id).expect("base64 is a legal value");
        response.headers_mut().insert("apigw-requestid", id);
        if self.options.access_log {
            let (status, took) = (response.status().as_u16(), arrived.elapsed().as_millis());
            eprintln!("{} {} {status} {took} ms", parts.method, parts.uri);
        }
        response
    }

    async fn respond(&self, request: &Parts, body: Incoming, client: SocketAddr, request_id: &str) -> Response {
        let GatewayOptions { stage, authorizer, integration_timeout, .. } = &self.options;
        if !event::is_in_stage(request.uri.path(), stage) {
            return message(StatusCode::NOT_FOUND, "Not Found");
        }
        let body = match Limited::new(body, LONGEST_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
            }
            Err(_) => return message(StatusCode::BAD_REQUEST, "Bad Request"),
        };
        let arrival = Arrival { request_id, stage, client, port: self.port, caller: authorizer(request) };
        let event = event::event(request, &body, arrival).to_string();
        let failure = tokio::select! {
            // A function that has as long as the gateway waits is late.
            biased;
            () = sleep(*integration_timeout) => {
                eprintln!("The function did not answer within {integration_timeout:?}.");
                return message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
            }
            invoked = self.function.invoke(event) => match invoked.map(|invoked| invoked.outcome) {
                Ok(Outcome::Response(answer)) => match answer::http_response(answer) {
                    Ok(response) => return response,
                    Err(reason) => format!("The function's answer is malformed: {reason}."),
                },
                Ok(Outcome::Stream(_)) => "The function's answer is malformed: it is streamed.".to_owned(),
                Ok(Outcome::Error(error)) => format!("The function reported an error: {}", error.escape_ascii()),
                Ok(Outcome::Exited(status)) => format!("The function ended while it handled a request ({status})."),
                Ok(Outcome::TimedOut) => "The function reached its timeout.".to_owned(),
                Ok(Outcome::Stopped) => "The function was stopped while it handled a request.".to_owned(),
                Err(error) => error.to_string(),
            },
        };
        eprintln!("{failure}");
        message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
    }
}

/// An answer of API Gateway itself.
fn message(status: StatusCode, message: &str) -> Response {
    response(status, "application/json", json!({"message": message}).to_string())
}
