//! The request that reads a value, and what its answers mean.

use std::thread;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::reference::Service;
use super::{Error, Settings};
use crate::call::Call;
use crate::secret::Secret;
use crate::{error_chain, http_client};

const X_AMZ_TARGET: HeaderName = HeaderName::from_static("x-amz-target");

/// The most retries of a call.
const MAX_RETRIES: u32 = 2;

/// The most retries on other connections after one that turned out to be closed, which cost no time.
const MAX_STALE: u32 = 3;

/// The longest wait before the first retry. It doubles with each retry.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// How long one attempt may take. If there is no answer by then, it is better to retry.
const MAX_ATTEMPT: Duration = Duration::from_secs(3);

/// The least time that one attempt gets, if that much is left.
const MIN_ATTEMPT: Duration = Duration::from_millis(300);

/// How many characters of a store's message are kept for the log.
const MAX_DETAIL: usize = 500;

/// Reads the value that `settings` name, within the call's time.
///
/// # Errors
/// [`Error`].
pub(super) fn read(http: &http_client::Client, settings: &Settings, call: &Call) -> Result<Secret, Error> {
    let body = question(settings);
    let (mut retries, mut stale, mut backoff) = (0, 0, FIRST_BACKOFF);
    loop {
        let left = call.time_left();
        // Half of what is left, so that a request that hangs can be retried.
        let timeout = (left / 2).max(MIN_ATTEMPT).min(MAX_ATTEMPT).min(left);
        let error = match http.send(request(settings, &body)?, timeout) {
            Ok(answer) => match value(settings, &answer) {
                Err(Error::Unavailable(reason)) => reason,
                outcome => return outcome,
            },
            Err(http_client::Error::Stale(_)) if stale < MAX_STALE => {
                stale += 1;
                continue;
            }
            Err(error) => error_chain::line(&error),
        };
        // Jitter, so that processes that are throttled do not all retry at once.
        let wait = backoff.mul_f64(0.5 + 0.5 * fastrand::f64());
        if retries == MAX_RETRIES || wait + MIN_ATTEMPT > call.time_left() {
            return Err(Error::Unavailable(describe(settings, "", &error)));
        }
        thread::sleep(wait);
        call.count_retry();
        retries += 1;
        backoff *= 2;
    }
}

fn operation(settings: &Settings) -> &'static str {
    match settings.reference.service {
        Service::ParameterStore => "GetParameter",
        Service::SecretsManager { .. } => "GetSecretValue",
    }
}

/// Describes a failed request for the log.
fn describe(settings: &Settings, advice: &str, reason: &str) -> String {
    let (variable, arn) = (settings.variable, &settings.reference.arn);
    format!("{variable} is {arn}, and {} failed: {advice}{reason}", operation(settings))
}

fn unusable(settings: &Settings, reason: &str) -> Error {
    let (variable, arn) = (settings.variable, &settings.reference.arn);
    let reason = format!("{variable} is {arn}, whose value cannot be used: {reason}");
    Error::Unusable { variable, reason }
}

/// The body of the request (API references, `GetParameter` and `GetSecretValue`).
fn question(settings: &Settings) -> Vec<u8> {
    let arn = &settings.reference.arn;
    let question = match &settings.reference.service {
        Service::ParameterStore => json!({"Name": arn, "WithDecryption": true}),
        Service::SecretsManager { version_stage, version_id, .. } => {
            let mut question = json!({"SecretId": arn});
            for (name, value) in [("VersionStage", version_stage), ("VersionId", version_id)] {
                if let Some(value) = value {
                    question[name] = json!(value);
                }
            }
            question
        }
    };
    question.to_string().into_bytes()
}

/// The request with `body`, signed (IAM User Guide, "AWS Signature Version 4 for API requests").
fn request<'a>(settings: &Settings, body: &'a [u8]) -> Result<Request<&'a [u8]>, Error> {
    let failed = |error: &dyn std::error::Error| {
        let reason = describe(settings, "", &format!("the request could not be made: {error}"));
        Error::Unusable { variable: settings.variable, reason }
    };
    let (reference, keys) = (&settings.reference, &settings.keys);
    let url = settings.endpoint_url.as_ref().map_or_else(|| reference.url(), ToString::to_string);
    let mut request = Request::post(&url).body(body).map_err(|error| failed(&error))?;
    let target = match reference.service {
        Service::ParameterStore => HeaderValue::from_static("AmazonSSM.GetParameter"),
        Service::SecretsManager { .. } => HeaderValue::from_static("secretsmanager.GetSecretValue"),
    };
    request.headers_mut().insert(X_AMZ_TARGET, target);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));

    let identity = keys.credentials().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(&reference.region)
        .name(reference.service.name())
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| failed(&error))?
        .into();
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()));
    let uri = request.uri().to_string();
    let signable = SignableRequest::new("POST", uri, headers, SignableBody::Bytes(body));
    let signed = signable.and_then(|signable| sign(signable, &params)).map_err(|error| failed(&error))?;
    let (signature, _) = signed.into_parts();
    for header in signature.into_parts().0 {
        let mut value = HeaderValue::from_str(header.value()).map_err(|error| failed(&error))?;
        value.set_sensitive(header.sensitive());
        request.headers_mut().insert(header.name(), value);
    }
    Ok(request)
}

