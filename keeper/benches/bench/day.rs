//! A day's worth of orders through the store, ingest and the batcher, with a simulated chain: what an order costs and what the
//! process needs must not depend on how many came before it. No signatures and no HTTP: those have their own benchmarks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use alloy::primitives::aliases::U40;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use eyre::{Result, ensure, eyre};
use quittance::chain::logs::{ChainLog, Contract, decode};
use quittance::chain::rpc::Head;
use quittance::config::Config;
use quittance::ctx::Ctx;
use quittance::ingest::{self, Done, Job, NewCompletion, NewOrder};
use quittance::merkle::Tree;
use quittance::store::apply::{self, Rules};
use quittance::store::completions::{Completion, Matched, Metered, Usage};
use quittance::store::events::{self, Cursor};
use quittance::store::leases::Lease;
use quittance::store::txs::{self, Attempt, Inclusion};
use quittance::store::{Store, WriteTx, accounts, intake};
use quittance::tx::fees::Fee;
use quittance::{finish, settle};
use quittance_bindings::escrow::IInferenceEscrow::Sources;
use quittance_bindings::escrow::InferenceEscrow as escrow;
use quittance_bindings::ledger::SettlementLedger::{self as ledger, BatchRecord};
use quittance_bindings::typed::{Leaf, Order, RAIL_ORDER, leaf_hash, request_commit, settleBatchCall};
use tokio_util::sync::CancellationToken;

use crate::keeper::memory;
use crate::report::Report;
use crate::scaled;

/// Orders in one block of the simulated chain.
const BLOCK: usize = 2_000;
const PAYERS: u64 = 64;
/// Blocks from a batch to its end.
const WINDOW: usize = 20;
const START: u64 = 1_795_200_000;
/// Secret of every order: what is private is not recorded on OpenGradient, whose chain is not simulated.
const BLINDING: B256 = B256::repeat_byte(0xB1);

pub async fn run(report: &mut Report, scale: f64) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("quittance-bench-day-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut config: Config = toml::from_str(include_str!("../../quittance.example.toml"))?;
    config.keeper.database = format!("sqlite:{}", dir.join("keeper.db").display());
    config.batch.max_rows = 250;
    config.batch.max_value.clear();
    let store = Store::open(&config.keeper.database).await?;
    let mut ctx = Ctx::new(config, store)?;
    ctx.lock_tail = 0;
    let ctx = Arc::new(ctx);
    let stop = CancellationToken::new();
    let writer = tokio::spawn(ingest::run(Arc::clone(&ctx), stop.clone()));
    let mut day = Day::new(&ctx).await?;
    let blocks = scaled(1_000_000, scale, 4 * BLOCK) / BLOCK;
    let (mut first, mut last) = (0.0, 0.0);
    let mut started = Instant::now();
    let every = (blocks / 10).max(1);
    for block in 1..=blocks {
        day.block(block).await?;
        if block % every == 0 {
            let orders = u32::try_from(every * BLOCK)?;
            last = started.elapsed().as_secs_f64() * 1e6 / f64::from(orders);
            first = if first == 0.0 { last } else { first };
            let name = format!("each of orders up to {}", block * BLOCK);
            report.figure(&name, last, "µs", None);
            report.figure("  memory", memory(std::process::id())?.0, "MiB", None);
            started = Instant::now();
        }
    }
    report.figure("last tenth of the day against the first", last / first, "×", Some("1"));
    stop.cancel();
    writer.await??;
    ctx.store.close().await;
    Ok(std::fs::remove_dir_all(dir)?)
}

/// The simulated chain and what it remembers.
struct Day {
    ctx: Arc<Ctx>,
    rules: Rules,
    signer: Address,
    nonce: u64,
    cursor: Option<Cursor>,
    escrow_seq: u64,
    ledger_seq: u64,
    batches: u64,
    ending: VecDeque<Vec<u64>>,
    role: Lease,
}

