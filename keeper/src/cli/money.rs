//! `deposit`, `withdraw`, `lock`, `unlock`, `balance`: a payer's account in the escrow.

use alloy::primitives::{Address, B256, U256};
use clap::Args;
use quittance_bindings::{InferenceEscrow, typed::Lock};
use serde_json::json;

use super::amount;
use super::erc20::IERC20;
use super::failure::{Failure, Result};
use super::network::{KeyArgs, Network, NetworkArgs, Token};
use super::order_file::u40;
use super::output::Report;
use super::send::{Wallet, read};
use crate::clock::Clock;

/// Puts tokens into the escrow.
#[derive(Args, Debug)]
pub struct Deposit {
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Decimal amount, such as 12.5
    #[arg(long)]
    amount: String,
    /// Account that is credited; default: the key's own
    #[arg(long)]
    beneficiary: Option<Address>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Takes free balance out of the escrow.
#[derive(Args, Debug)]
pub struct Withdraw {
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Decimal amount, or `all`
    #[arg(long)]
    amount: String,
    /// Receiver; default: the key's own account
    #[arg(long)]
    to: Option<Address>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Leaves money in place for orders that name a keeper, or extends a lock.
#[derive(Args, Debug)]
pub struct LockMoney {
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Decimal amount to add; 0 only extends
    #[arg(long)]
    amount: String,
    /// Keeper id; default: the network file's
    #[arg(long)]
    keeper: Option<B256>,
    /// From now to the end of the lock, such as 1h or 2d
    #[arg(long = "for", value_parser = amount::seconds, value_name = "SPAN")]
    span: u64,
    /// Lock nonce; default: random
    #[arg(long)]
    nonce: Option<U256>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Returns an expired lock to its payer's free balance. Anyone can.
#[derive(Args, Debug)]
pub struct Unlock {
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Account that locked; default: the key's own
    #[arg(long)]
    payer: Option<Address>,
    /// Keeper id; default: the network file's
    #[arg(long)]
    keeper: Option<B256>,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    key: KeyArgs,
}

/// Shows an account: free, held, locked.
#[derive(Args, Debug)]
pub struct Balance {
    /// Account
    owner: Address,
    /// Symbol of the network file, or address
    #[arg(long)]
    token: String,
    /// Keeper id whose lock is shown; default: the network file's
    #[arg(long)]
    keeper: Option<B256>,
    #[command(flatten)]
    network: NetworkArgs,
}

impl Deposit {
    /// Approves what is missing, then deposits.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let escrow = network.escrow()?;
        let token = token(&network, &wallet.provider, &self.token).await?;
        let amount = amount::parse(&self.amount, token.decimals)?;
        let beneficiary = self.beneficiary.unwrap_or_else(|| wallet.address());
        let allowance = IERC20::allowanceCall { owner: wallet.address(), spender: escrow };
        if read(&wallet.provider, token.address, &allowance).await? < U256::from(amount) {
            let approve = IERC20::approveCall { spender: escrow, value: U256::from(amount) };
            wallet.send(token.address, &approve).await?;
        }
        let call = InferenceEscrow::depositCall { token: token.address, beneficiary, amount: U256::from(amount) };
        let receipt = wallet.send(escrow, &call).await?;
        Ok(done("deposited", amount, token, beneficiary, &receipt))
    }
}

impl Withdraw {
    /// Sends free balance to any address.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let escrow = network.escrow()?;
        let token = token(&network, &wallet.provider, &self.token).await?;
        let amount = if self.amount == "all" {
            let account = InferenceEscrow::accountCall { owner: wallet.address(), token: token.address };
            read(&wallet.provider, escrow, &account).await?.free
        } else {
            amount::parse(&self.amount, token.decimals)?
        };
        let to = self.to.unwrap_or_else(|| wallet.address());
        let call = InferenceEscrow::withdrawCall { token: token.address, to, amount };
        let receipt = wallet.send(escrow, &call).await?;
        Ok(done("withdrawn", amount, token, to, &receipt))
    }
}

impl LockMoney {
    /// Locks as the payer.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let token = token(&network, &wallet.provider, &self.token).await?;
        let amount = amount::parse(&self.amount, token.decimals)?;
        let until = Clock::default().now().saturating_add(self.span);
        let lock = Lock {
            payer: wallet.address(),
            token: token.address,
            keeperId: keeper(&network, self.keeper)?,
            amount,
            until: u40(until).ok_or_else(|| Failure::usage("malformed", "--for is too long"))?,
            nonce: self.nonce.unwrap_or_else(|| U256::from(rand::random::<u64>())),
        };
        let call = InferenceEscrow::lockCall { lock_: lock.into(), signature: Default::default() };
        let receipt = wallet.send(network.escrow()?, &call).await?;
        Ok(done("locked", amount, token, wallet.address(), &receipt))
    }
}

