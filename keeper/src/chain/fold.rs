//! Escrow balances as a pure fold over its events: the same arithmetic as the contract's, applied forward when a block comes
//! and again from the first event for what a reorganisation touched.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};

use super::logs::EscrowEvents;
use crate::store::accounts::Account;

/// (payer, token, keeper).
pub type LaneKey = (Address, Address, B256);

/// Lock of a lane: token units, and its end in unix seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockState {
    pub amount: u128,
    pub until: u64,
}

/// The part of the escrow's state that was loaded. What is not loaded is not tracked: events pass it by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balances {
    pub accounts: BTreeMap<(Address, Address), Account>,
    pub locks: BTreeMap<LaneKey, LockState>,
    /// Spent nonces, by lane and `nonce / 256`.
    pub words: BTreeMap<(LaneKey, U256), U256>,
}

impl Balances {
    /// Loads zeros for everything that an event changes.
    pub fn touch(&mut self, event: &EscrowEvents) {
        match event {
            EscrowEvents::Deposited(e) => self.touch_account(e.beneficiary, e.token),
            EscrowEvents::Withdrawn(e) => self.touch_account(e.owner, e.token),
            EscrowEvents::Locked(e) => {
                self.touch_account(e.payer, e.token);
                self.locks.entry((e.payer, e.token, e.keeperId)).or_default();
            }
            EscrowEvents::Unlocked(e) => {
                self.touch_account(e.payer, e.token);
                self.locks.entry((e.payer, e.token, e.keeperId)).or_default();
            }
            EscrowEvents::OrderOpened(e) => self.touch_account(e.order.payer, e.order.token),
            EscrowEvents::OrderCaptured(e) => {
                let lane = (e.payer, e.token, e.keeperId);
                self.touch_account(e.payer, e.token);
                if e.sources.lock != 0 {
                    self.locks.entry(lane).or_default();
                }
                if e.nonceSpent {
                    self.words.entry((lane, e.nonce >> 8)).or_default();
                }
            }
            EscrowEvents::OrderReopened(e) => self.touch_account(e.payer, e.token),
            EscrowEvents::OrderReclaimed(e) => self.touch_account(e.payer, e.token),
            EscrowEvents::NoncesCancelled(e) => {
                self.words.entry(((e.payer, e.token, e.keeperId), U256::from(e.word))).or_default();
            }
            EscrowEvents::LockNoncesCancelled(_) | EscrowEvents::Paused(_) | EscrowEvents::EIP712DomainChanged(_) => {}
            EscrowEvents::Credited(e) => self.touch_account(e.account, e.token),
        }
    }

