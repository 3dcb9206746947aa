//! One chain's RPC over several endpoints: asked in order, skipped while they fail, each request with a time limit.
//!
//! No nonce, gas or fee filler: the transaction manager decides all three.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alloy::consensus::Transaction;
use alloy::eips::BlockNumberOrTag;
use alloy::eips::eip1898::BlockId;
use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::types::{FeeHistory, Filter, Log, TransactionReceipt, TransactionRequest};
use alloy::transports::TransportResult;
use futures_util::future::join_all;

use crate::error::{Error, Result};
use crate::tx::classify::{Class, Failure, class_of};

/// An endpoint that failed this often in a row is skipped …
const SICK_AFTER: u32 = 3;
/// … except that every so many requests one probes it.
const PROBE_EVERY: u32 = 10;

/// Blocks below the lowest head at which endpoints are compared: at the head itself they may differ for a moment.
const SURVEY_BELOW: u64 = 3;

/// What follows a failed answer. Deterministic answers hold everywhere; the others are asked of the next endpoint, and
/// after a pause once more of all.
struct Retry {
    rounds: u32,
    pause: Duration,
}

const fn retry(class: &Class) -> Retry {
    match class {
        Class::RateLimited => Retry { rounds: 3, pause: Duration::from_millis(500) },
        Class::Unknown => Retry { rounds: 2, pause: Duration::from_millis(150) },
        _ => Retry { rounds: 1, pause: Duration::ZERO },
    }
}

/// Identity of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub number: u64,
    pub hash: B256,
    pub parent: B256,
    /// Unix seconds.
    pub timestamp: u64,
}

/// Where the endpoints of a chain stand.
#[derive(Clone, Debug)]
pub struct Survey {
    pub endpoints: Vec<Surveyed>,
    /// Those that name another block than most at the same height.
    pub odd: Vec<String>,
}

/// Where one endpoint stands.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Host only.
    pub name: String,
    /// Its latest block; `None` while it does not answer.
    pub latest: Option<u64>,
}

struct Endpoint {
    /// Host only: paths and query strings carry API keys.
    name: String,
    provider: DynProvider,
    failures: AtomicU32,
    skipped: AtomicU32,
}

/// RPC of one chain.
pub struct Rpc {
    chain_id: u64,
    endpoints: Vec<Endpoint>,
    timeout: Duration,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
        f.debug_struct("Rpc").field("chain_id", &self.chain_id).field("endpoints", &names).finish_non_exhaustive()
    }
}

impl Rpc {
    /// Prepares the endpoints; connects to none.
    ///
    /// # Errors
    /// `bad_configuration` for a text that is no HTTP URL, or for none at all.
    pub fn new(chain_id: u64, urls: &[String]) -> Result<Self> {
        let mut endpoints = Vec::with_capacity(urls.len());
        for url in urls {
            let parsed: reqwest::Url = url
                .parse()
                .ok()
                .filter(|url: &reqwest::Url| matches!(url.scheme(), "http" | "https"))
                .ok_or_else(|| Error::Config(format!("rpc of chain {chain_id}: {url:?} is no http(s) URL")))?;
            let port = parsed.port().map_or_else(String::new, |port| format!(":{port}"));
            endpoints.push(Endpoint {
                name: format!("{}{port}", parsed.host_str().unwrap_or("?")),
                provider: ProviderBuilder::new().disable_recommended_fillers().connect_http(parsed).erased(),
                failures: AtomicU32::new(0),
                skipped: AtomicU32::new(0),
            });
        }
        if endpoints.is_empty() {
            return Err(Error::Config(format!("rpc of chain {chain_id}: no URL")));
        }
        Ok(Self { chain_id, endpoints, timeout: Duration::from_secs(10) })
    }

    /// The chain that the endpoints should serve; `reported_chain_id` says what they do serve.
    pub const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Number of endpoints.
    pub const fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// The first healthy endpoint, for typed contract calls that may fail without harm.
    pub fn provider(&self) -> DynProvider {
        let healthy = self.endpoints.iter().find(|endpoint| endpoint.failures.load(Ordering::Relaxed) < SICK_AFTER);
        healthy.unwrap_or(&self.endpoints[0]).provider.clone()
    }

