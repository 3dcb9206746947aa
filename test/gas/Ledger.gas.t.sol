// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {BatchRecord} from "../../contracts/libraries/Batches.sol";
import {Order} from "../../contracts/libraries/Orders.sol";
import {InferenceConsumer} from "../../contracts/devnet/InferenceConsumer.sol";
import {SettlementLedgerBase} from "../SettlementLedgerBase.sol";
import {Artifacts} from "../../script/Artifacts.sol";

/// @notice Gas of real settlements: each call is a transaction of its own. `warm`: accounts and bitmap words used before.
/// forge-config: default.isolate = true
contract LedgerGas is SettlementLedgerBase {
    uint256 private constant TX_GAS_LIMIT = 16_777_216;
    uint256 private constant TX_BYTES_LIMIT = 131_072;
    /// @dev Nonce, fees, chain id, signature and lengths of a transaction that is almost as long as it may be.
    uint256 private constant ENVELOPE_BYTES = 150;

    NodeKeys[] private _many;
    bytes[] private _keys;
    string private _vectors;

    function setUp() public override {
        super.setUp();
        _vectors = vm.readFile("test/vectors/inferences.json");
        _keys = vm.parseJsonBytesArray(_vectors, ".keys");
        _many.push(node);
        // The contracts' own counters have been used before; only a deployment's first settlement pays for them.
        _settle(_settlement(node, _order(0, 1_000_000), 1));
    }

    // ── Verified ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_settleVerified_rsa() public {
        NodeKeys memory keys = _mirror(_keys[0], address(rsa), "rsa");
        _settle(_rsaSettlement(keys, 0, true));
        assertLe(vm.snapshotGasLastCall("ledger", "settleVerified RSA-PSS, held order, first"), 191_500);
        _settle(_rsaSettlement(keys, 1, true));
        assertLe(vm.snapshotGasLastCall("ledger", "settleVerified RSA-PSS, held order, warm"), 174_000);
        _settle(_rsaSettlement(keys, 2, false));
        _settle(_rsaSettlement(keys, 3, false));
        assertLe(vm.snapshotGasLastCall("ledger", "settleVerified RSA-PSS, signed order, warm"), 181_500);
    }

    function test_settleVerified_rsa_firstNonceWord() public {
        NodeKeys memory keys = _mirror(_keys[0], address(rsa), "rsa");
        _settle(_rsaSettlement(keys, 0, true));
        _settle(_rsaSettlement(keys, 1, false));
        assertLe(vm.snapshotGasLastCall("ledger", "settleVerified RSA-PSS, signed order, first nonce word"), 198_500);
    }

    function test_settleVerified_p256() public {
        _settle(_settlement(node, _order(0, 1), 100));
        _settle(_settlement(node, _order(0, 2), 100));
        vm.snapshotGasLastCall("ledger", "settleVerified P-256, signed order, warm");
    }

    function test_deliver() public {
        InferenceConsumer consumer = InferenceConsumer(Artifacts.deploy("InferenceConsumer", abi.encode(escrow)));
        _fund(address(consumer), 5000);
        Settlement[2] memory s;
        for (uint256 i; i < 2; ++i) {
            consumer.ask(address(token), 1000, 0, 1 hours, "request");
            uint40 time = uint40(block.timestamp);
            Order memory order = Order(
                address(consumer),
                address(token),
                1000,
                _commit(keccak256("request"), 0),
                0,
                0,
                time,
                time + 1 hours,
                time + 2 hours,
                i
            );
            s[i] = _settlement(node, order, 700);
            s[i].receipt.requestHash = keccak256("request");
            _signEvidence(node, s[i]);
            bytes32 id = _settle(s[i]);
            ledger.deliver(id, s[i].receipt, _output(i));
            vm.snapshotGasLastCall("ledger", "deliver of 42 bytes, stored by the consumer");
        }
    }

    // ── Batches ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_batch_warm() public {
        _nodes(10);
        _payers(100);
        _lockAll(100);
        // Every account, lock and bitmap word has been used.
        _post(_batch(100, 0, 10), 10);
        skip(WINDOW);
        uint256 fifty = _measured("settleBatch of 50 rows, 10 nodes, warm", _batch(50, 1, 10), 10);
        uint256 hundred = _measured("settleBatch of 100 rows, 10 nodes, warm", _batch(100, 2, 10), 10);
        uint256 row = (hundred - fifty) / 50;
        vm.snapshotValue("ledger", "batch row from a lock, warm", row);
        vm.snapshotValue("ledger", "batch overhead, 10 nodes", hundred - 100 * row);
        assertLe(row, 33_000);
        assertLe(hundred / 100, 35_000, "overhead included");
        assertLe(hundred - 100 * row, 169_000);
    }

    function test_batch_first() public {
        _nodes(10);
        _payers(100);
        _lockAll(100);
        uint256 hundred = _measured("settleBatch of 100 rows, 10 nodes, first", _batch(100, 0, 10), 10);
        vm.snapshotValue("ledger", "batch row from a lock, first, overhead included", hundred / 100);
        assertLe(hundred / 100, 52_000);
    }

    function test_finalize() public {
        _nodes(10);
        _payers(20);
        _lockAll(20);
        BatchRecord memory record = _post(_batch(20, 0, 10), 10);
        skip(WINDOW);
        ledger.finalize(record);
        vm.snapshotGasLastCall("ledger", "finalize of 10 nodes, first");
        record = _post(_batch(20, 1, 10), 10);
        skip(WINDOW);
        ledger.finalize(record);
        vm.snapshotGasLastCall("ledger", "finalize of 10 nodes, warm");
        record = _post(_batch(1, 2, 1), 1);
        skip(WINDOW);
        ledger.finalize(record);
        vm.snapshotGasLastCall("ledger", "finalize of 1 node, warm");
    }

    /// @dev The largest batch that the limits allow, nothing of it used before, every word as dense as it gets.
    function test_largestBatchFitsInATransaction() public {
        ledger.setFee(100, treasury);
        _nodes(64);
        _payers(256);
        _lockAll(256);
        ISettlementLedger.OrderRow[] memory rows = _batch(256, 0, 64);
        bytes memory call_ = abi.encodeCall(
            ledger.settleBatch,
            (keeperId, address(token), _refsOf(64), rows, bytes32(type(uint256).max), new bytes(128))
        );
        assertLt(call_.length + ENVELOPE_BYTES, TX_BYTES_LIMIT);
        vm.snapshotValue("ledger", "bytes of the largest batch", call_.length + ENVELOPE_BYTES);
        assertLt(_measured("settleBatch of 256 rows, 64 nodes, first", rows, 64), TX_GAS_LIMIT);
    }

    function test_largestFinalizeFitsInATransaction() public {
        ledger.setFee(100, treasury);
        _nodes(64);
        _payers(64);
        _lockAll(64);
        BatchRecord memory record = _post(_batch(64, 0, 64), 64);
        assertEq(record.credits.length, 64);
        skip(WINDOW);
        ledger.finalize(record);
        assertLt(vm.snapshotGasLastCall("ledger", "finalize of 64 nodes and fee, first"), TX_GAS_LIMIT);
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _rsaSettlement(NodeKeys memory keys, uint256 index, bool held) private returns (Settlement memory s) {
        string memory path = string.concat(".inferences[", vm.toString(index), "]");
        Order memory order = _order(0, index);
        bytes32 request = keccak256(vm.parseJsonBytes(_vectors, string.concat(path, ".request")));
        order.requestCommit = _commit(request, 0);
        if (held) _open(order);
        s = _settlement(keys, order, 700);
        s.receipt.requestHash = request;
        s.receipt.outputHash = keccak256(vm.parseJsonBytes(_vectors, string.concat(path, ".output")));
        s.receipt.timestamp = uint40(vm.parseJsonUint(_vectors, string.concat(path, ".timestamp")));
        s.inferenceSignature = vm.parseJsonBytes(_vectors, string.concat(path, ".signature"));
        if (held) s.orderSignature = "";
        _signMeter(keys, s);
    }

    function _nodes(uint256 count) private {
        while (_many.length < count) {
            _many.push(_mirrorP256(string.concat("node ", vm.toString(_many.length))));
        }
    }

    function _payers(uint256 count) private {
        for (uint256 i; i < count; ++i) {
            _fund(vm.addr(1000 + i), 100_000);
        }
    }

    function _lockAll(uint256 count) private {
        for (uint256 i; i < count; ++i) {
            _lock(1000 + i, 50_000, 0);
        }
    }

    function _refsOf(uint256 count) private view returns (INodeRegistry.NodeRef[] memory refs) {
        refs = new INodeRegistry.NodeRef[](count);
        for (uint256 i; i < count; ++i) {
            refs[i] = INodeRegistry.NodeRef(_many[i].id, _many[i].version);
        }
    }

    /// @dev One row for each payer, over the nodes in turn.
    function _batch(uint256 count, uint256 nonce, uint256 nodeCount)
        private
        view
        returns (ISettlementLedger.OrderRow[] memory rows)
    {
        rows = new ISettlementLedger.OrderRow[](count);
        for (uint256 i; i < count; ++i) {
            Order memory order = _order(keeperId, nonce);
            order.payer = vm.addr(1000 + i);
            rows[i] = _row(1000 + i, order, 700, uint16(i % nodeCount));
        }
    }

    function _post(ISettlementLedger.OrderRow[] memory rows, uint256 nodeCount)
        private
        returns (BatchRecord memory record)
    {
        vm.recordLogs();
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(keeperId, address(token), _refsOf(nodeCount), rows, keccak256("og"), "blob");
        Vm.Log[] memory logs = vm.getRecordedLogs();
        (,, record,) = abi.decode(logs[logs.length - 1].data, (uint64, uint64, BatchRecord, bytes));
        assertEq(record.rows, rows.length, "all captured");
    }

    function _measured(string memory name, ISettlementLedger.OrderRow[] memory rows, uint256 nodeCount)
        private
        returns (uint256 gas_)
    {
        INodeRegistry.NodeRef[] memory refs = _refsOf(nodeCount);
        uint64 before = ledger.seq();
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(keeperId, address(token), refs, rows, keccak256("og"), "blob");
        gas_ = vm.snapshotGasLastCall("ledger", name);
        assertEq(ledger.seq(), before + 1, "all captured");
    }
}
