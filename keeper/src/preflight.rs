//! What must hold before the keeper starts: chains, contracts, roles, gas, database, clock, networks of x402 payments.

mod x402;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;

use crate::chain::rpc::Rpc;
use crate::crypto::load_signer;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::store::Store;

/// Seconds between the local clock and a chain's latest block that are worth a warning.
const SKEW_WARN: u64 = 60;
/// Seconds that a chain's latest block may lie behind the local clock.
const SKEW_MAX: u64 = 3_600;

alloy::sol! {
    function escrow() returns (address);
    function nodes() returns (address);
    function keepers() returns (address);
    function disputes() returns (address);
    function registry() returns (address);
    function isHotKey(bytes32 keeperId, address key) returns (bool);
    function LOCK_TAIL() returns (uint40);
}

/// What start-up learns from the chains.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The escrow's `LOCK_TAIL`, seconds.
    pub lock_tail: u64,
}

/// A stable name and a sentence that says what to do.
fn refuse(check: &'static str, message: String) -> Error {
    Error::Preflight { check, message }
}

/// Checks the database by a write that is undone.
///
/// # Errors
/// `preflight_failed`, check `database`.
pub async fn database(store: &Store, url: &str) -> Result<()> {
    // A URL may carry a password; its scheme says enough.
    let scheme = url.split(':').next().unwrap_or_default();
    store.probe().await.map_err(|error| {
        refuse(
            "database",
            format!("the {scheme} database cannot be written ({error}): check keeper.database, rights and disk"),
        )
    })
}

/// One check and what came of it.
#[derive(Clone, Debug)]
pub struct Check {
    /// Stable.
    pub name: &'static str,
    pub outcome: Outcome,
}

/// What came of a check; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// Works, but not as it should.
    Warning(String),
    Failed(String),
}

/// Checks everything else. All that fails is logged, the first failure is returned.
///
/// # Errors
/// `preflight_failed` with the check's name.
pub async fn chains(ctx: &Ctx) -> Result<Facts> {
    let (checks, facts) = survey(ctx).await;
    let mut first = None;
    for check in checks {
        match check.outcome {
            Outcome::Fine => {}
            Outcome::Warning(text) => tracing::warn!(check = check.name, "{text}"),
            Outcome::Failed(text) => {
                let error = refuse(check.name, text);
                tracing::error!(%error, "preflight");
                first.get_or_insert(error);
            }
        }
    }
    match (first, facts) {
        (Some(error), _) => Err(error),
        (None, Some(facts)) => Ok(facts),
        (None, None) => Err(refuse("base_wiring", "the escrow's LOCK_TAIL is not known".to_owned())),
    }
}

/// Every check of both chains, with what start-up learns from them if they hold. What depends on a failed check is left out.
pub async fn survey(ctx: &Ctx) -> (Vec<Check>, Option<Facts>) {
    let config = &ctx.config;
    let (base, og) = (&config.base, &config.opengradient);
    let mut checks = Checks::default();
    let mut lock_tail = None;
    if checks.chain_id(&ctx.base, "base_chain_id", "base").await {
        let named = [
            ("base.escrow", base.escrow),
            ("base.ledger", base.ledger),
            ("base.node_registry", base.node_registry),
            ("base.keeper_registry", base.keeper_registry),
            ("base.dispute_game", base.dispute_game),
        ];
        let mut there = true;
        for (name, address) in named.into_iter().chain(base.tokens.iter().map(|token| ("base.tokens", *token))) {
            there &= checks.note("base_code", code(&ctx.base, "base_code", name, address).await);
        }
        if there {
            for (what, data, expected) in [
                ("ledger.escrow", escrowCall {}.abi_encode(), base.escrow),
                ("ledger.nodes", nodesCall {}.abi_encode(), base.node_registry),
                ("ledger.disputes", disputesCall {}.abi_encode(), base.dispute_game),
                ("ledger.keepers", keepersCall {}.abi_encode(), base.keeper_registry),
            ] {
                let outcome = wired(&ctx.base, "base_wiring", what, base.ledger, &data, expected).await;
                checks.note("base_wiring", outcome);
            }
            lock_tail = checks.take("base_wiring", tail(ctx).await);
            for (check, name, source) in
                [("hot_key", "base.key", &base.key), ("receipt_key", "keeper.receipt_key", &config.keeper.receipt_key)]
            {
                if let Some(signer) = checks.take(check, load_signer(source)) {
                    checks.note(check, hot_key(ctx, check, name, signer.address()).await);
                }
            }
        }
        if let Some(signer) = checks.take("base_gas", load_signer(&base.key)) {
            checks.note("base_gas", gas(&ctx.base, "base_gas", "base.key", signer.address()).await);
        }
        checks.head("base_clock", head(ctx, &ctx.base, "base_clock", base.start_block).await);
    }
    if checks.chain_id(&ctx.og, "og_chain_id", "opengradient").await {
        let inbox = checks.note("og_code", code(&ctx.og, "og_code", "opengradient.inbox", og.inbox).await);
        let registry =
            checks.note("og_code", code(&ctx.og, "og_code", "opengradient.tee_registry", og.tee_registry).await);
        if inbox && registry {
            let data = registryCall {}.abi_encode();
            let outcome = wired(&ctx.og, "og_wiring", "inbox.registry", og.inbox, &data, og.tee_registry).await;
            checks.note("og_wiring", outcome);
        }
        if let Some(signer) = checks.take("og_gas", load_signer(&og.key)) {
            checks.note("og_gas", gas(&ctx.og, "og_gas", "opengradient.key", signer.address()).await);
        }
        checks.head("og_clock", head(ctx, &ctx.og, "og_clock", og.start_block).await);
    }
    x402::survey(ctx, &mut checks).await;
    (checks.0, lock_tail.map(|lock_tail| Facts { lock_tail }))
}

