// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {ISettlementLedger} from "../interfaces/ISettlementLedger.sol";
import {BatchRecord, Leaf} from "./Batches.sol";
import {Order, Orders} from "./Orders.sol";
import {Receipt, Receipts} from "./Receipts.sol";
import {Signatures} from "./Signatures.sol";

/// @notice What proves that a row was owed.
struct ReceiptEvidence {
    Receipt receipt;
    /// Node's signature over the message hash, for the verifier of the node version that the row names.
    bytes inferenceSignature;
    /// 65-byte signature of that version's meter key over `ISettlementLedger.meterDigest`.
    bytes meterSignature;
}

/// @notice Names a row and shows that it stands in its batch.
struct RowProof {
    /// As in `BatchSettled`.
    BatchRecord record;
    Leaf leaf;
    /// Sibling hashes from the leaf up, as `@openzeppelin/merkle-tree` gives them.
    bytes32[] proof;
    /// The order that the row captured.
    Order order;
}

/// @notice What a receipt must agree with before money moves for it, on the verified path and in a dispute alike.
library Evidence {
    /// @notice Order and receipt tell of the same payment. Amount, deadline and payer's authority are the escrow's to check.
    /// @dev Reads every narrow member of the receipt, so that one with dirty upper bits reverts.
    function checkAgreement(Order calldata order, Receipt calldata receipt, bytes calldata meterSignature)
        internal
        pure
    {
        require(receipt.rail == Receipts.RAIL_ORDER, ISettlementLedger.WrongRail(receipt.rail, Receipts.RAIL_ORDER));
        require(receipt.payer == order.payer, ISettlementLedger.WrongPayer(receipt.payer, order.payer));
        require(receipt.token == order.token, ISettlementLedger.WrongToken(receipt.token, order.token));
        require(receipt.offset == 0, ISettlementLedger.WrongOffset(receipt.offset, 0));
        bytes32 salt = keccak256(meterSignature);
        require(receipt.salt == salt, ISettlementLedger.WrongSalt(receipt.salt, salt));
        bytes32 commit = Orders.requestCommit(receipt.requestHash, receipt.blinding);
        require(commit == order.requestCommit, ISettlementLedger.WrongCommitment(commit, order.requestCommit));
        require(
            order.validAfter <= receipt.timestamp && receipt.timestamp <= order.validBefore,
            ISettlementLedger.TimestampOutside(receipt.timestamp, order.validAfter, order.validBefore)
        );
    }

    /// @notice The node's operator charged this inference to this payment.
    function checkMeter(bytes32 digest, bytes calldata meterSignature, address meterKey) internal pure {
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, meterSignature);
        require(signer != address(0) && signer == meterKey, ISettlementLedger.BadMeterSignature(signer, meterKey));
    }

    /// @notice The node answered this request with this output at this time.
    function checkInference(
        bytes32 nodeId,
        address verifier,
        bytes memory key,
        bytes32 message,
        bytes calldata inferenceSignature
    ) internal view {
        require(
            Signatures.isValid(verifier, key, message, inferenceSignature),
            ISettlementLedger.BadInferenceSignature(nodeId, message)
        );
    }
}
