//! `receipt get|verify|export`: receipt files from a keeper, and their proof without one.

use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::failure::{Failure, Result, read_json};
use super::http::Keeper;
use super::network::{Network, NetworkArgs};
use super::output::{Report, bar};
use crate::chain::rpc::Rpc;
use crate::receipt::online::online;
use crate::receipt::payment::{self, PaymentFile};
use crate::receipt::verify::{Check, all_ok, offline};
use crate::receipt::{ReceiptFile, payment_verify};

/// Receipts.
#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Print the receipt file of a settlement or an x402 payment
    Get(Get),
    /// Check receipt files: offline, and against the chains with --rpc and --og-rpc
    Verify(Verify),
    /// Print many receipts, as a keeper lists them
    Export(Export),
}

/// One receipt.
#[derive(Args, Debug)]
pub struct Get {
    /// Settlement id of an inference, or id of an x402 payment
    id: B256,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Receipt files.
#[derive(Args, Debug)]
pub struct Verify {
    /// Receipt files (`-` for standard input)
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Check hashes and signatures alone, whatever the network file says
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Which receipts.
#[derive(Args, Debug)]
pub struct Export {
    /// Only of this payer
    #[arg(long)]
    payer: Option<Address>,
    /// What was paid by: order, or x402
    #[arg(long, value_enum, default_value_t = Rail::Order)]
    rail: Rail,
    /// Only of this node
    #[arg(long)]
    node: Option<B256>,
    /// From this time on, unix seconds
    #[arg(long)]
    from: Option<u64>,
    /// Before this time, unix seconds
    #[arg(long)]
    to: Option<u64>,
    /// Form
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    #[command(flatten)]
    network: NetworkArgs,
}

/// How it was paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rail {
    Order,
    X402,
}

/// Form of an export.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    Json,
    Csv,
}

impl ReceiptCommand {
    /// Runs the subcommand.
    pub async fn run(&self) -> Result<Report> {
        match self {
            Self::Get(args) => args.run().await,
            Self::Verify(args) => args.run().await,
            Self::Export(args) => args.run().await,
        }
    }
}

impl Get {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let file = Keeper::new(network.keeper_url()?)?.get(&format!("/receipts/{}", self.id)).await?;
        // The file is the output in both forms: it is meant to be redirected.
        let text = serde_json::to_string_pretty(&file).map_err(|error| Failure::new("malformed", error.to_string()))?;
        Ok(Report { json: file, text, ok: true })
    }
}

impl Verify {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let chains = if self.offline { None } else { Chains::of(&network)? };
        let bar = bar(u64::try_from(self.files.len()).unwrap_or(0), "verifying receipts");
        let mut results = Vec::with_capacity(self.files.len());
        let mut lines = Vec::new();
        let mut ok = true;
        for path in &self.files {
            let AnyFile { id, state, checks } = AnyFile::check(path, &network, chains.as_ref()).await?;
            ok &= all_ok(&checks);
            lines.extend(told(&format!("{id}  {state}"), &checks, self.files.len() > 1));
            results.push(
                json!({ "file": path, "settlementId": id, "state": state, "ok": all_ok(&checks), "checks": checks }),
            );
            bar.inc(1);
        }
        bar.finish_and_clear();
        let verdict = if ok { "all checks hold" } else { "NOT VALID" };
        lines.push(format!("{} receipts: {verdict}", self.files.len()));
        Ok(Report { json: json!({ "ok": ok, "receipts": results }), text: lines.join("\n"), ok })
    }
}

struct Chains {
    base: Rpc,
    opengradient: Rpc,
}

impl Chains {
    /// Both chains when both URLs are known, none when none is.
    fn of(network: &Network) -> Result<Option<Self>> {
        let (base, og) = (&network.base, &network.opengradient);
        match (base.rpc.is_empty(), og.rpc.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(Self {
                base: Rpc::new(base.chain_id, std::slice::from_ref(&base.rpc))?,
                opengradient: Rpc::new(og.chain_id, std::slice::from_ref(&og.rpc))?,
            })),
            _ => Err(Failure::usage("missing_setting", "checking the chains needs both --rpc and --og-rpc")),
        }
    }
}

