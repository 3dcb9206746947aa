// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IDisputeGame} from "../../contracts/interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {Leaf} from "../../contracts/libraries/Batches.sol";
import {Lock, Order} from "../../contracts/libraries/Orders.sol";
import {Access} from "../../script/Access.sol";
import {DisputeGameBase} from "../DisputeGameBase.sol";
import {HostileVerifier} from "../mocks/HostileVerifier.sol";

/// @notice Everybody at once, in any order. Honest: three payers, the node `node` and its operator, the keeper of `hotKey`, somebody who
///         watches batches. Not honest: the node `declared`, the other keeper, a challenger who wants to annoy, a mirror quorum that sells
///         out, a guardian who revokes and pauses when it hurts, an admin who does at once what moves no money and, after its delay, forges.
/// @dev The honest do what the README tells them: the keeper answers orders that nobody held only within the payer's lock, and settles
///      before its tail; receipts are kept and challenges answered; unproven rows are challenged and resolved; payers who see the admin
///      schedule something hostile sign nothing more.
contract ProtocolHandler is DisputeGameBase {
    struct Deal {
        Order order;
        bytes32 id;
        uint256 who;
        bool honestNode;
        bool held;
        /// What the node metered; 0 without an answer.
        uint128 metered;
        /// Row of a batch that captured it, with a receipt that speaks for the row.
        bool recorded;
        /// Captured by a row that nobody can prove.
        bool stolen;
        /// What its payer owes in the end.
        uint128 charged;
        /// ABI-encoded `Settlement`.
        bytes evidence;
    }

    uint256 internal constant PAYERS = 3;
    uint256 private constant STEP = 12 hours;
    uint256 private constant ADMIN_DELAY = 7 days;

    address public thief;
    uint256 private constant THIEF = 666;
    address internal watcher = makeAddr("watcher");
    address internal secondPayout = makeAddr("second payout");
    address internal evilKey = makeAddr("other hot key");
    address internal guardian = makeAddr("guardian");

    Deal[] private _deals;
    /// @dev ABI-encoded `Posted`, the deal of each row, and whether a receipt speaks for it.
    bytes[] private _batches;
    uint256[][] private _dealsOf;
    bool[][] private _real;
    uint256 private _nonce = 1;
    uint256 private _lockNonce = 1;
    uint256[PAYERS] public deposited;
    uint256[PAYERS] public withdrawn;
    /// @dev When the admin showed what it will do; 0 before.
    uint256 private _shownAt;
    bool private _forged;
    bool private _taken;

    /// What recorded rows and verified settlements owe to the honest node's own accounts, fees taken off.
    uint256 public nodeEarned;

    // What must never happen.
    bool public unprovenPaid;
    bool public realRefused;
    bool public overcharged;
    bool public forgeryPaid;

    // What did.
    uint256 public answersGiven;
    uint256 public rowsRecorded;
    uint256 public rowsStolen;
    uint256 public verified;
    uint256 public challenges;
    uint256 public answered;
    uint256 public voids;
    uint256 public finals;
    uint256 public nodeBore;
    uint256 public forgeries;
    uint256 public takeovers;

    function setUp() public override {
        super.setUp();
        thief = vm.addr(THIEF);
        manager.grantRole(1, guardian, 0);
        manager.setTargetFunctionRole(address(escrow), Access.selectorsOf("InferenceEscrow", "guardian"), 1);
        manager.setTargetFunctionRole(address(nodes), Access.selectorsOf("NodeRegistry", "guardian"), 1);
        // The base has locked money of the first payer for the honest keeper.
        deposited[0] = 1_000_000_000;
        for (uint256 i = 1; i < PAYERS; ++i) {
            _fund(owner(i), 50_000);
            deposited[i] = 50_000;
        }
        vm.deal(watcher, 100 ether);
    }

    // ── Payers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    function key(uint256 who) public view returns (uint256) {
        return who == 0 ? payerKey : 7000 + who;
    }

    function owner(uint256 who) public view returns (address) {
        return vm.addr(key(who));
    }

    function deposit(uint256 who, uint128 amount) external {
        if (_paused()) return;
        who %= PAYERS;
        amount = uint128(bound(amount, 1, 10_000));
        _fund(owner(who), amount);
        deposited[who] += amount;
    }

    function withdraw(uint256 who, uint128 amount) external {
        who %= PAYERS;
        if (_free(owner(who)) != 0) _withdraw(who, uint128(bound(amount, 1, _free(owner(who)))));
    }

    function lock(uint256 who, uint128 amount) external {
        who %= PAYERS;
        uint128 free = _free(owner(who));
        if (_paused() || _shownAt != 0 || free == 0) return;
        amount = uint128(bound(amount, 1, free));
        Lock memory lock_ =
            Lock(owner(who), address(token), keeperId, amount, uint40(_now()) + escrow.MAX_LOCK(), _lockNonce++);
        escrow.lock(lock_, _sign(key(who), escrow.lockDigest(lock_)));
    }

    function unlock(uint256 who) external {
        try escrow.unlock(owner(who % PAYERS), address(token), keeperId) {} catch {}
    }

    /// @dev `how`: the node, the keeper (honest, other, none), held or signed.
    function order(uint256 who, uint256 how, uint128 max) external {
        if (_shownAt != 0) return;
        Deal memory deal;
        deal.who = who % PAYERS;
        deal.honestNode = how % 4 != 0;
        deal.held = (how >> 8) % 2 == 0;
        uint256 keeper = (how >> 16) % 4;
        if (nodes.node(_keysOf(deal.honestNode).id).revokedAt != 0 || (deal.honestNode && _taken)) return;
        deal.order = _order(keeper < 2 ? keeperId : keeper == 2 ? otherKeeperId : bytes32(0), _nonce++);
        deal.order.payer = owner(deal.who);
        deal.order.maxAmount = uint128(bound(max, 1, 1000));
        deal.order.nodeScope = _keysOf(deal.honestNode).id;
        uint256 term = bound(how >> 24, 1 hours, escrow.MAX_ORDER_LIFE());
        deal.order.captureDeadline = uint40(_now() + term);
        deal.id = escrow.orderId(deal.order);
        if (deal.held) {
            if (_free(deal.order.payer) < deal.order.maxAmount) return;
            escrow.hold(deal.order, _sign(key(deal.who), deal.id));
        } else if (keeper < 2 && !_isSecured(deal)) {
            return;
        }
        _deals.push(deal);
    }

    function reclaim(uint256 which) external {
        if (_deals.length != 0) try escrow.reclaim(_deals[which % _deals.length].order) {} catch {}
    }

    // ── Nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function answer(uint256 which, uint128 amount) external {
        if (_deals.length == 0) return;
        Deal storage deal = _deals[which % _deals.length];
        if (deal.metered != 0 || _now() > deal.order.validBefore || (deal.honestNode && _taken)) return;
        if (nodes.node(_keysOf(deal.honestNode).id).revokedAt != 0) return;
        deal.metered = uint128(bound(amount, 1, deal.order.maxAmount));
        _meter(deal);
        ++answersGiven;
    }

    /// @dev Anybody settles an answer, where its order still can be captured.
    function settle(uint256 which, bool byKeeper) external {
        if (_deals.length == 0) return;
        Deal storage deal = _deals[which % _deals.length];
        // The keeper's own settlements would draw on what its other orders count on.
        if (deal.metered != 0) _trySettle(deal, byKeeper && deal.held ? hotKey : stranger);
    }

    function rotateMeterKey(uint256 seed) external {
        if (_taken || nodes.node(node.id).revokedAt != 0 || !nodes.isVerifier(address(p256))) return;
        node.meterSecret = 1 + seed % 1000;
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, vm.addr(node.meterSecret));
        ++node.version;
    }

    function changePayout(bool second) external {
        if (_taken) return;
        vm.prank(node.operator);
        nodes.setPayout(node.id, second ? secondPayout : node.payout);
    }

    // ── Keepers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev The honest keeper settles what it was answered. Every row must be captured.
    function honestBatch(uint256 seed) external {
        (uint256[] memory picked, uint256 count) = _pick(keeperId, 1 + seed % 6);
        if (count == 0) return;
        bool[] memory real = new bool[](count);
        uint128[] memory amounts = new uint128[](count);
        for (uint256 i; i < count; ++i) {
            Deal storage deal = _deals[picked[i]];
            // Under the node's keys of today.
            _meter(deal);
            (real[i], amounts[i]) = (true, deal.metered);
        }
        _postDeals(hotKey, keeperId, picked, amounts, real);
    }

    /// @dev The other keeper: real rows, made up ones, and rows for less than the node metered.
    function evilBatch(uint256 seed) external {
        if (keepers.batchesLeft(otherKeeperId) == 0) return;
        (uint256[] memory picked, uint256 count) = _pick(otherKeeperId, 1 + seed % 4);
        if (count == 0) return;
        bool[] memory real = new bool[](count);
        uint128[] memory amounts = new uint128[](count);
        for (uint256 i; i < count; ++i) {
            Deal storage deal = _deals[picked[i]];
            uint256 how = (seed >> (8 + 8 * i)) % 3;
            real[i] = how == 0 && deal.metered != 0;
            if (real[i]) _meter(deal);
            amounts[i] = real[i] ? deal.metered : how == 1 ? deal.order.maxAmount : 1;
        }
        _postDeals(evilKey, otherKeeperId, picked, amounts, real);
    }

    function tendBond(uint256 seed) external {
        if (keepers.bondOf(otherKeeperId).suspended) try keepers.reinstate(otherKeeperId) {} catch {}
        if (keepers.bondOf(otherKeeperId).amount < 3 * SLASH) {
            _bond(otherKeeperId, uint128(bound(seed, 1, 3 * SLASH)));
        }
    }

    // ── Disputes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev By somebody who wants to annoy, at any row.
    function annoy(uint256 which, uint256 row) external {
        if (_batches.length == 0) return;
        which %= _batches.length;
        Posted memory p = _postedAt(which);
        row %= p.leaves.length;
        if (_statusOf(p, row) != IDisputeGame.RowStatus.None || _now() >= p.record.settledAt + WINDOW) return;
        _challengeAs(challenger, p, row);
        ++challenges;
    }

    function finalize(uint256 which) external {
        if (_batches.length != 0) _finalize(which % _batches.length);
    }

    // ── Roles ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function guard(uint256 seed) external {
        vm.startPrank(guardian);
        if (seed % 8 == 0) {
            try nodes.revoke(seed % 16 == 0 ? node.id : declared.id) {} catch {}
        } else if (seed % 8 == 1) {
            try escrow.pause(uint40(_now()) + escrow.MAX_PAUSE()) {} catch {}
        }
        vm.stopPrank();
    }

    /// @dev What moves no money, at once.
    function administrate(uint256 seed) external {
        // Refused while the ledger is closed to its admin, which is the admin's own doing.
        if (seed % 5 == 0) {
            try ledger.setFee(uint16(seed % 101), seed % 2 == 0 ? treasury : thief) {} catch {}
        } else if (seed % 5 == 1) {
            nodes.setVerifier(address(p256), seed % 2 == 0);
        } else if (seed % 5 == 2) {
            manager.setTargetClosed(address(ledger), seed % 2 == 0);
        } else if (seed % 5 == 3) {
            nodes.setMirrorVerifier(address(0));
        }
    }

    /// @dev A verifier that says yes to everything, first announced, and in force after the delay.
    function forge(uint256 seed) external {
        if (_shownAt == 0) {
            if (seed % 4 == 0) _shownAt = _now();
        } else if (!_forged && _now() >= _shownAt + ADMIN_DELAY) {
            _forged = true;
            nodes.setVerifier(address(new HostileVerifier()), true);
        }
    }

    /// @dev Two of three mirrors say that the thief owns the node.
    function sellOut(uint256 seed) external {
        if (seed % 8 != 0 || _taken || nodes.node(node.id).revokedAt != 0) return;
        if (!nodes.isVerifier(address(p256))) nodes.setVerifier(address(p256), true);
        nodes.setMirrorVerifier(address(p256));
        _report(INodeRegistry.Mirror(_p256Key(node.secret), thief, thief, true, uint40(_now()) + 1));
        _taken = true;
        ++takeovers;
    }

    /// @dev The thief meters what the node answered as high as the order allows.
    function overmeter(uint256 which) external {
        if (!_taken || _deals.length == 0) return;
        Deal storage deal = _deals[which % _deals.length];
        if (!deal.honestNode || deal.metered == 0) return;
        Settlement memory s = abi.decode(deal.evidence, (Settlement));
        NodeKeys memory stolen = _stolenKeys();
        (s.receipt.amount, s.receipt.nodeVersion) = (deal.order.maxAmount, stolen.version);
        _signMeter(stolen, s);
        _try(deal, s, stranger);
    }

    function pass(uint256 seconds_) external {
        passTo(_now() + bound(seconds_, 0, 36 hours));
    }

    // ── The end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Everybody leaves: with nobody's help, and with exactly its own.
    function leave() external {
        passTo(_now() + 8 days);
        for (uint256 i; i < _batches.length; ++i) {
            _finalize(i);
        }
        for (uint256 i; i < _deals.length; ++i) {
            IInferenceEscrow.OrderStatus status = escrow.orderState(_deals[i].id).status;
            bool open = status == IInferenceEscrow.OrderStatus.Held || status == IInferenceEscrow.OrderStatus.Reopened;
            if (open) escrow.reclaim(_deals[i].order);
        }
        for (uint256 i; i < PAYERS; ++i) {
            if (escrow.lockOf(owner(i), address(token), keeperId).amount != 0) {
                escrow.unlock(owner(i), address(token), keeperId);
            }
            if (_free(owner(i)) != 0) _withdraw(i, _free(owner(i)));
            require(escrow.account(owner(i), address(token)).held == 0, "something is still held");
            require(withdrawn[i] == deposited[i] - chargedOf(i), "a payer lost more than proven answers cost");
        }
        require(escrow.captured(address(token)) == 0, "captured and paid to nobody");
        require(_free(node.payout) + _free(secondPayout) == nodeEarned, "the node did not get what it earned");
        checkStakes();
    }

    /// @dev What the payer owes for answers that were proven.
    function chargedOf(uint256 who) public view returns (uint256 sum) {
        for (uint256 i; i < _deals.length; ++i) {
            if (_deals[i].who == who) sum += _deals[i].charged;
        }
    }

    /// @dev Bond of the honest keeper, ETH of who watches, and all tokens.
    function checkStakes() public view {
        require(keepers.bondOf(keeperId).amount == 1000 * SLASH, "the honest keeper's bond is not whole");
        require(!keepers.bondOf(keeperId).suspended, "the honest keeper is suspended");
        uint256 staked;
        for (uint256 i; i < _batches.length; ++i) {
            Posted memory p = _postedAt(i);
            for (uint256 j; j < p.leaves.length; ++j) {
                IDisputeGame.Row memory row = game.rowOf(p.record.batchId, p.leaves[j]);
                bool locked = row.status == IDisputeGame.RowStatus.Locked;
                if (locked && row.challenger == watcher) staked += uint256(row.bond) * 1 gwei;
            }
        }
        require(watcher.balance + game.withdrawable(watcher) + staked == 100 ether, "the watcher lost ETH");
        uint256 inside = escrow.captured(address(token));
        address[6] memory earners = [node.payout, secondPayout, declared.payout, treasury, thief, stranger];
        for (uint256 i; i < earners.length; ++i) {
            inside += _free(earners[i]);
        }
        for (uint256 i; i < PAYERS; ++i) {
            IInferenceEscrow.Account memory account = escrow.account(owner(i), address(token));
            inside += account.free + account.held + escrow.lockOf(owner(i), address(token), keeperId).amount;
        }
        require(inside == token.balanceOf(address(escrow)), "not every unit is somebody's");
        require(_free(node.payout) + _free(secondPayout) <= nodeEarned, "the node got more than it earned");
    }

    // ── Time ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Time goes on in steps, and the honest do their work in each.
    function passTo(uint256 until) public {
        do {
            uint256 next = _now() + STEP < until ? _now() + STEP : until;
            for (uint256 i; i < _batches.length; ++i) {
                _tend(i, next);
            }
            if (next > _now()) vm.warp(next);
        } while (_now() < until);
    }

    /// @dev Challenges what nobody can prove before its window ends, answers what somebody can before its time is over, and resolves.
    function _tend(uint256 batch, uint256 next) private {
        (ISettlementLedger.BatchStatus status, uint256 excluded,,) = ledger.batchState(uint64(batch + 1));
        if (status == ISettlementLedger.BatchStatus.Final && excluded == 0) return;
        Posted memory p = _postedAt(batch);
        for (uint256 j; j < p.leaves.length; ++j) {
            IDisputeGame.Row memory row = game.rowOf(p.record.batchId, p.leaves[j]);
            bool real = _real[batch][j];
            if (row.status == IDisputeGame.RowStatus.None && !real) {
                uint256 end = p.record.settledAt + WINDOW;
                if (_now() < end && next >= end) {
                    _challengeAs(watcher, p, j);
                    ++challenges;
                }
            } else if (row.status == IDisputeGame.RowStatus.Locked && real) {
                if (row.deadline < next) _answer(p, j);
            } else if (row.status == IDisputeGame.RowStatus.Locked && _now() > row.deadline) {
                _resolve(p, j);
                ++voids;
                _recover(_deals[_dealsOf[batch][j]]);
            }
        }
    }

    function _answer(Posted memory p, uint256 row) private {
        vm.prank(stranger);
        try game.answer(p.record, p.leaves[row], p.evidence[row].order, _evidence(p, row)) {
            ++answered;
        } catch {
            realRefused = true;
        }
    }

    /// @dev The node whose answer a void row was not batched for settles it by itself, while the payer has the money.
    function _recover(Deal storage deal) private {
        deal.stolen = false;
        if (deal.metered == 0 || deal.charged != 0) return;
        if (!_trySettle(deal, stranger) && deal.honestNode) ++nodeBore;
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Answers of this keeper that can be captured now; for the other keeper, orders without an answer too.
    function _pick(bytes32 keeper, uint256 most) private view returns (uint256[] memory picked, uint256 count) {
        picked = new uint256[](most);
        uint256[PAYERS] memory left;
        for (uint256 i; i < PAYERS; ++i) {
            left[i] = _free(owner(i));
        }
        for (uint256 i; i < _deals.length && count < most; ++i) {
            Deal storage deal = _deals[i];
            if (deal.order.keeperId != keeper || deal.recorded || deal.stolen || deal.charged != 0) continue;
            if (_now() > deal.order.captureDeadline || (deal.honestNode && _taken)) continue;
            if (keeper == keeperId && deal.metered == 0) continue;
            if (nodes.node(_keysOf(deal.honestNode).id).revokedAt != 0) continue;
            IInferenceEscrow.OrderStatus status = escrow.orderState(deal.id).status;
            if (status != (deal.held ? IInferenceEscrow.OrderStatus.Held : IInferenceEscrow.OrderStatus.None)) {
                continue;
            }
            if (!deal.held && keeper == otherKeeperId) {
                if (left[deal.who] < deal.order.maxAmount) continue;
                if (escrow.nonceSpent(deal.order.payer, address(token), keeper, deal.order.nonce)) continue;
                left[deal.who] -= deal.order.maxAmount;
            }
            picked[count++] = i;
        }
        assembly ("memory-safe") {
            mstore(picked, count)
        }
    }

    function _postDeals(
        address sender,
        bytes32 keeper,
        uint256[] memory picked,
        uint128[] memory amounts,
        bool[] memory real
    ) private {
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](picked.length);
        Settlement[] memory evidence = new Settlement[](picked.length);
        for (uint256 i; i < picked.length; ++i) {
            Deal storage deal = _deals[picked[i]];
            if (deal.evidence.length != 0) evidence[i] = abi.decode(deal.evidence, (Settlement));
            evidence[i].order = deal.order;
            rows[i] = _row(key(deal.who), deal.order, amounts[i], deal.honestNode ? 0 : 1);
            if (real[i]) rows[i].receiptHash = keccak256(abi.encode(evidence[i].receipt));
        }
        Posted memory p = _postAs(sender, keeper, rows, evidence);
        for (uint256 i; i < picked.length; ++i) {
            _recordRow(_deals[picked[i]], amounts[i], real[i], p.record.feeBps);
        }
        _batches.push(abi.encode(p));
        _dealsOf.push(picked);
        _real.push(real);
    }

    function _recordRow(Deal storage deal, uint128 amount, bool real, uint16 bps) private {
        if (real) {
            (deal.recorded, deal.charged) = (true, amount);
            ++rowsRecorded;
            if (deal.honestNode) nodeEarned += amount - uint256(amount) * bps / 10_000;
        } else {
            deal.stolen = true;
            ++rowsStolen;
        }
    }

    function _finalize(uint256 batch) private {
        Posted memory p = _postedAt(batch);
        if (ledger.batchStatus(p.record.batchId) != ISettlementLedger.BatchStatus.Open) return;
        if (_now() < p.record.settledAt + WINDOW) return;
        Leaf[] memory excluded = new Leaf[](p.leaves.length);
        uint256 count;
        for (uint256 j; j < p.leaves.length; ++j) {
            IDisputeGame.RowStatus status = _statusOf(p, j);
            bool out = status == IDisputeGame.RowStatus.Locked || status == IDisputeGame.RowStatus.Void;
            if (out) excluded[count++] = p.leaves[j];
            else if (!_real[batch][j]) unprovenPaid = true;
        }
        assembly ("memory-safe") {
            mstore(excluded, count)
        }
        if (count == 0) ledger.finalize(p.record);
        else game.finalize(p.record, excluded);
        ++finals;
    }

    /// @dev Evidence under the node's keys of today.
    function _meter(Deal storage deal) private {
        Settlement memory s = _settlement(_keysOf(deal.honestNode), deal.order, deal.metered);
        s.orderSignature = _sign(key(deal.who), deal.id);
        deal.evidence = abi.encode(s);
    }

    function _trySettle(Deal storage deal, address by) private returns (bool) {
        return _try(deal, abi.decode(deal.evidence, (Settlement)), by);
    }

    function _try(Deal storage deal, Settlement memory s, address by) private returns (bool success) {
        address payout = nodes.node(s.receipt.nodeId).payout;
        vm.prank(by);
        try ledger.settleVerified(s.order, s.orderSignature, s.receipt, s.inferenceSignature, s.meterSignature) {
            success = true;
            ++verified;
            if (deal.charged != 0 || s.receipt.amount > deal.order.maxAmount) overcharged = true;
            deal.charged = s.receipt.amount;
            uint256 fee = uint256(s.receipt.amount) * ledger.feeBps() / 10_000;
            if (payout == node.payout || payout == secondPayout) nodeEarned += s.receipt.amount - fee;
        } catch {}
    }

    /// @dev With the verifier in force that says yes to everything: every order there ever was, for all that it allows.
    function tryForgeries() external {
        if (!_forged || nodes.node(node.id).revokedAt != 0) return;
        for (uint256 i; i < _deals.length; ++i) {
            Deal storage deal = _deals[i];
            if (!deal.honestNode) continue;
            NodeKeys memory keys = _takeWithOpenVerifier();
            Settlement memory s = _settlement(keys, deal.order, deal.order.maxAmount);
            s.receipt.outputHash = keccak256(abi.encode("forged", i));
            s.orderSignature = _sign(key(deal.who), deal.id);
            _signMeter(keys, s);
            ++forgeries;
            if (_try(deal, s, stranger)) forgeryPaid = true;
        }
    }

    /// @dev Mirrors the node once more, for the thief and under the open verifier.
    function _takeWithOpenVerifier() private returns (NodeKeys memory) {
        if (nodes.mirrorVerifier().code.length == 0 || nodes.mirrorVerifier() == address(p256)) {
            HostileVerifier open = new HostileVerifier();
            nodes.setVerifier(address(open), true);
            nodes.setMirrorVerifier(address(open));
            uint40 observedAt = nodes.node(node.id).observedAt + 1;
            _report(INodeRegistry.Mirror(_p256Key(node.secret), thief, thief, true, observedAt));
            _taken = true;
        }
        return _stolenKeys();
    }

    function _report(INodeRegistry.Mirror memory report) private {
        bytes[] memory signatures = new bytes[](2);
        (uint256 low, uint256 high) = vm.addr(11) < vm.addr(12) ? (11, 12) : (12, 11);
        signatures[0] = _sign(low, nodes.mirrorDigest(report));
        signatures[1] = _sign(high, nodes.mirrorDigest(report));
        nodes.mirror(report, signatures);
        vm.startPrank(thief);
        nodes.claimOperator(node.id, thief, "");
        nodes.setMeterKey(node.id, thief);
        vm.stopPrank();
    }

    function _stolenKeys() private view returns (NodeKeys memory keys) {
        keys = node;
        (keys.meterSecret, keys.operator, keys.payout) = (THIEF, thief, thief);
        keys.version = nodes.node(node.id).version;
    }

    /// @dev The keeper's rule: what it answers unheld fits into the lock, until a day before it ends.
    function _isSecured(Deal memory deal) private view returns (bool) {
        IInferenceEscrow.LockState memory state = escrow.lockOf(deal.order.payer, address(token), keeperId);
        if (uint256(deal.order.captureDeadline) + escrow.LOCK_TAIL() >= state.until) return false;
        uint256 promised = deal.order.maxAmount;
        for (uint256 i; i < _deals.length; ++i) {
            Deal storage other = _deals[i];
            if (other.who != deal.who || other.held || other.order.keeperId != keeperId) continue;
            if (!other.recorded && _now() <= other.order.captureDeadline) promised += other.order.maxAmount;
        }
        return promised <= state.amount;
    }

    function _withdraw(uint256 who, uint128 amount) private {
        vm.prank(owner(who));
        escrow.withdraw(address(token), owner(who), amount);
        withdrawn[who] += amount;
    }

    function _keysOf(bool honestNode) private view returns (NodeKeys memory) {
        return honestNode ? node : declared;
    }

    function _paused() private view returns (bool) {
        return _now() < escrow.pausedUntil();
    }

    function _now() private view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function _postedAt(uint256 batch) private view returns (Posted memory) {
        return abi.decode(_batches[batch], (Posted));
    }

    function _statusOf(Posted memory p, uint256 row) private view returns (IDisputeGame.RowStatus) {
        return game.rowOf(p.record.batchId, p.leaves[row]).status;
    }
}
