//! Deploys everything to two local chains from the committed bytecode and registers nodes and the keeper.

use std::path::Path;

use alloy::primitives::{Address, B256, Bytes, TxKind, U256, address, keccak256};
use alloy::signers::SignerSync;
use alloy::sol_types::{SolStruct, SolValue};
use quittance_bindings::{
    AccessManager, Deployer, DevOPG, DevPermit2, DevPrecompile0900, DevTEEInferenceVerifier, DevTEERegistry, DevUSDC,
    DisputeGame, FeeSplitter, InferenceEscrow, KeeperRegistry, NodeRegistry, RsaPssVerifier, SettlementInbox,
    SettlementLedger, escrow as escrow_abi, fee_splitter as fee_splitter_abi, nodes as nodes_abi, typed,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::access::{self, ADMIN, GUARDIAN};
use super::chains::{Anvil, Chains};
use super::keys::Key;
use super::periods::Periods;
use super::sender::Sender;
use super::x402;
use crate::cli::network::{Base, Keeper, Network, OpenGradient, Token};
use crate::cli::order_file::u40;
use crate::error::{Error, Result};

/// Where Permit2 is on every chain.
pub const PERMIT2: Address = address!("000000000022D473030F116dDEE9F6B43aC78BA3");
/// Where USDC is on Base.
pub const USDC: Address = address!("833589fCD6eDb6E08f4c7C32D4f71b54bdA02913");
/// Where OPG is on Base.
pub const OPG: Address = address!("FbC2051AE2265686a469421b2C5A2D5462FbF5eB");
/// OpenGradient's RSA-PSS precompile.
const PRECOMPILE: Address = address!("0000000000000000000000000000000000000900");
/// The deterministic deployment proxy that anvil and Base have.
pub(super) const CREATE2_PROXY: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");

/// What an unproven row costs a keeper: 100 OPG.
const SLASH: u128 = 100 * 1_000_000_000_000_000_000;
/// Batches of the devnet's keeper that can be open at once: its bond is a slash for each.
const BATCHES: u128 = 10_000;

const MIRRORS: usize = 3;
const THRESHOLD: u8 = 2;

mod mirrored {
    //! What mirrors and owners sign.
    alloy::sol! {
        struct Mirror { bytes key; address owner; address paymentAddress; bool enabled; uint40 observedAt; }
        struct ClaimOperator { bytes32 nodeId; address operator; }
    }
}

/// A node to register: its key and where it listens.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    pub url: String,
}

/// A running devnet's addresses and accounts; as JSON it is a `--network` file with more in it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    #[serde(flatten)]
    pub network: Network,
    pub periods: Periods,
    pub contracts: Contracts,
    pub nodes: Vec<Node>,
    pub accounts: Vec<Account>,
}

/// What a network file need not name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contracts {
    pub access_manager: Address,
    pub deployer: Address,
    /// Receives the fees, which are 0 until the admin sets one.
    pub fee_splitter: Address,
    pub rsa_verifier: Address,
    pub permit2: Address,
    pub tee_verifier: Address,
    pub x402: x402::Contracts,
}

/// A registered node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub id: B256,
    pub url: String,
    pub operator: Address,
    pub meter_key: Address,
    pub payout: Address,
}

/// A funded account of the devnet. The key is worthless anywhere else.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    pub role: String,
    pub address: Address,
    pub private_key: String,
}

/// Keys of the parts that every devnet has.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Creates the contracts and keeps no right to them.
    pub deployer: Key,
    /// What it does waits `admin_delay`.
    pub admin: Key,
    pub guardian: Key,
    pub mirrors: Vec<Key>,
    pub keeper_owner: Key,
    /// Posts batches on Base.
    pub keeper_base: Key,
    /// Records on OpenGradient.
    pub keeper_og: Key,
    /// Signs receipts.
    pub keeper_receipts: Key,
    pub x402: x402::Keys,
}

