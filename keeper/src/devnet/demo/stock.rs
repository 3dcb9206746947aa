//! Stock x402 clients in the demonstration: packages from npm that know nothing of Quittance but the URL of its facilitator.
//! They are played by a program that is given the network file; what it says is checked from the chain alone.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, address};
use alloy::providers::Provider;
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEvent;
use quittance_bindings::DevUSDC;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::stage::Stage;
use super::story::Check;
use crate::devnet::deploy::USDC;
use crate::error::{Error, Result};

/// Where x402's channels are on every chain.
const CHANNELS: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
const PATIENCE: Duration = Duration::from_secs(180);

/// Why a check fails, or what it found.
type Found = std::result::Result<String, String>;

/// What the stock clients did, in their own words.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    pub payer: Address,
    pub receiver: Address,
    pub exact: Payment,
    /// Transactions that the facilitator named when the `exact` payment was sent again.
    pub replays: Vec<String>,
    pub upto: Payment,
    pub channel: Channel,
}

/// A payment with a transaction of its own; amounts in token units.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    pub transaction: B256,
    pub amount: U256,
    /// What the payer signed, where less may be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<U256>,
}

/// A payment channel: paid by vouchers, claimed and settled by the server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    pub id: B256,
    pub deposited: B256,
    /// Transactions of the payments by voucher: empty texts.
    pub vouchers: Vec<String>,
    pub claimed: B256,
    pub settled: B256,
    /// Token units that the receiver got.
    pub paid: U256,
}

/// Starts the program that plays them; it works beside the other steps.
///
/// # Errors
/// `io_failed` when it cannot be started.
pub fn start(stage: &Stage, program: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg(stage.devnet.dir.join("network.json")).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    child.map_err(|error| Error::Config(format!("cannot start {}: {error}", program.display())))
}

/// Waits for it and remembers what it did.
///
/// # Errors
/// `io_failed` with what it said.
pub async fn finish(stage: &mut Stage, child: Child) -> Result<()> {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.map_err(std::io::Error::other)??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let stock = serde_json::from_slice(&output.stdout).map_err(|error| {
        let text = format!("stock x402 clients ({error}): {}{said}", String::from_utf8_lossy(&output.stdout));
        std::io::Error::other(text)
    })?;
    stage.story.stock = Some(stock);
    Ok(())
}

/// Checks of what they did; none when they did not take part.
pub async fn checks(stage: &Stage) -> Vec<Check> {
    let Some(stock) = &stage.story.stock else { return Vec::new() };
    let seen = Seen { stage, stock };
    let check = |name, found: Found| {
        let ok = found.is_ok();
        Check { name, ok, detail: found.unwrap_or_else(|why| why) }
    };
    vec![
        check("stock_client_exact", seen.exact().await),
        check("stock_client_upto", seen.upto().await),
        check("stock_client_channel", seen.channel().await),
        check("replayed_settle_paid_once", seen.replayed().await),
    ]
}

struct Seen<'a> {
    stage: &'a Stage,
    stock: &'a Stock,
}

impl Seen<'_> {
    /// Logs of a transaction that is in a block and did not revert.
    async fn logs(&self, transaction: B256) -> std::result::Result<Vec<Log>, String> {
        let provider = self.stage.devnet.chains.base.provider();
        let receipt = provider.get_transaction_receipt(transaction).await.map_err(|error| error.to_string())?;
        let receipt = receipt.ok_or_else(|| format!("{transaction} is in no block"))?;
        if receipt.status() { Ok(receipt.logs().to_vec()) } else { Err(format!("{transaction} reverted")) }
    }

    /// The receiver got exactly this in a transaction, once.
    async fn got(&self, transaction: B256, from: Address, amount: U256) -> std::result::Result<(), String> {
        let logs = self.logs(transaction).await?;
        let transfers = logs.iter().filter(|log| log.address() == USDC);
        let transfers = transfers.filter_map(|log| DevUSDC::Transfer::decode_log(&log.inner).ok());
        let values: Vec<U256> = transfers
            .filter(|transfer| transfer.from == from && transfer.to == self.stock.receiver)
            .map(|transfer| transfer.value)
            .collect();
        if values == [amount] { Ok(()) } else { Err(format!("{transaction} moved {values:?}, expected {amount}")) }
    }

    async fn exact(&self) -> Found {
        let Payment { transaction, amount, .. } = self.stock.exact;
        self.got(transaction, self.stock.payer, amount).await?;
        Ok(format!("{amount} units from {} to {}", self.stock.payer, self.stock.receiver))
    }

    async fn upto(&self) -> Found {
        let Payment { transaction, amount, maximum } = self.stock.upto;
        let maximum = maximum.unwrap_or_default();
        self.got(transaction, self.stock.payer, amount).await?;
        if amount >= maximum {
            return Err(format!("{amount} of {maximum} units were taken"));
        }
        Ok(format!("{amount} of at most {maximum} units"))
    }

    async fn channel(&self) -> Found {
        let channel = &self.stock.channel;
        self.logs(channel.deposited).await?;
        self.logs(channel.claimed).await?;
        self.got(channel.settled, CHANNELS, channel.paid).await?;
        if channel.vouchers.is_empty() || channel.vouchers.iter().any(|transaction| !transaction.is_empty()) {
            return Err(format!("payments by voucher: {:?}", channel.vouchers));
        }
        Ok(format!("{} payments by voucher, {} units claimed and settled", channel.vouchers.len(), channel.paid))
    }

    async fn replayed(&self) -> Found {
        let Payment { transaction, amount, .. } = self.stock.exact;
        let named = transaction.to_string();
        if self.stock.replays.is_empty() || self.stock.replays.iter().any(|other| *other != named) {
            return Err(format!("sent again, {named} was answered with {:?}", self.stock.replays));
        }
        let filter = Filter::new()
            .address(USDC)
            .event_signature(DevUSDC::Transfer::SIGNATURE_HASH)
            .topic1(self.stock.payer.into_word())
            .topic2(self.stock.receiver.into_word())
            .from_block(0);
        let provider = self.stage.devnet.chains.base.provider();
        let logs = provider.get_logs(&filter).await.map_err(|error| error.to_string())?;
        let transfers = logs.iter().filter_map(|log| DevUSDC::Transfer::decode_log(&log.inner).ok());
        let paid = transfers.filter(|transfer| transfer.value == amount).count();
        if paid == 1 {
            return Ok(format!("sent {} times more, paid once", self.stock.replays.len()));
        }
        Err(format!("paid {paid} times"))
    }
}
