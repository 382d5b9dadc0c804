//! The connector through which the SDK uses the process's HTTP client.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http::Request;
use tokio::task::{spawn_blocking, yield_now};

use crate::call::Call;
use crate::http_client::{Client, Error, MAX_CALL};

/// The SDK's view of the HTTP client.
#[derive(Debug)]
pub(super) struct SdkClient(pub(super) Client);

impl HttpClient for SdkClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The SDK's read timeout limits the whole call here, because the table's answers are short.
        let timeout = settings.read_timeout().unwrap_or(MAX_CALL);
        SharedHttpConnector::new(SdkConnector { client: self.0.clone(), timeout })
    }
}

/// Makes the calls of the AWS SDK. A single call blocks the runtime's thread, which has nothing else to do:
/// starting and waking another thread would take time. Calls that are made at the same time get a thread
/// each.
#[derive(Debug)]
struct SdkConnector {
    client: Client,
    timeout: Duration,
}

impl HttpConnector for SdkConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, timeout) = (self.client.clone(), self.timeout);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let call = request.extensions().get::<Call>().cloned();
            // While this thread is blocked, the SDK's time limit of the operation cannot end it.
            let timeout = timeout.min(call.as_ref().map_or(timeout, Call::time_left));
            if timeout.is_zero() {
                return Err(ConnectorError::timeout("no time is left".into()));
            }
            // Lets operations that were started together with this one begin too, so that they are counted.
            yield_now().await;
            // A transaction carries a token of its own, and every other call to the table can be made twice.
            let send = move || {
                let (parts, body) = request.into_parts();
                client.send_repeatable(&Request::from_parts(parts, body.bytes().unwrap_or_default()), timeout)
            };
            let answer = if call.is_some_and(|call| call.has_one_operation()) {
                // As on another thread, a panic is a call that failed.
                catch_unwind(AssertUnwindSafe(send)).map_err(|_| "the call panicked".into())
            } else {
                spawn_blocking(send).await.map_err(Into::into)
            };
            let answer = answer.map_err(|panic| ConnectorError::other(panic, None))?;
            let response = answer.map_err(|error| match error {
                Error::TimedOut(_) => ConnectorError::timeout(error.into()),
                Error::NotConnected(_) | Error::Broken(_) | Error::Stale(_) | Error::Cut(_) => {
                    ConnectorError::io(error.into())
                }
                Error::TooLong(_) | Error::Invalid(_) => ConnectorError::other(error.into(), None),
            })?;
            HttpResponse::try_from(response.map(SdkBody::from))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
