//! Values that must stay secret.

use std::fmt;
use std::sync::Arc;

use aws_credential_types::Credentials;

/// A secret. Its `Debug` shows nothing. Clones share the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The secret `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The text itself, for the request that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The access keys of the function's role, as Lambda puts them into the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKeys {
    pub id: String,
    pub secret: Secret,
    pub session_token: Option<Secret>,
}

impl AccessKeys {
    /// The keys as AWS's own crates take them. They live as long as the process, so they never expire.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let token = self.session_token.as_ref().map(|token| token.expose().to_owned());
        Credentials::new(&self.id, self.secret.expose(), token, None, "environment")
    }
}
