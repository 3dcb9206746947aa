// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice The hash chain over everything a ledger does: one word that another chain can prove and then unfold.
library Effects {
    /// @dev First word of every link, so that no link can pass for anything else that is hashed.
    bytes32 internal constant DOMAIN = keccak256("Quittance ledger effect");

    /// @notice The value before the first effect; never zero, so that a proof of zero proves nothing.
    function genesis(uint256 chainId, address ledger) internal pure returns (bytes32) {
        return keccak256(abi.encode(DOMAIN, chainId, ledger));
    }

    /// @notice Appends one effect.
    /// @param number 1 for the first effect.
    /// @param kind Number of `ISettlementLedger.EffectKind`.
    /// @param payloadHash keccak256 of the ABI-encoded payload of that kind.
    function fold(uint256 chainId, address ledger, bytes32 previous, uint64 number, uint8 kind, bytes32 payloadHash)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(DOMAIN, chainId, ledger, previous, number, kind, payloadHash));
    }
}
