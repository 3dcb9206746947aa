//! The API's description, served and committed: `openapi.json` is compared with the code by a test.

use axum::Json;
use utoipa::OpenApi;

use super::{completions, discovery, gateway, heartbeat, ops, orders, receipts, state, usage, x402};

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quittance keeper",
        description = "Orders for verifiable inference, evidence of it, and receipts. Amounts are token units as decimal \
                       text, bytes 0x-hexadecimal, errors {code, message, details} with stable codes. Receipts and accounts \
                       need `Authorization: Bearer KEY` or `Authorization: SIWE MESSAGE.SIGNATURE` (EIP-4361 text in base64, \
                       EIP-191 signature in hexadecimal; names the keeper's domain and Base's chain id, expires within 10 \
                       minutes)."
    ),
    paths(
        orders::submit,
        state::order,
        completions::submit,
        receipts::list,
        receipts::one,
        state::batch,
        state::account,
        state::nodes,
        x402::verify,
        x402::settle,
        x402::supported,
        discovery::resources,
        gateway::settle_data,
        gateway::job,
        heartbeat::heartbeat,
        usage::usage,
        usage::health,
        ops::livez,
        ops::readyz,
        ops::metrics
    ),
    components(schemas(super::payments::ListedPayments))
)]
struct Document;

/// The API's description as OpenAPI.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Serves it.
pub async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
