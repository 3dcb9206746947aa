//! x402 on a devnet: own implementations at the addresses that clients know, the keeper's forwarder with its keys, payers with money.

use alloy::primitives::{Address, B256, Bytes, TxKind, U256, address, keccak256};
use alloy::sol_types::{SolCall, SolValue};
use quittance_bindings::{
    DevERC3009DepositCollector, DevMulticall3, DevOPG, DevPermit2DepositCollector, DevSmartWallet,
    DevSmartWalletFactory, DevX402BatchSettlement, DevX402ExactPermit2Proxy, DevX402UptoPermit2Proxy, X402Forwarder,
};
use serde::{Deserialize, Serialize};

use super::chains::Anvil;
use super::deploy::{CREATE2_PROXY, OPG, PERMIT2, USDC, place};
use super::keys::Key;
use super::sender::Sender;
use crate::error::Result;

/// Where Multicall3 is on every chain.
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");
/// Where x402's proxy of `exact` payments by Permit2 is on every chain.
pub const EXACT_PROXY: Address = address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");
/// Where x402's proxy of `upto` payments is on every chain.
pub const UPTO_PROXY: Address = address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
/// Where x402's channels are on every chain.
pub const BATCH_SETTLEMENT: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
/// Where the collector of deposits by EIP-3009 is on every chain.
pub const ERC3009_COLLECTOR: Address = address!("4020806089470a89826cB9fB1f4059150b550004");
/// Where the collector of deposits by Permit2 is on every chain.
pub const PERMIT2_COLLECTOR: Address = address!("4020425FAf3B746C082C2f942b4E5159887B0005");

/// How many keys the forwarder has: as many transactions of payments can wait for a block at once.
pub const LANES: usize = 3;

/// Salt of the payer's wallet that is there.
const WALLET: u64 = 0;
/// Salt of the payer's wallet that is not there yet.
const COUNTERFACTUAL: u64 = 1;

/// What each payer has: 1,000 USDC and 10,000 OPG.
const MONEY: [(Address, u128); 2] = [(USDC, 1_000_000_000), (OPG, 10_000_000_000_000_000_000_000)];

/// Addresses of what x402 payments use.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contracts {
    /// Settles for the keeper; the `facilitatorAddress` of `upto` payments.
    pub forwarder: Address,
    pub batch_settlement: Address,
    pub exact_proxy: Address,
    pub upto_proxy: Address,
    pub erc3009_collector: Address,
    pub permit2_collector: Address,
    pub multicall3: Address,
    /// Creates contract wallets where everybody knows before (ERC-6492).
    pub wallet_factory: Address,
    /// Contract wallet of the payer's key, with the payer's money and approvals.
    pub wallet: Address,
    /// Contract wallet of the payer's key that has money, but no code until its first payment.
    pub counterfactual_wallet: Address,
}

/// Keys of the x402 part.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Adds and removes keys of the forwarder.
    pub owner: Key,
    /// Send payments through the forwarder.
    pub lanes: Vec<Key>,
    /// Signs claims and refunds of channels for servers that name it.
    pub authorizer: Key,
    /// Has USDC and OPG, and has approved Permit2 for both.
    pub payer: Key,
}

impl Keys {
    /// The devnet's keys.
    ///
    /// # Errors
    /// None in practice, see [`Key::of`].
    pub fn new() -> Result<Self> {
        Ok(Self {
            owner: Key::of("x402-owner")?,
            lanes: (0..LANES).map(|lane| Key::of(format!("x402-{lane}"))).collect::<Result<_>>()?,
            authorizer: Key::of("x402-authorizer")?,
            payer: Key::of("x402-payer")?,
        })
    }

    /// All of them: each needs gas money.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        [&self.owner, &self.payer].into_iter().chain(&self.lanes)
    }
}

/// Puts x402's contracts where clients know them, creates wallet factory and forwarder, and gives payers money and approvals.
///
/// # Errors
/// `rpc_failed` naming the transaction that failed.
pub async fn deploy(chain: &Anvil, keys: &Keys) -> Result<Contracts> {
    for (address, code) in [
        (MULTICALL3, &DevMulticall3::DEPLOYED_BYTECODE),
        (EXACT_PROXY, &DevX402ExactPermit2Proxy::DEPLOYED_BYTECODE),
        (UPTO_PROXY, &DevX402UptoPermit2Proxy::DEPLOYED_BYTECODE),
        (BATCH_SETTLEMENT, &DevX402BatchSettlement::DEPLOYED_BYTECODE),
        (ERC3009_COLLECTOR, &DevERC3009DepositCollector::DEPLOYED_BYTECODE),
        (PERMIT2_COLLECTOR, &DevPermit2DepositCollector::DEPLOYED_BYTECODE),
    ] {
        place(chain, address, code).await?;
    }
    // One sender for all, so that nothing waits for a block of its own.
    let mut sender = Sender::new(chain.provider().clone(), chain.chain_id, keys.payer.clone()).await?;
    let lanes: Vec<Address> = keys.lanes.iter().map(Key::address).collect();
    let arguments = (keys.owner.address(), lanes).abi_encode_params();
    let forwarder = create2(&mut sender, "X402Forwarder", &X402Forwarder::BYTECODE, &arguments).await?;
    let wallet_factory = create2(&mut sender, "DevSmartWalletFactory", &DevSmartWalletFactory::BYTECODE, &[]).await?;
    let wallet = |salt: u64| {
        let code = [DevSmartWallet::BYTECODE.as_ref(), &(keys.payer.address(),).abi_encode_params()].concat();
        wallet_factory.create2(B256::from(U256::from(salt)), keccak256(code))
    };
    let contracts = Contracts {
        forwarder,
        batch_settlement: BATCH_SETTLEMENT,
        exact_proxy: EXACT_PROXY,
        upto_proxy: UPTO_PROXY,
        erc3009_collector: ERC3009_COLLECTOR,
        permit2_collector: PERMIT2_COLLECTOR,
        multicall3: MULTICALL3,
        wallet_factory,
        wallet: wallet(WALLET),
        counterfactual_wallet: wallet(COUNTERFACTUAL),
    };
    fund_payers(&mut sender, &contracts).await?;
    sender.settle().await?;
    Ok(contracts)
}

