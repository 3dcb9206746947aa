//! Where OpenGradient's TEE registry says to reach the nodes that Base knows.

use std::collections::BTreeSet;

use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256};
use alloy::sol;
use alloy::sol_types::{SolCall, SolValue};
use futures_util::{StreamExt, stream};

use crate::ctx::Ctx;
use crate::error::Result;
use crate::store::nodes;
use crate::tx::classify::{Class, Failure};

/// Milliseconds between two readings.
const EVERY_MS: i64 = 30_000;

sol! {
    /// As OpenGradient's registry has it. A newer one appends members; those before keep their places, so this reads both.
    #[derive(Debug)]
    struct TEEInfo {
        address owner;
        address paymentAddress;
        string endpoint;
        bytes publicKey;
        bytes tlsCertificate;
        bytes32 pcrHash;
        uint8 teeType;
        bool enabled;
        uint256 registeredAt;
        uint256 lastHeartbeatAt;
    }

    function getTEE(bytes32 teeId) external view returns (bytes memory);
}

/// When which nodes were asked for last.
#[derive(Debug, Default)]
pub struct Endpoints {
    asked: BTreeSet<B256>,
    asked_ms: Option<i64>,
}

impl Endpoints {
    /// Reads the endpoints of all known nodes when some are new or the last reading is old.
    ///
    /// # Errors
    /// `store_failed`; what the chain does not answer keeps its last value.
    pub async fn refresh(&mut self, ctx: &Ctx) -> Result<()> {
        let now_ms = ctx.clock.now_ms();
        let known: BTreeSet<B256> = ctx.registry.nodes().iter().map(|node| node.id).collect();
        if known.is_empty() || (known == self.asked && self.asked_ms.is_some_and(|at| now_ms - at < EVERY_MS)) {
            return Ok(());
        }
        let asked: Vec<_> = known.iter().map(|id| endpoint(ctx, *id)).collect();
        let answers: Vec<Result<Option<String>, Failure>> = stream::iter(asked).buffered(8).collect().await;
        let mut tx = ctx.store.write().await?;
        let mut changed = false;
        let mut complete = true;
        for (id, answer) in known.iter().copied().zip(answers) {
            match answer {
                Ok(endpoint) => changed |= nodes::set_endpoint(&mut tx, id, endpoint.as_deref()).await?,
                Err(failure) => {
                    complete = false;
                    tracing::warn!(node = %id, %failure, "cannot read the node's endpoint");
                }
            }
        }
        tx.commit().await?;
        if changed {
            ctx.registry.refresh(&ctx.store, &ctx.config).await?;
        }
        if complete {
            self.asked = known;
            self.asked_ms = Some(now_ms);
        }
        Ok(())
    }
}

/// Endpoint of an enabled node; `None` when OpenGradient does not know it or has disabled it.
async fn endpoint(ctx: &Ctx, id: B256) -> Result<Option<String>, Failure> {
    let info = tee(ctx, id).await?;
    Ok(info.and_then(endpoint_of))
}

/// A node's record on OpenGradient; `None` when it does not know it.
///
/// # Errors
/// What the endpoints said.
pub async fn tee(ctx: &Ctx, id: B256) -> Result<Option<TEEInfo>, Failure> {
    let call = getTEECall { teeId: id }.abi_encode().into();
    match ctx.og.call(Address::ZERO, ctx.config.opengradient.tee_registry, &call, BlockId::latest()).await {
        Ok(data) => Ok(TEEInfo::abi_decode(&data).ok()),
        Err(Failure { class: Class::Reverted(_), .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn endpoint_of(info: TEEInfo) -> Option<String> {
    (info.enabled && !info.endpoint.is_empty()).then_some(info.endpoint)
}

#[cfg(test)]
fn read(data: &[u8]) -> Option<String> {
    TEEInfo::abi_decode(data).ok().and_then(endpoint_of)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Bytes, U256};

    use super::*;

    sol! {
        struct Ohttp {
            uint8 keyId;
            uint16 kemId;
            uint16 kdfId;
            uint16 aeadId;
            bytes publicKey;
            bytes keyConfig;
            uint256 registeredAt;
        }

        struct NewerTEEInfo {
            address owner;
            address paymentAddress;
            string endpoint;
            bytes publicKey;
            bytes tlsCertificate;
            bytes32 pcrHash;
            uint8 teeType;
            bool enabled;
            uint256 registeredAt;
            uint256 lastHeartbeatAt;
            Ohttp ohttpConfig;
        }
    }

    #[test]
    fn reads_both_shapes() {
        let old = TEEInfo {
            owner: Address::repeat_byte(1),
            paymentAddress: Address::repeat_byte(2),
            endpoint: "https://203.0.113.7".to_owned(),
            publicKey: Bytes::from(vec![3; 294]),
            tlsCertificate: Bytes::from(vec![4; 700]),
            pcrHash: B256::repeat_byte(5),
            teeType: 0,
            enabled: true,
            registeredAt: U256::from(6),
            lastHeartbeatAt: U256::from(7),
        };
        assert_eq!(read(&old.abi_encode()).as_deref(), Some("https://203.0.113.7"));
        let newer = NewerTEEInfo {
            owner: old.owner,
            paymentAddress: old.paymentAddress,
            endpoint: old.endpoint.clone(),
            publicKey: old.publicKey.clone(),
            tlsCertificate: old.tlsCertificate.clone(),
            pcrHash: old.pcrHash,
            teeType: 0,
            enabled: true,
            registeredAt: old.registeredAt,
            lastHeartbeatAt: old.lastHeartbeatAt,
            ohttpConfig: Ohttp {
                keyId: 1,
                kemId: 2,
                kdfId: 3,
                aeadId: 4,
                publicKey: Bytes::from(vec![8; 33]),
                keyConfig: Bytes::from(vec![9; 50]),
                registeredAt: U256::from(10),
            },
        };
        assert_eq!(read(&newer.abi_encode()).as_deref(), Some("https://203.0.113.7"));
        assert_eq!(read(&TEEInfo { enabled: false, ..old }.abi_encode()), None);
        assert_eq!(read(&[]), None);
    }
}