    /// Asks the endpoints in order until one answers or says what all would say.
    pub(super) async fn ask<T, F, Fut>(&self, what: &'static str, request: F) -> Result<T, Failure>
    where
        F: Fn(DynProvider) -> Fut,
        Fut: Future<Output = TransportResult<T>>,
    {
        let mut round = 0;
        loop {
            let mut last = None;
            for endpoint in &self.endpoints {
                if self.skips(endpoint) {
                    continue;
                }
                match self.ask_one(what, endpoint, &request).await {
                    Ok(value) => return Ok(value),
                    Err(failure) if failure.class.is_deterministic() => return Err(failure),
                    Err(failure) => last = Some(failure),
                }
            }
            round += 1;
            match last {
                Some(failure) => {
                    let policy = retry(&failure.class);
                    if round >= policy.rounds {
                        return Err(failure);
                    }
                    tokio::time::sleep(policy.pause).await;
                }
                // All were skipped: the next round probes them.
                None if round > PROBE_EVERY => return Err(self.failure(what, "no endpoint is healthy".to_owned())),
                None => {}
            }
        }
    }

    fn skips(&self, endpoint: &Endpoint) -> bool {
        endpoint.failures.load(Ordering::Relaxed) >= SICK_AFTER
            && self.endpoints.len() > 1
            && endpoint.skipped.fetch_add(1, Ordering::Relaxed) % PROBE_EVERY != PROBE_EVERY - 1
    }

    async fn ask_one<T, F, Fut>(&self, what: &'static str, endpoint: &Endpoint, request: &F) -> Result<T, Failure>
    where
        F: Fn(DynProvider) -> Fut,
        Fut: Future<Output = TransportResult<T>>,
    {
        let outcome = match tokio::time::timeout(self.timeout, request(endpoint.provider.clone())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure {
                chain_id: self.chain_id,
                what,
                class: class_of(&error),
                message: format!("{}: {}", endpoint.name, brief(&error.to_string())),
            }),
            Err(_) => Err(self.failure(what, format!("{}: no answer in {:?}", endpoint.name, self.timeout))),
        };
        match &outcome {
            Err(failure) if !failure.class.is_deterministic() => {
                endpoint.failures.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("quittance_rpc_failures_total", "endpoint" => endpoint.name.clone(), "class" => failure.class.as_str())
                    .increment(1);
                tracing::debug!(chain_id = self.chain_id, %failure, "rpc request failed");
            }
            _ => endpoint.failures.store(0, Ordering::Relaxed),
        }
        outcome
    }

    const fn failure(&self, what: &'static str, message: String) -> Failure {
        Failure { chain_id: self.chain_id, what, class: Class::Unknown, message }
    }

    /// Asks every endpoint where it stands, and those that answer for the same block a little below the lowest of them.
    pub async fn survey(&self) -> Survey {
        let latest = join_all(self.endpoints.iter().map(|endpoint| async move {
            let request = |p: DynProvider| async move { p.get_block_number().await };
            (endpoint, self.ask_one("eth_blockNumber", endpoint, &request).await.ok())
        }))
        .await;
        let lowest = latest.iter().filter_map(|(_, latest)| *latest).min();
        let mut odd = Vec::new();
        if let Some(number) = lowest.map(|lowest| lowest.saturating_sub(SURVEY_BELOW)).filter(|_| latest.len() > 1) {
            let blocks =
                join_all(latest.iter().filter(|(_, latest)| latest.is_some()).map(|(endpoint, _)| async move {
                    let request = |p: DynProvider| async move { p.get_block_by_number(number.into()).await };
                    let block = self.ask_one("eth_getBlockByNumber", endpoint, &request).await.ok().flatten()?;
                    Some((endpoint.name.clone(), block.header.hash))
                }));
            let blocks: Vec<_> = blocks.await.into_iter().flatten().collect();
            odd = crate::observe::odd_ones(&blocks);
        }
        let endpoints =
            latest.into_iter().map(|(endpoint, latest)| Surveyed { name: endpoint.name.clone(), latest }).collect();
        Survey { endpoints, odd }
    }

    /// Chain id that each endpoint reports, or why it reports none; for the preflight.
    pub async fn reported_chain_ids(&self) -> Vec<(String, Result<u64, Failure>)> {
        join_all(self.endpoints.iter().map(|endpoint| async move {
            let request = |p: DynProvider| async move { p.get_chain_id().await };
            (endpoint.name.clone(), self.ask_one("eth_chainId", endpoint, &request).await)
        }))
        .await
    }

    /// A block by tag or number; `None` when the endpoint does not have it.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn head(&self, block: BlockNumberOrTag) -> Result<Option<Head>, Failure> {
        let found = self.ask("eth_getBlockByNumber", |p| async move { p.get_block_by_number(block).await }).await?;
        Ok(found.map(|block| Head {
            number: block.header.number,
            hash: block.header.hash,
            parent: block.header.parent_hash,
            timestamp: block.header.timestamp,
        }))
    }

