//! Reads API Gateway's payload format 2.0, and writes the answers to it.
//!
//! HTTP APIs with a Lambda proxy integration and Function URLs use this format (API Gateway Developer Guide,
//! "Create AWS Lambda proxy integrations for HTTP APIs"). An invocation can carry any JSON at all, from the
//! console's test event to a queue's records. So reading never fails: anything that is not an HTTP request is
//! answered with an error that says what to send.

mod answer;
mod headers;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use lambda_runtime::Context;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;

pub(crate) use self::answer::{Answer, answer, answer_unsupported, take_cookies};
use crate::error::Error;
use crate::owner::Owner;
use crate::request::{Body, Request};

/// API Gateway waits at most 30 s for the answer of an HTTP API's integration ("Quotas for HTTP APIs"), so the
/// function has to answer sooner.
const MAX_ANSWER: Duration = Duration::from_secs(29);

/// Far longer than an invocation can take, which is 15 minutes.
const A_DAY: Duration = Duration::from_hours(24);

/// The longest explanation of why an event is not supported, in bytes. It can quote a text from the event, and
/// Lambda accepts answers of at most 6 MB.
const MAX_REASON: usize = 200;

/// How much of an invocation's time is kept for writing the answer. A short invocation keeps less.
const TO_ANSWER: Duration = Duration::from_millis(250);

/// An invocation's payload, whatever it is. Deserialising one never fails, because a payload that
/// `lambda_runtime` cannot deserialise becomes a function error, which API Gateway answers with a
/// bare 500.
pub struct Payload(Result<Event, String>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let event = Object::deserialize(deserializer).map(|Object(event)| event);
        Ok(Self(event.map_err(|error| error.to_string())))
    }
}

/// A `T` from a JSON object. A derived `Deserialize` would also accept an array of the fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyMap<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyMap<T> {
            type Value = T;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(OnlyMap(PhantomData)).map(Self)
    }
}

/// The parts of a payload format 2.0 event that are read. Every field may be missing or null.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    version: Option<String>,
    raw_path: Option<String>,
    raw_query_string: Option<String>,
    #[serde(default, deserialize_with = "headers::read")]
    headers: HeaderMap,
    request_context: Option<Object<RequestContext>>,
    #[serde(default, deserialize_with = "lenient")]
    body: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    is_base64_encoded: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    stage: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    domain_name: Option<String>,
    http: Option<Object<Http>>,
    /// Its shape depends on the authorizer.
    #[serde(default)]
    authorizer: Value,
}

impl RequestContext {
    /// The caller that the API's authorizer has identified, or the public.
    ///
    /// A JWT authorizer's claims are in `jwt.claims`, an IAM caller is in `iam` ("Working with
    /// AWS Lambda proxy integrations for HTTP APIs"). The context that a Lambda authorizer returns is in `lambda`,
    /// whatever its response format. Payload format 1.0 has the same names without `lambda`.
    fn owner(&self) -> Owner {
        let Value::Object(_) = self.authorizer else { return Owner::public() };
        let claims = &self.authorizer["jwt"]["claims"];
        if let Some(sub) = identifier(&claims["sub"]) {
            return Owner::jwt(&identifier(&claims["iss"]).unwrap_or_default(), &sub);
        }
        if let Some(user_id) = identifier(&self.authorizer["iam"]["userId"]) {
            return Owner::iam(&user_id);
        }
        let contexts = [&self.authorizer["lambda"], &self.authorizer].into_iter();
        let mut principals = contexts.flat_map(|context| [&context["principalId"], &context["sub"]]);
        principals.find_map(identifier).map_or_else(Owner::public, |principal| Owner::authorizer(&principal))
    }
}

/// What identifies a caller: a text that is not empty, or an integer. A floating-point number would lose digits,
/// so two callers could get the same identity.
fn identifier(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) if !number.is_f64() => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http {
    method: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    source_ip: Option<IpAddr>,
}

