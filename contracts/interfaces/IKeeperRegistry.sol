// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title IKeeperRegistry
/// @notice Identities of keepers. An id survives key rotation; hot keys can post batches and nothing else.
interface IKeeperRegistry {
    /// @notice A keeper's record.
    struct Keeper {
        /// Sets hot keys and payout.
        address owner;
        /// Proposed owner, 0 if none.
        address pendingOwner;
        /// Account that receives what the keeper earns.
        address payout;
        /// Block timestamp of the registration, 0 for an unknown id.
        uint40 registeredAt;
    }

    /// @notice A keeper exists from now on.
    /// @dev Every event carries the contract's contiguous sequence number, from 1: a reader that sees a gap has missed an event.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param owner Its owner.
    /// @param payout Its payout account.
    event KeeperRegistered(uint64 seq, bytes32 indexed keeperId, address indexed owner, address payout);
    /// @notice A hot key was allowed or removed.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param key The hot key.
    /// @param allowed True when it may act for the keeper from now on.
    event HotKeySet(uint64 seq, bytes32 indexed keeperId, address indexed key, bool allowed);
    /// @notice The payout account was set.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param payout Its payout account.
    event PayoutSet(uint64 seq, bytes32 indexed keeperId, address payout);
    /// @notice An owner was proposed, or a proposal withdrawn.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param pendingOwner Who may accept; 0: nobody.
    event OwnershipProposed(uint64 seq, bytes32 indexed keeperId, address indexed pendingOwner);
    /// @notice A proposed owner accepted.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param owner Its new owner.
    event OwnershipTransferred(uint64 seq, bytes32 indexed keeperId, address indexed owner);

    /// @notice The caller registered this salt before.
    error KeeperExists(bytes32 keeperId);
    /// @notice No keeper has this id.
    error UnknownKeeper(bytes32 keeperId);
    /// @notice Only the owner may do this.
    error NotOwner(address actual, address expected);
    /// @notice Only the proposed owner may do this.
    error NotPendingOwner(address actual, address expected);
    /// @notice An account or key must not be zero.
    error ZeroAddress();

    /// @notice Registers a keeper owned by the caller.
    /// @param salt Any value that the caller has not used; an owner can have many keepers.
    /// @param payout Account that receives what the keeper earns.
    /// @param hotKeys Keys that may post batches.
    /// @return keeperId `keeperIdOf(caller, salt)`.
    function register(bytes32 salt, address payout, address[] calldata hotKeys) external returns (bytes32 keeperId);

    /// @notice Allows or removes a hot key. Owner only.
    /// @param keeperId The keeper.
    /// @param key The hot key.
    /// @param allowed True to allow it.
    function setHotKey(bytes32 keeperId, address key, bool allowed) external;

    /// @notice Sets the payout account. Owner only.
    /// @param keeperId The keeper.
    /// @param payout The account.
    function setPayout(bytes32 keeperId, address payout) external;

    /// @notice Proposes a new owner, who must accept. Owner only. Hot keys stay: the new owner should review them.
    /// @param keeperId The keeper.
    /// @param newOwner Who may accept; 0 withdraws a proposal.
    function transferOwnership(bytes32 keeperId, address newOwner) external;

    /// @notice Accepts a proposed ownership. Proposed owner only.
    /// @param keeperId The keeper.
    function acceptOwnership(bytes32 keeperId) external;

    /// @notice A keeper's record.
    /// @param keeperId The keeper.
    /// @return The record; all zero for an unknown id.
    function keeper(bytes32 keeperId) external view returns (Keeper memory);

    /// @notice Whether a key may act for a keeper. The owner may not, unless it is a hot key too.
    /// @param keeperId The keeper.
    /// @param key The key.
    /// @return True when it may.
    function isHotKey(bytes32 keeperId, address key) external view returns (bool);

    /// @notice The id of the keeper that an owner registers with a salt.
    /// @param owner Who registers.
    /// @param salt Its salt.
    /// @return `keccak256(abi.encode(owner, salt))`.
    function keeperIdOf(address owner, bytes32 salt) external pure returns (bytes32);

    /// @notice Sequence number of the last event, 0 before the first.
    /// @return The number.
    function seq() external view returns (uint64);
}
