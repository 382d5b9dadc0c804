//! `/health`: whether the function runs. It calls no upstream.

use http::StatusCode;
use serde::Serialize;

use crate::response::{self, Response};

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// 200 `{"status":"ok"}`.
pub(crate) fn get() -> Response {
    response::json(StatusCode::OK, &Health { status: "ok" })
}
