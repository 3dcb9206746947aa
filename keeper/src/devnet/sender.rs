//! Many transactions of one key at once, mined in nonce order: a whole deployment takes a few blocks.

use std::time::Duration;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::SolCall;
use quittance_bindings::DevUSDC;
use serde_json::{Value, json};

use super::keys::Key;
use crate::error::{Error, Result};

/// Fits the largest contract and stays under the cap of one transaction (EIP-7825).
const GAS: u64 = 14_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// One key on one devnet chain; nobody else uses the key while this lives.
#[derive(Debug)]
pub struct Sender {
    provider: DynProvider,
    chain_id: u64,
    key: Key,
    nonce: u64,
    sent: Vec<(String, B256)>,
}

impl Sender {
    /// Reads the key's nonce.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn new(provider: DynProvider, chain_id: u64, key: Key) -> Result<Self> {
        let nonce = provider.get_transaction_count(key.address()).await.map_err(|error| rpc(chain_id, &error))?;
        Ok(Self { provider, chain_id, key, nonce, sent: Vec::new() })
    }

    /// Account that sends.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// Sends creation code and tells the address that it will have.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn create(&mut self, name: &str, code: &Bytes, arguments: &[u8]) -> Result<Address> {
        let address = self.key.address().create(self.nonce);
        self.send(name, TxKind::Create, [code.as_ref(), arguments].concat().into()).await?;
        Ok(address)
    }

    /// Sends a call.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn call<C: SolCall>(&mut self, to: Address, call: &C) -> Result<()> {
        self.send(C::SIGNATURE, TxKind::Call(to), call.abi_encode().into()).await
    }

    /// Sends anything.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn send(&mut self, name: &str, to: TxKind, input: Bytes) -> Result<()> {
        let mut tx = TxEip1559 {
            chain_id: self.chain_id,
            nonce: self.nonce,
            gas_limit: GAS,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1_000_000,
            to,
            value: U256::ZERO,
            access_list: Default::default(),
            input,
        };
        let signature = self
            .key
            .signer
            .sign_transaction_sync(&mut tx)
            .map_err(|error| Error::Config(format!("{}: {error}", self.key.role)))?;
        let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
        let pending = self
            .provider
            .send_raw_transaction(&raw)
            .await
            .map_err(|error| Error::Rpc { chain_id: self.chain_id, message: format!("{name}: {error}") })?;
        self.sent.push((name.to_owned(), *pending.tx_hash()));
        self.nonce += 1;
        Ok(())
    }

    /// Gives an account so many more units of a token: ours mint for everybody; on a fork the balance is written.
    ///
    /// # Errors
    /// `rpc_failed`.
    pub async fn mint(&mut self, token: Address, to: Address, amount: U256) -> Result<()> {
        let rpc = |error: &dyn std::fmt::Display| rpc(self.chain_id, error);
        let info: Value = self.provider.raw_request("anvil_nodeInfo".into(), ()).await.map_err(|error| rpc(&error))?;
        if info.pointer("/forkConfig/forkUrl").is_none_or(Value::is_null) {
            return self.call(token, &DevUSDC::mintCall { to, amount }).await;
        }
        let has = DevUSDC::new(token, &self.provider).balanceOf(to).call().await.map_err(|error| rpc(&error))?;
        let params = json!([to, token, has.saturating_add(amount)]);
        let written: std::result::Result<Value, _> = self.provider.raw_request("anvil_dealERC20".into(), params).await;
        written.map(drop).map_err(|error| rpc(&error))
    }

    /// Waits until all that was sent is mined; every one must have succeeded.
    ///
    /// # Errors
    /// `rpc_failed` naming the call that reverted, or that no block took in a minute.
    pub async fn settle(&mut self) -> Result<Vec<TransactionReceipt>> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut receipts = Vec::with_capacity(self.sent.len());
        for (name, hash) in std::mem::take(&mut self.sent) {
            let fail = |what: &str| Error::Rpc { chain_id: self.chain_id, message: format!("{name} ({hash}) {what}") };
            let receipt = loop {
                let found = self.provider.get_transaction_receipt(hash).await.map_err(|e| rpc(self.chain_id, &e))?;
                if let Some(receipt) = found {
                    break receipt;
                }
                if tokio::time::Instant::now() > deadline {
                    return Err(fail("was not mined"));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            if !receipt.status() {
                return Err(fail("reverted"));
            }
            receipts.push(receipt);
        }
        Ok(receipts)
    }
}

fn rpc(chain_id: u64, error: &dyn std::fmt::Display) -> Error {
    Error::Rpc { chain_id, message: error.to_string() }
}
