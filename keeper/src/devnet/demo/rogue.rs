//! Another keeper, with a bond and no honesty: its batch holds a row without a valid receipt beside honest ones.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::sol_types::{SolEvent, SolValue};
use quittance_bindings::ledger::SettlementLedger::BatchSettled;
use quittance_bindings::typed::{Meter, message_hash, receipt_hash, settlement_id};
use quittance_bindings::{DevOPG, KeeperRegistry, NodeRegistry};
use serde_json::Value;

use super::stage::{failed, order_id, unexpected};
use super::story::Rogue;
use super::wallets::{MONEY, Terms, Wallet, request};
use crate::cli::dispute::batch as read_batch;
use crate::cli::http::Keeper;
use crate::cli::order_file::OrderFile;
use crate::cli::send::read;
use crate::cli::settle::{meter_digest, record as read_record};
use crate::devnet::Devnet;
use crate::devnet::deploy::{OPG, fund, operator_of};
use crate::devnet::keys::Key;
use crate::devnet::sender::Sender;
use crate::error::{Error, Result};
use crate::receipt::{
    BaseEvidence, BatchEvidence, MeterEvidence, NodeEvidence, OpenGradientEvidence, OrderEvidence, ReceiptFile,
    RecordFields, SCHEMA,
};
use crate::settle::call;
use crate::store::receipts::{Path, Settleable};
use crate::verify::completion::Evidence;
use crate::wire::{LeafFields, OrderFields, ReceiptFields};

/// The node that answers the honest orders, and in whose name the made-up row stands.
const NODE: usize = 1;
/// Token units of each honest row, and bond in the bond token's.
const HONEST: u128 = 1_500;
const BOND: u128 = 300 * 1_000_000_000_000_000_000;

/// Puts up a bond and settles three orders, of which the second was never answered.
///
/// # Errors
/// `rpc_failed` naming the transaction that failed; `io_failed` when the node does not answer.
pub async fn batch(devnet: &Devnet) -> Result<Rogue> {
    let base = &devnet.chains.base;
    let key = Key::of("rogue")?;
    let id = keccak256((key.address(), B256::ZERO).abi_encode());
    fund(&devnet.chains, key.address()).await?;
    let mut sender = Sender::new(base.provider().clone(), base.chain_id, key.clone()).await?;
    register(devnet, &mut sender, id).await?;
    let (honest, cheated) = tokio::try_join!(
        Wallet::funded_for(devnet, Key::of("honest-payer")?, id),
        Wallet::funded_for(devnet, Key::of("cheated-payer")?, id),
    )?;
    sender.settle().await?;
    let rows = [
        answered(devnet, &honest, "Is the first row honest?").await?,
        made_up(devnet, &cheated, "Is this one answered?").await?,
        answered(devnet, &honest, "Is the last row honest?").await?,
    ];
    let settleable: Vec<Settleable> = rows.iter().map(|row| row.settleable.clone()).collect();
    let input = call::settle_batch(id, MONEY[0].0, &settleable, Bytes::new())?;
    let ledger = devnet.deployment.network.base.ledger;
    sender.send("settleBatch", alloy::primitives::TxKind::Call(ledger), input).await?;
    let receipts = sender.settle().await?;
    let mined = receipts.iter().flat_map(|receipt| receipt.inner.logs());
    let batch_id = mined.into_iter().find_map(|log| BatchSettled::decode_log(&log.inner).ok().map(|e| e.data.batchId));
    let batch_id = batch_id.ok_or_else(|| Error::Config("the rogue keeper settled nothing".to_owned()))?;
    let network = &devnet.deployment.network;
    let batch = read_batch(network, base.provider(), batch_id).await.map_err(failed)?;
    let record = RecordFields::from(&read_record(network, base.provider(), batch_id).await.map_err(failed)?);
    let [first, cheat, last] = rows;
    let mut files = Vec::with_capacity(2);
    for (number, row) in [(0, first), (2, last)] {
        let missing = || Error::Config(format!("batch {batch_id} has no row {number}"));
        let (leaf, _) = batch.row(number).ok_or_else(missing)?;
        let proof = batch.proof(number).ok_or_else(missing)?;
        let place = BatchEvidence { record: record.clone(), leaf: LeafFields::from(leaf), proof };
        let file = row.file(devnet, place);
        files.push(serde_json::to_value(file).map_err(|error| Error::Config(error.to_string()))?);
    }
    Ok(Rogue {
        keeper_id: id,
        owner: key.address(),
        batch_id,
        row: 1,
        order_id: cheat.settleable.order_id,
        payer: cheat.settleable.order.payer,
        token: cheat.settleable.order.token,
        amount: cheat.settleable.amount.to_string(),
        honest: files,
    })
}

async fn register(devnet: &Devnet, sender: &mut Sender, id: B256) -> Result<()> {
    let registry = devnet.deployment.network.base.keeper_registry;
    let me = sender.address();
    let call = KeeperRegistry::registerCall { salt: B256::ZERO, payout: me, hotKeys: vec![me] };
    sender.call(registry, &call).await?;
    sender.call(OPG, &DevOPG::mintCall { to: me, amount: U256::from(BOND) }).await?;
    sender.call(OPG, &DevOPG::approveCall { spender: registry, value: U256::from(BOND) }).await?;
    sender.call(registry, &KeeperRegistry::addBondCall { keeperId: id, amount: BOND }).await
}

