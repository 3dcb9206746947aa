// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice x402's channels (scheme `batch-settlement`): a payer deposits once and signs growing vouchers, a receiver claims many of them
///         at once. The same contract is at 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003 on every chain.
/// @dev No owner, pause, upgrade or fee. A channel is named by the EIP-712 digest of its `ChannelConfig`; amounts are in the token's
///      smallest unit.
interface IX402BatchSettlement {
    struct ChannelConfig {
        address payer;
        /// Whose ECDSA key signs vouchers; zero: the payer, by key or ERC-1271.
        address payerAuthorizer;
        address receiver;
        /// May claim and refund, itself or by signature (ECDSA or ERC-1271).
        address receiverAuthorizer;
        address token;
        /// Seconds from asking for the rest to getting it.
        uint40 withdrawDelay;
        bytes32 salt;
    }

    struct Voucher {
        ChannelConfig channel;
        uint128 maxClaimableAmount;
    }

    struct VoucherClaim {
        Voucher voucher;
        /// The payer's, over channel and maximum.
        bytes signature;
        /// What the receiver takes in all, at most the maximum.
        uint128 totalClaimed;
    }

    /// @dev `balance` is all deposits less refunds and withdrawals; claims do not lower it.
    struct Channel {
        uint128 balance;
        uint128 totalClaimed;
    }

    struct PendingWithdrawal {
        uint128 amount;
        uint40 initiatedAt;
    }

    struct Receiver {
        uint128 totalClaimed;
        uint128 totalSettled;
    }

    event ChannelCreated(bytes32 indexed channelId, ChannelConfig config);
    /// @notice All went back to the payer and nothing was ever claimed.
    event ChannelClosed(bytes32 indexed channelId, ChannelConfig config);
    event Deposited(bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance);
    event Claimed(bytes32 indexed channelId, address indexed sender, uint128 claimAmount, uint128 newTotalClaimed);
    event Settled(address indexed receiver, address indexed token, address indexed sender, uint128 amount);
    event Refunded(bytes32 indexed channelId, address indexed sender, uint128 amount);
    event WithdrawInitiated(bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter);
    event WithdrawFinalized(bytes32 indexed channelId, address indexed sender, uint128 amount);

    error InvalidChannel();
    error ZeroDeposit();
    error DepositOverflow();
    error InvalidSignature();
    error NotReceiverAuthorizer();
    error NotAuthorizedToClaim();
    error NotAuthorizedToRefund();
    error ClaimExceedsCeiling();
    error ClaimExceedsBalance();
    error WithdrawalAlreadyPending();
    error WithdrawalNotPending();
    error NotAuthorizedToFinalizeWithdraw();
    error WithdrawDelayNotElapsed();
    error NothingToWithdraw();
    error WithdrawAmountExceedsAvailable();
    error WithdrawDelayOutOfRange();
    error EmptyBatch();
    error DepositCollectionFailed();
    error InvalidCollector();
    error InvalidRefundNonce();
    error ZeroRefund();

    /// @notice Puts money into a channel, which the collector brings. Anyone.
    function deposit(ChannelConfig calldata config, uint128 amount, address collector, bytes calldata collectorData)
        external;

    /// @notice Claims vouchers. Receiver or receiverAuthorizer of every one of them. What is claimed already is skipped.
    function claim(VoucherClaim[] calldata voucherClaims) external;

    /// @notice Claims vouchers that share a receiverAuthorizer, by its signature of them all. Anyone.
    function claimWithSignature(VoucherClaim[] calldata voucherClaims, bytes calldata authorizerSignature) external;

    /// @notice Pays a receiver what was claimed for it. Anyone.
    function settle(address receiver, address token) external;

    /// @notice Starts taking back what is not claimed. Payer or payerAuthorizer.
    function initiateWithdraw(ChannelConfig calldata config, uint128 amount) external;

    /// @notice Pays the payer what it asked for, as far as it was not claimed since. Payer or payerAuthorizer.
    function finalizeWithdraw(ChannelConfig calldata config) external;

    /// @notice Gives the payer back what is not claimed, at most `amount`. Receiver or receiverAuthorizer.
    function refund(ChannelConfig calldata config, uint128 amount) external;

    /// @notice As `refund`, by the receiverAuthorizer's signature. Anyone.
    function refundWithSignature(
        ChannelConfig calldata config,
        uint128 amount,
        uint256 nonce,
        bytes calldata authorizerSignature
    ) external;

    function channels(bytes32 channelId) external view returns (uint128 balance, uint128 totalClaimed);

    function pendingWithdrawals(bytes32 channelId) external view returns (uint128 amount, uint40 initiatedAt);

    function receivers(address receiver, address token)
        external
        view
        returns (uint128 totalClaimed, uint128 totalSettled);

    function refundNonce(bytes32 channelId) external view returns (uint256);

    function getChannelId(ChannelConfig calldata config) external view returns (bytes32);

    function getVoucherDigest(bytes32 channelId, uint128 maxClaimableAmount) external view returns (bytes32);

    function getRefundDigest(bytes32 channelId, uint256 nonce, uint128 amount) external view returns (bytes32);

    function getClaimBatchDigest(VoucherClaim[] calldata voucherClaims) external view returns (bytes32);

    function CHANNEL_CONFIG_TYPEHASH() external view returns (bytes32);

    function VOUCHER_TYPEHASH() external view returns (bytes32);

    function REFUND_TYPEHASH() external view returns (bytes32);

    function CLAIM_ENTRY_TYPEHASH() external view returns (bytes32);

    function CLAIM_BATCH_TYPEHASH() external view returns (bytes32);

    function MIN_WITHDRAW_DELAY() external view returns (uint40);

    function MAX_WITHDRAW_DELAY() external view returns (uint40);
}
