//! Public interfaces of the x402 contracts, and where they are on every chain.

use alloy::primitives::{Address, address};
use alloy::sol;

/// Permit2.
pub const PERMIT2: Address = address!("000000000022D473030F116dDEE9F6B43aC78BA3");
/// Multicall3.
pub const MULTICALL3: Address = address!("cA11bde05977b3631167028862bE2a173976CA11");
/// x402ExactPermit2Proxy.
pub const EXACT_PROXY: Address = address!("402085c248EeA27D92E8b30b2C58ed07f9E20001");
/// x402UptoPermit2Proxy.
pub const UPTO_PROXY: Address = address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002");
/// x402BatchSettlement.
pub const BATCH: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
/// ERC3009DepositCollector.
pub const ERC3009_COLLECTOR: Address = address!("4020806089470a89826cB9fB1f4059150b550004");
/// Permit2DepositCollector.
pub const PERMIT2_COLLECTOR: Address = address!("4020425FAf3B746C082C2f942b4E5159887B0005");

sol! {
    /// EIP-3009, ERC-20 and ERC-2612 of a token.
    #[derive(Debug)]
    interface Token {
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
        function balanceOf(address owner) external view returns (uint256);
        function allowance(address owner, address spender) external view returns (uint256);
        function approve(address spender, uint256 value) external returns (bool);
        function name() external view returns (string);
        function version() external view returns (string);
        function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
        function receiveWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature) external;
    }

    /// EIP-3009 with a signature in three parts.
    interface TokenSplit {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
    }

    /// EIP-3009 with a signature of any length.
    interface TokenWhole {
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature) external;
    }

    /// ERC-1271.
    interface Wallet {
        function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
    }

    /// Multicall3.
    #[derive(Debug)]
    interface Multicall3 {
        struct Call3 {
            address target;
            bool allowFailure;
            bytes callData;
        }
        struct Outcome {
            bool success;
            bytes returnData;
        }
        function aggregate3(Call3[] calls) external payable returns (Outcome[] returnData);
    }

    /// Signed by payers of EIP-3009 tokens.
    #[derive(Debug)]
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    /// Signed for deposits by EIP-3009.
    #[derive(Debug)]
    struct ReceiveWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    /// Part of every Permit2 message.
    #[derive(Debug)]
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    /// Permit2: bits of nonces that are spent.
    #[derive(Debug)]
    interface Permit2View {
        function nonceBitmap(address owner, uint256 word) external view returns (uint256);
    }

    /// What Permit2 is asked to take.
    #[derive(Debug)]
    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    /// ERC-2612 permit that the proxies take along.
    #[derive(Debug)]
    struct Permit2612 {
        uint256 value;
        uint256 deadline;
        bytes32 r;
        bytes32 s;
        uint8 v;
    }

    /// x402ExactPermit2Proxy: `exact` over Permit2.
    interface ExactProxy {
        event Settled();
        event SettledWithPermit();

        /// What the payer binds the payment to.
        #[derive(Debug)]
        struct Witness {
            address to;
            uint256 validAfter;
        }

        /// Signed by the payer.
        #[derive(Debug)]
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted;
            address spender;
            uint256 nonce;
            uint256 deadline;
            Witness witness;
        }

        function settle(PermitTransferFrom permit, address owner, Witness witness, bytes signature) external;
        function settleWithPermit(Permit2612 permit2612, PermitTransferFrom permit, address owner, Witness witness, bytes signature) external;
    }

    /// x402UptoPermit2Proxy: `upto`.
    interface UptoProxy {
        /// What the payer binds the payment to.
        #[derive(Debug)]
        struct Witness {
            address to;
            address facilitator;
            uint256 validAfter;
        }

        /// Signed by the payer.
        #[derive(Debug)]
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted;
            address spender;
            uint256 nonce;
            uint256 deadline;
            Witness witness;
        }

        function settle(PermitTransferFrom permit, uint256 amount, address owner, Witness witness, bytes signature) external;
        function settleWithPermit(Permit2612 permit2612, PermitTransferFrom permit, uint256 amount, address owner, Witness witness, bytes signature) external;
    }
}

