//! How a call to the table is made: its time limits, the count of its retries, and the waits between them.

use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_runtime_api::client::retries::RequestAttempts;

use crate::call::{Call, Operation};

/// How long one attempt of a call may take. If there is no answer by then, it is better to retry.
const MAX_ATTEMPT: Duration = Duration::from_secs(3);

/// The least time that one attempt gets, if that much is left.
const MIN_ATTEMPT: Duration = Duration::from_millis(300);

/// Gives a request of the SDK the time limits of `call`, and counts its retries. The request carries the call,
/// from which the connector takes its time limit.
pub(super) fn within(call: &Call) -> Builder {
    // The SDK rejects a limit of zero.
    let left = call.time_left().max(Duration::from_millis(1));
    // Half of what is left, so that a request that hangs can be retried.
    let attempt = (left / 2).max(MIN_ATTEMPT).min(MAX_ATTEMPT).min(left);
    let limits = TimeoutConfig::builder().operation_timeout(left).read_timeout(attempt).build();
    Builder::default()
        .timeout_config(limits)
        .interceptor(Attempts { call: call.clone(), _operation: call.begin_operation() })
}

/// The waits between the attempts of a write.
pub(super) struct Backoff<'a> {
    call: &'a Call,
    longest: Duration,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self { call, longest: Duration::from_millis(10) }
    }

    /// Waits for a random time, on average longer each time, and counts a retry. Returns `false` at once if
    /// there is not enough time for that.
    pub(super) async fn wait(&mut self) -> bool {
        let backoff = self.longest.mul_f64(fastrand::f64());
        self.longest = (self.longest * 2).min(Duration::from_millis(250));
        let fits = backoff < self.call.time_left();
        if fits {
            self.call.count_retry();
            // Another operation must not block this thread meanwhile.
            let _waiting = self.call.begin_operation();
            tokio::time::sleep(backoff).await;
        }
        fits
    }
}

/// Counts the attempts that the SDK makes after the first, and adds the call to each of their requests.
#[derive(Debug)]
struct Attempts {
    call: Call,
    /// It ends with the request that this is an interceptor of.
    _operation: Operation,
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "Attempts"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1) {
            self.call.count_retry();
        }
        context.request_mut().add_extension(self.call.clone());
        Ok(())
    }
}
