//! A node of the devnet: OpenGradient's gateway as its clients see it, with a canned responder instead of a model.

mod answer;
mod evidence;
pub mod misbehave;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::canonical::Variant;
use crate::clock::Clock;
use crate::crypto::RsaKey;
use crate::error::Result;
use misbehave::Misbehaviour;

/// Models that a node offers unless told otherwise; the names say what they are.
pub const DEFAULT_MODELS: [&str; 2] = ["canned-small", "canned-large"];

/// How a node listens and behaves.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Shown in answers and `/health`.
    pub name: String,
    /// Any other model is refused with 400, as the gateway does.
    pub models: Vec<String>,
    pub variant: Variant,
    /// Account in `/signing-key`.
    pub wallet: Option<Address>,
    pub misbehave: Misbehaviour,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: "devnet-node".to_owned(),
            models: DEFAULT_MODELS.map(str::to_owned).to_vec(),
            variant: Variant::B,
            wallet: None,
            misbehave: Misbehaviour::default(),
        }
    }
}

/// A node that listens.
#[derive(Debug)]
pub struct RunningNode {
    pub address: SocketAddr,
    /// keccak256 of the DER SubjectPublicKeyInfo.
    pub id: B256,
    /// Ends after the stop token fires and open answers are written.
    pub task: JoinHandle<Result<()>>,
}

impl RunningNode {
    /// Base URL, as registries name it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Listens and serves until `stop` fires.
///
/// # Errors
/// `io_failed` when the address cannot be bound.
pub async fn serve(config: NodeConfig, key: RsaKey, clock: Clock, stop: CancellationToken) -> Result<RunningNode> {
    let listener = TcpListener::bind(config.listen).await?;
    let address = listener.local_addr()?;
    let id = key.id();
    tracing::info!(node = %id, %address, name = config.name, "devnet node listens");
    let router = server::router(Arc::new(server::Node::new(config, key, clock, stop.clone())));
    let task = tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?;
        Ok(())
    });
    Ok(RunningNode { address, id, task })
}
