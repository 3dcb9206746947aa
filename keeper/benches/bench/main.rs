//! The project's benchmarks: `script/bench [NAME …] [--json FILE]`. A figure is never a pass or a failure; only a run
//! that could not be carried out, or whose answers were wrong, ends with an error.

mod crypto;
mod day;
mod fixture;
mod http;
mod intake;
mod keeper;
mod payments;
mod report;
mod settle;
mod start;
mod whole;
mod x402;

use std::path::PathBuf;

use clap::Parser;
use eyre::Result;
use report::Report;

/// Every benchmark in the order in which all of them run.
const NAMES: [&str; 7] = ["crypto", "ingest", "completions", "settle", "x402", "start", "day"];

#[derive(Parser)]
#[command(about = "Benchmarks of the keeper; without a name all of them run")]
struct Arguments {
    /// crypto, ingest, completions, settle, x402, start, day
    names: Vec<String>,
    /// Also write the figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Share of the usual amount of work, for a first look
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        eyre::bail!("no benchmark {unknown:?}: there are {}", NAMES.join(", "));
    }
    let mut report = Report::start();
    for name in NAMES {
        if !arguments.names.is_empty() && !arguments.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        report.section(name);
        match name {
            "crypto" => crypto::run(&mut report)?,
            "ingest" => intake::run(&mut report, arguments.scale).await?,
            "completions" => whole::run(&mut report, arguments.scale).await?,
            "settle" => settle::run(&mut report, arguments.scale).await?,
            "x402" => x402::run(&mut report, arguments.scale).await?,
            "start" => start::run(&mut report, arguments.scale).await?,
            _ => day::run(&mut report, arguments.scale).await?,
        }
    }
    report.finish(arguments.json.as_deref())
}

/// `count` times the share of work that was asked for, at least `least`.
fn scaled(count: usize, scale: f64, least: usize) -> usize {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let scaled = (count as f64 * scale) as usize;
    scaled.max(least)
}