impl Keys {
    /// The devnet's keys.
    ///
    /// # Errors
    /// None in practice, see [`Key::of`].
    pub fn new() -> Result<Self> {
        let mut mirrors = (0..MIRRORS).map(|i| Key::of(format!("mirror-{i}"))).collect::<Result<Vec<_>>>()?;
        // The registry takes signers and their signatures in ascending order.
        mirrors.sort_by_key(Key::address);
        Ok(Self {
            deployer: Key::of("deployer")?,
            admin: Key::of("admin")?,
            guardian: Key::of("guardian")?,
            mirrors,
            keeper_owner: Key::of("keeper-owner")?,
            keeper_base: Key::of("keeper-base")?,
            keeper_og: Key::of("keeper-opengradient")?,
            keeper_receipts: Key::of("keeper-receipts")?,
            x402: x402::Keys::new()?,
        })
    }
}

/// Key of a node's operator and its meter key.
///
/// # Errors
/// None in practice, see [`Key::of`].
pub fn operator_of(index: usize) -> Result<(Key, Key)> {
    Ok((Key::of(format!("operator-{index}"))?, Key::of(format!("meter-{index}"))?))
}

/// Deploys and registers; `keeper_url` goes into the network file.
///
/// # Errors
/// `rpc_failed` naming the transaction that failed.
pub async fn deploy(
    chains: &Chains,
    periods: Periods,
    nodes: &[NodeIdentity],
    keeper_url: &str,
) -> Result<(Deployment, Keys)> {
    let keys = Keys::new()?;
    let operators = (0..nodes.len()).map(operator_of).collect::<Result<Vec<_>>>()?;
    let mut funded =
        vec![&keys.deployer, &keys.admin, &keys.guardian, &keys.keeper_owner, &keys.keeper_base, &keys.keeper_og];
    funded.extend(operators.iter().map(|(operator, _)| operator));
    funded.extend(keys.x402.all());
    for key in &funded {
        fund(chains, key.address()).await?;
    }
    let base = deploy_base(&chains.base, &keys, periods, nodes);
    let opengradient = deploy_opengradient(&chains.opengradient, &keys, nodes);
    let (base, (inbox, tee_registry, tee_verifier)) = tokio::try_join!(base, opengradient)?;

    let token = |address, decimals| Token { address, decimals };
    let network = Network {
        base: Base { chain_id: chains.base.chain_id, rpc: chains.base.url.clone(), ..base.addresses },
        opengradient: OpenGradient {
            chain_id: chains.opengradient.chain_id,
            rpc: chains.opengradient.url.clone(),
            inbox,
            tee_registry,
            start_block: 0,
        },
        tokens: [("USDC".to_owned(), token(USDC, 6)), ("OPG".to_owned(), token(OPG, 18))].into(),
        keeper: Keeper { id: base.keeper_id, url: keeper_url.to_owned() },
    };
    let account = |key: &Key| Account { role: key.role.clone(), address: key.address(), private_key: key.hex() };
    let deployment = Deployment {
        network,
        periods,
        contracts: Contracts { tee_verifier, ..base.contracts },
        nodes: nodes
            .iter()
            .zip(&operators)
            .map(|(node, (operator, meter))| Node {
                id: keccak256(&node.spki),
                url: node.url.clone(),
                operator: operator.address(),
                meter_key: meter.address(),
                payout: operator.address(),
            })
            .collect(),
        accounts: funded.into_iter().map(account).collect(),
    };
    Ok((deployment, keys))
}

/// Gives an account gas money on both chains.
///
/// # Errors
/// `rpc_failed`.
pub async fn fund(chains: &Chains, account: Address) -> Result<()> {
    for chain in [&chains.base, &chains.opengradient] {
        chain.call("anvil_setBalance", json!([account, "0x56bc75e2d63100000"])).await?;
    }
    Ok(())
}

struct BaseDeployment {
    addresses: Base,
    contracts: Contracts,
    keeper_id: B256,
}

