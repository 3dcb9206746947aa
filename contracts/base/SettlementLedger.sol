// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {IInferenceConsumer} from "../interfaces/IInferenceConsumer.sol";
import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {IKeeperRegistry} from "../interfaces/IKeeperRegistry.sol";
import {INodeRegistry} from "../interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../interfaces/ISettlementLedger.sol";
import {BatchRecord, Batches, Leaf, NodeCredit} from "../libraries/Batches.sol";
import {CaptureCalls} from "../libraries/CaptureCalls.sol";
import {Effects} from "../libraries/Effects.sol";
import {Evidence} from "../libraries/Evidence.sol";
import {Order, Orders} from "../libraries/Orders.sol";
import {Meter, Receipt, Receipts} from "../libraries/Receipts.sol";
import {Signatures} from "../libraries/Signatures.sol";

/// @title Settlement ledger
/// @notice Captures prepaid money against evidence and records what was paid for.
/// @dev Immutable and without a pause. It holds no money: the escrow does, and obeys this contract's captures and credits.
contract SettlementLedger is ISettlementLedger, AccessManaged, EIP712, ReentrancyGuardTransient {
    using Batches for BatchRecord;
    using Batches for Leaf;
    using Receipts for Receipt;

    /// @dev One slot: every settlement writes all of it.
    struct Counters {
        uint64 seq;
        uint64 effectSeq;
        uint64 batches;
        uint16 feeBps;
    }

    /// @dev One entry of a batch's node list.
    struct Tally {
        /// Why no row may name it; `Captured` when rows may.
        IInferenceEscrow.CaptureResult refusal;
        bool inPublicScope;
        uint32 version;
        /// What its captured rows add up to.
        NodeCredit credit;
    }

    /// @dev What a batch in progress carries from row to row.
    struct Progress {
        uint64 seq;
        uint16 feeBps;
        uint32 rows;
        uint128 total;
        Tally[] tallies;
        /// Leaves of the captured rows, and room for the tree over them.
        bytes32[] tree;
    }

    /// @inheritdoc ISettlementLedger
    uint16 public constant MAX_FEE_BPS = 100;
    /// @inheritdoc ISettlementLedger
    uint256 public constant MAX_ROWS = 256;
    /// @inheritdoc ISettlementLedger
    uint256 public constant MAX_NODES = 64;
    /// @inheritdoc ISettlementLedger
    uint256 public constant MAX_BLOB_ID = 128;
    /// @inheritdoc ISettlementLedger
    uint256 public constant MAX_OUTPUT = 16_384;
    /// @inheritdoc ISettlementLedger
    uint256 public constant DELIVERY_GAS = 500_000;
    /// @dev A call passes on at most 63/64 of the gas that remains; the rest covers the call itself.
    uint256 private constant DELIVERY_GAS_NEEDED = DELIVERY_GAS * 64 / 63 + 5000;

    IInferenceEscrow private immutable _ESCROW;
    INodeRegistry private immutable _NODES;
    IKeeperRegistry private immutable _KEEPERS;
    /// @inheritdoc ISettlementLedger
    address public immutable disputes;
    /// @inheritdoc ISettlementLedger
    uint40 public immutable WINDOW;

    Counters private _counters;
    /// @inheritdoc ISettlementLedger
    bytes32 public accumulator;
    /// @inheritdoc ISettlementLedger
    address public feeRecipient;
    /// @inheritdoc ISettlementLedger
    mapping(bytes32 settlementId => bytes32 receiptHash) public settled;
    /// @inheritdoc ISettlementLedger
    mapping(bytes32 settlementId => bool) public delivered;
    /// @dev Record hash with its last two bytes replaced by the batch's state: status (2 bits), "a row was slashed for" (1 bit), and the
    ///      number of rows that are not paid with the others (9 bits): locked or void ones while the batch is open, locked ones after.
    mapping(uint64 batchId => bytes32) private _batches;

    uint256 private constant _STATE_BITS = 16;
    uint256 private constant _STATE_MASK = type(uint16).max;
    uint256 private constant _STATUS_MASK = 3;
    uint256 private constant _SLASHED = 4;
    /// @dev One row in the count.
    uint256 private constant _ROW = 8;

    modifier onlyDisputes() {
        _onlyDisputes();
        _;
    }

    constructor(
        IInferenceEscrow escrow_,
        INodeRegistry nodes_,
        IKeeperRegistry keepers_,
        address disputes_,
        uint40 window,
        address authority_
    ) AccessManaged(authority_) EIP712("Quittance", "1") {
        require(
            address(escrow_) != address(0) && address(nodes_) != address(0) && address(keepers_) != address(0)
                && disputes_ != address(0) && authority_ != address(0),
            ZeroAddress()
        );
        _ESCROW = escrow_;
        _NODES = nodes_;
        _KEEPERS = keepers_;
        disputes = disputes_;
        WINDOW = window;
        accumulator = Effects.genesis(block.chainid, address(this));
    }

    // ── Verified settlement ──────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc ISettlementLedger
    function settleVerified(
        Order calldata order,
        bytes calldata orderSignature,
        Receipt calldata receipt,
        bytes calldata inferenceSignature,
        bytes calldata meterSignature
    ) external nonReentrant returns (bytes32 settlementId) {
        Evidence.checkAgreement(order, receipt, meterSignature);
        bytes32 message = Receipts.messageHash(receipt.requestHash, receipt.outputHash, receipt.timestamp);
        settlementId = Receipts.settlementId(receipt.nodeId, message);
        require(settled[settlementId] == 0, AlreadySettled(settlementId));
        address payee =
            _checkEvidence(order.nodeScope, receipt, settlementId, message, inferenceSignature, meterSignature);

        bytes32 receiptHash = receipt.hashCalldata();
        settled[settlementId] = receiptHash;
        Counters memory counters = _counters;
        counters.seq++;
        _append(counters, EffectKind.Verified, keccak256(abi.encode(settlementId, receiptHash)));
        _counters = counters;

        uint128 fee = Batches.feeOf(receipt.amount, counters.feeBps);
        _captureTo(order, orderSignature, receipt, payee, fee, settlementId);
        emit Verified(
            counters.seq,
            counters.effectSeq,
            settlementId,
            receipt.paymentId,
            receipt.nodeId,
            receiptHash,
            receipt.amount,
            fee
        );
    }

    /// @inheritdoc ISettlementLedger
    function deliver(bytes32 settlementId, Receipt calldata receipt, bytes calldata output) external nonReentrant {
        bytes32 expected = settled[settlementId];
        require(expected != 0, NotSettled(settlementId));
        bytes32 receiptHash = receipt.hashCalldata();
        require(receiptHash == expected, WrongReceipt(receiptHash, expected));
        require(!delivered[settlementId], AlreadyDelivered(settlementId));
        require(output.length <= MAX_OUTPUT, OutputTooLong(output.length, MAX_OUTPUT));
        bytes32 outputHash = keccak256(output);
        require(outputHash == receipt.outputHash, WrongOutput(outputHash, receipt.outputHash));
        address payer = receipt.payer;
        require(payer.code.length != 0, NotAContract(payer));

        delivered[settlementId] = true;
        uint64 number = ++_counters.seq;
        bytes memory call_ = abi.encodeCall(IInferenceConsumer.onInference, (receipt.paymentId, settlementId, output));
        uint256 left = gasleft();
        require(left >= DELIVERY_GAS_NEEDED, NotEnoughGas(left, DELIVERY_GAS_NEEDED));
        bool success;
        // Nothing that the payer returns is copied.
        assembly ("memory-safe") {
            success := call(DELIVERY_GAS, payer, 0, add(call_, 0x20), mload(call_), 0, 0)
        }
        require(success, DeliveryFailed(settlementId));
        emit Delivered(number, settlementId, payer);
    }

    /// @dev The node may be paid now, and its own two signatures stand.
    /// @return payee The node's payout account.
    function _checkEvidence(
        bytes32 nodeScope,
        Receipt calldata receipt,
        bytes32 settlementId,
        bytes32 message,
        bytes calldata inferenceSignature,
        bytes calldata meterSignature
    ) private view returns (address payee) {
        INodeRegistry.NodeStatus status;
        INodeRegistry.Label label;
        address verifier;
        address meterKey;
        bytes memory key;
        (status, label, verifier, meterKey, payee, key) =
            _NODES.evidence(receipt.nodeId, receipt.nodeVersion, receipt.timestamp);
        // The money of a void row waits for the receipt of a version that was current when the row was captured.
        require(
            status == INodeRegistry.NodeStatus.Active
                || (status == INodeRegistry.NodeStatus.ReplacedVersion && _isReopened(receipt.paymentId)),
            NodeNotUsable(receipt.nodeId, receipt.nodeVersion, status)
        );
        require(
            nodeScope == 0 ? _inPublicScope(label) : nodeScope == receipt.nodeId,
            NodeOutsideScope(receipt.nodeId, nodeScope)
        );
        Evidence.checkMeter(
            _meterDigest(settlementId, receipt.paymentId, receipt.offset, receipt.amount), meterSignature, meterKey
        );
        Evidence.checkInference(receipt.nodeId, verifier, key, message, inferenceSignature);
    }

    function _isReopened(bytes32 orderId) private view returns (bool) {
        return _ESCROW.orderState(orderId).status == IInferenceEscrow.OrderStatus.Reopened;
    }

    /// @dev Captures, pays the node and the fee, and reverts unless the receipt names exactly this order.
    function _captureTo(
        Order calldata order,
        bytes calldata orderSignature,
        Receipt calldata receipt,
        address payee,
        uint128 fee,
        bytes32 settlementId
    ) private {
        bool byKeeper = order.keeperId != 0 && _KEEPERS.isHotKey(order.keeperId, msg.sender);
        (bytes32 r, bytes32 vs) = Signatures.compact(orderSignature);
        (IInferenceEscrow.CaptureResult result, bytes32 orderId) = _ESCROW.captureTo(
            order, r, vs, receipt.amount, byKeeper, payee, fee == 0 ? address(0) : feeRecipient, fee, settlementId
        );
        require(orderId == receipt.paymentId, WrongPayment(receipt.paymentId, orderId));
        require(result == IInferenceEscrow.CaptureResult.Captured, NotCapturable(orderId, result));
    }

    // ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc ISettlementLedger
    function settleBatch(
        bytes32 keeperId,
        address token,
        INodeRegistry.NodeRef[] calldata nodes_,
        OrderRow[] calldata rows,
        bytes32 ogRoot,
        bytes calldata blobId
    ) external nonReentrant returns (uint64 batchId) {
        // Rows must stand in the transaction's input, where anyone can read and challenge them. A sender without code runs none, so
        // this is the transaction's own call: one that delegated (EIP-7702) and calls itself is its own origin too, with the rows
        // wrapped in a call that only a node that traces unwraps.
        uint256 code = msg.sender.code.length;
        // forge-lint: disable-next-line(tx-origin)
        require(msg.sender == tx.origin && code == 0, IndirectCall(msg.sender, tx.origin, code));
        require(rows.length != 0, NoRows());
        require(rows.length <= MAX_ROWS, TooManyRows(rows.length, MAX_ROWS));
        require(nodes_.length <= MAX_NODES, TooManyNodes(nodes_.length, MAX_NODES));
        require(blobId.length <= MAX_BLOB_ID, BlobIdTooLong(blobId.length, MAX_BLOB_ID));

        _KEEPERS.openBatch(keeperId, msg.sender);

        Counters memory counters = _counters;
        Progress memory progress;
        progress.seq = counters.seq;
        progress.feeBps = counters.feeBps;
        progress.tallies = _tallies(nodes_);
        progress.tree = new bytes32[](2 * rows.length);
        _captureRows(progress, keeperId, token, rows);

        counters.seq = progress.seq;
        if (progress.rows == 0) {
            _counters = counters;
            _KEEPERS.closeBatch(keeperId, true);
            return 0;
        }
        batchId = ++counters.batches;
        BatchRecord memory record = BatchRecord({
            batchId: batchId,
            keeperId: keeperId,
            token: token,
            settledAt: uint40(block.timestamp),
            rows: progress.rows,
            total: progress.total,
            receiptsRoot: Batches.root(progress.tree, progress.rows),
            ogRoot: ogRoot,
            blobHash: keccak256(blobId),
            feeBps: counters.feeBps,
            feeRecipient: counters.feeBps == 0 ? address(0) : feeRecipient,
            credits: _credits(progress.tallies)
        });
        _open(counters, record, blobId);
    }

    /// @dev Stores and announces a batch. Its record is encoded once, for its hash and for the event.
    function _open(Counters memory counters, BatchRecord memory record, bytes calldata blobId) private {
        uint64 batchId = record.batchId;
        bytes memory data = abi.encode(++counters.seq, counters.effectSeq + 1, record, blobId);
        bytes32 recordHash = Batches.hashInEvent(data);
        _batches[batchId] = _stored(recordHash, uint256(BatchStatus.Open));
        _append(counters, EffectKind.Batch, keccak256(abi.encode(batchId, recordHash)));
        _counters = counters;
        bytes32 topic = BatchSettled.selector;
        bytes32 keeperId = record.keeperId;
        assembly ("memory-safe") {
            log3(add(data, 0x20), mload(data), topic, batchId, keeperId)
        }
    }

    /// @inheritdoc ISettlementLedger
    function finalize(BatchRecord calldata record) external nonReentrant {
        uint256 state = _stateOf(record.batchId, record.hashCalldata());
        require(_statusOf(state) == BatchStatus.Open, BatchNotOpen(record.batchId, _statusOf(state)));
        require(state < _ROW, RowsExcluded(record.batchId, state / _ROW));
        _pay(record, record.credits, state, 0);
    }

    /// @inheritdoc ISettlementLedger
    function finalizeExcept(BatchRecord calldata record, NodeCredit[] calldata credits, uint256 locked)
        external
        onlyDisputes
        nonReentrant
    {
        uint256 state = _stateOf(record.batchId, record.hashCalldata());
        require(_statusOf(state) == BatchStatus.Open, BatchNotOpen(record.batchId, _statusOf(state)));
        _pay(record, credits, state, locked);
    }

    /// @dev Pays the nodes of a batch whose window is over, and says that the batch is final.
    /// @param locked Rows that are still in dispute and are paid or voided one by one.
    function _pay(BatchRecord calldata record, NodeCredit[] calldata credits, uint256 state, uint256 locked) private {
        uint40 until = record.settledAt + WINDOW;
        require(block.timestamp >= until, WindowOpen(uint40(block.timestamp), until));
        state = (state & _SLASHED) | uint256(BatchStatus.Final) | (locked * _ROW);
        _batches[record.batchId] = _stored(_batches[record.batchId], state);
        Counters memory counters = _counters;
        counters.seq++;
        _append(counters, EffectKind.Final, keccak256(abi.encode(record.batchId)));
        _counters = counters;
        if (locked == 0) _KEEPERS.closeBatch(record.keeperId, state & _SLASHED == 0);

        bytes32 ref = bytes32(uint256(record.batchId));
        uint128 fees;
        uint128 paid;
        for (uint256 i; i < credits.length; ++i) {
            NodeCredit calldata owed = credits[i];
            if (owed.amount == 0) continue;
            fees += owed.fee;
            paid += owed.amount - owed.fee;
            _ESCROW.credit(record.token, owed.payout, owed.amount - owed.fee, ref);
        }
        if (fees != 0) _ESCROW.credit(record.token, record.feeRecipient, fees, ref);
        emit Finalized(counters.seq, counters.effectSeq, record.batchId, paid, fees);
    }

    // ── For the dispute game ─────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc ISettlementLedger
    function lockRow(uint64 batchId, bytes32 recordHash) external onlyDisputes nonReentrant {
        uint256 state = _stateOf(batchId, recordHash);
        require(_statusOf(state) == BatchStatus.Open, BatchNotOpen(batchId, _statusOf(state)));
        _batches[batchId] = _stored(recordHash, state + _ROW);
    }

    /// @inheritdoc ISettlementLedger
    function releaseRow(BatchRecord calldata record, Leaf calldata leaf) external onlyDisputes nonReentrant {
        bytes32 recordHash = record.hashCalldata();
        uint64 batchId = record.batchId;
        uint256 state = _stateOf(batchId, recordHash) - _ROW;
        _batches[batchId] = _stored(recordHash, state);
        if (_statusOf(state) != BatchStatus.Final) return;

        if (state < _ROW) _KEEPERS.closeBatch(record.keeperId, state & _SLASHED == 0);
        Counters memory counters = _counters;
        counters.seq++;
        _append(counters, EffectKind.RowFinal, keccak256(abi.encode(batchId, leaf.row)));
        _counters = counters;
        bytes32 ref = bytes32(uint256(batchId));
        uint128 fee = Batches.feeOf(leaf.amount, record.feeBps);
        _ESCROW.credit(record.token, record.payoutOf(leaf.nodeId), leaf.amount - fee, ref);
        if (fee != 0) _ESCROW.credit(record.token, record.feeRecipient, fee, ref);
        emit RowFinalized(counters.seq, counters.effectSeq, batchId, leaf.row, leaf.amount - fee, fee);
    }

    /// @inheritdoc ISettlementLedger
    function voidRow(
        BatchRecord calldata record,
        Leaf calldata leaf,
        Order calldata order,
        uint40 until,
        bool locked,
        bool slash
    ) external onlyDisputes nonReentrant returns (bool first) {
        bytes32 recordHash = record.hashCalldata();
        uint64 batchId = record.batchId;
        uint256 state = _stateOf(batchId, recordHash);
        first = slash && state & _SLASHED == 0;
        if (first) state |= _SLASHED;
        if (_statusOf(state) == BatchStatus.Final) {
            // What is not locked has been paid.
            require(locked, BatchNotOpen(batchId, BatchStatus.Final));
            state -= _ROW;
            // What a first slash takes is no longer reserved.
            if (state < _ROW) _KEEPERS.closeBatch(record.keeperId, state & _SLASHED == 0);
        } else if (!locked) {
            state += _ROW;
        }
        _batches[batchId] = _stored(recordHash, state);

        bytes32 orderId = _ESCROW.reopen(order, leaf.amount, until);
        require(orderId == leaf.paymentId, WrongPayment(leaf.paymentId, orderId));
        require(order.token == record.token, WrongToken(order.token, record.token));
        Counters memory counters = _counters;
        counters.seq++;
        _append(counters, EffectKind.Void, keccak256(abi.encode(batchId, leaf.row)));
        _counters = counters;
        emit RowVoided(counters.seq, counters.effectSeq, batchId, orderId, leaf.row, leaf.amount, slash);
    }

    /// @dev What each listed node is good for, asked once per batch.
    function _tallies(INodeRegistry.NodeRef[] calldata nodes_) private view returns (Tally[] memory tallies) {
        uint256[] memory gates = _NODES.captureGates(nodes_);
        tallies = new Tally[](nodes_.length);
        for (uint256 i; i < nodes_.length; ++i) {
            INodeRegistry.NodeRef calldata ref = nodes_[i];
            uint256 gate = gates[i];
            INodeRegistry.NodeStatus status = INodeRegistry.NodeStatus(gate >> 168);
            Tally memory tally = tallies[i];
            tally.credit.nodeId = ref.nodeId;
            tally.credit.payout = address(uint160(gate));
            tally.version = ref.version;
            tally.inPublicScope = _inPublicScope(INodeRegistry.Label(uint8(gate >> 160)));
            if (status == INodeRegistry.NodeStatus.Active) continue;
            tally.refusal = status == INodeRegistry.NodeStatus.UnknownVersion
                || status == INodeRegistry.NodeStatus.ReplacedVersion
                ? IInferenceEscrow.CaptureResult.NodeVersionNotCurrent
                : IInferenceEscrow.CaptureResult.NodeNotActive;
        }
    }

    /// @dev Captures row after row into `progress`. A row that cannot be captured leaves an event and nothing else.
    function _captureRows(Progress memory progress, bytes32 keeperId, address token, OrderRow[] calldata rows) private {
        bytes memory call_ = CaptureCalls.prepare(token, keeperId);
        Leaf memory leaf;
        leaf.rail = Receipts.RAIL_ORDER;
        Tally memory tally;
        for (uint256 i; i < rows.length; ++i) {
            OrderRow calldata row = rows[i];
            CaptureCalls.fill(call_, row);
            IInferenceEscrow.CaptureResult result = IInferenceEscrow.CaptureResult.UnknownNodeIndex;
            if (row.node < progress.tallies.length) {
                tally = progress.tallies[row.node];
                result = _refusal(tally, row.nodeScope);
            }
            bytes32 orderId;
            if (result == IInferenceEscrow.CaptureResult.Captured) {
                (result, orderId) = CaptureCalls.send(call_, _ESCROW);
            } else {
                orderId = _ESCROW.orderId(CaptureCalls.order(call_));
            }
            if (result != IInferenceEscrow.CaptureResult.Captured) {
                // At most MAX_ROWS.
                // forge-lint: disable-next-line(unsafe-typecast)
                emit RowSkipped(++progress.seq, keeperId, orderId, uint32(i), result);
                continue;
            }
            uint128 amount = row.amount;
            leaf.paymentId = orderId;
            leaf.amount = amount;
            leaf.nodeId = tally.credit.nodeId;
            leaf.nodeVersion = tally.version;
            leaf.receiptHash = row.receiptHash;
            leaf.row = progress.rows;
            progress.tree[progress.rows++] = leaf.hash();
            // The escrow keeps the whole of a token under 2^128.
            unchecked {
                progress.total += amount;
                tally.credit.amount += amount;
                if (progress.feeBps != 0) tally.credit.fee += Batches.feeOf(amount, progress.feeBps);
            }
        }
    }

    /// @dev Why a node cannot be paid for an order of that scope; `Captured` when it can.
    function _refusal(Tally memory tally, bytes32 scope) private pure returns (IInferenceEscrow.CaptureResult) {
        if (tally.refusal != IInferenceEscrow.CaptureResult.Captured) return tally.refusal;
        bool inScope = scope == 0 ? tally.inPublicScope : scope == tally.credit.nodeId;
        return inScope ? IInferenceEscrow.CaptureResult.Captured : IInferenceEscrow.CaptureResult.NodeOutsideScope;
    }

    /// @dev The nodes that earned something, in the order of the list.
    function _credits(Tally[] memory tallies) private pure returns (NodeCredit[] memory credits) {
        uint256 count;
        // An array of pointers to the tallies' own credits, put where the next free memory is; `new` would fill it with zeros first.
        assembly ("memory-safe") {
            credits := mload(0x40)
            mstore(0x40, add(credits, add(0x20, shl(5, mload(tallies)))))
        }
        for (uint256 i; i < tallies.length; ++i) {
            NodeCredit memory credit = tallies[i].credit;
            if (credit.amount == 0) continue;
            assembly ("memory-safe") {
                count := add(count, 1)
                mstore(add(credits, shl(5, count)), credit)
            }
        }
        assembly ("memory-safe") {
            mstore(credits, count)
        }
    }

    // ── Fee ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc ISettlementLedger
    function setFee(uint16 feeBps_, address feeRecipient_) external restricted {
        require(feeBps_ <= MAX_FEE_BPS, FeeTooHigh(feeBps_, MAX_FEE_BPS));
        require(feeBps_ == 0 || feeRecipient_ != address(0), ZeroAddress());
        feeRecipient = feeRecipient_;
        _counters.feeBps = feeBps_;
        emit FeeSet(++_counters.seq, feeBps_, feeRecipient_);
    }

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc ISettlementLedger
    function batchStatus(uint64 batchId) external view returns (BatchStatus) {
        return _statusOf(uint256(_batches[batchId]));
    }

    /// @inheritdoc ISettlementLedger
    function batchState(uint64 batchId)
        external
        view
        returns (BatchStatus status, uint256 excluded, bool slashed, bytes32 recordHash)
    {
        uint256 stored = uint256(_batches[batchId]);
        uint256 state = stored & _STATE_MASK;
        return (_statusOf(state), state / _ROW, state & _SLASHED != 0, bytes32(stored >> _STATE_BITS << _STATE_BITS));
    }

    /// @inheritdoc ISettlementLedger
    function verifyLeaf(BatchRecord calldata record, Leaf calldata leaf, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        uint256 stored = uint256(_batches[record.batchId]);
        return _statusOf(stored) != BatchStatus.None
            && uint256(record.hashCalldata()) >> _STATE_BITS == stored >> _STATE_BITS && leaf.row < record.rows
            && MerkleProof.verifyCalldata(proof, record.receiptsRoot, leaf.hash());
    }

    /// @inheritdoc ISettlementLedger
    function meterDigest(bytes32 settlementId, bytes32 paymentId, uint128 offset, uint128 amount)
        external
        view
        returns (bytes32)
    {
        return _meterDigest(settlementId, paymentId, offset, amount);
    }

    /// @inheritdoc ISettlementLedger
    function effectSeq() external view returns (uint64) {
        return _counters.effectSeq;
    }

    /// @inheritdoc ISettlementLedger
    function seq() external view returns (uint64) {
        return _counters.seq;
    }

    /// @inheritdoc ISettlementLedger
    function batches() external view returns (uint64) {
        return _counters.batches;
    }

    /// @inheritdoc ISettlementLedger
    function feeBps() external view returns (uint16) {
        return _counters.feeBps;
    }

    /// @inheritdoc ISettlementLedger
    function escrow() external view returns (address) {
        return address(_ESCROW);
    }

    /// @inheritdoc ISettlementLedger
    function nodes() external view returns (address) {
        return address(_NODES);
    }

    /// @inheritdoc ISettlementLedger
    function keepers() external view returns (address) {
        return address(_KEEPERS);
    }

    // ── Shared ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Counts one effect and folds it into the accumulator; the caller stores `counters`.
    function _append(Counters memory counters, EffectKind kind, bytes32 payloadHash) private {
        counters.effectSeq++;
        accumulator =
            Effects.fold(block.chainid, address(this), accumulator, counters.effectSeq, uint8(kind), payloadHash);
    }

    function _meterDigest(bytes32 settlementId, bytes32 paymentId, uint128 offset, uint128 amount)
        private
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(Receipts.structHash(Meter(settlementId, paymentId, offset, amount)));
    }

    /// @dev Labels that a payer accepts by leaving the node open.
    function _inPublicScope(INodeRegistry.Label label) private pure returns (bool) {
        return label == INodeRegistry.Label.Mirrored || label == INodeRegistry.Label.Attested;
    }

    /// @dev State of a batch that exists and has this record.
    function _stateOf(uint64 batchId, bytes32 recordHash) private view returns (uint256 state) {
        bytes32 stored = _batches[batchId];
        state = uint256(stored) & _STATE_MASK;
        require(state != 0, BatchNotOpen(batchId, BatchStatus.None));
        bytes32 actual = _stored(recordHash, state);
        require(actual == stored, WrongRecord(batchId, actual, stored));
    }

    function _stored(bytes32 recordHash, uint256 state) private pure returns (bytes32) {
        return (recordHash >> _STATE_BITS << _STATE_BITS) | bytes32(state);
    }

    function _statusOf(uint256 state) private pure returns (BatchStatus) {
        return BatchStatus(state & _STATUS_MASK);
    }

    function _onlyDisputes() private view {
        require(msg.sender == disputes, OnlyDisputes(msg.sender, disputes));
    }
}
