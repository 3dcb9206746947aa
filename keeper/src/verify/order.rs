//! A signed order: everything that can be checked without looking at money or state.

use alloy::primitives::{Address, B256, Signature, U256};
use alloy::sol_types::Eip712Domain;
use quittance_bindings::typed::{Order, domain, order_id, request_commit};

use crate::error::{Code, Refusal};

/// Seconds that `validAfter` may lie in the past: older answers do not count.
pub const MAX_ORDER_AGE: u64 = 300;

/// Longest time from `validAfter` to the capture deadline, seconds: the escrow captures no order that lives longer.
pub const MAX_ORDER_LIFE: u64 = 3 * 86_400;

/// Seconds that a payer's clock may be ahead of ours before its order is refused as not yet valid.
pub const MAX_CLOCK_SKEW: u64 = 5;

/// Chains that an order may have been signed for by mistake; only used to tell the payer so.
const OTHER_CHAINS: [u64; 6] = [8453, 84532, 10740, 1, 11_155_111, 31337];

/// Half the order of secp256k1: signatures above it have a twin and are refused, as on-chain.
const HALF_ORDER: U256 =
    U256::from_limbs([0xDFE9_2F46_681B_20A0, 0x5D57_6E73_57A4_501D, u64::MAX, 0x7FFF_FFFF_FFFF_FFFF]);

/// An order as it was handed in.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    pub order: &'a Order,
    /// 65 bytes, or 64 in the form of EIP-2098; may be absent when the chain holds the order.
    pub signature: Option<&'a [u8]>,
    /// Hashes of the canonical forms of the request, most likely one first.
    pub request_hashes: &'a [B256],
    pub blinding: B256,
    /// The chain holds the maximum for this order: payer, times and nonce were checked there.
    pub held: bool,
}

/// What this keeper serves, at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub chain_id: u64,
    pub escrow: Address,
    pub keeper_id: B256,
    pub tokens: &'a [Address],
    /// Wall clock, unix seconds.
    pub now: u64,
    /// Block time of Base's head, unix seconds.
    pub chain_now: u64,
    /// Seconds that must be left until the capture deadline.
    pub min_time_left: u64,
}

impl Rules<'_> {
    /// Domain of `Order` and `Lock`.
    pub fn domain(&self) -> Eip712Domain {
        domain(self.chain_id, self.escrow)
    }
}

/// An order that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub order_id: B256,
    /// The canonical hash that the order commits to.
    pub request_hash: B256,
    /// 65 bytes with v 27 or 28; `None` for a held order that came without one, or whose payer is a contract.
    pub signature: Option<Vec<u8>>,
}

/// Checks an order, cheapest rule first and the signature last.
///
/// # Errors
/// `unsupported_token`, `other_keeper`, `malformed` (zero amount, times out of order or too far apart, unreadable signature),
/// `request_mismatch`, `order_not_yet_valid`, `order_expired`, `wrong_chain`, `bad_order_signature`.
pub fn check(handed: &Handed<'_>, rules: &Rules<'_>) -> Result<Checked, Refusal> {
    let order = handed.order;
    if !rules.tokens.contains(&order.token) {
        let known: Vec<String> = rules.tokens.iter().map(Address::to_string).collect();
        let text = "this keeper takes no orders in that token: pay in one of the tokens it names";
        return Err(Refusal::mismatch(Code::UnsupportedToken, text, order.token.to_string(), known));
    }
    if order.keeperId != rules.keeper_id && order.keeperId != B256::ZERO {
        let text = "the order names another keeper: hand it in there, or sign one that names this keeper";
        let (actual, expected) = (order.keeperId.to_string(), rules.keeper_id.to_string());
        return Err(Refusal::mismatch(Code::OtherKeeper, text, actual, expected));
    }
    if order.maxAmount == 0 {
        return Err(Refusal::new(Code::Malformed, "maxAmount must be at least 1 token unit"));
    }
    check_times(handed, rules)?;
    let request_hash = match_request(order, handed.request_hashes, handed.blinding)?;
    let domain = rules.domain();
    let id = order_id(order, &domain);
    let signature = match (handed.signature, handed.held) {
        (Some(bytes), held) => match recover(bytes, id) {
            Ok((signer, signature)) if signer == order.payer => Some(signature),
            // The payer may be a contract: the chain accepted its signature when it held the order.
            _ if held => None,
            Ok((signer, _)) => return Err(wrong_signer(order, bytes, signer, rules)),
            Err(refusal) => return Err(refusal),
        },
        (None, true) => None,
        (None, false) => {
            let text = "the order has no signature, and the chain does not hold it: sign it, or open it on-chain first";
            return Err(Refusal::new(Code::BadOrderSignature, text));
        }
    };
    Ok(Checked { order_id: id, request_hash, signature })
}

