// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {IDisputeGame} from "../interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {IKeeperRegistry} from "../interfaces/IKeeperRegistry.sol";
import {INodeRegistry} from "../interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../interfaces/ISettlementLedger.sol";
import {BatchRecord, Batches, Leaf, NodeCredit} from "../libraries/Batches.sol";
import {Evidence, ReceiptEvidence, RowProof} from "../libraries/Evidence.sol";
import {Order} from "../libraries/Orders.sol";
import {Receipt, Receipts} from "../libraries/Receipts.sol";

/// @title Dispute game
/// @notice Decides which rows of a batch are paid. Holds the ETH of bonds and no other money.
/// @dev Immutable, without a role and without a pause. Rows are keyed by batch and leaf hash: a row that has a state was once shown to
///      stand in its batch, so later calls need no proof.
contract DisputeGame is IDisputeGame, ReentrancyGuardTransient {
    using Batches for BatchRecord;
    using Batches for Leaf;
    using Receipts for Receipt;

    /// @dev What an answer may cost, and the base fee below which the bond does not fall.
    uint256 private constant _ANSWER_GAS = 300_000;
    uint256 private constant _LEAST_BOND = 2 * _ANSWER_GAS * 0.2 gwei;

    ISettlementLedger private immutable _LEDGER;
    IInferenceEscrow private immutable _ESCROW;
    INodeRegistry private immutable _NODES;
    IKeeperRegistry private immutable _KEEPERS;
    uint40 private immutable _WINDOW;
    /// @inheritdoc IDisputeGame
    uint40 public immutable RESPONSE;
    /// @inheritdoc IDisputeGame
    uint40 public immutable REOPEN;

    /// @inheritdoc IDisputeGame
    uint64 public seq;
    /// @inheritdoc IDisputeGame
    mapping(address owner => uint256 amount) public withdrawable;
    mapping(bytes32 key => Row) private _rows;

    /// @param ledger_ Deployed before: its window, escrow and registries are read from it.
    constructor(ISettlementLedger ledger_, uint40 response, uint40 reopen) {
        require(address(ledger_) != address(0), ZeroAddress());
        _LEDGER = ledger_;
        _ESCROW = IInferenceEscrow(ledger_.escrow());
        _NODES = INodeRegistry(ledger_.nodes());
        _KEEPERS = IKeeperRegistry(ledger_.keepers());
        _WINDOW = ledger_.WINDOW();
        RESPONSE = response;
        REOPEN = reopen;
    }

    // ── Challenges ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IDisputeGame
    function challenge(BatchRecord calldata record, Leaf calldata leaf, bytes32[] calldata proof, uint128 unit)
        external
        payable
        nonReentrant
    {
        uint64 batchId = record.batchId;
        bytes32 leafHash = leaf.hashCalldata();
        _checkLeaf(record, leaf, leafHash, proof);
        require(unit >= leaf.start && unit - leaf.start < leaf.amount, UnitOutside(unit, leaf.start, leaf.amount));
        uint40 until = record.settledAt + _WINDOW;
        require(block.timestamp < until, WindowOver(uint40(block.timestamp), until));
        uint256 least = challengeBond();
        require(
            msg.value >= least && msg.value % 1 gwei == 0 && msg.value / 1 gwei <= type(uint48).max,
            BadBond(msg.value, least)
        );

        Row storage row = _rows[_key(batchId, leafHash)];
        require(row.status == RowStatus.None, WrongRowStatus(batchId, leaf.row, row.status));
        uint40 deadline = uint40(block.timestamp) + RESPONSE;
        // Under its type's maximum, as required above.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint48 bond = uint48(msg.value / 1 gwei);
        (row.challenger, row.deadline, row.bond, row.status) = (msg.sender, deadline, bond, RowStatus.Locked);
        emit Challenged(++seq, batchId, leaf.row, msg.sender, unit, msg.value, deadline);
        // Compares the record with the batch's own.
        _LEDGER.lockRow(batchId, record.hashCalldata());
    }

    /// @inheritdoc IDisputeGame
    function answer(
        BatchRecord calldata record,
        Leaf calldata leaf,
        Order calldata order,
        ReceiptEvidence calldata evidence
    ) external nonReentrant {
        uint64 batchId = record.batchId;
        Row storage row = _rows[_key(batchId, leaf.hashCalldata())];
        require(row.status == RowStatus.Locked, WrongRowStatus(batchId, leaf.row, row.status));
        require(block.timestamp <= row.deadline, ResponseOver(uint40(block.timestamp), row.deadline));
        bytes32 settlementId = _prove(leaf, order, evidence);
        _accept(row, record, leaf, settlementId);
    }

    /// @inheritdoc IDisputeGame
    function resolve(BatchRecord calldata record, Leaf calldata leaf, Order calldata order) external nonReentrant {
        uint64 batchId = record.batchId;
        Row storage row = _rows[_key(batchId, leaf.hashCalldata())];
        require(row.status == RowStatus.Locked, WrongRowStatus(batchId, leaf.row, row.status));
        require(block.timestamp > row.deadline, ResponseRunning(uint40(block.timestamp), row.deadline));

        row.status = RowStatus.Void;
        address challenger = row.challenger;
        uint256 bond = _returnBond(row, challenger);
        uint64 number = ++seq;
        bool first = _LEDGER.voidRow(record, leaf, order, uint40(block.timestamp) + REOPEN, true, true);
        uint128 slashed = _KEEPERS.slash(record.keeperId, challenger, first);
        emit Unproven(number, batchId, leaf.row, challenger, bond, slashed);
    }

    // ── Duplicates ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IDisputeGame
    function voidDuplicate(RowProof calldata duplicate, ReceiptEvidence calldata evidence) external nonReentrant {
        bytes32 settlementId = _proveRow(duplicate, evidence);
        require(_LEDGER.settled(settlementId) != 0, NotSettled(settlementId));
        _voidDuplicate(duplicate, settlementId, 0, 0);
    }

    /// @inheritdoc IDisputeGame
    function voidDuplicate(
        RowProof calldata duplicate,
        ReceiptEvidence calldata evidence,
        RowProof calldata other,
        ReceiptEvidence calldata otherEvidence
    ) external nonReentrant {
        bytes32 settlementId = _proveRow(duplicate, evidence);
        bytes32 otherId = _proveRow(other, otherEvidence);
        require(settlementId == otherId, NotDuplicate(settlementId, otherId));
        (uint64 batchId, uint64 otherBatch) = (duplicate.record.batchId, other.record.batchId);
        (uint32 number, uint32 otherNumber) = (duplicate.leaf.row, other.leaf.row);
        require(
            batchId > otherBatch || (batchId == otherBatch && number > otherNumber),
            NotLater(batchId, number, otherBatch, otherNumber)
        );
        Row storage row = _rows[_key(otherBatch, other.leaf.hashCalldata())];
        require(row.status != RowStatus.Void, WrongRowStatus(otherBatch, otherNumber, RowStatus.Void));
        if (row.status == RowStatus.Locked) _accept(row, other.record, other.leaf, settlementId);
        _voidDuplicate(duplicate, settlementId, otherBatch, otherNumber);
    }

    // ── Payment ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IDisputeGame
    function finalize(BatchRecord calldata record, Leaf[] calldata excluded) external nonReentrant {
        uint64 batchId = record.batchId;
        (, uint256 expected,,) = _LEDGER.batchState(batchId);
        require(excluded.length == expected, WrongRows(excluded.length, expected));
        NodeCredit[] memory credits = record.credits;
        uint256 locked;
        uint256 next;
        for (uint256 i; i < excluded.length; ++i) {
            Leaf calldata leaf = excluded[i];
            require(leaf.row >= next, WrongRows(leaf.row, next));
            next = uint256(leaf.row) + 1;
            RowStatus status = _rows[_key(batchId, leaf.hashCalldata())].status;
            require(status == RowStatus.Locked || status == RowStatus.Void, WrongRowStatus(batchId, leaf.row, status));
            if (status == RowStatus.Locked) ++locked;
            _takeOut(credits, leaf, record.feeBps);
        }
        _LEDGER.finalizeExcept(record, credits, locked);
    }

    /// @inheritdoc IDisputeGame
    function withdrawBonds(address to) external nonReentrant {
        require(to != address(0), ZeroAddress());
        uint256 amount = withdrawable[msg.sender];
        require(amount != 0, NothingToWithdraw(msg.sender));
        withdrawable[msg.sender] = 0;
        emit BondWithdrawn(++seq, msg.sender, to, amount);
        bool success;
        // Nothing that the receiver returns is copied.
        assembly ("memory-safe") {
            success := call(gas(), to, amount, 0, 0, 0, 0)
        }
        require(success, TransferFailed(to));
    }

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IDisputeGame
    function rowOf(uint64 batchId, Leaf calldata leaf) external view returns (Row memory) {
        return _rows[_key(batchId, leaf.hashCalldata())];
    }

    /// @inheritdoc IDisputeGame
    function challengeBond() public view returns (uint256 least) {
        least = 2 * _ANSWER_GAS * block.basefee;
        if (least < _LEAST_BOND) least = _LEAST_BOND;
        least = (least + 1 gwei - 1) / 1 gwei * 1 gwei;
    }

    /// @inheritdoc IDisputeGame
    function ledger() external view returns (address) {
        return address(_LEDGER);
    }

    // ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev A leaf says itself which rail it is of; the record is compared with the batch's own by whoever calls this.
    function _checkLeaf(BatchRecord calldata record, Leaf calldata leaf, bytes32 leafHash, bytes32[] calldata proof)
        private
        pure
    {
        require(leaf.rail == Receipts.RAIL_ORDER, WrongRail(leaf.rail, Receipts.RAIL_ORDER));
        require(
            leaf.row < record.rows && MerkleProof.verifyCalldata(proof, record.receiptsRoot, leafHash),
            NotInBatch(record.batchId, leaf.row)
        );
    }

    /// @dev The row stands, and who showed it earns the bond. A row of a final batch is paid now.
    function _accept(Row storage row, BatchRecord calldata record, Leaf calldata leaf, bytes32 settlementId) private {
        row.status = RowStatus.Proven;
        uint256 bond = _returnBond(row, msg.sender);
        emit Answered(++seq, record.batchId, leaf.row, msg.sender, settlementId, bond);
        _LEDGER.releaseRow(record, leaf);
    }

    /// @dev The challenger of a duplicate pointed at bad money: its bond goes back.
    function _voidDuplicate(RowProof calldata duplicate, bytes32 settlementId, uint64 otherBatch, uint32 otherRow)
        private
    {
        uint64 batchId = duplicate.record.batchId;
        uint32 number = duplicate.leaf.row;
        Row storage row = _rows[_key(batchId, duplicate.leaf.hashCalldata())];
        RowStatus status = row.status;
        require(status != RowStatus.Void, WrongRowStatus(batchId, number, status));
        row.status = RowStatus.Void;
        if (status == RowStatus.Locked) _returnBond(row, row.challenger);
        emit Duplicate(++seq, batchId, number, settlementId, otherBatch, otherRow);
        _LEDGER.voidRow(
            duplicate.record,
            duplicate.leaf,
            duplicate.order,
            uint40(block.timestamp) + REOPEN,
            status == RowStatus.Locked,
            false
        );
    }

    /// @dev The row stands in its batch, and its evidence proves it.
    function _proveRow(RowProof calldata row, ReceiptEvidence calldata evidence)
        private
        view
        returns (bytes32 settlementId)
    {
        require(_LEDGER.verifyLeaf(row.record, row.leaf, row.proof), NotInBatch(row.record.batchId, row.leaf.row));
        return _prove(row.leaf, row.order, evidence);
    }

    /// @dev Receipt, order and both signatures agree with the row, under the node version that the row names.
    function _prove(Leaf calldata leaf, Order calldata order, ReceiptEvidence calldata evidence)
        private
        view
        returns (bytes32 settlementId)
    {
        Receipt calldata receipt = evidence.receipt;
        bytes32 receiptHash = receipt.hashCalldata();
        require(receiptHash == leaf.receiptHash, WrongReceipt(receiptHash, leaf.receiptHash));
        require(
            receipt.nodeId == leaf.nodeId && receipt.nodeVersion == leaf.nodeVersion && receipt.amount == leaf.amount
                && receipt.rail == leaf.rail && receipt.offset == leaf.start,
            ReceiptDisagrees(receipt.nodeId, receipt.nodeVersion, receipt.amount)
        );
        bytes32 orderId = _ESCROW.orderId(order);
        require(orderId == leaf.paymentId && receipt.paymentId == orderId, WrongOrder(orderId, leaf.paymentId));
        Evidence.checkAgreement(order, receipt, evidence.meterSignature);

        bytes32 message = Receipts.messageHash(receipt.requestHash, receipt.outputHash, receipt.timestamp);
        settlementId = Receipts.settlementId(leaf.nodeId, message);
        (,, address verifier, address meterKey,, bytes memory key) =
            _NODES.evidence(leaf.nodeId, leaf.nodeVersion, receipt.timestamp);
        bytes32 digest = _LEDGER.meterDigest(settlementId, orderId, receipt.offset, receipt.amount);
        Evidence.checkMeter(digest, evidence.meterSignature, meterKey);
        Evidence.checkInference(leaf.nodeId, verifier, key, message, evidence.inferenceSignature);
    }

    // ── Small parts ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Leaves a row's amount out of what its node is owed. A node that stands in the batch with several versions has several
    ///      credits, all for the same account: they are made one, since a leaf does not say from which of them it comes.
    function _takeOut(NodeCredit[] memory credits, Leaf calldata leaf, uint16 feeBps) private pure {
        NodeCredit memory own;
        bool found;
        for (uint256 i; i < credits.length; ++i) {
            NodeCredit memory credit = credits[i];
            if (credit.nodeId != leaf.nodeId) continue;
            if (found) {
                own.amount += credit.amount;
                own.fee += credit.fee;
                (credit.amount, credit.fee) = (0, 0);
            } else {
                own = credit;
                found = true;
            }
        }
        own.amount -= leaf.amount;
        own.fee -= Batches.feeOf(leaf.amount, feeBps);
    }

    function _returnBond(Row storage row, address to) private returns (uint256 bond) {
        bond = uint256(row.bond) * 1 gwei;
        withdrawable[to] += bond;
    }

    function _key(uint64 batchId, bytes32 leafHash) private pure returns (bytes32) {
        return keccak256(abi.encode(batchId, leafHash));
    }
}
