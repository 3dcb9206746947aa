//! What an inference is charged: rate cards, and the Meter that the node's operator signs.

use alloy::primitives::{Address, B256, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use quittance_bindings::typed::{Meter, meter_digest};

use super::order::recover;
use crate::config::RateCard;
use crate::error::{Code, Refusal};
use crate::store::completions::{Metered, Rates, Usage};

/// Rates are per this many tokens.
const PER: u64 = 1_000_000;

/// The first card that fits node, model and token.
///
/// # Errors
/// `meter_missing` when none fits: the node must send its own Meter.
pub fn rates(cards: &[RateCard], node: B256, model: Option<&str>, token: Address) -> Result<Rates, Refusal> {
    let fits = |card: &&RateCard| {
        card.token == token
            && card.node.is_none_or(|only| only == node)
            && card.model.as_deref().is_none_or(|only| Some(only) == model)
    };
    let card = cards.iter().find(fits).ok_or_else(|| {
        let text = "no rate card fits this node, model and token: configure one, or send the node's own Meter";
        Refusal::mismatch(Code::MeterMissing, text, model, token.to_string())
    })?;
    let rate = |text: &str| {
        text.parse()
            .map_err(|_| Refusal::new(Code::MeterMissing, format!("rate card {}: unreadable rate", card.version)))
    };
    Ok(Rates { input: rate(&card.input)?, output: rate(&card.output)?, version: card.version.clone() })
}

/// Token units for an inference: tokens times rates, rounded up once, at least 1 (the chain captures nothing of zero) and
/// at most the order's maximum.
pub fn price(rates: &Rates, usage: Usage, max_amount: u128) -> u128 {
    let part = |tokens: u64, rate: u128| U256::from(tokens) * U256::from(rate);
    let total = part(usage.input, rates.input) + part(usage.output, rates.output);
    let units = total.div_ceil(U256::from(PER)).max(U256::from(1));
    u128::try_from(units).unwrap_or(u128::MAX).min(max_amount)
}

/// What identifies the charge of one inference to one order.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub settlement_id: B256,
    pub order_id: B256,
    /// The order's maximum, token units.
    pub max_amount: u128,
    /// Domain separator of the ledger.
    pub ledger: B256,
}

impl Charge {
    fn digest(&self, offset: u128, amount: u128) -> B256 {
        let meter = Meter { settlementId: self.settlement_id, paymentId: self.order_id, offset, amount };
        meter_digest(&meter, self.ledger)
    }

    /// Meters by rate card with the node's meter key.
    ///
    /// # Errors
    /// `bad_meter` when the key cannot sign.
    pub fn sign(&self, key: &PrivateKeySigner, rates: Rates, usage: Usage) -> Result<Metered, Refusal> {
        let amount = price(&rates, usage, self.max_amount);
        let signature = key
            .sign_hash_sync(&self.digest(0, amount))
            .map_err(|error| Refusal::new(Code::BadMeter, format!("the meter key cannot sign: {error}")))?;
        Ok(Metered { signature: signature.as_bytes().to_vec(), offset: 0, amount, card: Some(rates) })
    }

