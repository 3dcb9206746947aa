// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice A payer's authorization: this request, at most this much, in this time, by these nodes, settled by this keeper.
/// @dev EIP-712 struct; `orderId` is its digest under the escrow's domain.
struct Order {
    /// Account that pays; its signature (or its own call) authorizes the order.
    address payer;
    /// ERC-20 token of the payment.
    address token;
    /// Most that may be captured, in the token's smallest unit.
    uint128 maxAmount;
    /// `keccak256(abi.encode(requestHash, blinding))`; blinding 0 lets anyone match it.
    bytes32 requestCommit;
    /// 0: any active node labelled Mirrored or Attested; otherwise exactly this node id.
    bytes32 nodeScope;
    /// Keeper that may settle the order in a batch; 0: verified settlement only.
    bytes32 keeperId;
    /// Earliest inference timestamp that is paid, unix seconds.
    uint40 validAfter;
    /// Latest inference timestamp that is paid, unix seconds.
    uint40 validBefore;
    /// Last block timestamp at which the order can be captured; a hold can be reclaimed after it.
    uint40 captureDeadline;
    /// Unordered: one bit in the bitmap of (payer, token, keeperId). A capture or a cancellation spends it.
    uint256 nonce;
}

/// @notice A payer's promise to leave money in place for orders that name one keeper.
struct Lock {
    address payer;
    address token;
    bytes32 keeperId;
    /// Moved from `free` into the lock, added to what is there.
    uint128 amount;
    /// The lock cannot be unlocked before this time; never shortened.
    uint40 until;
    /// Unordered: one bit in the payer's bitmap of lock nonces.
    uint256 nonce;
}

/// @notice EIP-712 struct hashes of what a payer signs.
library Orders {
    bytes32 internal constant ORDER_TYPEHASH = keccak256(
        "Order(address payer,address token,uint128 maxAmount,bytes32 requestCommit,bytes32 nodeScope,bytes32 keeperId,uint40 validAfter,uint40 validBefore,uint40 captureDeadline,uint256 nonce)"
    );

    bytes32 internal constant LOCK_TYPEHASH =
        keccak256("Lock(address payer,address token,bytes32 keeperId,uint128 amount,uint40 until,uint256 nonce)");

    /// @notice EIP-712 struct hash of an order. Every member is static, so its ABI encoding is the EIP-712 encoding.
    function structHash(Order memory order) internal pure returns (bytes32) {
        return keccak256(abi.encode(ORDER_TYPEHASH, order));
    }

    /// @notice As `structHash`, straight from calldata.
    /// @dev Does not look at the upper bits of the narrow members: the caller must read each of them (which reverts when they
    ///      are dirty), or compare the hash with one that was made of a clean order.
    function structHashCalldata(Order calldata order) internal pure returns (bytes32 result) {
        bytes32 typehash = ORDER_TYPEHASH;
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            mstore(pointer, typehash)
            calldatacopy(add(pointer, 0x20), order, 0x140)
            result := keccak256(pointer, 0x160)
        }
    }

    /// @notice EIP-712 struct hash of a lock.
    function structHash(Lock memory lock) internal pure returns (bytes32) {
        return keccak256(abi.encode(LOCK_TYPEHASH, lock));
    }

    /// @notice The commitment of an order to its request.
    /// @param requestHash keccak256 of the canonical request bytes.
    /// @param blinding 0 for a public order, a secret 32-byte value for a private one.
    function requestCommit(bytes32 requestHash, bytes32 blinding) internal pure returns (bytes32) {
        return keccak256(abi.encode(requestHash, blinding));
    }
}
