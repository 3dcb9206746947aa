// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title RsaPss
/// @notice RSASSA-PSS verification (RFC 8017, 8.1.2) with SHA-256, MGF1-SHA-256, a salt of exactly 32 bytes and e = 65537.
/// @dev Keys are DER SubjectPublicKeyInfo (rsaEncryption, NULL parameters) with a modulus of 256 to 512 bytes, a multiple of
///      32 bytes long, top bit set, odd. For a modulus of given length DER leaves exactly one encoding of everything else, so
///      parsing is a comparison and no second encoding of a key can pass. Bad input gives false; nothing here reverts.
library RsaPss {
    /// @dev Bytes around the modulus: 33 before it, and 02 03 01 00 01 (the exponent) after it.
    uint256 private constant HEADER_BYTES = 33;
    uint256 private constant FRAME_BYTES = 38;
    uint256 private constant MIN_MODULUS_BYTES = 256;
    uint256 private constant MAX_MODULUS_BYTES = 512;

    /// @dev First 32 header bytes of a key with an "empty" modulus; the four DER lengths grow with the modulus. Byte 33 is
    ///      the sign byte 00 of the modulus.
    ///      30 82 LLLL | 30 0d 06 09 2a864886f70d010101 05 00 | 03 82 LLLL 00 | 30 82 LLLL | 02 82 LLLL
    uint256 private constant HEADER = 0x30820022300d06092a864886f70d01010105000382000f003082000a02820001;
    /// @dev One byte more of modulus adds one to each of the lengths, which stand at header bytes 2, 21, 26 and 30.
    uint256 private constant LENGTH_STEP = (1 << 224) | (1 << 72) | (1 << 32) | 1;
    uint256 private constant EXPONENT = 0x0203010001;

    /// @notice True when `signature` is valid for the message digest under the key.
    /// @param key DER SubjectPublicKeyInfo.
    /// @param digest SHA-256 of the message.
    /// @param signature As long as the modulus.
    function verify(bytes calldata key, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        if (!isKey(key)) return false;
        bytes calldata modulus = key[HEADER_BYTES:key.length - 5];
        if (signature.length != modulus.length || !_below(signature, modulus)) return false;
        (bool done, bytes memory encoded) = _powE(signature, modulus);
        return done && _isEncodingOf(encoded, digest);
    }

    /// @notice True when the bytes are a key that this library verifies with.
    function isKey(bytes calldata key) internal pure returns (bool) {
        if (key.length < FRAME_BYTES + MIN_MODULUS_BYTES || key.length > FRAME_BYTES + MAX_MODULUS_BYTES) return false;
        uint256 size = key.length - FRAME_BYTES;
        if (size % 32 != 0) return false;
        uint256 header = uint256(bytes32(key[0:32]));
        if (header != HEADER + size * LENGTH_STEP || key[32] != 0) return false;
        if (uint40(bytes5(key[key.length - 5:])) != EXPONENT) return false;
        bool topBit = uint8(key[HEADER_BYTES]) & 0x80 != 0;
        bool odd = uint8(key[key.length - 6]) & 1 != 0;
        return topBit && odd;
    }

    /// @dev Big-endian comparison of equally long numbers, a whole number of words each.
    function _below(bytes calldata a, bytes calldata b) private pure returns (bool) {
        for (uint256 i; i < a.length; i += 32) {
            uint256 x = uint256(bytes32(a[i:i + 32]));
            uint256 y = uint256(bytes32(b[i:i + 32]));
            if (x != y) return x < y;
        }
        return false;
    }

    /// @dev signature ^ 65537 mod modulus, as long as the modulus, by the precompile at 0x05. Both are equally long.
    function _powE(bytes calldata signature, bytes calldata modulus)
        private
        view
        returns (bool done, bytes memory encoded)
    {
        assembly ("memory-safe") {
            let size := modulus.length
            encoded := mload(0x40)
            let input := add(encoded, 0x20)
            mstore(input, size)
            mstore(add(input, 0x20), 3)
            mstore(add(input, 0x40), size)
            calldatacopy(add(input, 0x60), signature.offset, size)
            mstore(add(add(input, 0x60), size), shl(232, 0x010001))
            calldatacopy(add(add(input, 0x63), size), modulus.offset, size)
            done := staticcall(gas(), 0x05, input, add(0x63, add(size, size)), input, size)
            done := and(done, eq(returndatasize(), size))
            mstore(encoded, size)
            mstore(0x40, add(input, size))
        }
    }

    /// @dev EMSA-PSS-VERIFY with emBits = modulus bits − 1. `encoded` = maskedDB (length − 33) ‖ H (32) ‖ 0xbc.
    ///      The modulus is a whole number of words, so DB = zeros ‖ 01 ‖ salt meets the words like this: all zero up to the
    ///      last two; then 30 zero bytes, 01 and the first salt byte; then the other 31 salt bytes and the first byte of H.
    function _isEncodingOf(bytes memory encoded, bytes32 digest) private view returns (bool) {
        uint256 size = encoded.length;
        if (_word(encoded, 0) >> 255 != 0 || uint8(_word(encoded, size - 32)) != 0xbc) return false;
        uint256 h = _word(encoded, size - 33);

        uint256 zeros = size - 96;
        // The bit that emBits leaves out was zero above, and counts as zero after unmasking.
        if ((_word(encoded, 0) ^ _mask(h, 0)) << 1 != 0) return false;
        for (uint256 i = 32; i < zeros; i += 32) {
            if (_word(encoded, i) != _mask(h, i)) return false;
        }
        uint256 border = _word(encoded, zeros) ^ _mask(h, zeros);
        if (border >> 8 != 1) return false;
        uint256 tail = _word(encoded, zeros + 32) ^ _mask(h, zeros + 32);
        return uint256(sha256(abi.encodePacked(bytes8(0), digest, (border << 248) | (tail >> 8)))) == h;
    }

    /// @dev MGF1: the word of the mask at a byte offset = sha256(seed ‖ uint32(offset / 32)).
    ///      A hand-made call, eight or more times per signature, of what `sha256(abi.encodePacked(…))` does.
    function _mask(uint256 seed, uint256 offset) private view returns (uint256 word) {
        assembly ("memory-safe") {
            mstore(0x00, seed)
            // The counter is below 256: the last of four bytes.
            mstore(0x20, shl(219, offset))
            if iszero(staticcall(gas(), 0x02, 0x00, 0x24, 0x00, 0x20)) { revert(0, 0) }
            word := mload(0x00)
        }
    }

    /// @dev The word at a byte offset, which lies within the data.
    function _word(bytes memory data, uint256 offset) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), offset))
        }
    }
}
