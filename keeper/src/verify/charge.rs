//! Which node may answer which order, and what the answer is charged under which version of the node.

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use quittance_bindings::typed::Order;

use super::meter::{Charge, rates};
use crate::config::RateCard;
use crate::error::{Code, Refusal};
use crate::registry::{NodeRecord, NodeVersion};
use crate::store::completions::{Metered, Usage};

/// Seconds for which a replaced version can still be captured on Base.
pub const VERSION_GRACE: u64 = 3_600;

/// A Meter as a node sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supplied {
    pub offset: u128,
    pub amount: u128,
    pub signature: Vec<u8>,
}

/// Whether a node was active when it signed. All times in unix seconds.
///
/// # Errors
/// `node_not_active`.
pub fn check_active(node: &NodeRecord, timestamp: u64) -> Result<(), Refusal> {
    let refuse = |text: &str, at: u64| Err(Refusal::mismatch(Code::NodeNotActive, text, timestamp, at));
    if node.revoked_at != 0 {
        return refuse("the node is revoked: nothing more is captured for it", node.revoked_at);
    }
    if node.retired_at != 0 && timestamp > node.retired_at {
        return refuse("the node was retired before it signed: only earlier answers are paid", node.retired_at);
    }
    Ok(())
}

/// Whether an order lets a node answer it.
///
/// # Errors
/// `node_outside_scope`.
pub fn check_scope(order: &Order, node: &NodeRecord, version: Option<&NodeVersion>) -> Result<(), Refusal> {
    let label = version.map_or(node.label, |version| version.label);
    let (open, id) = (order.nodeScope == B256::ZERO, node.id.to_string());
    if open && !label.serves_open_orders() {
        let text = "the order names no node, and a declared node serves only orders that name it";
        return Err(Refusal::mismatch(Code::NodeOutsideScope, text, label.as_str(), "mirrored or attested"));
    }
    if !open && order.nodeScope != node.id {
        let text = "the order names another node";
        return Err(Refusal::mismatch(Code::NodeOutsideScope, text, id, order.nodeScope.to_string()));
    }
    Ok(())
}

/// How an answer can be charged: by the Meter that came with it, else by rate card with the node's meter key.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    pub supplied: Option<&'a Supplied>,
    pub usage: Option<Usage>,
    pub model: Option<&'a str>,
    /// The node's meter key, when this keeper meters for it.
    pub key: Option<&'a PrivateKeySigner>,
    pub cards: &'a [RateCard],
}

