//! The x402 facilitator under load, and next to it the stock TypeScript one: same chain, same machine, same requests.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use eyre::{Result, ensure, eyre};
use quittance::config::Node;
use quittance::config::limits::Rate;
use quittance::crypto::RsaKey;
use quittance::devnet::chains::Anvil;
use quittance::devnet::deploy::{PERMIT2, USDC, fund};
use quittance::devnet::keys::Key;
use quittance::devnet::periods::Periods;
use quittance::devnet::sender::Sender;
use quittance::wire::OrderFields;
use quittance_bindings::DevUSDC;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::http::{self, Outcome};
use crate::keeper::{Stage, cpu, memory};
use crate::payments::{AMOUNT, Offer, Scheme};
use crate::report::{Report, quantile};
use crate::scaled;

/// Seconds between blocks, as on Base.
const BLOCK: u64 = 2;
const PAYERS: usize = 16;
const SETTLED: &str = "\"success\":true";
const VALID: &str = "\"isValid\":true";

/// One of the two.
struct Facilitator {
    name: &'static str,
    address: String,
    pid: u32,
    /// Accounts that send its transactions.
    signers: Vec<Address>,
    offer: Offer,
    /// A nonce is spent once, whoever settles it: the two take different ones.
    first: u64,
}

impl Facilitator {
    /// Numbers of payments that nobody else takes.
    fn numbers(&self, block: u64, count: usize) -> std::ops::Range<u64> {
        numbers(self.first + block, count)
    }
}

pub async fn run(report: &mut Report, scale: f64) -> Result<()> {
    let mut stage = Stage::new("x402", 4, 1, Periods::default()).await?;
    stage.config.limits.payments.payer = Rate::new(0, 0);
    let silent = silence(&mut stage)?;
    for network in &mut stage.config.x402.networks {
        // A thousand payments are some twenty transactions: they need not wait for each other's blocks.
        network.in_flight = 8;
    }
    let payers = payers(&stage).await?;
    stage.fund().await?;
    let (keeper, _) = stage.keeper().await?;
    let stock = Stock::start(&stage).await?;
    let base = &stage.chains.base;
    base.call("evm_setIntervalMining", json!([BLOCK])).await?;
    let keeper = Facilitator::of("keeper", &stage.config.api.listen, keeper.pid(), 1).await?;
    let stock = Facilitator::of("stock TypeScript", &stock.address, stock.child.id(), 2).await?;

    for (facilitator, count, target) in [(&keeper, 20_000, Some("≥ 3,000")), (&stock, 2_000, None)] {
        for scheme in [Scheme::Exact, Scheme::Upto] {
            let name = format!("{}: /verify {}, 32 connections", facilitator.name, scheme.name());
            let payments =
                facilitator.offer.payments(scheme, &payers, facilitator.numbers(1, scaled(count, scale, 200)))?;
            load(report, facilitator, &name, "/verify", &payments, 32, target).await?;
        }
    }
    for (facilitator, count, target) in [(&keeper, 60_000, Some("≥ 10,000")), (&stock, 2_000, None)] {
        let payer = payers.first().ok_or_else(|| eyre!("no payer"))?;
        let count = u64::try_from(scaled(count, scale, 500))?;
        let deposit = facilitator.offer.deposit(payer, (count + 10) * AMOUNT)?;
        settle(facilitator, &[deposit], 1).await?;
        let name = format!("{}: /verify vouchers, 32 connections", facilitator.name);
        load(report, facilitator, &name, "/verify", &facilitator.offer.vouchers(payer, count)?, 32, target).await?;
    }
    for facilitator in [&keeper, &stock] {
        alone(report, facilitator, &payers, scale).await?;
    }
    for scheme in [Scheme::Exact, Scheme::Upto] {
        let count = scaled(4_000, scale, 1_000);
        many(report, &keeper, base, &payers, scheme, (1_000, count), Some("≥ 200")).await?;
    }
    many(report, &stock, base, &payers, Scheme::Exact, (100, 100), None).await?;
    same(report, &keeper, base, &payers).await?;
    reverting(report, &keeper, base, &payers).await?;
    proofs(report, &stage, &keeper, scale).await?;
    // Orders may not begin long before they are handed in.
    stage.world.now = quittance::clock::Clock::default().now();
    orders(report, &stage, &keeper, scale).await?;
    drop(silent);
    report.figure("keeper's peak memory", memory(keeper.pid)?.1, "MiB", Some("≤ 150"));
    report.figure("stock TypeScript's peak memory", memory(stock.pid)?.1, "MiB", None);
    Ok(())
}

