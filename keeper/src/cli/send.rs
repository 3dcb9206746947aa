//! Contract calls with a payer's or stranger's own key: no keeper in between.

use std::time::Duration;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{TransactionBuilder, TxSignerSync};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use alloy::transports::{RpcError, TransportErrorKind};

use super::failure::{Failure, Result};
use super::output::spinner;
use super::revert;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);

/// A key on one chain.
#[derive(Clone, Debug)]
pub struct Wallet {
    pub provider: DynProvider,
    pub signer: PrivateKeySigner,
}

impl Wallet {
    /// Account that acts.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// Sends a call and waits for its receipt.
    ///
    /// # Errors
    /// The contract's error in snake case when it would revert (nothing is sent then), `reverted`, `rpc_failed`,
    /// `unconfirmed` when no block took it in two minutes (it may still be taken).
    pub async fn send<C: SolCall>(&self, to: Address, call: &C) -> Result<TransactionReceipt> {
        self.send_raw(TxKind::Call(to), call.abi_encode().into()).await
    }

    /// Sends a call with `value` wei and waits for its receipt.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_with<C: SolCall>(&self, to: Address, call: &C, value: U256) -> Result<TransactionReceipt> {
        let hash = self.broadcast(TxKind::Call(to), call.abi_encode().into(), value).await?;
        wait(&self.provider, hash).await
    }

    /// Sends calldata, or creation code, and waits for its receipt.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_raw(&self, to: TxKind, input: Bytes) -> Result<TransactionReceipt> {
        let hash = self.broadcast(to, input, U256::ZERO).await?;
        wait(&self.provider, hash).await
    }

    async fn broadcast(&self, to: TxKind, input: Bytes, value: U256) -> Result<B256> {
        let from = self.address();
        let mut request = TransactionRequest::default().with_from(from).with_value(value).with_input(input.clone());
        request.to = Some(to);
        let gas = self.provider.estimate_gas(request).await.map_err(explain)?;
        let fees = self.provider.estimate_eip1559_fees().await.map_err(explain)?;
        let nonce = self.provider.get_transaction_count(from).pending().await.map_err(explain)?;
        let chain_id = self.provider.get_chain_id().await.map_err(explain)?;
        let mut tx = TxEip1559 {
            chain_id,
            nonce,
            // What earlier transactions of the same block change may cost more than the estimate saw.
            gas_limit: gas + gas / 4,
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
            to,
            value,
            access_list: Default::default(),
            input,
        };
        let signature = self
            .signer
            .sign_transaction_sync(&mut tx)
            .map_err(|error| Failure::new("signing_failed", error.to_string()))?;
        let envelope = TxEnvelope::from(tx.into_signed(signature));
        let pending = self.provider.send_raw_transaction(&envelope.encoded_2718()).await.map_err(explain)?;
        Ok(*pending.tx_hash())
    }
}

/// Waits for a transaction's receipt.
///
/// # Errors
/// `reverted`, `unconfirmed`, `rpc_failed`.
pub async fn wait(provider: &DynProvider, hash: B256) -> Result<TransactionReceipt> {
    let spinner = spinner(&format!("waiting for {hash}"));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(receipt) = provider.get_transaction_receipt(hash).await.map_err(explain)? {
            spinner.finish_and_clear();
            if receipt.status() {
                return Ok(receipt);
            }
            return Err(Failure::new("reverted", format!("transaction {hash} reverted")));
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Failure::new(
                "unconfirmed",
                format!("no block took {hash} in {} s; it may still be taken: look it up", PATIENCE.as_secs()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks a view.
///
/// # Errors
/// The contract's error in snake case, `rpc_failed`.
pub async fn read<C: SolCall>(provider: &DynProvider, to: Address, call: &C) -> Result<C::Return> {
    let request = TransactionRequest::default().with_to(to).with_input(call.abi_encode());
    let bytes = provider.call(request).await.map_err(explain)?;
    C::abi_decode_returns(&bytes).map_err(|error| {
        Failure::new("rpc_failed", format!("{to} answers nothing of ours, is it the contract? {error}"))
    })
}

/// Turns an RPC error into the contract's own words where it has some.
pub fn explain(error: RpcError<TransportErrorKind>) -> Failure {
    let data = error.as_error_resp().and_then(|payload| payload.as_revert_data());
    match data {
        Some(data) => revert::explain(&data),
        None => Failure::new("rpc_failed", error.to_string()),
    }
}
