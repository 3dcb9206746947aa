// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {IDisputeGame} from "../../contracts/interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {IKeeperRegistry} from "../../contracts/interfaces/IKeeperRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {DisputeGameBase} from "../DisputeGameBase.sol";
import {TestToken} from "../mocks/TestToken.sol";
import {DisputeGameHandler} from "./DisputeGameHandler.sol";

/// @notice What holds of disputes after any sequence of actions, by the numbers of the security checklist.
contract DisputeGameInvariants is Test {
    DisputeGameHandler private _handler;
    IDisputeGame private _game;
    ISettlementLedger private _ledger;
    IKeeperRegistry private _keepers;
    IInferenceEscrow private _escrow;
    TestToken private _token;

    function setUp() public {
        _handler = new DisputeGameHandler();
        _handler.setUp();
        address escrow;
        address token;
        (_game, _ledger, _keepers, escrow, token) = _handler.system();
        (_escrow, _token) = (IInferenceEscrow(escrow), TestToken(token));
        targetContract(address(_handler));
        bytes4[] memory actions = new bytes4[](13);
        actions[0] = _handler.honestBatch.selector;
        actions[1] = _handler.evilBatch.selector;
        actions[2] = _handler.challenge.selector;
        actions[3] = _handler.answer.selector;
        actions[4] = _handler.garbage.selector;
        actions[5] = _handler.resolve.selector;
        actions[6] = _handler.duplicate.selector;
        actions[7] = _handler.finalize.selector;
        actions[8] = _handler.settleReopened.selector;
        actions[9] = _handler.reclaim.selector;
        actions[10] = _handler.rotate.selector;
        actions[11] = _handler.revoke.selector;
        actions[12] = _handler.pass.selector;
        targetSelector(FuzzSelector(address(_handler), actions));
        actions = new bytes4[](3);
        actions[0] = _handler.challenge.selector;
        actions[1] = _handler.evilBatch.selector;
        actions[2] = _handler.bondsAndRewards.selector;
        targetSelector(FuzzSelector(address(_handler), actions));
    }

    /// @dev All of the following in one campaign, since each run costs seconds.
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: default.invariant.runs = 48
    /// forge-config: nightly.invariant.fail-on-revert = true
    /// forge-config: nightly.invariant.runs = 500
    function invariant_1_32_36_37_38_39_disputes() public view {
        _check_1_32_booksAddUp();
        _check_36_37_38_stakeIsThere();
        _check_38_ethAddsUp();
        _check_39_theHonestLoseNothing();
    }

    /// @dev Checklist 1, 32: what was captured and neither paid nor returned is what the books of the rows say; the token adds up.
    function _check_1_32_booksAddUp() private view {
        address token = address(_token);
        uint256 inside = _escrow.captured(token);
        address[7] memory people = _handler.people();
        for (uint256 i; i < people.length; ++i) {
            IInferenceEscrow.Account memory account = _escrow.account(people[i], token);
            inside += account.free;
            inside += account.held;
        }
        (bytes32 honest, bytes32 evil,) = _handler.ids();
        inside += _escrow.lockOf(people[0], token, honest).amount;
        inside += _escrow.lockOf(people[0], token, evil).amount;
        assertEq(inside, _token.balanceOf(address(_escrow)), "free, held, locked and captured");
        assertEq(_token.balanceOf(address(_escrow)), _handler.deposited(), "nobody withdrew");
        assertEq(_escrow.captured(token), _unpaid(), "captured = rows that are neither paid nor void");
    }

    /// @dev Checklist 36, 37, 38: stake is there for every open batch; bonds and rewards add up; at most half of a slash is a reward.
    function _check_36_37_38_stakeIsThere() private view {
        (bytes32 honest, bytes32 evil, address bondToken) = _handler.ids();
        uint256 bonds;
        bytes32[2] memory both = [honest, evil];
        uint256[2] memory open;
        uint256[2] memory reserved;
        for (uint256 i; i < _handler.batchCount(); ++i) {
            DisputeGameBase.Posted memory p = _handler.postedAt(i);
            uint256 whose = p.record.keeperId == honest ? 0 : 1;
            (ISettlementLedger.BatchStatus status, uint256 excluded, bool slashed,) =
                _ledger.batchState(p.record.batchId);
            if (status == ISettlementLedger.BatchStatus.Open) {
                assertEq(excluded, _handler.excludedOf(i), "rows that are left out");
            }
            if (status == ISettlementLedger.BatchStatus.Final && excluded == 0) continue;
            ++open[whose];
            if (!slashed) ++reserved[whose];
        }
        for (uint256 i; i < 2; ++i) {
            IKeeperRegistry.Bond memory bond = _keepers.bondOf(both[i]);
            assertEq(bond.openBatches, open[i], "open batches");
            assertEq(bond.reserved, reserved[i], "reserves");
            assertGe(bond.amount, uint256(bond.reserved) * _keepers.SLASH(), "every open batch has its slash");
            bonds += bond.amount;
        }
        address challenger = _handler.people()[5];
        uint256 there = TestToken(bondToken).balanceOf(address(_keepers));
        assertEq(there, bonds + _keepers.rewards(challenger) + _keepers.burned(), "bond token");
        assertLe(_keepers.rewards(challenger), _keepers.burned(), "at most half is a reward");
    }

    /// @dev All ETH is of open bonds or can be pulled.
    function _check_38_ethAddsUp() private view {
        uint256 bonds;
        for (uint256 i; i < _handler.batchCount(); ++i) {
            DisputeGameBase.Posted memory p = _handler.postedAt(i);
            for (uint256 j; j < p.leaves.length; ++j) {
                IDisputeGame.Row memory row = _game.rowOf(p.record.batchId, p.leaves[j]);
                if (row.status == IDisputeGame.RowStatus.Locked) bonds += uint256(row.bond) * 1 gwei;
            }
        }
        address[7] memory people = _handler.people();
        for (uint256 i; i < people.length; ++i) {
            bonds += _game.withdrawable(people[i]);
        }
        bonds += _game.withdrawable(_handler.honestKey());
        assertEq(address(_game).balance, bonds);
        assertEq(address(_game).balance, _handler.bondsIn() - _handler.bondsOut());
    }

    /// @dev Checklist 39: an honest keeper or node that keeps its receipts cannot lose money to any input or ordering.
    function _check_39_theHonestLoseNothing() private view {
        assertFalse(_handler.honestLost(), "a real receipt was refused, or a row of the honest keeper is void");
        assertFalse(_handler.garbageAccepted(), "evidence that nobody signed was accepted");
        assertFalse(_handler.unprovenPaid(), "a row that nobody proved was paid on the verified path");
        (bytes32 honest,,) = _handler.ids();
        IKeeperRegistry.Bond memory bond = _keepers.bondOf(honest);
        assertEq(bond.amount, 1000 * _keepers.SLASH(), "its bond is whole");
        assertFalse(bond.suspended);
        uint256 owed;
        for (uint256 i; i < _handler.batchCount(); ++i) {
            DisputeGameBase.Posted memory p = _handler.postedAt(i);
            if (p.record.keeperId != honest) continue;
            if (_ledger.batchStatus(p.record.batchId) != ISettlementLedger.BatchStatus.Final) owed += p.record.total;
            else owed += _locked(p);
        }
        address payout = _handler.people()[1];
        uint256 paid = _escrow.account(payout, address(_token)).free;
        assertGe(paid + owed, _handler.realByHonestKeeper(), "the honest node has all that is not still in its window");
    }

    /// @dev The actions reach what they are for, so the invariants are not about an idle system.
    function test_actionsReachWhatTheyAreFor() public {
        _handler.honestBatch(3, 100);
        _handler.challenge(0, 0, false, 0);
        _handler.garbage(0, 0, 0x050101);
        _handler.garbage(0, 0, 0x050100);
        _handler.rotate(5);
        _handler.answer(0, 0);
        assertEq(_handler.answers(), 1);
        _handler.challenge(0, 1, true, 3);
        assertEq(_handler.challenges(), 2);
        _handler.finalize(0, true);
        assertEq(_handler.finals(), 1);
        // Two rows of the dishonest node: real and made up; then one that it sold before.
        _handler.evilBatch(0x010201, 100);
        _handler.evilBatch(0x000300, 100);
        assertEq(uint8(_handler.kindOf(1, 0)), uint8(DisputeGameHandler.Kind.Real));
        assertEq(uint8(_handler.kindOf(1, 1)), uint8(DisputeGameHandler.Kind.MadeUp));
        assertEq(uint8(_handler.kindOf(2, 0)), uint8(DisputeGameHandler.Kind.Twice));
        _handler.duplicate(2, 0, 1, 0);
        assertEq(_handler.duplicates(), 1);
        _handler.settleReopened(2, 0);
        assertEq(_handler.verified(), 1, "paid on the verified path: now the row of the batch is the duplicate");
        _handler.duplicate(1, 0, 1, 0);
        assertEq(_handler.duplicates(), 2);
        _handler.challenge(1, 1, false, 0);
        _handler.resolve(1, 1, true);
        assertEq(_handler.voids(), 1);
        assertEq(_handler.answers(), 2, "the honest keeper answered in time");
        _handler.bondsAndRewards(0);
        _handler.revoke(0);
        _handler.finalize(1, true);
        _handler.finalize(2, true);
        assertEq(_handler.finals(), 3);
        _handler.pass(type(uint256).max);
        _handler.pass(type(uint256).max);
        _handler.reclaim(1, 1);
        invariant_1_32_36_37_38_39_disputes();
    }

    function _unpaid() private view returns (uint256 sum) {
        for (uint256 i; i < _handler.batchCount(); ++i) {
            DisputeGameBase.Posted memory p = _handler.postedAt(i);
            bool open = _ledger.batchStatus(p.record.batchId) == ISettlementLedger.BatchStatus.Open;
            if (!open) {
                sum += _locked(p);
                continue;
            }
            for (uint256 j; j < p.leaves.length; ++j) {
                IDisputeGame.RowStatus status = _game.rowOf(p.record.batchId, p.leaves[j]).status;
                if (status != IDisputeGame.RowStatus.Void) sum += p.leaves[j].amount;
            }
        }
    }

    function _locked(DisputeGameBase.Posted memory p) private view returns (uint256 sum) {
        for (uint256 j; j < p.leaves.length; ++j) {
            IDisputeGame.RowStatus status = _game.rowOf(p.record.batchId, p.leaves[j]).status;
            if (status == IDisputeGame.RowStatus.Locked) sum += p.leaves[j].amount;
        }
    }
}