    /// Logs of these contracts in one block. An endpoint that does not know the block fails rather than answer none.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn logs_of_block(&self, contracts: &[Address], hash: B256) -> Result<Vec<Log>, Failure> {
        let filter = Filter::new().address(contracts.to_vec()).at_block_hash(hash);
        self.logs(filter).await
    }

    /// Logs of these contracts in a range of blocks, both ends included.
    ///
    /// # Errors
    /// `Failure`; class `RangeTooLarge` when the endpoint wants a smaller one.
    pub async fn logs_of_range(&self, contracts: &[Address], from: u64, to: u64) -> Result<Vec<Log>, Failure> {
        let filter = Filter::new().address(contracts.to_vec()).from_block(from).to_block(to);
        self.logs(filter).await
    }

    /// Logs that a filter fits.
    ///
    /// # Errors
    /// `Failure`; class `RangeTooLarge` when the endpoint wants a smaller range.
    pub async fn logs(&self, filter: Filter) -> Result<Vec<Log>, Failure> {
        self.ask("eth_getLogs", |p| {
            let filter = filter.clone();
            async move { p.get_logs(&filter).await }
        })
        .await
    }

    /// Result of a read-only call.
    ///
    /// # Errors
    /// `Failure`; class `Reverted` with the revert data.
    pub async fn call(&self, from: Address, to: Address, data: &Bytes, block: BlockId) -> Result<Bytes, Failure> {
        self.dry_run(TransactionRequest::default().with_from(from).with_to(to).with_input(data.clone()), block).await
    }

    /// Result of a transaction that is not sent.
    ///
    /// # Errors
    /// `Failure`; class `Reverted` with the revert data.
    pub async fn dry_run(&self, request: TransactionRequest, block: BlockId) -> Result<Bytes, Failure> {
        self.ask("eth_call", |p| {
            let request = request.clone();
            async move { p.call(request).block(block).await }
        })
        .await
    }

    /// Gas that a transaction would use on top of pending ones.
    ///
    /// # Errors
    /// `Failure`; class `Reverted` with the revert data.
    pub async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, Failure> {
        self.ask("eth_estimateGas", |p| {
            let request = request.clone();
            async move { p.estimate_gas(request).await }
        })
        .await
    }

    /// Nonce that follows the account's transactions up to `block`.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn nonce(&self, account: Address, block: BlockNumberOrTag) -> Result<u64, Failure> {
        self.ask(
            "eth_getTransactionCount",
            |p| async move { p.get_transaction_count(account).block_id(block.into()).await },
        )
        .await
    }

    /// Balance in wei at the latest block.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn balance(&self, account: Address) -> Result<U256, Failure> {
        self.ask("eth_getBalance", |p| async move { p.get_balance(account).await }).await
    }

    /// Code at the latest block.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn code(&self, account: Address) -> Result<Bytes, Failure> {
        self.ask("eth_getCode", |p| async move { p.get_code_at(account).await }).await
    }

    /// Base fees and tips of the last ten blocks at the given percentile of tips.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn fee_history(&self, percentile: f64) -> Result<FeeHistory, Failure> {
        self.ask(
            "eth_feeHistory",
            |p| async move { p.get_fee_history(10, BlockNumberOrTag::Latest, &[percentile]).await },
        )
        .await
    }

    /// Gas price in wei, for chains without fee history.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn gas_price(&self) -> Result<u128, Failure> {
        self.ask("eth_gasPrice", |p| async move { p.get_gas_price().await }).await
    }

    /// Input of a mined transaction and the account that it called.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn receipt(&self, hash: B256) -> Result<Option<TransactionReceipt>, Failure> {
        self.ask("eth_getTransactionReceipt", |p| async move { p.get_transaction_receipt(hash).await }).await
    }

    /// Input of a transaction and the account that it calls; `None` while the endpoint does not know it.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn input(&self, hash: B256) -> Result<Option<(Option<Address>, Bytes)>, Failure> {
        let found =
            self.ask("eth_getTransactionByHash", |p| async move { p.get_transaction_by_hash(hash).await }).await?;
        Ok(found.map(|tx| (tx.inner.inner().to(), tx.inner.inner().input().clone())))
    }

    /// Receipt from any endpoint; `None` only when every endpoint says that it has none.
    ///
    /// # Errors
    /// `Failure` when none has it and one did not answer.
    pub async fn receipt_anywhere(&self, hash: B256) -> Result<Option<TransactionReceipt>, Failure> {
        let answers = join_all(self.endpoints.iter().map(|endpoint| async move {
            let request = |p: DynProvider| async move { p.get_transaction_receipt(hash).await };
            self.ask_one("eth_getTransactionReceipt", endpoint, &request).await
        }));
        let mut failed = None;
        for answer in answers.await {
            match answer {
                Ok(Some(receipt)) => return Ok(Some(receipt)),
                Ok(None) => {}
                Err(failure) => failed = Some(failure),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Sends a signed transaction to every endpoint at the same time. Accepted by one, or known there, is success; otherwise
    /// the answer that says most. Whatever comes back: only the chain knows whether it was sent.
    ///
    /// # Errors
    /// `Failure` with the most telling class.
    pub async fn broadcast(&self, raw: &[u8]) -> Result<(), Failure> {
        let answers = join_all(self.endpoints.iter().map(|endpoint| async move {
            let request = |p: DynProvider| async move { p.send_raw_transaction(raw).await.map(|_| ()) };
            self.ask_one("eth_sendRawTransaction", endpoint, &request).await
        }));
        let mut worst: Option<Failure> = None;
        for answer in answers.await {
            match answer {
                Ok(()) => return Ok(()),
                Err(failure) if failure.class == Class::AlreadyKnown => return Ok(()),
                Err(failure) => {
                    if worst.as_ref().is_none_or(|worst| !worst.class.is_deterministic()) {
                        worst = Some(failure);
                    }
                }
            }
        }
        worst.map_or(Ok(()), Err)
    }
}

/// The first part of an error text: endpoints like to answer with whole web pages.
fn brief(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use axum::http::StatusCode;
    use axum::{Router, routing::post};

    use super::*;

    /// An endpoint that always answers the same, and how often it was asked.
    async fn endpoint(status: u16, body: &'static str) -> (String, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let answer = move || {
            count.fetch_add(1, Ordering::SeqCst);
            async move { (StatusCode::from_u16(status).unwrap(), body) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(answer))).await });
        (url, asked)
    }

    const SEVEN: &str = r#"{"jsonrpc":"2.0","id":0,"result":"0x7"}"#;
    const TOO_LOW: &str = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32603,"message":"nonce too low"}}"#;

    #[tokio::test]
    async fn fails_over_and_leaves_the_sick_alone() {
        let (bad, asked) = endpoint(502, "<html>bad gateway</html>").await;
        let (good, _) = endpoint(200, SEVEN).await;
        let rpc = Rpc::new(1, &[bad, good]).unwrap();
        for _ in 0..13 {
            assert_eq!(rpc.gas_price().await.unwrap(), 7);
        }
        // Three failures, then one probe in ten.
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn deterministic_answers_are_not_asked_again() {
        let (first, asked) = endpoint(200, TOO_LOW).await;
        let (second, elsewhere) = endpoint(200, SEVEN).await;
        let rpc = Rpc::new(1, &[first, second]).unwrap();
        for _ in 0..5 {
            let failure = rpc.gas_price().await.unwrap_err();
            assert_eq!(failure.class, Class::NonceTooLow);
        }
        assert_eq!((asked.load(Ordering::SeqCst), elsewhere.load(Ordering::SeqCst)), (5, 0));
    }

    #[tokio::test]
    async fn broadcast_goes_to_all_and_one_acceptance_is_enough() {
        let hash =
            r#"{"jsonrpc":"2.0","id":0,"result":"0x0101010101010101010101010101010101010101010101010101010101010101"}"#;
        let known = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32000,"message":"already known"}}"#;
        let (refuses, a) = endpoint(200, TOO_LOW).await;
        let (accepts, b) = endpoint(200, hash).await;
        let (dead, _) = endpoint(500, "").await;
        let rpc = Rpc::new(1, &[refuses.clone(), accepts, dead.clone()]).unwrap();
        rpc.broadcast(&[1]).await.unwrap();
        assert_eq!((a.load(Ordering::SeqCst), b.load(Ordering::SeqCst)), (1, 1));
        let rpc = Rpc::new(1, &[dead, refuses]).unwrap();
        assert_eq!(rpc.broadcast(&[1]).await.unwrap_err().class, Class::NonceTooLow, "the answer that says most");
        let (knows, _) = endpoint(200, known).await;
        Rpc::new(1, &[knows]).unwrap().broadcast(&[1]).await.unwrap();
    }

    #[test]
    fn refuses_what_is_no_url() {
        assert!(Rpc::new(1, &[]).is_err());
        assert!(Rpc::new(1, &["ws://x".to_owned()]).is_err());
        let rpc = Rpc::new(1, &["https://host.example/v2/secret?key=secret".to_owned()]).unwrap();
        assert!(!format!("{rpc:?}").contains("secret"));
    }
}
