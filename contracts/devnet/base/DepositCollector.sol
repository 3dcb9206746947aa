// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IX402DepositCollector} from "../../interfaces/IX402DepositCollector.sol";
import {X402Addresses} from "./X402Addresses.sol";

/// @notice Serves the batch settlement contract alone: a payer's signature must not bring money anywhere else.
abstract contract DepositCollector is IX402DepositCollector {
    /// @notice The contract that it serves.
    address public constant x402BatchSettlement = X402Addresses.BATCH_SETTLEMENT;

    error OnlyX402BatchSettlement();
    /// @notice Of the canonical contract's constructor; never here, where the address is a constant.
    error InvalidX402BatchSettlementAddress();

    modifier onlyX402BatchSettlement() {
        require(msg.sender == x402BatchSettlement, OnlyX402BatchSettlement());
        _;
    }
}
