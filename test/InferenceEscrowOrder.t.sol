// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";

contract InferenceEscrowOrderTest is InferenceEscrowBase {
    function setUp() public override {
        super.setUp();
        _fund(payer, 1000);
    }

    // ── Opening ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_openOrder_holdsTheMaximum() public {
        Order memory order = _order(300, KEEPER, 1);
        bytes32 expected = escrow.orderId(order);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.OrderOpened(2, expected, payer, KEEPER, order, "");
        assertEq(_open(order), expected);
        _assertAccount(payer, 700, 300);
        IInferenceEscrow.OrderState memory state = escrow.orderState(expected);
        assertEq(state.amount, 300);
        assertEq(state.captureDeadline, order.captureDeadline);
        assertEq(uint8(state.status), uint8(IInferenceEscrow.OrderStatus.Held));
        assertFalse(escrow.nonceSpent(payer, address(token), KEEPER, 1));
    }

    function test_openOrder_onlyByThePayer() public {
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.NotPayer.selector, stranger, payer));
        escrow.openOrder(_order(300, KEEPER, 1), "");
    }

    function test_openOrder_once() public {
        Order memory order = _order(300, KEEPER, 1);
        bytes32 id = _open(order);
        vm.prank(payer);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.OrderClosed.selector, id, IInferenceEscrow.OrderStatus.Held)
        );
        escrow.openOrder(order, "");
    }

    function test_openOrder_publishesABodyThatMatches() public {
        bytes memory body = bytes('{"messages":[]}');
        Order memory order = _order(300, KEEPER, 1);
        bytes32 expected = keccak256(abi.encode(keccak256(body), bytes32(0)));
        vm.startPrank(payer);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.BodyNeedsPublicOrder.selector, order.requestCommit, expected)
        );
        escrow.openOrder(order, body);
        order.requestCommit = expected;
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.OrderOpened(2, escrow.orderId(order), payer, KEEPER, order, body);
        escrow.openOrder(order, body);
        // The same body under a blinding is not public.
        order.requestCommit = keccak256(abi.encode(keccak256(body), bytes32(uint256(1))));
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.BodyNeedsPublicOrder.selector, order.requestCommit, expected)
        );
        escrow.openOrder(order, body);
    }

    function test_openOrder_limitsTheBody() public {
        uint256 limit = escrow.MAX_BODY();
        bytes memory body = new bytes(limit + 1);
        Order memory order = _order(300, KEEPER, 1);
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BodyTooLong.selector, limit + 1, limit));
        escrow.openOrder(order, body);
        body = new bytes(limit);
        order.requestCommit = keccak256(abi.encode(keccak256(body), bytes32(0)));
        escrow.openOrder(order, body);
    }

    function test_openOrder_bounds() public {
        vm.startPrank(payer);
        Order memory order = _order(0, KEEPER, 1);
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.openOrder(order, "");

        order = _order(1001, KEEPER, 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InsufficientFree.selector, 1000, 1001));
        escrow.openOrder(order, "");

        order = _order(1, KEEPER, 1);
        order.validBefore = order.validAfter - 1;
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.BadTimes.selector, order.validAfter, order.validBefore, order.captureDeadline
            )
        );
        escrow.openOrder(order, "");

        order = _order(1, KEEPER, 1);
        order.validBefore = order.captureDeadline + 1;
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.BadTimes.selector, order.validAfter, order.validBefore, order.captureDeadline
            )
        );
        escrow.openOrder(order, "");

        order = _order(1, KEEPER, 1);
        order.validBefore = NOW + 1;
        order.captureDeadline = NOW + MIN_CAPTURE_TIME - 1;
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.DeadlineTooSoon.selector, order.captureDeadline, NOW + MIN_CAPTURE_TIME
            )
        );
        escrow.openOrder(order, "");
        order.captureDeadline = NOW + MIN_CAPTURE_TIME;
        escrow.openOrder(order, "");

        // Too long a life, and a life that begins too late.
        order = _order(1, KEEPER, 3);
        order.captureDeadline = NOW + MAX_ORDER_LIFE + 1;
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.BadTimes.selector, order.validAfter, order.validBefore, order.captureDeadline
            )
        );
        escrow.openOrder(order, "");
        order.validAfter = NOW + 1;
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.DeadlineTooLate.selector, order.captureDeadline, NOW + MAX_ORDER_LIFE
            )
        );
        escrow.openOrder(order, "");
        order.captureDeadline = NOW + MAX_ORDER_LIFE;
        escrow.openOrder(order, "");

        order = _order(1, KEEPER, 2);
        order.validAfter = NOW - MAX_ORDER_AGE - 1;
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.OldOrder.selector, order.validAfter, NOW - MAX_ORDER_AGE)
        );
        escrow.openOrder(order, "");
        order.validAfter = NOW - MAX_ORDER_AGE;
        escrow.openOrder(order, "");
    }

    /// @dev Narrow members with dirty upper bits would hash to another order.
    function test_openOrder_refusesDirtyCalldata() public {
        Order memory order = _order(300, KEEPER, 1);
        // Word 0 and 1 addresses, 2 amount, 6 to 8 times.
        uint8[6] memory words = [0, 1, 2, 6, 7, 8];
        for (uint256 i; i < words.length; ++i) {
            bytes memory call_ = abi.encodeCall(escrow.openOrder, (order, ""));
            uint256 offset = 4 + 32 * uint256(words[i]);
            call_[offset] = 0x01;
            vm.prank(payer);
            (bool ok,) = address(escrow).call(call_);
            assertFalse(ok);
            bytes memory capture = abi.encodeCall(escrow.capture, (order, 0, 0, 300, true));
            capture[offset] = 0x01;
            vm.prank(ledger);
            (ok,) = address(escrow).call(capture);
            assertFalse(ok);
        }
        _assertAccount(payer, 1000, 0);
    }

    // ── Holding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_hold_byAnyoneWithThePayersSignature() public {
        Order memory order = _order(300, KEEPER, 1);
        bytes memory signature = _sign(order);
        vm.startPrank(stranger);
        bytes32 id = escrow.hold(order, signature);
        _assertStatus(id, IInferenceEscrow.OrderStatus.Held);
        _assertAccount(payer, 700, 300);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.OrderClosed.selector, id, IInferenceEscrow.OrderStatus.Held)
        );
        escrow.hold(order, signature);
    }

    function test_hold_takesCompactSignatures() public {
        Order memory order = _order(300, KEEPER, 1);
        (bytes32 r, bytes32 vs) = _compact(order);
        escrow.hold(order, abi.encodePacked(r, vs));
        _assertAccount(payer, 700, 300);
    }

    function test_hold_refusesOtherSignatures() public {
        Order memory order = _order(300, KEEPER, 1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, escrow.orderId(order));
        bytes memory refusal = abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, payer);
        // High s, the malleable twin.
        bytes32 high = bytes32(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - uint256(s));
        vm.expectRevert(refusal);
        escrow.hold(order, abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)));
        vm.expectRevert(refusal);
        escrow.hold(order, abi.encodePacked(r, s, v - 27));
        vm.expectRevert(refusal);
        escrow.hold(order, abi.encodePacked(r, s, v, uint8(0)));
        vm.expectRevert(refusal);
        escrow.hold(order, "");
        vm.expectRevert(refusal);
        escrow.hold(order, new bytes(65));
        // Another contract's, another chain's signature.
        order.nonce = 2;
        vm.expectRevert(refusal);
        escrow.hold(order, abi.encodePacked(r, s, v));
        order.nonce = 1;
        vm.chainId(8454);
        vm.expectRevert(refusal);
        escrow.hold(order, abi.encodePacked(r, s, v));
    }

    function test_hold_nobodysOrder() public {
        Order memory order = _order(300, KEEPER, 1);
        order.payer = address(0);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, address(0)));
        escrow.hold(order, new bytes(65));
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, address(0)));
        escrow.hold(order, new bytes(64));
    }

    // ── Reclaiming ───────────────────────────────────────────────────────────────────────────────────────────────────

    function test_reclaim_byAnyoneAfterTheDeadline() public {
        Order memory order = _order(300, KEEPER, 1);
        bytes32 id = _open(order);
        vm.warp(order.captureDeadline);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.NotExpired.selector, order.captureDeadline, order.captureDeadline)
        );
        escrow.reclaim(order);
        vm.warp(uint256(order.captureDeadline) + 1);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.OrderReclaimed(3, id, payer, address(token), 300);
        vm.prank(stranger);
        escrow.reclaim(order);
        _assertAccount(payer, 1000, 0);
        _assertStatus(id, IInferenceEscrow.OrderStatus.Reclaimed);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.OrderNotHeld.selector, id, IInferenceEscrow.OrderStatus.Reclaimed)
        );
        escrow.reclaim(order);
        _assertResult(_capture(order, 300, true), IInferenceEscrow.CaptureResult.OrderClosed);
    }

    function test_reclaim_needsAHold() public {
        Order memory order = _order(300, KEEPER, 1);
        bytes32 id = escrow.orderId(order);
        vm.warp(uint256(order.captureDeadline) + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.OrderNotHeld.selector, id, IInferenceEscrow.OrderStatus.None)
        );
        escrow.reclaim(order);
    }

    /// @dev At every second either the capture or the reclaim works, never both.
    function testFuzz_captureAndReclaim_shareNoSecond(uint40 moment) public {
        Order memory order = _order(300, KEEPER, 1);
        _open(order);
        moment = uint40(bound(moment, NOW, order.captureDeadline + 1 days));
        vm.warp(moment);
        uint256 before = vm.snapshotState();
        bool captured = _captureUnsigned(order, 300, true) == IInferenceEscrow.CaptureResult.Captured;
        vm.revertToState(before);
        bool reclaimed;
        try escrow.reclaim(order) {
            reclaimed = true;
        } catch {}
        assertTrue(captured != reclaimed);
    }
}