/// A file of either schema, checked.
struct AnyFile {
    id: B256,
    state: String,
    checks: Vec<Check>,
}

impl AnyFile {
    async fn check(path: &Path, network: &Network, chains: Option<&Chains>) -> Result<Self> {
        let value: Value = read_json(path)?;
        let malformed = |error: serde_json::Error| Failure::usage("malformed", format!("{}: {error}", path.display()));
        if value["schema"] == payment::SCHEMA {
            let file: PaymentFile = serde_json::from_value(value).map_err(malformed)?;
            let mut checks = payment_verify::offline(&file);
            checks.extend(foreign(&[(network.base.ledger, file.network.ledger)]));
            if let Some(chains) = chains {
                checks.push(right_ones(&[(&chains.base, file.network.base_chain_id)]).await);
                checks.extend(payment_verify::online(&file, &chains.base).await);
            }
            return Ok(Self { id: file.payment_id, state: file.state, checks });
        }
        let file: ReceiptFile = serde_json::from_value(value).map_err(malformed)?;
        let mut checks = offline(&file);
        let ours = [(network.base.escrow, file.network.escrow), (network.base.ledger, file.network.ledger)];
        checks.extend(foreign(&ours));
        if let Some(chains) = chains {
            let named = [
                (&chains.base, file.network.base_chain_id),
                (&chains.opengradient, file.network.opengradient_chain_id),
            ];
            checks.push(right_ones(&named).await);
            checks.extend(online(&file, &chains.base, &chains.opengradient).await);
        }
        Ok(Self { id: file.settlement_id, state: file.state, checks })
    }
}

/// Whether the URLs serve the chains that a file names.
async fn right_ones(expected: &[(&Rpc, u64)]) -> Check {
    for (rpc, expected) in expected {
        let wrong = rpc.reported_chain_ids().await.into_iter().find_map(|(url, reported)| match reported {
            Ok(actual) if actual == *expected => None,
            Ok(actual) => Some(format!("{url} is chain {actual}, the receipt is of chain {expected}")),
            Err(failure) => Some(failure.to_string()),
        });
        if let Some(detail) = wrong {
            return Check { name: "chain_ids", ok: false, detail };
        }
    }
    Check { name: "chain_ids", ok: true, detail: "the chains that the receipt names".to_owned() }
}

/// A receipt that holds by itself may still be of other contracts than the ones we trust.
fn foreign(ours: &[(Address, Address)]) -> Option<Check> {
    let known = ours.iter().any(|(known, _)| !known.is_zero());
    known.then(|| {
        let ok = ours.iter().all(|(known, actual)| known.is_zero() || known == actual);
        let detail =
            if ok { "the contracts of the network file" } else { "of other contracts than the network file's" };
        Check { name: "network", ok, detail: detail.to_owned() }
    })
}

/// One line when all is well with one of many, all lines otherwise.
fn told(head: &str, checks: &[Check], brief: bool) -> Vec<String> {
    if brief && all_ok(checks) {
        return vec![format!("ok      {head}")];
    }
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let line = |check: &Check| {
        format!("  {}  {:<width$}  {}", if check.ok { "ok    " } else { "FAILED" }, check.name, check.detail)
    };
    std::iter::once(head.to_owned()).chain(checks.iter().map(line)).collect()
}

impl Export {
    async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let keeper = Keeper::new(network.keeper_url()?)?;
        let mut query = vec![match self.format {
            Format::Json => "format=json".to_owned(),
            Format::Csv => "format=csv".to_owned(),
        }];
        query.extend((self.rail == Rail::X402).then(|| "rail=x402".to_owned()));
        query.extend(self.payer.map(|payer| format!("payer={payer}")));
        query.extend(self.node.map(|node| format!("node={node}")));
        query.extend(self.from.map(|from| format!("from={from}")));
        query.extend(self.to.map(|to| format!("to={to}")));
        let text = keeper.text(&format!("/receipts?{}", query.join("&"))).await?;
        let json = match self.format {
            Format::Json => serde_json::from_str(&text).unwrap_or(Value::Null),
            Format::Csv => json!({ "csv": text }),
        };
        Ok(Report { json, text: text.trim_end().to_owned(), ok: true })
    }
}
