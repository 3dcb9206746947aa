// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice What one batch owes one node.
struct NodeCredit {
    bytes32 nodeId;
    /// Account that is credited: the node's payout account at settlement.
    address payout;
    /// Sum of the captured rows of this node, fee included.
    uint128 amount;
    /// Sum of floor(row × feeBps / 10,000) over those rows.
    uint128 fee;
}

/// @notice Everything later calls need to know of a batch. The ledger stores only its hash; callers bring it along.
struct BatchRecord {
    /// 1, 2, 3, …
    uint64 batchId;
    bytes32 keeperId;
    address token;
    /// Block timestamp of the settlement; the window starts here.
    uint40 settledAt;
    /// Captured rows; row numbers in leaves run from 0 to rows − 1.
    uint32 rows;
    /// Captured total, fee included.
    uint128 total;
    /// Root over the leaves of the captured rows, built by the ledger.
    bytes32 receiptsRoot;
    /// The keeper's claims for OpenGradient's own relay, not checked on Base.
    bytes32 ogRoot;
    bytes32 blobHash;
    /// Fee of every row, hundredths of a percent, fixed at settlement.
    uint16 feeBps;
    /// Receives the fees of this batch, fixed at settlement.
    address feeRecipient;
    /// In the order of the call's `nodes`, without those that earned nothing.
    NodeCredit[] credits;
}

/// @notice One captured row as it stands in the receipts tree.
struct Leaf {
    uint8 rail;
    bytes32 paymentId;
    uint128 start;
    uint128 amount;
    bytes32 nodeId;
    uint32 nodeVersion;
    /// Order rail: the receipt hash.
    bytes32 receiptHash;
    uint32 row;
}

/// @notice Hashes of batches and of the tree over their captured rows.
library Batches {
    /// @notice Commitment to a record: `keccak256(abi.encode(record))`.
    function hash(BatchRecord memory record) internal pure returns (bytes32) {
        return keccak256(abi.encode(record));
    }

    /// @notice As `hash`, of the record inside the ABI-encoded data of `ISettlementLedger.BatchSettled`: saves encoding it twice.
    /// @dev The data are seq, effectSeq, offset of the record (4 words), offset of the blob id, record, blob id. The word before the
    ///      record is made the offset with which the encoding of a single argument starts, and put back.
    function hashInEvent(bytes memory data) internal pure returns (bytes32 value) {
        assembly ("memory-safe") {
            let before := add(data, 0x80)
            let end := mload(before)
            mstore(before, 0x20)
            value := keccak256(before, sub(end, 0x60))
            mstore(before, end)
        }
    }

    /// @notice As `hash`, straight from calldata.
    /// @dev Does not look at the upper bits of the narrow members: compare it with a hash that was made of a clean record.
    function hashCalldata(BatchRecord calldata record) internal pure returns (bytes32 value) {
        NodeCredit[] calldata credits = record.credits;
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            // Offset of the record, its twelve words with the canonical offset of the credits, and the credits.
            mstore(pointer, 0x20)
            calldatacopy(add(pointer, 0x20), record, 0x160)
            mstore(add(pointer, 0x180), 0x180)
            mstore(add(pointer, 0x1a0), credits.length)
            let bytes_ := shl(7, credits.length)
            calldatacopy(add(pointer, 0x1c0), credits.offset, bytes_)
            value := keccak256(pointer, add(0x1c0, bytes_))
        }
    }

    /// @notice As `hash`, straight from calldata.
    /// @dev Does not look at the upper bits of the narrow members: compare it with a hash that was made of a clean leaf.
    function hashCalldata(Leaf calldata leaf) internal pure returns (bytes32 value) {
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            calldatacopy(pointer, leaf, 0x100)
            mstore(0x00, keccak256(pointer, 0x100))
            value := keccak256(0x00, 0x20)
        }
    }

    /// @notice Account that is credited for a node's rows; 0 when it has none in the batch.
    function payoutOf(BatchRecord calldata record, bytes32 nodeId) internal pure returns (address payout) {
        NodeCredit[] calldata credits = record.credits;
        for (uint256 i; i < credits.length; ++i) {
            if (credits[i].nodeId == nodeId) return credits[i].payout;
        }
    }

    /// @notice floor(amount × bps / 10,000).
    function feeOf(uint128 amount, uint16 bps) internal pure returns (uint128) {
        // bps is at most 100, so the cast cannot truncate.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint128(uint256(amount) * bps / 10_000);
    }

    /// @notice Leaf of the receipts tree: `keccak256(keccak256(abi.encode(leaf)))`, so that no leaf can pass for a node.
    function hash(Leaf memory leaf) internal pure returns (bytes32 value) {
        // Every member is static: in memory the struct stands exactly as its ABI encoding.
        assembly ("memory-safe") {
            mstore(0x00, keccak256(leaf, 0x100))
            value := keccak256(0x00, 0x20)
        }
    }

    /// @notice Root of the tree whose leaves stand in `nodes[0 .. leaves − 1]`, in row order.
    /// @dev OpenZeppelin's heap tree (`sortLeaves: false`) read from its end is a queue: node `leaves + k` is the parent of
    ///      nodes `2k` and `2k + 1`, and the last one is the root. Parents are appended to `nodes`.
    /// @param nodes At least `2 × leaves − 1` words.
    /// @param leaves At least 1.
    function root(bytes32[] memory nodes, uint256 leaves) internal pure returns (bytes32 value) {
        assert(leaves != 0 && nodes.length >= 2 * leaves - 1);
        assembly ("memory-safe") {
            let child := add(nodes, 0x20)
            let parent := add(child, shl(5, leaves))
            let end := add(child, shl(5, sub(shl(1, leaves), 1)))
            for {} lt(parent, end) {
                parent := add(parent, 0x20)
                child := add(child, 0x40)
            } {
                let a := mload(child)
                let b := mload(add(child, 0x20))
                let swap := mul(gt(a, b), 0x20)
                mstore(swap, a)
                mstore(xor(swap, 0x20), b)
                mstore(parent, keccak256(0x00, 0x40))
            }
            value := mload(sub(end, 0x20))
        }
    }
}
