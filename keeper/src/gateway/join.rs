//! Finds out who paid for proofs that name no payment, and says how sure that is. A proof is looked at a few times, until the
//! time in which its payment may be settled is over; what nobody paid for then is listed by `quittance reconcile`.

use std::time::Duration;

use alloy::primitives::Address;
use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, SharedCtx};
use crate::error::Result;
use crate::store::handed_in::{self, Joined, Look, Waiting};
use crate::store::joins::{self, Fitting};
use crate::store::leases::{Lease, unless_lost};

/// Milliseconds between ticks.
const TICK_MS: u64 = 1_000;
/// Proofs of one tick.
const LIMIT: i64 = 500;
/// Milliseconds after a proof came at which it is looked at; once more when its time is over.
pub const LOOKS_MS: [i64; 3] = [3_000, 20_000, 120_000];

/// Runs until `stop`.
///
/// # Errors
/// `store_failed`, `store_corrupt`: the tick can be run again.
pub async fn run(ctx: SharedCtx, stop: CancellationToken) -> Result<()> {
    let mut role = Lease::new("join", &ctx.installation);
    while !stop.is_cancelled() {
        ctx.life.beat("join");
        let mut full = false;
        if role.hold(&ctx.store, ctx.clock.elapsed_ms()).await? {
            let mut looked = 0;
            unless_lost(
                async {
                    looked = tick(&ctx, &role).await?;
                    Ok(())
                }
                .await,
            )?;
            full = looked >= LIMIT;
        }
        if full {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(TICK_MS)) => {}
        }
    }
    role.release(&ctx.store).await
}

/// Looks at every proof whose time has come; gives how many.
///
/// # Errors
/// `store_failed`, `store_corrupt`.
pub async fn tick(ctx: &Ctx, role: &Lease) -> Result<i64> {
    let now_ms = ctx.clock.now_ms();
    let waiting = handed_in::waiting(&ctx.store, now_ms, LIMIT).await?;
    let count = i64::try_from(waiting.len()).unwrap_or(i64::MAX);
    // One after the other: a payment that was given to one is not there for the next.
    for proof in waiting {
        let (look, payment) = look(ctx, &proof, now_ms).await?;
        let mut tx = role.write(&ctx.store).await?;
        if let (Some(payment), Some(how)) = (payment, look.joined)
            && !joins::join(&mut tx, &payment, look.settlement_id, how.as_str()).await?
        {
            // A reorganisation took it back a moment ago: it is looked at again.
            tx.rollback().await?;
            continue;
        }
        handed_in::note(&mut tx, &look).await?;
        tx.commit().await?;
        if let Some(joined) = look.joined.filter(|joined| Some(*joined) != proof.joined) {
            metrics::counter!("quittance_proofs_joined_total", "how" => joined.as_str()).increment(1);
            tracing::info!(target: "trail", step = "joined", settlement = %look.settlement_id, how = joined.as_str(),
                order = look.order_id.map(tracing::field::display), payment = look.payment_id.map(tracing::field::display));
        } else if look.next_ms.is_none() && proof.joined.is_none() {
            metrics::counter!("quittance_proofs_unpaid_total").increment(1);
        }
    }
    Ok(count)
}

async fn look(ctx: &Ctx, proof: &Waiting, now_ms: i64) -> Result<(Look, Option<Fitting>)> {
    let gateway = &ctx.config.gateway;
    let [before_ms, after_ms] = [gateway.window_before, gateway.window_after].map(|seconds| i64::from(seconds) * 1_000);
    let mut look = Look {
        settlement_id: proof.settlement_id,
        joined: None,
        order_id: None,
        payment_id: None,
        candidates: 0,
        next_ms: next(proof, now_ms, after_ms),
    };
    if let Some(order_id) = proof.charged {
        return Ok((Look { joined: Some(Joined::Order), order_id: Some(order_id), next_ms: None, ..look }, None));
    }
    if proof.joined.is_some() {
        return Ok((look, None));
    }
    let span = (proof.created_ms.saturating_sub(before_ms), proof.created_ms.saturating_add(after_ms));
    let accounts = accounts(ctx, proof);
    let (how, found) = match proof.payer {
        Some(payer) => {
            let all = joins::of_payer(&ctx.store, payer, span).await?;
            let here: Vec<Fitting> = all.iter().filter(|one| accounts.contains(&one.receiver)).cloned().collect();
            // A gateway may be paid at an account that no registry names.
            (Joined::Payer, if here.is_empty() { all } else { here })
        }
        None => {
            let mut all = Vec::new();
            for account in accounts {
                all.extend(joins::of_receiver(&ctx.store, account, span).await?);
            }
            (Joined::Window, all)
        }
    };
    look.candidates = i64::try_from(found.len()).unwrap_or(i64::MAX);
    let [one] = found.as_slice() else { return Ok((look, None)) };
    look.joined = Some(how);
    look.payment_id = Some(one.payment_id);
    look.next_ms = None;
    Ok((look, Some(one.clone())))
}

