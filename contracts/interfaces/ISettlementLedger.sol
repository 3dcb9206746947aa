// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {Order} from "../libraries/Orders.sol";
import {Receipt} from "../libraries/Receipts.sol";
import {BatchRecord, Leaf, NodeCredit} from "../libraries/Batches.sol";
import {IInferenceEscrow} from "./IInferenceEscrow.sol";
import {INodeRegistry} from "./INodeRegistry.sol";

/// @notice Records settlements: verified one by one, or as a batch of rows that is final after a window.
interface ISettlementLedger {
    /// @notice One order of a batch; token and keeper id are those of the batch.
    struct OrderRow {
        address payer;
        uint128 maxAmount;
        bytes32 requestCommit;
        bytes32 nodeScope;
        uint40 validAfter;
        uint40 validBefore;
        uint40 captureDeadline;
        uint256 nonce;
        /// Payer's EIP-2098 signature; 0 for a held order.
        bytes32 r;
        bytes32 vs;
        uint128 amount;
        /// Index into the batch's nodes.
        uint16 node;
        bytes32 receiptHash;
    }

    enum BatchStatus {
        None,
        Open,
        Final
    }

    /// @dev Kinds of effects in the accumulator. Numbers are stable.
    enum EffectKind {
        None,
        Batch,
        Verified,
        Void,
        RowFinal,
        Final
    }

    /// @dev Every event carries the contract's contiguous `seq`; effects also carry the contiguous `effectSeq` that the accumulator folds.
    event BatchSettled(
        uint64 seq, uint64 effectSeq, uint64 indexed batchId, bytes32 indexed keeperId, BatchRecord record, bytes blobId
    );
    /// @notice A row of a batch was not captured; the others were.
    /// @param row Index in the call's `rows`.
    event RowSkipped(
        uint64 seq, bytes32 indexed keeperId, bytes32 indexed orderId, uint32 row, IInferenceEscrow.CaptureResult reason
    );
    /// @notice One inference was proven, recorded and paid.
    /// @param amount Captured, fee included.
    event Verified(
        uint64 seq,
        uint64 effectSeq,
        bytes32 indexed settlementId,
        bytes32 indexed paymentId,
        bytes32 indexed nodeId,
        bytes32 receiptHash,
        uint128 amount,
        uint128 fee
    );
    /// @notice A batch's nodes were paid.
    /// @param paid Credited to nodes, without the fee.
    event Finalized(uint64 seq, uint64 effectSeq, uint64 indexed batchId, uint128 paid, uint128 fee);
    /// @notice A row that was in dispute when its batch became final was proven and paid.
    /// @param paid Credited to the node, without the fee.
    event RowFinalized(
        uint64 seq, uint64 effectSeq, uint64 indexed batchId, uint32 indexed row, uint128 paid, uint128 fee
    );
    /// @notice A row is void: its money went back into a hold of its payer.
    /// @param amount What the row had captured.
    /// @param unproven True for a challenge without an answer, false for a duplicate.
    event RowVoided(
        uint64 seq,
        uint64 effectSeq,
        uint64 indexed batchId,
        bytes32 indexed orderId,
        uint32 indexed row,
        uint128 amount,
        bool unproven
    );
    event Delivered(uint64 seq, bytes32 indexed settlementId, address indexed payer);
    event FeeSet(uint64 seq, uint16 feeBps, address feeRecipient);