/// Numbers of payments that nobody else takes.
fn numbers(block: u64, count: usize) -> std::ops::Range<u64> {
    let first = block * 1_000_000;
    first..first + u64::try_from(count).unwrap_or(u64::MAX)
}

/// Accounts with money that have approved Permit2.
async fn payers(stage: &Stage) -> Result<Vec<PrivateKeySigner>> {
    let base = &stage.chains.base;
    let mut payers = Vec::with_capacity(PAYERS);
    for index in 0..PAYERS {
        let key = Key::of(format!("x402-payer-{index}"))?;
        fund(&stage.chains, key.address()).await?;
        let mut sender = Sender::new(base.provider().clone(), base.chain_id, key.clone()).await?;
        let amount = U256::from(1_000_000_000_000_000_u64);
        sender.call(USDC, &DevUSDC::mintCall { to: key.address(), amount }).await?;
        sender.call(USDC, &DevUSDC::approveCall { spender: PERMIT2, value: U256::MAX }).await?;
        sender.settle().await?;
        payers.push(key.signer);
    }
    Ok(payers)
}

/// The stock facilitator's process; ends with this value.
struct Stock {
    child: Child,
    address: String,
}

impl Stock {
    async fn start(stage: &Stage) -> Result<Self> {
        const NAME: &str = "bench: stock facilitator";
        let secret = keccak256(format!("quittance clients key, public on purpose: {NAME}"));
        let account = PrivateKeySigner::from_bytes(&secret)?.address();
        fund(&stage.chains, account).await?;
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../script/clients");
        let setup = Command::new(format!("{scripts}/setup")).arg("typescript").status()?;
        ensure!(setup.success(), "the stock packages cannot be installed");
        let mut child = Command::new("node")
            .arg(format!("{scripts}/facilitator.mjs"))
            .args([&stage.chains.base.url, NAME])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or_else(|| eyre!("no output"))?;
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).map(|_| line)
        });
        let line = line.await??;
        let address = line.trim().strip_prefix("listening http://").map(str::to_owned);
        let mut stock = Self { child, address: String::new() };
        stock.address = address.ok_or_else(|| eyre!("the stock facilitator says {line:?}"))?;
        Ok(stock)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // Nothing to do about a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Facilitator {
    /// Each has a receiver of its own.
    async fn of(name: &'static str, address: &str, pid: u32, receiver: u8) -> Result<Self> {
        let supported: Value = reqwest::get(format!("http://{address}/supported")).await?.json().await?;
        let kinds = supported.get("kinds").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let facilitator = kinds.iter().find_map(|kind| text(kind.pointer("/extra/facilitatorAddress")));
        let facilitator = facilitator.ok_or_else(|| eyre!("{name} does not support upto: {supported}"))?;
        let signers = supported.pointer("/signers").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
        let signers = signers.filter_map(Value::as_array).flatten().filter_map(Value::as_str);
        let signers = signers.map(str::parse).collect::<Result<Vec<Address>, _>>()?;
        let offer = Offer { pay_to: Address::repeat_byte(receiver), facilitator: facilitator.parse()? };
        Ok(Self { name, address: address.to_owned(), pid, signers, offer, first: u64::from(receiver) * 1_000 })
    }

    async fn post(&self, path: &str, bodies: &[String], connections: usize, wanted: &'static str) -> Result<Outcome> {
        let requests = bodies.iter().map(|body| http::post(&self.address, path, body)).collect();
        http::run(&self.address, requests, connections, wanted).await
    }

    /// Transactions of all its accounts so far.
    async fn sent(&self, base: &Anvil) -> Result<u64> {
        let mut sent = 0;
        for signer in &self.signers {
            sent += base.provider().get_transaction_count(*signer).await?;
        }
        Ok(sent)
    }
}

/// Payments that reached a receiver from block `from` on, and in how many transactions.
async fn paid(base: &Anvil, to: Address, from: u64) -> Result<(usize, usize)> {
    let filter = Filter::new()
        .address(USDC)
        .event_signature(DevUSDC::Transfer::SIGNATURE_HASH)
        .topic2(to.into_word())
        .from_block(from);
    let logs = base.provider().get_logs(&filter).await?;
    let transactions: std::collections::BTreeSet<Option<B256>> = logs.iter().map(|log| log.transaction_hash).collect();
    Ok((logs.len(), transactions.len()))
}