/// Payment channels.
pub mod batch {
    alloy::sol! {
        /// Part of every Permit2 message.
        #[derive(Debug)]
        struct TokenPermissions {
            address token;
            uint256 amount;
        }

        /// A channel; its id is the EIP-712 digest of this.
        #[derive(Debug, PartialEq, Eq)]
        struct ChannelConfig {
            address payer;
            address payerAuthorizer;
            address receiver;
            address receiverAuthorizer;
            address token;
            uint40 withdrawDelay;
            bytes32 salt;
        }

        /// Signed by the payer's authorizer: so much in all may be claimed.
        #[derive(Debug)]
        struct Voucher {
            bytes32 channelId;
            uint128 maxClaimableAmount;
        }

        /// Signed by the receiver's authorizer.
        #[derive(Debug)]
        struct Refund {
            bytes32 channelId;
            uint256 nonce;
            uint128 amount;
        }

        /// One row of a claim.
        #[derive(Debug)]
        struct ClaimEntry {
            bytes32 channelId;
            uint128 maxClaimableAmount;
            uint128 totalClaimed;
        }

        /// Signed by the receiver's authorizer.
        #[derive(Debug)]
        struct ClaimBatch {
            ClaimEntry[] claims;
        }

        /// What a Permit2 deposit is bound to.
        #[derive(Debug)]
        struct DepositWitness {
            bytes32 channelId;
        }

        /// Signed for deposits by Permit2.
        #[derive(Debug)]
        struct PermitWitnessTransferFrom {
            TokenPermissions permitted;
            address spender;
            uint256 nonce;
            uint256 deadline;
            DepositWitness witness;
        }

        /// A voucher as `claimWithSignature` takes it.
        #[derive(Debug)]
        struct ClaimVoucher {
            ChannelConfig channel;
            uint128 maxClaimableAmount;
        }

        /// A row of `claimWithSignature`.
        #[derive(Debug)]
        struct VoucherClaim {
            ClaimVoucher voucher;
            bytes signature;
            uint128 totalClaimed;
        }

        /// x402BatchSettlement.
        #[derive(Debug)]
        interface Batch {
            event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
            event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);
            event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
            event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);
            function deposit(ChannelConfig config, uint128 amount, address collector, bytes collectorData) external;
            function claimWithSignature(VoucherClaim[] claims, bytes signature) external;
            function settle(address receiver, address token) external;
            function refundWithSignature(ChannelConfig config, uint128 amount, uint256 nonce, bytes signature) external;
            function multicall(bytes[] data) external returns (bytes[] results);
            function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed);
            function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt);
            function receivers(address receiver, address token) external view returns (uint128 totalClaimed, uint128 totalSettled);
            function refundNonce(bytes32 channelId) external view returns (uint256);
        }
    }
}

