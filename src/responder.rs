//! Answers invocations instead of `lambda_runtime`'s own services, if responses are streamed. `lambda_runtime` still
//! fetches the invocations.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::InvalidUri;
use lambda_runtime::tower::Layer;
use lambda_runtime::tower::util::Either;
use lambda_runtime::{Error, LambdaInvocation, Service};

use crate::App;
use crate::event::Payload;
use crate::runtime_api::{INVOCATION_ID, ResponseSender};

/// Uses the [`Responder`] if there is one. Both modes share one service type, so that the binary contains
/// `lambda_runtime`'s loop only once.
#[derive(Clone, Debug)]
pub struct Respond(pub Option<Responder>);

impl<S> Layer<S> for Respond {
    type Service = Either<S, Responder>;

    fn layer(&self, service: S) -> Self::Service {
        self.0.clone().map_or(Either::Left(service), Either::Right)
    }
}

/// Answers with an [`App`] and sends the responses to the Runtime API.
#[derive(Clone, Debug)]
pub struct Responder {
    app: &'static App,
    api: Uri,
}

impl Responder {
    /// Answers with `app` and sends to the host and port `runtime_api`.
    ///
    /// # Errors
    /// `runtime_api` is not a host and port.
    pub fn new(app: &'static App, runtime_api: &str) -> Result<Self, InvalidUri> {
        Ok(Self { app, api: format!("http://{runtime_api}").parse()? })
    }
}

impl Service<LambdaInvocation> for Responder {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let Self { app, api } = self.clone();
        Box::pin(async move {
            let LambdaInvocation { parts, body, context } = invocation;
            let sender = ResponseSender {
                http: app.http().clone(),
                api,
                request_id: context.request_id.clone(),
                invocation_id: parts.headers.get(INVOCATION_ID).cloned(),
            };
            if let Some(answer) = app.handle(Payload::from_slice(&body), &context, Some(&sender)).await? {
                sender.send_buffered(&answer).await?;
            }
            Ok(())
        })
    }
}
