// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";

contract InferenceEscrowNoncesTest is InferenceEscrowBase {
    function setUp() public override {
        super.setUp();
        _fund(payer, 1000);
    }

    function test_cancelNonces_closesUnheldOrders() public {
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.NoncesCancelled(2, payer, address(token), KEEPER, 1, 6);
        vm.prank(payer);
        escrow.cancelNonces(address(token), KEEPER, 1, 6);
        assertFalse(escrow.nonceSpent(payer, address(token), KEEPER, 256));
        assertTrue(escrow.nonceSpent(payer, address(token), KEEPER, 257));
        assertTrue(escrow.nonceSpent(payer, address(token), KEEPER, 258));
        Order memory order = _order(100, KEEPER, 257);
        _assertResult(_capture(order, 100, true), IInferenceEscrow.CaptureResult.NonceSpent);
        _assertResult(_capture(order, 100, false), IInferenceEscrow.CaptureResult.NonceSpent);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.NonceSpent.selector, 257));
        escrow.openOrder(order, "");
        _assertResult(_capture(_order(100, KEEPER, 256), 100, true), IInferenceEscrow.CaptureResult.Captured);
    }

    function test_cancelNonces_neverTouchesHeldOrders() public {
        Order memory order = _order(100, KEEPER, 5);
        _open(order);
        vm.prank(payer);
        escrow.cancelNonces(address(token), KEEPER, 0, type(uint256).max);
        _assertResult(_captureUnsigned(order, 100, true), IInferenceEscrow.CaptureResult.Captured);
    }

    function test_cancelNonces_onlyOnesOwn() public {
        vm.prank(stranger);
        escrow.cancelNonces(address(token), KEEPER, 0, type(uint256).max);
        assertFalse(escrow.nonceSpent(payer, address(token), KEEPER, 5));
    }

    function test_cancelNonces_refusesNothing() public {
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.cancelNonces(address(token), KEEPER, 0, 0);
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.cancelLockNonces(0, 0);
    }

    function test_cancelNonces_whenTheLockIsOverOrSpent() public {
        _lock(100, NOW + 3 days, 0);
        _capture(_order(100, KEEPER, 0), 100, true);
        uint256 drawn = vm.snapshotState();
        vm.prank(payer);
        escrow.cancelNonces(address(token), KEEPER, 0, 2);
        vm.revertToState(drawn);
        _lock(100, NOW + 3 days, 1);
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.LockActive.selector, NOW, NOW + 3 days));
        escrow.cancelNonces(address(token), KEEPER, 0, 2);
        vm.warp(NOW + 3 days);
        escrow.cancelNonces(address(token), KEEPER, 0, 2);
    }

    function testFuzz_nonces_areIndependent(uint256 spent, uint256 other, bytes32 keeperId) public {
        vm.assume(spent != other);
        _assertResult(_capture(_order(1, keeperId, spent), 1, true), IInferenceEscrow.CaptureResult.Captured);
        assertTrue(escrow.nonceSpent(payer, address(token), keeperId, spent));
        assertFalse(escrow.nonceSpent(payer, address(token), keeperId, other));
        assertFalse(escrow.nonceSpent(payer, address(token), ~keeperId, spent));
        assertFalse(escrow.nonceSpent(payer, address(escrow), keeperId, spent));
        assertFalse(escrow.nonceSpent(stranger, address(token), keeperId, spent));
        assertFalse(escrow.lockNonceSpent(payer, spent));
    }
}
