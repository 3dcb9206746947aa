//! An OpenGradient gateway in the demonstration: it names the keeper as its facilitator, is paid by x402, and hands its completion in
//! at `/settle_data`, naming no payment. Played by a program that runs OpenGradient's own middleware, or by what it sends, from here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, Bytes, Uint, keccak256};
use alloy::providers::Provider;
use alloy::signers::SignerSync;
use alloy::sol_types::{SolEvent, SolStruct, eip712_domain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_bindings::{DevTEERegistry, DevUSDC, SettlementInbox};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::stage::{Stage, failed, unexpected};
use super::story::Check;
use super::wallets::request;
use crate::cli::http::Keeper;
use crate::cli::send::read;
use crate::clock::Clock;
use crate::crypto::RsaKey;
use crate::devnet::deploy::{USDC, devnet_pcrs};
use crate::devnet::keys::Key;
use crate::devnet::node::{self, NodeConfig};
use crate::devnet::sender::Sender;
use crate::error::{Error, Result};
use crate::verify::completion::{Evidence, NodeKey};
use crate::x402::contracts::TransferWithAuthorization;

const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(300);
/// What one answer costs: 0.01 USDC.
const PRICE: u64 = 10_000;

/// Why a check fails, or what it found.
type Found = std::result::Result<String, String>;

/// What a gateway was paid for and handed in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Whose middleware it was.
    pub software: String,
    pub payer: Address,
    pub receiver: Address,
    /// Units of USDC, decimal text.
    pub amount: String,
    /// Transaction that the gateway was told of.
    pub transaction: B256,
    pub tee_id: B256,
    pub request_hash: B256,
    pub output_hash: B256,
    /// Unix seconds.
    pub timestamp: u64,
    pub signature: Bytes,
    /// The receipt file of the payment, when it was final.
    #[serde(default)]
    pub receipt: Value,
}

impl Gateway {
    fn evidence(&self) -> Evidence {
        Evidence {
            node_id: self.tee_id,
            request_hash: self.request_hash,
            output_hash: self.output_hash,
            timestamp: self.timestamp,
            signature: self.signature.to_vec(),
        }
    }
}

/// Who plays the gateway, beside the other steps.
#[derive(Debug)]
pub enum Playing {
    Program(Child),
    Here(tokio::task::JoinHandle<Result<Gateway>>),
}

/// Starts it: the program that runs OpenGradient's middleware, if there is one.
///
/// # Errors
/// `bad_configuration` when the program cannot be started.
pub fn start(stage: &Stage, program: Option<&Path>) -> Result<Playing> {
    let Some(program) = program else { return Ok(Playing::Here(tokio::spawn(Played::on(stage).play()))) };
    let mut command = Command::new(program);
    command.arg(stage.devnet.dir.join("network.json")).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    child.map(Playing::Program).map_err(|error| Error::Config(format!("cannot start {}: {error}", program.display())))
}

/// Waits until the completion is handed in, and remembers it.
///
/// # Errors
/// `io_failed` with what the program said.
pub async fn finish(stage: &mut Stage, playing: Playing) -> Result<()> {
    let gateway = match playing {
        Playing::Here(task) => task.await.map_err(std::io::Error::other)??,
        Playing::Program(child) => {
            let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
            let output = output.map_err(std::io::Error::other)??;
            serde_json::from_slice(&output.stdout).map_err(|error| {
                let said = String::from_utf8_lossy(&[output.stdout.clone(), output.stderr].concat()).into_owned();
                std::io::Error::other(format!("gateway ({error}): {said}"))
            })?
        }
    };
    stage.story.gateway = Some(gateway);
    Ok(())
}

