//! Why the table did not do what it was asked to do.

use std::fmt;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;

use super::History;

/// Why the table did not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// The table cannot be read or written: 503 `history_unavailable`. The text says for the log
    /// why, and what to do where something can be done.
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
    /// A failed call, in words for the log: what to do about it where its reason is a common one.
    /// The answer itself is not among them: it can hold what was said.
    pub(super) fn unavailable<E: ProvideErrorMetadata + std::error::Error>(&self, operation: &str, error: &E) -> Error {
        self.failed(operation, None, error)
    }

    /// The same, of a Query of this index.
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
                // A transaction has no action of its own ("Using IAM with DynamoDB transactions").
                let actions = match operation {
                    "TransactWriteItems" => "dynamodb:PutItem and dynamodb:UpdateItem".to_owned(),
                    operation => format!("dynamodb:{operation}"),
                };
                // An index is a resource of its own ("Actions, resources, and condition keys for Amazon DynamoDB").
                let resource = index.map_or_else(String::new, |index| {
                    let name = table.rsplit('/').next().unwrap_or(table);
                    format!(" on the resource ending in table/{name}/index/{index}")
                });
                format!("the function's role may not do that: allow {actions}{resource} in the role's policy; ")
            }
            Some("UnrecognizedClientException" | "ExpiredTokenException" | "InvalidSignatureException") => {
                "the access keys are refused: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; "
                    .to_owned()
            }
            // A transaction's reasons say it in their own way.
            _ if ["ValidationException", "ValidationError"].iter().any(|word| causes.contains(word)) => {
                "is its partition key pk and its sort key sk, both strings? Otherwise create another one; ".to_owned()
            }
            _ => String::new(),
        };
        let place = index.map_or_else(String::new, |index| format!("the index {index} of "));
        Error::Unavailable(format!("{operation} on {place}the table {table:?} in {region}: {advice}{causes}"))
    }
}