async fn load(
    report: &mut Report,
    facilitator: &Facilitator,
    name: &str,
    path: &str,
    bodies: &[String],
    connections: usize,
    target: Option<&str>,
) -> Result<()> {
    let before = cpu(facilitator.pid)?;
    let outcome = facilitator.post(path, bodies, connections, VALID).await?;
    ensure!(outcome.hits == bodies.len(), "{name}: {} of {} are valid", outcome.hits, bodies.len());
    let n = f64::from(u32::try_from(bodies.len())?);
    report.figure(name, n / outcome.elapsed.as_secs_f64(), "/s", target);
    report.figure("  p99", quantile(&outcome.latencies, 0.99) / 1e3, "ms", target.and(Some("< 20")));
    report.figure("  its processor time each", (cpu(facilitator.pid)? - before) * 1e6 / n, "µs", None);
    Ok(())
}

/// Settles all at once; every one must succeed.
async fn settle(facilitator: &Facilitator, bodies: &[String], connections: usize) -> Result<Outcome> {
    let outcome = facilitator.post("/settle", bodies, connections, SETTLED).await?;
    ensure!(outcome.hits == bodies.len(), "{}: {} of {} were settled", facilitator.name, outcome.hits, bodies.len());
    Ok(outcome)
}

/// One payment at a time, each begun right after the last: from request to answer.
async fn alone(report: &mut Report, facilitator: &Facilitator, payers: &[PrivateKeySigner], scale: f64) -> Result<()> {
    let payments = facilitator.offer.payments(Scheme::Exact, payers, facilitator.numbers(10, scaled(8, scale, 3)))?;
    let mut times = Vec::with_capacity(payments.len());
    for (index, payment) in payments.iter().enumerate() {
        // Not always at the same moment between two blocks.
        tokio::time::sleep(Duration::from_millis(u64::try_from(index)? * 370 % 2_000)).await;
        let outcome = settle(facilitator, std::slice::from_ref(payment), 1).await?;
        times.push(quantile(&outcome.latencies, 1.0) / 1e6);
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    let target = (facilitator.name == "keeper").then_some("≤ 2.3");
    report.figure(&format!("{}: /settle of one alone, blocks of 2 s, worst", facilitator.name), worst, "s", target);
    Ok(())
}

/// Distinct payments, so many at once until `count` are through: all mined, none twice.
async fn many(
    report: &mut Report,
    facilitator: &Facilitator,
    base: &Anvil,
    payers: &[PrivateKeySigner],
    scheme: Scheme,
    (at_once, count): (usize, usize),
    target: Option<&str>,
) -> Result<()> {
    let block = base.provider().get_block_number().await? + 1;
    let first = if scheme == Scheme::Exact { 20 } else { 40 };
    let sent = facilitator.sent(base).await?;
    let payments = facilitator.offer.payments(scheme, payers, facilitator.numbers(first, count))?;
    let outcome = settle(facilitator, &payments, at_once).await?;
    let seconds = outcome.elapsed.as_secs_f64();
    let (moved, _) = paid(base, facilitator.offer.pay_to, block).await?;
    ensure!(moved == count, "{moved} of {count} payments moved money");
    let transactions = facilitator.sent(base).await? - sent;
    let n = f64::from(u32::try_from(count)?);
    let name = format!("{}: /settle {}, {count} payments, {at_once} at once", facilitator.name, scheme.name());
    report.figure(&name, n / seconds, "/s", target);
    report.figure("  transactions for them", f64::from(u32::try_from(transactions)?), "", None);
    Ok(())
}

/// The same payment fifty times at once.
async fn same(report: &mut Report, keeper: &Facilitator, base: &Anvil, payers: &[PrivateKeySigner]) -> Result<()> {
    let block = base.provider().get_block_number().await? + 1;
    let sent = keeper.sent(base).await?;
    let payment = keeper.offer.payments(Scheme::Exact, payers, keeper.numbers(60, 1))?;
    settle(keeper, &vec![payment.concat(); 50], 50).await?;
    let (moved, _) = paid(base, keeper.offer.pay_to, block).await?;
    ensure!(moved == 1, "paid {moved} times");
    let transactions = f64::from(u32::try_from(keeper.sent(base).await? - sent)?);
    report.figure("keeper: the same payment 50 times at once: transactions", transactions, "", Some("1"));
    Ok(())
}

/// Proofs as OpenGradient's gateways hand them in: verified and on disk before they are answered.
async fn proofs(report: &mut Report, stage: &Stage, keeper: &Facilitator, scale: f64) -> Result<()> {
    let pairs = stage.world.pairs(0, scaled(60_000, scale, 2_000))?;
    let requests = pairs.iter().map(|pair| {
        let completion = &pair.completion;
        let data = json!({
            "tee_id": completion.node_id, "input_hash": hex::encode(completion.request_hash),
            "output_hash": hex::encode(completion.output_hash), "tee_signature": BASE64.encode(&completion.signature),
            "tee_timestamp": completion.timestamp, "timestamp": completion.timestamp,
        });
        let data = BASE64.encode(data.to_string());
        let headers = [("x-settlement-type", "batch"), ("x-settlement-data", data.as_str())];
        http::post_with(&keeper.address, "/settle_data", &headers, "{}")
    });
    let before = cpu(keeper.pid)?;
    let outcome = http::run(&keeper.address, requests.collect(), 64, "\"known\":false").await?;
    ensure!(outcome.hits == pairs.len(), "{} of {} proofs were taken", outcome.hits, pairs.len());
    let n = f64::from(u32::try_from(pairs.len())?);
    report.figure("keeper: /settle_data, 64 connections", n / outcome.elapsed.as_secs_f64(), "/s", Some("≥ 5,000"));
    report.figure("  p99", quantile(&outcome.latencies, 0.99) / 1e3, "ms", None);
    report.figure("  its processor time each", (cpu(keeper.pid)? - before) * 1e6 / n, "µs", None);
    Ok(())
}

/// Nodes that take a call and never answer, so that no dispatcher works beside the orders that are handed in.
fn silence(stage: &mut Stage) -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let node = |(key, _): &(RsaKey, PrivateKeySigner)| Node { id: key.id(), url: Some(url.clone()), meter_key: None };
    stage.config.nodes = stage.world.nodes.iter().map(node).collect();
    stage.config.dispatch.concurrency = 1;
    // Longer than the orders take, shorter than they live.
    stage.config.dispatch.timeout_ms = 3_600_000;
    let limits = &mut stage.config.limits;
    limits.open_orders = u32::MAX;
    limits.orders.payer = Rate::new(0, 0);
    Ok(listener)
}

