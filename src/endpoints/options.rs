//! `OPTIONS` without preflight headers: which methods a path allows.

use crate::response::{self, Response};

/// 204 with `Allow`.
pub(crate) fn options(allow: &str) -> Response {
    response::allowing(response::no_content(), allow)
}
