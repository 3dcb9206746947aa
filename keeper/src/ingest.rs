//! The writer that commits orders and completions in groups: callers are answered after the commit that holds their rows.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use alloy::primitives::B256;
use quittance_bindings::typed::{Order, receipt_hash};
use sqlx::AnyConnection;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::crash;
use crate::ctx::{Ctx, SharedCtx};
use crate::error::{Code, Error, Refusal, Result};
use crate::limits::{Cover, credit, settlement_horizon};
use crate::store::completions::{self, Completion, Matched, Metered};
use crate::store::handed_in::{self, NewHandedIn, Taken};
use crate::store::intake::{self, Pair};
use crate::store::orders::{self, Signed};
use crate::store::{WriteTx, accounts, batches};
use crate::types::{OrderRow, OrderState};

/// Jobs that wait at most; beyond it callers are told to come back.
pub const QUEUE: usize = 8_192;

/// Between two signs of life while nothing comes.
const IDLE: Duration = Duration::from_secs(5);

/// Jobs in one transaction at most: the more, the more rows share a page that is written.
const GROUP: usize = 1_024;

/// How often a group is committed again that lost against another keeper's.
const CONFLICTS: usize = 5;

/// What is to be committed.
#[derive(Debug)]
pub enum Job {
    Order(Box<NewOrder>),
    Completion(Box<NewCompletion>),
    /// A proof from a gateway, which names no order.
    HandedIn(Box<NewHandedIn>),
}

/// A checked order with its request.
#[derive(Clone, Debug)]
pub struct NewOrder {
    pub order_id: B256,
    pub order: Order,
    pub signature: Option<Vec<u8>>,
    pub blinding: B256,
    pub request_hash: B256,
    pub request: Vec<u8>,
    /// A dispatcher leaves the order to its bearer until then, unix milliseconds; 0 for at once.
    pub dispatch_from_ms: i64,
}

/// A verified completion.
#[derive(Clone, Debug)]
pub struct NewCompletion {
    pub completion: Completion,
    /// Order and Meter to match it with; `None` while its order is not known.
    pub matching: Option<(B256, Metered)>,
    /// That order as its caller read it, request hash and blinding included (its state may have changed since), and the hash
    /// of the receipt of the two.
    pub order: Option<(OrderRow, B256)>,
}

impl NewCompletion {
    /// A completion of an order that its caller read, with what the node charges.
    pub fn answering(order: OrderRow, completion: Completion, metered: Metered) -> Self {
        let hash = receipt_hash(&completions::receipt(&order, &completion, &metered));
        Self { completion, matching: Some((order.order_id, metered)), order: Some((order, hash)) }
    }

    /// With all that a match in bulk needs.
    fn pair(&self) -> Option<Pair<'_>> {
        let (order_id, metered) = self.matching.as_ref()?;
        let (order, receipt_hash) = self.order.as_ref().filter(|(order, _)| order.order_id == *order_id)?;
        let open = matches!(order.state, OrderState::Open | OrderState::Dispatched);
        (open && order.blinding.is_some()).then_some(Pair {
            order,
            completion: &self.completion,
            metered,
            receipt_hash: *receipt_hash,
        })
    }
}

/// What was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The order is ours to serve now.
    Admitted,
    /// The order was handed in before.
    Known,
    /// The completion belongs to an order.
    Matched(Matched),
    /// The completion waits for its order.
    Waiting,
    /// The proof is stored, now or before.
    HandedIn(Taken),
}

type Message = (Job, oneshot::Sender<Result<Done, Refusal>>);

/// Both ends of the queue.
#[derive(Debug)]
pub struct Ingest {
    sender: mpsc::Sender<Message>,
    receiver: Mutex<mpsc::Receiver<Message>>,
}

impl Default for Ingest {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Ingest {
    /// Commits a caller's job, or refuses at once when too many wait. New orders are shed first: they may take half of the
    /// queue, completions, which are revenue already earned, all of it.
    ///
    /// # Errors
    /// `overloaded`, `internal` when the commit failed, and the refusals of the job itself. Nothing is stored then.
    pub async fn submit(&self, job: Job) -> Result<Done, Refusal> {
        if matches!(job, Job::Order(_)) && self.waiting() >= QUEUE / 2 {
            return Err(overloaded());
        }
        let (reply, answer) = oneshot::channel();
        self.sender.try_send((job, reply)).map_err(|_| overloaded())?;
        answer.await.map_err(|_| overloaded())?
    }