/// Orders over HTTP: new ones are verified, reserved from the payer's lock and on disk before they are answered; handed in again
/// they are verified from what is stored, and nothing is written.
async fn orders(report: &mut Report, stage: &Stage, keeper: &Facilitator, scale: f64) -> Result<()> {
    let pairs = stage.world.pairs(1_000_000, scaled(30_000, scale, 2_000))?;
    let bodies = pairs.iter().map(|pair| {
        let request = RawValue::from_string(String::from_utf8(pair.request.clone())?)?;
        let signature = format!("0x{}", hex::encode(&pair.order_signature));
        Ok(json!({ "order": OrderFields::from(&pair.order), "signature": signature, "request": request }).to_string())
    });
    let bodies: Vec<String> = bodies.collect::<Result<_>>()?;
    for (what, target) in [("new orders, durable", None), ("orders verified again", Some("≥ 10,000"))] {
        let requests =
            bodies.iter().map(|body| http::post_with(&keeper.address, "/orders", &[("prefer", "respond-async")], body));
        let before = cpu(keeper.pid)?;
        let outcome = http::run(&keeper.address, requests.collect(), 64, "\"orderId\"").await?;
        ensure!(outcome.hits >= pairs.len(), "{} of {} orders were taken", outcome.hits, pairs.len());
        let n = f64::from(u32::try_from(pairs.len())?);
        let name = format!("keeper: {what}, 64 connections");
        report.figure(&name, n / outcome.elapsed.as_secs_f64(), "/s", target);
        report.figure("  p99", quantile(&outcome.latencies, 0.99) / 1e3, "ms", target.and(Some("< 20")));
        report.figure("  its processor time each", (cpu(keeper.pid)? - before) * 1e6 / n, "µs", None);
    }
    Ok(())
}

/// Payments that would revert: of empty wallets, and spent by somebody else before.
async fn reverting(report: &mut Report, keeper: &Facilitator, base: &Anvil, payers: &[PrivateKeySigner]) -> Result<()> {
    let sent = keeper.sent(base).await?;
    let poor = Key::of("x402-without-money")?.signer;
    let mut payments = keeper.offer.payments(Scheme::Exact, std::slice::from_ref(&poor), keeper.numbers(70, 50))?;
    payments.extend(keeper.offer.payments(Scheme::Upto, std::slice::from_ref(&poor), keeper.numbers(70, 50))?);
    // Paid before, and said to be for another receiver's account: the nonce is spent.
    let other = Offer { pay_to: Address::repeat_byte(9), ..keeper.offer };
    payments.extend(other.payments(Scheme::Upto, payers, keeper.numbers(40, 50))?);
    let outcome = keeper.post("/settle", &payments, 32, SETTLED).await?;
    ensure!(outcome.hits == 0, "{} payments that cannot be made were made", outcome.hits);
    let transactions = f64::from(u32::try_from(keeper.sent(base).await? - sent)?);
    report.figure("keeper: 150 settlements that would revert: transactions", transactions, "", Some("0"));
    Ok(())
}
