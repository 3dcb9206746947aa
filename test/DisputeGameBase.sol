// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {IDisputeGame} from "../contracts/interfaces/IDisputeGame.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {BatchRecord, Batches, Leaf} from "../contracts/libraries/Batches.sol";
import {ReceiptEvidence, RowProof} from "../contracts/libraries/Evidence.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {SettlementLedgerBase} from "./SettlementLedgerBase.sol";

/// @notice Batches whose rows have real receipts, and the steps of disputes about them.
abstract contract DisputeGameBase is SettlementLedgerBase {
    /// @dev A batch with all that a keeper keeps of it. Records are ABI-encoded, so that they fit in storage.
    struct Posted {
        BatchRecord record;
        Leaf[] leaves;
        Settlement[] evidence;
        bytes32[] tree;
    }

    address internal challenger = makeAddr("challenger");

    function setUp() public virtual override {
        super.setUp();
        _lock(payerKey, 500_000_000, 0);
        vm.deal(challenger, 100 ether);
        vm.deal(stranger, 100 ether);
    }

    // ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev A batch of signed orders with nonces from `nonce` on, all by `node`.
    function _post(uint256 count, uint256 nonce, uint128 amount) internal returns (Posted memory) {
        Settlement[] memory evidence = new Settlement[](count);
        for (uint256 i; i < count; ++i) {
            evidence[i] = _settlement(node, _order(keeperId, nonce + i), amount);
        }
        return _postRows(evidence);
    }

    /// @dev Every row is what its evidence says; the nodes are `node` and `declared`.
    function _postRows(Settlement[] memory evidence) internal returns (Posted memory p) {
        return _postAs(hotKey, keeperId, _rowsOf(evidence), evidence);
    }

    function _rowsOf(Settlement[] memory evidence) internal view returns (ISettlementLedger.OrderRow[] memory rows) {
        rows = new ISettlementLedger.OrderRow[](evidence.length);
        for (uint256 i; i < rows.length; ++i) {
            rows[i] = _row(
                payerKey, evidence[i].order, evidence[i].receipt.amount, evidence[i].receipt.nodeId == node.id ? 0 : 1
            );
            rows[i].receiptHash = keccak256(abi.encode(evidence[i].receipt));
        }
    }

    function _postAs(
        address key,
        bytes32 keeperId_,
        ISettlementLedger.OrderRow[] memory rows,
        Settlement[] memory evidence
    ) internal returns (Posted memory p) {
        return _postOf(key, keeperId_, _refs(node, declared), rows, evidence);
    }

    function _postOf(
        address key,
        bytes32 keeperId_,
        INodeRegistry.NodeRef[] memory refs,
        ISettlementLedger.OrderRow[] memory rows,
        Settlement[] memory evidence
    ) internal returns (Posted memory p) {
        vm.recordLogs();
        vm.prank(key, key);
        ledger.settleBatch(keeperId_, address(token), refs, rows, keccak256("og"), "blob");
        Vm.Log[] memory logs = vm.getRecordedLogs();
        (,, p.record,) = abi.decode(logs[logs.length - 1].data, (uint64, uint64, BatchRecord, bytes));
        require(p.record.rows == rows.length, "all captured");
        p.evidence = evidence;
        p.leaves = new Leaf[](rows.length);
        for (uint256 i; i < rows.length; ++i) {
            p.leaves[i] = Leaf({
                rail: 1,
                paymentId: escrow.orderId(evidence[i].order),
                start: 0,
                amount: rows[i].amount,
                nodeId: refs[rows[i].node].nodeId,
                nodeVersion: refs[rows[i].node].version,
                receiptHash: rows[i].receiptHash,
                row: uint32(i)
            });
        }
        p.tree = _tree(p.leaves);
        require(p.tree[p.tree.length - 1] == p.record.receiptsRoot, "root");
    }

    /// @dev All nodes of the tree, leaves first, as the ledger builds it.
    function _tree(Leaf[] memory leaves) internal pure returns (bytes32[] memory tree) {
        tree = new bytes32[](2 * leaves.length - 1);
        for (uint256 i; i < leaves.length; ++i) {
            tree[i] = keccak256(bytes.concat(keccak256(abi.encode(leaves[i]))));
        }
        for (uint256 i = leaves.length; i < tree.length; ++i) {
            (bytes32 a, bytes32 b) = (tree[2 * (i - leaves.length)], tree[2 * (i - leaves.length) + 1]);
            tree[i] = a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
        }
    }

    function _proof(Posted memory p, uint256 row) internal pure returns (bytes32[] memory proof) {
        uint256 depth;
        for (uint256 i = row; i < p.tree.length - 1; i = p.leaves.length + i / 2) {
            ++depth;
        }
        proof = new bytes32[](depth);
        depth = 0;
        for (uint256 i = row; i < p.tree.length - 1; i = p.leaves.length + i / 2) {
            proof[depth++] = p.tree[i ^ 1];
        }
    }

    // ── Disputes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function _challenge(Posted memory p, uint256 row) internal {
        _challengeAs(challenger, p, row);
    }

    function _challengeAs(address by, Posted memory p, uint256 row) internal {
        bytes32[] memory proof = _proof(p, row);
        uint256 bond = game.challengeBond();
        vm.prank(by);
        game.challenge{value: bond}(p.record, p.leaves[row], proof, 0);
    }

    function _evidence(Posted memory p, uint256 row) internal pure returns (ReceiptEvidence memory) {
        Settlement memory s = p.evidence[row];
        return ReceiptEvidence(s.receipt, s.inferenceSignature, s.meterSignature);
    }

    function _answerAs(address by, Posted memory p, uint256 row) internal {
        vm.prank(by);
        game.answer(p.record, p.leaves[row], p.evidence[row].order, _evidence(p, row));
    }

    function _resolve(Posted memory p, uint256 row) internal {
        game.resolve(p.record, p.leaves[row], p.evidence[row].order);
    }

    /// @dev Challenges a row and lets its time pass.
    function _void(Posted memory p, uint256 row) internal {
        _challenge(p, row);
        vm.warp(game.rowOf(p.record.batchId, p.leaves[row]).deadline + 1);
        _resolve(p, row);
    }

    function _rowProof(Posted memory p, uint256 row) internal pure returns (RowProof memory) {
        return RowProof(p.record, p.leaves[row], _proof(p, row), p.evidence[row].order);
    }

    function _excluded(Posted memory p, uint256 a) internal pure returns (Leaf[] memory list) {
        list = new Leaf[](1);
        list[0] = p.leaves[a];
    }

    function _excluded(Posted memory p, uint256 a, uint256 b) internal pure returns (Leaf[] memory list) {
        list = new Leaf[](2);
        (list[0], list[1]) = (p.leaves[a], p.leaves[b]);
    }

    function _assertRow(Posted memory p, uint256 row, IDisputeGame.RowStatus status) internal view {
        assertEq(uint8(game.rowOf(p.record.batchId, p.leaves[row]).status), uint8(status), "row status");
    }
}
