//! x402 on a devnet: the keeper's forwarder with its keys, and a payer with money.

use alloy::primitives::{Address, B256, TxKind, U256, keccak256};
use alloy::sol_types::SolValue;
use quittance_bindings::{DevOPG, DevUSDC, X402Forwarder};
use serde::{Deserialize, Serialize};

use super::chains::Anvil;
use super::deploy::{CREATE2_PROXY, OPG, PERMIT2, USDC};
use super::keys::Key;
use super::sender::Sender;
use crate::error::Result;

/// How many keys the forwarder has: as many transactions of payments can wait for a block at once.
const LANES: usize = 3;

/// What the payer has: 1,000 USDC and 10,000 OPG.
const MONEY: [(Address, u128); 2] = [(USDC, 1_000_000_000), (OPG, 10_000_000_000_000_000_000_000)];

/// Addresses of what x402 payments use.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contracts {
    /// Settles for the keeper; the `facilitatorAddress` of `upto` payments.
    pub forwarder: Address,
}

/// Keys of the x402 part.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Adds and removes keys of the forwarder.
    pub owner: Key,
    /// Send payments through the forwarder.
    pub lanes: Vec<Key>,
    /// Has USDC and OPG, and has approved Permit2 for both.
    pub payer: Key,
}

impl Keys {
    /// The devnet's keys.
    ///
    /// # Errors
    /// None in practice, see [`Key::of`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            owner: Key::of("x402-owner")?,
            lanes: (0..LANES).map(|lane| Key::of(format!("x402-{lane}"))).collect::<Result<_>>()?,
            payer: Key::of("x402-payer")?,
        })
    }

    /// All of them: each needs gas money.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        [&self.owner, &self.payer].into_iter().chain(&self.lanes)
    }
}

/// Creates the forwarder where its owner and keys determine.
///
/// # Errors
/// `rpc_failed` naming the transaction that failed.
pub async fn deploy(sender: &mut Sender, keys: &Keys) -> Result<Contracts> {
    let lanes: Vec<Address> = keys.lanes.iter().map(Key::address).collect();
    let arguments = (keys.owner.address(), lanes).abi_encode_params();
    let code = [X402Forwarder::BYTECODE.as_ref(), &arguments].concat();
    let forwarder = CREATE2_PROXY.create2(B256::ZERO, keccak256(&code));
    let input = [B256::ZERO.as_slice(), &code].concat();
    sender.send("X402Forwarder", TxKind::Call(CREATE2_PROXY), input.into()).await?;
    Ok(Contracts { forwarder })
}

/// Gives the payer both tokens and approves Permit2 for them.
///
/// # Errors
/// `rpc_failed` naming the transaction that failed.
pub async fn fund_payer(chain: &Anvil, keys: &Keys) -> Result<()> {
    let mut payer = Sender::new(chain.provider().clone(), chain.chain_id, keys.payer.clone()).await?;
    for (token, amount) in MONEY {
        // Both have the same two calls.
        payer.call(token, &DevUSDC::mintCall { to: payer.address(), amount: U256::from(amount) }).await?;
        payer.call(token, &DevOPG::approveCall { spender: PERMIT2, value: U256::MAX }).await?;
    }
    payer.settle().await.map(drop)
}