/// Waits until the completion is recorded on OpenGradient, joined to its payment, and the payment final; keeps the receipt.
///
/// # Errors
/// `io_failed` with the last answers when that does not happen.
pub async fn wait_final(stage: &mut Stage) -> Result<()> {
    let Some(mut gateway) = stage.story.gateway.take() else { return Ok(()) };
    let id = gateway.evidence().settlement_id();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let job = stage.api.get(&format!("/settle/{id}")).await.map_err(failed)?;
        let list = stage.api.get(&format!("/receipts?rail=x402&payer={}", gateway.payer)).await.map_err(failed)?;
        let ours = |line: &&Value| line.get("transaction") == Some(&json!(gateway.transaction));
        let line = list.get("receipts").and_then(Value::as_array).and_then(|lines| lines.iter().find(ours));
        let recorded = job.get("status") == Some(&json!("succeeded"));
        let last = line.filter(|line| line["final"] == json!(true) && line["settlementId"].is_string());
        if let (true, Some(id)) = (recorded, last.and_then(|line| line["paymentId"].as_str())) {
            gateway.receipt = stage.api.get(&format!("/receipts/{id}")).await.map_err(failed)?;
            stage.story.gateway = Some(gateway);
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(unexpected("a gateway's completion that must be final", &json!([job, list])));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The check of what came of it: from both chains, and the receipt.
pub async fn check(stage: &Stage) -> Check {
    let found = match &stage.story.gateway {
        Some(gateway) => verified(stage, gateway).await,
        None => Err("no gateway took part".to_owned()),
    };
    let ok = found.is_ok();
    Check { name: "opengradient_dropin", ok, detail: found.unwrap_or_else(|why| why) }
}

fn must(holds: bool, why: impl FnOnce() -> String) -> std::result::Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn verified(stage: &Stage, gateway: &Gateway) -> Found {
    let network = &stage.devnet.deployment.network.opengradient;
    let og = stage.devnet.chains.opengradient.provider();
    let evidence = gateway.evidence();
    let call = DevTEERegistry::getTEEPublicKeyCall { teeId: gateway.tee_id };
    let key = read(og, network.tee_registry, &call).await.map_err(text)?;
    must(keccak256(&key) == gateway.tee_id, || format!("the registry has another key of {}", gateway.tee_id))?;
    let key = NodeKey::parse(&key).map_err(text)?;
    key.verify(evidence.message_hash(), &evidence.signature).map_err(text)?;

    let id = evidence.settlement_id();
    let recorded = read(og, network.inbox, &SettlementInbox::recordedAtCall { settlementId: id }).await;
    must(recorded.map_err(text)? != Uint::ZERO, || format!("{id} is not recorded on OpenGradient"))?;

    let receipt = &gateway.receipt;
    for (pointer, expected) in [
        ("/state", json!("final")),
        ("/transaction", json!(gateway.transaction)),
        ("/inference", json!({ "settlementId": id, "joined": "payer" })),
        ("/payment/rail", json!("direct")),
        ("/payment/payer", json!(gateway.payer)),
        ("/payment/receiver", json!(gateway.receiver)),
        ("/payment/token", json!(USDC)),
        ("/payment/amount", json!(gateway.amount)),
    ] {
        must(receipt.pointer(pointer) == Some(&expected), || format!("not {expected} at {pointer}: {receipt}"))?;
    }
    let file = stage.devnet.dir.join("gateway-receipt.json");
    std::fs::write(&file, receipt.to_string()).map_err(text)?;
    // With both ends: what the payer and the keeper signed, and the transfer on Base.
    let args = ["receipt", "verify", &file.display().to_string()];
    let output = stage.actor().run(&Key::of("stranger").map_err(text)?, &args).await.map_err(text)?;
    let said = [output.stdout, output.stderr].concat();
    must(output.status.success(), || format!("receipt verify: {}", String::from_utf8_lossy(&said)))?;

    let base = stage.devnet.chains.base.provider();
    let mined = base.get_transaction_receipt(gateway.transaction).await.map_err(text)?;
    let mined = mined.filter(|mined| mined.status()).ok_or_else(|| "the payment is in no block".to_owned())?;
    let transfers = mined.logs().iter().filter(|log| log.address() == USDC);
    let paid = transfers.filter_map(|log| DevUSDC::Transfer::decode_log(&log.inner).ok()).filter(|transfer| {
        transfer.from == gateway.payer
            && transfer.to == gateway.receiver
            && transfer.value.to_string() == gateway.amount
    });
    must(paid.count() == 1, || "the payment moved something else".to_owned())?;
    let finalized = base.get_block_by_number(BlockNumberOrTag::Finalized).await.map_err(text)?;
    let finalized = finalized.map(|block| block.header.number);
    must(mined.block_number <= finalized, || "the payment's block is not final".to_owned())?;
    Ok(format!(
        "{}: {id} recorded on OpenGradient, {} units paid, joined by the payer, receipt final and verified",
        gateway.software, gateway.amount
    ))
}

/// A gateway played here: its node is registered with OpenGradient, its payer signs as `og-x402` does, and the keeper is sent what
/// `og-x402` sends (`keeper/tests/vectors/gateway.json` holds what the library itself made).
struct Played {
    keeper: String,
    registry: Address,
    base: (alloy::providers::DynProvider, u64),
    opengradient: (alloy::providers::DynProvider, u64),
}

impl Played {
    fn on(stage: &Stage) -> Self {
        let chains = &stage.devnet.chains;
        let network = &stage.devnet.deployment.network;
        Self {
            keeper: network.keeper.url.clone(),
            registry: network.opengradient.tee_registry,
            base: (chains.base.provider().clone(), chains.base.chain_id),
            opengradient: (chains.opengradient.provider().clone(), chains.opengradient.chain_id),
        }
    }

    async fn play(self) -> Result<Gateway> {
        let stop = CancellationToken::new();
        // Ends the node with this function.
        let _guard = stop.clone().drop_guard();
        let receiver = Key::of("gateway")?;
        let payer = Key::of("gateway-payer")?;
        let keeper = Keeper::new(&self.keeper).map_err(failed)?;
        let key = tokio::task::spawn_blocking(RsaKey::generate).await.map_err(std::io::Error::other)??;
        let spki = Bytes::copy_from_slice(key.spki());
        let config = NodeConfig { name: "gateway".to_owned(), ..NodeConfig::default() };
        let node = node::serve(config, key, Clock::default(), stop).await?;
        self.register(spki, node.url(), receiver.address()).await?;
        self.mint(payer.address()).await?;

        let paid = self.authorization(&payer, receiver.address())?;
        let (_, verified) = keeper.post("/verify", paid.to_string(), &[]).await.map_err(failed)?;
        if verified.get("isValid") != Some(&json!(true)) {
            return Err(unexpected("a gateway's payment", &verified));
        }
        let asked = request("What does a gateway hand in?")?;
        let inference = Keeper::new(&node.url()).map_err(failed)?;
        let (_, answer) = inference.post("/v1/chat/completions", asked.get().to_owned(), &[]).await.map_err(failed)?;
        let evidence = Evidence::from_response(&answer)?;
        let (_, settled) = keeper.post("/settle", paid.to_string(), &[]).await.map_err(failed)?;
        let transaction = settled.get("transaction").and_then(Value::as_str).and_then(|hash| hash.parse().ok());
        let transaction = transaction.ok_or_else(|| unexpected("a gateway's settled payment", &settled))?;

        let data = json!({
            "tee_id": answer["tee_id"], "input_hash": answer["tee_request_hash"],
            "output_hash": answer["tee_output_hash"], "tee_signature": answer["tee_signature"],
            "tee_timestamp": evidence.timestamp, "timestamp": evidence.timestamp.to_string(), "input": asked,
            "output": answer, "eth_address": payer.address(),
        });
        let data = BASE64.encode(data.to_string());
        let headers = [("x-settlement-type", "individual"), ("x-settlement-data", data.as_str())];
        keeper.post("/settle_data", "{}".to_owned(), &headers).await.map_err(failed)?;
        Ok(Gateway {
            software: "what og-x402 2.15.0 sends, without Python".to_owned(),
            payer: payer.address(),
            receiver: receiver.address(),
            amount: PRICE.to_string(),
            transaction,
            tee_id: evidence.node_id,
            request_hash: evidence.request_hash,
            output_hash: evidence.output_hash,
            timestamp: evidence.timestamp,
            signature: evidence.signature.into(),
            receipt: Value::Null,
        })
    }

    async fn register(&self, spki: Bytes, url: String, receiver: Address) -> Result<()> {
        let (provider, chain_id) = self.opengradient.clone();
        let mut admin = Sender::new(provider, chain_id, Key::of("admin")?).await?;
        let call = DevTEERegistry::registerDevnetTEECall {
            owner: receiver,
            signingPublicKey: spki,
            tlsCertificate: Bytes::new(),
            paymentAddress: receiver,
            endpoint: url,
            teeType: 0,
            pcrHash: devnet_pcrs().1,
        };
        admin.call(self.registry, &call).await?;
        admin.settle().await.map(drop)
    }

    /// USDC for a payer, who needs no gas money.
    async fn mint(&self, payer: Address) -> Result<()> {
        let (provider, chain_id) = self.base.clone();
        let minter = Key::of("gateway-minter")?;
        let gas = json!([minter.address(), "0x56bc75e2d63100000"]);
        let funded: std::result::Result<Value, _> = provider.raw_request("anvil_setBalance".into(), gas).await;
        funded.map_err(|error| Error::Rpc { chain_id, message: error.to_string() })?;
        let mut minter = Sender::new(provider, chain_id, minter).await?;
        minter.call(USDC, &DevUSDC::mintCall { to: payer, amount: Uint::from(PRICE) }).await?;
        minter.settle().await.map(drop)
    }

    /// An `exact` payment by EIP-3009, as a facilitator is asked to verify and settle it.
    fn authorization(&self, payer: &Key, to: Address) -> Result<Value> {
        let (_, chain_id) = self.base;
        let message = TransferWithAuthorization {
            from: payer.address(),
            to,
            value: Uint::from(PRICE),
            validAfter: Uint::ZERO,
            validBefore: Uint::from(Clock::default().now().saturating_add(600)),
            nonce: rand::random::<[u8; 32]>().into(),
        };
        let domain = eip712_domain! { name: "USD Coin", version: "2", chain_id: chain_id, verifying_contract: USDC, };
        let signature = payer.signer.sign_hash_sync(&message.eip712_signing_hash(&domain));
        let signature = signature.map_err(|error| Error::Config(format!("{}: {error}", payer.role)))?;
        let asked = json!({ "scheme": "exact", "network": format!("eip155:{chain_id}"), "amount": PRICE.to_string(),
            "asset": USDC, "payTo": to, "maxTimeoutSeconds": 300, "extra": { "name": "USD Coin", "version": "2" } });
        Ok(json!({ "x402Version": 2, "paymentRequirements": asked, "paymentPayload": { "x402Version": 2,
            "accepted": asked, "resource": { "url": "http://gateway/v1/chat/completions" },
            "payload": { "signature": Bytes::from(signature.as_bytes()), "authorization": {
                "from": message.from, "to": to, "value": PRICE.to_string(), "validAfter": "0",
                "validBefore": message.validBefore.to_string(), "nonce": message.nonce } } } }))
    }
}