/// A row and what its receipt file holds beside it.
struct Row {
    settleable: Settleable,
    order: OrderFile,
    /// DER SubjectPublicKeyInfo of the node.
    node_key: Bytes,
    meter_key: Address,
}

/// Asks the node, and meters as its operator does.
async fn answered(devnet: &Devnet, payer: &Wallet, question: &str) -> Result<Row> {
    let order = payer.order(devnet, request(question)?, Terms::default())?;
    let text = order.request.as_ref().map(|request| request.get().to_owned()).unwrap_or_default();
    let node = devnet.nodes.get(NODE).ok_or_else(|| Error::Config(format!("no node {NODE}")))?;
    let api = Keeper::new(&node.url()).map_err(failed)?;
    let (_, answer): (_, Value) = api.post("/v1/chat/completions", text, &[]).await.map_err(failed)?;
    let evidence = Evidence::from_response(&answer).map_err(|_| unexpected("a node's answer", &answer))?;
    row(devnet, order, evidence, HONEST).await
}

/// An answer that no node gave, and signatures of nobody.
async fn made_up(devnet: &Devnet, payer: &Wallet, question: &str) -> Result<Row> {
    let order = payer.order(devnet, request(question)?, Terms::default())?;
    let request = order.request.as_deref().map(crate::cli::order::request_hash).transpose().map_err(failed)?;
    let node = devnet.deployment.nodes.get(NODE).ok_or_else(|| Error::Config(format!("no node {NODE}")))?;
    let evidence = Evidence {
        node_id: node.id,
        request_hash: request.unwrap_or_default(),
        output_hash: keccak256("an answer that no node gave"),
        timestamp: order.order.valid_after + 1,
        signature: vec![0x5a; 256],
    };
    let mut row = row(devnet, order, evidence, MONEY[0].3).await?;
    row.settleable.meter_signature = vec![0x5a; 65];
    row.settleable.receipt_hash = receipt_hash(&call::unchecked(&row.settleable));
    Ok(row)
}

async fn row(devnet: &Devnet, file: OrderFile, evidence: Evidence, amount: u128) -> Result<Row> {
    let base = &devnet.deployment.network.base;
    let provider = devnet.chains.base.provider();
    let order = file.order().map_err(failed)?;
    let ask = NodeRegistry::nodeCall { nodeId: evidence.node_id };
    let node_version = read(provider, base.node_registry, &ask).await.map_err(failed)?.version;
    let ask = NodeRegistry::versionCall { nodeId: evidence.node_id, number: node_version };
    let keys = read(provider, base.node_registry, &ask).await.map_err(failed)?;
    let message = message_hash(evidence.request_hash, evidence.output_hash, evidence.timestamp);
    let meter = Meter {
        settlementId: settlement_id(evidence.node_id, message),
        paymentId: order_id(&file)?,
        offset: 0,
        amount,
    };
    let (_, meter_key) = operator_of(NODE)?;
    let signature = meter_key.signer.sign_hash_sync(&meter_digest(&meter, base.chain_id, base.ledger));
    let signature = signature.map_err(|error| Error::Config(format!("{}: {error}", meter_key.role)))?;
    let mut settleable = Settleable {
        settlement_id: meter.settlementId,
        order_id: meter.paymentId,
        order,
        order_signature: file.signature.as_ref().map(|signature| signature.to_vec()),
        held: false,
        blinding: B256::ZERO,
        node_id: evidence.node_id,
        node_version,
        request_hash: evidence.request_hash,
        output_hash: evidence.output_hash,
        timestamp: evidence.timestamp,
        inference_signature: evidence.signature,
        meter_signature: signature.as_bytes().to_vec(),
        amount,
        receipt_hash: B256::ZERO,
        path: Path::Batch,
        private: false,
        retries: 0,
        skip_reason: None,
        created_ms: 0,
    };
    settleable.receipt_hash = receipt_hash(&call::unchecked(&settleable));
    Ok(Row { settleable, order: file, node_key: keys.key, meter_key: keys.meterKey })
}

impl Row {
    /// The receipt file as its payer or its node keeps it: what `quittance answer` shows when the row is challenged.
    fn file(self, devnet: &Devnet, place: BatchEvidence) -> ReceiptFile {
        let network = &devnet.deployment.network;
        let row = self.settleable;
        ReceiptFile {
            schema: SCHEMA.to_owned(),
            settlement_id: row.settlement_id,
            receipt_hash: row.receipt_hash,
            state: "included".to_owned(),
            receipt: ReceiptFields::from(&call::unchecked(&row)),
            network: crate::receipt::Network {
                base_chain_id: network.base.chain_id,
                escrow: network.base.escrow,
                ledger: network.base.ledger,
                opengradient_chain_id: network.opengradient.chain_id,
                inbox: network.opengradient.inbox,
            },
            node: NodeEvidence {
                public_key: self.node_key,
                signature: row.inference_signature.into(),
                message_hash: message_hash(row.request_hash, row.output_hash, row.timestamp),
            },
            order: OrderEvidence {
                fields: OrderFields::from(&row.order),
                signature: self.order.signature,
                held: false,
            },
            meter: MeterEvidence {
                key: self.meter_key,
                signature: row.meter_signature.into(),
                usage: None,
                rates: None,
            },
            base: BaseEvidence {
                path: "batch".to_owned(),
                transaction: None,
                block: None,
                block_hash: None,
                fee: None,
                batch: Some(place),
            },
            opengradient: OpenGradientEvidence { state: "due".to_owned(), transaction: None, block: None },
            keeper: None,
            awaits: BTreeMap::new(),
        }
    }
}