/// Creates a contract where its code and arguments determine.
async fn create2(sender: &mut Sender, name: &str, code: &Bytes, arguments: &[u8]) -> Result<Address> {
    let code = [code.as_ref(), arguments].concat();
    let input = [B256::ZERO.as_slice(), &code].concat();
    sender.send(name, TxKind::Call(CREATE2_PROXY), input.into()).await?;
    Ok(CREATE2_PROXY.create2(B256::ZERO, keccak256(&code)))
}

/// Gives the payer, who sends, and its wallets both tokens, and approves Permit2 where there is somebody to do so.
async fn fund_payers(payer: &mut Sender, contracts: &Contracts) -> Result<()> {
    let create = DevSmartWalletFactory::createAccountCall { owner: payer.address(), salt: U256::from(WALLET) };
    payer.call(contracts.wallet_factory, &create).await?;
    for (token, amount) in MONEY {
        for to in [payer.address(), contracts.wallet, contracts.counterfactual_wallet] {
            payer.mint(token, to, U256::from(amount)).await?;
        }
        let approve = DevOPG::approveCall { spender: PERMIT2, value: U256::MAX };
        payer.call(token, &approve).await?;
        let data = approve.abi_encode().into();
        let execute = DevSmartWallet::executeCall { target: token, value: U256::ZERO, data };
        payer.call(contracts.wallet, &execute).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quittance_bindings::DevUSDC;

    use super::*;
    use crate::cli::send::read;
    use crate::devnet::chains::Chains;
    use crate::devnet::deploy::{NodeIdentity, deploy};
    use crate::devnet::periods::Periods;

    #[tokio::test]
    async fn contracts_are_where_clients_know_them_and_payers_can_pay() {
        let dir = tempfile::tempdir().unwrap();
        let chains = Chains::start(dir.path(), 1).await.unwrap();
        let nodes: [NodeIdentity; 0] = [];
        let (deployment, keys) = deploy(&chains, Periods::default(), &nodes, "http://127.0.0.1:2").await.unwrap();
        let base = chains.base.provider();
        let x402 = deployment.contracts.x402;
        let forwarder = x402.forwarder;
        assert_eq!(read(base, forwarder, &X402Forwarder::ownerCall {}).await.unwrap(), keys.x402.owner.address());
        for (key, expected) in keys.x402.lanes.iter().map(|key| (key, true)).chain([(&keys.x402.owner, false)]) {
            let call = X402Forwarder::isKeyCall { key: key.address() };
            assert_eq!(read(base, forwarder, &call).await.unwrap(), expected, "{}", key.role);
        }
        // Each by a call that only it has.
        let batch = read(base, x402.batch_settlement, &DevX402BatchSettlement::MIN_WITHDRAW_DELAYCall {}).await;
        assert_eq!(batch.unwrap().to::<u64>(), 900);
        for collector in [x402.erc3009_collector, x402.permit2_collector] {
            let serves = read(base, collector, &DevERC3009DepositCollector::x402BatchSettlementCall {}).await;
            assert_eq!(serves.unwrap(), BATCH_SETTLEMENT);
        }
        for proxy in [x402.exact_proxy, x402.upto_proxy] {
            let permit2 = read(base, proxy, &DevX402ExactPermit2Proxy::PERMIT2Call {}).await;
            assert_eq!(permit2.unwrap(), PERMIT2);
        }
        let chain_id = read(base, x402.multicall3, &DevMulticall3::getChainIdCall {}).await.unwrap();
        assert_eq!(chain_id.to::<u64>(), chains.base.chain_id);

        let owner = keys.x402.payer.address();
        for (salt, wallet, code) in [(WALLET, x402.wallet, true), (COUNTERFACTUAL, x402.counterfactual_wallet, false)] {
            let call = DevSmartWalletFactory::getAddressCall { owner, salt: U256::from(salt) };
            assert_eq!(read(base, x402.wallet_factory, &call).await.unwrap(), wallet);
            let there = alloy::providers::Provider::get_code_at(base, wallet).await.unwrap();
            assert_eq!(!there.is_empty(), code);
        }
        for (token, amount) in MONEY {
            for (payer, approved) in [(owner, true), (x402.wallet, true), (x402.counterfactual_wallet, false)] {
                let balance = read(base, token, &DevUSDC::balanceOfCall { account: payer }).await.unwrap();
                assert_eq!(balance, U256::from(amount), "{token} of {payer}");
                let call = DevUSDC::allowanceCall { owner: payer, spender: PERMIT2 };
                let allowance = read(base, token, &call).await.unwrap();
                assert_eq!(allowance == U256::MAX, approved, "{token} of {payer}");
            }
        }
    }
}
