//! A model's answer, as the whole program uses it.

use serde::Serialize;

/// What the model answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The text; never blank.
    pub content: String,
    /// The model that wrote it: the server's name for it, or the requested name if the server gives none.
    pub model: String,
    /// Why it ended: `stop`, `length`, `content_filter`, or whatever else the server says.
    pub finish_reason: Option<String>,
    pub usage: Usage,
}

/// The token counts of an answer, as far as the server reported them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, including reasoning.
    pub completion_tokens: Option<u64>,
    /// The sum of both.
    pub total_tokens: Option<u64>,
}

impl Usage {
    /// All tokens: the server's total, or else the sum of both counts.
    pub(crate) fn total(&self) -> Option<u64> {
        let sum = || Some(self.prompt_tokens?.saturating_add(self.completion_tokens?));
        self.total_tokens.or_else(sum)
    }
}
