// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title IOpenGradientTEERegistry
/// @notice The part of OpenGradient's TEE registry that the inbox asks.
interface IOpenGradientTEERegistry {
    /// @notice Signing key of a node that was ever registered.
    /// @param teeId keccak256 of the key.
    /// @return DER SubjectPublicKeyInfo.
    function getTEEPublicKey(bytes32 teeId) external view returns (bytes memory);
}

/// @title IOpenGradientTEEVerifier
/// @notice OpenGradient's precompile at 0x0000000000000000000000000000000000000900.
interface IOpenGradientTEEVerifier {
    /// @notice RSASSA-PSS with SHA-256, MGF1-SHA-256 and a 32-byte salt over the 32 bytes of `messageHash` as the message.
    /// @param publicKeyDER DER SubjectPublicKeyInfo.
    /// @param messageHash What the node signed; it is hashed again with SHA-256.
    /// @param signature As long as the modulus.
    /// @return True when it is valid; false for anything else.
    function verifyRSAPSS(bytes calldata publicKeyDER, bytes32 messageHash, bytes calldata signature)
        external
        view
        returns (bool);

    /// @notice Verifies a Nitro attestation document and that it names the key and the certificate.
    /// @param attestationDocument CBOR COSE_Sign1.
    /// @param signingPublicKey DER SubjectPublicKeyInfo.
    /// @param tlsCertificate DER certificate.
    /// @param rootCertificate PEM root, or empty for the built-in one.
    /// @return valid True when it holds.
    /// @return pcrHash keccak256(pcr0 ‖ pcr1 ‖ pcr2).
    function verifyAttestation(
        bytes calldata attestationDocument,
        bytes calldata signingPublicKey,
        bytes calldata tlsCertificate,
        bytes calldata rootCertificate
    ) external view returns (bool valid, bytes32 pcrHash);
}
