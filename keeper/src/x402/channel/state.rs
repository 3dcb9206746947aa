//! What the contract says of a channel, and what a voucher may then promise.

use serde_json::{Value, json};

use alloy::primitives::{B256, U256};

use super::super::reasons::{Fault, Reason};

/// A channel on the chain; token units, unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// All deposits less refunds and withdrawals; a claim does not lower it.
    pub balance: u128,
    pub total_claimed: u128,
    /// 0 when no withdrawal is pending.
    pub withdraw_requested_at: u64,
    pub refund_nonce: U256,
}

impl State {
    /// As answers carry it.
    pub fn json(&self, channel_id: B256) -> Value {
        json!({
            "channelId": channel_id,
            "balance": self.balance.to_string(),
            "totalClaimed": self.total_claimed.to_string(),
            "withdrawRequestedAt": self.withdraw_requested_at,
            "refundNonce": self.refund_nonce.to_string(),
        })
    }

    /// Token units that no claim has taken.
    pub const fn refundable(&self) -> u128 {
        self.balance.saturating_sub(self.total_claimed)
    }
}

/// What a voucher is handed in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// With a deposit of so many token units.
    Deposit(u128),
    /// To pay.
    Pay,
    /// To have the rest back.
    Refund,
}

/// Whether a voucher for `max` token units in all is worth something.
///
/// # Errors
/// `invalid_batch_settlement_evm_channel_not_found`, `…_cumulative_exceeds_balance`, `…_cumulative_below_claimed`.
pub fn covers(state: &State, max: u128, purpose: Use) -> Result<(), Fault> {
    let balance = match purpose {
        Use::Deposit(amount) => state.balance.saturating_add(amount),
        Use::Pay | Use::Refund => state.balance,
    };
    if balance == 0 {
        return Err(Fault::new(Reason::BatchChannelNotFound, "the channel has no balance: deposit first"));
    }
    if max > balance {
        let text = format!("maxClaimableAmount is {max}, the channel holds {balance} in all: deposit more");
        return Err(Fault::new(Reason::BatchExceedsBalance, text));
    }
    let claimed = state.total_claimed;
    let below = if purpose == Use::Refund { max < claimed } else { max <= claimed };
    if below {
        let text = format!("maxClaimableAmount is {max}, of which {claimed} are claimed already: sign for more");
        return Err(Fault::new(Reason::BatchBelowClaimed, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voucher_is_worth_what_is_deposited_and_not_claimed() {
        let state = State { balance: 100, total_claimed: 40, ..State::default() };
        let of = |max, purpose| covers(&state, max, purpose).map_err(|fault| fault.reason);
        assert_eq!(of(41, Use::Pay), Ok(()));
        assert_eq!(of(100, Use::Pay), Ok(()));
        assert_eq!(of(101, Use::Pay), Err(Reason::BatchExceedsBalance));
        assert_eq!(of(40, Use::Pay), Err(Reason::BatchBelowClaimed));
        assert_eq!(of(150, Use::Deposit(50)), Ok(()));
        assert_eq!(of(151, Use::Deposit(50)), Err(Reason::BatchExceedsBalance));
        assert_eq!(of(40, Use::Refund), Ok(()));
        assert_eq!(of(101, Use::Refund), Err(Reason::BatchExceedsBalance));
        assert_eq!(of(39, Use::Refund), Err(Reason::BatchBelowClaimed));
        let empty = State::default();
        assert_eq!(covers(&empty, 1, Use::Pay).unwrap_err().reason, Reason::BatchChannelNotFound);
        assert_eq!(covers(&empty, 1, Use::Deposit(1)), Ok(()));
        assert_eq!(covers(&empty, u128::MAX, Use::Deposit(u128::MAX)), Ok(()));
    }

    #[test]
    fn as_servers_parse_it() {
        let state = State { balance: 7, total_claimed: 2, withdraw_requested_at: 5, refund_nonce: U256::from(3) };
        assert_eq!(state.refundable(), 5);
        assert_eq!(
            state.json(B256::ZERO),
            json!({ "channelId": B256::ZERO, "balance": "7", "totalClaimed": "2", "withdrawRequestedAt": 5, "refundNonce": "3" })
        );
    }
}
