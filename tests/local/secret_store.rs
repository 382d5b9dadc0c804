//! AWS Systems Manager's Parameter Store and AWS Secrets Manager: a server that has both APIs, as far
//! as they read a value, and checks the signature of each request.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::behaviour::Behaviour;
use super::http_server::{Response, response};
use super::upstream::{Answer, Call, Listening, Service, Upstream};

/// What [`Service::operation`] is for a request to the Parameter Store.
pub(crate) const GET_PARAMETER: &str = "GetParameter";

/// What [`Service::operation`] is for a request to Secrets Manager.
pub(crate) const GET_SECRET_VALUE: &str = "GetSecretValue";

/// The secret key and the session token of a process that has been given no others.
const LOCAL: &str = "local";

const JSON: &str = "application/x-amz-json-1.1";

/// A running server; it ends when dropped.
pub(crate) type SecretStore = Upstream<Stores>;

/// Both stores behind the [`Upstream`].
#[derive(Debug, Default)]
pub(crate) struct Stores {
    /// The members of an answer by the ARN.
    values: Mutex<BTreeMap<String, Value>>,
}

impl Upstream<Stores> {
    /// Two empty stores on a free port.
    ///
    /// # Errors
    /// There is no port.
    pub(crate) fn start() -> io::Result<Self> {
        Self::serve(Stores::default(), Listening::default())
    }

    /// The variables that tell the function of it.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        ["AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_SECRETS_MANAGER"].map(|name| (name, self.url()))
    }

    /// Puts a text under the ARN of a parameter or of a secret.
    pub(crate) fn put(&self, arn: &str, text: &str) {
        let answer = if arn.contains(":ssm:") {
            json!({"Parameter": {"ARN": arn, "Type": "SecureString", "Value": text, "Version": 1}})
        } else {
            json!({"ARN": arn, "SecretString": text, "VersionStages": ["AWSCURRENT"]})
        };
        self.put_answer(arn, answer);
    }

    /// Puts what is answered under an ARN.
    pub(crate) fn put_answer(&self, arn: &str, answer: Value) {
        lock(&self.service().values).insert(arn.to_owned(), answer);
    }

    /// What the requests so far have asked for.
    pub(crate) fn questions(&self) -> Vec<Value> {
        self.calls().iter().map(Call::json).collect()
    }
}

impl Service for Stores {
    /// The operation that `X-Amz-Target` names.
    fn operation(request: &Parts) -> String {
        match header(&request.headers, "x-amz-target") {
            "AmazonSSM.GetParameter" => GET_PARAMETER.to_owned(),
            "secretsmanager.GetSecretValue" => GET_SECRET_VALUE.to_owned(),
            other => other.to_owned(),
        }
    }

    async fn answer(&self, call: &Call) -> Answer {
        Answer::Whole(match self.find(call) {
            Ok(found) => response(StatusCode::OK, JSON, found.to_string()),
            Err(Refusal(kind, message)) => error(400, kind, &message),
        })
    }
}

/// An error's type and its message.
struct Refusal(&'static str, String);

impl Stores {
    fn find(&self, call: &Call) -> Result<Value, Refusal> {
        let refuse = |kind, message: &str| Refusal(kind, message.to_owned());
        let invalid = |message: &str| refuse("ValidationException", message);
        let (service, name, members): (_, _, &[&str]) = match call.operation.as_str() {
            GET_PARAMETER => ("ssm", "Name", &["Name", "WithDecryption"]),
            GET_SECRET_VALUE => ("secretsmanager", "SecretId", &["SecretId", "VersionStage", "VersionId"]),
            other => return Err(refuse("UnknownOperationException", other)),
        };
        if header(&call.headers, "content-type") != JSON || call.method != "POST" || call.uri.path() != "/" {
            return Err(invalid("not a POST of that JSON to /"));
        }
        check_signature(call, service).map_err(|reason| Refusal("InvalidSignatureException", reason))?;
        let question: Map<String, Value> =
            serde_json::from_slice(&call.body).map_err(|_| refuse("SerializationException", ""))?;
        if let Some(member) = question.keys().find(|member| !members.contains(&member.as_str())) {
            return Err(invalid(&format!("unknown member {member}")));
        }
        if service == "ssm" && question["WithDecryption"] != true {
            return Err(invalid("the value would be encrypted"));
        }
        let arn = question[name].as_str().unwrap_or_default();
        let missing = if service == "ssm" { "ParameterNotFound" } else { "ResourceNotFoundException" };
        lock(&self.values).get(arn).cloned().ok_or_else(|| refuse(missing, "can't find it"))
    }
}

/// An error as the stores answer it.
fn error(status: u16, kind: &str, message: &str) -> Response {
    let body = json!({"__type": format!("com.amazonaws.example#{kind}"), "message": message}).to_string();
    response(StatusCode::from_u16(status).expect("a status"), JSON, body)
}

/// Answers with an error of the stores.
pub(crate) fn refuses(status: u16, kind: &str, message: &str) -> Behaviour {
    Behaviour::Respond(error(status, kind, message))
}

/// Checks the signature (IAM User Guide, "Create a signed AWS API request").
fn check_signature(call: &Call, service: &str) -> Result<(), String> {
    let authorization = header(&call.headers, AUTHORIZATION.as_str());
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("no such algorithm")?;
    let fields: BTreeMap<_, _> = fields.split(", ").filter_map(|field| field.split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().ok_or(format!("no {name}"));
    let (credential, signed, signature) = (field("Credential")?, field("SignedHeaders")?, field("Signature")?);

    let (_, scope) = credential.split_once('/').ok_or("no scope")?;
    let [date, region, signed_service, "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err(format!("{scope} is no scope"));
    };
    let question = call.json();
    let arn = ["Name", "SecretId"].iter().find_map(|name| question[name].as_str()).unwrap_or_default();
    let arn: Vec<_> = arn.split(':').collect();
    if signed_service != service || arn.get(2) != Some(&service) || arn.get(3) != Some(&region) {
        return Err(format!("{scope} is signed for {arn:?}"));
    }
    for name in ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
        if !signed.split(';').any(|signed| signed == name) {
            return Err(format!("{name} is not signed"));
        }
    }
    if header(&call.headers, "x-amz-security-token") != LOCAL {
        return Err("another session token".to_owned());
    }
    let time = header(&call.headers, "x-amz-date");
    let headers = signed.split(';').map(|name| format!("{name}:{}\n", header(&call.headers, name).trim()));
    let headers = headers.collect::<Vec<_>>().concat();
    let body = hex::encode(Sha256::digest(&call.body));
    let canonical = format!("POST\n/\n\n{headers}\n{signed}\n{body}");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(&canonical)));
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{LOCAL}").into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    let expected = hex::encode(hmac(&key, to_sign.as_bytes()));
    if signature == expected { Ok(()) } else { Err("the signature does not match".to_owned()) }
}

/// HMAC-SHA256 (RFC 2104) with a key of at most 64 bytes.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let padded =
        |pad: u8| -> Vec<u8> { (0..64).map(|index| key.get(index).copied().unwrap_or_default() ^ pad).collect() };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