async fn deploy_base(chain: &Anvil, keys: &Keys, periods: Periods, nodes: &[NodeIdentity]) -> Result<BaseDeployment> {
    periods.check()?;
    let mut sender = Sender::new(chain.provider().clone(), chain.chain_id, keys.deployer.clone()).await?;
    let manager =
        sender.create("AccessManager", &AccessManager::BYTECODE, &(sender.address(),).abi_encode_params()).await?;
    let rsa_verifier = sender.create("RsaPssVerifier", &RsaPssVerifier::BYTECODE, &[]).await?;
    let arguments = (manager, U256::from(periods.grace)).abi_encode_params();
    let node_registry = sender.create("NodeRegistry", &NodeRegistry::BYTECODE, &arguments).await?;
    place(chain, USDC, &DevUSDC::DEPLOYED_BYTECODE).await?;
    place(chain, OPG, &DevOPG::DEPLOYED_BYTECODE).await?;
    place(chain, PERMIT2, &DevPermit2::DEPLOYED_BYTECODE).await?;

    let (deployer, escrow, ledger, dispute_game, keeper_registry) = {
        let code = [Deployer::BYTECODE.as_ref(), &(sender.address(),).abi_encode_params()].concat();
        let deployer = CREATE2_PROXY.create2(B256::ZERO, keccak256(&code));
        let (escrow, ledger, game, keepers) =
            (deployer.create(1), deployer.create(2), deployer.create(3), deployer.create(4));
        sender.send("Deployer", TxKind::Call(CREATE2_PROXY), [B256::ZERO.as_slice(), &code].concat().into()).await?;
        let initcodes = vec![
            escrow_code(ledger, periods, manager)?,
            ledger_code(escrow, node_registry, keepers, game, periods.window, manager),
        ];
        sender.call(deployer, &Deployer::deployCall { initcodes }).await?;
        // In two transactions: all four come close to what one may cost.
        let initcodes = vec![game_code(ledger, periods), keepers_code(ledger, game)];
        sender.call(deployer, &Deployer::deployCall { initcodes }).await?;
        (deployer, escrow, ledger, game, keepers)
    };

    sender.call(node_registry, &NodeRegistry::setVerifierCall { verifier: rsa_verifier, allowed: true }).await?;
    sender.call(node_registry, &NodeRegistry::setMirrorVerifierCall { verifier: rsa_verifier }).await?;
    let signers = keys.mirrors.iter().map(Key::address).collect();
    sender.call(node_registry, &NodeRegistry::setMirrorsCall { signers, threshold: THRESHOLD }).await?;
    let share = fee_splitter_abi::IFeeSplitter::Share { account: keys.admin.address(), bps: 10_000 };
    let arguments = (escrow, manager, U256::from(periods.fee_epoch), vec![share]).abi_encode_params();
    let fee_splitter = sender.create("FeeSplitter", &FeeSplitter::BYTECODE, &arguments).await?;
    sender.call(ledger, &SettlementLedger::setFeeCall { feeBps_: 0, feeRecipient_: fee_splitter }).await?;
    for (name, target) in [("NodeRegistry", node_registry), ("InferenceEscrow", escrow)] {
        let selectors = access::selectors(name, "guardian")?;
        let call = AccessManager::setTargetFunctionRoleCall { target, selectors, roleId: GUARDIAN };
        sender.call(manager, &call).await?;
    }
    for (index, node) in nodes.iter().enumerate() {
        register_node(&mut sender, chain.chain_id, node_registry, keys, index, node).await?;
    }
    hand_over(&mut sender, manager, keys, periods).await?;
    let receipts = sender.settle().await?;
    let start_block = receipts.iter().filter_map(|receipt| receipt.block_number).min().unwrap_or(0);

    for (index, node) in nodes.iter().enumerate() {
        let (operator, meter) = operator_of(index)?;
        let mut operator = Sender::new(chain.provider().clone(), chain.chain_id, operator).await?;
        let call = NodeRegistry::setMeterKeyCall { nodeId: keccak256(&node.spki), meterKey: meter.address() };
        operator.call(node_registry, &call).await?;
        operator.settle().await?;
    }
    let (keeper_id, x402) =
        tokio::try_join!(register_keeper(chain, keeper_registry, keys), x402::deploy(chain, &keys.x402))?;
    Ok(BaseDeployment {
        addresses: Base {
            escrow,
            ledger,
            dispute_game,
            node_registry,
            keeper_registry,
            start_block,
            ..Base::default()
        },
        contracts: Contracts {
            access_manager: manager,
            deployer,
            fee_splitter,
            rsa_verifier,
            permit2: PERMIT2,
            tee_verifier: Address::ZERO,
            x402,
        },
        keeper_id,
    })
}

