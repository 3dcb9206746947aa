//! The HTTP API: thin handlers over verification and store. Routes and fields are in `openapi.json`.

mod answer;
mod auth;
mod body;
mod completions;
mod connections;
mod discovery;
mod error;
mod gateway;
mod heartbeat;
mod openapi;
mod ops;
mod orders;
mod payments;
mod receipts;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod usage;
mod x402;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::trace::TraceLayer;

pub use openapi::document;

use crate::admission::caller::caller;
use crate::admission::{Route, count_all, count_caller};
use crate::ctx::SharedCtx;
use crate::error::{Code, Error, Result};
use error::ApiError;

/// All routes.
pub fn router(ctx: SharedCtx) -> Router {
    let reads = Router::new()
        .route("/orders/{id}", get(state::order))
        .route("/receipts", get(receipts::list))
        .route("/receipts/{id}", get(receipts::one))
        .route("/batches/{id}", get(state::batch))
        .route("/accounts/{payer}", get(state::account))
        .route("/nodes", get(state::nodes))
        .route("/discovery/resources", get(discovery::resources))
        .route("/settle/{job}", get(gateway::job))
        .route("/usage", get(usage::usage))
        .route("/health", get(usage::health))
        .layer(from_fn_with_state(ctx.clone(), count_read));
    Router::new()
        .merge(reads)
        .route("/orders", post(orders::submit))
        .route("/completions", post(completions::submit))
        .route("/verify", post(x402::verify))
        .route("/settle", post(x402::settle))
        .route("/supported", get(x402::supported))
        .route("/settle_data", post(gateway::settle_data))
        .route("/heartbeat", post(heartbeat::heartbeat))
        .route("/openapi.json", get(openapi::serve))
        .route("/livez", get(ops::livez))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(TraceLayer::new_for_http())
        .with_state(ctx)
}

/// Reads are counted against whoever reads.
async fn count_read(State(ctx): State<SharedCtx>, request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = caller(&ctx, request.extensions(), request.headers()).await?;
    count_caller(&ctx, Route::Reads, &caller, 1)?;
    count_all(&ctx, Route::Reads, 1)?;
    Ok(next.run(request).await)
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
    connections::serve(listener, router(ctx.clone()), &ctx, stop).await;
    Ok(())
}
