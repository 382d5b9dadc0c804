//! An HTTP request as a payload format 2.0 event: API Gateway's (API Gateway Developer Guide,
//! "Create AWS Lambda proxy integrations for HTTP APIs", "Payload format structure") or a Function
//! URL's (Lambda Developer Guide, "Invoking Lambda function URLs", "Request payload format").

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::runtime_api::trace_root;

/// The stage whose paths carry no prefix.
pub const DEFAULT_STAGE: &str = "$default";

const ACCOUNT: &str = "123456789012";

/// The first label of a Function URL's domain name.
const URL_ID: &str = "localfunctionurl0000000000000000";

/// Headers of one connection, not of the request (RFC 9110 §7.6.1), and `Cookie`, which has a
/// field of its own.
const LEFT_OUT: [HeaderName; 8] =
    [CONNECTION, COOKIE, EXPECT, HeaderName::from_static("keep-alive"), TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Who calls, as the API's authorizer found out.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The API has no authorizer.
    Unknown,
    /// A JWT authorizer's. API Gateway makes every claim a string.
    Jwt { claims: Map<String, Value>, scopes: Option<Vec<String>> },
    /// An IAM user or role session with this unique id signed the request.
    Iam { user_id: String },
    /// A Lambda authorizer's. Its response may be simple or an IAM policy, in either payload format; the event
    /// has the context that it returned, or `null` if it returned none.
    Lambda { context: Value },
}

impl Caller {
    /// The bearer of a token with the claim `sub` and no scopes.
    pub fn jwt(sub: &str) -> Self {
        let claims = [("iss", "https://issuer.example.com"), ("sub", sub)];
        let claims = claims.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Self::Jwt { claims, scopes: None }
    }

    fn authorizer(self) -> Option<Value> {
        match self {
            Self::Unknown => None,
            Self::Jwt { claims, scopes } => Some(json!({"jwt": {"claims": claims, "scopes": scopes}})),
            Self::Iam { user_id } => Some(json!({"iam": {
                "accessKey": "AKIAEXAMPLE",
                "accountId": ACCOUNT,
                "callerId": user_id,
                "cognitoIdentity": null,
                "principalOrgId": "o-example",
                "userArn": format!("arn:aws:iam::{ACCOUNT}:user/local"),
                "userId": user_id,
            }})),
            Self::Lambda { context } => Some(json!({"lambda": context})),
        }
    }
}

/// The front that makes the event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Front<'a> {
    HttpApi { stage: &'a str },
    FunctionUrl { region: &'a str },
}

/// What the front knows besides the request itself.
pub(crate) struct Arrival<'a> {
    pub(crate) front: Front<'a>,
    pub(crate) request_id: &'a str,
    pub(crate) client: SocketAddr,
    /// The gateway's own port.
    pub(crate) port: u16,
    pub(crate) caller: Caller,
}

