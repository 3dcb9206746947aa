// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IKeeperRegistry} from "../interfaces/IKeeperRegistry.sol";

/// @title KeeperRegistry
/// @notice Identities of keepers and their bonds. No role and no administrator: an owner answers for its keeper alone.
/// @dev A slash moves numbers only: no token call can keep it from happening.
contract KeeperRegistry is IKeeperRegistry, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @inheritdoc IKeeperRegistry
    address public immutable override ledger;
    /// @inheritdoc IKeeperRegistry
    address public immutable override disputes;
    /// @inheritdoc IKeeperRegistry
    address public immutable override bondToken;
    /// @inheritdoc IKeeperRegistry
    uint128 public immutable override SLASH;

    /// @inheritdoc IKeeperRegistry
    uint64 public override seq;
    /// @inheritdoc IKeeperRegistry
    uint128 public override burned;

    mapping(bytes32 keeperId => Keeper) private _keepers;
    mapping(bytes32 keeperId => mapping(address key => bool)) private _hotKeys;
    /// @dev One slot: opening and closing a batch write it.
    mapping(bytes32 keeperId => Bond) private _bonds;
    /// @inheritdoc IKeeperRegistry
    mapping(address challenger => uint128) public override rewards;

    constructor(address ledger_, address disputes_, address bondToken_, uint128 slash_) {
        require(ledger_ != address(0) && disputes_ != address(0) && bondToken_ != address(0), ZeroAddress());
        ledger = ledger_;
        disputes = disputes_;
        bondToken = bondToken_;
        SLASH = slash_;
    }

    /// @inheritdoc IKeeperRegistry
    function register(bytes32 salt, address payout, address[] calldata hotKeys)
        external
        override
        returns (bytes32 keeperId)
    {
        require(payout != address(0), ZeroAddress());
        keeperId = keeperIdOf(msg.sender, salt);
        Keeper storage record = _keepers[keeperId];
        require(record.registeredAt == 0, KeeperExists(keeperId));

        record.owner = msg.sender;
        record.payout = payout;
        record.registeredAt = uint40(block.timestamp);
        emit KeeperRegistered(++seq, keeperId, msg.sender, payout);
        for (uint256 i; i < hotKeys.length; ++i) {
            _setHotKey(keeperId, hotKeys[i], true);
        }
    }

    /// @inheritdoc IKeeperRegistry
    function setHotKey(bytes32 keeperId, address key, bool allowed) external override {
        _owned(keeperId);
        _setHotKey(keeperId, key, allowed);
    }

    /// @inheritdoc IKeeperRegistry
    function setPayout(bytes32 keeperId, address payout) external override {
        require(payout != address(0), ZeroAddress());
        _owned(keeperId).payout = payout;
        emit PayoutSet(++seq, keeperId, payout);
    }

    /// @inheritdoc IKeeperRegistry
    function transferOwnership(bytes32 keeperId, address newOwner) external override {
        _owned(keeperId).pendingOwner = newOwner;
        emit OwnershipProposed(++seq, keeperId, newOwner);
    }

    /// @inheritdoc IKeeperRegistry
    function acceptOwnership(bytes32 keeperId) external override {
        Keeper storage record = _known(keeperId);
        require(record.pendingOwner == msg.sender, NotPendingOwner(msg.sender, record.pendingOwner));
        record.owner = msg.sender;
        record.pendingOwner = address(0);
        emit OwnershipTransferred(++seq, keeperId, msg.sender);
    }

    // ── Bonds ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IKeeperRegistry
    function addBond(bytes32 keeperId, uint128 amount) external override nonReentrant {
        require(amount != 0, ZeroAmount());
        _known(keeperId);
        uint256 before = IERC20(bondToken).balanceOf(address(this));
        IERC20(bondToken).safeTransferFrom(msg.sender, address(this), amount);
        uint256 arrived = IERC20(bondToken).balanceOf(address(this)) - before;
        require(arrived == amount, TransferMismatch(arrived, amount));
        Bond storage bond = _bonds[keeperId];
        bond.amount += amount;
        emit BondAdded(++seq, keeperId, msg.sender, amount, bond.amount);
    }

    /// @inheritdoc IKeeperRegistry
    function setUnbonding(bytes32 keeperId, bool unbonding) external override {
        _owned(keeperId);
        _bonds[keeperId].unbonding = unbonding;
        emit UnbondingSet(++seq, keeperId, unbonding);
    }

    /// @inheritdoc IKeeperRegistry
    function release(bytes32 keeperId, address to) external override nonReentrant returns (uint128 amount) {
        require(to != address(0), ZeroAddress());
        _owned(keeperId);
        Bond storage bond = _bonds[keeperId];
        require(bond.unbonding, NotUnbonding(keeperId));
        require(bond.openBatches == 0, BatchesOpen(keeperId, bond.openBatches));
        amount = bond.amount;
        require(amount != 0, ZeroAmount());
        bond.amount = 0;
        emit BondReleased(++seq, keeperId, to, amount);
        IERC20(bondToken).safeTransfer(to, amount);
    }

    /// @inheritdoc IKeeperRegistry
    function reinstate(bytes32 keeperId) external override {
        _owned(keeperId);
        Bond storage bond = _bonds[keeperId];
        require(bond.suspended, NotSuspended(keeperId));
        require(bond.openBatches == 0, BatchesOpen(keeperId, bond.openBatches));
        bond.suspended = false;
        emit Reinstated(++seq, keeperId);
    }

    /// @inheritdoc IKeeperRegistry
    function withdrawReward(address to) external override nonReentrant returns (uint128 amount) {
        require(to != address(0), ZeroAddress());
        amount = rewards[msg.sender];
        require(amount != 0, ZeroAmount());
        rewards[msg.sender] = 0;
        emit RewardWithdrawn(++seq, msg.sender, to, amount);
        IERC20(bondToken).safeTransfer(to, amount);
    }

    // ── For ledger and dispute game ──────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IKeeperRegistry
    function openBatch(bytes32 keeperId, address key) external override {
        require(msg.sender == ledger, NotAllowed(msg.sender, ledger));
        require(_hotKeys[keeperId][key], NotHotKey(keeperId, key));
        Bond memory bond = _bonds[keeperId];
        require(!bond.suspended, KeeperSuspended(keeperId));
        require(!bond.unbonding, KeeperUnbonding(keeperId));
        uint256 needed = (uint256(bond.reserved) + 1) * SLASH;
        require(bond.amount >= needed, BondTooSmall(bond.amount, needed));
        bond.openBatches++;
        bond.reserved++;
        _bonds[keeperId] = bond;
    }

    /// @inheritdoc IKeeperRegistry
    function closeBatch(bytes32 keeperId, bool reserved) external override {
        require(msg.sender == ledger, NotAllowed(msg.sender, ledger));
        Bond memory bond = _bonds[keeperId];
        bond.openBatches--;
        if (reserved) bond.reserved--;
        _bonds[keeperId] = bond;
    }

    /// @inheritdoc IKeeperRegistry
    function slash(bytes32 keeperId, address challenger, bool first) external override returns (uint128 taken) {
        require(msg.sender == disputes, NotAllowed(msg.sender, disputes));
        Bond memory bond = _bonds[keeperId];
        if (first) bond.reserved--;
        // Never what other batches have reserved.
        uint256 available = bond.amount - uint256(bond.reserved) * SLASH;
        // forge-lint: disable-next-line(unsafe-typecast)
        taken = available < SLASH ? uint128(available) : SLASH;
        bond.amount -= taken;
        bond.suspended = true;
        _bonds[keeperId] = bond;
        uint128 reward = taken / 2;
        rewards[challenger] += reward;
        burned += taken - reward;
        emit Slashed(++seq, keeperId, challenger, taken, reward);
    }

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IKeeperRegistry
    function bondOf(bytes32 keeperId) external view override returns (Bond memory) {
        return _bonds[keeperId];
    }

    /// @inheritdoc IKeeperRegistry
    function batchesLeft(bytes32 keeperId) external view override returns (uint256) {
        Bond memory bond = _bonds[keeperId];
        if (bond.suspended || bond.unbonding) return 0;
        return SLASH == 0 ? type(uint32).max : bond.amount / SLASH - bond.reserved;
    }

    /// @inheritdoc IKeeperRegistry
    function keeper(bytes32 keeperId) external view override returns (Keeper memory) {
        return _keepers[keeperId];
    }

    /// @inheritdoc IKeeperRegistry
    function isHotKey(bytes32 keeperId, address key) external view override returns (bool) {
        return _hotKeys[keeperId][key];
    }

    /// @inheritdoc IKeeperRegistry
    function keeperIdOf(address owner, bytes32 salt) public pure override returns (bytes32) {
        return keccak256(abi.encode(owner, salt));
    }

    function _setHotKey(bytes32 keeperId, address key, bool allowed) private {
        require(key != address(0), ZeroAddress());
        _hotKeys[keeperId][key] = allowed;
        emit HotKeySet(++seq, keeperId, key, allowed);
    }

    function _known(bytes32 keeperId) private view returns (Keeper storage record) {
        record = _keepers[keeperId];
        require(record.registeredAt != 0, UnknownKeeper(keeperId));
    }

    function _owned(bytes32 keeperId) private view returns (Keeper storage record) {
        record = _known(keeperId);
        require(record.owner == msg.sender, NotOwner(msg.sender, record.owner));
    }
}