/// What was checked so far.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn push(&mut self, name: &'static str, outcome: Outcome) {
        self.0.push(Check { name, outcome });
    }

    fn note(&mut self, name: &'static str, outcome: Result<()>) -> bool {
        let fine = outcome.is_ok();
        if self.take(name, outcome).is_some() {
            self.push(name, Outcome::Fine);
        }
        fine
    }

    /// The value, or the failure noted.
    fn take<T>(&mut self, name: &'static str, outcome: Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(Error::Preflight { message, .. }) => {
                self.push(name, Outcome::Failed(message));
                None
            }
            Err(error) => {
                self.push(name, Outcome::Failed(error.to_string()));
                None
            }
        }
    }

    fn head(&mut self, name: &'static str, outcome: Result<Option<String>>) {
        if let Some(warning) = self.take(name, outcome) {
            self.push(name, warning.map_or(Outcome::Fine, Outcome::Warning));
        }
    }

    /// At least one endpoint must answer, and none may serve another chain.
    async fn chain_id(&mut self, rpc: &Rpc, name: &'static str, section: &str) -> bool {
        let expected = rpc.chain_id();
        let mut answered = false;
        let mut silent = Vec::new();
        for (endpoint, reported) in rpc.reported_chain_ids().await {
            match reported {
                Ok(actual) if actual == expected => answered = true,
                Ok(actual) => {
                    let hint = format!("correct {section}.rpc or {section}.chain_id");
                    let text = format!("{endpoint} serves chain {actual}, {section}.chain_id is {expected}: {hint}");
                    self.push(name, Outcome::Failed(text));
                    return false;
                }
                Err(failure) => silent.push(failure.to_string()),
            }
        }
        let said = silent.join("; ");
        if !answered {
            let text = format!("{section}.rpc does not answer ({said}): check the URLs");
            self.push(name, Outcome::Failed(text));
            return false;
        }
        let warning = format!("not all of {section}.rpc answer ({said}): check the URLs");
        self.push(name, if silent.is_empty() { Outcome::Fine } else { Outcome::Warning(warning) });
        true
    }
}

async fn code(rpc: &Rpc, check: &'static str, name: &str, address: Address) -> Result<()> {
    if rpc.code(address).await?.is_empty() {
        let chain = rpc.chain_id();
        return Err(refuse(
            check,
            format!("there is no contract at {name} = {address} on chain {chain}: correct the address"),
        ));
    }
    Ok(())
}

async fn ask(rpc: &Rpc, contract: Address, data: &[u8]) -> Result<Bytes> {
    let data = Bytes::copy_from_slice(data);
    Ok(rpc.call(Address::ZERO, contract, &data, BlockNumberOrTag::Latest.into()).await?)
}