    /// @notice Only the dispute game may do this.
    error OnlyDisputes(address actual, address expected);
    /// @notice Rows are locked or void: the dispute game finalizes the others.
    error RowsExcluded(uint64 batchId, uint256 rows);
    /// @notice A batch must be the transaction's own call, by an account without code: its rows are read from the transaction's input.
    error IndirectCall(address sender, address origin, uint256 codeLength);
    error NoRows();
    error TooManyRows(uint256 actual, uint256 limit);
    error TooManyNodes(uint256 actual, uint256 limit);
    error BlobIdTooLong(uint256 actual, uint256 limit);
    /// @notice The record is not the one of this batch; both hashes end in two bytes of the batch's state.
    error WrongRecord(uint64 batchId, bytes32 actual, bytes32 expected);
    error BatchNotOpen(uint64 batchId, BatchStatus status);
    error WindowOpen(uint40 nowAt, uint40 until);
    error AlreadySettled(bytes32 settlementId);
    error NotSettled(bytes32 settlementId);
    error WrongReceipt(bytes32 actual, bytes32 expected);
    error WrongRail(uint8 actual, uint8 expected);
    /// @notice The receipt is for another order than the one given.
    error WrongPayment(bytes32 actual, bytes32 expected);
    error WrongPayer(address actual, address expected);
    error WrongToken(address actual, address expected);
    error WrongOffset(uint128 actual, uint128 expected);
    error WrongSalt(bytes32 actual, bytes32 expected);
    error WrongCommitment(bytes32 actual, bytes32 expected);
    error TimestampOutside(uint40 actual, uint40 validAfter, uint40 validBefore);
    /// @notice The registry does not let this node version be paid for an inference of that time.
    error NodeNotUsable(bytes32 nodeId, uint32 version, INodeRegistry.NodeStatus status);
    error NodeOutsideScope(bytes32 actual, bytes32 scope);
    /// @notice The node's verifier refused the signature, reverted, or answered anything but its magic value.
    error BadInferenceSignature(bytes32 nodeId, bytes32 messageHash);
    /// @notice The meter was signed by another key, over other values, or in another form than 65 bytes with low s.
    error BadMeterSignature(address actual, address expected);
    /// @notice The escrow did not capture the order.
    error NotCapturable(bytes32 orderId, IInferenceEscrow.CaptureResult reason);
    error WrongOutput(bytes32 actual, bytes32 expected);
    error OutputTooLong(uint256 actual, uint256 limit);
    error AlreadyDelivered(bytes32 settlementId);
    error NotAContract(address payer);
    /// @notice The caller's gas does not leave the payer the gas it is promised.
    error NotEnoughGas(uint256 actual, uint256 expected);
    /// @notice The payer's callback reverted; nothing changed.
    error DeliveryFailed(bytes32 settlementId);
    error FeeTooHigh(uint16 actual, uint16 limit);
    error ZeroAddress();

    /// @notice Settles one inference against its three signatures and pays the node at once. Anyone.
    /// @dev Called by a hot key of the keeper that the order names, it may draw on the payer's lock for that keeper.
    /// @param order What the payer authorized; its `orderId` must be the receipt's `paymentId`.
    /// @param orderSignature Payer's ECDSA signature, 64 or 65 bytes; ignored for a held order.
    /// @param receipt What is paid for; its `salt` must be `keccak256(meterSignature)`.
    /// @param inferenceSignature Node's signature over the message hash, for its registered verifier.
    /// @param meterSignature 65-byte ECDSA signature of the node version's meter key over `meterDigest`.
    /// @return settlementId The paid inference; it cannot be settled again.
    function settleVerified(
        Order calldata order,
        bytes calldata orderSignature,
        Receipt calldata receipt,
        bytes calldata inferenceSignature,
        bytes calldata meterSignature
    ) external returns (bytes32 settlementId);

    /// @notice Hands the answer of a verified settlement to the contract that ordered it. Anyone, until it succeeds.
    /// @dev Reverts without any effect when the payer's `onInference` does, and when the caller leaves it less than `DELIVERY_GAS`.
    /// @param receipt The receipt that was settled.
    /// @param output Answer text, UTF-8, at most `MAX_OUTPUT` bytes.
    function deliver(bytes32 settlementId, Receipt calldata receipt, bytes calldata output) external;

    /// @notice Captures rows of orders that name the caller's keeper. A bad row is skipped; nothing captured, no batch.
    /// @dev Held ERC-1271 orders are captured, unheld ones skipped. Malformed ABI data reverts. Only as a transaction's own call by an
    ///      account without code, so that the transaction's input shows the rows.
    /// @param keeperId Keeper that the caller is a hot key of.
    /// @param token Token of every row.
    /// @param nodes Node versions that the rows name by index, at most `MAX_NODES`.
    /// @param rows At most `MAX_ROWS`.
    /// @param ogRoot Root that the keeper forwards on OpenGradient; its own claim.
    /// @param blobId Where the keeper published the receipts, at most `MAX_BLOB_ID` bytes; its own claim.
    /// @return batchId 0 when nothing was captured.
    function settleBatch(
        bytes32 keeperId,
        address token,
        INodeRegistry.NodeRef[] calldata nodes,
        OrderRow[] calldata rows,
        bytes32 ogRoot,
        bytes calldata blobId
    ) external returns (uint64 batchId);

    /// @notice Pays the nodes of a batch, at their payout accounts of its settlement, after its window, unless rows are locked or void: then `IDisputeGame.finalize` does. Anyone.
    /// @param record As in `BatchSettled`.
    function finalize(BatchRecord calldata record) external;

    // ── For the dispute game ─────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Pays the nodes of a batch after its window, without its locked and void rows.
    /// @param credits What is owed to each node without those rows.
    /// @param locked How many rows are locked.
    function finalizeExcept(BatchRecord calldata record, NodeCredit[] calldata credits, uint256 locked) external;

    /// @notice Takes a row of an open batch out of what `finalize` pays.
    function lockRow(uint64 batchId, bytes32 recordHash) external;

