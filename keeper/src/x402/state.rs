//! What the facilitator keeps in memory: its networks with their keys, and who waits for which payment.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use tokio::sync::Notify;

use super::channels::Remembered;
use crate::chain::rpc::Rpc;
use crate::config::{Config, KeySource, x402};
use crate::crypto::load_signer;
use crate::error::{Error, Result};
use crate::tx::classify::Failure;

/// The facilitator of a keeper; without networks it supports nothing.
#[derive(Debug, Default)]
pub struct Facilitator {
    pub networks: Vec<Network>,
    pub waiting: Waiting,
    pub verified: Verified,
}

/// A chain on which payments are settled.
#[derive(Debug)]
pub struct Network {
    pub config: x402::Network,
    pub rpc: Rpc,
    pub lanes: Vec<Lane>,
    /// Signs claims and refunds for servers that name it.
    pub authorizer: Option<PrivateKeySigner>,
    /// Name of the loop that settles, for signs of life.
    pub beat: &'static str,
    /// Wakes it.
    pub wake: Notify,
    /// Name of the loop beside it, for signs of life.
    pub aside_beat: &'static str,
    /// Wakes that.
    pub aside: Notify,
    /// Events of this chain are followed: its finality is known from them.
    pub followed: bool,
    /// Payment channels that were read a moment ago.
    pub channels: Remembered,
    deployed: Mutex<HashSet<Address>>,
    /// Wei per gas, and when that was.
    price: Mutex<Option<(Instant, u128)>>,
}

/// One key of a network.
#[derive(Debug)]
pub struct Lane {
    pub address: Address,
    pub key: KeySource,
    /// What it is called in the database.
    pub name: String,
    /// Name of the loop that sends for it, for signs of life.
    pub beat: &'static str,
    /// Wakes it.
    pub txs: Notify,
}

impl Facilitator {
    /// Loads the keys that the configuration names. Decrypting a keystore takes about a second each.
    ///
    /// # Errors
    /// `bad_configuration` naming the variable, file or rule.
    pub fn load(config: &Config) -> Result<Self> {
        let own = if config.x402.networks.is_empty() { None } else { Some(load_signer(&config.base.key)?.address()) };
        let mut networks = Vec::with_capacity(config.x402.networks.len());
        for network in &config.x402.networks {
            let id = network.chain_id;
            let base = id == config.base.chain_id;
            let urls = if network.rpc.is_empty() && base { &config.base.rpc } else { &network.rpc };
            let mut lanes = Vec::with_capacity(network.keys.len());
            for (index, key) in network.keys.iter().enumerate() {
                let address = load_signer(key)?.address();
                if lanes.iter().any(|lane: &Lane| lane.address == address) || (base && own == Some(address)) {
                    let text = format!("x402.networks, chain {id}: {address} has another task here: one key, one task");
                    return Err(Error::Config(text));
                }
                lanes.push(Lane {
                    address,
                    key: key.clone(),
                    name: format!("{address:#x}"),
                    beat: kept(format!("txs_x402_{id}_{index}")),
                    txs: Notify::new(),
                });
            }
            networks.push(Network {
                rpc: Rpc::new(id, urls)?,
                lanes,
                authorizer: network.receiver_authorizer.as_ref().map(load_signer).transpose()?,
                beat: kept(format!("x402_{id}")),
                wake: Notify::new(),
                aside_beat: kept(format!("x402_aside_{id}")),
                aside: Notify::new(),
                followed: base,
                channels: Remembered::default(),
                deployed: Mutex::default(),
                price: Mutex::default(),
                config: network.clone(),
            });
        }
        Ok(Self { networks, ..Self::default() })
    }

    /// The network of a chain.
    pub fn network(&self, chain_id: u64) -> Option<&Network> {
        self.networks.iter().find(|network| network.config.chain_id == chain_id)
    }
}

