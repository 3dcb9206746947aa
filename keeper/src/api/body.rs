//! Reading request bodies: JSON only, up to a size, within a time.

use std::error::Error as _;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, header};
use http_body_util::LengthLimitError;

use super::error::{ApiError, ApiResult};
use crate::error::{Code, Refusal};

/// How long a caller may take to send its body.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The whole body of a request that says it is JSON.
///
/// # Errors
/// `wrong_content_type`, `body_too_large`, `malformed` for a body that breaks off or comes too slowly.
pub async fn json_bytes(headers: &HeaderMap, body: Body, limit: usize) -> ApiResult<Bytes> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let text = "send the body as JSON, with content-type: application/json";
        return Err(Refusal::mismatch(Code::WrongContentType, text, kind, "application/json").into());
    }
    bytes(body, limit).await
}

/// The whole body of a request, whatever it says it is.
///
/// # Errors
/// `body_too_large`, `malformed` for a body that breaks off or comes too slowly.
pub async fn bytes(body: Body, limit: usize) -> ApiResult<Bytes> {
    match tokio::time::timeout(TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_limit(&error) => Err(too_large(limit)),
        Ok(Err(error)) => Err(ApiError::new(Code::Malformed, format!("the body broke off: {error}"))),
        Err(_) => Err(ApiError::new(Code::Malformed, "the body came too slowly: send it within 20 seconds")),
    }
}

/// Reads a body away that says nothing.
///
/// # Errors
/// `body_too_large`, `malformed` for a body that breaks off or comes too slowly.
pub async fn drain(body: Body, limit: usize) -> ApiResult<()> {
    match tokio::time::timeout(TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_limit(&error) => Err(too_large(limit)),
        Ok(Err(error)) => Err(ApiError::new(Code::Malformed, format!("the body broke off: {error}"))),
        Err(_) => Err(ApiError::new(Code::Malformed, "the body came too slowly: send it within 20 seconds")),
    }
}

/// The refusal of a body beyond `limit` bytes.
pub fn too_large(limit: usize) -> ApiError {
    let text = "the body is too large: send a shorter request, or completions in smaller batches";
    ApiError(Refusal { details: serde_json::json!({ "limit": limit }), ..Refusal::new(Code::BodyTooLarge, text) })
}

fn is_limit(error: &axum::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if error.is::<LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Parses a body.
///
/// # Errors
/// `malformed` with the place in the text.
pub fn parse<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> ApiResult<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| ApiError::new(Code::Malformed, format!("the body cannot be read: {error}")))
}
