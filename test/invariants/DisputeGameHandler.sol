// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IDisputeGame} from "../../contracts/interfaces/IDisputeGame.sol";
import {IKeeperRegistry} from "../../contracts/interfaces/IKeeperRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {Leaf} from "../../contracts/libraries/Batches.sol";
import {ReceiptEvidence} from "../../contracts/libraries/Evidence.sol";
import {DisputeGameBase} from "../DisputeGameBase.sol";

/// @notice An honest keeper and an honest node that keep their receipts, among everybody else: a keeper that makes rows up, a node that
///         sells its answers twice, challengers, answerers with garbage, payers, operators who rotate keys, a guardian who revokes.
/// @dev `node` is the honest node, `declared` the dishonest one, the keeper of `hotKey` the honest keeper, that of `evilKey` the other.
contract DisputeGameHandler is DisputeGameBase {
    /// @dev A row as its poster knows it.
    enum Kind {
        /// Its receipt is real.
        Real,
        /// The keeper made the receipt up.
        MadeUp,
        /// Real, and its answer was sold before.
        Twice
    }

    address internal evilKey = makeAddr("other hot key");
    uint256 private _nonce = 1;
    uint256 private _deposited;

    /// @dev ABI-encoded `Posted`.
    bytes[] private _batches;
    Kind[][] private _kinds;
    /// @dev ABI-encoded `Settlement` of an answer of the dishonest node.
    bytes private _sold;

    // What is asserted.
    /// Of the rows that were posted for each node: what it must have in the end, or may have at most.
    uint256 public realByHonestKeeper;
    uint256 public challenges;
    uint256 public answers;
    uint256 public voids;
    uint256 public duplicates;
    uint256 public finals;
    uint256 public verified;
    bool public garbageAccepted;
    bool public unprovenPaid;
    bool public honestLost;
    uint256 public bondsIn;
    uint256 public bondsOut;

    function setUp() public override {
        super.setUp();
        _deposited = token.balanceOf(address(escrow));
    }

    // ── Actions ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev The honest keeper posts what it holds receipts of.
    function honestBatch(uint256 count, uint128 amount) external {
        if (nodes.node(node.id).revokedAt != 0) return;
        count = 1 + count % 4;
        amount = uint128(bound(amount, 1, 1000));
        Posted memory p = _post(count, _nonce, amount);
        _nonce += count;
        _keep(p, new Kind[](count));
        realByHonestKeeper += count * amount;
    }

    /// @dev The other keeper posts rows of both nodes, some of them made up or sold twice.
    function evilBatch(uint256 seed, uint128 amount) external {
        if (keepers.batchesLeft(otherKeeperId) == 0) return;
        if (nodes.node(declared.id).revokedAt != 0 || nodes.node(node.id).revokedAt != 0) return;
        uint256 count = 1 + seed % 4;
        amount = uint128(bound(amount, 1, 1000));
        Settlement[] memory evidence = new Settlement[](count);
        Kind[] memory kinds = new Kind[](count);
        for (uint256 i; i < count; ++i) {
            uint256 how = (seed >> (8 + 8 * i)) % 4;
            (evidence[i], kinds[i]) = how == 0
                ? (_settlement(node, _order(otherKeeperId, _nonce + i), amount), Kind.Real)
                : _evilRow(how, _nonce + i, amount);
        }
        _nonce += count;
        _fundLane();
        Posted memory p = _postAs(evilKey, otherKeeperId, _rowsOf(evidence), evidence);
        _keep(p, kinds);
    }

    function challenge(uint256 which, uint256 row, bool late, uint256 extra) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found || _statusOf(p, index) != IDisputeGame.RowStatus.None) return;
        if (late && vm.getBlockTimestamp() < p.record.settledAt + WINDOW) {
            _passTo(p.record.settledAt + WINDOW - 1);
        }
        uint256 bond = game.challengeBond() + extra % 5 * 1 gwei;
        vm.deal(challenger, bond);
        bytes32[] memory proof = _proof(p, index);
        vm.prank(challenger);
        try game.challenge{value: bond}(p.record, p.leaves[index], proof, 0) {
            ++challenges;
            bondsIn += bond;
        } catch {}
    }

    /// @dev Anybody answers with what it has: real receipts stand, others must not.
    function answer(uint256 which, uint256 row) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found || _statusOf(p, index) != IDisputeGame.RowStatus.Locked) return;
        _tryAnswer(which % _batches.length, p, index, stranger);
    }

    /// @dev Some byte of the evidence differs: never accepted.
    function garbage(uint256 which, uint256 row, uint256 seed) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found || _statusOf(p, index) != IDisputeGame.RowStatus.Locked) return;
        ReceiptEvidence memory e = _evidence(p, index);
        uint256 bit = 1 << (seed >> 8) % 8;
        if (seed % 3 == 0) e.inferenceSignature[(seed >> 16) % e.inferenceSignature.length] ^= bytes1(uint8(bit));
        else if (seed % 3 == 1) e.meterSignature[(seed >> 16) % e.meterSignature.length] ^= bytes1(uint8(bit));
        else e.receipt.outputHash ^= bytes32(bit << (seed >> 16) % 249);
        try game.answer(p.record, p.leaves[index], p.evidence[index].order, e) {
            garbageAccepted = true;
        } catch {}
    }

    function resolve(uint256 which, uint256 row, bool wait_) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found || _statusOf(p, index) != IDisputeGame.RowStatus.Locked) return;
        if (wait_) _passTo(game.rowOf(p.record.batchId, p.leaves[index]).deadline + 1);
        // The honest keeper may have answered meanwhile.
        if (_statusOf(p, index) != IDisputeGame.RowStatus.Locked) return;
        try game.resolve(p.record, p.leaves[index], p.evidence[index].order) {
            ++voids;
            if (p.record.keeperId == keeperId) honestLost = true;
        } catch {}
    }

    function duplicate(uint256 which, uint256 row, uint256 otherWhich, uint256 otherRow) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found) return;
        (, Posted memory o, uint256 other) = _pick(otherWhich, otherRow);
        bool locked = _statusOf(o, other) == IDisputeGame.RowStatus.Locked;
        try game.voidDuplicate(_rowProof(p, index), _evidence(p, index), _rowProof(o, other), _evidence(o, other)) {
            ++duplicates;
            if (locked) ++answers;
            if (p.record.keeperId == keeperId) honestLost = true;
        } catch {}
        try game.voidDuplicate(_rowProof(p, index), _evidence(p, index)) {
            ++duplicates;
            if (p.record.keeperId == keeperId) honestLost = true;
        } catch {}
    }

    function finalize(uint256 which, bool wait_) external {
        (bool found, Posted memory p,) = _pick(which, 0);
        if (!found || ledger.batchStatus(p.record.batchId) != ISettlementLedger.BatchStatus.Open) return;
        if (wait_ && vm.getBlockTimestamp() < p.record.settledAt + WINDOW) _passTo(p.record.settledAt + WINDOW);
        Leaf[] memory excluded = _excludedOf(p);
        if (excluded.length == 0) {
            try ledger.finalize(p.record) {
                ++finals;
            } catch {}
        } else {
            try game.finalize(p.record, excluded) {
                ++finals;
            } catch {}
        }
    }

    /// @dev The node, or anybody with the receipt, takes the money of a void row.
    function settleReopened(uint256 which, uint256 row) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found || _statusOf(p, index) != IDisputeGame.RowStatus.Void) return;
        Kind kind = _kinds[which % _batches.length][index];
        Settlement memory s = p.evidence[index];
        try ledger.settleVerified(s.order, s.orderSignature, s.receipt, s.inferenceSignature, s.meterSignature) {
            ++verified;
            if (kind == Kind.MadeUp) unprovenPaid = true;
        } catch {}
    }

    function reclaim(uint256 which, uint256 row) external {
        (bool found, Posted memory p, uint256 index) = _pick(which, row);
        if (!found) return;
        try escrow.reclaim(p.evidence[index].order) {} catch {}
    }

    /// @dev The honest operator rotates its meter key; rows that are posted keep their version.
    function rotate(uint256 seed) external {
        if (nodes.node(node.id).revokedAt != 0) return;
        node.meterSecret = 1 + seed % 1000;
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, vm.addr(node.meterSecret));
        ++node.version;
    }

    /// @dev Seldom, since it is for ever.
    function revoke(uint256 seed) external {
        if (seed % 6 != 0) return;
        bytes32 id = seed % 12 == 0 ? node.id : declared.id;
        if (nodes.node(id).revokedAt == 0) nodes.revoke(id);
    }

    function bondsAndRewards(uint256 seed) external {
        if (seed % 4 == 0) _withdrawBonds(challenger);
        if (seed % 4 == 1) _withdrawBonds(stranger);
        vm.prank(challenger);
        try keepers.withdrawReward(treasury) {} catch {}
        bool unbonding = keepers.bondOf(otherKeeperId).unbonding;
        if (seed % 8 == 2) keepers.setUnbonding(otherKeeperId, !unbonding);
        if (keepers.bondOf(otherKeeperId).suspended) try keepers.reinstate(otherKeeperId) {} catch {}
        if (seed % 16 == 3) try keepers.release(otherKeeperId, treasury) {} catch {}
        if (keepers.bondOf(otherKeeperId).amount < 10 * SLASH) {
            _bond(otherKeeperId, uint128(bound(seed, 1, 20 * SLASH)));
        }
    }

    function pass(uint256 seconds_) external {
        _passTo(vm.getBlockTimestamp() + bound(seconds_, 0, 12 hours));
    }

    // ── For the invariants ───────────────────────────────────────────────────────────────────────────────────────────

    function batchCount() external view returns (uint256) {
        return _batches.length;
    }

    function postedAt(uint256 i) public view returns (Posted memory) {
        return abi.decode(_batches[i], (Posted));
    }

    function kindOf(uint256 batch, uint256 row) external view returns (Kind) {
        return _kinds[batch][row];
    }

    function system()
        external
        view
        returns (
            IDisputeGame game_,
            ISettlementLedger ledger_,
            IKeeperRegistry keepers_,
            address escrow_,
            address token_
        )
    {
        return (game, ledger, keepers, address(escrow), address(token));
    }

    function ids() external view returns (bytes32 honest, bytes32 evil, address bondToken_) {
        return (keeperId, otherKeeperId, address(bondToken));
    }

    function people() external view returns (address[7] memory) {
        return [payer, node.payout, declared.payout, treasury, stranger, challenger, address(this)];
    }

    function honestKey() external view returns (address) {
        return hotKey;
    }

    function deposited() external view returns (uint256) {
        return _deposited;
    }

    function excludedOf(uint256 batch) external view returns (uint256) {
        return _excludedOf(postedAt(batch)).length;
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Time goes on to there, but not past a deadline of the honest keeper: it answers before.
    function _passTo(uint256 until) private {
        for (uint256 i; i < _batches.length; ++i) {
            Posted memory p = postedAt(i);
            if (p.record.keeperId != keeperId) continue;
            for (uint256 j; j < p.leaves.length; ++j) {
                IDisputeGame.Row memory row = game.rowOf(p.record.batchId, p.leaves[j]);
                if (row.status == IDisputeGame.RowStatus.Locked && row.deadline < until) {
                    _tryAnswer(i, p, j, hotKey);
                }
            }
        }
        if (until > vm.getBlockTimestamp()) vm.warp(until);
    }

    function _tryAnswer(uint256 batch, Posted memory p, uint256 row, address by) private {
        Kind kind = _kinds[batch][row];
        ReceiptEvidence memory e = _evidence(p, row);
        vm.prank(by);
        try game.answer(p.record, p.leaves[row], p.evidence[row].order, e) {
            ++answers;
            if (kind == Kind.MadeUp) garbageAccepted = true;
        } catch {
            // A receipt that is real is accepted within the response time, whatever became of node and version.
            if (kind != Kind.MadeUp && vm.getBlockTimestamp() <= game.rowOf(p.record.batchId, p.leaves[row]).deadline) {
                honestLost = true;
            }
        }
    }

    /// @dev Rows of the dishonest node: real, made up, or an answer that it sold before.
    function _evilRow(uint256 how, uint256 nonce, uint128 amount) private returns (Settlement memory s, Kind kind) {
        s = _settlement(declared, _order(otherKeeperId, nonce), amount);
        s.order.nodeScope = declared.id;
        Settlement memory sold;
        if (_sold.length != 0) sold = abi.decode(_sold, (Settlement));
        // An answer that is older than the longest life of an order can be sold no more.
        bool fresh = s.order.captureDeadline - sold.receipt.timestamp <= escrow.MAX_ORDER_LIFE();
        if (how == 3 && fresh) {
            s.order.requestCommit = sold.order.requestCommit;
            (s.order.validAfter, s.receipt.timestamp) = (sold.receipt.timestamp, sold.receipt.timestamp);
            (s.receipt.requestHash, s.receipt.outputHash) = (sold.receipt.requestHash, sold.receipt.outputHash);
            kind = Kind.Twice;
        }
        s.receipt.paymentId = escrow.orderId(s.order);
        s.orderSignature = _sign(payerKey, s.receipt.paymentId);
        _signEvidence(declared, s);
        if (how == 1) {
            // Signed by nobody.
            NodeKeys memory nobody = declared;
            nobody.secret = 77;
            _signEvidence(nobody, s);
            kind = Kind.MadeUp;
        } else if (kind == Kind.Real) {
            _sold = abi.encode(s);
        }
    }

    function _keep(Posted memory p, Kind[] memory kinds) private {
        _batches.push(abi.encode(p));
        _kinds.push(kinds);
    }

    /// @dev The other keeper's orders are paid from what is free.
    function _fundLane() private {
        if (_free(payer) < 10_000) {
            _fund(payer, 1_000_000);
            _deposited += 1_000_000;
        }
    }

    function _withdrawBonds(address who) private {
        uint256 amount = game.withdrawable(who);
        if (amount == 0) return;
        vm.prank(who);
        game.withdrawBonds(who);
        bondsOut += amount;
    }

    function _pick(uint256 which, uint256 row) private view returns (bool found, Posted memory p, uint256 index) {
        if (_batches.length == 0) return (false, p, 0);
        p = postedAt(which % _batches.length);
        return (true, p, row % p.leaves.length);
    }

    function _statusOf(Posted memory p, uint256 row) private view returns (IDisputeGame.RowStatus) {
        return game.rowOf(p.record.batchId, p.leaves[row]).status;
    }

    function _excludedOf(Posted memory p) private view returns (Leaf[] memory list) {
        uint256 count;
        Leaf[] memory all = new Leaf[](p.leaves.length);
        for (uint256 i; i < p.leaves.length; ++i) {
            IDisputeGame.RowStatus status = _statusOf(p, i);
            if (status == IDisputeGame.RowStatus.Locked || status == IDisputeGame.RowStatus.Void) {
                all[count++] = p.leaves[i];
            }
        }
        list = new Leaf[](count);
        for (uint256 i; i < count; ++i) {
            list[i] = all[i];
        }
    }
}