/// An invocation that is not an HTTP request.
pub struct Unsupported {
    /// [`Error::UnsupportedEvent`].
    pub error: Error,
    /// The headers, if there are any. With them the answer gets its CORS headers, so that a page can read the error.
    pub headers: HeaderMap,
}

impl Payload {
    /// The payload in the bytes of an invocation's event.
    #[must_use]
    pub fn from_slice(event: &[u8]) -> Self {
        // As in `lambda_runtime`, anything after the first JSON value is ignored.
        let payload = Self::deserialize(&mut serde_json::Deserializer::from_slice(event));
        payload.unwrap_or_else(|error| Self(Err(error.to_string())))
    }

    /// The HTTP request that the payload carries. The stage is stripped from its path, and then `base_path`, which
    /// has neither a leading nor a trailing slash and may be empty. `function_url_streams` says whether Function
    /// URLs stream responses.
    ///
    /// # Errors
    /// [`Unsupported`], if the payload is not a payload format 2.0 event.
    pub fn into_request(
        self,
        context: &Context,
        base_path: &str,
        function_url_streams: bool,
    ) -> Result<Request, Box<Unsupported>> {
        let unsupported = |mut reason: String, headers| {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            Box::new(Unsupported { error: Error::UnsupportedEvent(reason), headers })
        };
        let Event { version, raw_path, raw_query_string, headers, request_context, body, is_base64_encoded } =
            self.0.map_err(|error| unsupported(format!("this event is not one ({error})"), HeaderMap::new()))?;
        if let Some(version) = version.filter(|version| version != "2.0") {
            return Err(unsupported(format!("this event's version is {version:?}"), headers));
        }
        let no_method = "this event has no requestContext.http.method";
        let Some(Object(request_context)) = request_context else {
            return Err(unsupported(no_method.to_owned(), headers));
        };
        let owner = request_context.owner();
        let streams = function_url_streams && request_context.domain_name.as_deref().is_some_and(is_function_url);
        // Only API Gateway limits the time.
        let longest = if streams { Duration::MAX } else { MAX_ANSWER };
        let Some(Object(Http { method: Some(method), source_ip })) = request_context.http else {
            return Err(unsupported(no_method.to_owned(), headers));
        };
        let path = raw_path.unwrap_or_default();
        let stage = request_context.stage.unwrap_or_default();
        let path = strip_segments(strip_segments(&path, &stage), base_path);
        Ok(Request {
            method,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            query: raw_query_string.unwrap_or_default(),
            headers,
            body: Body { encoded: body.unwrap_or_default(), is_base64: is_base64_encoded.unwrap_or_default() },
            owner,
            source_ip,
            deadline: Instant::now() + for_upstreams(time_left(context.deadline, SystemTime::now(), longest)),
            streams,
        })
    }
}

/// `path` without the leading segments `prefix` ("a/b"), or unchanged if it does not begin with them. Only whole
/// segments are stripped: `prod` is not stripped from `/products`.
fn strip_segments<'a>(path: &'a str, prefix: &str) -> &'a str {
    if prefix.is_empty() {
        return path;
    }
    match path.strip_prefix('/').and_then(|path| path.strip_prefix(prefix)) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}

/// Whether an event with this `requestContext.domainName` came through a Function URL, which has the host
/// `<url-id>.lambda-url.<region>.on.aws` (Lambda Developer Guide, "Invoking Lambda function URLs").
fn is_function_url(domain_name: &str) -> bool {
    let labels: Vec<&str> = domain_name.split('.').collect();
    matches!(labels.as_slice(), [id, "lambda-url", region, "on", "aws"] if !id.is_empty() && !region.is_empty())
}

/// The time until the invocation's deadline, which is in milliseconds since the Unix epoch, but at most `longest`.
/// If the deadline has passed or is a day away, the time is [`MAX_ANSWER`]: Lambda never sends such a
/// deadline, but local emulators send 1970.
fn time_left(deadline_ms: u64, now: SystemTime, longest: Duration) -> Duration {
    let deadline = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(deadline_ms));
    match deadline.map(|deadline| deadline.duration_since(now)) {
        Some(Ok(left)) if !left.is_zero() && left < A_DAY => left.min(longest),
        _ => MAX_ANSWER,
    }
}

