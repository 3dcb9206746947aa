//! What the keeper does for OpenGradient's gateways.

use serde::{Deserialize, Serialize};

/// Proofs over `/settle_data`, and heartbeats.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Take proofs and heartbeats only with an API key of scope `gateway`. Without it the node's signature is enough.
    pub key_required: bool,
    /// Relay heartbeats to OpenGradient's registry, at this keeper's gas.
    pub heartbeats: bool,
    /// Seconds before and after a proof came within which the payment must have been settled to belong to it.
    pub window_before: u32,
    pub window_after: u32,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { key_required: false, heartbeats: true, window_before: 300, window_after: 600 }
    }
}
