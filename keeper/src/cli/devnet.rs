//! `devnet`: two local chains, contracts, nodes and a keeper; with `--demo` the whole story and its checks.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::failure::{Failure, Result};
use super::output::Report;
use crate::config::Disputes;
use crate::devnet::demo::{self, finish, story};
use crate::devnet::keeper::KeeperProcess;
use crate::devnet::{self, Options, deploy::Deployment, periods::Periods};

/// How to run it.
#[derive(Args, Debug)]
pub struct Devnet {
    /// Play the demonstration and check what came of it
    #[arg(long)]
    demo: bool,
    /// Orders over HTTP in the demonstration
    #[arg(long, default_value_t = demo::INFERENCES, requires = "demo", value_parser = at_least_24)]
    inferences: usize,
    /// Leave everything running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write the demonstration's report
    #[arg(long, value_name = "FILE", requires = "demo")]
    json: Option<PathBuf>,
    /// Program that is given the report while the chains still run; its failure is the demonstration's
    #[arg(long, value_name = "PROGRAM", requires = "demo")]
    audit: Option<PathBuf>,
    /// Program that pays with stock x402 clients when it is given the network file: script/clients/demo
    #[arg(long, value_name = "PROGRAM", requires = "demo")]
    clients: Option<PathBuf>,
    /// Program that runs an OpenGradient gateway when it is given the network file: script/clients/opengradient/demo; without it
    /// the demonstration sends what a gateway sends
    #[arg(long, value_name = "PROGRAM", requires = "demo")]
    gateway: Option<PathBuf>,
    /// Base goes on from the head of the chain behind this RPC (chain id 8453) and uses the x402 contracts, Permit2 and tokens that
    /// are there instead of ours. Tried against a local chain only, never against a live one; an endpoint must have the state of
    /// the block that it was forked at for as long as the devnet runs
    #[arg(long, value_name = "URL", conflicts_with = "demo")]
    fork_url: Option<String>,
    /// Folder for logs, database and network file; default: a new temporary one, removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn at_least_24(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(number @ 24..=10_000) => Ok(number),
        _ => Err("a number from 24 to 10000".to_owned()),
    }
}

/// A folder that is removed with this value, unless it was the caller's own or something in it is still wanted.
struct Folder {
    path: PathBuf,
    remove: bool,
}

