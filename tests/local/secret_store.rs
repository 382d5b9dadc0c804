//! AWS Systems Manager's Parameter Store and AWS Secrets Manager: one server with the read operation of
//! each API. It checks the signature of each request.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
use http::request::Parts;
use serde_json::{Map, Value, json};

use crate::behaviour::Behaviour;
use crate::http_server::{Response, response};
use crate::signature::{Signer, authorization, header, signed_headers};
use crate::upstream::{Answer, Call, Listening, Service, Upstream};

/// The [`Service::operation`] of a request to the Parameter Store.
pub const GET_PARAMETER: &str = "GetParameter";

/// The [`Service::operation`] of a request to Secrets Manager.
pub const GET_SECRET_VALUE: &str = "GetSecretValue";

/// The default access key id, secret key and session token of a process.
const LOCAL: &str = "local";

const JSON: &str = "application/x-amz-json-1.1";

/// A running server; it ends when dropped.
pub type SecretStore = Upstream<Stores>;

/// Both stores behind the [`Upstream`].
#[derive(Debug, Default)]
pub struct Stores {
    /// The members of the answer for each ARN.
    values: Mutex<BTreeMap<String, Value>>,
}

impl Upstream<Stores> {
    /// Two empty stores on a free port.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> io::Result<Self> {
        Self::serve(Stores::default(), Listening::default())
    }

    /// The variables that point the function to the stores.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        ["AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_SECRETS_MANAGER"].map(|name| (name, self.url()))
    }

    /// Stores a text as the parameter or secret with this ARN.
    pub fn put(&self, arn: &str, text: &str) {
        let answer = if arn.contains(":ssm:") {
            json!({"Parameter": {"ARN": arn, "Type": "SecureString", "Value": text, "Version": 1}})
        } else {
            json!({"ARN": arn, "SecretString": text, "VersionStages": ["AWSCURRENT"]})
        };
        self.put_answer(arn, answer);
    }

    /// Stores the whole answer for an ARN.
    pub fn put_answer(&self, arn: &str, answer: Value) {
        lock(&self.service().values).insert(arn.to_owned(), answer);
    }

    /// The bodies of the requests so far.
    pub fn questions(&self) -> Vec<Value> {
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
            Err(ApiError(kind, message)) => error(400, kind, &message),
        })
    }
}

/// An error's type and its message.
struct ApiError(&'static str, String);

impl Stores {
    fn find(&self, call: &Call) -> Result<Value, ApiError> {
        let reject = |kind, message: &str| ApiError(kind, message.to_owned());
        let invalid = |message: &str| reject("ValidationException", message);
        let (service, name, members): (_, _, &[&str]) = match call.operation.as_str() {
            GET_PARAMETER => ("ssm", "Name", &["Name", "WithDecryption"]),
            GET_SECRET_VALUE => ("secretsmanager", "SecretId", &["SecretId", "VersionStage", "VersionId"]),
            other => return Err(reject("UnknownOperationException", other)),
        };
        if header(&call.headers, "content-type") != JSON || call.method != "POST" || call.uri.path() != "/" {
            return Err(invalid("expected a POST of JSON to /"));
        }
        check_signature(call, service).map_err(|reason| ApiError("InvalidSignatureException", reason))?;
        let question: Map<String, Value> =
            serde_json::from_slice(&call.body).map_err(|_| reject("SerializationException", ""))?;
        if let Some(member) = question.keys().find(|member| !members.contains(&member.as_str())) {
            return Err(invalid(&format!("unknown member {member}")));
        }
        if service == "ssm" && question["WithDecryption"] != true {
            return Err(invalid("the value would come back encrypted"));
        }
        let arn = question[name].as_str().unwrap_or_default();
        let missing = if service == "ssm" { "ParameterNotFound" } else { "ResourceNotFoundException" };
        lock(&self.values).get(arn).cloned().ok_or_else(|| reject(missing, "can't find it"))
    }
}

/// An error in the stores' format.
fn error(status: u16, kind: &str, message: &str) -> Response {
    let body = json!({"__type": format!("com.amazonaws.example#{kind}"), "message": message}).to_string();
    response(StatusCode::from_u16(status).expect("a status"), JSON, body)
}

/// Answers with an error of the stores.
pub fn refuses(status: u16, kind: &str, message: &str) -> Behaviour {
    Behaviour::Respond(error(status, kind, message))
}

/// Checks the signature of a request to `service`.
fn check_signature(call: &Call, service: &str) -> Result<(), String> {
    let question = call.json();
    let arn = ["Name", "SecretId"].iter().find_map(|name| question[name].as_str()).unwrap_or_default();
    let [_, _, named, region, ..] = arn.split(':').collect::<Vec<_>>()[..] else {
        return Err(format!("{arn:?} is not an ARN"));
    };
    if named != service {
        return Err(format!("{arn} does not belong to {service}"));
    }
    let signed = signed_headers(call);
    for name in ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
        if !signed.contains(&name) {
            return Err(format!("{name} is not signed"));
        }
    }
    if header(&call.headers, "x-amz-security-token") != LOCAL {
        return Err("another session token".to_owned());
    }
    let expected = authorization(call, Signer { key: LOCAL, secret: LOCAL, region, service }, &signed);
    if header(&call.headers, "authorization") == expected {
        Ok(())
    } else {
        Err("the signature does not match".to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
