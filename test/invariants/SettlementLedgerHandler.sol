// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {BatchRecord} from "../../contracts/libraries/Batches.sol";
import {Lock, Order} from "../../contracts/libraries/Orders.sol";
import {SettlementLedgerBase} from "../SettlementLedgerBase.sol";

/// @notice Payers, a keeper, nodes and strangers who do legal and illegal things in any order; keeps its own books from events.
contract SettlementLedgerHandler is SettlementLedgerBase {
    uint256 private constant PAYERS = 3;

    // Books.
    uint256 public deposited;
    uint256 public withdrawn;
    uint256 public capturedTotal;
    uint256 public creditedTotal;
    uint256 public openTotal;
    uint64 public ledgerSeq;
    uint64 public effects;
    uint64 public escrowSeq;
    bytes32 public fold;
    bool public gap;
    bool public paidTwice;
    bool public rowMismatch;
    uint256 public batchesPosted;
    uint256 public verifiedCount;

    mapping(bytes32 settlementId => uint256) private _payments;
    /// ABI-encoded records.
    bytes[] private _batchesOpen;
    Order[] private _held;
    Settlement[] private _past;
    uint256 private _nonce;

    function setUp() public override {
        super.setUp();
        escrowSeq = escrow.seq();
        deposited = token.balanceOf(address(escrow));
        fold = ledger.accumulator();
    }

    function key(uint256 i) public view returns (uint256) {
        return i % PAYERS == 0 ? payerKey : 5000 + i % PAYERS;
    }

    function payers() external pure returns (uint256) {
        return PAYERS;
    }

    // ── Actions ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function deposit(uint256 who, uint128 amount) external {
        amount = uint128(bound(amount, 1, 1e9));
        vm.recordLogs();
        _fund(vm.addr(key(who)), amount);
        deposited += amount;
        _book();
    }

    function withdraw(uint256 who, uint128 amount) external {
        address owner = vm.addr(key(who));
        uint128 free = _free(owner);
        if (free == 0) return;
        amount = uint128(bound(amount, 1, free));
        vm.recordLogs();
        vm.prank(owner);
        escrow.withdraw(address(token), owner, amount);
        withdrawn += amount;
        _book();
    }

    function lock(uint256 who, uint128 amount) external {
        address owner = vm.addr(key(who));
        uint128 free = _free(owner);
        if (free == 0) return;
        amount = uint128(bound(amount, 1, free));
        uint40 until = uint40(block.timestamp) + 7 days;
        Lock memory lock_ = Lock(owner, address(token), keeperId, amount, until, _nonce++);
        vm.recordLogs();
        escrow.lock(lock_, _sign(key(who), escrow.lockDigest(lock_)));
        _book();
    }

    function unlock(uint256 who) external {
        vm.recordLogs();
        try escrow.unlock(vm.addr(key(who)), address(token), keeperId) {} catch {}
        _book();
    }

    function hold(uint256 who, bool forKeeper) external {
        Order memory order = _orderOf(who, forKeeper);
        if (_free(order.payer) < order.maxAmount) return;
        if (escrow.nonceSpent(order.payer, address(token), order.keeperId, order.nonce)) return;
        vm.recordLogs();
        escrow.hold(order, _sign(key(who), escrow.orderId(order)));
        _held.push(order);
        _book();
    }

    function reclaim(uint256 which) external {
        if (_held.length == 0) return;
        vm.recordLogs();
        try escrow.reclaim(_held[which % _held.length]) {} catch {}
        _book();
    }

    function cancel(uint256 who, bool forKeeper, uint8 bit) external {
        vm.recordLogs();
        vm.prank(vm.addr(key(who)));
        try escrow.cancelNonces(
            address(token), forKeeper ? keeperId : bytes32(0), uint248(_nonce >> 8), 1 << uint256(bit)
        ) {}
            catch {}
        _book();
    }

    function settle(uint256 who, bool forKeeper, bool held, bool byHotKey, uint128 amount) external {
        Order memory order = _orderOf(who, forKeeper);
        if (held && _held.length != 0) order = _held[who % _held.length];
        Settlement memory s = _settlement(node, order, uint128(bound(amount, 0, order.maxAmount + 1)));
        s.orderSignature = _sign(_keyOf(order.payer), s.receipt.paymentId);
        _past.push(s);
        _try(s, byHotKey);
    }

    /// @dev Settles again what was tried before, as it was or with another order for the same answer.
    function replay(uint256 which, bool otherOrder, bool byHotKey) external {
        if (_past.length == 0) return;
        Settlement memory s = _past[which % _past.length];
        if (otherOrder) {
            s.order.nonce = _nonce++;
            s.receipt.paymentId = escrow.orderId(s.order);
            s.orderSignature = _sign(_keyOf(s.order.payer), s.receipt.paymentId);
            _signMeter(node, s);
        }
        _try(s, byHotKey);
    }

    /// @dev Rows of all payers; every bit of `poison` spoils one in its own way.
    function batch(uint8 size, uint256 poison, uint256 kinds) external {
        uint256 count = bound(size, 1, 8);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](count);
        uint256 good;
        uint128[PAYERS] memory left;
        for (uint256 i; i < PAYERS; ++i) {
            left[i] = escrow.lockOf(vm.addr(key(i)), address(token), keeperId).amount + _free(vm.addr(key(i)));
        }
        for (uint256 i; i < count; ++i) {
            uint256 who = (kinds >> (2 * i)) % PAYERS;
            Order memory order = _orderOf(who, true);
            rows[i] = _row(key(who), order, 500, 0);
            if ((poison >> i) & 1 == 0) {
                // A payer without a running lock may have cancelled the nonce, or spent its money.
                if (escrow.nonceSpent(order.payer, address(token), keeperId, order.nonce)) continue;
                if (left[who] < 500) continue;
                left[who] -= 500;
                ++good;
                continue;
            }
            uint256 kind = (kinds >> (16 + 3 * i)) % 7;
            if (kind == 0) rows[i].vs ^= bytes32(uint256(2));
            else if (kind == 1) rows[i].amount = 0;
            else if (kind == 2) rows[i].amount = rows[i].maxAmount + 1;
            else if (kind == 3) rows[i].node = 7;
            else if (kind == 4) rows[i].node = 1;
            else if (kind == 5) rows[i].nodeScope = declared.id;
            else rows[i].captureDeadline = 1;
        }
        vm.recordLogs();
        vm.prank(hotKey, hotKey);
        uint64 id = ledger.settleBatch(keeperId, address(token), _refs(node, declared), rows, 0, "");
        uint256 opened = _batchesOpen.length;
        _book();
        if (id != 0) ++batchesPosted;
        if ((id == 0 ? 0 : abi.decode(_batchesOpen[opened], (BatchRecord)).rows) != good) rowMismatch = true;
    }

    function finalize(uint256 which, bool early) external {
        if (_batchesOpen.length == 0) return;
        which %= _batchesOpen.length;
        BatchRecord memory record = abi.decode(_batchesOpen[which], (BatchRecord));
        if (!early && block.timestamp < record.settledAt + WINDOW) vm.warp(record.settledAt + WINDOW);
        vm.recordLogs();
        try ledger.finalize(record) {
            openTotal -= record.total;
            _batchesOpen[which] = _batchesOpen[_batchesOpen.length - 1];
            _batchesOpen.pop();
        } catch {}
        _book();
    }

    function setFee(uint16 bps) external {
        vm.recordLogs();
        vm.prank(address(this));
        ledger.setFee(uint16(bound(bps, 0, 100)), treasury);
        _book();
    }

    function pass(uint32 time) external {
        skip(bound(time, 0, 2 days));
    }

    /// @dev Everything comes back to the payers with nobody's help.
    function exitAll() external {
        skip(30 days);
        for (uint256 i; i < _held.length; ++i) {
            if (escrow.orderState(escrow.orderId(_held[i])).status == IInferenceEscrow.OrderStatus.Held) {
                escrow.reclaim(_held[i]);
            }
        }
        for (uint256 i; i < PAYERS; ++i) {
            address owner = vm.addr(key(i));
            if (escrow.lockOf(owner, address(token), keeperId).amount != 0) {
                escrow.unlock(owner, address(token), keeperId);
            }
            uint128 free = _free(owner);
            if (free == 0) continue;
            uint256 before = token.balanceOf(owner);
            vm.prank(owner);
            escrow.withdraw(address(token), owner, free);
            require(token.balanceOf(owner) - before == free, "exit");
            IInferenceEscrow.Account memory left = escrow.account(owner, address(token));
            require(left.free == 0 && left.held == 0, "nothing stays");
        }
    }

    // ── Looks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Σ free + held + locked over everybody there is.
    function accounts() external view returns (uint256 sum) {
        for (uint256 i; i < PAYERS; ++i) {
            IInferenceEscrow.Account memory a = escrow.account(vm.addr(key(i)), address(token));
            sum += a.free + a.held + escrow.lockOf(vm.addr(key(i)), address(token), keeperId).amount;
        }
        sum += _free(node.payout) + _free(declared.payout) + _free(treasury);
    }

    function contracts() external view returns (address, address, address) {
        return (address(ledger), address(escrow), address(token));
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _orderOf(uint256 who, bool forKeeper) private returns (Order memory order) {
        order = _order(forKeeper ? keeperId : bytes32(0), _nonce++);
        order.payer = vm.addr(key(who));
    }

    function _keyOf(address owner) private view returns (uint256) {
        for (uint256 i; i < PAYERS; ++i) {
            if (vm.addr(key(i)) == owner) return key(i);
        }
        return 1;
    }

    function _try(Settlement memory s, bool byHotKey) private {
        vm.recordLogs();
        vm.prank(byHotKey ? hotKey : stranger);
        try ledger.settleVerified(
            s.order, s.orderSignature, s.receipt, s.inferenceSignature, s.meterSignature
        ) returns (
            bytes32 id
        ) {
            ++verifiedCount;
            if (++_payments[id] > 1) paidTwice = true;
        } catch {}
        _book();
    }

    /// @dev Reads the events of the last action as an indexer would.
    function _book() private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            Vm.Log memory log = logs[i];
            if (log.emitter == address(ledger)) _bookLedger(log);
            else if (log.emitter == address(escrow)) _bookEscrow(log);
        }
    }

    function _bookEscrow(Vm.Log memory log) private {
        if (_word(log.data, 0) != ++escrowSeq) gap = true;
        if (log.topics[0] == IInferenceEscrow.OrderCaptured.selector) {
            capturedTotal += _word(log.data, 3) + _word(log.data, 4) + _word(log.data, 5);
        } else if (log.topics[0] == IInferenceEscrow.Credited.selector) {
            creditedTotal += _word(log.data, 1);
        }
    }

    function _bookLedger(Vm.Log memory log) private {
        if (_word(log.data, 0) != ++ledgerSeq) gap = true;
        if (log.topics[0] == ISettlementLedger.BatchSettled.selector) {
            (,, BatchRecord memory record,) = abi.decode(log.data, (uint64, uint64, BatchRecord, bytes));
            _batchesOpen.push(abi.encode(record));
            openTotal += record.total;
            _fold(log, 1, abi.encode(record.batchId, keccak256(abi.encode(record))));
        } else if (log.topics[0] == ISettlementLedger.Verified.selector) {
            _fold(log, 2, abi.encode(log.topics[1], bytes32(_word(log.data, 2))));
        } else if (log.topics[0] == ISettlementLedger.Finalized.selector) {
            _fold(log, 5, abi.encode(log.topics[1]));
        }
    }

    function _fold(Vm.Log memory log, uint256 kind, bytes memory payload) private {
        if (_word(log.data, 1) != ++effects) gap = true;
        fold = keccak256(
            abi.encode(
                keccak256("Quittance ledger effect"),
                block.chainid,
                address(ledger),
                fold,
                effects,
                kind,
                keccak256(payload)
            )
        );
    }

    function _word(bytes memory data, uint256 index) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), mul(index, 32)))
        }
    }
}
