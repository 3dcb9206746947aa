// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title IKeeperRegistry
/// @notice Identities of keepers and their bonds. An id survives key rotation; hot keys can post batches and nothing else.
/// @dev Every open batch reserves one slash of its keeper's bond, so the stake of a batch is there until its window and its disputes
///      are over.
interface IKeeperRegistry {
    /// @notice A keeper's stake, in one slot.
    struct Bond {
        /// In the bond token's smallest unit.
        uint128 amount;
        /// Batches that are not final, or final with rows still in dispute.
        uint32 openBatches;
        /// Open batches for which no slash was taken yet; each reserves `SLASH`.
        uint32 reserved;
        /// Slashed, and not reinstated: posts no batches.
        bool suspended;
        /// On its way out: posts no batches.
        bool unbonding;
    }

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

    /// @notice A bond grew.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param from Who paid.
    /// @param amount What was added, in the bond token's smallest unit.
    /// @param total The bond now.
    event BondAdded(uint64 seq, bytes32 indexed keeperId, address indexed from, uint128 amount, uint128 total);
    /// @notice Unbonding was begun or given up.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param unbonding True when it posts no more batches.
    event UnbondingSet(uint64 seq, bytes32 indexed keeperId, bool unbonding);
    /// @notice A bond was paid out.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    /// @param to Who received it.
    /// @param amount What was paid.
    event BondReleased(uint64 seq, bytes32 indexed keeperId, address indexed to, uint128 amount);
    /// @notice A row of one of the keeper's batches was challenged and not proven.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper, suspended from now on.
    /// @param challenger Whose challenge it was.
    /// @param amount Taken from the bond: `SLASH`, or what was there and not reserved for other batches.
    /// @param reward Half of it, rounded down, for the challenger; the rest is burned.
    event Slashed(uint64 seq, bytes32 indexed keeperId, address indexed challenger, uint128 amount, uint128 reward);
    /// @notice A suspension ended.
    /// @param seq Sequence number of the event.
    /// @param keeperId The keeper.
    event Reinstated(uint64 seq, bytes32 indexed keeperId);
    /// @notice A challenger withdrew its rewards.
    /// @param seq Sequence number of the event.
    /// @param challenger The challenger.
    /// @param to Who received them.
    /// @param amount What was paid.
    event RewardWithdrawn(uint64 seq, address indexed challenger, address indexed to, uint128 amount);

    /// @notice The caller may not act for this keeper.
    error NotHotKey(bytes32 keeperId, address actual);
    /// @notice The bond does not cover one more batch: add to it, or wait until a batch is final.
    error BondTooSmall(uint256 actual, uint256 expected);
    /// @notice The keeper was slashed; its owner reinstates it when none of its batches is open.
    error KeeperSuspended(bytes32 keeperId);
    /// @notice The keeper is unbonding; its owner can give that up.
    error KeeperUnbonding(bytes32 keeperId);
    /// @notice The bond is released only while unbonding.
    error NotUnbonding(bytes32 keeperId);
    /// @notice Nothing to reinstate.
    error NotSuspended(bytes32 keeperId);
    /// @notice Batches of the keeper are not final yet, or have rows in dispute.
    error BatchesOpen(bytes32 keeperId, uint256 batches);
    /// @notice Only the ledger or the dispute game may do this.
    error NotAllowed(address actual, address expected);
    /// @notice The token did not move what it was told to.
    error TransferMismatch(uint256 actual, uint256 expected);
    error ZeroAmount();
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

    /// @notice Adds to a keeper's bond from the caller's allowance. Anyone.
    /// @param keeperId The keeper.
    /// @param amount In the bond token's smallest unit.
    function addBond(bytes32 keeperId, uint128 amount) external;

    /// @notice Begins unbonding, during which the keeper posts no batches, or gives it up. Owner only.
    /// @param keeperId The keeper.
    /// @param unbonding True to begin.
    function setUnbonding(bytes32 keeperId, bool unbonding) external;

    /// @notice Pays out the whole bond while unbonding, once none of the keeper's batches is open. Owner only.
    /// @param keeperId The keeper.
    /// @param to Who receives it.
    /// @return amount What was paid.
    function release(bytes32 keeperId, address to) external returns (uint128 amount);

    /// @notice Ends a suspension, once none of the keeper's batches is open. Owner only.
    /// @param keeperId The keeper.
    function reinstate(bytes32 keeperId) external;

    /// @notice Pays the caller's rewards as a challenger.
    /// @param to Who receives them.
    /// @return amount What was paid.
    function withdrawReward(address to) external returns (uint128 amount);

    /// @notice Checks that the keeper may post a batch with this key, and reserves one slash for it. Ledger only.
    /// @param keeperId The keeper.
    /// @param key The key that posts.
    function openBatch(bytes32 keeperId, address key) external;

    /// @notice A batch is final and none of its rows is in dispute. Ledger only.
    /// @param keeperId The keeper.
    /// @param reserved Whether its slash is still reserved.
    function closeBatch(bytes32 keeperId, bool reserved) external;

    /// @notice Takes one slash, half for the challenger and half burned, and suspends the keeper. Never reverts for what the bond is.
    ///         Dispute game only.
    /// @param keeperId The keeper.
    /// @param challenger Whose challenge was not answered.
    /// @param first Whether the batch's own reserve is taken; further rows of a batch are slashed only from what no batch reserves.
    /// @return taken What was taken.
    function slash(bytes32 keeperId, address challenger, bool first) external returns (uint128 taken);

    /// @notice A keeper's stake and what is reserved of it.
    /// @param keeperId The keeper.
    /// @return The bond; all zero for an unknown id.
    function bondOf(bytes32 keeperId) external view returns (Bond memory);

    /// @notice How many more batches the bond covers now; 0 while suspended or unbonding.
    /// @param keeperId The keeper.
    /// @return The number.
    function batchesLeft(bytes32 keeperId) external view returns (uint256);

    /// @notice What a challenger can withdraw, in the bond token's smallest unit.
    /// @param challenger The challenger.
    /// @return The amount.
    function rewards(address challenger) external view returns (uint128);

    /// @notice What slashes have burned: it stays here for ever.
    /// @return The amount.
    function burned() external view returns (uint128);

    /// @notice The ledger, which opens and closes batches.
    /// @return Its address.
    function ledger() external view returns (address);

    /// @notice The dispute game, which slashes.
    /// @return Its address.
    function disputes() external view returns (address);

    /// @notice The token of all bonds.
    /// @return Its address.
    function bondToken() external view returns (address);

    /// @notice What one unproven row costs, in the bond token's smallest unit.
    /// @return The amount.
    function SLASH() external view returns (uint128);

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
