//! Writes responses in the payload formats.

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayV2httpResponse};
use aws_lambda_events::encodings;
use http::HeaderMap;
use http::header::SET_COOKIE;
use serde::Serialize;

use crate::response::Response;

/// An answer in one of the payload formats.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Format 2.0.
    Http(ApiGatewayV2httpResponse),
    /// Format 1.0, which REST APIs and load balancers read too. A REST API rejects an answer that has the
    /// `cookies` of format 2.0.
    Unsupported(ApiGatewayProxyResponse),
}

/// `response` as the answer to a payload format 2.0 event.
pub(crate) fn answer(response: Response) -> Answer {
    let (mut parts, body) = response.into_parts();
    let mut answer = ApiGatewayV2httpResponse::default();
    answer.status_code = i64::from(parts.status.as_u16());
    answer.cookies = take_cookies(&mut parts.headers);
    answer.headers = parts.headers;
    answer.body = (!body.is_empty()).then_some(encodings::Body::Text(body));
    Answer::Http(answer)
}

/// Takes the cookies out of `headers`, because Lambda expects them separately.
pub(crate) fn take_cookies(headers: &mut HeaderMap) -> Vec<String> {
    let cookies = headers.get_all(SET_COOKIE).iter();
    let cookies = cookies.filter_map(|cookie| cookie.to_str().ok().map(ToOwned::to_owned)).collect();
    headers.remove(SET_COOKIE);
    cookies
}

/// `response` as the answer to an invocation that is not a supported HTTP request.
pub(crate) fn answer_unsupported(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let mut answer = ApiGatewayProxyResponse::default();
    answer.status_code = i64::from(parts.status.as_u16());
    answer.headers = parts.headers;
    answer.body = Some(encodings::Body::Text(body));
    Answer::Unsupported(answer)
}
