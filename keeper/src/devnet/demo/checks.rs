//! What must hold at the end, from chains, receipt files and what the steps saw.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, keccak256};
use alloy::providers::Provider;
use alloy::sol_types::SolCall;
use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowEvents as Escrow;
use quittance_bindings::{DevUSDC, InferenceConsumer, SettlementLedger};

use super::chain::{Observed, Sums};
use super::stage::Stage;
use super::story::Check;
use crate::cli::send::read;
use crate::receipt::ReceiptFile;

/// Receipt files by settlement id.
pub type Receipts = BTreeMap<B256, ReceiptFile>;

/// Why a check fails, or what it found.
type Found = Result<String, String>;

/// What the checks look at.
#[derive(Debug)]
pub struct Evidence<'a> {
    pub stage: &'a Stage,
    pub seen: &'a Observed,
    pub receipts: &'a Receipts,
    pub sums: &'a BTreeMap<Address, Sums>,
    /// What `receipt verify` of this program said to all files.
    pub verified: &'a Found,
}

/// Runs every check.
pub async fn all(evidence: &Evidence<'_>) -> Vec<Check> {
    let check = |name, found: Found| {
        let ok = found.is_ok();
        Check { name, ok, detail: found.unwrap_or_else(|why| why) }
    };
    let mut checks = vec![
        check("protocol_callback", evidence.protocol().await),
        check("orders_settled", evidence.settled()),
        check("bad_signature_refused", evidence.refused()),
        check("failover_paid_once", evidence.failover()),
        check("unanswered_order_reclaimed", evidence.reclaimed().await),
        check("survived_kill", evidence.survived()),
        check("unproven_row_refunded", super::dispute::refunded(evidence.stage, evidence.seen).await),
        check("honest_rows_paid", super::dispute::paid(evidence.stage, evidence.seen).await),
        check("challenge_answered", super::dispute::answered(evidence.stage, evidence.seen).await),
        check("exit_while_paused", super::exit::check(evidence.stage, evidence.seen).await),
        check("all_final", evidence.last().await),
        check("receipts_verify_offline", evidence.verified.clone()),
        check("money_adds_up", evidence.money().await),
    ];
    checks.extend(super::stock::checks(evidence.stage).await);
    checks.push(super::gateway::check(evidence.stage).await);
    checks
}

