//! The HTTP API: thin handlers over verification and store. Routes and fields are in `openapi.json`.

mod answer;
mod auth;
mod body;
mod completions;
mod error;
mod openapi;
mod ops;
mod orders;
mod receipts;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::future::IntoFuture;
use std::time::Duration;

use axum::Router;
use axum::http::Uri;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;

pub use openapi::document;

use crate::ctx::SharedCtx;
use crate::error::{Code, Error, Result};
use error::ApiError;

/// How long open requests may take after `stop`.
const DRAIN: Duration = Duration::from_secs(5);

/// All routes.
pub fn router(ctx: SharedCtx) -> Router {
    Router::new()
        .route("/orders", post(orders::submit))
        .route("/orders/{id}", get(state::order))
        .route("/completions", post(completions::submit))
        .route("/receipts", get(receipts::list))
        .route("/receipts/{id}", get(receipts::one))
        .route("/batches/{id}", get(state::batch))
        .route("/accounts/{payer}", get(state::account))
        .route("/nodes", get(state::nodes))
        .route("/openapi.json", get(openapi::serve))
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(TraceLayer::new_for_http())
        .with_state(ctx)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no {}: see /openapi.json", uri.path()))
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "this route does not take that method: see /openapi.json")
}

/// Serves until `stop`, then lets open requests end for a few seconds.
///
/// # Errors
/// `io_failed` when the address cannot be listened on.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let listener = TcpListener::bind(&ctx.config.api.listen)
        .await
        .map_err(|error| Error::Config(format!("api.listen {}: {error}", ctx.config.api.listen)))?;
    serve(listener, ctx, stop).await
}

/// Serves on a listener that is bound already.
///
/// # Errors
/// `io_failed`.
pub async fn serve(listener: TcpListener, ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    tracing::info!(address = %listener.local_addr()?, "api listens");
    let until = stop.clone();
    let server = axum::serve(listener, router(ctx)).with_graceful_shutdown(async move { until.cancelled().await });
    tokio::select! {
        done = server.into_future() => Ok(done?),
        () = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        } => Ok(()),
    }
}