impl Day {
    async fn new(ctx: &Arc<Ctx>) -> Result<Self> {
        let base = &ctx.config.base;
        let rules = Rules {
            chain_id: base.chain_id,
            keeper_id: ctx.config.keeper.id,
            tokens: base.tokens.clone(),
            contracts: vec![(base.escrow, Contract::Escrow), (base.ledger, Contract::Ledger)],
            now_ms: ctx.clock.now_ms(),
        };
        let mut tx = ctx.store.write().await?;
        for payer in 0..PAYERS {
            let lane = (payer_of(payer), token(ctx)?, ctx.config.keeper.id);
            accounts::put_lock(&mut tx, lane, u128::MAX / 2, u64::from(u32::MAX)).await?;
        }
        tx.commit().await?;
        let mut role = Lease::new("day", &ctx.installation);
        ensure!(role.hold(&ctx.store, 0).await?, "the role is another's");
        Ok(Self {
            ctx: Arc::clone(ctx),
            rules,
            signer: Address::repeat_byte(9),
            nonce: 0,
            cursor: None,
            escrow_seq: 0,
            ledger_seq: 0,
            batches: 0,
            ending: VecDeque::new(),
            role,
        })
    }

    /// One block: orders come, are answered and frozen into batches; the batches are mined, old ones end, texts are erased.
    async fn block(&mut self, number: usize) -> Result<()> {
        let orders: Vec<Order> =
            (number * BLOCK..(number + 1) * BLOCK).map(|n| self.order(n)).collect::<Result<_>>()?;
        let ids: Vec<B256> = orders.iter().map(|order| keccak256(order.abi_encode())).collect();
        for part in orders.iter().zip(&ids).collect::<Vec<_>>().chunks(1_000) {
            let jobs = part.iter().map(|(order, id)| admit(order, **id)).collect();
            for done in self.ctx.ingest.submit_all(jobs).await {
                ensure!(done? == Done::Admitted, "an order was known");
            }
        }
        let wanted: Vec<(Option<B256>, B256)> = ids.iter().map(|id| (Some(*id), B256::ZERO)).collect();
        let mut found = intake::find(&self.ctx.store, &wanted).await?.orders;
        for part in ids.chunks(1_000) {
            let jobs = part
                .iter()
                .map(|id| {
                    let order = found.remove(id).ok_or_else(|| eyre!("order {id} is not known"))?;
                    let (completion, metered) = answer(*id);
                    Ok(Job::Completion(Box::new(NewCompletion::answering(order, completion, metered))))
                })
                .collect::<Result<Vec<_>>>()?;
            for done in self.ctx.ingest.submit_all(jobs).await {
                ensure!(done? == Done::Matched(Matched::New), "a completion was not matched");
            }
        }
        // A first look at a chain without a head does nothing.
        self.mine(number, Vec::new()).await?;
        settle::tick(&self.ctx, &self.role).await?;
        settle::tick(&self.ctx, &self.role).await?;
        let logs = self.settle_queued(number).await?;
        ensure!(!logs.is_empty(), "no batch was frozen");
        self.mine(number, logs).await?;
        finish::sweep(&self.ctx, &self.role).await?;
        Ok(())
    }

    fn order(&self, n: usize) -> Result<Order> {
        let n = u64::try_from(n)?;
        Ok(Order {
            payer: payer_of(n % PAYERS),
            token: token(&self.ctx)?,
            maxAmount: 20_000,
            requestCommit: request_commit(keccak256(n.to_be_bytes()), BLINDING),
            nodeScope: B256::ZERO,
            keeperId: self.rules.keeper_id,
            validAfter: U40::from(START),
            validBefore: U40::from(START + 900_000_000),
            captureDeadline: U40::from(START + 900_000_000),
            nonce: U256::from(n / PAYERS),
        })
    }