/// Whether a contract names another as the configuration does.
async fn wired(
    rpc: &Rpc,
    check: &'static str,
    what: &str,
    contract: Address,
    data: &[u8],
    expected: Address,
) -> Result<()> {
    let answer = ask(rpc, contract, data).await?;
    let actual = B256::try_from(answer.as_ref()).map(Address::from_word).unwrap_or_default();
    if actual != expected {
        let hint = "take all addresses from one deployment";
        return Err(refuse(check, format!("{what} is {actual}, the configuration says {expected}: {hint}")));
    }
    Ok(())
}

async fn tail(ctx: &Ctx) -> Result<u64> {
    let answer = ask(&ctx.base, ctx.config.base.escrow, &LOCK_TAILCall {}.abi_encode()).await?;
    U256::try_from_be_slice(&answer)
        .and_then(|tail| u64::try_from(tail).ok())
        .ok_or_else(|| refuse("base_wiring", format!("LOCK_TAIL() of the escrow answered {answer}: is it an escrow?")))
}

async fn hot_key(ctx: &Ctx, check: &'static str, name: &str, key: Address) -> Result<()> {
    let keeper = ctx.config.keeper.id;
    let data = isHotKeyCall { keeperId: keeper, key }.abi_encode();
    let answer = ask(&ctx.base, ctx.config.base.keeper_registry, &data).await?;
    if U256::try_from_be_slice(&answer) != Some(U256::ONE) {
        let hint = format!("call setHotKey({keeper}, {key}, true) on the keeper registry as the keeper's owner");
        return Err(refuse(check, format!("{name} = {key} may not act for keeper {keeper}: {hint}")));
    }
    Ok(())
}

async fn gas(rpc: &Rpc, check: &'static str, name: &str, key: Address) -> Result<()> {
    if rpc.balance(key).await?.is_zero() {
        let chain = rpc.chain_id();
        return Err(refuse(
            check,
            format!("{name} = {key} has nothing to pay gas with on chain {chain}: send it some"),
        ));
    }
    Ok(())
}

/// The latest block is there, is not before our first, and its time is near ours; a warning when it is not that near.
async fn head(ctx: &Ctx, rpc: &Rpc, check: &'static str, start_block: u64) -> Result<Option<String>> {
    let chain_id = rpc.chain_id();
    let Some(head) = rpc.head(BlockNumberOrTag::Latest).await? else {
        return Err(refuse(check, format!("chain {chain_id} has no latest block: is the endpoint in sync?")));
    };
    if head.number < start_block {
        let hint = "correct start_block, or wait until the endpoint is in sync";
        return Err(refuse(
            check,
            format!("chain {chain_id} is at block {}, start_block is {start_block}: {hint}", head.number),
        ));
    }
    let now = ctx.clock.now();
    let told = |seconds: u64, way: &str| {
        Some(format!("the clock of chain {chain_id} is {seconds} s {way} this machine's: set this machine's clock"))
    };
    match skew(now, head.timestamp) {
        Skew::None => Ok(None),
        Skew::Ahead(seconds) => Ok(told(seconds, "ahead of")),
        Skew::Behind(seconds) => Ok(told(seconds, "behind")),
        Skew::TooFar(seconds) => {
            let hint = "set this machine's clock, or use an endpoint that is in sync";
            Err(refuse(check, format!("the latest block of chain {chain_id} is {seconds} s old: {hint}")))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Skew {
    None,
    /// The chain is ahead of us: devnets often are.
    Ahead(u64),
    Behind(u64),
    TooFar(u64),
}

const fn skew(now: u64, block: u64) -> Skew {
    let (ahead, behind) = (block.saturating_sub(now), now.saturating_sub(block));
    if ahead > SKEW_WARN {
        Skew::Ahead(ahead)
    } else if behind > SKEW_MAX {
        Skew::TooFar(behind)
    } else if behind > SKEW_WARN {
        Skew::Behind(behind)
    } else {
        Skew::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devnet_may_be_ahead_but_a_dead_endpoint_may_not_be_behind() {
        assert_eq!(skew(1_000, 1_060), Skew::None);
        assert_eq!(skew(1_000, 9_000), Skew::Ahead(8_000));
        assert_eq!(skew(1_000, 939), Skew::Behind(61));
        assert_eq!(skew(10_000, 6_399), Skew::TooFar(3_601));
    }
}