/// How much of the time `left` the upstreams may take.
fn for_upstreams(left: Duration) -> Duration {
    left.saturating_sub((left / 20).min(TO_ANSWER))
}

/// An optional field. A value of another type counts as missing.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_stripped_once_and_only_at_a_segment_boundary() {
        let rows = [
            ("/prod/health", "prod", "/health"),
            ("/prod", "prod", ""),
            ("/prod/", "prod", "/"),
            ("/products", "prod", "/products"),
            ("/prod/prod/health", "prod", "/prod/health"),
            ("/health", "prod", "/health"),
            ("/health/prod", "prod", "/health/prod"),
            ("/health", "$default", "/health"),
            ("/health", "", "/health"),
            ("", "prod", ""),
            ("prod/health", "prod", "prod/health"),
            ("/team/one/health", "team/one", "/health"),
            ("/team/oneself/health", "team/one", "/team/oneself/health"),
            ("/team/health", "team/one", "/team/health"),
            ("/Prod/health", "prod", "/Prod/health"),
        ];
        for (path, prefix, expected) in rows {
            assert_eq!(strip_segments(path, prefix), expected, "{path} without {prefix}");
        }
    }

    #[test]
    fn the_time_left_is_capped_and_a_deadline_in_the_past_is_ignored() {
        let now_ms = 1_800_000_000_000;
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
        let rows = [
            (now_ms + 3_000, Duration::from_secs(3)),
            (now_ms + 1, Duration::from_millis(1)),
            (now_ms + 900_000, MAX_ANSWER),
            (now_ms, MAX_ANSWER),
            (now_ms - 1, MAX_ANSWER),
            (0, MAX_ANSWER),
            (u64::MAX, MAX_ANSWER),
        ];
        for (deadline_ms, expected) in rows {
            assert_eq!(time_left(deadline_ms, now, MAX_ANSWER), expected, "deadline {deadline_ms}");
        }
    }

    #[test]
    fn a_streamed_answer_may_last_until_the_functions_own_deadline() {
        let now_ms = 1_800_000_000_000;
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms);
        let rows = [
            (now_ms + 3_000, Duration::from_secs(3)),
            (now_ms + 900_000, Duration::from_mins(15)),
            (now_ms - 1, MAX_ANSWER),
            (0, MAX_ANSWER),
            (u64::MAX, MAX_ANSWER),
        ];
        for (deadline_ms, expected) in rows {
            assert_eq!(time_left(deadline_ms, now, Duration::MAX), expected, "deadline {deadline_ms}");
        }
    }

    #[test]
    fn only_the_host_of_a_function_url_is_recognised_as_one() {
        let rows = [
            ("abc123.lambda-url.us-east-1.on.aws", true),
            ("abc123.lambda-url.ap-northeast-2.on.aws", true),
            (".lambda-url.us-east-1.on.aws", false),
            ("abc123.lambda-url..on.aws", false),
            ("abc123.lambda-url.on.aws", false),
            ("a.b.lambda-url.us-east-1.on.aws", false),
            ("abc123.lambda-url.us-east-1.on.aws.example.com", false),
            ("abc123xlambda-url.us-east-1.on.aws", false),
            ("abc123.execute-api.us-east-1.amazonaws.com", false),
            ("localhost", false),
            ("", false),
        ];
        for (domain_name, expected) in rows {
            assert_eq!(is_function_url(domain_name), expected, "{domain_name:?}");
        }
    }

    #[test]
    fn some_of_the_time_is_kept_for_the_answer() {
        for (left, upstreams) in [(29_000, 28_750), (5_000, 4_750), (1_000, 950), (20, 19), (0, 0)] {
            assert_eq!(for_upstreams(Duration::from_millis(left)), Duration::from_millis(upstreams), "{left} ms");
        }
    }
}
