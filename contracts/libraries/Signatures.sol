// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";

/// @notice Signature forms and verifier calls that cannot be turned against their caller.
library Signatures {
    /// @notice An ECDSA signature of 64 (EIP-2098) or 65 bytes as EIP-2098 words; zeros for any other form.
    /// @dev Says nothing about validity: a zero or high-s signature is refused where it is recovered.
    function compact(bytes calldata signature) internal pure returns (bytes32 r, bytes32 vs) {
        if (signature.length == 64) {
            return (bytes32(signature[:32]), bytes32(signature[32:]));
        }
        if (signature.length == 65) {
            uint256 s = uint256(bytes32(signature[32:64]));
            uint256 v = uint8(signature[64]);
            if ((v == 27 || v == 28) && s >> 255 == 0) {
                return (bytes32(signature[:32]), bytes32(((v - 27) << 255) | s));
            }
        }
    }

    /// @notice True only when an ERC-7913 verifier answers with its magic value.
    /// @dev A verifier without code, one that reverts, answers anything else, or returns more than it should, is a refusal;
    ///      at most one word of its answer is copied.
    function isValid(address verifier, bytes memory key, bytes32 digest, bytes calldata signature)
        internal
        view
        returns (bool valid)
    {
        bytes memory call_ = abi.encodeCall(IERC7913SignatureVerifier.verify, (key, digest, signature));
        bytes32 magic = IERC7913SignatureVerifier.verify.selector;
        assembly ("memory-safe") {
            mstore(0x00, 0)
            valid := staticcall(gas(), verifier, add(call_, 0x20), mload(call_), 0x00, 0x20)
            valid := and(valid, and(gt(returndatasize(), 0x1f), eq(mload(0x00), magic)))
        }
    }
}