/// Charges an answer: the number of the node version whose meter key signed, and the Meter.
///
/// # Errors
/// `meter_missing`, `bad_meter`, `amount_over_maximum`.
pub fn charge(
    node: &NodeRecord,
    token: Address,
    charge: &Charge,
    means: &Means<'_>,
    now: u64,
) -> Result<(u32, Metered), Refusal> {
    let missing = |text: &str| Refusal::new(Code::MeterMissing, text);
    if let Some(supplied) = means.supplied {
        let (signer, metered) = charge.check(supplied.offset, supplied.amount, &supplied.signature)?;
        let usable = |version: &&NodeVersion| {
            version.meter_key == signer
                && (version.replaced_at == 0 || now <= version.replaced_at.saturating_add(VERSION_GRACE))
        };
        let version = node.versions.values().rev().find(usable).ok_or_else(|| {
            let text = "the Meter is not signed by the node's meter key for this settlement, order, amount and ledger";
            let expected = node.current().map(|version| version.meter_key.to_string());
            Refusal::mismatch(Code::BadMeter, text, signer.to_string(), expected)
        })?;
        return Ok((version.number, metered));
    }
    let key = means.key.ok_or_else(|| {
        missing("this keeper does not hold the node's meter key: send the node's own Meter with the completion")
    })?;
    let version = node.current().filter(|version| version.meter_key == key.address()).ok_or_else(|| {
        missing("the meter key in this keeper's configuration is not the node's current one: rotate it here or there")
    })?;
    let usage = means.usage.ok_or_else(|| missing("the completion reports no token usage, so it cannot be metered"))?;
    let rates = rates(means.cards, node.id, means.model, token)?;
    Ok((version.number, charge.sign(key, rates, usage)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy::primitives::U256;
    use alloy::primitives::aliases::U40;
    use quittance_bindings::typed::domain;

    use super::*;
    use crate::registry::Label;

    fn key(seed: u8) -> PrivateKeySigner {
        PrivateKeySigner::from_bytes(&B256::repeat_byte(seed)).unwrap()
    }

    fn version(number: u32, seed: u8, replaced_at: u64) -> NodeVersion {
        NodeVersion {
            number,
            verifier: Address::ZERO,
            meter_key: key(seed).address(),
            label: Label::Mirrored,
            created_at: 1,
            replaced_at,
            public_key: Vec::new(),
            key: None,
        }
    }

    fn node() -> NodeRecord {
        NodeRecord {
            id: B256::repeat_byte(5),
            version: 2,
            label: Label::Mirrored,
            operator: Address::ZERO,
            payout: Address::ZERO,
            registered_at: 1,
            retired_at: 0,
            revoked_at: 0,
            endpoint: None,
            versions: BTreeMap::from([(1, version(1, 1, 10_000)), (2, version(2, 2, 0))]),
        }
    }

    fn order(scope: B256) -> Order {
        Order {
            payer: Address::ZERO,
            token: Address::ZERO,
            maxAmount: 1,
            requestCommit: B256::ZERO,
            nodeScope: scope,
            keeperId: B256::ZERO,
            validAfter: U40::ZERO,
            validBefore: U40::ZERO,
            captureDeadline: U40::ZERO,
            nonce: U256::ZERO,
        }
    }

    #[test]
    fn activity_and_scope() {
        let active = node();
        assert!(check_active(&active, 5).is_ok());
        let retired = NodeRecord { retired_at: 100, ..node() };
        assert!(check_active(&retired, 100).is_ok(), "the past stays payable");
        assert_eq!(check_active(&retired, 101).unwrap_err().code, Code::NodeNotActive);
        assert_eq!(check_active(&NodeRecord { revoked_at: 9, ..node() }, 5).unwrap_err().code, Code::NodeNotActive);
        let scope = |scope, label| {
            let node = NodeRecord { label, versions: BTreeMap::new(), ..node() };
            check_scope(&order(scope), &node, None).map_err(|refusal| refusal.code)
        };
        assert_eq!(scope(B256::ZERO, Label::Mirrored), Ok(()));
        assert_eq!(scope(B256::ZERO, Label::Declared), Err(Code::NodeOutsideScope));
        assert_eq!(scope(active.id, Label::Declared), Ok(()));
        assert_eq!(scope(B256::repeat_byte(6), Label::Mirrored), Err(Code::NodeOutsideScope));
    }

    #[test]
    fn the_meter_decides_the_version() {
        let ledger = domain(1, Address::ZERO).separator();
        let bill = Charge { settlement_id: B256::ZERO, order_id: B256::ZERO, max_amount: 9, ledger };
        let card = RateCard {
            version: "v".to_owned(),
            node: None,
            model: None,
            token: Address::ZERO,
            input: "1000000".to_owned(),
            output: "1000000".to_owned(),
        };
        let cards = [card];
        let usage = Some(Usage { input: 2, output: 3 });
        let means = |key| Means { supplied: None, usage, model: None, key, cards: &cards };
        let (old, new) = (key(1), key(2));
        let code = |means: &Means<'_>| charge(&node(), Address::ZERO, &bill, means, 0).unwrap_err().code;
        assert_eq!(code(&means(None)), Code::MeterMissing);
        assert_eq!(code(&means(Some(&old))), Code::MeterMissing, "the old key");
        assert_eq!(code(&Means { usage: None, ..means(Some(&new)) }), Code::MeterMissing);
        assert_eq!(code(&Means { cards: &[], ..means(Some(&new)) }), Code::MeterMissing);
        let (number, metered) = charge(&node(), Address::ZERO, &bill, &means(Some(&new)), 0).unwrap();
        assert_eq!((number, metered.amount), (2, 5));
        let rates = metered.card.unwrap();
        for (seed, now, expected) in
            [(2, 0, Ok(2)), (1, 13_600, Ok(1)), (1, 13_601, Err(Code::BadMeter)), (3, 0, Err(Code::BadMeter))]
        {
            let own = bill.sign(&key(seed), rates.clone(), Usage { input: 4, output: 0 }).unwrap();
            let supplied = Supplied { offset: 0, amount: own.amount, signature: own.signature };
            let means = Means { supplied: Some(&supplied), ..means(None) };
            let result = charge(&node(), Address::ZERO, &bill, &means, now);
            assert_eq!(result.map(|(number, _)| number).map_err(|refusal| refusal.code), expected, "{seed} {now}");
        }
    }
}
