//! A devnet, keepers as child processes, a wallet that hands orders in, and waiting for what comes.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use quittance::config::Config;
use quittance::devnet::demo::wallets::{Terms, Wallet, request};
use quittance::devnet::{Devnet, Options, keeper, up};
use quittance::store::Store;
use serde_json::{Value, json};

/// How long anything may take on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The program under test.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_quittance"))
}

/// A devnet in a directory of its own, and one wallet.
pub struct Net {
    pub devnet: Devnet,
    pub http: reqwest::Client,
    pub wallet: Wallet,
    _dir: tempfile::TempDir,
}

impl Net {
    pub async fn up() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let devnet = up(dir.path(), Options::default()).await.unwrap();
        let wallet = Wallet::funded(&devnet, 0).await.unwrap();
        // A child that was killed leaves connections behind that only look alive.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).build().unwrap();
        Self { devnet, http, wallet, _dir: dir }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.devnet.config.api.listen)
    }

    /// The devnet's configuration, changed.
    pub fn config(&self, change: impl FnOnce(&mut Config)) -> Config {
        let mut config = self.devnet.config.clone();
        change(&mut config);
        config
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.devnet.dir.join("keeper.log")).unwrap_or_default()
    }

    pub async fn store(&self) -> Store {
        Store::open(&self.devnet.config.keeper.database).await.unwrap()
    }

    /// Signs an order for a question: its id and the body of `POST /orders`.
    pub fn order(&self, question: &str, terms: Terms) -> (B256, Value) {
        let file = self.wallet.order(&self.devnet, request(question).unwrap(), terms).unwrap();
        (file.order_id.unwrap(), serde_json::to_value(&file).unwrap())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(self.url(path)).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{error:?}\n{}", tail(&self.log())));
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Posts JSON: status, Retry-After in seconds, body.
    pub async fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Option<u64>, Value) {
        let mut request = self.http.post(self.url(path)).json(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").map(|after| after.to_str().unwrap().parse().unwrap());
        (status, after, answer.json().await.unwrap())
    }

    /// Hands an order in and does not wait for the answer. A lock or node that the keeper has not seen yet is waited for.
    pub async fn submit(&self, body: &Value) -> (u16, Option<u64>, Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.post("/orders", body, &[("prefer", "respond-async")]).await;
            // What is on the chain may not have been seen yet.
            let unseen = ["insufficient_balance", "unknown_node"].iter().any(|code| answer.2["code"] == *code);
            if !unseen || Instant::now() > deadline {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Hands an order in and waits until it is in one of these states.
    pub async fn serve(&self, question: &str, states: &[&str]) -> B256 {
        let (id, body) = self.order(question, Terms::default());
        let (status, _, answer) = self.submit(&body).await;
        assert!(status == 200 || status == 202, "{status} {answer}");
        self.reaches(id, states).await;
        id
    }

    /// Waits until an order is in one of these states.
    pub async fn reaches(&self, id: B256, states: &[&str]) {
        let mut seen = Value::Null;
        self.until(&format!("order {id} to be {states:?}"), async || {
            seen = self.get(&format!("/orders/{id}")).await.1;
            states.iter().any(|state| seen["state"] == *state)
        })
        .await;
    }

    /// Waits until a condition holds.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < deadline, "waited for {what} in vain\n{}", tail(&self.log()));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// A node's answer to a question that no order was given for, as its operator hands it in.
    pub async fn completion(&self, node: usize, question: &str) -> Value {
        let request: Value = serde_json::from_str(request(question).unwrap().get()).unwrap();
        let url = format!("{}/v1/chat/completions", self.devnet.deployment.nodes[node].url);
        let answer: Value = self.http.post(url).json(&request).send().await.unwrap().json().await.unwrap();
        json!({
            "nodeId": self.devnet.deployment.nodes[node].id,
            "request": request,
            "output": answer["choices"][0]["message"]["content"],
            "timestamp": answer["tee_timestamp"],
            "signature": answer["tee_signature"],
            "usage": answer["usage"],
        })
    }

    /// Writes the configuration and gives a command line of the program with the keys in its environment.
    pub fn command(&self, config: &Config, arguments: &[&str]) -> Command {
        let file = self.devnet.dir.join("quittance.toml");
        std::fs::write(&file, toml::to_string_pretty(config).unwrap()).unwrap();
        let mut command = Command::new(program());
        command.args(arguments).arg("-c").arg(file).env_remove("DATABASE_URL").env_remove("RUST_LOG");
        for (name, value) in keeper::environment(&self.devnet.keys, self.devnet.config.nodes.len()).unwrap() {
            command.env(name, value);
        }
        command
    }

    /// Runs a command to its end: exit code, standard output as JSON (or text), standard error.
    pub async fn run(&self, config: &Config, arguments: &[&str]) -> (i32, Value, String) {
        let mut command = self.command(config, arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (output.status.code().unwrap(), json, String::from_utf8(output.stderr).unwrap())
    }
}

/// The last lines of a log.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A keeper process; ends with this value.
pub struct Keeper {
    child: Child,
}

impl Keeper {
    /// Starts `quittance run` and waits until it is ready.
    pub async fn start(net: &Net, config: &Config) -> Self {
        Self::start_with(net, config, &[]).await
    }

    /// Starts it with further environment and waits for nothing.
    pub fn spawn(net: &Net, config: &Config, environment: &[(&str, &str)]) -> Self {
        let mut command = net.command(config, &["run"]);
        command.envs(environment.iter().copied());
        Self::launch(net, command)
    }

    fn launch(net: &Net, mut command: Command) -> Self {
        let log = File::options().create(true).append(true).open(net.devnet.dir.join("keeper.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.spawn().unwrap() }
    }

    /// The same with further arguments.
    pub async fn start_with(net: &Net, config: &Config, arguments: &[&str]) -> Self {
        let mut command = net.command(config, &["run"]);
        command.args(arguments);
        let mut keeper = Self::launch(net, command);
        net.until("the keeper to be ready", async || {
            let ended = keeper.child.try_wait().unwrap();
            assert!(ended.is_none(), "the keeper ended: {ended:?}\n{}", tail(&net.log()));
            let answer = net.http.get(net.url("/readyz")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        keeper
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self, net: &Net) -> ExitStatus {
        let mut status = None;
        net.until("the keeper to end", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
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