impl Unlock {
    /// Unlocks for any payer.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let wallet = Wallet { provider: network.base().await?, signer: self.key.signer()? };
        let escrow = network.escrow()?;
        let token = token(&network, &wallet.provider, &self.token).await?;
        let payer = self.payer.unwrap_or_else(|| wallet.address());
        let keeper_id = keeper(&network, self.keeper)?;
        let lock = InferenceEscrow::lockOfCall { payer, token: token.address, keeperId: keeper_id };
        let amount = read(&wallet.provider, escrow, &lock).await?.amount;
        let call = InferenceEscrow::unlockCall { payer, token: token.address, keeperId: keeper_id };
        let receipt = wallet.send(escrow, &call).await?;
        Ok(done("unlocked", amount, token, payer, &receipt))
    }
}

impl Balance {
    /// Reads account and lock.
    pub async fn run(&self) -> Result<Report> {
        let network = self.network.load()?;
        let provider = network.base().await?;
        let escrow = network.escrow()?;
        let token = token(&network, &provider, &self.token).await?;
        let keeper_id = keeper(&network, self.keeper).unwrap_or_default();
        let account = InferenceEscrow::accountCall { owner: self.owner, token: token.address };
        let account = read(&provider, escrow, &account).await?;
        let lock = InferenceEscrow::lockOfCall { payer: self.owner, token: token.address, keeperId: keeper_id };
        let lock = read(&provider, escrow, &lock).await?;
        let show = |units| amount::format(units, token.decimals);
        let until: u64 = lock.until.to();
        let json = json!({
            "owner": self.owner, "token": token.address, "free": account.free.to_string(),
            "held": account.held.to_string(), "locked": lock.amount.to_string(), "lockedUntil": until,
        });
        let facts = [
            ("free", show(account.free)),
            ("held", show(account.held)),
            ("locked", format!("{} until {until}", show(lock.amount))),
        ];
        Ok(Report::facts(json, &facts))
    }
}

fn done(
    what: &str,
    units: u128,
    token: Token,
    account: Address,
    receipt: &alloy::rpc::types::TransactionReceipt,
) -> Report {
    let json = json!({
        "action": what, "amount": units.to_string(), "token": token.address, "account": account,
        "transaction": receipt.transaction_hash, "block": receipt.block_number, "gasUsed": receipt.gas_used,
    });
    let facts = [
        (what, amount::format(units, token.decimals)),
        ("account", account.to_string()),
        ("transaction", receipt.transaction_hash.to_string()),
        ("gas", receipt.gas_used.to_string()),
    ];
    Report::facts(json, &facts)
}

/// A token by symbol of the network file or by address; decimals from the file or the token itself.
///
/// # Errors
/// `unknown_token`, `rpc_failed`.
pub async fn token(network: &Network, provider: &alloy::providers::DynProvider, name: &str) -> Result<Token> {
    if let Some((_, token)) = network.tokens.iter().find(|(symbol, _)| symbol.eq_ignore_ascii_case(name)) {
        return Ok(*token);
    }
    let address: Address = name.parse().map_err(|_| {
        let known: Vec<&str> = network.tokens.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none without a --network file".to_owned() } else { known.join(", ") };
        Failure::usage("unknown_token", format!("{name:?} is neither an address nor a known symbol ({known})"))
    })?;
    let decimals = read(provider, address, &IERC20::decimalsCall {}).await?;
    Ok(Token { address, decimals })
}

/// The keeper named, or the network's.
///
/// # Errors
/// `missing_setting`.
pub fn keeper(network: &Network, named: Option<B256>) -> Result<B256> {
    let id = named.unwrap_or(network.keeper.id);
    if id.is_zero() {
        return Err(Failure::usage("missing_setting", "name the keeper: --keeper ID, or a --network file"));
    }
    Ok(id)
}
