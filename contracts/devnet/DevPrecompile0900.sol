// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IOpenGradientTEEVerifier} from "../interfaces/IOpenGradient.sol";
import {RsaPss} from "../libraries/RsaPss.sol";

/// @title DevPrecompile0900
/// @notice For local chains only: what OpenGradient's chain has as a precompile at 0x…0900. Signatures are really verified
///         (RSA-2048 to RSA-4096, e = 65537); attestation documents are not verified here, and the call says so.
/// @dev Has no state: a local chain places its code at the address.
contract DevPrecompile0900 is IOpenGradientTEEVerifier {
    /// @notice A devnet has no Nitro enclaves, so there is no document to verify: use `DevTEERegistry.registerDevnetTEE`.
    error AttestationNotAvailableOnDevnet();

    /// @inheritdoc IOpenGradientTEEVerifier
    function verifyRSAPSS(bytes calldata publicKeyDER, bytes32 messageHash, bytes calldata signature)
        external
        view
        override
        returns (bool)
    {
        return RsaPss.verify(publicKeyDER, sha256(abi.encodePacked(messageHash)), signature);
    }

    /// @inheritdoc IOpenGradientTEEVerifier
    function verifyAttestation(bytes calldata, bytes calldata, bytes calldata, bytes calldata)
        external
        pure
        override
        returns (bool, bytes32)
    {
        revert AttestationNotAvailableOnDevnet();
    }
}
