// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @notice Who signed: an ECDSA key first, whether or not its account has code, then the account's own ERC-1271 word.
/// @dev An account that delegated to code (EIP-7702) still has its key; asking its code first would let it disown what it signed.
library PayerSignatures {
    /// @dev Last word of an ERC-6492 signature.
    bytes32 private constant WRAPPED = 0x6492649264926492649264926492649264926492649264926492649264926492;

    /// @notice Whether `signer`'s key made the EIP-2098 signature.
    function isKey(address signer, bytes32 digest, bytes32 r, bytes32 vs) internal pure returns (bool) {
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecover(digest, r, vs);
        return failure == ECDSA.RecoverError.NoError && recovered == signer;
    }

    /// @notice Whether `signer`'s key made the signature of 64 (EIP-2098) or 65 bytes.
    function isKey(address signer, bytes32 digest, bytes calldata signature) internal pure returns (bool) {
        if (signature.length == 64) return isKey(signer, digest, bytes32(signature[:32]), bytes32(signature[32:]));
        (address recovered, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        return failure == ECDSA.RecoverError.NoError && recovered == signer;
    }

    /// @notice Whether the account's code accepts the signature. Copies one word of what it returns.
    function isAccount(address signer, bytes32 digest, bytes memory signature) internal view returns (bool) {
        // Precompiles have no code; the identity one would echo its input.
        return signer.code.length != 0 && SignatureChecker.isValidERC1271SignatureNow(signer, digest, signature);
    }

    /// @notice Whether the signature has the ERC-6492 form.
    function isWrapped(bytes calldata signature) internal pure returns (bool) {
        return signature.length >= 32 && bytes32(signature[signature.length - 32:]) == WRAPPED;
    }

    /// @notice Parts of an ERC-6492 signature.
    function unwrap(bytes calldata signature)
        internal
        pure
        returns (address factory, bytes memory factoryCalldata, bytes memory inner)
    {
        return abi.decode(signature[:signature.length - 32], (address, bytes, bytes));
    }

    /// @notice Splits a signature of 64 (EIP-2098) or 65 bytes.
    function split(bytes calldata signature) internal pure returns (uint8 v, bytes32 r, bytes32 s) {
        r = bytes32(signature[:32]);
        s = bytes32(signature[32:64]);
        if (signature.length == 65) return (uint8(signature[64]), r, s);
        v = uint8(uint256(s) >> 255) + 27;
        s = bytes32(uint256(s) & (type(uint256).max >> 1));
    }
}
