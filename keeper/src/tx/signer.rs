//! Signs one envelope of a transaction. Nothing is broadcast that is not stored first.

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::signers::local::PrivateKeySigner;

use super::fees::Fee;
use crate::error::{Error, Result};
use crate::store::txs::Attempt;

/// What an envelope carries, but for its fee.
#[derive(Clone, Debug)]
pub struct Payload {
    pub chain_id: u64,
    pub nonce: u64,
    pub gas_limit: u64,
    pub target: Address,
    /// Wei.
    pub value: u128,
    pub calldata: Bytes,
}

/// Signs a payload at a fee.
///
/// # Errors
/// `bad_configuration` when the key cannot sign.
pub fn sign(signer: &PrivateKeySigner, payload: &Payload, fee: Fee, now_ms: i64) -> Result<Attempt> {
    let mut tx = TxEip1559 {
        chain_id: payload.chain_id,
        nonce: payload.nonce,
        gas_limit: payload.gas_limit,
        max_fee_per_gas: fee.max_fee,
        max_priority_fee_per_gas: fee.tip,
        to: TxKind::Call(payload.target),
        value: U256::from(payload.value),
        access_list: Default::default(),
        input: payload.calldata.clone(),
    };
    let signature = signer
        .sign_transaction_sync(&mut tx)
        .map_err(|error| Error::Config(format!("the key of {} cannot sign: {error}", signer.address())))?;
    let envelope = TxEnvelope::from(tx.into_signed(signature));
    Ok(Attempt {
        tx_hash: *envelope.tx_hash(),
        raw: envelope.encoded_2718().into(),
        fee,
        created_ms: now_ms,
        broadcast_ms: None,
        last_error: None,
    })
}
