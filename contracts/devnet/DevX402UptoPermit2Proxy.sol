// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IPermit2} from "../interfaces/IPermit2.sol";
import {IX402UptoPermit2Proxy} from "../interfaces/IX402Permit2Proxies.sol";
import {Permit2Payments} from "./base/Permit2Payments.sol";

/// @title DevX402UptoPermit2Proxy
/// @notice For local chains only: x402's proxy of `upto` payments, with the same selectors, digests, events and errors.
/// @dev Has no constructor state: a local chain places its code at 0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002.
contract DevX402UptoPermit2Proxy is IX402UptoPermit2Proxy, Permit2Payments {
    string public constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";
    bytes32 public constant WITNESS_TYPEHASH = keccak256("Witness(address to,address facilitator,uint256 validAfter)");

    /// @inheritdoc IX402UptoPermit2Proxy
    function settle(
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        _settle(permit, amount, owner, witness, signature);
        emit Settled();
    }

    /// @inheritdoc IX402UptoPermit2Proxy
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external nonReentrant {
        _permit2612(permit2612, permit, owner);
        _settle(permit, amount, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settle(
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) private {
        require(msg.sender == witness.facilitator, UnauthorizedFacilitator());
        require(amount <= permit.permitted.amount, AmountExceedsPermitted());
        Payment memory payment = Payment({
            owner: owner,
            to: witness.to,
            amount: amount,
            validAfter: witness.validAfter,
            witness: keccak256(abi.encode(WITNESS_TYPEHASH, witness)),
            witnessTypeString: WITNESS_TYPE_STRING
        });
        _pay(permit, payment, signature);
    }
}
