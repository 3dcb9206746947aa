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
        let (status, body) = (self.0.code.status(), self.0.to_json());
        respond(&self.0, status, body)
    }
}

/// A refusal as gateways read it: the message is member `error` too.
#[derive(Debug)]
pub struct GatewayError {
    refusal: Refusal,
    status: u16,
}

/// Result of handlers that gateways call.
pub type GatewayResult<T> = Result<T, GatewayError>;

impl GatewayError {
    /// Something is wrong with what the gateway sent: 400 whatever the code, they know no other status for that.
    pub const fn invalid(refusal: Refusal) -> Self {
        Self { refusal, status: 400 }
    }
}

impl<E: Into<ApiError>> From<E> for GatewayError {
    fn from(error: E) -> Self {
        let ApiError(refusal) = error.into();
        Self { status: refusal.code.status(), refusal }
    }
}

impl IntoResponse for GatewayError {
    fn into_response(self) -> Response {
        let mut body = self.refusal.to_json();
        body["error"] = serde_json::Value::String(self.refusal.message.clone());
        respond(&self.refusal, self.status, body)
    }
}

fn respond(refusal: &Refusal, status: u16, body: serde_json::Value) -> Response {
    let code = refusal.code;
    metrics::counter!("quittance_refusals_total", "code" => code.as_str()).increment(1);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Whole seconds, rounded up: who comes as told is taken.
    let wait_ms = refusal.details.get("retryAfterMs").and_then(serde_json::Value::as_u64).unwrap_or(1_000);
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    if matches!(code, Code::Overloaded | Code::RateLimited | Code::HeartbeatPending) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000).max(1)));
    }
    if code == Code::Unauthorized {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, SIWE"));
    }
    response
}
