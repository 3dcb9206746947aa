// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IReceiveWithAuthorization} from "../interfaces/IReceiveWithAuthorization.sol";
import {IX402DepositCollector} from "../interfaces/IX402DepositCollector.sol";
import {DepositCollector} from "./base/DepositCollector.sol";

/// @title DevERC3009DepositCollector
/// @notice For local chains only: brings deposits into x402 channels by EIP-3009.
/// @dev Has no constructor state: a local chain places its code at 0x4020806089470a89826cB9fB1f4059150b550004.
contract DevERC3009DepositCollector is DepositCollector {
    using SafeERC20 for IERC20;

    /// @inheritdoc IX402DepositCollector
    /// @param data `(uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature)`; the nonce binds the channel.
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata data)
        external
        onlyX402BatchSettlement
    {
        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(data, (uint256, uint256, uint256, bytes));
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        IReceiveWithAuthorization(token)
            .receiveWithAuthorization(payer, address(this), amount, validAfter, validBefore, nonce, signature);
        IERC20(token).safeTransfer(msg.sender, amount);
    }
}