/// The value in the store's answer.
fn value(settings: &Settings, answer: &Response<Vec<u8>>) -> Result<Secret, Error> {
    let (status, body) = (answer.status(), answer.body());
    let answer = serde_json::from_slice::<Value>(body);
    if !status.is_success() {
        return Err(failure(settings, status, &answer.unwrap_or_default()));
    }
    // The parser's error is left out, because it may quote the value.
    let answer = answer.map_err(|_| Error::Unavailable("the answer is not JSON".to_owned()))?;
    let found = answer["Parameter"]["Value"].as_str().or_else(|| answer["SecretString"].as_str());
    let Some(text) = found else {
        return Err(match &answer["SecretBinary"] {
            Value::Null => Error::Unavailable("the answer has no value".to_owned()),
            _ => unusable(settings, "it is binary; store it as text"),
        });
    };
    let member = match &settings.reference.service {
        Service::ParameterStore => None,
        Service::SecretsManager { json_key, .. } => member(settings, text, json_key.as_deref())?,
    };
    let text = member.as_deref().unwrap_or(text);
    let text = text.trim();
    if text.is_empty() {
        return Err(unusable(settings, "it is empty"));
    }
    if HeaderValue::from_str(text).is_err() {
        let reason = "it has characters that a key cannot have, such as line breaks; store the key alone";
        return Err(unusable(settings, reason));
    }
    Ok(Secret::new(text.to_owned()))
}

/// The member `json_key` of the secret `text`; `None` if the text itself is the value.
fn member(settings: &Settings, text: &str, json_key: Option<&str>) -> Result<Option<String>, Error> {
    let object = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    match (json_key, object) {
        (None, None) => Ok(None),
        // By default the console stores a secret as key-value pairs.
        (None, Some(_)) => {
            Err(unusable(settings, "it is a JSON object; name one of its keys, as in the ARN with :KEY::"))
        }
        (Some(key), None) => {
            Err(unusable(settings, &format!("it is not a JSON object, so it has no JSON key {key:?}")))
        }
        (Some(key), Some(mut object)) => match object.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(unusable(settings, &format!("its JSON key {key:?} does not hold a string"))),
            None => Err(unusable(settings, &format!("it has no JSON key {key:?}"))),
        },
    }
}

/// What an error answer of the store means ("Common errors" and each operation's own errors in both API
/// references).
fn failure(settings: &Settings, status: StatusCode, answer: &Value) -> Error {
    let word = |name: &str| answer[name].as_str();
    let kind = word("__type").and_then(|kind| kind.rsplit('#').next()).unwrap_or_default();
    // The two services spell the name differently.
    let message = word("message").or_else(|| word("Message")).unwrap_or_default();
    let message: String = message.chars().take(MAX_DETAIL).collect();
    let reason = format!("{status}, {kind:?}: {message}");
    let passes = ["Throttl", "TooManyRequests", "LimitExceeded", "InternalServ", "ServiceUnavailable"];
    if status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        || passes.iter().any(|word| kind.contains(word))
    {
        return Error::Unavailable(reason);
    }
    let lower = message.to_lowercase();
    let names_key = ["kms", "ciphertext", "decrypt"].iter().any(|word| lower.contains(word));
    let (service, arn) = (settings.reference.service.name(), &settings.reference.arn);
    let advice = match kind {
        "AccessDeniedException" | "AccessDenied" if names_key => {
            "the function's role lacks the permission to decrypt it: allow kms:Decrypt on its key in the role's policy; ".to_owned()
        }
        "AccessDeniedException" | "AccessDenied" => {
            let operation = operation(settings);
            format!("the function's role lacks a permission: allow {service}:{operation} on {arn} in the role's policy; ")
        }
        "ParameterNotFound" | "ParameterVersionNotFound" => {
            "there is no such parameter: check the region, the account and the name in the ARN; ".to_owned()
        }
        "ResourceNotFoundException" => "there is no such secret or version of it: check the region, the account, the name \
            with the six characters at its end, and the version; "
            .to_owned(),
        "DecryptionFailure" | "InvalidKeyId" => {
            "its KMS key cannot be used: check that the key is enabled, and that the role is allowed kms:Decrypt on it; "
                .to_owned()
        }
        "UnrecognizedClientException" | "ExpiredTokenException" | "InvalidSignatureException" => {
            "the access keys were rejected: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; ".to_owned()
        }
        _ => String::new(),
    };
    Error::Unusable { variable: settings.variable, reason: describe(settings, &advice, &reason) }
}
