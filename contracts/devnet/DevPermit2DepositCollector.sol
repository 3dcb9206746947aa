// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IPermit2} from "../interfaces/IPermit2.sol";
import {IX402DepositCollector} from "../interfaces/IX402DepositCollector.sol";
import {DepositCollector} from "./base/DepositCollector.sol";
import {EIP2612Permits} from "./base/EIP2612Permits.sol";
import {X402Addresses} from "./base/X402Addresses.sol";

/// @title DevPermit2DepositCollector
/// @notice For local chains only: brings deposits into x402 channels by Permit2.
/// @dev Has no constructor state: a local chain places its code at 0x4020425FAf3B746C082C2f942b4E5159887B0005.
contract DevPermit2DepositCollector is DepositCollector, EIP2612Permits {
    address public constant PERMIT2 = X402Addresses.PERMIT2;
    string public constant DEPOSIT_WITNESS_TYPE_STRING =
        "DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)";
    bytes32 public constant DEPOSIT_WITNESS_TYPEHASH = keccak256("DepositWitness(bytes32 channelId)");

    error InvalidPermit2Address();
    error Permit2612AmountMismatch();

    /// @inheritdoc IX402DepositCollector
    /// @param data `(uint256 nonce, uint256 deadline, bytes permit2Signature, bytes eip2612)`, the last empty or
    ///        `(uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)`.
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata data)
        external
        onlyX402BatchSettlement
    {
        (uint256 nonce, uint256 deadline, bytes memory signature, bytes memory eip2612) =
            abi.decode(data, (uint256, uint256, bytes, bytes));
        if (eip2612.length != 0) _permit2612(payer, token, amount, eip2612);
        IPermit2(PERMIT2)
            .permitWitnessTransferFrom(
                IPermit2.PermitTransferFrom(IPermit2.TokenPermissions(token, amount), nonce, deadline),
                IPermit2.SignatureTransferDetails(msg.sender, amount),
                payer,
                keccak256(abi.encode(DEPOSIT_WITNESS_TYPEHASH, channelId)),
                DEPOSIT_WITNESS_TYPE_STRING,
                signature
            );
    }

    function _permit2612(address payer, address token, uint256 amount, bytes memory eip2612) private {
        (uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) =
            abi.decode(eip2612, (uint256, uint256, uint8, bytes32, bytes32));
        require(value == amount, Permit2612AmountMismatch());
        _tryPermit(token, payer, value, deadline, v, r, s);
    }
}
