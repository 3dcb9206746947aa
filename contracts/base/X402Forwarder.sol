// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IX402Forwarder} from "../interfaces/IX402Forwarder.sol";

/// @notice Settles x402 payments for a facilitator with several keys.
contract X402Forwarder is IX402Forwarder, ReentrancyGuardTransient {
    /// @inheritdoc IX402Forwarder
    uint256 public constant MAX_REASON = 256;
    /// @inheritdoc IX402Forwarder
    uint256 public constant CALL_RESERVE = 10_000;

    /// @inheritdoc IX402Forwarder
    address public owner;
    /// @inheritdoc IX402Forwarder
    address public pendingOwner;
    /// @inheritdoc IX402Forwarder
    mapping(address key => bool) public isKey;

    modifier onlyOwner() {
        require(msg.sender == owner, NotOwner(msg.sender, owner));
        _;
    }

    /// @param keys May forward from the start.
    constructor(address owner_, address[] memory keys) {
        require(owner_ != address(0), ZeroAddress());
        owner = owner_;
        emit OwnershipTransferred(address(0), owner_);
        for (uint256 i; i < keys.length; ++i) {
            _setKey(keys[i], true);
        }
    }

    /// @inheritdoc IX402Forwarder
    function forward(Call[] calldata calls) external nonReentrant returns (Result[] memory results) {
        require(isKey[msg.sender], NotKey(msg.sender));
        require(calls.length != 0, NothingToForward());
        results = new Result[](calls.length);
        for (uint256 i; i < calls.length; ++i) {
            Call calldata item = calls[i];
            // Without this, an address where a contract is missing would seem to agree to everything.
            (bool success, bytes memory reason) = item.target.code.length == 0
                ? (false, abi.encodeWithSelector(NoCode.selector, item.target))
                : _call(item, i);
            results[i] = Result(success, reason);
            emit Forwarded(item.id, success, reason);
        }
    }

    /// @inheritdoc IX402Forwarder
    function setKey(address key, bool allowed) external onlyOwner {
        _setKey(key, allowed);
    }

    /// @inheritdoc IX402Forwarder
    function transferOwnership(address to) external onlyOwner {
        pendingOwner = to;
        emit OwnershipOffered(msg.sender, to);
    }

    /// @inheritdoc IX402Forwarder
    function acceptOwnership() external {
        require(msg.sender == pendingOwner, NotPendingOwner(msg.sender, pendingOwner));
        emit OwnershipTransferred(owner, msg.sender);
        owner = msg.sender;
        delete pendingOwner;
    }

    function _setKey(address key, bool allowed) private {
        require(key != address(0), ZeroAddress());
        isKey[key] = allowed;
        emit KeySet(key, allowed);
    }

    /// @dev A call is given at most 63/64 of the gas that is left, whatever it asks for, and the rest must pay for what comes after.
    function _call(Call calldata item, uint256 index) private returns (bool success, bytes memory reason) {
        (address target, uint256 limit, bytes calldata data) = (item.target, item.gas, item.data);
        uint256 needed = limit + limit / 63 + CALL_RESERVE;
        uint256 left;
        assembly ("memory-safe") {
            // Above the free memory, which stays free: the next call's data takes the same place.
            let pointer := mload(0x40)
            calldatacopy(pointer, data.offset, data.length)
            left := gas()
            if iszero(lt(left, needed)) { success := call(limit, target, 0, pointer, data.length, 0, 0) }
        }
        require(left >= needed, NotEnoughGas(index, left, needed));
        if (success) return (true, reason);
        assembly ("memory-safe") {
            let size := returndatasize()
            if gt(size, MAX_REASON) { size := MAX_REASON }
            reason := mload(0x40)
            mstore(reason, size)
            returndatacopy(add(reason, 0x20), 0, size)
            mstore(0x40, add(reason, and(add(size, 0x3f), not(0x1f))))
        }
    }
}
