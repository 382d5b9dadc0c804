//! The SDK's client for the table.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_dynamodb::config::{BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig};
use http::Uri;

use super::Settings;
use super::connector::SdkClient;
use crate::http_client;

/// The most attempts of a call, within its time.
const MAX_ATTEMPTS: u32 = 6;

pub(super) fn client(http: http_client::Client, settings: &Settings) -> Client {
    let mut config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(settings.region.clone()))
        .credentials_provider(settings.keys.credentials())
        .identity_cache(IdentityCache::no_cache())
        .http_client(SdkClient(http))
        .retry_config(
            RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS).with_initial_backoff(Duration::from_millis(50)),
        )
        // The SDK's token bucket is for a fleet that outlives an outage. Here it would stay empty long after
        // one, and each call has its own time limit anyway.
        .retry_partition(RetryPartition::custom("history").token_bucket(TokenBucket::unlimited()).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(settings.endpoint_url.clone());
    Client::from_conf(config.build())
}

/// Where the client calls the table if no address is given, by the SDK's own rules. They wait for nothing.
pub(super) fn endpoint(settings: &Settings) -> Option<Uri> {
    let params = Params::builder()
        .region(&settings.region)
        .resource_arn(&settings.table)
        .account_id_endpoint_mode("preferred")
        .build();
    let resolver = DefaultResolver::new();
    let params = params.ok()?;
    let endpoint = pin!(resolver.resolve_endpoint(&params));
    match endpoint.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(endpoint) => endpoint.ok()?.url().parse().ok(),
        Poll::Pending => None,
    }
}
