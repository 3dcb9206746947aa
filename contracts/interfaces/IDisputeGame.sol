// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {BatchRecord, Leaf} from "../libraries/Batches.sol";
import {ReceiptEvidence, RowProof} from "../libraries/Evidence.sol";
import {Order} from "../libraries/Orders.sol";

/// @notice Prove it or it goes back: anyone points at a unit of money in a batch; a valid receipt appears, or the money returns.
/// @dev An unanswered challenge is the only slashable act. All ETH is pulled, never pushed.
interface IDisputeGame {
    enum RowStatus {
        /// Never challenged, and no duplicate.
        None,
        /// Challenged; waits for an answer.
        Locked,
        /// Answered; closed to further challenges.
        Proven,
        /// Its money went back.
        Void
    }

    /// @notice One row of a batch, in one slot.
    struct Row {
        /// Who challenged it, 0 if nobody did.
        address challenger;
        /// Last block timestamp for an answer.
        uint40 deadline;
        /// In gwei.
        uint48 bond;
        RowStatus status;
    }

    /// @dev Every event carries the contract's contiguous sequence number, from 1.
    /// @param unit The unit of money that was pointed at.
    /// @param bond In wei.
    /// @param deadline Last block timestamp for an answer.
    event Challenged(
        uint64 seq,
        uint64 indexed batchId,
        uint32 indexed row,
        address indexed challenger,
        uint128 unit,
        uint256 bond,
        uint40 deadline
    );
    /// @notice A receipt appeared: the row stands, and the bond goes to who showed it.
    event Answered(
        uint64 seq,
        uint64 indexed batchId,
        uint32 indexed row,
        address indexed answerer,
        bytes32 settlementId,
        uint256 bond
    );
    /// @notice No receipt appeared: the row is void and the keeper slashed.
    /// @param bond Returned to the challenger, in wei.
    /// @param slashed Taken from the keeper's bond, in the bond token's smallest unit.
    event Unproven(
        uint64 seq,
        uint64 indexed batchId,
        uint32 indexed row,
        address indexed challenger,
        uint256 bond,
        uint128 slashed
    );
    /// @notice The row's inference was paid elsewhere: the row is void, and nobody is slashed.
    /// @param otherBatch Batch of the other payment, 0 for a verified settlement.
    /// @param otherRow Row of the other payment.
    event Duplicate(
        uint64 seq,
        uint64 indexed batchId,
        uint32 indexed row,
        bytes32 indexed settlementId,
        uint64 otherBatch,
        uint32 otherRow
    );
    event BondWithdrawn(uint64 seq, address indexed owner, address indexed to, uint256 amount);

    /// @notice The leaf does not stand in the batch's tree.
    error NotInBatch(uint64 batchId, uint32 row);
    /// @notice Rows of this rail cannot be disputed here.
    error WrongRail(uint8 actual, uint8 expected);
    /// @notice The unit is not among those that the row accounts for.
    error UnitOutside(uint128 actual, uint128 start, uint128 amount);
    /// @notice The window of the batch is over.
    error WindowOver(uint40 nowAt, uint40 until);
    /// @notice The bond is too small, or not a whole number of gwei.
    error BadBond(uint256 actual, uint256 expected);
    /// @notice The row is not in the state that this takes.
    error WrongRowStatus(uint64 batchId, uint32 row, RowStatus actual);
    error ResponseOver(uint40 nowAt, uint40 until);
    error ResponseRunning(uint40 nowAt, uint40 until);
    /// @notice The receipt is not the one that the row names.
    error WrongReceipt(bytes32 actual, bytes32 expected);
    /// @notice The receipt says something else than the row.
    error ReceiptDisagrees(bytes32 nodeId, uint32 nodeVersion, uint128 amount);
    /// @notice The order is not the one that the row captured.
    error WrongOrder(bytes32 actual, bytes32 expected);
    /// @notice The two receipts are not of the same inference.
    error NotDuplicate(bytes32 one, bytes32 other);
    /// @notice The void one must be the later one.
    error NotLater(uint64 batchId, uint32 row, uint64 otherBatch, uint32 otherRow);
    /// @notice No verified settlement has paid this inference.
    error NotSettled(bytes32 settlementId);
    /// @notice The list must name every locked and void row once, in ascending order, and none else.
    error WrongRows(uint256 actual, uint256 expected);
    /// @notice The record is not the one of this batch.
    error WrongRecord(uint64 batchId);
    error NothingToWithdraw(address owner);
    error TransferFailed(address to);
    error ZeroAddress();

