//! Checks a receipt file against both chains: an RPC URL each, no keeper.

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes};
use alloy::sol_types::SolCall;
use quittance_bindings::ledger::SettlementLedger;
use quittance_bindings::typed::{Leaf, Receipt};
use quittance_bindings::{InferenceEscrow, KeeperRegistry, NodeRegistry, SettlementInbox};

use super::verify::Check;
use super::{KeeperEvidence, ReceiptFile};
use crate::chain::rpc::Rpc;

/// Asks both chains about what the file names. What is not settled or recorded yet is not asked.
pub async fn online(file: &ReceiptFile, base: &Rpc, opengradient: &Rpc) -> Vec<Check> {
    vec![
        Check::new(
            "base_transaction",
            transaction(file.base.transaction, file.base.block, file.base.block_hash, base).await,
        ),
        Check::new("base_settlement", settlement(file, base).await),
        Check::new("base_node", node(file, base).await),
        Check::new("base_keeper", keeper(file.network.ledger, file.keeper.as_ref(), base).await),
        Check::new(
            "opengradient_transaction",
            transaction(file.opengradient.transaction, file.opengradient.block, None, opengradient).await,
        ),
        Check::new("opengradient_record", recorded(file, opengradient).await),
    ]
}

async fn view<C: SolCall>(rpc: &Rpc, to: Address, call: &C) -> Result<C::Return, String> {
    let data = Bytes::from(call.abi_encode());
    let answer = rpc.call(Address::ZERO, to, &data, BlockId::latest()).await.map_err(|error| error.to_string())?;
    C::abi_decode_returns(&answer).map_err(|error| format!("{to} does not answer as expected: {error}"))
}

pub(super) async fn transaction(
    hash: Option<B256>,
    block: Option<u64>,
    block_hash: Option<B256>,
    rpc: &Rpc,
) -> Result<String, String> {
    let Some(hash) = hash else { return Ok("none yet".to_owned()) };
    let receipt = rpc.receipt_anywhere(hash).await.map_err(|error| error.to_string())?;
    let receipt = receipt.ok_or_else(|| format!("the chain does not know transaction {hash}"))?;
    if !receipt.status() {
        return Err(format!("transaction {hash} failed"));
    }
    if receipt.block_number != block {
        return Err(format!("transaction {hash} is in block {:?}, the file says {block:?}", receipt.block_number));
    }
    if block_hash.is_some() && receipt.block_hash != block_hash {
        return Err(format!("block {block:?} has another hash on the chain: {:?}", receipt.block_hash));
    }
    Ok(format!("{hash} in block {}", block.unwrap_or_default()))
}

async fn settlement(file: &ReceiptFile, rpc: &Rpc) -> Result<String, String> {
    let ledger = file.network.ledger;
    if let Some(batch) = &file.base.batch {
        let record = (&batch.record).try_into().map_err(|refusal: crate::error::Refusal| refusal.message)?;
        let leaf = Leaf::try_from(&batch.leaf).map_err(|refusal| refusal.message)?;
        let call = SettlementLedger::verifyLeafCall { record, leaf: leaf.into(), proof: batch.proof.clone() };
        return if view(rpc, ledger, &call).await? {
            Ok(format!("the ledger confirms row {} of batch {}", batch.leaf.row, batch.record.batch_id))
        } else {
            Err("the ledger does not confirm the batch record or the row".to_owned())
        };
    }
    if file.base.transaction.is_none() {
        return Ok("not settled yet".to_owned());
    }
    let settled = view(rpc, ledger, &SettlementLedger::settledCall { settlementId: file.settlement_id }).await?;
    if settled == file.receipt_hash {
        Ok("the ledger holds this receipt's hash".to_owned())
    } else {
        Err(format!("the ledger holds {settled} for this settlement"))
    }
}

async fn node(file: &ReceiptFile, rpc: &Rpc) -> Result<String, String> {
    let receipt = Receipt::try_from(&file.receipt).map_err(|refusal| refusal.message)?;
    let registry = view(rpc, file.network.ledger, &SettlementLedger::nodesCall {}).await?;
    let call = NodeRegistry::evidenceCall {
        nodeId: receipt.nodeId,
        number: receipt.nodeVersion,
        timestamp: receipt.timestamp,
    };
    let evidence = view(rpc, registry, &call).await?;
    if evidence.meterKey != file.meter.key {
        return Err(format!("version {} has the meter key {}", receipt.nodeVersion, evidence.meterKey));
    }
    if evidence.key != file.node.public_key {
        return Err("the registry holds another key for this node".to_owned());
    }
    if !file.order.held || file.order.signature.is_some() {
        return Ok(format!("version {} of the node has these keys", receipt.nodeVersion));
    }
    // The payer's word is the hold itself.
    let call = InferenceEscrow::orderStateCall { id: receipt.paymentId };
    let state = view(rpc, file.network.escrow, &call).await?;
    if state.status == 0 {
        return Err("the escrow does not know the order, and it carries no signature".to_owned());
    }
    Ok(format!("version {} of the node has these keys; the escrow knows the order", receipt.nodeVersion))
}

pub(super) async fn keeper(ledger: Address, keeper: Option<&KeeperEvidence>, rpc: &Rpc) -> Result<String, String> {
    let Some(keeper) = keeper else { return Ok("the keeper signed nothing".to_owned()) };
    let registry = view(rpc, ledger, &SettlementLedger::keepersCall {}).await?;
    let call = KeeperRegistry::isHotKeyCall { keeperId: keeper.keeper_id, key: keeper.key };
    if view(rpc, registry, &call).await? {
        Ok("the key is one of the keeper's now".to_owned())
    } else {
        Err(format!("{} is no hot key of keeper {} now", keeper.key, keeper.keeper_id))
    }
}

async fn recorded(file: &ReceiptFile, rpc: &Rpc) -> Result<String, String> {
    if file.opengradient.transaction.is_none() {
        return Ok(format!("not recorded singly: {}", file.opengradient.state));
    }
    let call = SettlementInbox::recordedAtCall { settlementId: file.settlement_id };
    let at = view(rpc, file.network.inbox, &call).await?;
    if at.is_zero() { Err("the inbox has no such record".to_owned()) } else { Ok(format!("recorded at {at}")) }
}
