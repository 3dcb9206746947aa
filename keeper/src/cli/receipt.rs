//! `receipt get|verify|export`: receipt files from a keeper, and their proof without one.

use std::path::{Path, PathBuf};

use alloy::primitives::{Address, B256};
use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
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
            let AnyFile { id: (name, id), state, checks } = AnyFile::check(path, &network, chains.as_ref()).await?;
            ok &= all_ok(&checks);
            lines.extend(told(&format!("{id}  {state}"), &checks, self.files.len() > 1));
            results.push(json!({ "file": path, name: id, "state": state, "ok": all_ok(&checks), "checks": checks }));
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
    /// An x402 payment has nothing there.
    opengradient: Option<Rpc>,
}

impl Chains {
    /// The chains whose URLs are known; none without Base's.
    fn of(network: &Network) -> Result<Option<Self>> {
        let rpc = |chain_id, url: &String| {
            (!url.is_empty()).then(|| Rpc::new(chain_id, std::slice::from_ref(url))).transpose()
        };
        let base = rpc(network.base.chain_id, &network.base.rpc)?;
        let opengradient = rpc(network.opengradient.chain_id, &network.opengradient.rpc)?;
        match base {
            None if opengradient.is_some() => Err(incomplete()),
            base => Ok(base.map(|base| Self { base, opengradient })),
        }
    }
}

fn incomplete() -> Failure {
    let text = "checking the chains needs both --rpc and --og-rpc, for x402 payments --rpc";
    Failure::usage("missing_setting", text)
}

/// A file of either schema, checked.
struct AnyFile {
    /// Name of the id, and the id.
    id: (&'static str, B256),
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
            return Ok(Self { id: ("paymentId", file.payment_id), state: file.state, checks });
        }
        let file: ReceiptFile = serde_json::from_value(value).map_err(malformed)?;
        let mut checks = offline(&file);
        let ours = [(network.base.escrow, file.network.escrow), (network.base.ledger, file.network.ledger)];
        checks.extend(foreign(&ours));
        if let Some(chains) = chains {
            let opengradient = chains.opengradient.as_ref().ok_or_else(incomplete)?;
            let named =
                [(&chains.base, file.network.base_chain_id), (opengradient, file.network.opengradient_chain_id)];
            checks.push(right_ones(&named).await);
            checks.extend(online(&file, &chains.base, opengradient).await);
        }
        Ok(Self { id: ("settlementId", file.settlement_id), state: file.state, checks })
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
        let mut rows = Vec::new();
        let mut csv = String::new();
        let mut after: Option<String> = None;
        // A keeper lists so many at once.
        loop {
            let page = after.map(|after| format!("&after={after}")).unwrap_or_default();
            let (text, next) = keeper.text(&format!("/receipts?{}{page}", query.join("&"))).await?;
            after = match self.format {
                Format::Json => {
                    let malformed = |error: serde_json::Error| Failure::new("malformed", error.to_string());
                    let page: Listed = serde_json::from_str(&text).map_err(malformed)?;
                    rows.extend(page.receipts);
                    page.next
                }
                Format::Csv => {
                    let skip = if csv.is_empty() { 0 } else { text.find('\n').map_or(text.len(), |end| end + 1) };
                    csv.push_str(text.get(skip..).unwrap_or_default());
                    next
                }
            };
            if after.is_none() {
                break;
            }
        }
        let (json, text) = match self.format {
            Format::Json => {
                let json = json!({ "receipts": rows, "next": null });
                (json.clone(), json.to_string())
            }
            Format::Csv => (json!({ "csv": csv }), csv.trim_end().to_owned()),
        };
        Ok(Report { json, text, ok: true })
    }
}

/// A page of a keeper's list.
#[derive(Debug, Deserialize)]
struct Listed {
    receipts: Vec<Value>,
    next: Option<String>,
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::RawQuery;
    use axum::routing::get;

    use super::*;

    /// Two pages of a list, as a keeper answers them.
    async fn page(RawQuery(query): RawQuery) -> ([(&'static str, &'static str); 1], &'static str) {
        let query = query.unwrap_or_default();
        match (query.contains("format=csv"), query.contains("after=7-0x01")) {
            (true, false) => ([("x-next", "7-0x01")], "id,amount\n1,10\n"),
            (true, true) => ([("x-last", "")], "id,amount\n2,20\n"),
            (false, false) => ([("x-page", "")], r#"{"receipts":[{"id":1}],"next":"7-0x01"}"#),
            (false, true) => ([("x-last", "")], r#"{"receipts":[{"id":2}],"next":null}"#),
        }
    }

    #[tokio::test]
    async fn an_export_has_every_page() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/receipts", get(page));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut network = NetworkArgs::default();
        network.keeper_url = Some(url);
        let export = |format| Export {
            payer: None,
            rail: Rail::X402,
            node: None,
            from: None,
            to: None,
            format,
            network: network.clone(),
        };
        assert_eq!(export(Format::Csv).run().await.unwrap().text, "id,amount\n1,10\n2,20");
        let found = export(Format::Json).run().await.unwrap().json;
        assert_eq!(found, json!({ "receipts": [{ "id": 1 }, { "id": 2 }], "next": null }));
    }
}
