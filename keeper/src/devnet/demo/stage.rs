//! What the demo's steps share: the devnet, the keeper process, wallets, and what was seen so far.

use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alloy::primitives::B256;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::rogue;
use super::story::Story;
use super::wallets::{Terms, Wallet, request};
use crate::cli::http::Keeper;
use crate::cli::order::submit;
use crate::cli::order_file::OrderFile;
use crate::cli::output::bar;
use crate::devnet::Devnet;
use crate::devnet::keeper::KeeperProcess;
use crate::devnet::keys::Key;
use crate::error::{Error, Result};

/// Requests handed in at the same time.
pub const CONCURRENCY: usize = 8;

/// The running demo.
#[derive(Debug)]
pub struct Stage {
    pub devnet: Devnet,
    /// This program.
    pub program: PathBuf,
    pub keeper: KeeperProcess,
    pub api: Keeper,
    pub wallets: Vec<Wallet>,
    pub story: Story,
    /// Most memory of each keeper process, KiB.
    pub peaks: Vec<u64>,
    orders: AtomicUsize,
}

impl Stage {
    /// Starts the keeper of a devnet and funds the wallets, while a rogue keeper settles its batch.
    ///
    /// # Errors
    /// `preflight_failed` when the keeper does not start, `rpc_failed`.
    pub async fn set(devnet: Devnet, program: PathBuf, wallets: usize) -> Result<Self> {
        let mut keeper = KeeperProcess::start(&program, &devnet.dir, &devnet.config, &devnet.keys)?;
        let funding = (0..wallets).map(|index| Wallet::funded(&devnet, index));
        let funding = stream::iter(funding).buffer_unordered(CONCURRENCY).try_collect();
        let (wallets, rogue) = tokio::try_join!(funding, rogue::batch(&devnet))?;
        keeper.ready().await?;
        let api = Keeper::new(&devnet.deployment.network.keeper.url).map_err(failed)?;
        let story = Story { rogue, ..Story::default() };
        Ok(Self { devnet, program, keeper, api, wallets, story, peaks: Vec::new(), orders: AtomicUsize::new(0) })
    }

    /// Signs the next order: wallets and tokens take turns, every fourth is private.
    ///
    /// # Errors
    /// None in practice.
    pub fn next_order(&self, terms: Terms) -> Result<OrderFile> {
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        let wallet = self
            .wallets
            .get(number % self.wallets.len().max(1))
            .ok_or_else(|| Error::Config("the demo has no wallets".to_owned()))?;
        let request = request(&format!("Question {number}: what is {number} times {}?", number + 1))?;
        wallet.order(&self.devnet, request, terms)
    }

    /// Terms of the n-th of many orders.
    pub const fn terms(n: usize) -> Terms {
        Terms { token: n % 3 % 2, private: n % 4 == 3, node: B256::ZERO, term: 0 }
    }

    /// Hands in many orders, several at once, and waits for every answer. Acknowledged ones enter the story.
    ///
    /// # Errors
    /// The first order that was not answered.
    pub async fn hand_in(&mut self, count: usize, what: &str) -> Result<Vec<B256>> {
        let files: Vec<OrderFile> = (0..count).map(|n| self.next_order(Self::terms(n))).collect::<Result<_>>()?;
        let bar = bar(u64::try_from(count).unwrap_or(0), what);
        let api = &self.api;
        let answers = files.iter().map(|file| {
            let bar = bar.clone();
            async move {
                let (status, answer) = submit(api, file, false).await.map_err(failed)?;
                bar.inc(1);
                // 202: the keeper promised an answer and is still at it.
                if status != 200 && status != 202 {
                    return Err(unexpected("an order handed in", &answer));
                }
                order_id(file)
            }
        });
        let ids: Vec<B256> = stream::iter(answers).buffer_unordered(CONCURRENCY).try_collect().await?;
        bar.finish_and_clear();
        self.story.http.extend(&ids);
        Ok(ids)
    }

