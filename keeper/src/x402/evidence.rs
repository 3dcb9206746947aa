//! Whether somebody else settled a payment: anyone may send what a payer signed. Pure; what counts is that the very call is in a
//! transaction's input and that the token logged its transfer.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::rpc::types::{Filter, Log, TransactionReceipt};
use alloy::sol_types::{SolEvent, SolValue};
use quittance_bindings::x402_forwarder::IX402Forwarder::Call;

use super::contracts::{ExactProxy, Token};
use super::outcome::{evidence, method, parts};
use super::plan::Method;
use super::reasons::Reason;
use crate::store::payments::Payment;
use crate::store::searches::Find;

/// Bytes of an ABI word.
const WORD: usize = 32;

/// What a payment leaves on the chain, whoever sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub payment_id: B256,
    pub method: Method,
    pub payer: Address,
    pub receiver: Address,
    pub asset: Address,
    /// Token units; of `upto` it may be less.
    pub amount: U256,
    /// EIP-3009 nonce, or the unordered one of Permit2.
    pub nonce: B256,
    /// Called by whoever settles.
    pub target: Address,
    /// What was signed, as it stands in a call's input. Of `upto` the charge comes between the two.
    parts: Vec<Bytes>,
}

/// Where a payment's nonce may be spent and what this looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The nonce was cancelled.
    Cancelled,
    /// A transaction that may hold the payment.
    Candidate(B256),
}

impl Trace {
    /// Of a stored payment; `None` for what others cannot settle or what had no transaction.
    pub fn of(payment: &Payment) -> Option<Self> {
        let method = method(payment);
        let call = Vec::<Call>::abi_decode(&payment.new.calls).ok()?.pop()?;
        let words = |from: usize, n: usize| call.data.get(4 + from * WORD..4 + (from + n) * WORD);
        // With an ERC-2612 permit, that comes first: five words.
        let first = if method != Method::Eip3009 && with_permit(&call.data) { 5 } else { 0 };
        let (parts, nonce) = match method {
            Method::Eip3009 => (vec![words(0, 6)?], words(5, 1)?),
            Method::Permit2 => (vec![words(first, 7)?], words(first + 2, 1)?),
            Method::Upto => (vec![words(first, 4)?, words(first + 5, 4)?], words(first + 2, 1)?),
            Method::Deposit | Method::Claim | Method::Payout | Method::Refund => return None,
        };
        Some(Self {
            payment_id: payment.new.payment_id,
            method,
            payer: payment.new.payer?,
            receiver: payment.new.receiver,
            asset: payment.new.asset,
            amount: if method == Method::Upto { payment.new.max_amount } else { payment.new.amount },
            nonce: B256::from_slice(nonce),
            target: call.target,
            parts: parts.into_iter().map(Bytes::copy_from_slice).collect(),
        })
    }

    /// The logs to ask for: of an authorization its own, of a permit the transfers between the two.
    pub fn filter(&self) -> Filter {
        let filter = Filter::new().address(self.asset);
        if self.method == Method::Eip3009 {
            let events = vec![Token::AuthorizationUsed::SIGNATURE_HASH, Token::AuthorizationCanceled::SIGNATURE_HASH];
            filter.event_signature(events).topic1(self.payer.into_word()).topic2(self.nonce)
        } else {
            let transfer = Token::Transfer::SIGNATURE_HASH;
            filter.event_signature(transfer).topic1(self.payer.into_word()).topic2(self.receiver.into_word())
        }
    }

    /// What a log of that filter is; `None` when it cannot be of this payment.
    pub fn reads(&self, log: &Log) -> Option<Kind> {
        if log.topic0() == Some(&Token::AuthorizationCanceled::SIGNATURE_HASH) {
            return Some(Kind::Cancelled);
        }
        let fits = self.method == Method::Eip3009
            || Token::Transfer::decode_log(&log.inner).is_ok_and(|event| self.pays(event.data.value));
        log.transaction_hash.filter(|_| fits).map(Kind::Candidate)
    }

    /// Whether so much may have been charged.
    fn pays(&self, value: U256) -> bool {
        value == self.amount || (self.method == Method::Upto && value < self.amount && !value.is_zero())
    }

