// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice The part of Permit2 that deposits use: one signed transfer with a witness.
interface IPermit2 {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    /// @notice Moves tokens of `owner` that it permitted to the caller by signature, together with the witness.
    /// @param witness EIP-712 struct hash of the witness.
    /// @param witnessTypeString The rest of the type string, from the witness member on.
    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external;
}
