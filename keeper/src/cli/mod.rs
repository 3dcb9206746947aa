//! The command line for payers, nodes and operators.

pub mod amount;
pub mod devnet;
pub mod dispute;
pub mod erc20;
pub mod failure;
pub mod http;
pub mod key;
pub mod money;
pub mod network;
pub mod operate;
pub mod order;
pub mod order_file;
pub mod output;
pub mod receipt;
pub mod request;
pub mod revert;
pub mod send;
pub mod settle;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

use failure::{Failure, Result};
use output::Report;

#[derive(Debug, Parser)]
#[command(
    name = "quittance",
    version,
    about = "Payments for verifiable AI inference: the keeper, and tools that need none",
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the keeper
    Run(RunArgs),
    /// Configuration files: check
    Config(Json<Nested<ConfigCommand>>),
    /// Two local chains, contracts, nodes and a keeper
    Devnet(devnet::Devnet),
    /// Put tokens into the escrow
    Deposit(Json<money::Deposit>),
    /// Take free balance out of the escrow
    Withdraw(Json<money::Withdraw>),
    /// Leave money in place for orders that name a keeper
    Lock(Json<money::LockMoney>),
    /// Return an expired lock to its payer. Anyone can
    Unlock(Json<money::Unlock>),
    /// Show an account: free, held, locked
    Balance(Json<money::Balance>),
    /// Orders: sign, submit, hold, open, reclaim, cancel
    Order(Json<Nested<order::OrderCommand>>),
    /// Settle one inference against its three signatures. Anyone can
    Settle(Json<settle::Settle>),
    /// Pay the nodes of a batch after its window. Anyone can
    Finalize(Json<settle::Finalize>),
    /// Demand the receipts behind units of a batch's money. Anyone can
    Challenge(Json<dispute::Challenge>),
    /// Show the receipt of a challenged row. Anyone who has it can
    Answer(Json<dispute::Answer>),
    /// Void a challenged row that nobody proved in time. Anyone can
    Resolve(Json<dispute::Resolve>),
    /// Take won and returned bonds out of the dispute game
    Bonds(Json<dispute::Bonds>),
    /// Hand a settled answer to the contract that ordered it. Anyone can
    Deliver(Json<settle::Deliver>),
    /// Receipts: get, verify, export
    Receipt(Json<Nested<receipt::ReceiptCommand>>),
    /// Requests: canonical bytes and hash
    Request(Json<Nested<request::RequestCommand>>),
    /// API keys of a keeper's database: create, revoke, list
    Key(Json<Nested<key::KeyCommand>>),
    /// How a keeper stands
    Status(Json<operate::status::Status>),
    /// Check everything that a keeper needs
    Doctor(Json<operate::doctor::Doctor>),
    /// Find what one chain has and the other, or the database, has not
    Reconcile(Json<operate::reconcile::Reconcile>),
    /// One order, settlement, batch or transaction: explain, retry, quarantine
    Admin(Json<Nested<operate::admin::AdminCommand>>),
    /// Copy a SQLite database while the keeper runs
    Backup(Json<operate::backup::Backup>),
}

/// How to run the keeper.
#[derive(clap::Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    at: operate::At,
    /// How to log to standard error; RUST_LOG says how much
    #[arg(long, value_enum, default_value_t = LogForm::Text)]
    log: LogForm,
    /// Log one line for each step of each order, with the ids that join them
    #[arg(long)]
    trail: bool,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogForm {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read and check it, start nothing
    Check(operate::check::Check),
}

/// Any command with `--json`.
#[derive(clap::Args, Debug)]
struct Json<T: clap::Args> {
    #[command(flatten)]
    inner: T,
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
}

/// A group of subcommands as arguments.
#[derive(clap::Args, Debug)]
struct Nested<T: Subcommand> {
    #[command(subcommand)]
    command: T,
}

/// Runs the program: parses the command line, acts, prints. Exit code 0 ok, 1 failed, 2 usage or configuration.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return print(&Err(error.into()), false),
    };
    let (result, json) = runtime.block_on(cli.command.run());
    // Child processes and loops have ended by now; what remains are idle connections.
    runtime.shutdown_background();
    print(&result, json)
}

impl Command {
    async fn run(self) -> (Result<Report>, bool) {
        match self {
            Self::Run(args) => (run_keeper(args).await, false),
            Self::Config(Json { inner: Nested { command: ConfigCommand::Check(args) }, json }) => (args.run(), json),
            Self::Devnet(args) => (args.run().await, false),
            Self::Deposit(args) => (args.inner.run().await, args.json),
            Self::Withdraw(args) => (args.inner.run().await, args.json),
            Self::Lock(args) => (args.inner.run().await, args.json),
            Self::Unlock(args) => (args.inner.run().await, args.json),
            Self::Balance(args) => (args.inner.run().await, args.json),
            Self::Order(args) => (args.inner.command.run().await, args.json),
            Self::Settle(args) => (args.inner.run().await, args.json),
            Self::Finalize(args) => (args.inner.run().await, args.json),
            Self::Challenge(args) => (args.inner.run().await, args.json),
            Self::Answer(args) => (args.inner.run().await, args.json),
            Self::Resolve(args) => (args.inner.run().await, args.json),
            Self::Bonds(args) => (args.inner.run().await, args.json),
            Self::Deliver(args) => (args.inner.run().await, args.json),
            Self::Receipt(args) => (args.inner.command.run().await, args.json),
            Self::Request(args) => (args.inner.command.run(), args.json),
            Self::Key(args) => (args.inner.command.run().await, args.json),
            Self::Status(args) => (args.inner.run().await, args.json),
            Self::Doctor(args) => (args.inner.run().await, args.json),
            Self::Reconcile(args) => (args.inner.run().await, args.json),
            Self::Admin(args) => (args.inner.command.run().await, args.json),
            Self::Backup(args) => (args.inner.run().await, args.json),
        }
    }
}

async fn run_keeper(args: RunArgs) -> Result<Report> {
    crate::app::log(args.log == LogForm::Json, args.trail);
    let config = args.at.load()?;
    crate::app::run(config).await?;
    Ok(Report { json: json!({}), text: String::new(), ok: true })
}

fn print(result: &Result<Report>, json: bool) -> ExitCode {
    match result {
        Ok(report) => {
            let text = if json { report.json.to_string() } else { report.text.clone() };
            if !text.is_empty() {
                // A closed pipe is the reader's choice, no failure.
                let _ = writeln!(std::io::stdout(), "{text}");
            }
            if report.ok { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(failure) => {
            if json {
                let _ = writeln!(std::io::stdout(), "{}", failure.to_json());
            } else {
                let _ = writeln!(std::io::stderr(), "quittance: {failure}");
            }
            ExitCode::from(failure.exit)
        }
    }
}

/// Nothing is printed twice: a failure of a report is in the report.
impl From<eyre::Report> for Failure {
    fn from(report: eyre::Report) -> Self {
        match report.downcast::<crate::error::Error>() {
            Ok(error) => error.into(),
            Err(report) => Self::new("failed", format!("{report:#}")),
        }
    }
}
