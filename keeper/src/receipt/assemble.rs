//! Receipt files from what the keeper stores.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes};
use alloy::signers::SignerSync;
use alloy::sol_types::SolValue;
use quittance_bindings::ledger::SettlementLedger::BatchRecord;
use quittance_bindings::typed::{leaf_hash, message_hash};

use super::verify::keeper_digest;
use super::{
    BaseEvidence, BatchEvidence, KeeperEvidence, MeterEvidence, Network, NodeEvidence, OpenGradientEvidence,
    OrderEvidence, RatesEvidence, ReceiptFile, RecordFields, SCHEMA, UsageEvidence,
};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::merkle::Tree;
use crate::store::batches;
use crate::store::batches::Head;
use crate::store::completions::receipt;
use crate::store::evidence::{self, Batch, Place, Settlement};
use crate::types::OrderState;
use crate::wire::{LeafFields, OrderFields, ReceiptFields};

/// The receipt file of a settlement as far as it has come; `None` for an unknown settlement.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn file(ctx: &Ctx, settlement_id: B256) -> Result<Option<ReceiptFile>> {
    let Some(settlement) = evidence::settlement(&ctx.store, settlement_id).await? else { return Ok(None) };
    let batch = match settlement.batch_id {
        // A row that a batch skipped may have been settled alone later.
        Some(id) if settlement.state == "settled" && settlement.path == "batch" => {
            evidence::batch(&ctx.store, id).await?
        }
        _ => None,
    };
    let head = batches::head(&ctx.store, ctx.config.base.chain_id).await?.unwrap_or_default();
    let base = base_evidence(ctx, &settlement, batch.as_ref()).await?;
    let corrupt = |what: &str| Error::Corrupt { table: "receipts", what: format!("{settlement_id} {what}") };
    let completion = &settlement.completion.completion;
    let metered = settlement.completion.metered.as_ref().ok_or_else(|| corrupt("is matched without a Meter"))?;
    let receipt = receipt(&settlement.order, completion, metered);
    let keys = ctx.registry.node(completion.node_id);
    let version = keys.as_ref().and_then(|node| node.versions.get(&completion.node_version));
    let recorded = settlement.completion.recorded;
    let mut file = ReceiptFile {
        schema: SCHEMA.to_owned(),
        settlement_id,
        receipt_hash: settlement.receipt_hash,
        state: state(&settlement, base.block, head).to_owned(),
        receipt: ReceiptFields::from(&receipt),
        network: Network {
            base_chain_id: ctx.config.base.chain_id,
            escrow: ctx.config.base.escrow,
            ledger: ctx.config.base.ledger,
            opengradient_chain_id: ctx.config.opengradient.chain_id,
            inbox: ctx.config.opengradient.inbox,
        },
        node: NodeEvidence {
            public_key: version.map(|version| Bytes::from(version.public_key.clone())).unwrap_or_default(),
            signature: completion.signature.clone().into(),
            message_hash: message_hash(completion.request_hash, completion.output_hash, completion.timestamp),
        },
        order: OrderEvidence {
            fields: OrderFields::from(&settlement.order.order),
            signature: settlement.order.signature.clone().map(Bytes::from),
            // A captured hold is no hold any more, but it was one if there is no signature.
            held: settlement.order.held || settlement.order.signature.is_none(),
        },
        meter: MeterEvidence {
            key: version.map_or(Address::ZERO, |version| version.meter_key),
            signature: metered.signature.clone().into(),
            usage: completion.usage.map(|usage| UsageEvidence { input: usage.input, output: usage.output }),
            rates: metered.card.as_ref().map(|card| RatesEvidence {
                input: card.input.to_string(),
                output: card.output.to_string(),
                version: card.version.clone(),
            }),
        },
        base,
        opengradient: OpenGradientEvidence {
            state: settlement.completion.record_state.as_str().to_owned(),
            transaction: recorded.map(|(hash, _)| hash),
            block: recorded.map(|(_, block)| block),
        },
        keeper: None,
        awaits: BTreeMap::new(),
    };
    file.awaits = awaits(&file);
    file.keeper = keeper(ctx, &file);
    Ok(Some(file))
}