    /// Commits many jobs of one caller, each for itself, as `submit` does.
    pub async fn submit_all(&self, jobs: Vec<Job>) -> Vec<Result<Done, Refusal>> {
        let submitted: Vec<_> = jobs
            .into_iter()
            .map(|job| {
                let (reply, answer) = oneshot::channel();
                self.sender.try_send((job, reply)).map(|()| answer)
            })
            .collect();
        let mut results = Vec::with_capacity(submitted.len());
        for answer in submitted {
            results.push(match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(overloaded())),
                Err(_) => Err(overloaded()),
            });
        }
        results
    }

    /// Commits a job of our own and waits for room: an answer that a node gave must not be dropped.
    ///
    /// # Errors
    /// As `submit`; `overloaded` only when the keeper stops.
    pub async fn submit_waiting(&self, job: Job) -> Result<Done, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.sender.send((job, reply)).await.map_err(|_| overloaded())?;
        answer.await.map_err(|_| overloaded())?
    }

    /// Jobs that wait now.
    pub fn waiting(&self) -> usize {
        QUEUE.saturating_sub(self.sender.capacity())
    }
}

fn overloaded() -> Refusal {
    Refusal::new(Code::Overloaded, "the keeper is overloaded or stopping, and nothing was stored: try again shortly")
}

/// Commits jobs until `stop`, and then what still comes within a second: the API and the dispatcher stop first.
///
/// # Errors
/// None of its own: a failed commit is the callers' answer.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut receiver = ctx.ingest.receiver.lock().await;
    loop {
        ctx.life.beat("ingest");
        let first = tokio::select! {
            biased;
            message = receiver.recv() => message,
            () = stop.cancelled() => break,
            () = tokio::time::sleep(IDLE) => continue,
        };
        let Some(first) = first else { return Ok(()) };
        commit_group(&ctx, group(first, &mut receiver)).await;
    }
    while let Ok(Some(first)) = tokio::time::timeout(Duration::from_secs(1), receiver.recv()).await {
        commit_group(&ctx, group(first, &mut receiver)).await;
    }
    receiver.close();
    while let Some(first) = receiver.recv().await {
        commit_group(&ctx, group(first, &mut receiver)).await;
    }
    Ok(())
}

fn group(first: Message, receiver: &mut mpsc::Receiver<Message>) -> Vec<Message> {
    let mut group = vec![first];
    while group.len() < GROUP
        && let Ok(message) = receiver.try_recv()
    {
        group.push(message);
    }
    group
}

async fn commit_group(ctx: &Ctx, group: Vec<Message>) {
    let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().unzip();
    let mut committed = commit(ctx, &jobs).await;
    for _ in 0..CONFLICTS {
        match &committed {
            // Another keeper on the same database wrote the same rows in another order.
            Err(error) if error.is_conflict() => {
                tracing::debug!(%error, "commit tried again");
                committed = commit(ctx, &jobs).await;
            }
            _ => break,
        }
    }
    match committed {
        Ok(results) => {
            let stored = |wanted: fn(&Job) -> bool| jobs.iter().zip(&results).any(|(job, r)| wanted(job) && r.is_ok());
            if stored(|job| matches!(job, Job::Order(_))) {
                crash::point("after_order_commit");
                ctx.signals.orders.notify_one();
            }
            if stored(|job| !matches!(job, Job::Order(_))) {
                crash::point("after_completion_commit");
                ctx.signals.completions.notify_waiters();
            }
            for (reply, result) in replies.into_iter().zip(results) {
                // A caller that went away finds its answer when it asks again.
                drop(reply.send(result));
            }
        }
        Err(error) => {
            tracing::error!(code = error.code(), %error, jobs = jobs.len(), "commit failed");
            for reply in replies {
                let text = "the database failed and nothing was stored: try again";
                drop(reply.send(Err(Refusal::new(Code::Internal, text))));
            }
        }
    }
}

