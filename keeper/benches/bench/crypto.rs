//! What one order and one completion cost to verify, alone on one core, and the Merkle tree of a large batch.

use alloy::primitives::{Address, B256};
use eyre::{Result, ensure};
use quittance::canonical::canonical_request;
use quittance::crypto::RsaKey;
use quittance::devnet::keys::Key;
use quittance::merkle::Tree;
use quittance::verify::completion::{Evidence, NodeKey, TimestampRules, check_completion};
use quittance::verify::meter::Charge;
use quittance::verify::order::{Handed, Rules, check};
use quittance_bindings::typed::{Leaf, RAIL_ORDER, domain, leaf_hash};

use crate::fixture::{AMOUNT, MAXIMUM, World, payers};
use crate::report::Report;

pub fn run(report: &mut Report) -> Result<()> {
    let world = World {
        chain_id: 8453,
        escrow: Address::repeat_byte(1),
        ledger: Address::repeat_byte(2),
        keeper_id: B256::repeat_byte(3),
        token: Address::repeat_byte(4),
        nodes: vec![(RsaKey::generate()?, Key::of("meter-0")?.signer)],
        payers: payers(1)?,
        now: 1_795_200_000,
    };
    let pair = world.pairs(0, 1)?.remove(0);
    let (node, meter) = &world.nodes[0];

    let tokens = [world.token];
    let rules = Rules {
        chain_id: world.chain_id,
        escrow: world.escrow,
        keeper_id: world.keeper_id,
        tokens: &tokens,
        now: world.now,
        chain_now: world.now,
        min_time_left: 60,
    };
    let order = || {
        let hashes: Vec<B256> = canonical_request(&pair.request)?.iter().map(|canonical| canonical.hash).collect();
        let signature = Some(pair.order_signature.as_slice());
        let handed =
            Handed { order: &pair.order, signature, request_hashes: &hashes, blinding: B256::ZERO, held: false };
        check(&handed, &rules)
    };
    ensure!(order()?.order_id == pair.order_id, "the order's id is another");
    report.time("verify an order: request, terms, secp256k1", None, || order().is_ok());

    let key = NodeKey::parse(node.spki())?;
    let evidence = Evidence {
        node_id: pair.completion.node_id,
        request_hash: pair.completion.request_hash,
        output_hash: pair.completion.output_hash,
        timestamp: pair.completion.timestamp,
        signature: pair.completion.signature.clone(),
    };
    let output = String::from_utf8(pair.completion.output.clone().unwrap_or_default())?;
    let times = TimestampRules {
        valid_after: world.now,
        valid_before: world.now + 60,
        now: world.now,
        max_age: 3_600,
        max_ahead: 300,
    };
    let inference = || check_completion(&evidence, pair.request_hash, Some(&output), &key, &times);
    let ledger = domain(world.chain_id, world.ledger).separator();
    let charge =
        Charge { settlement_id: pair.completion.settlement_id, order_id: pair.order_id, max_amount: MAXIMUM, ledger };
    let metered = || charge.check(0, AMOUNT, &pair.metered.signature);
    ensure!(inference()?.settlement_id == pair.completion.settlement_id, "the settlement's id is another");
    ensure!(metered()?.0 == meter.address(), "the Meter's signer is another");
    report.time("verify a completion: hashes, RSA-PSS, Meter", None, || inference().is_ok() && metered().is_ok());
    report.time("  of that the node's signature (RSA-2048-PSS)", None, || inference().is_ok());
    report.time("  of that the Meter (EIP-712, secp256k1)", None, || metered().is_ok());

    let leaves: Vec<Leaf> = (0..10_000)
        .map(|row| Leaf {
            rail: RAIL_ORDER,
            paymentId: pair.order_id,
            start: 0,
            amount: AMOUNT,
            nodeId: pair.completion.node_id,
            nodeVersion: 1,
            receiptHash: pair.request_hash,
            row,
        })
        .collect();
    let hashes: Vec<B256> = leaves.iter().map(leaf_hash).collect();
    report.time("Merkle tree of 10,000 leaves", None, || Tree::new(hashes.clone()));
    report.time("  with hashing the leaves", None, || Tree::new(leaves.iter().map(leaf_hash).collect()));
    Ok(())
}