    /// The keeper's state of an order.
    ///
    /// # Errors
    /// `io_failed` with the keeper's own words.
    pub async fn order(&self, order_id: B256) -> Result<Value> {
        self.api.get(&format!("/orders/{order_id}")).await.map_err(failed)
    }

    /// Waits until every order is in one of `states`.
    ///
    /// # Errors
    /// `io_failed` naming the first order that is not there in time.
    pub async fn wait_for(&self, orders: &[B256], states: &[&str], patience: Duration, what: &str) -> Result<()> {
        let bar = bar(u64::try_from(orders.len()).unwrap_or(0), what);
        let deadline = tokio::time::Instant::now() + patience;
        for id in orders {
            loop {
                let order = self.order(*id).await?;
                let state = order.get("state").and_then(Value::as_str).unwrap_or_default();
                if states.contains(&state) {
                    break;
                }
                if tokio::time::Instant::now() > deadline {
                    return Err(unexpected(&format!("{what}: order {id}"), &order));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Tells a node how to misbehave from now on.
    ///
    /// # Errors
    /// `io_failed`.
    pub async fn misbehave(&self, node: usize, mode: &str, ms: u64) -> Result<()> {
        let body = json!({ "mode": mode, "ms": ms });
        self.node_post(node, "/devnet/misbehave", &body.to_string()).await.map(drop)
    }

    /// Answers that a node gave so far.
    ///
    /// # Errors
    /// `io_failed`.
    pub async fn answered(&self, node: usize) -> Result<u64> {
        let api = self.node(node)?;
        let health = api.get("/health").await.map_err(failed)?;
        health.get("answered").and_then(Value::as_u64).ok_or_else(|| unexpected("a node's health", &health))
    }

    /// Posts to a node.
    ///
    /// # Errors
    /// `io_failed`.
    pub async fn node_post(&self, node: usize, path: &str, body: &str) -> Result<Value> {
        let (_, answer) = self.node(node)?.post(path, body.to_owned(), &[]).await.map_err(failed)?;
        Ok(answer)
    }

    fn node(&self, node: usize) -> Result<Keeper> {
        let node = self.devnet.nodes.get(node).ok_or_else(|| Error::Config(format!("no node {node}")))?;
        Keeper::new(&node.url()).map_err(failed)
    }

    /// Whoever acts without a keeper.
    pub fn actor(&self) -> Actor {
        Actor { program: self.program.clone(), network: self.devnet.dir.join("network.json") }
    }

    /// Remembers the keeper's peak memory; call before it ends.
    pub fn note_peak(&mut self) {
        self.peaks.extend(self.keeper.peak_memory());
    }
}

/// Somebody with this program, a key and an RPC URL.
#[derive(Clone, Debug)]
pub struct Actor {
    program: PathBuf,
    network: PathBuf,
}

impl Actor {
    /// Runs a command.
    ///
    /// # Errors
    /// `io_failed` when it cannot be started.
    pub async fn run(&self, key: &Key, args: &[&str]) -> Result<Output> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(args).arg("--json").kill_on_drop(true);
        command.env("QUITTANCE_NETWORK", &self.network).env("QUITTANCE_KEY", key.hex());
        Ok(command.output().await?)
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// `io_failed` with what the program said.
    pub async fn do_run(&self, key: &Key, args: &[&str]) -> Result<()> {
        let output = self.run(key, args).await?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let text = format!("{}: {}", args.join(" "), String::from_utf8_lossy(&said));
        Err(Error::Io(std::io::Error::other(text)))
    }
}

/// The id that an order file carries.
///
/// # Errors
/// `bad_configuration` for a file without one.
pub fn order_id(file: &OrderFile) -> Result<B256> {
    file.order_id.ok_or_else(|| Error::Config("an order file without id".to_owned()))
}

/// A command's failure as an error of the demo.
pub fn failed(failure: crate::cli::failure::Failure) -> Error {
    Error::Io(std::io::Error::other(failure.to_string()))
}

/// Something answered, but not as it must.
pub fn unexpected(what: &str, answer: &Value) -> Error {
    Error::Io(std::io::Error::other(format!("{what}: unexpected {answer}")))
}