    /// Whether a transaction's input holds what was signed.
    pub fn is_in(&self, input: &[u8]) -> bool {
        let [first, rest @ ..] = self.parts.as_slice() else { return false };
        let ends = |at: usize| at + first.len();
        let mut places = input.windows(first.len()).enumerate().filter(|(_, bytes)| *bytes == first.as_ref());
        places.any(|(at, _)| rest.iter().all(|part| input.get(ends(at) + WORD..).is_some_and(|i| i.starts_with(part))))
    }

    /// The transfers in a receipt that may be this payment. Where our own forwarder tells payments apart, only this one's own
    /// part counts.
    pub fn finds(&self, receipt: &TransactionReceipt, forwarder: Address) -> Vec<Find> {
        let Some(place) = evidence(receipt).filter(|_| receipt.status()) else { return Vec::new() };
        let own = parts(receipt, forwarder);
        let logs: Vec<&Log> = match own.get(&self.payment_id) {
            Some(part) if part.success => part.logs.clone(),
            None if own.is_empty() => receipt.logs().iter().collect(),
            _ => return Vec::new(),
        };
        let found = if self.method == Method::Eip3009 { self.after_use(&logs) } else { self.before_settled(&logs) };
        let find = |(log, amount): (&Log, U256)| log.log_index.map(|log_index| Find { amount, place, log_index });
        found.into_iter().filter_map(find).collect()
    }

    /// The token's next log after the use of the authorization: tokens log both together.
    fn after_use<'a>(&self, logs: &[&'a Log]) -> Vec<(&'a Log, U256)> {
        let mut of_token = logs.iter().filter(|log| log.address() == self.asset).skip_while(|log| {
            let used = Token::AuthorizationUsed::decode_log(&log.inner);
            !used.is_ok_and(|event| event.data.authorizer == self.payer && event.data.nonce == self.nonce)
        });
        let next = of_token.nth(1).and_then(|log| Some((*log, self.transfer(log)?)));
        next.into_iter().collect()
    }

    /// Transfers that the proxy's event follows.
    fn before_settled<'a>(&self, logs: &[&'a Log]) -> Vec<(&'a Log, U256)> {
        let mut last = None;
        let mut found = Vec::new();
        for log in logs {
            if log.address() == self.asset && log.topic0() == Some(&Token::Transfer::SIGNATURE_HASH) {
                last = self.transfer(log).map(|amount| (*log, amount));
            } else if log.address() == self.target {
                let topic = log.topic0();
                let settled = [ExactProxy::Settled::SIGNATURE_HASH, ExactProxy::SettledWithPermit::SIGNATURE_HASH];
                if topic.is_some_and(|topic| settled.contains(topic)) {
                    found.extend(last.take());
                }
            }
        }
        found
    }

    /// The amount of a log that is a transfer of this payment.
    fn transfer(&self, log: &Log) -> Option<U256> {
        let event = Token::Transfer::decode_log(&log.inner).ok().filter(|_| log.address() == self.asset)?.data;
        (event.from == self.payer && event.to == self.receiver && self.pays(event.value)).then_some(event.value)
    }
}

/// Whether a call of a proxy brings an ERC-2612 permit.
fn with_permit(data: &[u8]) -> bool {
    use alloy::sol_types::SolCall;

    use super::contracts::UptoProxy;
    let selectors = [ExactProxy::settleWithPermitCall::SELECTOR, UptoProxy::settleWithPermitCall::SELECTOR];
    data.get(..4).is_some_and(|found| selectors.iter().any(|selector| selector == found))
}

/// Whether a refusal may mean that somebody else settled the payment: it says so, or nothing at all.
pub fn may_be_settled(reason: Reason) -> bool {
    proven_spent(reason.as_str()) || matches!(reason, Reason::ExactTransactionFailed | Reason::UptoTransactionFailed)
}

/// Whether a refusal says that the nonce is spent.
pub fn proven_spent(reason: &str) -> bool {
    [Reason::ExactNonceUsed, Reason::Permit2InvalidNonce].iter().any(|spent| spent.as_str() == reason)
}

