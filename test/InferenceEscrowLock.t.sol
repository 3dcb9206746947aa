// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Lock, Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";
import {Artifacts} from "../script/Artifacts.sol";

contract InferenceEscrowLockTest is InferenceEscrowBase {
    function setUp() public override {
        super.setUp();
        _fund(payer, 1000);
    }

    function test_lock_byThePayer() public {
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Locked(2, payer, address(token), KEEPER, 300, 300, NOW + 1 days, 4);
        _lock(300, NOW + 1 days, 4);
        _assertLock(300, NOW + 1 days);
        _assertAccount(payer, 700, 0);
        assertTrue(escrow.lockNonceSpent(payer, 4));
    }

    function test_lock_byAnyoneWithThePayersSignature() public {
        Lock memory lock = _lockOf(300, NOW + 1 days, 4);
        bytes memory signature = _signLock(lock);
        vm.startPrank(stranger);
        escrow.lock(lock, signature);
        _assertLock(300, NOW + 1 days);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.NonceSpent.selector, 4));
        escrow.lock(lock, signature);
    }

    function test_lock_notWithAnotherSignature() public {
        Lock memory lock = _lockOf(300, NOW + 1 days, 4);
        bytes memory signature = _signLock(lock);
        lock.amount = 301;
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, payer));
        escrow.lock(lock, signature);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, payer));
        escrow.lock(lock, "");
        lock.payer = address(0);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, address(0)));
        escrow.lock(lock, new bytes(65));
    }

    function test_lock_canBeRaisedAndExtended() public {
        _lock(300, NOW + 1 days, 0);
        _lock(200, NOW + 2 days, 1);
        _assertLock(500, NOW + 2 days);
        _lock(0, NOW + 3 days, 2);
        _assertLock(500, NOW + 3 days);
        _assertAccount(payer, 500, 0);
    }

    function test_lock_canNotBeShortened() public {
        _lock(300, NOW + 1 days, 0);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.LockShortened.selector, NOW + 1 days - 1, NOW + 1 days));
        escrow.lock(_lockOf(100, NOW + 1 days - 1, 1), "");
    }

    function test_lock_bounds() public {
        vm.startPrank(payer);
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.LockTooLong.selector, NOW + MAX_LOCK + 1, NOW + MAX_LOCK)
        );
        escrow.lock(_lockOf(1, NOW + MAX_LOCK + 1, 0), "");
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.LockShortened.selector, NOW, NOW + 1));
        escrow.lock(_lockOf(1, NOW, 0), "");
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.lock(_lockOf(0, NOW + 1, 0), "");
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InsufficientFree.selector, 1000, 1001));
        escrow.lock(_lockOf(1001, NOW + 1, 0), "");
        Lock memory nobody = _lockOf(1, NOW + 1, 0);
        nobody.keeperId = 0;
        vm.expectRevert(IInferenceEscrow.LockNeedsKeeper.selector);
        escrow.lock(nobody, "");
        escrow.lock(_lockOf(1000, NOW + MAX_LOCK, 0), "");
    }

    function test_unlock_byAnyoneAfterItsTime() public {
        _lock(300, NOW + 1 days, 0);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.LockActive.selector, NOW, NOW + 1 days));
        escrow.unlock(payer, address(token), KEEPER);
        vm.warp(NOW + 1 days);
        vm.prank(stranger);
        escrow.unlock(payer, address(token), KEEPER);
        _assertLock(0, 0);
        _assertAccount(payer, 1000, 0);
        vm.expectRevert(IInferenceEscrow.NothingLocked.selector);
        escrow.unlock(payer, address(token), KEEPER);
    }

    /// @dev A drawn lock keeps its end, so a new one cannot be shorter than what the keeper was promised.
    function test_lock_drawnToNothingKeepsItsEnd() public {
        _lock(300, NOW + 3 days, 0);
        _capture(_order(300, KEEPER, 0), 300, true);
        _assertLock(0, NOW + 3 days);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.LockShortened.selector, NOW + 1 days, NOW + 3 days));
        escrow.lock(_lockOf(100, NOW + 1 days, 1), "");
    }

    function test_cancelLockNonces_voidsASignedLock() public {
        Lock memory lock = _lockOf(300, NOW + 1 days, 4);
        bytes memory signature = _signLock(lock);
        vm.prank(payer);
        escrow.cancelLockNonces(0, 1 << 4);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.NonceSpent.selector, 4));
        escrow.lock(lock, signature);
    }

    /// @dev Lock nonces are their own: no lock message can void an order.
    function test_attack_lockMessageDoesNotBurnAnOrderNonce() public {
        _lock(300, NOW + 1 days, 7);
        assertFalse(escrow.nonceSpent(payer, address(token), KEEPER, 7));
        _assertResult(_capture(_order(10, KEEPER, 7), 10, true), IInferenceEscrow.CaptureResult.Captured);
    }

    function test_constructor_checksRelations() public {
        IInferenceEscrow.Periods memory periods = _periods();
        bytes memory code = Artifacts.initcode("InferenceEscrow", abi.encode(address(0), periods, permit2, manager));
        vm.expectRevert(IInferenceEscrow.ZeroAddress.selector);
        this.create(code);
        periods.lockTail = periods.maxLock;
        code = Artifacts.initcode("InferenceEscrow", abi.encode(ledger, periods, permit2, manager));
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadPeriods.selector, periods.maxLock, periods.maxLock));
        this.create(code);
        periods.lockTail = periods.maxLock - 1;
        periods.maxPause = periods.pauseGap;
        code = Artifacts.initcode("InferenceEscrow", abi.encode(ledger, periods, permit2, manager));
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadPeriods.selector, PAUSE_GAP, PAUSE_GAP));
        this.create(code);
        periods.maxPause = periods.pauseGap - 1;
        periods.maxOrderLife = periods.minCaptureTime - 1;
        code = Artifacts.initcode("InferenceEscrow", abi.encode(ledger, periods, permit2, manager));
        vm.expectRevert(
            abi.encodeWithSelector(IInferenceEscrow.BadPeriods.selector, MIN_CAPTURE_TIME, MIN_CAPTURE_TIME - 1)
        );
        this.create(code);
        code = Artifacts.initcode("InferenceEscrow", abi.encode(ledger, _periods(), permit2, address(0)));
        vm.expectRevert(IInferenceEscrow.ZeroAddress.selector);
        this.create(code);
    }

    function create(bytes memory code) external {
        Artifacts.create(code);
    }

    function _signLock(Lock memory lock) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, escrow.lockDigest(lock));
        return abi.encodePacked(r, s, v);
    }
}
