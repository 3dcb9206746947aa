//! What the chain knows of channels, read in one batch and remembered for a moment: servers ask about the same few again and again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::eips::eip1898::BlockId;
use alloy::primitives::{Address, B256};
use alloy::sol_types::SolCall;

use super::channel::state::State;
use super::contracts::BATCH;
use super::contracts::batch::Batch;
use super::reasons::{Fault, Reason};
use super::state::Network;
use crate::chain::batch::{Answer, Ask};
use crate::tx::classify::Failure;

/// How long a channel's state is good. A payer's withdrawal takes 15 minutes at least.
const TTL: Duration = Duration::from_secs(10);
/// Channels that are remembered.
const MOST: usize = 100_000;

/// Questions that give a channel's state.
pub fn asks(channel_id: B256, from: Address, block: BlockId) -> [Ask; 3] {
    [
        Batch::channelsCall { channelId: channel_id }.abi_encode(),
        Batch::pendingWithdrawalsCall { channelId: channel_id }.abi_encode(),
        Batch::refundNonceCall { channelId: channel_id }.abi_encode(),
    ]
    .map(|data| Ask::call_at(from, BATCH, data.into(), block))
}

/// The state that the answers to [`asks`] give.
///
/// # Errors
/// `…_rpc_read_failed`.
pub fn state(answers: &[Answer]) -> Result<State, Fault> {
    read(answers).ok_or_else(|| {
        Fault::new(Reason::BatchReadFailed, "the channel cannot be read: is the contract on this network? Try again")
    })
}

fn read(answers: &[Answer]) -> Option<State> {
    let [channel, pending, nonce] = answers else { return None };
    let [channel, pending, nonce] = [channel, pending, nonce].map(|answer| answer.as_ref().ok());
    let channel = Batch::channelsCall::abi_decode_returns(channel?).ok()?;
    let pending = Batch::pendingWithdrawalsCall::abi_decode_returns(pending?).ok()?;
    Some(State {
        balance: channel.balance,
        total_claimed: channel.totalClaimed,
        withdraw_requested_at: pending.initiatedAt.to(),
        refund_nonce: Batch::refundNonceCall::abi_decode_returns(nonce?).ok()?,
    })
}

/// Reads a channel as it is at a block.
///
/// # Errors
/// `Failure` when the chain does not answer.
pub async fn at_block(network: &Network, channel_id: B256, block: u64) -> Result<State, Failure> {
    let from = network.config.forwarder;
    let answers = network.rpc.batch(&asks(channel_id, from, BlockId::number(block))).await?;
    read(&answers).ok_or_else(|| {
        let class = crate::tx::classify::Class::Unknown;
        let message = format!("channel {channel_id} cannot be read at block {block}");
        Failure { chain_id: network.config.chain_id, what: "eth_call", class, message }
    })
}

/// Channels that were read a moment ago.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<B256, (State, Instant)>>);

impl Remembered {
    /// The state of a channel, if it was read a moment ago.
    pub fn get(&self, channel_id: B256) -> Option<State> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&channel_id).filter(|(_, at)| at.elapsed() < TTL).map(|(state, _)| *state)
    }

    /// Remembers a channel.
    pub fn set(&self, channel_id: B256, state: State) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, (_, at)| at.elapsed() < TTL);
        }
        if all.len() < MOST {
            all.insert(channel_id, (state, Instant::now()));
        }
    }

    /// A channel is being changed.
    pub fn forget(&self, channel_id: B256) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel_id);
    }
}
