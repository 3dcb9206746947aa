//! Every answer that is no success: JSON `{code, message, details}` with the status that goes with the code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::{Code, Error, Refusal};

/// Error body.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Stable.
    pub code: String,
    /// A sentence that says what to do.
    pub message: String,
    /// The values that were compared, or null.
    pub details: serde_json::Value,
}

/// A refusal on its way out.
#[derive(Debug)]
pub struct ApiError(pub Refusal);

/// Result of handlers.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A refusal without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Refusal::new(code, message))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        if let Error::Refused(refusal) = error {
            return Self(refusal);
        }
        // What broke is for the operator's log, not for callers.
        tracing::error!(code = error.code(), %error, "request failed");
        Self::new(Code::Internal, "the keeper could not do this now: try again, nothing was lost")
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = self.0.code;
        metrics::counter!("quittance_refusals_total", "code" => code.as_str()).increment(1);
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Whole seconds, rounded up: who comes as told is taken.
        let wait_ms = self.0.details.get("retryAfterMs").and_then(serde_json::Value::as_u64).unwrap_or(1_000);
        let mut response = (status, Json(self.0.to_json())).into_response();
        let headers = response.headers_mut();
        if matches!(code, Code::Overloaded | Code::RateLimited) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000).max(1)));
        }
        if code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, SIWE"));
        }
        response
    }
}
