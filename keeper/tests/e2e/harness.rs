//! A devnet, the real keeper as a child process, and wallets that speak HTTP and sign.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256};
use quittance::cli::order_file::{sign, u40};
use quittance::config::Config;
use quittance::devnet::demo::chain::{Observed, observe, sums};
use quittance::devnet::deploy::{USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::periods::Periods;
use quittance::devnet::sender::Sender;
use quittance::devnet::{Devnet, Options, keeper, up};
use quittance::store::Store;
use quittance::wire::OrderFields;
use quittance_bindings::typed::{Lock, Order, request_commit};
use quittance_bindings::{DevUSDC, InferenceEscrow};
use serde_json::{Value, json};

/// Most that one order may cost, USDC units.
pub const MAX: u128 = 20_000;
/// What a wallet deposits and locks.
pub const DEPOSIT: u128 = 50_000_000;
pub const LOCK: u128 = 20_000_000;

/// A devnet in a directory of its own.
pub struct Net {
    pub devnet: Devnet,
    pub http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Net {
    pub async fn up() -> Self {
        Self::up_with(Periods::default()).await
    }

    pub async fn up_with(periods: Periods) -> Self {
        Self::up_as(Options { periods, ..Options::default() }).await
    }

    pub async fn up_as(options: Options) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let mut devnet = up(dir.path(), options).await.unwrap();
        // What a slow machine needs is no refusal.
        devnet.config.x402.settle_wait_ms = 120_000;
        Self { devnet, http: reqwest::Client::new(), _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.devnet.config.api.listen)
    }

    pub async fn order_state(&self, id: B256) -> Option<String> {
        let answer = self.http.get(format!("{}/orders/{id}", self.url())).send().await.ok()?;
        let body: Value = answer.json().await.ok()?;
        Some(body.get("state")?.as_str()?.to_owned())
    }

    /// Waits until every order is in `state`; panics with what is known when it takes too long.
    pub async fn wait_for(&self, orders: &[B256], state: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        for id in orders {
            while self.order_state(*id).await.as_deref() != Some(state) {
                if Instant::now() > deadline {
                    let body = self.http.get(format!("{}/orders/{id}", self.url())).send().await.unwrap();
                    panic!("order {id} is not {state}: {}\n{}", body.text().await.unwrap(), self.log_tail());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.devnet.dir.join("keeper.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub async fn observe(&self) -> Observed {
        let network = &self.devnet.deployment.network;
        let chains = &self.devnet.chains;
        observe(network, chains.base.provider(), chains.opengradient.provider()).await.unwrap()
    }

    /// Every unit that came in is free, held, locked, or captured and not yet paid; read from the chain alone.
    pub async fn money_adds_up(&self) {
        let seen = self.observe().await;
        let accounts = seen.replay();
        let network = &self.devnet.deployment.network;
        for (token, sums) in sums(network, self.devnet.chains.base.provider(), &accounts).await.unwrap() {
            assert!(sums.add_up(), "{token}: {sums:?}");
        }
    }

    pub async fn store(&self) -> Store {
        Store::open(&self.devnet.config.keeper.database).await.unwrap()
    }
}

/// The keeper's process.
pub struct Keeper {
    child: Child,
}

impl Keeper {
    /// Starts `quittance run` with the devnet's configuration, to be killed at a crash point or not at all.
    pub fn start(net: &Net, crash_at: Option<&str>) -> Self {
        Self::start_with(net, &net.devnet.config, crash_at)
    }

    pub fn start_with(net: &Net, config: &Config, crash_at: Option<&str>) -> Self {
        let file = net.devnet.dir.join("quittance.toml");
        std::fs::write(&file, toml::to_string_pretty(config).unwrap()).unwrap();
        let log = File::options().create(true).append(true).open(net.devnet.dir.join("keeper.log")).unwrap();
        let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_quittance")));
        command.arg("run").arg("-c").arg(&file).env_remove("DATABASE_URL").env_remove("QUITTANCE_CRASH_AT");
        for (name, value) in keeper::environment(&net.devnet.keys, config.nodes.len()).unwrap() {
            command.env(name, value);
        }
        if let Some(point) = crash_at {
            command.env("QUITTANCE_CRASH_AT", point);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap() }
    }

    /// Waits until it serves.
    pub async fn ready(&mut self, net: &Net) {
        assert!(self.ready_or_ended(net).await, "keeper ended\n{}", net.log_tail());
    }

    /// Waits until it serves; false when it ended before, as one may that is to be killed.
    pub async fn ready_or_ended(&mut self, net: &Net) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = net.http.get(format!("{}/readyz", net.url())).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "keeper not ready\n{}", net.log_tail());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A payer with money in the escrow and a lock for the keeper.
pub struct Wallet {
    key: Key,
    nonce: AtomicU64,
}

/// A signed order as `POST /orders` takes it.
#[derive(Clone)]
pub struct Signed {
    pub id: B256,
    pub body: Value,
}

impl Wallet {
    pub async fn funded(net: &Net, name: &str) -> Self {
        Self::funded_for(net, name, net.devnet.deployment.network.keeper.id).await
    }

    /// With a lock for that keeper.
    pub async fn funded_for(net: &Net, name: &str, keeper_id: B256) -> Self {
        let key = Key::of(name).unwrap();
        fund(&net.devnet.chains, key.address()).await.unwrap();
        let base = &net.devnet.chains.base;
        let network = &net.devnet.deployment.network;
        let escrow = network.base.escrow;
        let mut sender = Sender::new(base.provider().clone(), base.chain_id, key.clone()).await.unwrap();
        deposit(&mut sender, escrow, key.address()).await;
        let lock = Lock {
            payer: key.address(),
            token: USDC,
            keeperId: keeper_id,
            amount: LOCK,
            until: u40(now() + 3_600).unwrap(),
            nonce: U256::ZERO,
        };
        let call = InferenceEscrow::lockCall { lock_: lock.into(), signature: Default::default() };
        sender.call(escrow, &call).await.unwrap();
        sender.settle().await.unwrap();
        Self { key, nonce: AtomicU64::new(0) }
    }

    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Signs an order for a question that nobody asked before.
    pub fn order(&self, net: &Net, question: &str, private: bool) -> Signed {
        let blinding = if private { B256::repeat_byte(0x5e) } else { B256::ZERO };
        let (order, request) = self.draft(net, question, blinding);
        let mut signed = self.sign(net, &order, &request);
        if private {
            signed.body["blinding"] = json!(blinding);
        }
        signed
    }

    /// A good order, not signed, and its request.
    pub fn draft(&self, net: &Net, question: &str, blinding: B256) -> (Order, Value) {
        let network = &net.devnet.deployment.network;
        let request = request_of(question);
        let order = Order {
            payer: self.key.address(),
            token: USDC,
            maxAmount: MAX,
            requestCommit: request_commit(hash_of(&request), blinding),
            nodeScope: B256::ZERO,
            keeperId: network.keeper.id,
            validAfter: u40(now() - 5).unwrap(),
            validBefore: u40(now() + 600).unwrap(),
            captureDeadline: u40(now() + 600).unwrap(),
            nonce: U256::from(self.nonce.fetch_add(1, Ordering::Relaxed)),
        };
        (order, request)
    }

    /// Signs an order as it is.
    pub fn sign(&self, net: &Net, order: &Order, request: &Value) -> Signed {
        let network = &net.devnet.deployment.network;
        let (id, signature) = sign(order, network.base.chain_id, network.base.escrow, &self.key.signer).unwrap();
        Signed { id, body: json!({ "order": OrderFields::from(order), "signature": signature, "request": request }) }
    }
}

/// The request of a question.
pub fn request_of(question: &str) -> Value {
    json!({
        "model": "canned-small",
        "messages": [{ "role": "user", "content": question }],
        "temperature": 0.2,
        "max_tokens": 64,
    })
}

/// Hash of a request as the nodes sign it.
pub fn hash_of(request: &Value) -> B256 {
    let raw = serde_json::value::RawValue::from_string(request.to_string()).unwrap();
    quittance::cli::order::request_hash(&raw).unwrap()
}

/// Hands an order in; `None` when the keeper did not answer at all. A lock that the keeper has not seen yet is waited for.
pub async fn hand_in(net: &Net, order: &Signed, wait: bool) -> Option<(u16, Value)> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut request = net.http.post(format!("{}/orders", net.url())).json(&order.body);
        if !wait {
            request = request.header("prefer", "respond-async");
        }
        let answer = request.timeout(Duration::from_secs(60)).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        if status != 402 || Instant::now() > deadline {
            return Some((status, body));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Mints, approves and deposits USDC for a beneficiary.
pub async fn deposit(sender: &mut Sender, escrow: Address, beneficiary: Address) {
    let amount = U256::from(DEPOSIT);
    sender.call(USDC, &DevUSDC::mintCall { to: sender.address(), amount }).await.unwrap();
    sender.call(USDC, &DevUSDC::approveCall { spender: escrow, value: amount }).await.unwrap();
    sender.call(escrow, &InferenceEscrow::depositCall { token: USDC, beneficiary, amount }).await.unwrap();
}

pub fn now() -> u64 {
    quittance::clock::Clock::default().now()
}