    /// Signs, sends and mines every queued batch as the transaction manager would, and gives the chain's logs.
    async fn settle_queued(&mut self, block: usize) -> Result<Vec<ChainLog>> {
        let chain_id = self.rules.chain_id;
        let (mut logs, mut settled) = (Vec::new(), Vec::new());
        loop {
            let queued = txs::queued(self.ctx.store.read(), chain_id, "", 32).await?;
            if queued.is_empty() {
                break;
            }
            for row in queued {
                let tx_hash = keccak256([row.tx_id.to_be_bytes(), block.to_be_bytes()].concat());
                let attempt = Attempt {
                    tx_hash,
                    raw: row.calldata.clone(),
                    fee: Fee { max_fee: 1_000, tip: 1 },
                    created_ms: 1,
                    broadcast_ms: None,
                    last_error: None,
                };
                let mut tx = self.ctx.store.write().await?;
                let place = (self.nonce, 14_000_000);
                ensure!(txs::allocate(&mut tx, row.tx_id, self.signer, place, &attempt).await?, "not queued");
                txs::mark_sent(&mut tx, row.tx_id, tx_hash, None, 1).await?;
                let inclusion = Inclusion {
                    tx_hash,
                    block_number: u64::try_from(block)?,
                    block_hash: hash_of(block),
                    gas_used: 8_000_000,
                    effective_price: 1,
                    success: true,
                };
                txs::include(&mut tx, row.tx_id, &inclusion, 1).await?;
                txs::conclude(&mut tx, row.tx_id, true, 1).await?;
                tx.commit().await?;
                self.nonce += 1;
                settled.push(self.settled(block, tx_hash, &row.calldata, &mut logs)?);
            }
        }
        self.ending.push_back(settled);
        if self.ending.len() > WINDOW {
            for batch in self.ending.pop_front().unwrap_or_default() {
                self.ledger_seq += 1;
                let event = ledger::Finalized { seq: self.ledger_seq, effectSeq: 1, batchId: batch, paid: 1, fee: 0 };
                let tx_hash = keccak256(batch.to_be_bytes());
                self.log(block, tx_hash, Contract::Ledger, self.ledger_seq, &event, &mut logs)?;
            }
        }
        Ok(logs)
    }

    /// What the contracts say to one `settleBatch`: every row is captured.
    fn settled(&mut self, block: usize, tx_hash: B256, calldata: &Bytes, logs: &mut Vec<ChainLog>) -> Result<u64> {
        let call = settleBatchCall::abi_decode(calldata)?;
        let mut leaves = Vec::with_capacity(call.rows.len());
        let mut total = 0;
        for (number, row) in (0..).zip(&call.rows) {
            let order = Order {
                payer: row.payer,
                token: call.token,
                maxAmount: row.maxAmount,
                requestCommit: row.requestCommit,
                nodeScope: row.nodeScope,
                keeperId: call.keeperId,
                validAfter: row.validAfter,
                validBefore: row.validBefore,
                captureDeadline: row.captureDeadline,
                nonce: row.nonce,
            };
            let order_id = keccak256(order.abi_encode());
            let node = &call.nodes[usize::from(row.node)];
            self.escrow_seq += 1;
            let event = escrow::OrderCaptured {
                seq: self.escrow_seq,
                orderId: order_id,
                payer: row.payer,
                token: call.token,
                keeperId: call.keeperId,
                nonce: row.nonce,
                sources: Sources { hold: 0, lock: row.amount, free: 0 },
                released: 0,
                nonceSpent: true,
            };
            self.log(block, tx_hash, Contract::Escrow, self.escrow_seq, &event, logs)?;
            leaves.push(leaf_hash(&Leaf {
                rail: RAIL_ORDER,
                paymentId: order_id,
                start: 0,
                amount: row.amount,
                nodeId: node.nodeId,
                nodeVersion: node.version,
                receiptHash: row.receiptHash,
                row: number,
            }));
            total += row.amount;
        }
        self.batches += 1;
        self.ledger_seq += 1;
        let record = BatchRecord {
            batchId: self.batches,
            keeperId: call.keeperId,
            token: call.token,
            settledAt: U40::from(START),
            rows: u32::try_from(call.rows.len())?,
            total,
            receiptsRoot: Tree::new(leaves).root().unwrap_or_default(),
            ogRoot: call.ogRoot,
            blobHash: B256::ZERO,
            feeBps: 0,
            feeRecipient: Address::ZERO,
            credits: Vec::new(),
        };
        let event = ledger::BatchSettled {
            seq: self.ledger_seq,
            effectSeq: 1,
            batchId: self.batches,
            keeperId: call.keeperId,
            record,
            blobId: Bytes::new(),
        };
        self.log(block, tx_hash, Contract::Ledger, self.ledger_seq, &event, logs)?;
        Ok(self.batches)
    }