/// Gives guardian and admin their roles; the deployer keeps none.
async fn hand_over(deployer: &mut Sender, manager: Address, keys: &Keys, periods: Periods) -> Result<()> {
    let delay = u32::try_from(periods.admin_delay).map_err(|error| Error::Config(error.to_string()))?;
    for (role, key, delay) in [(GUARDIAN, &keys.guardian, 0), (ADMIN, &keys.admin, delay)] {
        let call = AccessManager::grantRoleCall { roleId: role, account: key.address(), executionDelay: delay };
        deployer.call(manager, &call).await?;
    }
    let call = AccessManager::renounceRoleCall { roleId: ADMIN, callerConfirmation: deployer.address() };
    deployer.call(manager, &call).await
}

fn escrow_code(ledger: Address, periods: Periods, manager: Address) -> Result<Bytes> {
    let seconds =
        |value: u64| u40(value).ok_or_else(|| Error::Config(format!("{value} seconds do not fit the contract")));
    let call = InferenceEscrow::constructorCall {
        ledger_: ledger,
        periods: escrow_abi::IInferenceEscrow::Periods {
            maxLock: seconds(periods.max_lock)?,
            lockTail: seconds(periods.lock_tail)?,
            minCaptureTime: seconds(periods.min_capture_time)?,
            maxOrderAge: seconds(periods.max_order_age)?,
            maxOrderLife: seconds(periods.max_order_life)?,
            maxPause: seconds(periods.max_pause)?,
            pauseGap: seconds(periods.pause_gap)?,
        },
        permit2_: PERMIT2,
        authority_: manager,
    };
    Ok([InferenceEscrow::BYTECODE.as_ref(), &alloy::sol_types::SolConstructor::abi_encode(&call)].concat().into())
}

fn ledger_code(
    escrow: Address,
    nodes: Address,
    keepers: Address,
    game: Address,
    window: u64,
    manager: Address,
) -> Bytes {
    let arguments = (escrow, nodes, keepers, game, U256::from(window), manager).abi_encode_params();
    [SettlementLedger::BYTECODE.as_ref(), &arguments].concat().into()
}

fn game_code(ledger: Address, periods: Periods) -> Bytes {
    let arguments = (ledger, U256::from(periods.response), U256::from(periods.reopen)).abi_encode_params();
    [DisputeGame::BYTECODE.as_ref(), &arguments].concat().into()
}

fn keepers_code(ledger: Address, game: Address) -> Bytes {
    let arguments = (ledger, game, OPG, U256::from(SLASH)).abi_encode_params();
    [KeeperRegistry::BYTECODE.as_ref(), &arguments].concat().into()
}

/// Mirrors a node with the quorum's signatures and lets its owner claim it.
async fn register_node(
    admin: &mut Sender,
    chain_id: u64,
    registry: Address,
    keys: &Keys,
    index: usize,
    node: &NodeIdentity,
) -> Result<()> {
    let domain = typed::domain(chain_id, registry);
    let (operator, _) = operator_of(index)?;
    let observed_at = u40(crate::clock::Clock::default().now()).unwrap_or_default();
    let report = mirrored::Mirror {
        key: node.spki.clone().into(),
        owner: operator.address(),
        paymentAddress: operator.address(),
        enabled: true,
        observedAt: observed_at,
    };
    let digest = report.eip712_signing_hash(&domain);
    let mirrors = keys.mirrors.iter().take(usize::from(THRESHOLD));
    let signatures = mirrors.map(|key| sign(key, digest)).collect::<Result<_>>()?;
    let report = nodes_abi::INodeRegistry::Mirror {
        key: report.key,
        owner: report.owner,
        paymentAddress: report.paymentAddress,
        enabled: true,
        observedAt: observed_at,
    };
    admin.call(registry, &NodeRegistry::mirrorCall { report, signatures }).await?;
    let node_id = keccak256(&node.spki);
    let claim = mirrored::ClaimOperator { nodeId: node_id, operator: operator.address() };
    let signature = sign(&operator, claim.eip712_signing_hash(&domain))?;
    let claim = NodeRegistry::claimOperatorCall { nodeId: node_id, operator: operator.address(), signature };
    admin.call(registry, &claim).await
}

