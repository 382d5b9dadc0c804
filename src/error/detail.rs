//! What a problem says to the caller.

use std::borrow::Cow;

use super::{Error, NotConfigured};
use crate::access::Denied;
use crate::history::{self, INDEX, IndexFault};
use crate::openai::Cause;
use crate::quota::Exceeded;
use crate::request::{MAX_PATH, MAX_QUERY};

impl Error {
    /// What the caller can do about it. It never contains internals.
    pub(super) fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::UnsupportedEvent(reason) => format!(
                "This function answers API Gateway HTTP API and Lambda Function URL events (payload format version 2.0), but {reason}. \
                 To try it in the console's Test tab, paste a file from events/, such as events/get-health.json; \
                 on an API Gateway integration choose payload format version 2.0."
            )
            .into(),
            Self::MissingParameter { name, example } => {
                format!("The query parameter {name:?} is missing: send it as in {example}.").into()
            }
            Self::InvalidParameter { name, expected } => {
                format!("The query parameter {name:?} cannot be used: send {expected}.").into()
            }
            Self::UnsupportedMediaType => "The body must be JSON: send the header content-type: application/json.".into(),
            Self::InvalidJson(reason) => format!("The body cannot be read as JSON: {reason}.").into(),
            Self::InvalidField { name, found, expected } => format!("The field {name:?} is {found}: send {expected}.").into(),
            Self::MessageTooLong { bytes, limit } => {
                format!("The message has {bytes} bytes of UTF-8, and at most {limit} are allowed: send a shorter one.").into()
            }
            Self::InvalidIdempotencyKey => "The header Idempotency-Key is not a UUID: send a new one with each new message.".into(),
            Self::IdempotencyKeyReused => {
                "This Idempotency-Key was used with another message: send a new one with each new message.".into()
            }
            Self::AuthenticationRequired(Denied::Missing) => {
                "This API needs an access token: send it in the header Authorization: Bearer TOKEN.".into()
            }
            Self::AuthenticationRequired(Denied::Invalid) => {
                "The access token in the header Authorization is not accepted. Check that it is complete, or ask for a new one.".into()
            }
            Self::AuthenticationRequired(Denied::Anonymous) => {
                "Only a caller with an identity has a list of conversations, and this request has no identity. The server's operator has to set ACCESS_TOKENS or put an authorizer in front."
                    .into()
            }
            Self::QuotaExceeded(Exceeded { total: false, .. }) => {
                "You have used up today's tokens. You get new ones at 00:00 UTC.".into()
            }
            Self::QuotaExceeded(Exceeded { total: true, .. }) => {
                "The server has used up today's tokens. It gets new ones at 00:00 UTC.".into()
            }
            Self::ConversationNotFound => {
                "There is no such conversation. It may have been deleted or have expired; leave conversation_id out to begin one.".into()
            }
            Self::NotConfigured(missing) => not_configured_detail(missing),
            Self::SecretUnavailable(_) => "The server's key for the model cannot be read. Try again later.".into(),
            Self::Model(error) => model_detail(&error.cause),
            Self::History(history::Error::Unavailable(_)) => "The conversation's history cannot be reached. Try again later.".into(),
            Self::NotSaved(_) => "The turn could not be saved: it will not be remembered.".into(),
            Self::IdempotencyConflict => {
                "Another request with this Idempotency-Key finished first, with a different answer. Send the request again to get that answer."
                    .into()
            }
            Self::History(history::Error::Deleted) => {
                "The conversation was deleted while the answer was being written, and the answer was not saved.".into()
            }
            Self::NotFound => {
                "No route has this path. Check the path, and on a named stage or custom domain the prefix before it.".into()
            }
            Self::MethodNotAllowed { allow } => format!("This path does not allow that method. It allows {allow}.").into(),
            Self::UriTooLong => format!(
                "The URL is too long: at most {MAX_PATH} bytes of path and {MAX_QUERY} bytes of query are allowed."
            )
            .into(),
            Self::Panic(_) => "The server failed while it handled the request. Try again; if it happens again, report the request_id.".into(),
        }
    }
}

fn not_configured_detail(missing: &NotConfigured) -> Cow<'static, str> {
    match missing {
        NotConfigured::Variable(variable) => {
            format!("The server is not set up for this: {variable} is not set in the function's environment.").into()
        }
        NotConfigured::Secret(variable, _) => format!(
            "The server is not set up for this: the secret that {variable} names cannot be used. The server's log says why, under the request_id."
        )
        .into(),
        NotConfigured::Index(IndexFault::Building, _) => {
            format!("The table's index {INDEX} is still being built. Try again in a few minutes.").into()
        }
        NotConfigured::Index(fault, _) => {
            let fault = if *fault == IndexFault::Missing { "has no index" } else { "has another kind of index" };
            format!(
                "The server is not set up for this: its table {fault} {INDEX}. The operator finds the command that creates it in the server's log."
            )
            .into()
        }
    }
}

fn model_detail(cause: &Cause) -> Cow<'static, str> {
    match cause {
        Cause::AuthFailed => "The model server refused the server's key. The operator has to check OPENAI_API_KEY.".into(),
        Cause::ModelNotFound => {
            "The model server does not know the model. The operator has to check OPENAI_MODEL and OPENAI_BASE_URL.".into()
        }
        Cause::RateLimited { .. } => "The model accepts no more requests right now. Try again later.".into(),
        Cause::QuotaExhausted => "The server's quota for the model is used up. The operator has to raise it.".into(),
        Cause::ContextTooLong => "The conversation is longer than the model can read. Send a shorter message, or start a new conversation.".into(),
        Cause::ContentRefused { refusal: None } => "The model refused to answer this. Put it another way.".into(),
        Cause::ContentRefused { refusal: Some(refusal) } => format!("The model refused to answer this: {refusal}").into(),
        Cause::Unavailable { .. } => "The model cannot be reached. Try again later.".into(),
        Cause::TimedOut => "The model did not answer in time. Try again, perhaps with a shorter message.".into(),
        Cause::OutputLimitReached => {
            "The model used up its output limit before it wrote any text. Ask for less, or have the operator raise OPENAI_MAX_OUTPUT_TOKENS."
                .into()
        }
        Cause::BadResponse => "The model's answer could not be used. Try again.".into(),
        Cause::Rejected => "The model rejected the request. The server's log says why, under the request_id.".into(),
    }
}