impl Folder {
    fn new(wanted: Option<&Path>) -> Result<Self> {
        let (path, remove) = match wanted {
            Some(path) => (path.to_owned(), false),
            None => (std::env::temp_dir().join(format!("quittance-devnet-{}", std::process::id())), true),
        };
        std::fs::create_dir_all(&path)?;
        if path.join("keeper.db").exists() {
            let text = format!("{} holds another devnet's database: name an empty folder", path.display());
            return Err(Failure::usage("bad_configuration", text));
        }
        Ok(Self { path, remove })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.remove {
            // Nothing depends on it; the system clears its temporary folder some day.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Devnet {
    /// Runs it.
    pub async fn run(&self) -> Result<Report> {
        let mut folder = Folder::new(self.dir.as_deref())?;
        let work = if self.demo { self.demo(&folder.path).await } else { self.plain(&folder.path).await };
        if work.as_ref().map_or(true, |report| !report.ok) {
            // Logs tell why.
            folder.remove = false;
            let _ = writeln!(std::io::stderr(), "logs and database are in {}", folder.path.display());
        }
        work
    }

    async fn plain(&self, dir: &Path) -> Result<Report> {
        let options = Options { fork: self.fork_url.clone(), ..Options::default() };
        let devnet = devnet::up(dir, options).await?;
        let mut keeper = KeeperProcess::start(&std::env::current_exe()?, dir, &devnet.config, &devnet.keys)?;
        keeper.ready().await?;
        // Somebody to play with.
        demo::wallets::Wallet::funded(&devnet, 0).await?;
        keep(&devnet.deployment, dir).await?;
        Ok(Report { json: json!({}), text: String::new(), ok: true })
    }

    async fn demo(&self, dir: &Path) -> Result<Report> {
        let started = Instant::now();
        let work = async {
            let options = Options { periods: Periods::demo(), ..Options::default() };
            let mut devnet = devnet::up(dir, options).await?;
            // Enough units that a row with most of the money is among them.
            devnet.config.disputes = Disputes { challenge: true, units: 32, ..Disputes::default() };
            let players = demo::Players { clients: self.clients.as_deref(), gateway: self.gateway.as_deref() };
            demo::play(devnet, std::env::current_exe()?, self.inferences, players, started).await
        };
        // Children end with their owner: a signal must reach it as an ordinary end.
        let (stage, report) = tokio::select! {
            played = work => played?,
            _ = devnet::interrupted() => return Err(Failure::new("interrupted", "stopped by a signal")),
        };
        let file = self.json.clone().unwrap_or_else(|| dir.join("report.json"));
        write(&report, &file)?;
        let mut text = finish::shown(&report);
        let mut ok = report.checks.iter().all(|check| check.ok);
        if let Some(program) = &self.audit {
            let output = tokio::process::Command::new(program).arg(&file).output().await.map_err(|error| {
                Failure::usage("bad_configuration", format!("cannot start {}: {error}", program.display()))
            })?;
            ok &= output.status.success();
            let said = [output.stdout, output.stderr].concat();
            text.push_str(&format!(
                "\n\naudit without the keeper's code:\n{}",
                String::from_utf8_lossy(&said).trim_end()
            ));
        }
        text.push_str(&format!("\n\n{}", figures(&report, started)));
        text.push_str(if ok { "\neverything holds" } else { "\nSOMETHING DOES NOT HOLD" });
        if self.keep {
            let _ = writeln!(std::io::stdout(), "{text}");
            keep(&stage.devnet.deployment, dir).await?;
            return Ok(Report { json: json!({}), text: String::new(), ok });
        }
        drop(stage);
        Ok(Report { json: json!({}), text, ok })
    }
}

fn write(report: &story::Report, file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).map_err(|error| Failure::new("failed", error.to_string()))?;
    std::fs::write(file, text)
        .map_err(|error| Failure::usage("unwritable_file", format!("{}: {error}", file.display())))
}

fn figures(report: &story::Report, started: Instant) -> String {
    let peak = report.metrics.get("keeperPeakMemoryKiB").and_then(serde_json::Value::as_array);
    let peak = peak.into_iter().flatten().filter_map(serde_json::Value::as_u64).max().unwrap_or(0);
    let total = |name: &str| report.totals.get(name).map(ToString::to_string).unwrap_or_default();
    format!(
        "{} inferences, {} batches, {} verified, {} recorded; keeper's peak memory {} MiB; {:.0} s",
        total("inferences"),
        total("batches"),
        total("verified"),
        total("recorded"),
        peak / 1024,
        started.elapsed().as_secs_f64()
    )
}

/// Prints what there is and waits for Ctrl-C.
async fn keep(deployment: &Deployment, dir: &Path) -> Result<()> {
    let network = dir.join("network.json");
    let shown = network.display();
    let base = &deployment.network.base;
    let mut out = std::io::stdout();
    let mut lines = vec![
        String::new(),
        "The devnet runs until Ctrl-C. Keys are public and worth nothing anywhere else.".to_owned(),
        format!("  Base          {}  (chain {})", base.rpc, base.chain_id),
        format!(
            "  OpenGradient  {}  (chain {})",
            deployment.network.opengradient.rpc, deployment.network.opengradient.chain_id
        ),
        format!("  keeper        {}", deployment.network.keeper.url),
        format!(
            "  x402          facilitator {}, forwarder {}",
            deployment.network.keeper.url, deployment.contracts.x402.forwarder
        ),
        format!("  network file  {shown}"),
    ];
    lines.extend(deployment.nodes.iter().map(|node| format!("  node          {}  {}", node.url, node.id)));
    let payer = crate::devnet::keys::Key::of("payer-0")?;
    let x402_payer = crate::devnet::keys::Key::of("x402-payer")?;
    lines.extend([
        format!("  a payer       {}", payer.address()),
        format!("  an x402 payer {} (wallet {})", x402_payer.address(), deployment.contracts.x402.wallet),
        String::new(),
        "Try:".to_owned(),
        format!("  export PATH={}:$PATH", std::env::current_exe()?.parent().unwrap_or(dir).display()),
        format!("  export QUITTANCE_NETWORK={shown} QUITTANCE_KEY={}", payer.hex()),
        format!("  quittance balance {} --token USDC", payer.address()),
        r#"  echo '{"model":"canned-small","messages":[{"role":"user","content":"Hello?"}]}' > request.json"#
            .to_owned(),
        "  quittance request hash request.json".to_owned(),
        "  quittance order sign --request request.json --token USDC --max 0.01 > order.json".to_owned(),
        "  quittance order submit order.json".to_owned(),
        "  quittance receipt export --format csv".to_owned(),
        "  quittance withdraw --token USDC --amount 1".to_owned(),
        format!("  curl {}/openapi.json", deployment.network.keeper.url),
        format!("  curl {}/supported", deployment.network.keeper.url),
        String::new(),
        "Stock x402 clients and an OpenGradient gateway (in the repository):".to_owned(),
        format!("  export FACILITATOR={} RPC={} PAYER={}", deployment.network.keeper.url, base.rpc, x402_payer.hex()),
        "  script/clients/run server express".to_owned(),
        "  script/clients/run pay fetch SERVER/upto".to_owned(),
        format!("  script/clients/run gateway {shown}"),
        format!("  script/clients/run ask {shown} GATEWAY"),
    ]);
    // A closed pipe is the reader's choice; the devnet goes on.
    let _ = writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush());
    devnet::interrupted().await?;
    Ok(())
}
