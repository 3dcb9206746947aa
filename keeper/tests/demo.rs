//! The demonstration with the real program; the audit of its report, which must notice corruption; and the command line on
//! the devnet that it leaves running.

// A test fails by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use alloy::primitives::{Address, B256};
use alloy::signers::SignerSync;
use quittance::cli::settle::meter_digest;
use quittance::devnet::deploy::Deployment;
use quittance::devnet::keys::Key;
use quittance_bindings::typed::{Meter, message_hash, settlement_id};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_quittance");

/// A demonstration that keeps running; told to stop at the end.
struct Kept {
    child: Child,
    dir: tempfile::TempDir,
}

impl Kept {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(PROGRAM)
            .args(["devnet", "--demo", "--keep", "--json"])
            .arg(dir.path().join("report.json"))
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut kept = Self { child, dir };
        let mut said = String::new();
        for line in BufReader::new(kept.child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            said.push_str(&line);
            said.push('\n');
            if line.contains("quittance withdraw") {
                assert!(said.contains("everything holds"), "{said}");
                return kept;
            }
        }
        unreachable!("the demonstration ended: {said}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &Value) -> PathBuf {
        std::fs::write(self.path(name), content.to_string()).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn run(&self, key: &Key, args: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(args)
            .current_dir(self.dir.path())
            .env("QUITTANCE_NETWORK", self.path("network.json"))
            .env("QUITTANCE_KEY", key.hex())
            .output()
            .unwrap()
    }

    /// Runs a command with `--json` that must succeed.
    fn json(&self, key: &Key, args: &[&str]) -> Value {
        let output = self.run(key, &[args, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).unwrap()
    }

    /// Runs a command with `--json` that must fail, and tells exit code and error code.
    fn fails(&self, key: &Key, args: &[&str]) -> (i32, String) {
        let output = self.run(key, &[args, &["--json"]].concat());
        let body: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), body["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // An ordinary end, so that it ends its own children.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Exit code of the audit and what it said.
fn audit(report: &Path) -> (i32, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../script/audit");
    let output = Command::new(script).arg(report).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

fn failed_checks(said: &str) -> Vec<&str> {
    let failed = said.lines().filter_map(|line| line.strip_prefix("FAILED "));
    failed.filter_map(|line| line.split_ascii_whitespace().next()).collect()
}

fn corruption_is_noticed(kept: &Kept) {
    let report = kept.read("report.json");
    let (code, said) = audit(&kept.path("report.json"));
    assert_eq!(code, 0, "{said}");

    let id = report["inferences"][0]["settlementId"].as_str().unwrap().to_owned();
    let mut receipt = report.clone();
    let signature = &mut receipt["receipts"][&id]["node"]["signature"];
    let text = signature.as_str().unwrap();
    let last = if text.ends_with('0') { "1" } else { "0" };
    *signature = format!("{}{last}", &text[..text.len() - 1]).into();
    let (code, said) = audit(&kept.write("bad-receipt.json", &receipt));
    assert_eq!((code, failed_checks(&said)), (1, vec!["receipts_verify_offline"]), "{said}");

    let mut amount = report.clone();
    let units: u128 = amount["inferences"][0]["amount"].as_str().unwrap().parse().unwrap();
    amount["inferences"][0]["amount"] = (units + 1).to_string().into();
    let (code, said) = audit(&kept.write("bad-amount.json", &amount));
    assert_eq!((code, failed_checks(&said)), (1, vec!["table"]), "{said}");

    // What disputes came to is told by the chain, not by the report.
    let mut disputed = report.clone();
    let (rogue, doubt) = ("/story/rogue", "/story/doubt");
    *disputed.pointer_mut(&format!("{rogue}/amount")).unwrap() = "20001".into();
    *disputed.pointer_mut(&format!("{rogue}/honest/0/node/signature")).unwrap() = "0x00".into();
    *disputed.pointer_mut(&format!("{doubt}/challenger")).unwrap() = report["story"]["doubt"]["keeper"].clone();
    let (code, said) = audit(&kept.write("bad-disputes.json", &disputed));
    let expected = vec!["unproven_row_refunded", "honest_rows_paid", "challenge_answered"];
    assert_eq!((code, failed_checks(&said)), (1, expected), "{said}");

    let dropin = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "opengradient_dropin");
    assert_eq!(dropin.unwrap()["ok"], true);
    for (member, value) in
        [("inference/joined", "window"), ("payment/amount", "10001"), ("payment/resource", "http://x")]
    {
        let mut gateway = report.clone();
        *gateway.pointer_mut(&format!("/story/gateway/receipt/{member}")).unwrap() = value.into();
        let (code, said) = audit(&kept.write("bad-gateway.json", &gateway));
        assert_eq!((code, failed_checks(&said)), (1, vec!["opengradient_dropin"]), "{said}");
    }

    // A report that only claims a check is not believed either.
    let mut missing = report;
    missing["receipts"].as_object_mut().unwrap().remove(&id);
    let (code, said) = audit(&kept.write("missing-receipt.json", &missing));
    assert_eq!(code, 1, "{said}");
}

fn a_wallet_pays_through_the_keeper(kept: &Kept, payer: &Key) {
    let question = json!({ "model": "canned-small", "messages": [{ "role": "user", "content": "By command line?" }] });
    kept.write("request.json", &question);
    let hash = kept.json(payer, &["request", "hash", "request.json"]);
    let order = kept.json(
        payer,
        &["order", "sign", "--request", "request.json", "--token", "usdc", "--max", "0.01", "--nonce", "900001"],
    );
    assert_eq!(order["order"]["requestCommit"], hash["requestCommit"], "a public order");
    kept.write("order.json", &order);
    let answer = kept.json(payer, &["order", "submit", "order.json"]);
    let again = kept.json(payer, &["order", "submit", "order.json"]);
    assert_eq!(answer["completion"], again["completion"], "the same order again gets the same answer");
    let id = answer["receipt"]["settlementId"].as_str().unwrap();
    let receipt = kept.json(payer, &["receipt", "get", id]);
    kept.write("receipt.json", &receipt);
    let verdict = kept.json(payer, &["receipt", "verify", "receipt.json"]);
    assert_eq!(verdict["ok"], true, "{verdict}");
    let mut forged = receipt;
    forged["receipt"]["amount"] = "1".into();
    kept.write("forged.json", &forged);
    let output = kept.run(payer, &["receipt", "verify", "--offline", "forged.json"]);
    assert_eq!(output.status.code(), Some(1));
    let csv = kept.run(payer, &["receipt", "export", "--format", "csv", "--payer", &payer.address().to_string()]);
    assert!(String::from_utf8_lossy(&csv.stdout).contains(id), "the export names it");
}

async fn a_node_settles_without_any_keeper(kept: &Kept, payer: &Key, stranger: &Key) {
    let deployment: Deployment = serde_json::from_value(kept.read("network.json")).unwrap();
    let question = json!({ "model": "canned-small", "messages": [{ "role": "user", "content": "No keeper?" }] });
    kept.write("direct.json", &question);
    let sign = ["order", "sign", "--request", "direct.json", "--token", "USDC", "--max", "0.01", "--no-keeper"];
    let order = kept.json(payer, &[&sign[..], &["--nonce", "1"]].concat());
    kept.write("direct-order.json", &order);
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/chat/completions", deployment.nodes[0].url))
        .json(&question)
        .send()
        .await
        .unwrap();
    let answer: Value = answer.json().await.unwrap();
    kept.write("completion.json", &answer);

    let hash = |name: &str| -> B256 { format!("0x{}", answer[name].as_str().unwrap()).parse().unwrap() };
    let time = answer["tee_timestamp"].as_u64().unwrap();
    let message = message_hash(hash("tee_request_hash"), hash("tee_output_hash"), time);
    let meter = Meter {
        settlementId: settlement_id(deployment.nodes[0].id, message),
        paymentId: order["orderId"].as_str().unwrap().parse().unwrap(),
        offset: 0,
        amount: 1_234,
    };
    let base = &deployment.network.base;
    let digest = meter_digest(&meter, base.chain_id, base.ledger);
    let signature = Key::of("meter-0").unwrap().signer.sign_hash_sync(&digest).unwrap();
    let signature = alloy::primitives::hex::encode_prefixed(signature.as_bytes());
    kept.write("meter.json", &json!({ "amount": "1234", "signature": signature }));

    let settle = ["settle", "--order", "direct-order.json", "--completion", "completion.json", "--meter", "meter.json"];
    let dry = kept.json(stranger, &[&settle[..], &["--dry-run"]].concat());
    let settled = kept.json(stranger, &settle);
    assert_eq!(settled["settlementId"], dry["settlementId"]);
    assert_eq!(settled["amount"], "1234");
    assert_eq!(kept.fails(stranger, &settle), (1, "already_settled".to_owned()));
    let final_batch = kept.read("report.json")["story"]["doubt"]["batchId"].to_string();
    assert_eq!(kept.fails(stranger, &["finalize", &final_batch]), (1, "batch_not_open".to_owned()));
}

fn refusals_have_codes(kept: &Kept, payer: &Key) {
    let withdraw = |amount: &'static str| kept.fails(payer, &["withdraw", "--token", "USDC", "--amount", amount]);
    assert_eq!(withdraw("1000000"), (1, "insufficient_free".to_owned()));
    assert_eq!(withdraw("1.23456789"), (2, "malformed".to_owned()));
    assert_eq!(kept.fails(payer, &["withdraw", "--token", "DOGE", "--amount", "1"]), (2, "unknown_token".to_owned()));
    let unlock = kept.fails(payer, &["unlock", "--token", "USDC"]);
    assert_eq!(unlock, (1, "lock_active".to_owned()));
    let cancel = kept.fails(payer, &["order", "cancel", "3", "--token", "USDC"]);
    assert_eq!(cancel, (1, "lock_active".to_owned()), "the lock secures signed orders");
    let rpc = kept.read("network.json")["opengradient"]["rpc"].as_str().unwrap().to_owned();
    let balance = ["balance", &payer.address().to_string(), "--token", "USDC", "--rpc", &rpc];
    assert_eq!(kept.fails(payer, &balance), (2, "wrong_chain".to_owned()));
    assert_eq!(kept.run(payer, &["withdraw", "--token", "USDC"]).status.code(), Some(2), "clap's own usage errors");
}

fn money_goes_in_and_out(kept: &Kept, payer: &Key) {
    let owner = payer.address().to_string();
    let balance = |token: &str| kept.json(payer, &["balance", &owner, "--token", token]);
    let before: u128 = balance("USDC")["free"].as_str().unwrap().parse().unwrap();
    kept.json(payer, &["withdraw", "--token", "USDC", "--amount", "1.5"]);
    kept.json(payer, &["deposit", "--token", "USDC", "--amount", "1"]);
    kept.json(payer, &["lock", "--token", "USDC", "--amount", "0.25", "--for", "2h"]);
    let after: u128 = balance("USDC")["free"].as_str().unwrap().parse().unwrap();
    assert_eq!(before - after, 750_000);
    let gone = kept.json(payer, &["withdraw", "--token", "OPG", "--amount", "all"]);
    assert_eq!(gone["account"].as_str().unwrap().parse::<Address>().unwrap(), payer.address());
    assert_eq!(balance("OPG")["free"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_holds_and_its_devnet_can_be_used() {
    let kept = tokio::task::spawn_blocking(Kept::start).await.unwrap();
    let (payer, stranger) = (Key::of("payer-0").unwrap(), Key::of("stranger").unwrap());
    tokio::task::block_in_place(|| {
        corruption_is_noticed(&kept);
        a_wallet_pays_through_the_keeper(&kept, &payer);
        refusals_have_codes(&kept, &payer);
    });
    a_node_settles_without_any_keeper(&kept, &payer, &stranger).await;
    tokio::task::block_in_place(|| money_goes_in_and_out(&kept, &payer));
}