    fn log(
        &self,
        block: usize,
        tx_hash: B256,
        contract: Contract,
        seq: u64,
        event: &impl SolEvent,
        logs: &mut Vec<ChainLog>,
    ) -> Result<()> {
        let data = event.encode_log_data();
        let known = decode(contract, data.topics(), &data.data).map_err(|error| eyre!(error))?;
        let (name, _, event) = known.ok_or_else(|| eyre!("an event that the keeper does not know"))?;
        let base = &self.ctx.config.base;
        logs.push(ChainLog {
            address: if contract == Contract::Escrow { base.escrow } else { base.ledger },
            block_number: u64::try_from(block)?,
            block_hash: hash_of(block),
            timestamp: START,
            log_index: u64::try_from(logs.len())?,
            tx_hash,
            topics: data.topics().to_vec(),
            data: data.data,
            seq,
            name,
            event,
        });
        Ok(())
    }

    /// Applies a block as the watcher does; it is final at once. Without logs only the head is moved.
    async fn mine(&mut self, number: usize, logs: Vec<ChainLog>) -> Result<()> {
        let mut tx: WriteTx = self.ctx.store.write().await?;
        let block = u64::try_from(number)?;
        let head = Head { number: block, hash: hash_of(number), parent: hash_of(number - 1), timestamp: START };
        let before = self.cursor.map_or(0, |cursor| cursor.finalized);
        let finalized = if logs.is_empty() { before } else { block };
        let new = Cursor { number: block, hash: head.hash, timestamp: START, safe: finalized, finalized };
        events::insert_block(&mut tx, self.rules.chain_id, &head).await?;
        apply::apply(&mut tx, &self.rules, &logs).await?;
        apply::heads(&mut tx, &self.rules, before, new.safe, new.finalized).await?;
        events::prune_blocks(&mut tx, self.rules.chain_id, new.finalized).await?;
        let moved =
            events::move_cursor(&mut tx, self.rules.chain_id, self.cursor.as_ref(), &new, self.rules.now_ms).await?;
        ensure!(moved, "the cursor did not move");
        tx.commit().await?;
        self.cursor = Some(new);
        Ok(())
    }
}

fn payer_of(n: u64) -> Address {
    Address::from_slice(&keccak256(n.to_be_bytes())[12..])
}

fn token(ctx: &Ctx) -> Result<Address> {
    ctx.config.base.tokens.first().copied().ok_or_else(|| eyre!("the example names no token"))
}

fn hash_of(block: usize) -> B256 {
    keccak256(block.to_be_bytes())
}

fn admit(order: &Order, id: B256) -> Job {
    let mut signature = id.repeat(2);
    signature.push(27);
    Job::Order(Box::new(NewOrder {
        order_id: id,
        order: order.clone(),
        signature: Some(signature),
        blinding: BLINDING,
        request_hash: keccak256(id),
        request: vec![b'x'; 160],
        // No dispatcher runs here.
        dispatch_from_ms: 0,
    }))
}

fn answer(order_id: B256) -> (Completion, Metered) {
    let hash = |n: u8| keccak256([order_id.as_slice(), &[n]].concat());
    let completion = Completion {
        settlement_id: hash(1),
        order_id: Some(order_id),
        node_id: B256::repeat_byte(order_id[0] % 8 + 1),
        node_version: 1,
        request_hash: keccak256(order_id),
        output_hash: hash(2),
        timestamp: START,
        signature: hash(3).repeat(8),
        output: Some(vec![b'y'; 200]),
        response: None,
        usage: Some(Usage { input: 21, output: 42 }),
    };
    let metered = Metered { signature: [hash(4).repeat(2), vec![27]].concat(), offset: 0, amount: 1_234, card: None };
    (completion, metered)
}