/// Accounts that the registries name for payments to a node.
fn accounts(ctx: &Ctx, proof: &Waiting) -> Vec<Address> {
    let mut accounts = Vec::new();
    if let Some(tee) = ctx.tees.get(proof.node_id) {
        accounts.push(tee.payment_address);
    }
    if let Some(node) = ctx.registry.node(proof.node_id) {
        accounts.push(node.payout);
    }
    accounts.retain(|account| *account != Address::ZERO);
    accounts.dedup();
    accounts
}

/// When to look again, unix milliseconds.
fn next(proof: &Waiting, now_ms: i64, after_ms: i64) -> Option<i64> {
    let end = proof.created_ms.saturating_add(after_ms).saturating_add(10_000);
    let done = usize::try_from(proof.looks).unwrap_or(usize::MAX);
    let at = LOOKS_MS.get(done.saturating_add(1)).map_or(end, |ms| proof.created_ms.saturating_add(*ms).min(end));
    (now_ms < end).then_some(at.max(now_ms.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;
    use crate::config::Config;
    use crate::crypto::RsaKey;
    use crate::gateway::item::Kind;
    use crate::gateway::tees;
    use crate::store::completions::Completion;
    use crate::store::handed_in::{NewHandedIn, Taken, find, take_all};
    use crate::store::leases::testing::held;
    use crate::store::payments::fixtures::payment;
    use crate::store::payments::{NewPayment, Settled};
    use crate::store::tees::{TeeRow, put};
    use crate::types::CompletionState;

    const PAYER: Address = Address::repeat_byte(1);
    const RECEIVER: Address = Address::repeat_byte(2);

    struct Bed {
        ctx: Ctx,
        node: B256,
        _dir: tempfile::TempDir,
    }

    impl Bed {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = crate::store::testing::open(&dir).await;
            let config: Config = toml::from_str(include_str!("../../quittance.example.toml")).unwrap();
            let ctx = Ctx::new(config, store).unwrap();
            let rsa = RsaKey::generate().unwrap();
            let (id, public_key) = (rsa.id(), rsa.spki().to_vec());
            let mut tx = ctx.store.write().await.unwrap();
            put(&mut tx, &TeeRow { id, public_key, payment_address: RECEIVER, enabled: true }, 1).await.unwrap();
            tx.commit().await.unwrap();
            tees::load(&ctx).await.unwrap();
            Self { ctx, node: id, _dir: dir }
        }

        async fn proof(&self, seed: u8, payer: Option<Address>) {
            let completion = Completion {
                settlement_id: B256::repeat_byte(seed),
                order_id: None,
                node_id: self.node,
                node_version: 0,
                request_hash: B256::repeat_byte(seed),
                output_hash: B256::repeat_byte(8),
                timestamp: 1_000,
                signature: vec![1; 256],
                output: None,
                response: None,
                usage: None,
            };
            let now_ms = self.ctx.clock.now_ms();
            let new = NewHandedIn { completion, kind: Kind::Batch, payer, api_key: None, next_ms: now_ms };
            let mut tx = self.ctx.store.write().await.unwrap();
            take_all(&mut tx, &[&new], now_ms).await.unwrap();
            tx.commit().await.unwrap();
        }

        async fn pays(&self, seed: u8, payer: Address, receiver: Address, usage: Option<&str>) {
            let new = NewPayment { payer: Some(payer), receiver, ..payment(seed) };
            let now_ms = self.ctx.clock.now_ms();
            let mut tx = self.ctx.store.write().await.unwrap();
            assert!(crate::store::payments::insert(&mut tx, &new, now_ms).await.unwrap().is_none());
            let settled = Settled { amount: new.amount, extra: None, evidence: None };
            assert!(crate::store::payments::settle(&mut tx, new.payment_id, &settled, now_ms).await.unwrap());
            sqlx::query("UPDATE payments SET usage = $1 WHERE payment_id = $2")
                .bind(usage.map(str::to_owned))
                .bind(new.payment_id.to_vec())
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }

        async fn look(&self) -> i64 {
            tick(&self.ctx, &held(&self.ctx.store).await).await.unwrap()
        }

        async fn found(&self, seed: u8) -> Taken {
            find(&self.ctx.store, B256::repeat_byte(seed)).await.unwrap().unwrap()
        }

        async fn joined(&self, seed: u8) -> Option<(&'static str, u8)> {
            let found = self.found(seed).await;
            found.joined.map(|how| (how.as_str(), found.payment_id.unwrap_or_default().0[0]))
        }
    }

    #[tokio::test]
    async fn the_payer_whom_the_gateway_names_and_else_the_one_payment_to_the_node() {
        let bed = Bed::new().await;
        bed.pays(1, PAYER, Address::repeat_byte(9), None).await;
        bed.pays(2, PAYER, RECEIVER, None).await;
        bed.pays(3, Address::repeat_byte(7), RECEIVER, None).await;
        bed.proof(11, Some(PAYER)).await;
        bed.look().await;
        assert_eq!(bed.joined(11).await, Some(("payer", 2)), "of two payments the one to the node");
        assert_eq!(bed.found(11).await.state, CompletionState::Direct);
        bed.proof(12, None).await;
        bed.look().await;
        assert_eq!(bed.joined(12).await, Some(("window", 3)), "the other is taken");
        bed.proof(13, None).await;
        bed.look().await;
        assert_eq!(bed.joined(13).await, None, "each payment once");
        bed.proof(14, Some(Address::repeat_byte(7))).await;
        bed.look().await;
        assert_eq!(bed.joined(14).await, None);
    }

    #[tokio::test]
    async fn of_two_that_fit_neither_is_taken() {
        let bed = Bed::new().await;
        bed.pays(1, PAYER, RECEIVER, None).await;
        bed.pays(2, PAYER, RECEIVER, None).await;
        bed.proof(11, None).await;
        bed.proof(12, Some(PAYER)).await;
        bed.look().await;
        assert_eq!((bed.joined(11).await, bed.joined(12).await), (None, None));
        let told = handed_in::payments_of(&bed.ctx.store, &[B256::repeat_byte(11)]).await.unwrap();
        assert_eq!(told[&B256::repeat_byte(11)], (None, 2));
    }

    #[tokio::test]
    async fn a_session_pays_for_as_many_as_it_had() {
        let bed = Bed::new().await;
        for seed in 11..=14 {
            bed.proof(seed, None).await;
        }
        // The session ends after its answers.
        bed.ctx.clock.shift(100_000);
        bed.pays(1, PAYER, RECEIVER, Some(r#"{"requestCount":3}"#)).await;
        bed.look().await;
        let joined: Vec<_> = [bed.joined(11).await, bed.joined(12).await, bed.joined(13).await].into();
        assert_eq!(joined, [Some(("window", 1)); 3]);
        assert_eq!(bed.joined(14).await, None, "it had three");
    }

    #[tokio::test]
    async fn looks_end_with_the_window() {
        let bed = Bed::new().await;
        bed.proof(11, None).await;
        let mut looks = 0;
        while bed.ctx.clock.now_ms() < i64::MAX && looks < 20 {
            looks += bed.look().await;
            let waiting: Option<i64> =
                sqlx::query_scalar("SELECT next_ms FROM handed_in").fetch_one(bed.ctx.store.read()).await.unwrap();
            let Some(next_ms) = waiting else { break };
            bed.ctx.clock.shift(next_ms - bed.ctx.clock.now_ms());
        }
        assert_eq!(looks, 4, "three looks, and one when the window is over");
        bed.pays(1, PAYER, RECEIVER, None).await;
        assert_eq!(bed.look().await, 0);
        assert_eq!(bed.joined(11).await, None);
    }

    #[tokio::test]
    async fn payments_out_of_time_or_for_channels_do_not_fit() {
        let bed = Bed::new().await;
        bed.pays(1, PAYER, RECEIVER, None).await;
        bed.ctx.clock.shift(400_000);
        bed.proof(11, Some(PAYER)).await;
        bed.look().await;
        assert_eq!(bed.joined(11).await, None, "settled more than five minutes before");
    }
}
