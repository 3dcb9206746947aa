// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IPermit2} from "./IPermit2.sol";

/// @notice What x402's two Permit2 proxies have in common.
interface IX402Permit2Proxy {
    /// @notice An EIP-2612 permit for Permit2, of the token that is paid with.
    struct EIP2612Permit {
        uint256 value;
        uint256 deadline;
        bytes32 r;
        bytes32 s;
        uint8 v;
    }

    event Settled();
    event SettledWithPermit();

    error InvalidPermit2Address();
    error InvalidAmount();
    error InvalidOwner();
    error InvalidDestination();
    error PaymentTooEarly();
    error Permit2612AmountMismatch();

    function PERMIT2() external view returns (address);

    function WITNESS_TYPEHASH() external view returns (bytes32);

    function WITNESS_TYPE_STRING() external view returns (string memory);
}

/// @notice Pays exactly what was signed, to whom it was signed. At 0x402085c248EeA27D92E8b30b2C58ed07f9E20001 on every chain.
interface IX402ExactPermit2Proxy is IX402Permit2Proxy {
    struct Witness {
        address to;
        uint256 validAfter;
    }

    /// @notice Pays. Anyone.
    function settle(
        IPermit2.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external;

    /// @notice As `settle`, after setting the owner's allowance for Permit2; a failing permit is only logged.
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        IPermit2.PermitTransferFrom calldata permit,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external;
}

/// @notice Pays at most what was signed, to whom it was signed, sent by the facilitator that was signed.
///         At 0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002 on every chain.
interface IX402UptoPermit2Proxy is IX402Permit2Proxy {
    struct Witness {
        address to;
        address facilitator;
        uint256 validAfter;
    }

    error AmountExceedsPermitted();
    error UnauthorizedFacilitator();

    /// @notice Pays `amount`. The witness's facilitator.
    function settle(
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external;

    /// @notice As `settle`, after setting the owner's allowance for Permit2; a failing permit is only logged.
    function settleWithPermit(
        EIP2612Permit calldata permit2612,
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external;
}
