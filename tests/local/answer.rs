//! A function's answer as the HTTP response that API Gateway makes of it (API Gateway Developer
//! Guide, "Create AWS Lambda proxy integrations for HTTP APIs", "Lambda function response for
//! format 2.0").

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::http_server::{Response, response};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    status_code: u16,
    headers: Option<Map<String, Value>>,
    cookies: Option<Vec<String>>,
    body: Option<String>,
    is_base64_encoded: Option<bool>,
}

/// The response for a function's `answer`.
///
/// Without a `statusCode`, the answer itself is the body. The guide says this about valid JSON; API
/// Gateway was observed to do it with any bytes (aws/aws-lambda-dotnet, Lambda Test Tool v2).
///
/// # Errors
/// Why the answer is malformed.
pub fn http_response(answer: Bytes) -> Result<Response, String> {
    match serde_json::from_slice(&answer) {
        Ok(Value::Object(answer)) if answer.contains_key("statusCode") => {
            let answer = serde_json::from_value(Value::Object(answer)).map_err(|error| error.to_string())?;
            explicit(answer)
        }
        Ok(Value::String(body)) => Ok(response(StatusCode::OK, "application/json", body)),
        _ => Ok(response(StatusCode::OK, "application/json", answer)),
    }
}

fn explicit(answer: Answer) -> Result<Response, String> {
    let status = status(answer.status_code)?;
    let body = answer.body.unwrap_or_default();
    let body = match answer.is_base64_encoded {
        Some(true) => BASE64_STANDARD.decode(body).map_err(|error| format!("the body is not base64: {error}"))?,
        _ => body.into_bytes(),
    };
    let mut headers = headers(answer.headers.unwrap_or_default())?;
    headers.extend(cookies(&answer.cookies.unwrap_or_default())?.into_iter().map(|cookie| (SET_COOKIE, cookie)));
    if !body.is_empty() {
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The status `code`, if an answer may have it.
pub(crate) fn status(code: u16) -> Result<StatusCode, String> {
    let status = StatusCode::from_u16(code).ok().filter(|status| !status.is_informational());
    let status = status.filter(|status| status.as_u16() < 600);
    status.ok_or_else(|| format!("{code} is not a valid status"))
}

/// Those of the answer's headers that the gateway passes on.
pub(crate) fn headers(told: Map<String, Value>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in told {
        let value = match value {
            Value::String(value) => value,
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return Err(format!("the header {name:?} has the value {value}")),
        };
        let name = HeaderName::try_from(&name).map_err(|_| format!("{name:?} is not a valid header name"))?;
        // These headers belong to the gateway's own connection.
        if ![CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
            headers.append(name, header_value(&value)?);
        }
    }
    Ok(headers)
}

/// The values of `set-cookie`.
pub(crate) fn cookies(cookies: &[String]) -> Result<Vec<HeaderValue>, String> {
    cookies.iter().map(|cookie| header_value(cookie)).collect()
}

fn header_value(value: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(value).map_err(|error| format!("a header or cookie is illegal: {error}"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    /// Status, content type, cookies and body of an answer's response.
    async fn interpreted(answer: &'static str) -> Result<(u16, String, usize, Bytes), String> {
        let response = http_response(Bytes::from_static(answer.as_bytes()))?;
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").to_owned());
        let cookies = response.headers().get_all(SET_COOKIE).iter().count();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body in memory").to_bytes();
        Ok((status, content_type.unwrap_or_default(), cookies, body))
    }

    #[tokio::test]
    async fn an_answer_is_interpreted_as_api_gateway_interprets_it() {
        let rows = [
            (r#""Hello from Lambda!""#, 200, "application/json", 0, "Hello from Lambda!"),
            (r#"{ "message": "Hello" }"#, 200, "application/json", 0, r#"{ "message": "Hello" }"#),
            ("[1]", 200, "application/json", 0, "[1]"),
            ("null", 200, "application/json", 0, "null"),
            ("no JSON", 200, "application/json", 0, "no JSON"),
            (r#"{"statusCode":204}"#, 204, "", 0, ""),
            (r#"{"statusCode":201,"body":"x"}"#, 201, "text/plain; charset=utf-8", 0, "x"),
            (
                r#"{"statusCode":200,"body":"eA==","isBase64Encoded":true,"headers":{"content-type":"a/b"}}"#,
                200,
                "a/b",
                0,
                "x",
            ),
            (r#"{"statusCode":200,"cookies":["a=1; Secure","b=2"],"headers":null,"body":null}"#, 200, "", 2, ""),
            (
                r#"{"statusCode":200,"headers":{"content-length":99,"x":true},"body":"x"}"#,
                200,
                "text/plain; charset=utf-8",
                0,
                "x",
            ),
        ];
        for (answer, status, content_type, cookies, body) in rows {
            let expected = (status, content_type.to_owned(), cookies, Bytes::from(body));
            assert_eq!(interpreted(answer).await, Ok(expected), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_malformed_answer_is_rejected() {
        let answers = [
            r#"{"statusCode":"OK"}"#,
            r#"{"statusCode":null}"#,
            r#"{"statusCode":99}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":600}"#,
            r#"{"statusCode":200,"body":{"a":1}}"#,
            r#"{"statusCode":200,"body":"?","isBase64Encoded":true}"#,
            r#"{"statusCode":200,"headers":{"a b":"c"}}"#,
            r#"{"statusCode":200,"headers":{"a":"b\nc"}}"#,
            r#"{"statusCode":200,"headers":{"a":["b"]}}"#,
            r#"{"statusCode":200,"cookies":"a=1"}"#,
        ];
        for answer in answers {
            assert!(interpreted(answer).await.is_err(), "{answer}");
        }
    }
}