/// What callers are told: a timeout is never a failure.
fn state(settlement: &Settlement, block: Option<u64>, head: Head) -> &'static str {
    match settlement.order.state {
        OrderState::Final => return "final",
        OrderState::Voided => return "voided",
        OrderState::Refused | OrderState::Reclaimed | OrderState::Expired => return "refused",
        _ => {}
    }
    let Some(block) = block.and_then(|block| i64::try_from(block).ok()) else { return "settlement_pending" };
    if block <= head.safe { "safe" } else { "included" }
}

async fn base_evidence(ctx: &Ctx, settlement: &Settlement, batch: Option<&Batch>) -> Result<BaseEvidence> {
    let place: Option<Place> = match batch {
        Some(batch) => batch.place,
        None => settlement.place,
    };
    let proof = match (batch, settlement.leaf_row) {
        (Some(batch), Some(row)) => batch_evidence(ctx, batch, settlement, row).await?,
        _ => None,
    };
    // Without its proof a place in a batch would be an empty claim.
    let place = if settlement.path == "batch" && proof.is_none() { None } else { place };
    Ok(BaseEvidence {
        path: settlement.path.clone(),
        transaction: place.map(|place| place.transaction),
        block: place.map(|place| place.block),
        block_hash: place.and_then(|place| place.block_hash),
        fee: settlement.fee.map(|fee| fee.to_string()),
        batch: proof,
    })
}

async fn batch_evidence(ctx: &Ctx, batch: &Batch, settlement: &Settlement, row: u32) -> Result<Option<BatchEvidence>> {
    let Some(record) = &batch.record else { return Ok(None) };
    let record = BatchRecord::abi_decode(record)
        .map_err(|error| Error::Corrupt { table: "batches", what: format!("record: {error}") })?;
    let leaves = evidence::leaves(&ctx.store, batch.batch_id).await?;
    let tree = Tree::new(leaves.iter().map(|(_, leaf)| leaf_hash(leaf)).collect());
    if tree.root() != Some(record.receiptsRoot) {
        let what = format!("batch {} has another root than its rows give", batch.batch_id);
        return Err(Error::Corrupt { table: "batches", what });
    }
    let at = usize::try_from(row).unwrap_or(usize::MAX);
    let id = settlement.completion.completion.settlement_id;
    let leaf = leaves.get(at).filter(|(of, _)| *of == id).map(|(_, leaf)| LeafFields::from(leaf));
    let (Some(leaf), Some(proof)) = (leaf, tree.proof(at)) else { return Ok(None) };
    Ok(Some(BatchEvidence { record: RecordFields::from(&record), leaf, proof }))
}

/// What is null, and the state that fills it.
fn awaits(file: &ReceiptFile) -> BTreeMap<String, String> {
    let mut awaits = BTreeMap::new();
    let mut note = |missing: bool, pointer: &str, state: &str| {
        if missing {
            awaits.insert(pointer.to_owned(), state.to_owned());
        }
    };
    let settled = file.base.transaction.is_none() && file.state != "refused";
    for pointer in ["/base/transaction", "/base/block", "/base/blockHash"] {
        note(settled, pointer, "included");
    }
    note(settled && file.base.path == "batch", "/base/batch", "included");
    note(settled && file.base.fee.is_none(), "/base/fee", "included");
    let recordable =
        file.opengradient.transaction.is_none() && ["due", "submitted"].contains(&&*file.opengradient.state);
    for pointer in ["/opengradient/transaction", "/opengradient/block"] {
        note(recordable, pointer, "recorded");
    }
    awaits
}

fn keeper(ctx: &Ctx, file: &ReceiptFile) -> Option<KeeperEvidence> {
    let signer = ctx.keys.receipt.as_ref()?;
    let keeper_id = ctx.config.keeper.id;
    let digest = keeper_digest(ctx.config.base.chain_id, ctx.config.base.ledger, keeper_id, file);
    match signer.sign_hash_sync(&digest) {
        Ok(signature) => {
            Some(KeeperEvidence { keeper_id, key: signer.address(), signature: signature.as_bytes().into() })
        }
        Err(error) => {
            tracing::error!(%error, "the receipt key cannot sign");
            None
        }
    }
}
