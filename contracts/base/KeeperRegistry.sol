// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IKeeperRegistry} from "../interfaces/IKeeperRegistry.sol";

/// @title KeeperRegistry
/// @notice Identities of keepers. No role and no administrator: an owner answers for its keeper alone.
contract KeeperRegistry is IKeeperRegistry {
    /// @inheritdoc IKeeperRegistry
    uint64 public override seq;

    mapping(bytes32 keeperId => Keeper) private _keepers;
    mapping(bytes32 keeperId => mapping(address key => bool)) private _hotKeys;

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
