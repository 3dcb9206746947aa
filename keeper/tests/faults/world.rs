//! What a scenario has: two chains behind proxies, nodes, keepers as child processes, wallets, and the audit at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use quittance::config::Config;
use quittance::devnet::chains::Anvil;
use quittance::devnet::demo::chain::{Observed, observe, sums};
use quittance::devnet::deploy::fund;
use quittance::devnet::keys::Key;
use quittance::devnet::node::misbehave::Misbehaviour;
use quittance::devnet::periods::Periods;
use quittance::devnet::sender::Sender;
use quittance::devnet::{Devnet, Options, keeper, up};
use quittance::store::Store;
use quittance_bindings::InferenceEscrow;
use quittance_bindings::escrow::InferenceEscrow::InferenceEscrowEvents as Escrow;
use quittance_bindings::typed::Order;
use serde_json::{Value, json};
use sqlx::Row;

use crate::db::Postgres;
use crate::proxy::Proxy;

/// Long enough for anything on a machine that is busy with other things; nothing waits so long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How a world is set up.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Blocks from `latest` to `safe` on both chains.
    pub depth: u64,
    pub nodes: usize,
    pub periods: Periods,
}

impl Default for Setup {
    fn default() -> Self {
        Self { depth: 1, nodes: 2, periods: Periods { window: 3, ..Periods::default() } }
    }
}

/// A devnet whose keepers see the chains through proxies.
pub struct World {
    pub devnet: Devnet,
    /// In front of Base and of OpenGradient.
    pub base: Proxy,
    pub og: Proxy,
    pub http: reqwest::Client,
    postgres: Option<Postgres>,
    /// Orders that a keeper has acknowledged, with the keeper's URL: each must come to its end.
    acknowledged: Mutex<Vec<(String, Order, B256)>>,
    keepers: Mutex<u32>,
    dir: tempfile::TempDir,
}