/// The hash among the request's canonical forms that the order commits to.
///
/// # Errors
/// `request_mismatch`.
pub fn match_request(order: &Order, request_hashes: &[B256], blinding: B256) -> Result<B256, Refusal> {
    let found = request_hashes.iter().find(|hash| request_commit(**hash, blinding) == order.requestCommit);
    found.copied().ok_or_else(|| {
        let text = "the order does not commit to this request with this blinding: \
                    requestCommit must be keccak256(abi.encode(requestHash, blinding)); `quittance request hash` prints it";
        let actual = request_hashes.first().map(|hash| request_commit(*hash, blinding).to_string());
        Refusal::mismatch(Code::RequestMismatch, text, actual, order.requestCommit.to_string())
    })
}

fn check_times(handed: &Handed<'_>, rules: &Rules<'_>) -> Result<(), Refusal> {
    let order = handed.order;
    let [after, before, deadline] =
        [order.validAfter, order.validBefore, order.captureDeadline].map(|time| time.to::<u64>());
    if after > before || before > deadline {
        let text = "times must be in order: validAfter ≤ validBefore ≤ captureDeadline";
        return Err(Refusal::new(Code::Malformed, text));
    }
    if !handed.held && deadline.saturating_sub(after) > MAX_ORDER_LIFE {
        let text = "the order lives too long to be captured: sign one with an earlier captureDeadline";
        let most = after.saturating_add(MAX_ORDER_LIFE);
        return Err(Refusal::mismatch(Code::Malformed, text, deadline, format!("at most {most}")));
    }
    if !handed.held && after > rules.now + MAX_CLOCK_SKEW {
        let text = "the order is not valid yet: hand it in from validAfter on";
        return Err(Refusal::mismatch(Code::OrderNotYetValid, text, after, format!("at most {}", rules.now)));
    }
    if !handed.held && after.saturating_add(MAX_ORDER_AGE) < rules.now {
        let text = "validAfter lies too far in the past: sign a new order";
        let expected = format!("at least {}", rules.now.saturating_sub(MAX_ORDER_AGE));
        return Err(Refusal::mismatch(Code::OrderExpired, text, after, expected));
    }
    if before <= rules.now {
        let text = "the order pays for no answer any more: sign one with a later validBefore";
        return Err(Refusal::mismatch(Code::OrderExpired, text, before, format!("more than {}", rules.now)));
    }
    let least = rules.now.max(rules.chain_now).saturating_add(rules.min_time_left);
    if deadline < least {
        let text = "too little time is left to answer and settle: sign an order with a later captureDeadline";
        return Err(Refusal::mismatch(Code::OrderExpired, text, deadline, format!("at least {least}")));
    }
    Ok(())
}