#[cfg(test)]
mod tests {
    use alloy::consensus::{Receipt, ReceiptEnvelope, ReceiptWithBloom};
    use alloy::sol_types::SolCall;
    use quittance_bindings::X402Forwarder::Forwarded;

    use super::super::contracts::{
        EXACT_PROXY, PermitTransferFrom, TokenPermissions, TokenWhole, UPTO_PROXY, UptoProxy,
    };
    use super::*;
    use crate::store::payments::fixtures;
    use crate::types::PaymentState;

    const PAYER: Address = Address::repeat_byte(1);
    const RECEIVER: Address = Address::repeat_byte(2);
    const ASSET: Address = Address::repeat_byte(3);
    const FORWARDER: Address = Address::repeat_byte(4);
    const NONCE: B256 = B256::repeat_byte(5);

    fn stored(scheme: &'static str, method: &'static str, target: Address, data: Vec<u8>) -> Payment {
        let call = Call { id: B256::repeat_byte(1), target, gas: 1, data: data.into() };
        let mut new = fixtures::payment(1);
        (new.scheme, new.method, new.calls) = (scheme, method, vec![call].abi_encode());
        Payment { state: PaymentState::Searching, ..fixtures::settled(new) }
    }

    fn authorized(before: u64) -> Payment {
        let data = TokenWhole::transferWithAuthorizationCall {
            from: PAYER,
            to: RECEIVER,
            value: U256::from(10),
            validAfter: U256::ZERO,
            validBefore: U256::from(before),
            nonce: NONCE,
            signature: vec![7; 65].into(),
        };
        stored("exact", "eip3009", ASSET, data.abi_encode())
    }

    fn log(address: Address, data: alloy::primitives::LogData) -> alloy::primitives::Log {
        alloy::primitives::Log { address, data }
    }

    fn used(nonce: B256) -> alloy::primitives::Log {
        log(ASSET, Token::AuthorizationUsed { authorizer: PAYER, nonce }.encode_log_data())
    }

    fn moved(to: Address, value: u64) -> alloy::primitives::Log {
        log(ASSET, Token::Transfer { from: PAYER, to, value: U256::from(value) }.encode_log_data())
    }

    fn forwarded(id: u8, success: bool) -> alloy::primitives::Log {
        let event = Forwarded { id: B256::repeat_byte(id), success, reason: Bytes::new() };
        log(FORWARDER, event.encode_log_data())
    }

    fn receipt(logs: Vec<alloy::primitives::Log>) -> TransactionReceipt {
        let logs = logs.into_iter().enumerate().map(|(index, inner)| Log {
            inner,
            log_index: Some(u64::try_from(index).unwrap()),
            transaction_hash: Some(B256::repeat_byte(9)),
            ..Log::default()
        });
        let receipt = Receipt { status: true.into(), cumulative_gas_used: 1, logs: logs.collect() };
        TransactionReceipt {
            inner: ReceiptEnvelope::Eip1559(ReceiptWithBloom { receipt, logs_bloom: Default::default() }),
            transaction_hash: B256::repeat_byte(9),
            transaction_index: Some(0),
            block_hash: Some(B256::repeat_byte(8)),
            block_number: Some(7),
            gas_used: 1,
            effective_gas_price: 1,
            blob_gas_used: None,
            blob_gas_price: None,
            from: PAYER,
            to: None,
            contract_address: None,
        }
    }

    fn places(trace: &Trace, logs: Vec<alloy::primitives::Log>) -> Vec<u64> {
        trace.finds(&receipt(logs), FORWARDER).iter().map(|find| find.log_index).collect()
    }