impl World {
    pub async fn up(setup: Setup) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let options = Options { nodes: setup.nodes, periods: setup.periods, depth: setup.depth, fork: None };
        let mut devnet = up(dir.path(), options).await.unwrap();
        let base = Proxy::start(&devnet.chains.base.url).await;
        let og = Proxy::start(&devnet.chains.opengradient.url).await;
        let config = &mut devnet.config;
        config.base.rpc = vec![base.url.clone()];
        config.opengradient.rpc = vec![og.url.clone()];
        (config.base.tick_ms, config.opengradient.tick_ms) = (200, 200);
        config.batch.max_age_ms = 500;
        config.keeper.auto_reclaim = true;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(90)).build().unwrap();
        let (acknowledged, keepers) = (Mutex::default(), Mutex::default());
        Self { devnet, base, og, http, postgres: None, acknowledged, keepers, dir }
    }

    /// An empty database on this world's own PostgreSQL server.
    pub async fn postgres(&mut self) -> String {
        if self.postgres.is_none() {
            self.postgres = Some(Postgres::start().await);
        }
        self.postgres.as_ref().unwrap().database().await
    }

    /// Base itself, without a proxy.
    pub fn chain(&self) -> &Anvil {
        &self.devnet.chains.base
    }

    pub fn escrow(&self) -> Address {
        self.devnet.deployment.network.base.escrow
    }

    /// Configuration of one more keeper of the devnet's id: an address and a SQLite file of its own.
    pub fn config(&self) -> Config {
        let mut number = self.keepers.lock().unwrap();
        *number += 1;
        let mut config = self.devnet.config.clone();
        config.api.listen = keeper::free_address().unwrap();
        config.keeper.database = format!("sqlite:{}", self.dir.path().join(format!("keeper-{number}.db")).display());
        config
    }

    /// A keeper with a database of its own that serves.
    pub async fn keeper(&self, change: impl FnOnce(&mut Config)) -> Keeper {
        let mut config = self.config();
        change(&mut config);
        let mut keeper = self.start(config, &[]);
        keeper.ready().await;
        keeper
    }

    /// Starts a keeper; `environment` beside what its keys need.
    pub fn start(&self, config: Config, environment: &[(&str, &str)]) -> Keeper {
        let port = config.api.listen.rsplit(':').next().unwrap().to_owned();
        let file = self.dir.path().join(format!("quittance-{port}.toml"));
        let mut keeper = Keeper {
            url: format!("http://{}", config.api.listen),
            log: self.dir.path().join(format!("keeper-{port}.log")),
            environment: keeper::environment(&self.devnet.keys, self.devnet.nodes.len()).unwrap(),
            http: self.http.clone(),
            prelude: String::new(),
            file,
            config,
            child: None,
        };
        keeper.run(environment);
        keeper
    }

    pub async fn sender(&self, key: &Key) -> Sender {
        let chain = self.chain();
        Sender::new(chain.provider().clone(), chain.chain_id, key.clone()).await.unwrap()
    }

    /// Gas money on both chains.
    pub async fn fund(&self, account: Address) {
        fund(&self.devnet.chains, account).await.unwrap();
    }

    /// Tells a node how to behave.
    pub async fn node(&self, index: usize, behaviour: &str) {
        let set: Misbehaviour = behaviour.parse().unwrap();
        let url = format!("{}/devnet/misbehave", self.devnet.nodes[index].url());
        let answer = self.http.post(url).json(&set).send().await.unwrap();
        assert!(answer.status().is_success());
    }

    pub fn acknowledge(&self, keeper: &Keeper, order: &Order, id: B256) {
        self.acknowledged.lock().unwrap().push((keeper.url.clone(), order.clone(), id));
    }

    pub async fn observe(&self) -> Observed {
        let chains = &self.devnet.chains;
        let network = &self.devnet.deployment.network;
        observe(network, chains.base.provider(), chains.opengradient.provider()).await.unwrap()
    }

    /// Waits until Base has made `n` more blocks.
    pub async fn blocks(&self, n: u64) {
        let from = self.height().await;
        until("blocks", || async { self.height().await >= from + n }).await;
    }

    pub async fn height(&self) -> u64 {
        alloy::providers::Provider::get_block_number(self.chain().provider()).await.unwrap()
    }

    /// The end of every scenario: all that was acknowledged has come to its end, with a reason when nobody is paid for it,
    /// and the chain alone says that every unit of money is where it belongs.
    pub async fn audit(&self, keepers: &[&Keeper]) {
        self.base.heal();
        self.og.heal();
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut ends: BTreeMap<B256, (String, Order)> = BTreeMap::new();
        for (url, order, id) in &acknowledged {
            let Some(keeper) = keepers.iter().find(|keeper| keeper.url == *url) else { continue };
            let deadline = Instant::now() + PATIENCE;
            loop {
                let view = keeper.view(*id).await;
                let state = view["state"].as_str().unwrap_or_default();
                let done = match state {
                    "final" | "reclaimed" => true,
                    "refused" | "expired" => !view["held"].as_bool().unwrap_or(true),
                    _ => false,
                };
                if done {
                    let reasoned = matches!(state, "final" | "reclaimed") || view["reason"].is_string();
                    assert!(reasoned, "order {id} ended without a reason: {view}");
                    ends.insert(*id, (state.to_owned(), order.clone()));
                    break;
                }
                assert!(Instant::now() < deadline, "order {id} has not come to its end: {view}\n{}", keeper.tail());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        for keeper in keepers {
            keeper.evidence_is_complete().await;
        }
        let seen = self.observe().await;
        for (id, (state, order)) in &ends {
            let captures = seen.captures.get(id).map_or(&[][..], Vec::as_slice);
            let paid = usize::from(state == "final");
            assert_eq!(captures.len(), paid, "order {id} is {state}");
            let paid: u128 = captures.iter().map(|capture| capture.amount).sum();
            assert!(paid <= order.maxAmount, "{id}: {paid} of {}", order.maxAmount);
        }
        self.money_adds_up(&seen).await;
    }

    /// From the chain alone: deposits and withdrawals are what is free, held, locked, and captured and not yet paid; what
    /// was captured is what nodes were credited, fees, and what still waits; and nothing is captured or settled twice.
    pub async fn money_adds_up(&self, seen: &Observed) {
        let network = &self.devnet.deployment.network;
        let sums = sums(network, self.chain().provider(), &seen.replay()).await.unwrap();
        for (id, captures) in &seen.captures {
            assert_eq!(captures.len(), 1, "order {id} is captured once");
        }
        let mut captured: BTreeMap<Address, u128> = BTreeMap::new();
        for capture in seen.captures.values().flatten() {
            *captured.entry(capture.token).or_default() += capture.amount;
        }
        let mut credited: BTreeMap<Address, u128> = BTreeMap::new();
        for event in &seen.escrow {
            if let Escrow::Credited(InferenceEscrow::Credited { token, amount, .. }) = &event.event {
                *credited.entry(*token).or_default() += amount;
            }
        }
        for (token, sums) in sums {
            assert!(sums.add_up(), "{token}: {sums:?}");
            let [captured, credited] = [&captured, &credited].map(|map| map.get(&token).copied().unwrap_or(0));
            assert_eq!(captured, credited + sums.captured, "{token}: every capture is credited or waits");
        }
        let batches: BTreeSet<u64> = seen.batches.iter().map(|batch| batch.event.batchId).collect();
        assert_eq!(batches.len(), seen.batches.len(), "every batch is settled once");
    }
}

/// A keeper's process.
pub struct Keeper {
    pub url: String,
    pub config: Config,
    log: PathBuf,
    file: PathBuf,
    environment: Vec<(String, String)>,
    /// Shell commands before the process, in the shell that becomes it.
    pub prelude: String,
    http: reqwest::Client,
    child: Option<Child>,
}

impl Keeper {
    /// Starts the process (again).
    pub fn run(&mut self, environment: &[(&str, &str)]) {
        std::fs::write(&self.file, toml::to_string_pretty(&self.config).unwrap()).unwrap();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let program = env!("CARGO_BIN_EXE_quittance");
        let mut command = Command::new(if self.prelude.is_empty() { program } else { "sh" });
        if !self.prelude.is_empty() {
            command.arg("-c").arg(format!("{}; exec \"$0\" \"$@\"", self.prelude)).arg(program);
        }
        command.arg("run").arg("-c").arg(&self.file).env_remove("DATABASE_URL").env_remove("QUITTANCE_CRASH_AT");
        command.env("NO_COLOR", "1");
        command.envs(self.environment.iter().cloned()).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// More for its environment, now and after every restart.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("a running keeper")
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.http.get(format!("{}/readyz", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let ended = self.child().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "keeper not ready: {ended:?}\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn has_ended(&mut self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child().try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the keeper still runs\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends the process a signal, for example `-STOP`.
    pub fn signal(&mut self, name: &str) {
        let pid = self.child().id().to_string();
        assert!(Command::new("kill").arg(name).arg(pid).status().unwrap().success());
    }

    /// Lets the process make files up to so many bytes, `unlimited` for all that there is.
    pub fn limit_files(&mut self, bytes: &str) {
        let pid = self.child().id().to_string();
        let limit = format!("--fsize={bytes}:unlimited");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    }

    /// `quittance admin retry`: what pauses is tried now. Waits until there is something that pauses, or the order is at its end.
    pub async fn retry(&self, order: B256) {
        until("something to try again", || async {
            let mut command = Command::new(env!("CARGO_BIN_EXE_quittance"));
            command.args(["admin", "retry", &order.to_string(), "-c"]).arg(&self.file).env_remove("DATABASE_URL");
            let ran = command.envs(self.environment.iter().cloned()).output().unwrap();
            ran.status.success() || self.view(order).await["state"] != "completed"
        })
        .await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn log_file(&self) -> &std::path::Path {
        &self.log
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().rev().take(60).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// What `GET /orders/{id}` says; null when the keeper does not answer.
    pub async fn view(&self, id: B256) -> Value {
        let Ok(answer) = self.http.get(format!("{}/orders/{id}", self.url)).send().await else { return Value::Null };
        answer.json().await.unwrap_or(Value::Null)
    }

    /// Waits until every order is in one of these states.
    pub async fn wait_for(&self, orders: &[B256], states: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        for id in orders {
            loop {
                let view = self.view(*id).await;
                if view["state"].as_str().is_some_and(|state| states.contains(&state)) {
                    break;
                }
                assert!(Instant::now() < deadline, "order {id} is not {states:?}: {view}\n{}", self.tail());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// A number from its database; tried again while the database is locked by the keeper itself.
    pub async fn count(&self, sql: &'static str) -> i64 {
        let store = self.store().await;
        let found = sqlx::query_scalar(sql).fetch_one(store.read()).await.unwrap();
        store.close().await;
        found
    }

    pub async fn store(&self) -> Store {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Store::open(&self.config.keeper.database).await {
                Ok(store) => return store,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Waits until a count is `at_least` something.
    pub async fn wait_count(&self, sql: &'static str, at_least: i64) {
        let store = self.store().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found: i64 = sqlx::query_scalar(sql).fetch_one(store.read()).await.unwrap();
            if found >= at_least {
                break;
            }
            assert!(Instant::now() < deadline, "{found}, not {at_least}: {sql}\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        store.close().await;
    }

    /// One figure of `/metrics`, labels included in the name; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let Ok(answer) = self.http.get(format!("{}/metrics", self.url)).send().await else { return 0.0 };
        let text = answer.text().await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Every completion is settled, skipped with a reason, or proof without payment; what is public is on OpenGradient.
    async fn evidence_is_complete(&self) {
        let store = self.store().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open = sqlx::query(
                "SELECT (SELECT COUNT(*) FROM completions WHERE record_state IN ('due', 'submitted')) AS unrecorded,
                 (SELECT COUNT(*) FROM receipts WHERE state NOT IN ('settled', 'skipped')) AS unsettled,
                 (SELECT COUNT(*) FROM receipts WHERE state = 'skipped' AND skip_reason IS NULL) AS unexplained",
            )
            .fetch_one(store.read())
            .await
            .unwrap();
            let open: Vec<i64> = (0..3).map(|index| open.get(index)).collect();
            if open == [0, 0, 0] {
                break;
            }
            let text = "unrecorded, unsettled, unexplained";
            assert!(Instant::now() < deadline, "{text}: {open:?}\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let doubled: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM (SELECT nonce FROM txs WHERE nonce IS NOT NULL GROUP BY chain_id, signer, nonce
             HAVING COUNT(*) > 1) AS doubled",
        )
        .fetch_one(store.read())
        .await
        .unwrap();
        assert_eq!(doubled, 0, "no nonce is used for two transactions");
        store.close().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `json!` parameters of a JSON-RPC call without any.
pub fn none() -> Value {
    json!([])
}