fn must(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

impl Evidence<'_> {
    async fn ask<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, String> {
        read(self.stage.devnet.chains.base.provider(), to, call).await.map_err(|failure| failure.to_string())
    }

    fn receipt_of(&self, order: B256) -> Result<&ReceiptFile, String> {
        let mut found = self.receipts.values().filter(|file| file.receipt.payment_id == order);
        match (found.next(), found.next()) {
            (Some(file), None) => Ok(file),
            (None, _) => Err(format!("order {order} has no receipt")),
            _ => Err(format!("order {order} has several receipts")),
        }
    }

    /// The order was captured once, for what its receipt says, by a batch or verified settlement of the ledger.
    fn settled_once(&self, order: B256) -> Result<&ReceiptFile, String> {
        let file = self.receipt_of(order)?;
        let captures = self.seen.captures.get(&order).map_or(&[][..], Vec::as_slice);
        let [capture] = captures else { return Err(format!("order {order} was captured {} times", captures.len())) };
        must(capture.amount.to_string() == file.receipt.amount, || format!("order {order}: another amount"))?;
        let on_ledger = match &file.base.batch {
            Some(batch) => self.seen.batches.iter().any(|seen| {
                seen.tx == capture.tx
                    && seen.event.batchId == batch.record.batch_id
                    && seen.event.record.receiptsRoot == batch.record.receipts_root
            }),
            None => self
                .seen
                .verified
                .get(&file.settlement_id)
                .is_some_and(|seen| seen.tx == capture.tx && seen.event.receiptHash == file.receipt_hash),
        };
        must(on_ledger, || format!("order {order}: the ledger does not know its settlement"))?;
        Ok(file)
    }

    async fn protocol(&self) -> Found {
        let story = &self.stage.story.protocol;
        let file = self.settled_once(story.order_id)?;
        must(file.receipt.payer == story.consumer, || "the contract did not pay".to_owned())?;
        must(self.seen.delivered.contains_key(&file.settlement_id), || "the answer was not delivered".to_owned())?;
        let answer = self.ask(story.consumer, &InferenceConsumer::answersCall { orderId: story.order_id }).await?;
        must(keccak256(&answer) == file.receipt.output_hash, || "the contract holds another answer".to_owned())?;
        Ok(format!("{} bytes of answer in contract {}", answer.len(), story.consumer))
    }

    fn settled(&self) -> Found {
        let orders = &self.stage.story.http;
        for order in orders {
            self.settled_once(*order)?;
        }
        let private = orders.iter().filter_map(|order| self.receipt_of(*order).ok());
        let private = private.filter(|file| !file.receipt.blinding.is_zero()).count();
        must(orders.len() >= 24, || format!("only {} orders", orders.len()))?;
        must(private > 0 && private < orders.len(), || "not both private and public orders".to_owned())?;
        must(self.seen.skipped == 0, || format!("{} rows were skipped", self.seen.skipped))?;
        Ok(format!("{} orders captured once each, {private} of them private", orders.len()))
    }

    fn refused(&self) -> Found {
        let story = &self.stage.story.bad_node;
        must(story.answers > 0, || "the node never signed wrongly".to_owned())?;
        must(story.code == "bad_inference_signature", || format!("refused as {}", story.code))?;
        let refused = &story.refused;
        let message =
            quittance_bindings::typed::message_hash(refused.request_hash, refused.output_hash, refused.timestamp);
        let id = quittance_bindings::typed::settlement_id(refused.node_id, message);
        must(!self.seen.recorded.contains_key(&id), || format!("{id} was recorded"))?;
        must(!self.seen.verified.contains_key(&id) && !self.receipts.contains_key(&id), || {
            format!("{id} was settled")
        })?;
        Ok(format!("{} wrongly signed answers, refused as {}", story.answers, story.code))
    }

    fn failover(&self) -> Found {
        let story = &self.stage.story.bad_node;
        let file = self.settled_once(story.order_id)?;
        must(file.receipt.node_id != story.refused.node_id, || "the misbehaving node was paid".to_owned())?;
        Ok(format!("order {} captured once, for node {}", story.order_id, file.receipt.node_id))
    }

    async fn reclaimed(&self) -> Found {
        let story = &self.stage.story.unanswered;
        let (amount, payer, tx) =
            self.seen.reclaims.get(&story.order_id).ok_or_else(|| "it was not reclaimed".to_owned())?;
        must(amount.to_string() == story.amount && *payer == story.payer, || "not the full hold is back".to_owned())?;
        must(!self.seen.captures.contains_key(&story.order_id), || "it was captured too".to_owned())?;
        let sent = self.stage.devnet.chains.base.provider().get_transaction_by_hash(*tx).await;
        let sent = sent.map_err(|error| error.to_string())?.ok_or_else(|| format!("no transaction {tx}"))?;
        must(sent.inner.signer() == story.stranger, || "not the stranger sent it".to_owned())?;
        Ok(format!("{amount} units back with {payer}, sent by a stranger"))
    }

    fn survived(&self) -> Found {
        let story = &self.stage.story.kill;
        must(story.killed_pid != story.restarted_pid && story.killed_pid != 0, || {
            "the keeper was not killed".to_owned()
        })?;
        must(!story.undispatched.is_empty(), || "no acknowledged order was undispatched".to_owned())?;
        let unmined: Vec<B256> = story.unmined.iter().flat_map(|tx| tx.orders.iter().copied()).collect();
        must(!unmined.is_empty(), || "no broadcast batch was unmined".to_owned())?;
        for order in story.undispatched.iter().chain(&unmined) {
            self.settled_once(*order)?;
        }
        for (order, captures) in &self.seen.captures {
            must(captures.len() == 1, || format!("order {order} was captured {} times", captures.len()))?;
        }
        Ok(format!("{} undispatched and {} unmined orders settled once", story.undispatched.len(), unmined.len()))
    }

    async fn last(&self) -> Found {
        let ledger = self.stage.devnet.deployment.network.base.ledger;
        for seen in &self.seen.batches {
            let id = seen.event.batchId;
            let status = self.ask(ledger, &SettlementLedger::batchStatusCall { batchId: id }).await?;
            must(status == 2, || format!("batch {id} is not final"))?;
        }
        let settled: BTreeSet<B256> = self.receipts.values().map(|file| file.receipt.payment_id).collect();
        // What another keeper captured is for that keeper to show.
        for (order, _) in self.seen.captured_by(self.stage.devnet.deployment.network.keeper.id) {
            must(settled.contains(&order), || format!("captured order {order} has no receipt"))?;
        }
        for (id, file) in self.receipts {
            must(file.state == "final", || format!("{id} is {}", file.state))?;
            let private = !file.receipt.blinding.is_zero();
            let recorded = self.seen.recorded.contains_key(id);
            must(private != recorded, || format!("{id}: private {private}, recorded {recorded}"))?;
        }
        must(self.sums.values().all(|sums| sums.captured == 0), || "money is captured and not paid".to_owned())?;
        let (batches, verified) = (self.seen.batches.len(), self.seen.verified.len());
        Ok(format!("{batches} batches final, {verified} verified, {} inferences recorded", self.seen.recorded.len()))
    }

    async fn money(&self) -> Found {
        let escrow = self.stage.devnet.deployment.network.base.escrow;
        let mut told = Vec::new();
        for (token, sums) in self.sums {
            must(sums.add_up(), || format!("{token}: {sums:?}"))?;
            let balance = self.ask(*token, &DevUSDC::balanceOfCall { account: escrow }).await?;
            let owed = sums.deposited - sums.withdrawn;
            must(balance == alloy::primitives::U256::from(owed), || format!("{token}: holds {balance}, owes {owed}"))?;
            told.push(format!(
                "{token}: {owed} = {} free + {} held + {} locked + {} captured",
                sums.free, sums.held, sums.locked, sums.captured
            ));
        }
        must(told.len() >= 2, || "not both tokens were used".to_owned())?;
        let opened = self.seen.escrow.iter().filter(|seen| matches!(seen.event, Escrow::OrderOpened(_))).count();
        must(opened >= 2, || "no order was opened on-chain".to_owned())?;
        Ok(told.join("; "))
    }
}