    /// Checks a Meter that the node sent and gives its signer; the caller decides whether that is the node's meter key.
    ///
    /// # Errors
    /// `bad_meter` (length, offset, unreadable signature, zero amount), `amount_over_maximum`.
    pub fn check(&self, offset: u128, amount: u128, signature: &[u8]) -> Result<(Address, Metered), Refusal> {
        if offset != 0 {
            let text = "the offset of an order's Meter must be 0";
            return Err(Refusal::mismatch(Code::BadMeter, text, offset.to_string(), "0"));
        }
        if amount == 0 {
            return Err(Refusal::new(Code::BadMeter, "a Meter must charge at least 1 token unit"));
        }
        if amount > self.max_amount {
            let text = "the Meter charges more than the order's maximum";
            let (actual, expected) = (amount.to_string(), format!("at most {}", self.max_amount));
            return Err(Refusal::mismatch(Code::AmountOverMaximum, text, actual, expected));
        }
        if signature.len() != 65 {
            let text = "a Meter signature has 65 bytes, low s, v 27 or 28";
            return Err(Refusal::mismatch(Code::BadMeter, text, signature.len(), 65));
        }
        let (signer, signature) = recover(signature, self.digest(offset, amount))
            .map_err(|refusal| Refusal { code: Code::BadMeter, ..refusal })?;
        Ok((signer, Metered { signature, offset, amount, card: None }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quittance_bindings::typed::domain;

    use super::*;

    const TOKEN: Address = Address::repeat_byte(1);
    const NODE: B256 = B256::repeat_byte(2);

    fn card(node: Option<B256>, model: Option<&str>, version: &str) -> RateCard {
        RateCard {
            version: version.to_owned(),
            node,
            model: model.map(str::to_owned),
            token: TOKEN,
            input: "150000".to_owned(),
            output: "600000".to_owned(),
        }
    }

    #[test]
    fn the_first_card_that_fits_is_used() {
        let cards = [card(Some(NODE), Some("m"), "a"), card(None, Some("m"), "b"), card(None, None, "c")];
        let version = |node, model| rates(&cards, node, model, TOKEN).unwrap().version;
        assert_eq!(version(NODE, Some("m")), "a");
        assert_eq!(version(B256::ZERO, Some("m")), "b");
        assert_eq!(version(NODE, Some("other")), "c");
        assert_eq!(version(NODE, None), "c");
        assert_eq!(rates(&cards, NODE, None, Address::ZERO).unwrap_err().code, Code::MeterMissing);
    }

    #[test]
    fn prices_are_rounded_up_once_and_capped() {
        let rates = Rates { input: 150_000, output: 600_000, version: "v".to_owned() };
        let at = |input, output, max| price(&rates, Usage { input, output }, max);
        assert_eq!(at(1_000_000, 0, u128::MAX), 150_000);
        assert_eq!(at(1, 0, u128::MAX), 1, "0.15 units");
        assert_eq!(at(5, 1, u128::MAX), 2, "0.75 + 0.6 units");
        assert_eq!(at(0, 0, u128::MAX), 1);
        assert_eq!(at(1_000_000, 0, 149_999), 149_999);
        let dear = Rates { input: u128::MAX, output: u128::MAX, version: String::new() };
        assert_eq!(price(&dear, Usage { input: u64::MAX, output: u64::MAX }, u128::MAX), u128::MAX);
    }

    proptest! {
        #[test]
        fn a_price_covers_the_tokens_and_never_passes_the_maximum(
            input: u64, output: u64, rate_in: u64, rate_out: u64, max in 1_u128..,
        ) {
            let rates = Rates { input: rate_in.into(), output: rate_out.into(), version: String::new() };
            let price = price(&rates, Usage { input, output }, max);
            let exact = U256::from(input) * U256::from(rate_in) + U256::from(output) * U256::from(rate_out);
            prop_assert!(price >= 1 && price <= max);
            let covered = U256::from(price) * U256::from(PER);
            prop_assert!(price == max || covered >= exact);
            prop_assert!(price == 1 || covered < exact + U256::from(PER));
        }

        #[test]
        fn a_meter_binds_every_field(amount in 1_u128..1_000, change in 0_u8..3) {
            let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(9)).unwrap();
            let ledger = domain(8453, Address::repeat_byte(3)).separator();
            let charge = Charge { settlement_id: NODE, order_id: B256::ZERO, max_amount: 1_000, ledger };
            let rates = Rates { input: amount * u128::from(PER), output: 0, version: "v".to_owned() };
            let metered = charge.sign(&key, rates, Usage { input: 1, output: 0 }).unwrap();
            prop_assert_eq!(metered.amount, amount);
            let (signer, same) = charge.check(0, amount, &metered.signature).unwrap();
            prop_assert_eq!(signer, key.address());
            prop_assert_eq!(&same.signature, &metered.signature);
            let other_domain = domain(84532, Address::repeat_byte(3)).separator();
            let other = match change {
                0 => Charge { settlement_id: B256::ZERO, ..charge },
                1 => Charge { order_id: NODE, ..charge },
                _ => Charge { ledger: other_domain, ..charge },
            };
            prop_assert!(other.check(0, amount, &metered.signature).is_ok_and(|(signer, _)| signer != key.address())
                || other.check(0, amount, &metered.signature).is_err());
        }
    }

    #[test]
    fn bad_meters_are_refused() {
        let ledger = domain(8453, Address::repeat_byte(3)).separator();
        let charge = Charge { settlement_id: NODE, order_id: B256::ZERO, max_amount: 10, ledger };
        let code = |offset, amount, signature: &[u8]| charge.check(offset, amount, signature).unwrap_err().code;
        assert_eq!(code(1, 5, &[1; 65]), Code::BadMeter);
        assert_eq!(code(0, 0, &[1; 65]), Code::BadMeter);
        assert_eq!(code(0, 11, &[1; 65]), Code::AmountOverMaximum);
        assert_eq!(code(0, 5, &[1; 64]), Code::BadMeter);
        assert_eq!(code(0, 5, &[0; 65]), Code::BadMeter);
    }
}
