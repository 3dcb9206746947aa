// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Brings the money of a deposit into an x402 channel.
interface IX402DepositCollector {
    /// @notice Moves exactly `amount` of the payer's tokens to the caller, which is the batch settlement contract.
    /// @param data What this collector needs; each has its own form.
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata data) external;
}
