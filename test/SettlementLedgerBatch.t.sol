// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {BatchRecord, Batches, Leaf, NodeCredit} from "../contracts/libraries/Batches.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {SettlementLedgerBase} from "./SettlementLedgerBase.sol";

/// @notice A wallet contract that says yes to everything: its orders must be held before a batch takes them.
contract YesWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return this.isValidSignature.selector;
    }
}

/// @notice Passes calls on, as a keeper's own contract or the code that an account delegated to would.
contract Relay {
    function execute(address target, bytes calldata call_) external {
        (bool success, bytes memory result) = target.call(call_);
        if (success) return;
        assembly ("memory-safe") {
            revert(add(result, 0x20), mload(result))
        }
    }
}

contract SettlementLedgerBatchTest is SettlementLedgerBase {
    IInferenceEscrow.CaptureResult private constant CAPTURED = IInferenceEscrow.CaptureResult.Captured;
    bytes32 private constant OG_ROOT = keccak256("og root");

    /// @dev What a batch call left in the logs.
    struct Outcome {
        uint64 batchId;
        BatchRecord record;
        uint32[] skipped;
        IInferenceEscrow.CaptureResult[] reasons;
    }

    function setUp() public override {
        super.setUp();
        _lock(payerKey, 500_000_000, 0);
    }

    // ── What a batch does ────────────────────────────────────────────────────────────────────────────────────────────

    function test_recordsAndFinalizes() public {
        ledger.setFee(100, treasury);
        ISettlementLedger.OrderRow[] memory rows = _rows(7, 999);
        rows[3] = _rowFor(3, 500, declared.id, 1);
        Outcome memory o = _post(rows);
        assertEq(o.skipped.length, 0);
        BatchRecord memory r = o.record;
        assertEq(o.batchId, 1);
        assertEq(r.batchId, 1);
        assertEq(r.keeperId, keeperId);
        assertEq(r.token, address(token));
        assertEq(r.settledAt, block.timestamp);
        assertEq(r.rows, 7);
        assertEq(r.total, 6 * 999 + 500);
        assertEq(r.receiptsRoot, _naiveRoot(_leaves(rows)));
        assertEq(r.ogRoot, OG_ROOT);
        assertEq(r.blobHash, keccak256("blob"));
        assertEq(r.feeRecipient, treasury);
        assertEq(r.credits.length, 2);
        assertEq(r.credits[0].nodeId, node.id);
        assertEq(r.credits[0].payout, node.payout);
        assertEq(r.credits[0].amount, 6 * 999);
        assertEq(r.credits[0].fee, 6 * 9, "floored row by row");
        assertEq(r.credits[1].nodeId, declared.id);
        assertEq(r.credits[1].amount, 500);
        assertEq(r.credits[1].fee, 5);
        assertEq(escrow.captured(address(token)), r.total);
        assertEq(_free(node.payout), 0);

        // Neither a fee nor a payout account that changes inside the window reaches it.
        ledger.setFee(0, address(0));
        vm.prank(node.operator);
        nodes.setPayout(node.id, stranger);
        uint40 until = uint40(block.timestamp) + WINDOW;
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.WindowOpen.selector, until - 1, until));
        ledger.finalize(r);
        vm.warp(until);
        vm.expectEmit(address(ledger));
        emit ISettlementLedger.Finalized(4, 2, 1, r.total - 59, 59);
        vm.prank(stranger);
        ledger.finalize(r);
        assertEq(_free(node.payout), 6 * 990);
        assertEq(_free(stranger), 0);
        assertEq(_free(declared.payout), 495);
        assertEq(_free(treasury), 59);
        assertEq(escrow.captured(address(token)), 0);
        assertEq(uint8(ledger.batchStatus(1)), uint8(ISettlementLedger.BatchStatus.Final));

        vm.expectRevert(
            abi.encodeWithSelector(ISettlementLedger.BatchNotOpen.selector, 1, ISettlementLedger.BatchStatus.Final)
        );
        ledger.finalize(r);
    }

    function test_oneSlotPerBatch() public {
        vm.record();
        Outcome memory o = _post(_rows(3, 10));
        (, bytes32[] memory writes) = vm.accesses(address(ledger));
        bytes32 last;
        uint256 distinct;
        for (uint256 i; i < writes.length; ++i) {
            bool seen;
            for (uint256 j; j < i; ++j) {
                if (writes[j] == writes[i]) seen = true;
            }
            if (!seen) ++distinct;
            if (vm.load(address(ledger), writes[i]) >> 16 == keccak256(abi.encode(o.record)) >> 16) last = writes[i];
        }
        assertEq(distinct, 3, "record, accumulator, counters");
        assertEq(uint8(uint256(vm.load(address(ledger), last))), uint8(ISettlementLedger.BatchStatus.Open));
    }

    function test_finalizeRefusesForgedRecords() public {
        Outcome memory o = _post(_rows(3, 10));
        skip(WINDOW);
        BatchRecord memory forged = abi.decode(abi.encode(o.record), (BatchRecord));
        forged.credits[0].amount += 1;
        vm.expectPartialRevert(ISettlementLedger.WrongRecord.selector);
        ledger.finalize(forged);
        forged = abi.decode(abi.encode(o.record), (BatchRecord));
        forged.credits[0].nodeId = declared.id;
        vm.expectPartialRevert(ISettlementLedger.WrongRecord.selector);
        ledger.finalize(forged);
        forged = abi.decode(abi.encode(o.record), (BatchRecord));
        forged.settledAt -= 1;
        vm.expectPartialRevert(ISettlementLedger.WrongRecord.selector);
        ledger.finalize(forged);
        forged.batchId = 2;
        vm.expectRevert(
            abi.encodeWithSelector(ISettlementLedger.BatchNotOpen.selector, 2, ISettlementLedger.BatchStatus.None)
        );
        ledger.finalize(forged);
        ledger.finalize(o.record);
    }

    function test_revokedNodeOfRecordedBatchIsStillPaid() public {
        Outcome memory o = _post(_rows(2, 10));
        nodes.revoke(node.id);
        skip(WINDOW);
        ledger.finalize(o.record);
        assertEq(_free(node.payout), 20);
    }

    function test_verifyLeaf() public {
        ISettlementLedger.OrderRow[] memory rows = _rows(5, 10);
        rows[1].amount = 0;
        Outcome memory o = _post(rows);
        Leaf[] memory leaves = _leaves(rows);
        assertEq(leaves.length, 4);
        bytes32[] memory hashes = new bytes32[](4);
        for (uint256 i; i < 4; ++i) {
            hashes[i] = keccak256(bytes.concat(keccak256(abi.encode(leaves[i]))));
        }
        // Four leaves: [0,1] and [2,3] are siblings.
        bytes32[] memory proof = new bytes32[](2);
        (proof[0], proof[1]) = (hashes[3], Hashes.commutativeKeccak256(hashes[0], hashes[1]));
        assertTrue(ledger.verifyLeaf(o.record, leaves[2], proof));
        skip(WINDOW);
        ledger.finalize(o.record);
        assertTrue(ledger.verifyLeaf(o.record, leaves[2], proof), "after finality too");
        leaves[2].amount += 1;
        assertFalse(ledger.verifyLeaf(o.record, leaves[2], proof));
        assertFalse(ledger.verifyLeaf(o.record, leaves[1], proof));
        o.record.total += 1;
        assertFalse(ledger.verifyLeaf(o.record, leaves[1], proof));
        BatchRecord memory nothing;
        assertFalse(ledger.verifyLeaf(nothing, leaves[1], proof));
    }

    function test_nothingCaptured_noBatch() public {
        ISettlementLedger.OrderRow[] memory rows = _rows(2, 0);
        bytes32 accumulator = ledger.accumulator();
        Outcome memory o = _post(rows);
        assertEq(o.batchId, 0);
        assertEq(o.skipped.length, 2);
        assertEq(ledger.batches(), 0);
        assertEq(ledger.effectSeq(), 0);
        assertEq(ledger.seq(), 2, "skips are events");
        assertEq(ledger.accumulator(), accumulator);
    }

    function test_heldOrdersOfWallets_unheldSkipped() public {
        address wallet = address(new YesWallet());
        _fund(wallet, 10_000);
        ISettlementLedger.OrderRow[] memory rows = _rows(3, 10);
        Order memory order = _order(keeperId, 0);
        order.payer = wallet;
        rows[0].payer = wallet;
        rows[1].payer = wallet;
        escrow.hold(order, "wallet");
        (rows[0].r, rows[0].vs) = (0, 0);
        Outcome memory o = _post(rows);
        assertEq(o.skipped.length, 1);
        assertEq(o.skipped[0], 1);
        assertEq(uint8(o.reasons[0]), uint8(IInferenceEscrow.CaptureResult.BadSignature));
        assertEq(_free(wallet), 9990);
    }

    // ── Bad rows ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Every kind of poison in every position of a batch: the others stand, the reason is reported.
    function test_poisonInEveryPosition() public {
        uint256 nonce;
        for (uint256 kind; kind < 13; ++kind) {
            for (uint256 position; position < 4; ++position) {
                ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](4);
                for (uint256 i; i < 4; ++i) {
                    rows[i] = _rowFor(nonce++, 10, 0, 0);
                }
                IInferenceEscrow.CaptureResult reason = _poison(rows, position, kind);
                uint128 before = _locked() + _free(payer);
                Outcome memory o = _post(rows);
                assertEq(o.skipped.length, 1, "one skipped");
                assertEq(o.skipped[0], position, "position");
                assertEq(uint8(o.reasons[0]), uint8(reason), "reason");
                assertEq(o.record.rows, 3);
                assertEq(before - _locked() - _free(payer), o.record.total, "nothing taken for the poisoned row");
            }
        }
    }

    function _poison(ISettlementLedger.OrderRow[] memory rows, uint256 position, uint256 kind)
        private
        returns (IInferenceEscrow.CaptureResult)
    {
        ISettlementLedger.OrderRow memory row = rows[position];
        if (kind == 0) {
            row.vs ^= bytes32(uint256(1));
            return IInferenceEscrow.CaptureResult.BadSignature;
        }
        if (kind == 1) {
            row.amount = 0;
            return IInferenceEscrow.CaptureResult.ZeroAmount;
        }
        if (kind == 2) {
            row.amount = row.maxAmount + 1;
            return IInferenceEscrow.CaptureResult.OverMaximum;
        }
        if (kind == 3) {
            row.node = 2;
            return IInferenceEscrow.CaptureResult.UnknownNodeIndex;
        }
        if (kind == 4) {
            row.node = 1;
            return IInferenceEscrow.CaptureResult.NodeOutsideScope;
        }
        Order memory order = _orderOf(row);
        if (kind == 5) {
            order.nodeScope = declared.id;
            rows[position] = _row(payerKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.NodeOutsideScope;
        }
        if (kind == 6) {
            order.captureDeadline = uint40(block.timestamp) - 1;
            order.validBefore = order.captureDeadline;
            order.validAfter = order.captureDeadline;
            rows[position] = _row(payerKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.DeadlinePassed;
        }
        if (kind == 7) {
            order.validAfter = uint40(block.timestamp) + 1;
            rows[position] = _row(payerKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.NotYetValid;
        }
        if (kind == 8) {
            order.validBefore = order.captureDeadline + 1;
            rows[position] = _row(payerKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.BadTimes;
        }
        if (kind == 9) {
            // The wrong keeper's order: its signature is over another keeper id.
            order.keeperId = otherKeeperId;
            rows[position] = _row(payerKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.BadSignature;
        }
        if (kind == 10) {
            (address poor, uint256 poorKey) = makeAddrAndKey("poor");
            order.payer = poor;
            rows[position] = _row(poorKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.InsufficientBalance;
        }
        if (kind == 11) {
            // Reclaimed before.
            order.captureDeadline = order.validBefore;
            order.nonce += 1_000_000;
            uint256 snapshot = block.timestamp;
            _open(order);
            vm.warp(order.captureDeadline + 1);
            escrow.reclaim(order);
            vm.warp(snapshot);
            rows[position] = _row(payerKey, order, 10, 0);
            return IInferenceEscrow.CaptureResult.OrderClosed;
        }
        // Captured before, verified.
        Order memory twin = _order(keeperId, row.nonce + 2_000_000);
        Settlement memory s = _settlement(node, twin, 10);
        vm.prank(hotKey);
        _settle(s);
        rows[position] = _row(payerKey, twin, 10, 0);
        return IInferenceEscrow.CaptureResult.NonceSpent;
    }

    function test_duplicateRowsInOneBatch_andInTheNext() public {
        ISettlementLedger.OrderRow[] memory rows = _rows(3, 10);
        rows[2] = rows[0];
        rows[2].receiptHash = keccak256("another receipt");
        Outcome memory o = _post(rows);
        assertEq(o.record.total, 20);
        assertEq(o.skipped[0], 2);
        assertEq(uint8(o.reasons[0]), uint8(IInferenceEscrow.CaptureResult.NonceSpent));
        o = _post(rows);
        assertEq(o.batchId, 0);
        assertEq(o.skipped.length, 3);
    }

    /// @dev Held: the same row twice finds the order closed.
    function test_duplicateHeldRows() public {
        Order memory order = _order(keeperId, 5);
        _open(order);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](2);
        rows[0] = _row(payerKey, order, 10, 0);
        rows[1] = rows[0];
        Outcome memory o = _post(rows);
        assertEq(uint8(o.reasons[0]), uint8(IInferenceEscrow.CaptureResult.OrderClosed));
        assertEq(o.record.total, 10);
    }

    /// @dev Operator rotates its meter key under a batch: rows of the replaced version stand for an hour, no longer.
    function test_attack_rotationUnderABatch() public {
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, vm.addr(77));
        skip(GRACE);
        Outcome memory o = _post(_rows(2, 10));
        assertEq(o.record.rows, 2);
        skip(1);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](1);
        rows[0] = _rowFor(9, 10, 0, 0);
        o = _post(rows);
        assertEq(uint8(o.reasons[0]), uint8(IInferenceEscrow.CaptureResult.NodeVersionNotCurrent));
    }

    function test_attack_nodesThatMayNotBePaid() public {
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](4);
        for (uint16 i; i < 4; ++i) {
            rows[i] = _rowFor(i, 10, i == 0 ? node.id : bytes32(0), i);
        }
        rows[3] = _rowFor(3, 10, declared.id, 3);
        INodeRegistry.NodeRef[] memory refs = new INodeRegistry.NodeRef[](4);
        refs[0] = INodeRegistry.NodeRef(node.id, 2);
        refs[1] = INodeRegistry.NodeRef("nobody", 1);
        refs[2] = INodeRegistry.NodeRef(node.id, 9);
        refs[3] = INodeRegistry.NodeRef(declared.id, 1);
        nodes.revoke(node.id);
        Outcome memory o = _postTo(refs, rows);
        assertEq(o.skipped.length, 3);
        assertEq(uint8(o.reasons[0]), uint8(IInferenceEscrow.CaptureResult.NodeNotActive));
        assertEq(uint8(o.reasons[1]), uint8(IInferenceEscrow.CaptureResult.NodeNotActive));
        assertEq(uint8(o.reasons[2]), uint8(IInferenceEscrow.CaptureResult.NodeNotActive));
        assertEq(o.record.credits.length, 1, "nodes that earned nothing are left out");
        assertEq(o.record.credits[0].nodeId, declared.id);
    }

    function test_noFreshMirrorRows() public {
        // Version 1 has no meter key.
        NodeKeys memory keys = node;
        keys.version = 1;
        skip(GRACE + 1);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](1);
        rows[0] = _rowFor(1, 10, 0, 0);
        Outcome memory o = _postTo(_refs(keys, declared), rows);
        assertEq(uint8(o.reasons[0]), uint8(IInferenceEscrow.CaptureResult.NodeVersionNotCurrent));
    }

    // ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_onlyHotKeys() public {
        ISettlementLedger.OrderRow[] memory rows = _rows(1, 10);
        INodeRegistry.NodeRef[] memory refs = _refs(node, declared);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotHotKey.selector, otherKeeperId, hotKey));
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(otherKeeperId, address(token), refs, rows, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotHotKey.selector, bytes32(0), hotKey));
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(0, address(token), refs, rows, 0, "");
        keepers.setHotKey(keeperId, hotKey, false);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotHotKey.selector, keeperId, hotKey));
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(keeperId, address(token), refs, rows, 0, "");
    }

    /// @dev Rows must stand in the transaction's input, where everyone reads them.
    function test_onlyAsTheTransactionsOwnCall() public {
        ISettlementLedger.OrderRow[] memory rows = _rows(1, 10);
        INodeRegistry.NodeRef[] memory refs = _refs(node, declared);
        bytes memory call_ =
            abi.encodeCall(ISettlementLedger.settleBatch, (keeperId, address(token), refs, rows, bytes32(0), ""));

        // Through a contract that is a hot key.
        Relay relay = new Relay();
        keepers.setHotKey(keeperId, address(relay), true);
        vm.expectRevert(_indirect(address(relay), hotKey, address(relay).code.length));
        vm.prank(hotKey, hotKey);
        relay.execute(address(ledger), call_);

        // By a hot key inside another account's transaction.
        vm.expectRevert(_indirect(hotKey, stranger, 0));
        vm.prank(hotKey, stranger);
        ledger.settleBatch(keeperId, address(token), refs, rows, 0, "");

        // By an account that delegated (EIP-7702): called by itself it is its own origin, and the rows are wrapped all the same.
        vm.etch(hotKey, abi.encodePacked(hex"ef0100", address(relay)));
        vm.expectRevert(_indirect(hotKey, hotKey, 23));
        vm.prank(hotKey, hotKey);
        Relay(hotKey).execute(address(ledger), call_);
        vm.expectRevert(_indirect(hotKey, hotKey, 23));
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(keeperId, address(token), refs, rows, 0, "");

        vm.etch(hotKey, "");
        assertEq(_post(rows).batchId, 1);
    }

    function _indirect(address sender, address origin, uint256 code) private pure returns (bytes memory) {
        return abi.encodeWithSelector(ISettlementLedger.IndirectCall.selector, sender, origin, code);
    }

    function test_limits() public {
        INodeRegistry.NodeRef[] memory refs = _refs(node, declared);
        vm.startPrank(hotKey, hotKey);
        vm.expectRevert(ISettlementLedger.NoRows.selector);
        ledger.settleBatch(keeperId, address(token), refs, new ISettlementLedger.OrderRow[](0), 0, "");
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.TooManyRows.selector, 257, 256));
        ledger.settleBatch(keeperId, address(token), refs, new ISettlementLedger.OrderRow[](257), 0, "");
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.TooManyNodes.selector, 65, 64));
        ledger.settleBatch(
            keeperId, address(token), new INodeRegistry.NodeRef[](65), new ISettlementLedger.OrderRow[](1), 0, ""
        );
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.BlobIdTooLong.selector, 129, 128));
        ledger.settleBatch(keeperId, address(token), refs, new ISettlementLedger.OrderRow[](1), 0, new bytes(129));
    }

    function test_setFee() public {
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.FeeTooHigh.selector, 101, 100));
        ledger.setFee(101, treasury);
        vm.expectRevert(ISettlementLedger.ZeroAddress.selector);
        ledger.setFee(1, address(0));
        vm.expectRevert();
        vm.prank(stranger);
        ledger.setFee(1, treasury);
        vm.expectEmit(address(ledger));
        emit ISettlementLedger.FeeSet(1, 100, treasury);
        ledger.setFee(100, treasury);
        assertEq(ledger.feeBps(), 100);
        assertEq(ledger.feeRecipient(), treasury);
    }

    // ── The tree ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_treeEqualsOpenZeppelinJavaScript() public view {
        string memory json = vm.readFile("test/vectors/merkle.json");
        uint256 count;
        for (; vm.keyExistsJson(json, string.concat(".trees[", vm.toString(count), "]")); ++count) {
            string memory path = string.concat(".trees[", vm.toString(count), "]");
            uint256 size = vm.parseJsonUint(json, string.concat(path, ".size"));
            bytes32 root = vm.parseJsonBytes32(json, string.concat(path, ".root"));
            bytes32[] memory tree = new bytes32[](2 * size);
            for (uint256 i; i < size; ++i) {
                tree[i] = Batches.hash(_vectorLeaf(i));
            }
            assertEq(Batches.root(tree, size), root);
            uint256[] memory proven = vm.parseJsonUintArray(json, string.concat(path, ".proven"));
            for (uint256 i; i < proven.length; ++i) {
                bytes32[] memory proof =
                    vm.parseJsonBytes32Array(json, string.concat(path, ".proofs[", vm.toString(i), "]"));
                bytes32 h = Batches.hash(_vectorLeaf(proven[i]));
                for (uint256 j; j < proof.length; ++j) {
                    h = Hashes.commutativeKeccak256(h, proof[j]);
                }
                assertEq(h, root);
            }
        }
        assertEq(count, 22);
    }

    function testFuzz_treeEqualsNaive(bytes32 seed, uint8 size) public pure {
        uint256 n = bound(size, 1, 256);
        bytes32[] memory leaves = new bytes32[](n);
        bytes32[] memory tree = new bytes32[](2 * n);
        for (uint256 i; i < n; ++i) {
            tree[i] = leaves[i] = keccak256(abi.encode(seed, i));
        }
        assertEq(Batches.root(tree, n), _heapRoot(leaves));
    }

    function testFuzz_leafHash(Leaf memory leaf) public pure {
        assertEq(Batches.hash(leaf), keccak256(bytes.concat(keccak256(abi.encode(leaf)))));
    }

    function _vectorLeaf(uint256 i) private pure returns (Leaf memory) {
        return Leaf({
            rail: 1,
            paymentId: _word("payment", i),
            start: 0,
            amount: uint128((i + 1) ** 5),
            nodeId: _word("node", i % 7),
            nodeVersion: uint32(i % 3 + 1),
            receiptHash: _word("receipt", i),
            row: uint32(i)
        });
    }

    function _word(string memory name, uint256 i) private pure returns (bytes32) {
        return keccak256(bytes(string.concat(name, " ", vm.toString(i))));
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _rows(uint256 count, uint128 amount) private view returns (ISettlementLedger.OrderRow[] memory rows) {
        rows = new ISettlementLedger.OrderRow[](count);
        for (uint256 i; i < count; ++i) {
            rows[i] = _rowFor(i, amount, 0, 0);
        }
    }

    function _rowFor(uint256 nonce, uint128 amount, bytes32 scope, uint16 index)
        private
        view
        returns (ISettlementLedger.OrderRow memory)
    {
        Order memory order = _order(keeperId, nonce);
        order.nodeScope = scope;
        return _row(payerKey, order, amount, index);
    }

    function _orderOf(ISettlementLedger.OrderRow memory row) private view returns (Order memory) {
        return Order(
            row.payer,
            address(token),
            row.maxAmount,
            row.requestCommit,
            row.nodeScope,
            keeperId,
            row.validAfter,
            row.validBefore,
            row.captureDeadline,
            row.nonce
        );
    }

    function _post(ISettlementLedger.OrderRow[] memory rows) private returns (Outcome memory) {
        return _postTo(_refs(node, declared), rows);
    }

    function _postTo(INodeRegistry.NodeRef[] memory refs, ISettlementLedger.OrderRow[] memory rows)
        private
        returns (Outcome memory o)
    {
        vm.recordLogs();
        vm.prank(hotKey, hotKey);
        o.batchId = ledger.settleBatch(keeperId, address(token), refs, rows, OG_ROOT, "blob");
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 count;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] == ISettlementLedger.RowSkipped.selector) ++count;
        }
        o.skipped = new uint32[](count);
        o.reasons = new IInferenceEscrow.CaptureResult[](count);
        count = 0;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] == ISettlementLedger.RowSkipped.selector) {
                (, o.skipped[count], o.reasons[count]) =
                    abi.decode(logs[i].data, (uint64, uint32, IInferenceEscrow.CaptureResult));
                Order memory order = _orderOf(rows[o.skipped[count]]);
                assertEq(logs[i].topics[2], escrow.orderId(order));
                ++count;
            } else if (logs[i].topics[0] == ISettlementLedger.BatchSettled.selector) {
                (,, o.record,) = abi.decode(logs[i].data, (uint64, uint64, BatchRecord, bytes));
            }
        }
    }

    /// @dev Leaves of the rows that have an amount.
    function _leaves(ISettlementLedger.OrderRow[] memory rows) private view returns (Leaf[] memory leaves) {
        leaves = new Leaf[](rows.length);
        uint32 count;
        for (uint256 i; i < rows.length; ++i) {
            if (rows[i].amount == 0) continue;
            NodeKeys memory keys = rows[i].node == 0 ? node : declared;
            leaves[count] = Leaf(
                1,
                escrow.orderId(_orderOf(rows[i])),
                0,
                rows[i].amount,
                keys.id,
                keys.version,
                rows[i].receiptHash,
                count
            );
            ++count;
        }
        assembly ("memory-safe") {
            mstore(leaves, count)
        }
    }

    function _naiveRoot(Leaf[] memory leaves) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](leaves.length);
        for (uint256 i; i < leaves.length; ++i) {
            hashes[i] = keccak256(bytes.concat(keccak256(abi.encode(leaves[i]))));
        }
        return _heapRoot(hashes);
    }

    /// @dev The heap as OpenZeppelin's library lays it out: leaf i at index 2n − 2 − i, parent of i at (i − 1) / 2.
    function _heapRoot(bytes32[] memory leaves) private pure returns (bytes32) {
        uint256 n = leaves.length;
        bytes32[] memory tree = new bytes32[](2 * n - 1);
        for (uint256 i; i < n; ++i) {
            tree[2 * n - 2 - i] = leaves[i];
        }
        for (uint256 i = n - 1; i > 0; --i) {
            tree[i - 1] = Hashes.commutativeKeccak256(tree[2 * i - 1], tree[2 * i]);
        }
        return tree[0];
    }

    function _locked() private view returns (uint128) {
        return escrow.lockOf(payer, address(token), keeperId).amount;
    }
}
