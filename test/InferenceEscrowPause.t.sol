// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Lock, Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";

/// @notice What the guardian can stop, for how long and how often; and that everything else goes on.
contract InferenceEscrowPauseTest is InferenceEscrowBase {
    event Paused(uint64 seq, uint40 until);

    function setUp() public override {
        super.setUp();
        _fund(payer, 1000);
    }

    function _pause(uint40 until) private {
        vm.prank(guardian);
        escrow.pause(until);
    }

    function test_pause_isAnnounced_andEndsByItself() public {
        uint64 before = escrow.seq();
        vm.expectEmit(address(escrow));
        emit Paused(before + 1, NOW + 3 days);
        _pause(NOW + 3 days);
        assertEq(escrow.pausedUntil(), NOW + 3 days);

        vm.warp(NOW + 3 days - 1);
        _expectPaused(NOW + 3 days);
        escrow.deposit(address(token), payer, 1);
        vm.warp(NOW + 3 days);
        _fund(payer, 1);
        _open(_order(10, KEEPER, 0));
    }

    function test_pause_stopsDepositsLocksAndOpenOrder() public {
        _pause(NOW + 1);
        address t = address(token);
        token.mint(address(this), 10);
        token.approve(address(escrow), 10);
        _expectPaused(NOW + 1);
        escrow.deposit(t, payer, 10);
        _expectPaused(NOW + 1);
        escrow.depositWithPermit(t, payer, 10, NOW, 27, 0, 0);
        _expectPaused(NOW + 1);
        escrow.depositWithAuthorization(t, payer, payer, 10, 0, NOW, 0, new bytes(65));
        _expectPaused(NOW + 1);
        escrow.depositWithPermit2(IInferenceEscrow.Permit2Deposit(t, 10, 0, NOW), payer, payer, "");
        Lock memory lock_ = _lockOf(10, NOW + 1 days, 0);
        _expectPaused(NOW + 1);
        vm.prank(payer);
        escrow.lock(lock_, "");
        Order memory order = _order(10, KEEPER, 0);
        _expectPaused(NOW + 1);
        vm.prank(payer);
        escrow.openOrder(order, "");
    }

    /// @dev Holds, captures, credits and every way out work as if nothing had happened.
    function test_pause_stopsNothingElse() public {
        _lock(100, NOW + 1 hours, 0);
        Order memory expiring = _order(100, KEEPER, 0);
        expiring.captureDeadline = expiring.validBefore = NOW + 20 minutes;
        _open(expiring);
        Order memory open = _order(100, KEEPER, 1);
        _open(open);
        _pause(NOW + MAX_PAUSE);

        Order memory signed = _order(50, KEEPER, 2);
        bytes memory signature = _sign(signed);
        vm.prank(stranger);
        escrow.hold(signed, signature);
        _assertResult(_capture(open, 40, true), IInferenceEscrow.CaptureResult.Captured);
        _assertResult(_capture(_order(50, KEEPER, 3), 50, true), IInferenceEscrow.CaptureResult.Captured);
        vm.prank(ledger);
        escrow.credit(address(token), node, 90, 0);
        vm.prank(payer);
        escrow.cancelLockNonces(0, 2);
        vm.warp(NOW + 1 hours);
        escrow.reclaim(expiring);
        escrow.unlock(payer, address(token), KEEPER);
        vm.prank(payer);
        escrow.cancelNonces(address(token), KEEPER, 0, 16);
        _assertAccount(payer, 860, 50);
        vm.prank(payer);
        escrow.withdraw(address(token), payer, 860);
        vm.prank(node);
        escrow.withdraw(address(token), node, 90);
        assertEq(token.balanceOf(payer), 860);
        assertEq(token.balanceOf(node), 90);
        assertLt(block.timestamp, escrow.pausedUntil(), "still paused");
    }

    function test_pause_canEndEarlier_neverLater() public {
        _pause(NOW + 7 days);
        vm.warp(NOW + 1 days);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.BadPause.selector, NOW + 7 days + 1, NOW + 1 days, NOW + 7 days)
        );
        vm.prank(guardian);
        escrow.pause(NOW + 7 days + 1);
        uint64 before = escrow.seq();
        vm.expectEmit(address(escrow));
        emit Paused(before + 1, NOW + 2 days);
        _pause(NOW + 2 days);
        vm.expectEmit(address(escrow));
        emit Paused(before + 2, NOW + 1 days);
        // Long past: now.
        _pause(1);
        _fund(payer, 1);
        // The gap counts from the real end.
        vm.warp(NOW + 31 days - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.PauseTooSoon.selector, NOW + 31 days - 1, NOW + 31 days)
        );
        vm.prank(guardian);
        escrow.pause(NOW + 32 days);
        vm.warp(NOW + 31 days);
        _pause(NOW + 32 days);
    }

    function test_pause_isBounded() public {
        vm.startPrank(guardian);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.BadPause.selector, NOW + MAX_PAUSE + 1, NOW, NOW + MAX_PAUSE)
        );
        escrow.pause(NOW + MAX_PAUSE + 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadPause.selector, NOW - 1, NOW, NOW + MAX_PAUSE));
        escrow.pause(NOW - 1);
        escrow.pause(NOW + MAX_PAUSE);
        // Neither longer nor again soon after.
        vm.warp(NOW + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.BadPause.selector, NOW + MAX_PAUSE + 1, NOW + 1, NOW + MAX_PAUSE)
        );
        escrow.pause(NOW + MAX_PAUSE + 1);
        uint256 earliest = NOW + MAX_PAUSE + PAUSE_GAP;
        vm.warp(earliest - 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.PauseTooSoon.selector, earliest - 1, earliest));
        escrow.pause(uint40(earliest + 1));
        vm.warp(earliest);
        escrow.pause(uint40(earliest + MAX_PAUSE));
        vm.stopPrank();
    }

    /// @dev However the guardian tries: nothing stays paused for longer than a week, nor for a month after.
    function testFuzz_pause_neverMoreThanItsShare(uint40[32] memory waits, uint40[32] memory lengths) public {
        uint256 started;
        uint256 until;
        for (uint256 i; i < waits.length; ++i) {
            skip(waits[i] % 20 days);
            uint40 wanted = uint40(block.timestamp) + lengths[i] % 9 days;
            bool running = block.timestamp < until;
            if (running && lengths[i] % 3 == 0) wanted = 0;
            vm.prank(guardian);
            try escrow.pause(wanted) {
                if (!running) {
                    if (started != 0) assertGe(block.timestamp, until + PAUSE_GAP);
                    started = block.timestamp;
                }
                until = wanted == 0 ? block.timestamp : wanted;
                assertLe(until, started + MAX_PAUSE);
            } catch {}
            assertEq(escrow.pausedUntil(), until);
        }
    }

    function test_pause_onlyTheGuardian() public {
        address[4] memory others = [stranger, payer, ledger, address(this)];
        for (uint256 i; i < others.length; ++i) {
            vm.startPrank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.NotGuardian.selector, others[i]));
            escrow.pause(NOW + 1);
            vm.stopPrank();
        }
    }

    function test_sizeIsDeployable() public view {
        assertLe(address(escrow).code.length, 24_576);
    }

    function _expectPaused(uint40 until) private {
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.IntakePaused.selector, uint40(block.timestamp), until));
    }
}