/// Recovers the signer of a digest from 65 bytes or from the 64 bytes of EIP-2098, low s only, and gives the signature
/// with v 27 or 28.
///
/// # Errors
/// `malformed` for another length, `bad_order_signature` for what no key can have signed.
pub fn recover(bytes: &[u8], digest: B256) -> Result<(Address, Vec<u8>), Refusal> {
    let bad = |text: &str| Refusal::new(Code::BadOrderSignature, text);
    let signature = match bytes.len() {
        64 => Signature::from_erc2098(bytes),
        65 => Signature::from_raw(bytes).map_err(|_| bad("the signature's last byte must be 27 or 28"))?,
        n => {
            let text = "a signature has 65 bytes, or 64 in the form of EIP-2098";
            return Err(Refusal::mismatch(Code::Malformed, text, n, "64 or 65"));
        }
    };
    if signature.s() > HALF_ORDER {
        return Err(bad("the signature has a high s, which the chain refuses: use n − s and the other v"));
    }
    let signer = signature
        .recover_address_from_prehash(&digest)
        .map_err(|_| bad("the signature recovers to no key: sign the order's EIP-712 digest"))?;
    Ok((signer, signature.as_bytes().to_vec()))
}

fn wrong_signer(order: &Order, bytes: &[u8], signer: Address, rules: &Rules<'_>) -> Refusal {
    for chain_id in OTHER_CHAINS.into_iter().filter(|chain_id| *chain_id != rules.chain_id) {
        let id = order_id(order, &domain(chain_id, rules.escrow));
        if recover(bytes, id).is_ok_and(|(other, _)| other == order.payer) {
            let text = "the order is signed for another chain: sign it with the chain id of the escrow";
            return Refusal::mismatch(Code::WrongChain, text, chain_id, rules.chain_id);
        }
    }
    let text = format!(
        "the signature is not the payer's: sign the Order as EIP-712 with domain Quittance, version 1, chain {} and \
         verifying contract {}; an order of a contract must be held on-chain first",
        rules.chain_id, rules.escrow
    );
    Refusal::mismatch(Code::BadOrderSignature, text, signer.to_string(), order.payer.to_string())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::aliases::U40;
    use alloy::primitives::keccak256;
    use alloy::signers::SignerSync;
    use alloy::signers::local::PrivateKeySigner;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_795_200_000;
    const ESCROW: Address = Address::repeat_byte(0xE5);
    const TOKEN: Address = Address::repeat_byte(0x70);
    const KEEPER: B256 = B256::repeat_byte(0x4E);

    fn signer() -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap()
    }

    fn request() -> B256 {
        keccak256("request")
    }

    fn order() -> Order {
        Order {
            payer: signer().address(),
            token: TOKEN,
            maxAmount: 1_000,
            requestCommit: request_commit(request(), B256::ZERO),
            nodeScope: B256::ZERO,
            keeperId: KEEPER,
            validAfter: U40::from(NOW - 10),
            validBefore: U40::from(NOW + 600),
            captureDeadline: U40::from(NOW + 3_600),
            nonce: U256::from(7),
        }
    }

    const fn rules() -> Rules<'static> {
        Rules {
            chain_id: 8453,
            escrow: ESCROW,
            keeper_id: KEEPER,
            tokens: &[TOKEN],
            now: NOW,
            chain_now: NOW,
            min_time_left: 60,
        }
    }

    fn sign(order: &Order, chain_id: u64) -> Vec<u8> {
        let id = order_id(order, &domain(chain_id, ESCROW));
        signer().sign_hash_sync(&id).unwrap().as_bytes().to_vec()
    }

    fn run(order: &Order, signature: Option<&[u8]>, held: bool) -> Result<Checked, Refusal> {
        let hashes = [keccak256("variant"), request()];
        check(&Handed { order, signature, request_hashes: &hashes, blinding: B256::ZERO, held }, &rules())
    }

    fn code(order: &Order) -> Code {
        run(order, Some(&sign(order, 8453)), false).unwrap_err().code
    }

    #[test]
    fn a_good_order_passes_in_every_form_of_its_signature() {
        let order = order();
        let full = sign(&order, 8453);
        let checked = run(&order, Some(&full), false).unwrap();
        assert_eq!(checked.request_hash, request());
        assert_eq!(checked.order_id, order_id(&order, &rules().domain()));
        assert_eq!(checked.signature.as_deref(), Some(full.as_slice()));
        let compact = Signature::from_raw(&full).unwrap().as_erc2098();
        assert_eq!(run(&order, Some(&compact), false).unwrap(), checked);
        let mut low_v = full.clone();
        low_v[64] -= 27;
        assert_eq!(run(&order, Some(&low_v), false).unwrap(), checked);
        assert_eq!(run(&Order { keeperId: B256::ZERO, ..order }, None, true).unwrap().signature, None);
    }

    #[test]
    fn every_refusal_has_its_code() {
        let base = order();
        assert_eq!(code(&Order { token: ESCROW, ..base.clone() }), Code::UnsupportedToken);
        assert_eq!(code(&Order { keeperId: B256::repeat_byte(1), ..base.clone() }), Code::OtherKeeper);
        assert_eq!(code(&Order { maxAmount: 0, ..base.clone() }), Code::Malformed);
        assert_eq!(code(&Order { validBefore: U40::from(NOW - 11), ..base.clone() }), Code::Malformed);
        assert_eq!(code(&Order { captureDeadline: U40::from(NOW + 599), ..base.clone() }), Code::Malformed);
        let long = Order { captureDeadline: U40::from(NOW - 10 + MAX_ORDER_LIFE + 1), ..base.clone() };
        assert_eq!(code(&long), Code::Malformed);
        let longest = Order { captureDeadline: U40::from(NOW - 10 + MAX_ORDER_LIFE), ..base.clone() };
        assert!(run(&longest, Some(&sign(&longest, 8453)), false).is_ok());
        assert_eq!(code(&Order { validAfter: U40::from(NOW + 6), ..base.clone() }), Code::OrderNotYetValid);
        assert_eq!(code(&Order { validAfter: U40::from(NOW - 301), ..base.clone() }), Code::OrderExpired);
        assert_eq!(code(&Order { validBefore: U40::from(NOW), ..base.clone() }), Code::OrderExpired);
        let soon = Order { validBefore: U40::from(NOW + 1), captureDeadline: U40::from(NOW + 59), ..base.clone() };
        assert_eq!(code(&soon), Code::OrderExpired);
        assert_eq!(code(&Order { requestCommit: B256::ZERO, ..base.clone() }), Code::RequestMismatch);
        assert_eq!(code(&Order { payer: ESCROW, ..base.clone() }), Code::BadOrderSignature);
        assert_eq!(run(&base, None, false).unwrap_err().code, Code::BadOrderSignature);
        assert_eq!(run(&base, Some(&[1; 63]), false).unwrap_err().code, Code::Malformed);
        assert_eq!(run(&base, Some(&[0; 65]), false).unwrap_err().code, Code::BadOrderSignature);
        assert_eq!(run(&base, Some(&sign(&base, 84532)), false).unwrap_err().code, Code::WrongChain);
    }

    #[test]
    fn a_high_s_is_refused_although_it_recovers() {
        let order = order();
        let signature = Signature::from_raw(&sign(&order, 8453)).unwrap();
        let n = HALF_ORDER * U256::from(2) + U256::from(1);
        let twin = Signature::new(signature.r(), n - signature.s(), !signature.v());
        let refusal = run(&order, Some(&twin.as_bytes()), false).unwrap_err();
        assert_eq!(refusal.code, Code::BadOrderSignature);
        assert!(refusal.message.contains("high s"), "{}", refusal.message);
    }

    proptest! {
        #[test]
        fn a_changed_order_is_never_the_payers(field in 0_u8..5, by in 1_u64..100) {
            let signed = order();
            let signature = sign(&signed, 8453);
            let mut changed = signed.clone();
            match field {
                0 => changed.maxAmount += u128::from(by),
                1 => changed.nonce += U256::from(by),
                2 => changed.nodeScope = B256::repeat_byte(u8::try_from(by).unwrap_or(1)),
                3 => changed.validBefore += U40::from(by),
                _ => changed.captureDeadline += U40::from(by),
            }
            prop_assert_eq!(run(&changed, Some(&signature), false).unwrap_err().code, Code::BadOrderSignature);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(run(&order(), Some(&bytes), false).is_err());
        }
    }
}