sol! {
    /// Errors of the x402 contracts; Permit2's and the tokens' are in `known_errors`.
    #[derive(Debug)]
    interface Errors {
        error AmountExceedsPermitted();
        error UnauthorizedFacilitator();
        error InvalidAmount();
        error InvalidOwner();
        error InvalidDestination();
        error PaymentTooEarly();
        error Permit2612AmountMismatch();
        error InvalidPermit2Address();
        error InvalidChannel();
        error ZeroDeposit();
        error DepositOverflow();
        error NotReceiverAuthorizer();
        error NotAuthorizedToClaim();
        error NotAuthorizedToRefund();
        error ClaimExceedsCeiling();
        error ClaimExceedsBalance();
        error WithdrawDelayOutOfRange();
        error EmptyBatch();
        error DepositCollectionFailed();
        error InvalidCollector();
        error InvalidRefundNonce();
        error ZeroRefund();
        error OnlyX402BatchSettlement();
        error NoCode(address target);
        error NotKey(address actual);
        error NotEnoughGas(uint256 index, uint256 actual, uint256 expected);
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{b256, keccak256};
    use alloy::sol_types::{SolCall, SolError, SolEvent, SolStruct};

    use super::*;

    #[test]
    fn type_hashes_are_those_of_the_deployed_contracts() {
        let typehash = |text: String| keccak256(text);
        assert_eq!(
            typehash(TransferWithAuthorization::eip712_encode_type().into_owned()),
            b256!("7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267")
        );
        assert_eq!(
            typehash(ReceiveWithAuthorization::eip712_encode_type().into_owned()),
            b256!("d099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8")
        );
        for (text, expected) in [
            (
                ExactProxy::Witness::eip712_encode_type(),
                b256!("d97b3239a7f32295517bd14cb074edfdd188dfe5eb42f802bb26d4fd1eb12c37"),
            ),
            (
                UptoProxy::Witness::eip712_encode_type(),
                b256!("d4171c445a74218b01d4fd8af34ff1106580ea1e36ff837e64484bfaa2253b75"),
            ),
            (
                batch::ChannelConfig::eip712_encode_type(),
                b256!("1c9a06ceab9b0ebbd3301dc56c9111bb6d9af421356dc9ccb3b7084c755db308"),
            ),
            (
                batch::Voucher::eip712_encode_type(),
                b256!("1e1bd6ff84c3e0d9029a292b212e039c0ca97ec497c55191a4a5874294609a69"),
            ),
            (
                batch::Refund::eip712_encode_type(),
                b256!("be23ad087435072cd69b49cc5b92de10ee610fce7ae0ab428307972d764bb216"),
            ),
            (
                batch::ClaimBatch::eip712_encode_type(),
                b256!("42bd57c010b870c2e96203c66341f28a6a19b4d56a74533a8eb5f706b9fd6d57"),
            ),
            (
                batch::DepositWitness::eip712_encode_type(),
                b256!("ba0000097e86dabe64178afe31109221193339a6861598f2133fcbdc92c84479"),
            ),
        ] {
            assert_eq!(typehash(text.clone().into_owned()), expected, "{text}");
        }
    }

    #[test]
    fn selectors_and_topics_are_those_of_the_deployed_contracts() {
        assert_eq!(ExactProxy::settleCall::SELECTOR, [0x13, 0xcd, 0x3b, 0x53]);
        assert_eq!(ExactProxy::settleWithPermitCall::SELECTOR, [0xfa, 0x34, 0x03, 0x78]);
        assert_eq!(UptoProxy::settleCall::SELECTOR, [0xff, 0x11, 0xe7, 0xb4]);
        assert_eq!(UptoProxy::settleWithPermitCall::SELECTOR, [0x01, 0x6c, 0x17, 0x48]);
        assert_eq!(batch::Batch::depositCall::SELECTOR, [0x14, 0x0f, 0x1e, 0x75]);
        assert_eq!(batch::Batch::claimWithSignatureCall::SELECTOR, [0xe4, 0x3c, 0xe1, 0xf2]);
        assert_eq!(batch::Batch::settleCall::SELECTOR, [0x9d, 0xb3, 0x2a, 0x8f]);
        assert_eq!(batch::Batch::refundWithSignatureCall::SELECTOR, [0xb7, 0x74, 0x33, 0xe9]);
        assert_eq!(batch::Batch::multicallCall::SELECTOR, [0xac, 0x96, 0x50, 0xd8]);
        assert_eq!(batch::Batch::channelsCall::SELECTOR, [0x7a, 0x7e, 0xbd, 0x7b]);
        assert_eq!(batch::Batch::pendingWithdrawalsCall::SELECTOR, [0xb7, 0xf0, 0x6e, 0xbe]);
        assert_eq!(batch::Batch::receiversCall::SELECTOR, [0x21, 0xff, 0x63, 0x89]);
        assert_eq!(batch::Batch::refundNonceCall::SELECTOR, [0xf0, 0xdc, 0x79, 0x2e]);
        assert_eq!(Errors::AmountExceedsPermitted::SELECTOR, [0xfe, 0x64, 0xb4, 0xc7]);
        assert_eq!(Errors::UnauthorizedFacilitator::SELECTOR, [0x0f, 0x6f, 0xae, 0x87]);
        assert_eq!(Errors::PaymentTooEarly::SELECTOR, [0xa6, 0x55, 0x39, 0xfa]);
        assert_eq!(Errors::Permit2612AmountMismatch::SELECTOR, [0x05, 0x0c, 0xda, 0x49]);
        assert_eq!(Errors::InvalidAmount::SELECTOR, [0x2c, 0x52, 0x11, 0xc6]);
        assert_eq!(Errors::ClaimExceedsBalance::SELECTOR, [0x7d, 0x82, 0x42, 0xb6]);
        assert_eq!(Errors::InvalidRefundNonce::SELECTOR, [0x16, 0x4f, 0x1a, 0xfe]);
        assert_eq!(
            batch::Batch::Settled::SIGNATURE_HASH,
            b256!("7337b4386b690fdb8ba66905b92b9d45d33bc6626ee2620c905fb150ec0cc47d")
        );
        assert_eq!(
            batch::Batch::Deposited::SIGNATURE_HASH,
            b256!("6c2a09353b5e75e70d0b9778b80a413809bb235d46c211811c474b3346791d89")
        );
    }
}
