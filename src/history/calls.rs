//! How a call to the table is made: its time limits, and what is counted and waited for between
//! attempts.

use std::time::Duration;

use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_smithy_runtime_api::client::retries::RequestAttempts;

use crate::call::{Call, Operation};

/// How long one attempt of a call may take: a call that is not answered by then is better repeated.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(3);

/// How long one attempt is given at least, where there is that much.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(300);

/// The time limits of a request of the SDK's within `call`, and the count of its retries. The call goes
/// along with the request, for the connector's time limit.
pub(super) fn within(call: &Call) -> Builder {
    // The SDK refuses a limit of zero.
    let left = call.time_left().max(Duration::from_millis(1));
    // Half of what is left, so that a request that hangs can be repeated.
    let attempt = (left / 2).max(SHORTEST_ATTEMPT).min(LONGEST_ATTEMPT).min(left);
    let limits = TimeoutConfig::builder().operation_timeout(left).read_timeout(attempt).build();
    Builder::default()
        .timeout_config(limits)
        .interceptor(Attempts { call: call.clone(), _operation: call.begin_operation() })
}

/// Waits between the attempts at a write that others were faster at.
pub(super) struct Backoff<'a> {
    call: &'a Call,
    longest: Duration,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self { call, longest: Duration::from_millis(10) }
    }

    /// Waits a random while, longer each time, and counts what follows as a repetition; `false`
    /// when there is no time for that.
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

/// Counts the attempts of a call that the SDK makes beyond the first, and has each of them carry the call.
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
