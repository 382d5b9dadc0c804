//! Who owns a conversation.

use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters (RFC 3986 §2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The text of [`Owner::public`].
pub(crate) const PUBLIC: &str = "public";

/// An owner of conversations. Each kind of owner has its own prefix, and texts from outside are percent-encoded. So
/// whatever a token says, two owners of different kinds never have the same text.
///
/// | owner | text |
/// | --- | --- |
/// | all callers who have not been identified | `public` |
/// | the subject of a JSON Web Token | `jwt:<iss>:<sub>` |
/// | an IAM user or role session | `iam:<userId>` |
/// | the caller whom a Lambda authorizer has identified | `authorizer:<principal>` |
/// | the holder of an access token | `token:<name>` |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner(String);

impl Owner {
    /// The owner that all callers share who are not identified.
    #[must_use]
    pub fn public() -> Self {
        Self(PUBLIC.to_owned())
    }

    /// The subject `sub` in tokens from the issuer `iss` (RFC 7519 §4.1). Another issuer may use the same subject
    /// for somebody else.
    #[must_use]
    pub fn jwt(iss: &str, sub: &str) -> Self {
        Self(format!("jwt:{}:{}", encoded(iss), encoded(sub)))
    }

    /// The IAM user or role session with this unique id (IAM User Guide, "IAM identifiers").
    #[must_use]
    pub fn iam(user_id: &str) -> Self {
        Self(format!("iam:{}", encoded(user_id)))
    }

    /// The caller whom a Lambda authorizer has identified.
    #[must_use]
    pub fn authorizer(principal: &str) -> Self {
        Self(format!("authorizer:{}", encoded(principal)))
    }

    /// The holder of the access token with this name.
    #[must_use]
    pub fn token(name: &str) -> Self {
        Self(format!("token:{}", encoded(name)))
    }

    /// The owner's text, as it is stored in the table.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the caller has not been identified.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.0 == PUBLIC
    }
}

fn encoded(part: &str) -> impl Display + '_ {
    utf8_percent_encode(part, RESERVED)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn owners_of_different_kinds_and_parts_never_share_a_text() {
        let parts = ["public", "a", "a#b", "a:b", "a%3Ab", "", "jwt:a:b", "é"];
        let mut texts = BTreeSet::from([Owner::public().0]);
        let mut owners = 1;
        for part in parts {
            let others = parts.map(|issuer| Owner::jwt(issuer, part));
            for owner in others.into_iter().chain([Owner::iam(part), Owner::authorizer(part), Owner::token(part)]) {
                assert!(!owner.is_public() && !owner.as_str().contains('#'), "{owner:?}");
                // Keys begin like this if the owner is too long for them.
                assert!(!owner.as_str().starts_with("sha256:"), "{owner:?}");
                texts.insert(owner.0);
                owners += 1;
            }
        }
        assert_eq!(texts.len(), owners);
    }
}