    /// Whether an event changes anything that is loaded.
    pub fn concerns(&self, event: &EscrowEvents) -> bool {
        let mut other = Self::default();
        other.touch(event);
        other.accounts.keys().any(|key| self.accounts.contains_key(key))
            || other.locks.keys().any(|key| self.locks.contains_key(key))
            || other.words.keys().any(|key| self.words.contains_key(key))
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Which number left its range: then an event is missing, or is none of this escrow.
    pub fn fold(&mut self, event: &EscrowEvents) -> Result<(), String> {
        match event {
            EscrowEvents::Deposited(e) => self.account(e.beneficiary, e.token, |a| add(&mut a.free, e.amount)),
            EscrowEvents::Withdrawn(e) => self.account(e.owner, e.token, |a| sub(&mut a.free, e.amount)),
            EscrowEvents::Locked(e) => {
                if let Some(lock) = self.locks.get_mut(&(e.payer, e.token, e.keeperId)) {
                    *lock = LockState { amount: e.amount, until: e.until.to() };
                }
                self.account(e.payer, e.token, |a| sub(&mut a.free, e.added))
            }
            EscrowEvents::Unlocked(e) => {
                if let Some(lock) = self.locks.get_mut(&(e.payer, e.token, e.keeperId)) {
                    *lock = LockState::default();
                }
                self.account(e.payer, e.token, |a| add(&mut a.free, e.amount))
            }
            EscrowEvents::OrderOpened(e) => self.account(e.order.payer, e.order.token, |a| {
                sub(&mut a.free, e.order.maxAmount)?;
                add(&mut a.held, e.order.maxAmount)
            }),
            EscrowEvents::OrderCaptured(e) => {
                let lane = (e.payer, e.token, e.keeperId);
                if let Some(lock) = self.locks.get_mut(&lane) {
                    sub(&mut lock.amount, e.sources.lock)?;
                }
                if let Some(word) = self.words.get_mut(&(lane, e.nonce >> 8)).filter(|_| e.nonceSpent) {
                    word.set_bit(usize::from(e.nonce.byte(0)), true);
                }
                self.account(e.payer, e.token, |a| {
                    sub(&mut a.held, e.sources.hold)?;
                    sub(&mut a.held, e.released)?;
                    add(&mut a.free, e.released)?;
                    sub(&mut a.free, e.sources.free)
                })
            }
            EscrowEvents::OrderReopened(e) => self.account(e.payer, e.token, |a| add(&mut a.held, e.amount)),
            EscrowEvents::OrderReclaimed(e) => self.account(e.payer, e.token, |a| {
                sub(&mut a.held, e.amount)?;
                add(&mut a.free, e.amount)
            }),
            EscrowEvents::NoncesCancelled(e) => {
                if let Some(word) = self.words.get_mut(&((e.payer, e.token, e.keeperId), U256::from(e.word))) {
                    *word |= e.mask;
                }
                Ok(())
            }
            EscrowEvents::LockNoncesCancelled(_) | EscrowEvents::Paused(_) | EscrowEvents::EIP712DomainChanged(_) => {
                Ok(())
            }
            EscrowEvents::Credited(e) => self.account(e.account, e.token, |a| add(&mut a.free, e.amount)),
        }
    }

    fn touch_account(&mut self, owner: Address, token: Address) {
        self.accounts.entry((owner, token)).or_default();
    }

    fn account(
        &mut self,
        owner: Address,
        token: Address,
        change: impl FnOnce(&mut Account) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(account) = self.accounts.get_mut(&(owner, token)) else { return Ok(()) };
        change(account).map_err(|error| format!("account {owner} of token {token}: {error}"))
    }
}

fn add(to: &mut u128, amount: u128) -> Result<(), String> {
    *to = to.checked_add(amount).ok_or_else(|| format!("{to} + {amount} is too much"))?;
    Ok(())
}

fn sub(from: &mut u128, amount: u128) -> Result<(), String> {
    *from = from.checked_sub(amount).ok_or_else(|| format!("{from} - {amount} is negative"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::aliases::U40;

    use quittance_bindings::InferenceEscrow as Escrow;
    use quittance_bindings::escrow::IInferenceEscrow::Sources;
    use quittance_bindings::escrow::InferenceEscrow::Order;

    use super::*;

    const PAYER: Address = Address::repeat_byte(1);
    const TOKEN: Address = Address::repeat_byte(2);
    const KEEPER: B256 = B256::repeat_byte(3);

    fn deposited(amount: u128) -> EscrowEvents {
        EscrowEvents::Deposited(Escrow::Deposited { seq: 1, beneficiary: PAYER, token: TOKEN, from: PAYER, amount })
    }

    fn opened(max: u128) -> EscrowEvents {
        let order = Order {
            payer: PAYER,
            token: TOKEN,
            maxAmount: max,
            requestCommit: B256::ZERO,
            nodeScope: B256::ZERO,
            keeperId: KEEPER,
            validAfter: U40::ZERO,
            validBefore: U40::ZERO,
            captureDeadline: U40::ZERO,
            nonce: U256::from(300),
        };
        EscrowEvents::OrderOpened(Escrow::OrderOpened {
            seq: 1,
            orderId: B256::ZERO,
            payer: PAYER,
            keeperId: KEEPER,
            order,
            requestBody: Default::default(),
        })
    }

    fn captured(hold: u128, lock: u128, free: u128, released: u128) -> EscrowEvents {
        EscrowEvents::OrderCaptured(Escrow::OrderCaptured {
            seq: 1,
            orderId: B256::ZERO,
            payer: PAYER,
            token: TOKEN,
            keeperId: KEEPER,
            nonce: U256::from(300),
            sources: Sources { hold, lock, free },
            released,
            nonceSpent: true,
        })
    }

    fn locked(added: u128, amount: u128) -> EscrowEvents {
        EscrowEvents::Locked(Escrow::Locked {
            seq: 1,
            payer: PAYER,
            token: TOKEN,
            keeperId: KEEPER,
            added,
            amount,
            until: U40::from(99),
            nonce: U256::ZERO,
        })
    }

    #[test]
    fn money_moves_as_in_the_contract() {
        let events = [deposited(100), opened(30), captured(20, 0, 0, 10), locked(50, 50), captured(0, 40, 5, 0)];
        let mut balances = Balances::default();
        for event in &events {
            balances.touch(event);
        }
        for event in &events {
            balances.fold(event).unwrap();
        }
        assert_eq!(balances.accounts[&(PAYER, TOKEN)], Account { free: 25, held: 0 });
        assert_eq!(balances.locks[&(PAYER, TOKEN, KEEPER)], LockState { amount: 10, until: 99 });
        assert!(balances.words[&((PAYER, TOKEN, KEEPER), U256::from(1))].bit(44));
        assert!(balances.concerns(&deposited(1)));
    }

    #[test]
    fn a_missing_event_shows() {
        let mut balances = Balances::default();
        balances.touch(&deposited(1));
        assert!(balances.fold(&opened(30)).is_err());
        assert_eq!(Balances::default().fold(&opened(30)), Ok(()), "not loaded, not tracked");
    }
}