/// One transaction. A refusal concerns its own job, any other error everybody's.
async fn commit(ctx: &Ctx, jobs: &[Job]) -> Result<Vec<Result<Done, Refusal>>> {
    let _lag = ctx.admission.pressure.committing();
    // Read before the transaction: on SQLite the reader is another connection.
    let orders = jobs.iter().any(|job| matches!(job, Job::Order(_)));
    let chain_now = if orders { chain_now(ctx).await? } else { 0 };
    let mut tx = ctx.store.write().await?;
    let simple = simple(jobs);
    let pairs: Vec<Pair<'_>> = simple.values().copied().collect();
    let matched = intake::match_all(&mut tx, &pairs, ctx.clock.now_ms()).await?;
    if !matched {
        // One of them is known, answered or closed by now; which, they tell one by one.
        tx.rollback().await?;
        tx = ctx.store.write().await?;
    }
    let proofs: Vec<&NewHandedIn> =
        jobs.iter().filter_map(|job| if let Job::HandedIn(new) = job { Some(new.as_ref()) } else { None }).collect();
    let mut taken = handed_in::take_all(&mut tx, &proofs, ctx.clock.now_ms()).await?.into_iter();
    let mut results = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.iter().enumerate() {
        let done = match job {
            Job::HandedIn(_) => taken.next().map(Done::HandedIn).ok_or_else(lost),
            Job::Completion(_) if matched && simple.contains_key(&index) => Ok(Done::Matched(Matched::New)),
            Job::Order(new) => admit(ctx, &mut tx, new, chain_now).await,
            Job::Completion(new) => record(ctx, &mut tx, new).await,
        };
        results.push(match done {
            Ok(done) => Ok(done),
            Err(Error::Refused(refusal)) => Err(refusal),
            Err(error) => return Err(error),
        });
    }
    if jobs.iter().any(|job| matches!(job, Job::Order(_))) {
        crash::point("before_order_commit");
    }
    tx.commit().await?;
    Ok(results)
}

fn lost() -> Error {
    Error::Corrupt { table: "handed_in", what: "fewer results than proofs".to_owned() }
}

/// The completions that answer an open order, by their place among the jobs: the first of each order and settlement id.
fn simple(jobs: &[Job]) -> BTreeMap<usize, Pair<'_>> {
    let (mut orders, mut settlements) = (HashSet::new(), HashSet::new());
    let all = jobs.iter().enumerate().filter_map(|(index, job)| match job {
        Job::Completion(new) => Some((index, new.pair()?)),
        Job::Order(_) | Job::HandedIn(_) => None,
    });
    all.filter(|(_, pair)| {
        // Both sets must see every pair.
        let (order, settlement) =
            (orders.insert(pair.order.order_id), settlements.insert(pair.completion.settlement_id));
        order && settlement
    })
    .collect()
}

/// Later of wall clock and Base's head, unix seconds: what deadlines and locks are measured against.
///
/// # Errors
/// `store_failed`.
pub async fn chain_now(ctx: &Ctx) -> Result<u64> {
    let head = batches::head(&ctx.store, ctx.config.base.chain_id).await?;
    let chain = head.and_then(|head| u64::try_from(head.timestamp).ok()).unwrap_or(0);
    Ok(chain.max(ctx.clock.now()))
}

/// Takes an order: reservation and row in one transaction. Every refusal comes before anything is written of it.
async fn admit(ctx: &Ctx, tx: &mut WriteTx, new: &NewOrder, chain_now: u64) -> Result<Done> {
    let now_ms = ctx.clock.now_ms();
    let signed = Signed {
        order_id: new.order_id,
        order: &new.order,
        signature: new.signature.as_deref(),
        blinding: new.blinding,
        request_hash: new.request_hash,
        request: &new.request,
    };
    let order = &new.order;
    let lane = (order.payer, order.token, order.keeperId);
    // Two keepers may have two orders with one nonce at the same moment, or one order twice: the second waits here and then sees the first.
    accounts::lock_lane(tx, lane.0, lane.1, lane.2).await?;
    if orders::get(&mut **tx, new.order_id).await?.is_some() {
        let attached = orders::attach_request(tx, &signed, &ctx.installation, (new.dispatch_from_ms, now_ms)).await?;
        return Ok(if attached { Done::Admitted } else { Done::Known });
    }
    let spent = accounts::nonce_spent(&mut **tx, order.payer, order.token, order.keeperId, order.nonce).await?;
    let holder = orders::nonce_holder(&mut **tx, new.order_id, order).await?;
    if spent || holder.is_some() {
        let text =
            "the nonce is spent or used by another live order of this payer, token and keeper: sign with a new one";
        let holder = holder.map(|id| id.to_string());
        return Err(Refusal::mismatch(Code::NonceSpent, text, order.nonce.to_string(), holder).into());
    }
    let until = chain_now.saturating_add(settlement_horizon(&ctx.config));
    let cover = cover(tx, &ctx.config, order).await?;
    let limit = cover.limit(until, ctx.lock_tail);
    let amount = order.maxAmount;
    if !accounts::reserve_locked(tx, new.order_id, lane, amount, limit).await? {
        let text = "the order is secured neither by a hold nor by a lock for this keeper that lasts long enough, nor by \
                    credit: lock or open it on-chain, wait until the keeper has seen that, and hand it in again";
        let left = limit.saturating_sub(cover.lane.reserved);
        return Err(Refusal::mismatch(Code::InsufficientBalance, text, left.to_string(), amount.to_string()).into());
    }
    orders::insert_signed(tx, &signed, &ctx.installation, amount, (new.dispatch_from_ms, now_ms)).await?;
    Ok(Done::Admitted)
}