/// Names of loops live as long as the program; there are a handful.
fn kept(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

impl Network {
    /// What a unit of gas costs, wei; a few seconds old at most.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn gas_price(&self) -> Result<u128, Failure> {
        const FRESH: Duration = Duration::from_secs(10);
        let known = *self.price.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, price)) = known.filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(price);
        }
        let price = self.rpc.gas_price().await?;
        *self.price.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), price));
        Ok(price)
    }

    /// Whether a contract was seen here. Contracts do not go away, so it is asked for once.
    pub fn is_deployed(&self, contract: Address) -> bool {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).contains(&contract)
    }

    /// A contract was seen.
    pub fn deployed(&self, contract: Address) {
        /// Strangers name tokens too: they must not fill the memory.
        const MOST: usize = 10_000;
        let mut known = self.deployed.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST {
            known.insert(contract);
        }
    }
}

/// Payments that were good when they were verified, unspent that is. If one of them is spent when it is to be settled, this is
/// news: one that was spent before it was ever shown here may be an old one that somebody shows again.
#[derive(Debug, Default)]
pub struct Verified(Mutex<Generations>);

/// Two, so that the older one can be forgotten as a whole.
#[derive(Debug, Default)]
struct Generations {
    began_ms: i64,
    young: HashMap<B256, i64>,
    old: HashMap<B256, i64>,
}

impl Verified {
    /// Payments of a generation, and how long it takes some, milliseconds: an offer's usual time and more.
    const MOST: usize = 50_000;
    const GENERATION_MS: i64 = 600_000;

    /// A payment was good at a time, unix milliseconds.
    pub fn note(&self, payment_id: B256, now_ms: i64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.young.len() >= Self::MOST || now_ms.saturating_sub(all.began_ms) > Self::GENERATION_MS {
            all.old = std::mem::take(&mut all.young);
            all.began_ms = now_ms;
        }
        all.young.entry(payment_id).or_insert(now_ms);
    }

    /// When a payment was good, unix milliseconds.
    pub fn at(&self, payment_id: B256) -> Option<i64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.old.get(&payment_id).or_else(|| all.young.get(&payment_id)).copied()
    }
}

/// Callers that wait for payments. Hints only: they look for themselves too.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<HashMap<B256, (usize, Arc<Notify>)>>);

impl Waiting {
    /// Waits for news of a payment until the value is dropped.
    pub fn wait(&self, payment_id: B256) -> Waiter<'_> {
        let mut all = self.lock();
        let (waiters, notify) = all.entry(payment_id).or_default();
        *waiters += 1;
        Waiter { waiting: self, payment_id, notify: notify.clone() }
    }

    /// There is news.
    pub fn tell(&self, payment_id: B256) {
        if let Some((_, notify)) = self.lock().get(&payment_id) {
            notify.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<B256, (usize, Arc<Notify>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller that waits.
#[derive(Debug)]
pub struct Waiter<'a> {
    waiting: &'a Waiting,
    payment_id: B256,
    notify: Arc<Notify>,
}

impl Waiter<'_> {
    /// The next news after this call.
    pub fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut all = self.waiting.lock();
        if let Some((waiters, _)) = all.get_mut(&self.payment_id) {
            *waiters -= 1;
            if *waiters == 0 {
                all.remove(&self.payment_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_verified_is_remembered_for_a_while() {
        let verified = Verified::default();
        let (a, b) = (B256::repeat_byte(1), B256::repeat_byte(2));
        verified.note(a, 1_000_000);
        verified.note(a, 1_000_500);
        assert_eq!((verified.at(a), verified.at(b)), (Some(1_000_000), None));
        verified.note(b, 1_700_000);
        assert_eq!((verified.at(a), verified.at(b)), (Some(1_000_000), Some(1_700_000)));
        verified.note(b, 2_400_000);
        assert_eq!((verified.at(a), verified.at(b)), (None, Some(1_700_000)));
    }

    #[tokio::test]
    async fn news_reach_all_that_wait_and_nothing_stays() {
        let waiting = Waiting::default();
        let id = B256::repeat_byte(1);
        let (a, b) = (waiting.wait(id), waiting.wait(id));
        let (mut first, mut second) = (Box::pin(a.news()), Box::pin(b.news()));
        first.as_mut().enable();
        second.as_mut().enable();
        waiting.tell(B256::repeat_byte(2));
        waiting.tell(id);
        tokio::time::timeout(std::time::Duration::from_secs(60), async {
            first.await;
            second.await;
        })
        .await
        .unwrap();
        drop((a, b));
        assert!(waiting.lock().is_empty());
    }
}
