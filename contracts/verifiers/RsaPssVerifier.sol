// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {RsaPss} from "../libraries/RsaPss.sol";

/// @title RsaPssVerifier
/// @notice ERC-7913 verifier of OpenGradient inference signatures: RSA-2048 to RSA-4096, PSS, SHA-256, salt 32, e = 65537.
/// @dev Keys are DER SubjectPublicKeyInfo. The message that is signed is the 32-byte hash itself, so PSS works on
///      `sha256(hash)`: the same double hash as OpenGradient's precompile 0x0900. Bad keys and signatures of any shape give
///      0xffffffff and never revert.
contract RsaPssVerifier is IERC7913SignatureVerifier {
    bytes4 private constant INVALID = 0xffffffff;

    /// @inheritdoc IERC7913SignatureVerifier
    function verify(bytes calldata key, bytes32 hash, bytes calldata signature)
        external
        view
        override
        returns (bytes4)
    {
        return RsaPss.verify(key, sha256(abi.encodePacked(hash)), signature)
            ? IERC7913SignatureVerifier.verify.selector
            : INVALID;
    }
}
