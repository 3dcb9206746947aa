// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title IFeeSplitter
/// @notice Receives the ledger's fees as an account of the escrow and divides them among accounts that are known before.
/// @dev Time is cut into epochs of `EPOCH` seconds, counted from unix time 0. What is collected in an epoch belongs to the shares of that
///      epoch, which nobody can change once it has begun. Money stays in the escrow until it is claimed.
interface IFeeSplitter {
    /// @notice Part of one account.
    struct Share {
        address account;
        /// Of 10,000; the shares of an epoch add up to exactly that.
        uint16 bps;
    }

    /// @notice Who shares from an epoch on, until other shares follow.
    /// @dev Every event carries the contract's contiguous sequence number, from 1: a reader that sees a gap has missed an event.
    /// @param seq Sequence number of the event.
    /// @param epoch First epoch.
    /// @param shares All shares.
    event SharesSet(uint64 seq, uint64 indexed epoch, Share[] shares);
    /// @notice Fees that had arrived in the escrow were counted to the running epoch.
    /// @param seq Sequence number of the event.
    /// @param epoch The running epoch.
    /// @param token The token.
    /// @param amount Counted by this call.
    event Collected(uint64 seq, uint64 indexed epoch, address indexed token, uint128 amount);
    /// @notice An account took its part.
    /// @param seq Sequence number of the event.
    /// @param epoch The epoch that it was collected in.
    /// @param token The token.
    /// @param account Whose part.
    /// @param to Who got the tokens.
    /// @param amount Paid by this call.
    event Claimed(
        uint64 seq, uint64 indexed epoch, address indexed token, address indexed account, address to, uint128 amount
    );

    /// @notice An address must not be zero.
    error ZeroAddress();
    /// @notice An epoch must have a length.
    error ZeroEpoch();
    /// @notice At least one share and at most 32.
    error BadShareCount(uint256 actual, uint256 limit);
    /// @notice Accounts must ascend, so that none counts twice.
    error AccountsNotAscending(address actual, address above);
    /// @notice A share must not be empty.
    error EmptyShare(address account);
    /// @notice Shares must add up to 10,000.
    error BadTotal(uint256 actual, uint256 expected);
    /// @notice Nothing has arrived that was not collected before.
    error NothingToCollect(address token);
    /// @notice Nothing of that epoch is left for the account.
    error NothingToClaim(uint64 epoch, address token, address account);

    /// @notice Sets the shares from the next epoch on. Admin only; an epoch that has begun keeps its shares.
    /// @param shares Ascending by account, adding up to 10,000.
    function setShares(Share[] calldata shares) external;

    /// @notice Counts what has arrived in the escrow to the running epoch. Anyone, any time: who expects other shares in the next epoch
    ///         calls it before this one ends.
    /// @param token The token.
    /// @return amount Counted by this call.
    function collect(address token) external returns (uint128 amount);

    /// @notice Sends the caller's part of an epoch, the running one included, to any address.
    /// @param epoch The epoch.
    /// @param token The token.
    /// @param to Receiver of the tokens.
    /// @return amount Sent by this call.
    function claim(uint64 epoch, address token, address to) external returns (uint128 amount);

    /// @notice The running epoch.
    /// @return The epoch.
    function currentEpoch() external view returns (uint64);

    /// @notice Shares of an epoch, final for the running and every earlier one.
    /// @param epoch The epoch.
    /// @return The shares; none before the first epoch.
    function sharesOf(uint64 epoch) external view returns (Share[] memory);

    /// @notice What was collected in an epoch.
    /// @param epoch The epoch.
    /// @param token The token.
    /// @return Token units.
    function collectedIn(uint64 epoch, address token) external view returns (uint128);

    /// @notice What an account can claim now. Parts are rounded down; less than one unit a share stays.
    /// @param epoch The epoch.
    /// @param token The token.
    /// @param account The account.
    /// @return Token units.
    function claimable(uint64 epoch, address token, address account) external view returns (uint128);

    /// @notice Collected and not yet claimed.
    /// @param token The token.
    /// @return Token units.
    function outstanding(address token) external view returns (uint128);

    /// @notice The escrow that holds the money.
    /// @return The contract.
    function escrow() external view returns (address);

    /// @notice Length of an epoch, seconds.
    /// @return Seconds.
    function EPOCH() external view returns (uint40);

    /// @notice Sequence number of the last event.
    /// @return The number.
    function seq() external view returns (uint64);
}
