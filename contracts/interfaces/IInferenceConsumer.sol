// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Implemented by contracts that order inference on-chain and want the answer delivered.
interface IInferenceConsumer {
    /// @notice Called by the settlement ledger, with at least 500,000 gas, after a verified settlement of one of your orders.
    /// @dev Check that `msg.sender` is the ledger. Reverting costs nothing but this delivery: it can be repeated.
    /// @param orderId The order that was paid.
    /// @param settlementId The proven inference.
    /// @param output The answer; its keccak256 is the output hash that the node signed.
    function onInference(bytes32 orderId, bytes32 settlementId, bytes calldata output) external;
}