async fn register_keeper(chain: &Anvil, registry: Address, keys: &Keys) -> Result<B256> {
    let mut owner = Sender::new(chain.provider().clone(), chain.chain_id, keys.keeper_owner.clone()).await?;
    let salt = B256::ZERO;
    let call = KeeperRegistry::registerCall {
        salt,
        payout: owner.address(),
        hotKeys: vec![keys.keeper_base.address(), keys.keeper_receipts.address()],
    };
    owner.call(registry, &call).await?;
    let keeper_id = keccak256((owner.address(), salt).abi_encode());
    bond(&mut owner, registry, keeper_id).await?;
    owner.settle().await?;
    Ok(keeper_id)
}

/// Mints the bond of a keeper with many open batches and puts it up.
///
/// # Errors
/// `rpc_failed`.
pub async fn bond(owner: &mut Sender, registry: Address, keeper_id: B256) -> Result<()> {
    let amount = SLASH * BATCHES;
    owner.mint(OPG, owner.address(), U256::from(amount)).await?;
    owner.call(OPG, &DevOPG::approveCall { spender: registry, value: U256::from(amount) }).await?;
    owner.call(registry, &KeeperRegistry::addBondCall { keeperId: keeper_id, amount }).await
}

/// Inbox, registry and verifier.
async fn deploy_opengradient(
    chain: &Anvil,
    keys: &Keys,
    nodes: &[NodeIdentity],
) -> Result<(Address, Address, Address)> {
    let mut admin = Sender::new(chain.provider().clone(), chain.chain_id, keys.admin.clone()).await?;
    place(chain, PRECOMPILE, &DevPrecompile0900::DEPLOYED_BYTECODE).await?;
    let arguments = (admin.address(),).abi_encode_params();
    let registry = admin.create("DevTEERegistry", &DevTEERegistry::BYTECODE, &arguments).await?;
    let inbox = admin.create("SettlementInbox", &SettlementInbox::BYTECODE, &(registry,).abi_encode_params()).await?;
    let arguments = (admin.address(), registry).abi_encode_params();
    let verifier = admin.create("DevTEEInferenceVerifier", &DevTEEInferenceVerifier::BYTECODE, &arguments).await?;
    let (pcrs, pcr_hash) = devnet_pcrs();
    let approve = DevTEERegistry::approvePCRCall { pcrs, version: "devnet".to_owned(), teeType: 0 };
    admin.call(registry, &approve).await?;
    for (index, node) in nodes.iter().enumerate() {
        let (operator, _) = operator_of(index)?;
        let call = DevTEERegistry::registerDevnetTEECall {
            owner: operator.address(),
            signingPublicKey: node.spki.clone().into(),
            tlsCertificate: Bytes::new(),
            paymentAddress: operator.address(),
            endpoint: node.url.clone(),
            teeType: 0,
            pcrHash: pcr_hash,
        };
        admin.call(registry, &call).await?;
    }
    admin.settle().await?;
    Ok((inbox, registry, verifier))
}

/// Measurements of the devnet's enclaves, and their hash.
pub fn devnet_pcrs() -> (DevTEERegistry::PCRMeasurements, B256) {
    let [pcr0, pcr1, pcr2] = [0x50_u8, 0x51, 0x52].map(|byte| Bytes::from(vec![byte; 48]));
    let hash = keccak256([pcr0.as_ref(), &pcr1, &pcr2].concat());
    (DevTEERegistry::PCRMeasurements { pcr0, pcr1, pcr2 }, hash)
}