/// The event of a request to the route `$default`.
pub(crate) fn event(request: &Parts, body: &[u8], arrival: Arrival<'_>) -> Value {
    let query = request.uri.query().unwrap_or_default();
    let (path, stage, api, domain) = match arrival.front {
        Front::HttpApi { stage } => (decoded(request.uri.path()), stage, "local", domain(&request.headers)),
        Front::FunctionUrl { region } => {
            (request.uri.path().to_owned(), DEFAULT_STAGE, URL_ID, format!("{URL_ID}.lambda-url.{region}.on.aws"))
        }
    };
    let now = OffsetDateTime::from(SystemTime::now());
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers(&request.headers, body.len(), &arrival),
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": api,
            "domainName": domain,
            "domainPrefix": domain.split('.').next(),
            "http": {
                "method": request.method.as_str(),
                "path": path,
                "protocol": format!("{:?}", request.version),
                "sourceIp": arrival.client.ip().to_string(),
                "userAgent": text(&request.headers, &USER_AGENT).unwrap_or_default(),
            },
            "requestId": arrival.request_id,
            "routeKey": "$default",
            "stage": stage,
            "time": request_time(now),
            "timeEpoch": i64::try_from(now.unix_timestamp_nanos() / 1_000_000).expect("a year below 292 million"),
        },
        "isBase64Encoded": false,
    });
    if let Some(cookies) = text(&request.headers, &COOKIE) {
        event["cookies"] = cookies.split("; ").collect();
    }
    if !query.is_empty() {
        event["queryStringParameters"] = json!(query_parameters(query));
    }
    let authorizer = arrival.caller.authorizer();
    if let Front::FunctionUrl { .. } = arrival.front {
        let context = &mut event["requestContext"];
        context["authentication"] = Value::Null;
        context["authorizer"] = Value::Null;
        if authorizer.is_none() {
            context["accountId"] = "anonymous".into();
        }
    }
    if let Some(authorizer) = authorizer {
        event["requestContext"]["authorizer"] = authorizer;
    }
    if !body.is_empty() {
        match std::str::from_utf8(body) {
            Ok(body) if is_text(&text(&request.headers, &CONTENT_TYPE).unwrap_or_default()) => {
                event["body"] = body.into();
            }
            _ => {
                event["body"] = BASE64_STANDARD.encode(body).into();
                event["isBase64Encoded"] = true.into();
            }
        }
    }
    event
}

/// Whether `path`, as requested, lies in `stage`.
pub(crate) fn is_in_stage(path: &str, stage: &str) -> bool {
    let below = match stage {
        DEFAULT_STAGE => Some(path),
        _ => path.strip_prefix('/').and_then(|path| path.strip_prefix(stage)),
    };
    below.is_some_and(|below| below.starts_with('/') || (below.is_empty() && stage != DEFAULT_STAGE))
}

/// The requested host, without the port.
fn domain(headers: &HeaderMap) -> String {
    let host = text(headers, &HOST).unwrap_or_else(|| "localhost".to_owned());
    host.parse().map_or_else(|_| host.clone(), |authority: Authority| authority.host().to_owned())
}

/// An HTTP API hands the path on percent-decoded, and without what follows a decoded `?`
/// (hotsock/voker#8 has captures). A Function URL keeps it encoded.
fn decoded(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    decoded.split('?').next().unwrap_or_default().to_owned()
}

/// Whether a body of this content type is passed on as text. The guide says "binary" without
/// defining it; this is how API Gateway was observed to behave (ministackorg/ministack#766).
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || ["application/json", "application/xml", "application/javascript"].contains(&essence.as_str())
}

/// The decoded parameters; the values of a repeated one are joined with commas.
fn query_parameters(query: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        combine(&mut parameters, name.into_owned(), &value);
    }
    parameters
}

fn headers(sent: &HeaderMap, length: usize, arrival: &Arrival<'_>) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (name, value) in sent.iter().filter(|(name, _)| !LEFT_OUT.contains(name)) {
        combine(&mut headers, name.to_string(), &String::from_utf8_lossy(value.as_bytes()));
    }
    headers.insert(CONTENT_LENGTH.to_string(), length.to_string());
    headers.entry("x-amzn-trace-id".to_owned()).or_insert_with(trace_root);
    let client = arrival.client.ip();
    let forwarded_for = headers.get("x-forwarded-for").map_or(client.to_string(), |via| format!("{via}, {client}"));
    headers.insert("x-forwarded-for".to_owned(), forwarded_for);
    headers.insert("x-forwarded-port".to_owned(), arrival.port.to_string());
    headers.insert("x-forwarded-proto".to_owned(), "http".to_owned());
    headers
}

fn combine(values: &mut BTreeMap<String, String>, name: String, value: &str) {
    values.entry(name).and_modify(|values| *values = format!("{values},{value}")).or_insert_with(|| value.to_owned());
}