    /// @notice Demands the receipt behind a unit of money, with an ETH bond of at least `challengeBond()`. Anyone, until the window ends.
    /// @dev An order row has one receipt, which accounts for all of its units: one challenge at a time asks for all of them, and its
    ///      answer closes the row. A challenge in the window's last second gets its full response time.
    /// @param unit In [start, start + amount) of the row.
    function challenge(BatchRecord calldata record, Leaf calldata leaf, bytes32[] calldata proof, uint128 unit)
        external
        payable;

    /// @notice Shows the receipt of a challenged row; the caller earns the bond. Anyone, within the response time.
    /// @dev Asks for the signatures under exactly the node version that the row names, whatever became of it. The payer's authority,
    ///      the deadline and the node's standing were decided at the capture and are not asked again.
    function answer(
        BatchRecord calldata record,
        Leaf calldata leaf,
        Order calldata order,
        ReceiptEvidence calldata evidence
    ) external;

    /// @notice Voids a challenged row that nobody proved within the response time: its money goes into a hold that only a verified
    ///         settlement can capture for `REOPEN`, then anyone reclaims it for the payer; the keeper is slashed and suspended. Anyone.
    function resolve(BatchRecord calldata record, Leaf calldata leaf, Order calldata order) external;

    /// @notice Voids a row whose inference was paid by a verified settlement. Nobody is slashed. Anyone, while the row is not paid.
    function voidDuplicate(RowProof calldata duplicate, ReceiptEvidence calldata evidence) external;

    /// @notice Voids a row whose inference an earlier row claims too. Nobody is slashed; if the earlier row is challenged, this is its
    ///         answer. Anyone, while the row is not paid.
    /// @param duplicate The later row: of the higher batch, or the higher row of the same batch.
    /// @param evidence Of the later row.
    /// @param other The earlier row, which must not be void.
    /// @param otherEvidence Of the earlier row.
    function voidDuplicate(
        RowProof calldata duplicate,
        ReceiptEvidence calldata evidence,
        RowProof calldata other,
        ReceiptEvidence calldata otherEvidence
    ) external;

    /// @notice Pays the rows of a batch that are neither locked nor void, after its window. Anyone.
    /// @param excluded The locked and void rows, in ascending order.
    function finalize(BatchRecord calldata record, Leaf[] calldata excluded) external;

    /// @notice Sends the caller's ETH, from bonds won and returned, to any address.
    function withdrawBonds(address to) external;

    /// @notice Where a row stands.
    function rowOf(uint64 batchId, Leaf calldata leaf) external view returns (Row memory);
    /// @notice Least bond of a challenge now, wei: twice what an answer costs at this base fee, and a floor.
    function challengeBond() external view returns (uint256);
    /// @notice ETH of an account that it can withdraw, wei.
    function withdrawable(address owner) external view returns (uint256);
    /// @notice Sequence number of the last event; 0 before the first.
    function seq() external view returns (uint64);
    /// @notice The ledger whose batches are disputed.
    function ledger() external view returns (address);
    /// @notice Seconds to answer a challenge.
    function RESPONSE() external view returns (uint40);
    /// @notice Seconds for which only a verified settlement can capture the money of a void row.
    function REOPEN() external view returns (uint40);
}