/// Puts code at the address that clients know, unless the chain that is forked has its own there; contracts placed so have no
/// constructor state.
pub(super) async fn place(chain: &Anvil, at: Address, code: &Bytes) -> Result<()> {
    if chain.is_fork() && chain.call("eth_getCode", json!([at, "latest"])).await? != json!("0x") {
        return Ok(());
    }
    chain.call("anvil_setCode", json!([at, code])).await.map(drop)
}

fn sign(key: &Key, digest: B256) -> Result<Bytes> {
    let signature =
        key.signer.sign_hash_sync(&digest).map_err(|error| Error::Config(format!("{}: {error}", key.role)))?;
    Ok(signature.as_bytes().into())
}

impl Deployment {
    /// Writes the network file.
    ///
    /// # Errors
    /// `io_failed`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::Config(error.to_string()))?;
        Ok(std::fs::write(path, text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::send::read;
    use crate::crypto::RsaKey;

    #[tokio::test]
    async fn contracts_know_each_other_and_nodes_can_be_paid() {
        let dir = tempfile::tempdir().unwrap();
        let chains = Chains::start(dir.path(), 1).await.unwrap();
        let keys: Vec<RsaKey> = (0..2).map(|_| RsaKey::generate().unwrap()).collect();
        let nodes: Vec<NodeIdentity> = keys
            .iter()
            .map(|key| NodeIdentity { spki: key.spki().to_vec(), url: "http://127.0.0.1:1".to_owned() })
            .collect();
        let started = std::time::Instant::now();
        let (deployment, _) = deploy(&chains, Periods::default(), &nodes, "http://127.0.0.1:2").await.unwrap();
        eprintln!("deployed in {:?}", started.elapsed());
        let base = chains.base.provider();
        let network = &deployment.network;
        let ledger = read(base, network.base.escrow, &InferenceEscrow::ledgerCall {}).await.unwrap();
        assert_eq!(ledger, network.base.ledger);
        let escrow = read(base, network.base.ledger, &SettlementLedger::escrowCall {}).await.unwrap();
        assert_eq!(escrow, network.base.escrow);
        for node in &deployment.nodes {
            let call = NodeRegistry::nodeCall { nodeId: node.id };
            let record = read(base, network.base.node_registry, &call).await.unwrap();
            assert_eq!((record.operator, record.payout, record.version), (node.operator, node.payout, 2));
            let call = NodeRegistry::captureStatusCall { nodeId: node.id, number: 2 };
            let status = read(base, network.base.node_registry, &call).await.unwrap();
            assert_eq!(status.status, 0, "active");
            let call = DevTEERegistry::getTEEPublicKeyCall { teeId: node.id };
            let key = read(chains.opengradient.provider(), network.opengradient.tee_registry, &call).await.unwrap();
            assert_eq!(keccak256(key), node.id);
        }
        let call = KeeperRegistry::isHotKeyCall {
            keeperId: network.keeper.id,
            key: Key::of("keeper-base").unwrap().address(),
        };
        assert!(read(base, network.base.keeper_registry, &call).await.unwrap());
        assert_eq!(read(base, USDC, &DevUSDC::decimalsCall {}).await.unwrap(), 6);
        let manager = deployment.contracts.access_manager;
        for (role, name, member, delay) in
            [(ADMIN, "admin", true, 60), (ADMIN, "deployer", false, 0), (GUARDIAN, "guardian", true, 0)]
        {
            let call = AccessManager::hasRoleCall { roleId: role, account: Key::of(name).unwrap().address() };
            let has = read(base, manager, &call).await.unwrap();
            assert_eq!((has.isMember, has.executionDelay), (member, delay), "{name}");
        }
        let recipient = read(base, network.base.ledger, &SettlementLedger::feeRecipientCall {}).await.unwrap();
        assert_eq!(recipient, deployment.contracts.fee_splitter);
        let text = serde_json::to_string(&deployment).unwrap();
        assert_eq!(serde_json::from_str::<Network>(&text).unwrap().base.escrow, network.base.escrow);
    }
}
