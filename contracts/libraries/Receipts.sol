// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice One paid inference. `receiptHash = keccak256(abi.encode(receipt))`.
struct Receipt {
    /// How it was paid, see `Receipts`.
    uint8 rail;
    /// Order rail: the order id.
    bytes32 paymentId;
    address payer;
    address token;
    /// First unit of money this receipt accounts for; 0 on the order rail.
    uint128 offset;
    /// Charged amount in the token's smallest unit.
    uint128 amount;
    bytes32 nodeId;
    /// Version of the node record whose keys signed.
    uint32 nodeVersion;
    /// keccak256 of the canonical request bytes.
    bytes32 requestHash;
    /// Blinding of the order's request commitment; 0 for a public order.
    bytes32 blinding;
    /// keccak256 of the UTF-8 output text.
    bytes32 outputHash;
    /// The node's own time of the inference, unix seconds.
    uint40 timestamp;
    /// `keccak256(meterSignature)`: the node can always rebuild its receipt.
    bytes32 salt;
}

/// @notice The node operator's word on what one inference is charged to one payment.
struct Meter {
    bytes32 settlementId;
    bytes32 paymentId;
    uint128 offset;
    uint128 amount;
}

/// @notice Identities and hashes that Base, OpenGradient, keepers and nodes compute without talking to each other.
library Receipts {
    /// @dev Rails. More follow; a number is never reused.
    uint8 internal constant RAIL_ORDER = 1;

    bytes32 internal constant METER_TYPEHASH =
        keccak256("Meter(bytes32 settlementId,bytes32 paymentId,uint128 offset,uint128 amount)");

    /// @notice What an OpenGradient node signs: keccak256(requestHash ‖ outputHash ‖ uint256(timestamp)).
    function messageHash(bytes32 requestHash, bytes32 outputHash, uint256 timestamp) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(requestHash, outputHash, timestamp));
    }

    /// @notice The primary key of a paid inference on every chain and in every database.
    function settlementId(bytes32 nodeId, bytes32 message) internal pure returns (bytes32) {
        return keccak256(abi.encode(nodeId, message));
    }

    /// @notice The settlement id of the inference that a receipt accounts for.
    function settlementId(Receipt memory receipt) internal pure returns (bytes32) {
        return settlementId(receipt.nodeId, messageHash(receipt.requestHash, receipt.outputHash, receipt.timestamp));
    }

    /// @notice Commitment to a receipt.
    function hash(Receipt memory receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(receipt));
    }

    /// @notice As `hash`, straight from calldata.
    /// @dev Does not look at the upper bits of the narrow members: the caller must read each of them (which reverts when they
    ///      are dirty), or compare the hash with one that was made of a clean receipt.
    function hashCalldata(Receipt calldata receipt) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            let pointer := mload(0x40)
            calldatacopy(pointer, receipt, 0x1a0)
            result := keccak256(pointer, 0x1a0)
        }
    }

    /// @notice EIP-712 struct hash of a meter.
    function structHash(Meter memory meter) internal pure returns (bytes32) {
        return keccak256(abi.encode(METER_TYPEHASH, meter));
    }
}
