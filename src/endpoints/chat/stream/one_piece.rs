//! A stream that is delivered in one piece.

use super::MAX_TEXT;
use crate::ui_message_stream::delta;

/// If the deltas of a stream in one piece exceed this size in bytes, the rest of the text becomes one delta. An answer
/// of a Lambda function has at most 6 MB, and JSON's escapes can turn one byte into seven.
const MAX_IN_PARTS: usize = 1024 * 1024;

/// Keeps a stream short enough for one answer of a Lambda function.
#[derive(Debug, Default)]
pub(super) struct OnePiece {
    /// The length of the text so far, in bytes.
    text: usize,
    /// Whether the text became too long and was cut.
    is_cut: bool,
    /// The size of its deltas so far, in bytes.
    parts: usize,
    /// The text after these deltas.
    rest: String,
}

impl OnePiece {
    pub(super) fn delta(&mut self, stream: &mut Vec<u8>, text: &str) {
        // Once the text has been cut, everything after it is left out.
        let room = if self.is_cut { 0 } else { MAX_TEXT - self.text };
        let kept = &text[..text.floor_char_boundary(room)];
        self.is_cut = kept.len() < text.len();
        self.text += kept.len();
        if self.parts > MAX_IN_PARTS {
            self.rest.push_str(kept);
        } else if !kept.is_empty() {
            let before = stream.len();
            delta(stream, kept);
            self.parts += stream.len() - before;
        }
    }

    pub(super) fn end(&mut self, stream: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            delta(stream, &std::mem::take(&mut self.rest));
        }
    }
}
