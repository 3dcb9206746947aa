// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Unordered nonces: nonce n is bit n mod 256 of word n / 256.
library Nonces {
    /// @notice Word and bit of a nonce.
    function split(uint256 nonce) internal pure returns (uint248 word, uint256 bit) {
        // forge-lint: disable-next-line(unsafe-typecast, incorrect-shift)
        return (uint248(nonce >> 8), 1 << (nonce & 0xff));
    }

    function isSpent(mapping(uint248 word => uint256 bits) storage words, uint256 nonce) internal view returns (bool) {
        (uint248 word, uint256 bit) = split(nonce);
        return words[word] & bit != 0;
    }

    /// @notice Spends a nonce; false if it was spent before.
    function spend(mapping(uint248 word => uint256 bits) storage words, uint256 nonce) internal returns (bool) {
        (uint248 word, uint256 bit) = split(nonce);
        uint256 bits = words[word];
        if (bits & bit != 0) return false;
        words[word] = bits | bit;
        return true;
    }
}
