// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IPermit2} from "../../interfaces/IPermit2.sol";
import {IX402Permit2Proxy} from "../../interfaces/IX402Permit2Proxies.sol";
import {EIP2612Permits} from "./EIP2612Permits.sol";
import {X402Addresses} from "./X402Addresses.sol";

/// @notice What both Permit2 proxies do with a payment once its witness is known.
abstract contract Permit2Payments is IX402Permit2Proxy, EIP2612Permits, ReentrancyGuardTransient {
    /// @inheritdoc IX402Permit2Proxy
    address public constant PERMIT2 = X402Addresses.PERMIT2;

    struct Payment {
        address owner;
        address to;
        uint256 amount;
        uint256 validAfter;
        bytes32 witness;
        string witnessTypeString;
    }

    function _pay(IPermit2.PermitTransferFrom calldata permit, Payment memory payment, bytes calldata signature)
        internal
    {
        require(payment.amount != 0, InvalidAmount());
        require(payment.owner != address(0), InvalidOwner());
        require(payment.to != address(0), InvalidDestination());
        require(block.timestamp >= payment.validAfter, PaymentTooEarly());
        IPermit2(PERMIT2)
            .permitWitnessTransferFrom(
                permit,
                IPermit2.SignatureTransferDetails(payment.to, payment.amount),
                payment.owner,
                payment.witness,
                payment.witnessTypeString,
                signature
            );
    }

    function _permit2612(EIP2612Permit calldata permit2612, IPermit2.PermitTransferFrom calldata permit, address owner)
        internal
    {
        require(permit2612.value == permit.permitted.amount, Permit2612AmountMismatch());
        _tryPermit(
            permit.permitted.token,
            owner,
            permit2612.value,
            permit2612.deadline,
            permit2612.v,
            permit2612.r,
            permit2612.s
        );
    }
}