    /// @notice Puts a locked row back; pays it if its batch is final.
    function releaseRow(BatchRecord calldata record, Leaf calldata leaf) external;

    /// @notice Voids a row: its money returns to a hold of its payer that only `settleVerified` can capture.
    /// @param order The order that the row captured.
    /// @param until Capture deadline of that hold.
    /// @param locked Whether the row is locked.
    /// @param slash Whether the keeper is to be slashed for it.
    /// @return first Whether it is the first slash for this batch, whose reserve it takes.
    function voidRow(
        BatchRecord calldata record,
        Leaf calldata leaf,
        Order calldata order,
        uint40 until,
        bool locked,
        bool slash
    ) external returns (bool first);

    /// @notice Sets the fee of later settlements. Admin only, at most `MAX_FEE_BPS`.
    /// @param feeBps Hundredths of a percent of each captured amount, rounded down.
    /// @param feeRecipient Account in the escrow that is credited; not 0 while there is a fee.
    function setFee(uint16 feeBps, address feeRecipient) external;

    /// @notice Receipt hash of a verified settlement, 0 if none.
    function settled(bytes32 settlementId) external view returns (bytes32 receiptHash);
    /// @notice True when the payer of a verified settlement has accepted the answer.
    function delivered(bytes32 settlementId) external view returns (bool);
    /// @notice Where a batch stands; `None` for an unknown id.
    function batchStatus(uint64 batchId) external view returns (BatchStatus);
    /// @notice More of where a batch stands.
    /// @return status As `batchStatus`.
    /// @return excluded Rows that `finalize` does not pay: locked or void ones of an open batch, locked ones of a final one.
    /// @return slashed Whether the keeper was slashed for a row.
    /// @return recordHash keccak256(abi.encode(record)) without its last two bytes.
    function batchState(uint64 batchId)
        external
        view
        returns (BatchStatus status, uint256 excluded, bool slashed, bytes32 recordHash);
    /// @notice True when the record is the batch's own and the leaf stands in its receipts tree.
    /// @param proof Sibling hashes from the leaf up, as `@openzeppelin/merkle-tree` gives them.
    function verifyLeaf(BatchRecord calldata record, Leaf calldata leaf, bytes32[] calldata proof)
        external
        view
        returns (bool);
    /// @notice EIP-712 digest that a meter key signs; domain "Quittance", "1", chain id, this contract.
    function meterDigest(bytes32 settlementId, bytes32 paymentId, uint128 offset, uint128 amount)
        external
        view
        returns (bytes32);
    /// @notice Fold over all effects: keccak256(abi.encode(DOMAIN, chainid, this, previous, effectSeq, kind, keccak256(payload))).
    /// @dev DOMAIN = keccak256("Quittance ledger effect"); before the first effect it is keccak256(abi.encode(DOMAIN, chainid, this)).
    ///      Payloads: Batch abi.encode(batchId, keccak256(abi.encode(record))), Verified abi.encode(settlementId, receiptHash),
    ///      Final abi.encode(batchId), Void and RowFinal abi.encode(batchId, uint32 row).
    function accumulator() external view returns (bytes32);
    /// @notice Number of the last effect; 0 before the first.
    function effectSeq() external view returns (uint64);
    /// @notice Sequence number of the last event; 0 before the first.
    function seq() external view returns (uint64);
    /// @notice Number of batches; the last batch id.
    function batches() external view returns (uint64);
    /// @notice Fee of settlements made now, hundredths of a percent.
    function feeBps() external view returns (uint16);
    /// @notice Account credited with the fees of settlements made now.
    function feeRecipient() external view returns (address);
    /// @notice Escrow that holds the money.
    function escrow() external view returns (address);
    /// @notice Registry of nodes.
    function nodes() external view returns (address);
    /// @notice Registry of keepers.
    function keepers() external view returns (address);
    /// @notice The dispute game.
    function disputes() external view returns (address);
    /// @notice Seconds from a batch to its finalization.
    function WINDOW() external view returns (uint40);
    /// @notice Most that the fee can ever be, hundredths of a percent.
    function MAX_FEE_BPS() external view returns (uint16);
    /// @notice Most rows in one batch.
    function MAX_ROWS() external view returns (uint256);
    /// @notice Most nodes in one batch.
    function MAX_NODES() external view returns (uint256);
    /// @notice Longest blob id, bytes.
    function MAX_BLOB_ID() external view returns (uint256);
    /// @notice Longest delivered output, bytes.
    function MAX_OUTPUT() external view returns (uint256);
    /// @notice Gas that a delivery gives to the payer's `onInference`.
    function DELIVERY_GAS() external view returns (uint256);
}