    #[test]
    fn an_authorization_is_found_where_it_was_used() {
        let trace = Trace::of(&authorized(99)).unwrap();
        assert_eq!((trace.nonce, trace.amount), (NONCE, U256::from(10)));
        assert_eq!(places(&trace, vec![used(NONCE), moved(RECEIVER, 10)]), [1]);
        let other = B256::repeat_byte(6);
        assert_eq!(places(&trace, vec![used(other), moved(RECEIVER, 10), used(NONCE), moved(RECEIVER, 10)]), [3]);
        for logs in [
            vec![],
            vec![moved(RECEIVER, 10)],
            vec![used(NONCE)],
            // The nonce paid somebody else; what came before and after is another payment.
            vec![used(other), moved(RECEIVER, 10), used(NONCE), moved(PAYER, 10)],
            vec![used(NONCE), moved(PAYER, 10), used(other), moved(RECEIVER, 10)],
            vec![used(NONCE), moved(RECEIVER, 9)],
        ] {
            assert_eq!(places(&trace, logs), Vec::<u64>::new());
        }
        let mut failed = receipt(vec![used(NONCE), moved(RECEIVER, 10)]);
        failed.inner = ReceiptEnvelope::Eip1559(ReceiptWithBloom {
            receipt: Receipt { status: false.into(), cumulative_gas_used: 1, logs: Vec::new() },
            logs_bloom: Default::default(),
        });
        assert!(trace.finds(&failed, FORWARDER).is_empty());
    }

    #[test]
    fn our_own_forwarder_tells_payments_apart() {
        let trace = Trace::of(&authorized(99)).unwrap();
        let pays = || vec![used(NONCE), moved(RECEIVER, 10)];
        assert_eq!(places(&trace, [pays(), vec![forwarded(1, true)]].concat()), [1]);
        assert_eq!(places(&trace, [pays(), vec![forwarded(2, true)]].concat()), Vec::<u64>::new());
        let after = vec![forwarded(2, true), forwarded(1, false)];
        assert_eq!(places(&trace, [pays(), after].concat()), Vec::<u64>::new(), "it is the other payment's");
    }

    #[test]
    fn the_input_shows_what_was_signed() {
        let payment = authorized(99);
        let trace = Trace::of(&payment).unwrap();
        let data = |payment: &Payment| Vec::<Call>::abi_decode(&payment.new.calls).unwrap()[0].data.clone();
        assert!(trace.is_in(&data(&payment)));
        assert!(trace.is_in(&payment.new.calls), "inside of another call");
        assert!(!trace.is_in(&data(&authorized(98))), "another authorization with the same nonce");
        assert!(!trace.is_in(&[]));
    }

    fn charged(amount: u64) -> Payment {
        let permitted = TokenPermissions { token: ASSET, amount: U256::from(10) };
        let permit = PermitTransferFrom { permitted, nonce: NONCE.into(), deadline: U256::from(99) };
        let witness = UptoProxy::Witness { to: RECEIVER, facilitator: FORWARDER, validAfter: U256::ZERO };
        let signature = vec![7; 65].into();
        let amount = U256::from(amount);
        let data = UptoProxy::settleCall { permit, amount, owner: PAYER, witness, signature }.abi_encode();
        stored("upto", "permit2", UPTO_PROXY, data)
    }

    #[test]
    fn a_permit_is_found_before_the_event_of_its_proxy() {
        let mut trace = Trace::of(&charged(4)).unwrap();
        assert_eq!(trace.nonce, NONCE);
        let input = |amount| Vec::<Call>::abi_decode(&charged(amount).new.calls).unwrap()[0].data.clone();
        assert!(trace.is_in(&input(4)) && trace.is_in(&input(5)), "whatever is charged");
        let settled = |address| log(address, ExactProxy::Settled {}.encode_log_data());
        assert_eq!(places(&trace, vec![moved(RECEIVER, 4), settled(UPTO_PROXY)]), [0]);
        assert_eq!(places(&trace, vec![moved(RECEIVER, 11), settled(UPTO_PROXY)]), Vec::<u64>::new());
        assert_eq!(places(&trace, vec![moved(RECEIVER, 4), settled(EXACT_PROXY)]), Vec::<u64>::new());
        assert_eq!(places(&trace, vec![moved(RECEIVER, 4), moved(PAYER, 4), settled(UPTO_PROXY)]), Vec::<u64>::new());
        trace.method = Method::Permit2;
        trace.target = EXACT_PROXY;
        let two = vec![moved(RECEIVER, 10), settled(EXACT_PROXY), moved(RECEIVER, 10), settled(EXACT_PROXY)];
        assert_eq!(places(&trace, two), [0, 2], "which of the two, the store decides");
        assert_eq!(places(&trace, vec![moved(RECEIVER, 4), settled(EXACT_PROXY)]), Vec::<u64>::new());
    }
}
