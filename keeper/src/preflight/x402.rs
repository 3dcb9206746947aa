//! What must hold on the networks of x402 payments: chain, forwarder with our keys, gas, the contracts that payers name.

use alloy::primitives::U256;
use alloy::sol_types::SolCall;
use quittance_bindings::X402Forwarder::isKeyCall;

use super::{Check, Checks, Outcome, ask, code, gas, refuse};
use crate::ctx::Ctx;
use crate::error::Result;
use crate::x402::contracts::{
    BATCH, ERC3009_COLLECTOR, EXACT_PROXY, MULTICALL3, PERMIT2, PERMIT2_COLLECTOR, UPTO_PROXY,
};
use crate::x402::state::{Lane, Network};

/// Every check of every network; a network whose endpoints are silent is told, and waits for them.
pub(super) async fn survey(ctx: &Ctx, checks: &mut Checks) {
    for network in &ctx.x402.networks {
        let mut found = Checks::default();
        let reached = found.chain_id(&network.rpc, "x402_chain_id", "x402.networks").await;
        // Payments of one chain must not keep the keeper from its other work: only a wrong chain does.
        let silent = !reached && !network.followed && !answers(network).await;
        for check in found.0 {
            let outcome = match check.outcome {
                Outcome::Failed(text) if silent => Outcome::Warning(text),
                outcome => outcome,
            };
            checks.0.push(Check { name: check.name, outcome });
        }
        if reached {
            contracts(network, checks).await;
            for lane in &network.lanes {
                checks.note("x402_keys", listed(network, lane).await);
                checks.note("x402_gas", gas(&network.rpc, "x402_gas", "a key of x402.networks", lane.address).await);
            }
        }
    }
}

async fn answers(network: &Network) -> bool {
    network.rpc.reported_chain_ids().await.iter().any(|(_, reported)| reported.is_ok())
}

async fn contracts(network: &Network, checks: &mut Checks) {
    let rpc = &network.rpc;
    let forwarder = network.config.forwarder;
    checks.note("x402_code", code(rpc, "x402_code", "forwarder of x402.networks", forwarder).await);
    for token in &network.config.assets {
        checks.note("x402_code", code(rpc, "x402_code", "assets of x402.networks", *token).await);
    }
    for (name, address, what) in [
        ("Multicall3", MULTICALL3, "payments by EIP-3009 and of channels"),
        ("Permit2", PERMIT2, "payments by Permit2"),
        ("x402ExactPermit2Proxy", EXACT_PROXY, "`exact` payments by Permit2"),
        ("x402UptoPermit2Proxy", UPTO_PROXY, "`upto` payments"),
        ("x402BatchSettlement", BATCH, "payment channels"),
        ("ERC3009DepositCollector", ERC3009_COLLECTOR, "deposits by EIP-3009"),
        ("Permit2DepositCollector", PERMIT2_COLLECTOR, "deposits by Permit2"),
    ] {
        let outcome = match rpc.code(address).await {
            Ok(code) if code.is_empty() => Outcome::Warning(format!(
                "chain {} has no {name} at {address}: {what} are refused there, deploy it or tell your servers",
                rpc.chain_id()
            )),
            Ok(_) => Outcome::Fine,
            Err(failure) => Outcome::Failed(failure.to_string()),
        };
        checks.push("x402_contracts", outcome);
    }
}

/// Whether the forwarder takes calls from a key.
async fn listed(network: &Network, lane: &Lane) -> Result<()> {
    let (forwarder, key) = (network.config.forwarder, lane.address);
    let data = isKeyCall { key }.abi_encode();
    let answer = ask(&network.rpc, forwarder, &data).await?;
    if U256::try_from_be_slice(&answer) != Some(U256::ONE) {
        let hint = format!("call setKey({key}, true) on it as its owner, or correct x402.networks");
        let text =
            format!("the forwarder {forwarder} on chain {} takes no calls from {key}: {hint}", network.rpc.chain_id());
        return Err(refuse("x402_keys", text));
    }
    Ok(())
}
