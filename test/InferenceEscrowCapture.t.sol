// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";

contract InferenceEscrowCaptureTest is InferenceEscrowBase {
    function setUp() public override {
        super.setUp();
        _fund(payer, 1000);
    }

    // ── Where the money comes from ───────────────────────────────────────────────────────────────────────────────────

    function test_capture_ofAHold_releasesTheRest() public {
        Order memory order = _order(300, KEEPER, 7);
        bytes32 id = _open(order);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.OrderCaptured(
            3, id, payer, address(token), KEEPER, 7, IInferenceEscrow.Sources(120, 0, 0), 180, false
        );
        _assertResult(_captureUnsigned(order, 120, true), IInferenceEscrow.CaptureResult.Captured);
        _assertAccount(payer, 880, 0);
        assertEq(escrow.captured(address(token)), 120);
        _assertStatus(id, IInferenceEscrow.OrderStatus.Captured);
        assertFalse(escrow.nonceSpent(payer, address(token), KEEPER, 7));
    }

    function test_capture_byKeeper_drawsItsLockFirst() public {
        _lock(60, NOW + 3 days, 0);
        Order memory order = _order(80, KEEPER, 7);
        bytes32 id = escrow.orderId(order);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.OrderCaptured(
            3, id, payer, address(token), KEEPER, 7, IInferenceEscrow.Sources(0, 60, 10), 0, true
        );
        _assertResult(_capture(order, 70, true), IInferenceEscrow.CaptureResult.Captured);
        _assertLock(0, NOW + 3 days);
        _assertAccount(payer, 930, 0);
        assertEq(escrow.captured(address(token)), 70);
        assertTrue(escrow.nonceSpent(payer, address(token), KEEPER, 7));
        _assertStatus(id, IInferenceEscrow.OrderStatus.None);
    }

    function test_capture_byOthers_drawsFreeFirst() public {
        _lock(400, NOW + 3 days, 0);
        Order memory order = _order(700, KEEPER, 7);
        _assertResult(_capture(order, 600, false), IInferenceEscrow.CaptureResult.Captured);
        _assertLock(400, NOW + 3 days);
        _assertAccount(payer, 0, 0);
        assertFalse(escrow.nonceSpent(payer, address(token), KEEPER, 7));
        _assertStatus(escrow.orderId(order), IInferenceEscrow.OrderStatus.Captured);
    }

    function test_capture_ofAnOrderWithoutKeeper_spendsItsNonce() public {
        Order memory order = _order(700, 0, 7);
        _assertResult(_capture(order, 600, false), IInferenceEscrow.CaptureResult.Captured);
        assertTrue(escrow.nonceSpent(payer, address(token), 0, 7));
        _assertStatus(escrow.orderId(order), IInferenceEscrow.OrderStatus.None);
    }

    function test_captureTo_paysNodeAndFeeAndTouchesNoTotal() public {
        Order memory order = _order(80, 0, 7);
        bytes32 id = _open(order);
        bytes32 settlement = keccak256("settlement");
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.OrderCaptured(
            3, id, payer, address(token), 0, 7, IInferenceEscrow.Sources(50, 0, 0), 30, false
        );
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Credited(4, node, address(token), settlement, 45);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Credited(5, stranger, address(token), settlement, 5);
        vm.prank(ledger);
        escrow.captureTo(order, 0, 0, 50, false, node, stranger, 5, settlement);
        _assertAccount(payer, 950, 0);
        _assertAccount(node, 45, 0);
        _assertAccount(stranger, 5, 0);
        assertEq(escrow.captured(address(token)), 0);
        assertEq(escrow.seq(), 5);
    }

    /// @dev Payer, node and fee recipient may be one account.
    function test_captureTo_toThePayerItself() public {
        Order memory order = _order(80, KEEPER, 7);
        (bytes32 r, bytes32 vs) = _compact(order);
        vm.prank(ledger);
        escrow.captureTo(order, r, vs, 80, true, payer, payer, 1, 0);
        _assertAccount(payer, 1000, 0);
    }

    function test_captureTo_refusesNobodyAndTooMuchFee() public {
        Order memory order = _order(80, KEEPER, 7);
        (bytes32 r, bytes32 vs) = _compact(order);
        vm.startPrank(ledger);
        vm.expectRevert(IInferenceEscrow.ZeroAddress.selector);
        escrow.captureTo(order, r, vs, 80, true, address(0), stranger, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.CapturedExceeded.selector, 81, 80));
        escrow.captureTo(order, r, vs, 80, true, node, stranger, 81, 0);
        // All of it as a fee, none of it as a fee.
        escrow.captureTo(order, r, vs, 80, true, address(0), stranger, 80, 0);
        order.nonce = 8;
        vm.stopPrank();
        (r, vs) = _compact(order);
        vm.prank(ledger);
        escrow.captureTo(order, r, vs, 80, true, node, address(0), 0, 0);
        _assertAccount(stranger, 80, 0);
        _assertAccount(node, 80, 0);
    }

    function test_credit_onlyWhatWasCaptured() public {
        _capture(_order(100, KEEPER, 7), 100, true);
        vm.startPrank(ledger);
        escrow.credit(address(token), node, 60, bytes32(uint256(1)));
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.CapturedExceeded.selector, 41, 40));
        escrow.credit(address(token), node, 41, bytes32(uint256(1)));
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.credit(address(token), node, 0, bytes32(uint256(1)));
        vm.expectRevert(IInferenceEscrow.ZeroAddress.selector);
        escrow.credit(address(token), address(0), 1, bytes32(uint256(1)));
        vm.stopPrank();
        _assertAccount(node, 60, 0);
        // What is earned can be spent or withdrawn at once.
        vm.prank(node);
        escrow.withdraw(address(token), node, 60);
    }

    function test_onlyTheLedger() public {
        Order memory order = _order(100, KEEPER, 7);
        (bytes32 r, bytes32 vs) = _compact(order);
        bytes memory refusal = abi.encodeWithSelector(IInferenceEscrow.OnlyLedger.selector, payer, ledger);
        vm.startPrank(payer);
        vm.expectRevert(refusal);
        escrow.capture(order, r, vs, 100, true);
        vm.expectRevert(refusal);
        escrow.captureTo(order, r, vs, 100, true, payer, payer, 0, 0);
        vm.expectRevert(refusal);
        escrow.credit(address(token), payer, 1, 0);
    }

    // ── Every refusal, and that it changes nothing ───────────────────────────────────────────────────────────────────

    function test_refusal_signature() public {
        Order memory order = _order(100, KEEPER, 7);
        (bytes32 r, bytes32 vs) = _compact(order);
        order.maxAmount = 101;
        _refused(order, r, vs, 100, IInferenceEscrow.CaptureResult.BadSignature);
        order.maxAmount = 100;
        _refused(order, 0, 0, 100, IInferenceEscrow.CaptureResult.BadSignature);
        order.payer = address(0);
        _refused(order, 0, 0, 100, IInferenceEscrow.CaptureResult.BadSignature);
    }

    function test_refusal_amounts() public {
        Order memory order = _order(100, KEEPER, 7);
        _refused(order, 0, IInferenceEscrow.CaptureResult.ZeroAmount);
        _refused(order, 101, IInferenceEscrow.CaptureResult.OverMaximum);
        _refused(_order(1001, KEEPER, 7), 1001, IInferenceEscrow.CaptureResult.InsufficientBalance);
        _open(order);
        _refused(order, 0, IInferenceEscrow.CaptureResult.ZeroAmount);
        _refused(order, 101, IInferenceEscrow.CaptureResult.OverMaximum);
    }

    function test_refusal_times() public {
        Order memory order = _order(100, KEEPER, 7);
        order.validAfter = NOW + 1;
        _refused(order, 100, IInferenceEscrow.CaptureResult.NotYetValid);
        order = _order(100, KEEPER, 7);
        order.validBefore = order.validAfter - 1;
        _refused(order, 100, IInferenceEscrow.CaptureResult.BadTimes);
        order = _order(100, KEEPER, 7);
        order.validBefore = order.captureDeadline + 1;
        _refused(order, 100, IInferenceEscrow.CaptureResult.BadTimes);
        order = _order(100, KEEPER, 7);
        order.captureDeadline = order.validAfter + MAX_ORDER_LIFE + 1;
        _refused(order, 100, IInferenceEscrow.CaptureResult.BadTimes);
        order = _order(100, KEEPER, 7);
        vm.warp(uint256(order.captureDeadline) + 1);
        _refused(order, 100, IInferenceEscrow.CaptureResult.DeadlinePassed);
        vm.warp(NOW);
        _open(order);
        vm.warp(uint256(order.captureDeadline) + 1);
        _refused(order, 100, IInferenceEscrow.CaptureResult.DeadlinePassed);
        vm.warp(order.captureDeadline);
        _assertResult(_capture(order, 100, true), IInferenceEscrow.CaptureResult.Captured);
    }

    function test_refusal_twice() public {
        // Held.
        Order memory order = _order(100, KEEPER, 7);
        _open(order);
        _capture(order, 50, true);
        _refused(order, 50, IInferenceEscrow.CaptureResult.OrderClosed);
        // By its keeper, without a hold.
        order = _order(100, KEEPER, 8);
        _capture(order, 50, true);
        _refused(order, 50, IInferenceEscrow.CaptureResult.NonceSpent);
        // By anyone, without a hold.
        order = _order(100, KEEPER, 9);
        _capture(order, 50, false);
        _refused(order, 50, IInferenceEscrow.CaptureResult.OrderClosed);
        // Of no keeper.
        order = _order(100, 0, 10);
        _capture(order, 50, false);
        _refused(order, 50, IInferenceEscrow.CaptureResult.NonceSpent);
    }

    // ── Attacks ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev A captured order cannot be held again, whichever way it was captured.
    function test_attack_holdAfterCapture() public {
        Order memory byKeeper = _order(100, KEEPER, 7);
        Order memory byOther = _order(100, KEEPER, 8);
        _capture(byKeeper, 50, true);
        _capture(byOther, 50, false);
        bytes32 id = escrow.orderId(byOther);
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.NonceSpent.selector, 7));
        escrow.openOrder(byKeeper, "");
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.OrderClosed.selector, id, IInferenceEscrow.OrderStatus.Captured)
        );
        escrow.openOrder(byOther, "");
    }

    /// @dev The payer locks, sends orders, gets answers, and withdraws all that it can: the keeper still gets its lock.
    function test_attack_withdrawAfterTheAnswer() public {
        _lock(300, NOW + 3 days, 0);
        vm.prank(payer);
        escrow.withdraw(address(token), payer, 700);
        for (uint256 i; i < 3; ++i) {
            _assertResult(_capture(_order(100, KEEPER, i), 100, true), IInferenceEscrow.CaptureResult.Captured);
        }
        _refused(_order(100, KEEPER, 3), 100, IInferenceEscrow.CaptureResult.InsufficientBalance);
    }

    /// @dev The payer cannot cancel what its running lock secures.
    function test_attack_cancelAfterTheAnswer() public {
        _lock(300, NOW + 3 days, 0);
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.LockActive.selector, NOW, NOW + 3 days));
        escrow.cancelNonces(address(token), KEEPER, 0, type(uint256).max);
        // The same word of another lane is another word.
        escrow.cancelNonces(address(token), OTHER_KEEPER, 0, type(uint256).max);
        escrow.cancelNonces(address(token), 0, 0, type(uint256).max);
        vm.stopPrank();
        _assertResult(_capture(_order(100, KEEPER, 0), 100, true), IInferenceEscrow.CaptureResult.Captured);
    }

    /// @dev Holding the answered order, or another of the same nonce, does not take the order out of the lock's reach.
    function test_attack_holdAfterTheAnswer() public {
        _lock(300, NOW + 3 days, 0);
        Order memory answered = _order(100, KEEPER, 7);
        Order memory twin = _order(90, KEEPER, 7);
        _open(twin);
        _open(answered);
        vm.prank(payer);
        escrow.withdraw(address(token), payer, 510);
        _assertResult(_capture(answered, 100, true), IInferenceEscrow.CaptureResult.Captured);
        _assertLock(300, NOW + 3 days);
    }

    /// @dev Settling a twin order of the same nonce to the payer's own node spends no nonce of the keeper's lane.
    function test_attack_burnTheNonceWithATwin() public {
        _lock(300, NOW + 3 days, 0);
        Order memory answered = _order(100, KEEPER, 7);
        Order memory twin = _order(1, KEEPER, 7);
        _assertResult(_capture(twin, 1, false), IInferenceEscrow.CaptureResult.Captured);
        // Held twin, captured.
        Order memory held = _order(2, KEEPER, 7);
        _open(held);
        _assertResult(_capture(held, 2, false), IInferenceEscrow.CaptureResult.Captured);
        _assertResult(_capture(answered, 100, true), IInferenceEscrow.CaptureResult.Captured);
        _assertLock(200, NOW + 3 days);
    }

    /// @dev A verified settlement to a node of the payer's own cannot empty the lock before its tail.
    function test_attack_drainTheLock() public {
        _lock(1000, NOW + 3 days, 0);
        Order memory drain = _order(1000, KEEPER, 7);
        drain.validBefore = NOW + 10 days;
        drain.captureDeadline = NOW + 10 days;
        _refused(drain, 1000, false, IInferenceEscrow.CaptureResult.InsufficientBalance);
        vm.warp(NOW + 3 days - LOCK_TAIL - 1);
        _refused(drain, 1000, false, IInferenceEscrow.CaptureResult.InsufficientBalance);
        // In the tail, anyone that the payer owes may be paid from it, so a keeper that is gone holds up no node.
        vm.warp(NOW + 3 days - LOCK_TAIL);
        _assertResult(_capture(drain, 1000, false), IInferenceEscrow.CaptureResult.Captured);
        _assertLock(0, NOW + 3 days);
    }

    function test_lock_afterItsEnd_stillPaysUntilUnlocked() public {
        _lock(1000, NOW + 1 days, 0);
        Order memory order = _order(600, KEEPER, 7);
        Order memory second = _order(600, KEEPER, 8);
        second.captureDeadline = order.captureDeadline = NOW + 10 days;
        vm.warp(NOW + 2 days);
        _assertResult(_capture(order, 600, false), IInferenceEscrow.CaptureResult.Captured);
        _assertResult(_capture(second, 400, true), IInferenceEscrow.CaptureResult.Captured);
        _assertLock(0, NOW + 1 days);
    }

    /// @dev One keeper's lock pays no other keeper's order.
    function test_attack_otherKeepersOrder() public {
        _lock(1000, NOW + 3 days, 0);
        _refused(_order(10, OTHER_KEEPER, 0), 10, true, IInferenceEscrow.CaptureResult.InsufficientBalance);
        _refused(_order(10, 0, 0), 10, true, IInferenceEscrow.CaptureResult.InsufficientBalance);
    }

    /// @dev An account that delegated (EIP-7702) to code that disowns everything still owes what its key signed.
    function test_attack_delegateAfterTheAnswer() public {
        Order memory order = _order(100, KEEPER, 7);
        (bytes32 r, bytes32 vs) = _compact(order);
        vm.etch(payer, abi.encodePacked(hex"ef0100", makeAddr("delegate")));
        vm.prank(ledger);
        (IInferenceEscrow.CaptureResult result,) = escrow.capture(order, r, vs, 100, true);
        _assertResult(result, IInferenceEscrow.CaptureResult.Captured);
    }

    /// @dev Sums at their limits stop no row.
    function test_capture_atTheLimits() public {
        deal(address(token), address(this), type(uint128).max - 1000);
        token.approve(address(escrow), type(uint256).max);
        escrow.deposit(address(token), payer, type(uint128).max - 1000);
        Order memory order = _order(type(uint128).max, KEEPER, type(uint256).max);
        order.captureDeadline = order.validBefore = NOW + MAX_ORDER_LIFE;
        _open(order);
        _assertAccount(payer, 0, type(uint128).max);
        _assertResult(_capture(order, 1, true), IInferenceEscrow.CaptureResult.Captured);
        order.nonce = type(uint256).max - 1;
        order.maxAmount = type(uint128).max - 1;
        _assertResult(_capture(order, type(uint128).max - 1, true), IInferenceEscrow.CaptureResult.Captured);
        assertEq(escrow.captured(address(token)), type(uint128).max);
    }

    /// @dev Whatever order and amount the ledger passes: no revert, and the money that left the payer is what was captured.
    function testFuzz_capture_neverReverts(Order memory order, uint128 amount, bool byKeeper, bool signed, bool own)
        public
    {
        _lock(200, NOW + 3 days, 0);
        order.payer = payer;
        if (own) (order.token, order.keeperId) = (address(token), KEEPER);
        if (own) {
            order.validAfter = uint40(bound(order.validAfter, NOW - MAX_ORDER_LIFE, NOW + 10));
            order.captureDeadline = uint40(bound(order.captureDeadline, NOW - 10, NOW + 1 days));
            order.validBefore = uint40(bound(order.validBefore, 0, order.captureDeadline));
            order.maxAmount = uint128(bound(order.maxAmount, 0, 2000));
            amount = uint128(bound(amount, 0, 2000));
        }
        IInferenceEscrow.CaptureResult result =
            signed ? _capture(order, amount, byKeeper) : _captureUnsigned(order, amount, byKeeper);
        uint256 left = _total();
        if (result == IInferenceEscrow.CaptureResult.Captured) {
            assertLe(amount, order.maxAmount);
            assertTrue(signed);
            assertEq(left, 1000 - amount);
            assertEq(escrow.captured(address(token)), amount);
        } else {
            assertEq(left, 1000);
            assertEq(escrow.captured(address(token)), 0);
        }
    }

    function _total() private view returns (uint256) {
        IInferenceEscrow.Account memory balance = escrow.account(payer, address(token));
        return uint256(balance.free) + balance.held + escrow.lockOf(payer, address(token), KEEPER).amount;
    }

    function _refused(Order memory order, uint128 amount, IInferenceEscrow.CaptureResult expected) private {
        _refused(order, amount, true, expected);
    }

    function _refused(Order memory order, uint128 amount, bool byKeeper, IInferenceEscrow.CaptureResult expected)
        private
    {
        uint64 seq = escrow.seq();
        uint256 total = _total();
        _assertResult(_capture(order, amount, byKeeper), expected);
        assertEq(escrow.seq(), seq);
        assertEq(_total(), total);
    }

    function _refused(
        Order memory order,
        bytes32 r,
        bytes32 vs,
        uint128 amount,
        IInferenceEscrow.CaptureResult expected
    ) private {
        uint64 seq = escrow.seq();
        vm.prank(ledger);
        (IInferenceEscrow.CaptureResult result,) = escrow.capture(order, r, vs, amount, true);
        _assertResult(result, expected);
        assertEq(escrow.seq(), seq);
    }
}
