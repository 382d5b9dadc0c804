//! Why a call to the table failed.

use std::fmt;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::History;

/// Why a call to the table failed.
#[derive(Debug)]
pub enum Error {
    /// The table cannot be read or written: 503 `history_unavailable`. The text is for the log. It says why,
    /// and what to do if something can be done.
    Unavailable(String),
    /// The conversation was deleted meanwhile: 409 `conversation_deleted`.
    Deleted,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(reason) => write!(formatter, "the history is unavailable: {reason}"),
            Self::Deleted => formatter.write_str("the conversation was deleted meanwhile"),
        }
    }
}

impl std::error::Error for Error {}

impl History {
    /// Describes a failed call for the log, with advice if its reason is a common one. The answer itself is
    /// left out, because it can hold the text of a conversation.
    pub(super) fn unavailable<E: ProvideErrorMetadata + std::error::Error>(&self, operation: &str, error: &E) -> Error {
        self.failed(operation, None, error)
    }

    /// The same, for a Query of this index.
    pub(super) fn index_unavailable<E: ProvideErrorMetadata + std::error::Error>(
        &self,
        index: &str,
        error: &E,
    ) -> Error {
        self.failed("Query", Some(index), error)
    }

    fn failed<E: ProvideErrorMetadata + std::error::Error>(
        &self,
        operation: &str,
        index: Option<&str>,
        error: &E,
    ) -> Error {
        let (table, region) = (self.name(), &self.settings.region);
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let mut causes: Vec<_> = causes.map(ToString::to_string).collect();
        // The SDK's errors repeat what their own causes say.
        causes.dedup();
        let causes = causes.join(": ");
        let advice = match error.code() {
            Some("ResourceNotFoundException") => {
                "there is no such table: create it, or set HISTORY_TABLE to the one that there is; ".to_owned()
            }
            Some("AccessDeniedException") => {
                // IAM has no separate action for a transaction ("Using IAM with DynamoDB transactions").
                let actions = match operation {
                    "TransactWriteItems" => "dynamodb:PutItem and dynamodb:UpdateItem".to_owned(),
                    operation => format!("dynamodb:{operation}"),
                };
                // An index is a separate resource ("Actions, resources, and condition keys for Amazon
                // DynamoDB").
                let resource = index.map_or_else(String::new, |index| {
                    let name = table.rsplit('/').next().unwrap_or(table);
                    format!(" on the resource ending in table/{name}/index/{index}")
                });
                format!("the function's role lacks a permission: allow {actions}{resource} in the role's policy; ")
            }
            Some("UnrecognizedClientException" | "ExpiredTokenException" | "InvalidSignatureException") => {
                "the access keys were rejected: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; "
                    .to_owned()
            }
            // The reasons of a cancelled transaction have another name for it.
            _ if ["ValidationException", "ValidationError"].iter().any(|word| causes.contains(word)) => {
                "is its partition key pk and its sort key sk, both strings? Otherwise create another one; ".to_owned()
            }
            _ => String::new(),
        };
        let place = index.map_or_else(String::new, |index| format!("the index {index} of "));
        Error::Unavailable(format!("{operation} on {place}the table {table:?} in {region}: {advice}{causes}"))
    }
}
