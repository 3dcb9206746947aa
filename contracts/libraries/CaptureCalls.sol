// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {ISettlementLedger} from "../interfaces/ISettlementLedger.sol";
import {Order} from "./Orders.sol";

/// @notice The call `escrow.capture(order, r, vs, amount, true)`, encoded once for a batch; each row overwrites its own words.
/// @dev Saves decoding every row into memory and encoding it again. Words of the arguments, and where a row has them:
///      0 payer (0), 1 token, 2–4 maxAmount, requestCommit, nodeScope (1–3), 5 keeperId, 6–8 times (4–6), 9 nonce (7),
///      10–12 r, vs, amount (8–10), 13 true. The escrow reads every narrow member, which reverts when its upper bits are dirty.
library CaptureCalls {
    /// @dev Length word and selector come before the arguments.
    uint256 private constant ARGUMENTS = 0x24;

    /// @notice The call with the members that all rows share.
    function prepare(address token, bytes32 keeperId) internal pure returns (bytes memory call_) {
        Order memory shared;
        shared.token = token;
        shared.keeperId = keeperId;
        return abi.encodeCall(IInferenceEscrow.capture, (shared, 0, 0, 0, true));
    }

    /// @notice Puts a row's members in their places.
    function fill(bytes memory call_, ISettlementLedger.OrderRow calldata row) internal pure {
        assembly ("memory-safe") {
            let arguments := add(call_, ARGUMENTS)
            calldatacopy(arguments, row, 0x20)
            calldatacopy(add(arguments, 0x40), add(row, 0x20), 0x60)
            calldatacopy(add(arguments, 0xc0), add(row, 0x80), 0xe0)
        }
    }

    /// @notice Makes the call; a revert is passed on.
    function send(bytes memory call_, IInferenceEscrow escrow)
        internal
        returns (IInferenceEscrow.CaptureResult result, bytes32 orderId)
    {
        uint256 word;
        assembly ("memory-safe") {
            let success := call(gas(), escrow, 0, add(call_, 0x20), mload(call_), 0x00, 0x40)
            if iszero(and(success, gt(returndatasize(), 0x3f))) {
                let pointer := mload(0x40)
                returndatacopy(pointer, 0, returndatasize())
                revert(pointer, returndatasize())
            }
            word := mload(0x00)
            orderId := mload(0x20)
        }
        result = IInferenceEscrow.CaptureResult(word);
    }

    /// @notice The order that the call captures.
    function order(bytes memory call_) internal pure returns (Order memory order_) {
        assembly ("memory-safe") {
            mcopy(order_, add(call_, ARGUMENTS), 0x140)
        }
    }
}
