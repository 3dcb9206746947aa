//! The contracts: calls, events, errors, creation bytecode, one module each.

/// Every contract in a module of its own, because contracts share the names of structs.
macro_rules! contracts {
    ($($(#[$doc:meta])* $module:ident => $name:ident, $file:literal;)+) => {$(
        $(#[$doc])*
        #[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
        pub mod $module {
            alloy::sol!(
                #[allow(missing_docs)]
                #[derive(Debug, PartialEq, Eq)]
                #[sol(rpc)]
                $name,
                $file
            );
        }
        pub use $module::$name;
    )+};
}

contracts! {
    /// Prepayments on Base.
    escrow => InferenceEscrow, "abi/InferenceEscrow.json";
    /// Settlements on Base.
    ledger => SettlementLedger, "abi/SettlementLedger.json";
    /// Disputes about rows of batches on Base.
    game => DisputeGame, "abi/DisputeGame.json";
    /// Nodes, keys and labels on Base.
    nodes => NodeRegistry, "abi/NodeRegistry.json";
    /// Keepers on Base.
    keepers => KeeperRegistry, "abi/KeeperRegistry.json";
    /// Fees, divided by shares known before.
    fee_splitter => FeeSplitter, "abi/FeeSplitter.json";
    /// Settles x402 payments for a facilitator with several keys.
    x402_forwarder => X402Forwarder, "abi/X402Forwarder.json";
    /// ERC-7913 verifier of inference signatures.
    rsa_pss_verifier => RsaPssVerifier, "abi/RsaPssVerifier.json";
    /// OpenZeppelin's ERC-7913 verifier of P-256 signatures.
    p256_verifier => ERC7913P256Verifier, "abi/ERC7913P256Verifier.json";
    /// Recorded inferences on OpenGradient.
    inbox => SettlementInbox, "abi/SettlementInbox.json";
    /// Creates contracts that know each other.
    deployer => Deployer, "abi/Deployer.json";
    /// Makes calls that must not come from the escrow.
    neutral_caller => NeutralCaller, "abi/NeutralCaller.json";
    /// OpenZeppelin's roles and delays.
    access_manager => AccessManager, "abi/AccessManager.json";
    /// Example of a protocol that orders inference.
    consumer => InferenceConsumer, "abi/InferenceConsumer.json";
    /// Devnet: OpenGradient's TEE registry.
    dev_tee_registry => DevTEERegistry, "abi/DevTEERegistry.json";
    /// Devnet: OpenGradient's inference verifier.
    dev_tee_inference_verifier => DevTEEInferenceVerifier, "abi/DevTEEInferenceVerifier.json";
    /// Devnet: a token like USDC.
    dev_usdc => DevUSDC, "abi/DevUSDC.json";
    /// Devnet: a token like OPG.
    dev_opg => DevOPG, "abi/DevOPG.json";
    /// Devnet: Permit2.
    dev_permit2 => DevPermit2, "abi/DevPermit2.json";
    /// Devnet: many calls in one.
    dev_multicall3 => DevMulticall3, "abi/DevMulticall3.json";
    /// Devnet: x402's `exact` payments by Permit2.
    dev_x402_exact_permit2_proxy => DevX402ExactPermit2Proxy, "abi/DevX402ExactPermit2Proxy.json";
    /// Devnet: x402's `upto` payments.
    dev_x402_upto_permit2_proxy => DevX402UptoPermit2Proxy, "abi/DevX402UptoPermit2Proxy.json";
    /// Devnet: x402's channels.
    dev_x402_batch_settlement => DevX402BatchSettlement, "abi/DevX402BatchSettlement.json";
    /// Devnet: brings deposits into x402 channels by EIP-3009.
    dev_erc3009_deposit_collector => DevERC3009DepositCollector, "abi/DevERC3009DepositCollector.json";
    /// Devnet: brings deposits into x402 channels by Permit2.
    dev_permit2_deposit_collector => DevPermit2DepositCollector, "abi/DevPermit2DepositCollector.json";
    /// Devnet: an account that signs through ERC-1271.
    dev_smart_wallet => DevSmartWallet, "abi/DevSmartWallet.json";
    /// Devnet: creates such accounts where everybody knows before (ERC-6492).
    dev_smart_wallet_factory => DevSmartWalletFactory, "abi/DevSmartWalletFactory.json";
    /// Devnet: OpenGradient's precompile at 0x…0900.
    dev_precompile_0900 => DevPrecompile0900, "abi/DevPrecompile0900.json";
}