/// A header's values joined into one, with `; ` between cookies (RFC 9113 §8.2.3) and `,` between others.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let separator = if name == COOKIE { "; " } else { "," };
    (!values.is_empty()).then(|| values.join(separator))
}

/// Such as `12/Mar/2026:19:03:58 +0000`.
fn request_time(at: OffsetDateTime) -> String {
    let format = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    at.format(&format).expect("every time can be written in this format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_the_event_that_api_gateway_sends() {
        let request = http::Request::post("/api/v1/%ED%95%9C%2Fx?q=a%2Cb&q=%20c&flag")
            .header("Host", "api.example.com:8000")
            .header("Cookie", "a=1; b=2")
            .header("Cookie", "c=3")
            .header("X-Repeated", "one")
            .header("x-repeated", "two, three")
            .header("User-Agent", "curl/8")
            .header("X-Forwarded-For", "203.0.113.7")
            .header("X-Amzn-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700")
            .header("Content-Type", "application/json; charset=utf-8");
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let arrival = |caller| Arrival {
            front: Front::HttpApi { stage: "prod" },
            request_id: "JKJaXmPLvHcESHA=",
            client: SocketAddr::from(([127, 0, 0, 1], 50_000)),
            port: 8000,
            caller,
        };
        let mut event = event(&parts, "{\"가\":1}".as_bytes(), arrival(Caller::jwt("user-1")));
        let context = event["requestContext"].as_object_mut().expect("an object");
        let (time, epoch) = (context.remove("time").expect("a time"), context.remove("timeEpoch").expect("a time"));
        let epoch = epoch.as_i64().expect("milliseconds") / 1000;
        assert_eq!(time, request_time(OffsetDateTime::from_unix_timestamp(epoch).expect("a moment")));
        let jwt = context["authorizer"]["jwt"]["claims"].as_object().expect("claims");
        assert_eq!(jwt["sub"], "user-1");
        context.remove("authorizer");
        let expected = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/api/v1/한/x",
            "rawQueryString": "q=a%2Cb&q=%20c&flag",
            "cookies": ["a=1", "b=2", "c=3"],
            "headers": {
                "host": "api.example.com:8000", "x-repeated": "one,two, three", "user-agent": "curl/8",
                "content-type": "application/json; charset=utf-8", "content-length": "9",
                "x-forwarded-for": "203.0.113.7, 127.0.0.1", "x-forwarded-port": "8000", "x-forwarded-proto": "http",
                "x-amzn-trace-id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700"
            },
            "queryStringParameters": {"q": "a,b, c", "flag": ""},
            "requestContext": {
                "accountId": ACCOUNT, "apiId": "local", "domainName": "api.example.com", "domainPrefix": "api",
                "http": {
                    "method": "POST", "path": "/api/v1/한/x", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1",
                    "userAgent": "curl/8"
                },
                "requestId": "JKJaXmPLvHcESHA=", "routeKey": "$default", "stage": "prod"
            },
            "body": "{\"가\":1}",
            "isBase64Encoded": false
        });
        assert_eq!(event, expected);

        let bytes = super::event(&parts, &[0xff, 0x00], arrival(Caller::Unknown));
        assert_eq!((&bytes["body"], &bytes["isBase64Encoded"]), (&json!("/wA="), &json!(true)));
        assert_eq!(bytes["requestContext"].get("authorizer"), None);
        for context in [json!({"principalId": "user-1", "plan": "free"}), Value::Null] {
            let lambda = super::event(&parts, &[], arrival(Caller::Lambda { context: context.clone() }));
            assert_eq!(lambda["requestContext"]["authorizer"], json!({"lambda": context}));
        }
        let none = super::event(&parts, &[], arrival(Caller::Unknown));
        assert_eq!((none.get("body"), &none["isBase64Encoded"]), (None, &json!(false)));
    }

    #[test]
    fn a_request_becomes_the_event_that_a_function_url_sends() {
        let request = http::Request::post("/api/v1/%ED%95%9C%2Fx?q=%20c")
            .header("Host", "127.0.0.1:8000")
            .header("Cookie", "a=1; b=2")
            .header("User-Agent", "curl/8")
            .header("X-Amzn-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700")
            .header("Content-Type", "application/octet-stream");
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let arrival = |caller| Arrival {
            front: Front::FunctionUrl { region: "eu-west-1" },
            request_id: "7f3c6a7e-0d2e-4b7e-9d0e-5a4f3c2b1a09",
            client: SocketAddr::from(([127, 0, 0, 1], 50_000)),
            port: 8000,
            caller,
        };
        let mut event = event(&parts, b"x", arrival(Caller::Unknown));
        let context = event["requestContext"].as_object_mut().expect("an object");
        assert!(context.remove("time").is_some() && context.remove("timeEpoch").is_some());
        let expected = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/api/v1/%ED%95%9C%2Fx",
            "rawQueryString": "q=%20c",
            "cookies": ["a=1", "b=2"],
            "headers": {
                "host": "127.0.0.1:8000", "user-agent": "curl/8", "content-type": "application/octet-stream",
                "content-length": "1", "x-forwarded-for": "127.0.0.1", "x-forwarded-port": "8000",
                "x-forwarded-proto": "http", "x-amzn-trace-id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700"
            },
            "queryStringParameters": {"q": " c"},
            "requestContext": {
                "accountId": "anonymous", "apiId": URL_ID, "authentication": null, "authorizer": null,
                "domainName": format!("{URL_ID}.lambda-url.eu-west-1.on.aws"), "domainPrefix": URL_ID,
                "http": {
                    "method": "POST", "path": "/api/v1/%ED%95%9C%2Fx", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1",
                    "userAgent": "curl/8"
                },
                "requestId": "7f3c6a7e-0d2e-4b7e-9d0e-5a4f3c2b1a09", "routeKey": "$default", "stage": "$default"
            },
            "body": "eA==",
            "isBase64Encoded": true
        });
        assert_eq!(event, expected);

        let signed = super::event(&parts, &[], arrival(Caller::Iam { user_id: "AIDAEXAMPLE".to_owned() }));
        let context = &signed["requestContext"];
        assert_eq!((&context["accountId"], &context["authentication"]), (&json!(ACCOUNT), &Value::Null));
        assert_eq!(context["authorizer"]["iam"]["userId"], "AIDAEXAMPLE");
    }

    #[test]
    fn a_stage_ends_where_a_segment_ends() {
        let rows = [
            ("/", "$default", true),
            ("/prod", "$default", true),
            ("*", "$default", false),
            ("", "$default", false),
            ("/prod", "prod", true),
            ("/prod/", "prod", true),
            ("/prod/health", "prod", true),
            ("/products", "prod", false),
            ("/health", "prod", false),
            ("/", "prod", false),
        ];
        for (path, stage, expected) in rows {
            assert_eq!(is_in_stage(path, stage), expected, "{path} in {stage}");
        }
    }

    #[test]
    fn only_these_content_types_are_text() {
        let rows = [
            ("text/plain", true),
            ("text/csv; charset=utf-8", true),
            ("application/json", true),
            ("Application/JSON;charset=UTF-8", true),
            ("application/xml", true),
            ("application/javascript", true),
            ("application/problem+json", false),
            ("application/x-www-form-urlencoded", false),
            ("multipart/form-data; boundary=b", false),
            ("application/octet-stream", false),
            ("", false),
        ];
        for (content_type, expected) in rows {
            assert_eq!(is_text(content_type), expected, "{content_type:?}");
        }
    }

    #[test]
    fn the_time_is_in_the_common_log_format() {
        let at = OffsetDateTime::from_unix_timestamp(1_773_342_238).expect("a moment");
        assert_eq!(request_time(at), "12/Mar/2026:19:03:58 +0000");
    }
}