/// What secures unheld orders of this order's lane.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn cover(db: &mut AnyConnection, config: &Config, order: &Order) -> Result<Cover> {
    // A payer has two lanes with us: orders that name us, and orders that name nobody.
    let other = if order.keeperId == B256::ZERO { config.keeper.id } else { B256::ZERO };
    Ok(Cover {
        lane: accounts::lane(&mut *db, order.payer, order.token, order.keeperId).await?,
        other: accounts::lane(&mut *db, order.payer, order.token, other).await?,
        free: accounts::account(&mut *db, order.payer, order.token).await?.free,
        credit: credit(config, order.token),
    })
}

async fn record(ctx: &Ctx, tx: &mut WriteTx, new: &NewCompletion) -> Result<Done> {
    let now_ms = ctx.clock.now_ms();
    let Some((order_id, metered)) = &new.matching else {
        completions::insert_verified(tx, &new.completion, None, now_ms).await?;
        return Ok(Done::Waiting);
    };
    let Some(order) = orders::get(&mut **tx, *order_id).await? else {
        completions::insert_verified(tx, &new.completion, Some(metered), now_ms).await?;
        return Ok(Done::Waiting);
    };
    let matched = completions::insert_matched(tx, &new.completion, metered, *order_id, now_ms).await?;
    if matches!(matched, Matched::Answered { .. } | Matched::Closed { .. }) {
        let private = order.blinding.is_none_or(|blinding| blinding != B256::ZERO);
        completions::insert_orphan(tx, &new.completion, private, now_ms).await?;
    }
    Ok(Done::Matched(matched))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};

    use super::*;
    use crate::store::orders::tests::order;
    use crate::store::receipts::fixtures::store;

    fn job(n: u8, nonce: u64) -> Job {
        Job::Order(Box::new(NewOrder {
            order_id: B256::repeat_byte(n),
            order: Order { nonce: U256::from(nonce), maxAmount: 10, ..order(nonce) },
            signature: None,
            blinding: B256::ZERO,
            request_hash: B256::repeat_byte(n),
            request: b"{}".to_vec(),
            dispatch_from_ms: 0,
        }))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_two_keepers_with_two_orders_of_one_nonce_one_takes_its_order() {
        let (_dir, store) = store().await.unwrap();
        let mut config: Config = toml::from_str(include_str!("../quittance.example.toml")).unwrap();
        let token: Address = order(1).token;
        config.dispatch.credit.insert(token, "1000".to_owned());
        config.keeper.id = order(1).keeperId;
        let mut tx = store.write().await.unwrap();
        sqlx::query("INSERT INTO accounts (owner, token, free, held) VALUES ($1, $2, '1000', '0')")
            .bind(order(1).payer.to_vec())
            .bind(token.to_vec())
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let [first, second] = [(); 2].map(|()| Ctx::new(config.clone(), store.clone()).unwrap());

        // The first has checked its order and not committed it yet when the second one comes.
        let mut tx = first.store.write().await.unwrap();
        let Job::Order(new) = job(1, 7) else { unreachable!() };
        let now = chain_now(&first).await.unwrap();
        assert_eq!(admit(&first, &mut tx, &new, now).await.unwrap(), Done::Admitted);
        let other = tokio::spawn(async move {
            let jobs = [job(2, 7), job(3, 8)];
            (commit(&second, &jobs).await.unwrap(), second)
        });
        // The more of it the second one does before the commit, the more it would miss.
        tokio::time::sleep(Duration::from_millis(300)).await;
        tx.commit().await.unwrap();
        let (results, second) = other.await.unwrap();
        assert_eq!(results[0].as_ref().unwrap_err().code, Code::NonceSpent);
        assert_eq!(*results[1].as_ref().unwrap(), Done::Admitted, "another nonce");

        // The same order at both is one order.
        let (a, b) = ([job(4, 9)], [job(4, 9)]);
        let (a, b) = tokio::join!(commit(&first, &a), commit(&second, &b));
        let mut done = [a.unwrap().remove(0).unwrap(), b.unwrap().remove(0).unwrap()];
        done.sort_by_key(|done| *done == Done::Known);
        assert_eq!(done, [Done::Admitted, Done::Known]);
        let order = order(9);
        let lane = accounts::lane(first.store.read(), order.payer, order.token, order.keeperId).await.unwrap();
        assert_eq!(lane.reserved, 30, "three orders of 10, each reserved once");
    }
}
