// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";
import {BlacklistToken, SenderFeeToken} from "./mocks/HostileTokens.sol";

contract InferenceEscrowWithdrawTest is InferenceEscrowBase {
    function test_withdraw_toAnyAddress() public {
        _fund(payer, 100);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Withdrawn(2, payer, address(token), stranger, 60);
        vm.prank(payer);
        escrow.withdraw(address(token), stranger, 60);
        assertEq(token.balanceOf(stranger), 60);
        _assertAccount(payer, 40, 0);
    }

    function test_withdraw_onlyWhatIsFree() public {
        _fund(payer, 100);
        _lock(30, NOW + 1 days, 0);
        _open(_order(50, KEEPER, 0));
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InsufficientFree.selector, 20, 21));
        escrow.withdraw(address(token), payer, 21);
        escrow.withdraw(address(token), payer, 20);
    }

    function test_withdraw_onlyOnesOwn() public {
        _fund(payer, 100);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.InsufficientFree.selector, 0, 1));
        escrow.withdraw(address(token), stranger, 1);
    }

    function test_withdraw_refusesZeroesAndItself() public {
        _fund(payer, 100);
        vm.startPrank(payer);
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.withdraw(address(token), payer, 0);
        vm.expectRevert(IInferenceEscrow.ZeroAddress.selector);
        escrow.withdraw(address(token), address(0), 1);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.TransferMismatch.selector, 0, 1));
        escrow.withdraw(address(token), address(escrow), 1);
    }

    /// @dev A token that charges the sender would charge the other payers.
    function test_withdraw_refusesATokenThatTakesMore() public {
        SenderFeeToken greedy = new SenderFeeToken();
        greedy.mint(address(this), 10_000);
        greedy.approve(address(escrow), 2000);
        escrow.deposit(address(greedy), payer, 1000);
        escrow.deposit(address(greedy), stranger, 1000);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.TransferMismatch.selector, 1010, 1000));
        escrow.withdraw(address(greedy), payer, 1000);
    }

    /// @dev A blacklisted payer leaves to another address, and holds up nobody else.
    function test_withdraw_aroundABlacklist() public {
        BlacklistToken strict = new BlacklistToken();
        strict.mint(address(this), 200);
        strict.approve(address(escrow), 200);
        escrow.deposit(address(strict), payer, 100);
        escrow.deposit(address(strict), stranger, 100);
        strict.list(payer, true);
        vm.startPrank(payer);
        vm.expectRevert(BlacklistToken.Listed.selector);
        escrow.withdraw(address(strict), payer, 100);
        escrow.withdraw(address(strict), node, 100);
        vm.stopPrank();
        vm.prank(stranger);
        escrow.withdraw(address(strict), stranger, 100);
    }

    /// @dev Whatever was locked, held or opened, everything is out once the times have passed, with the payer's own calls alone.
    function testFuzz_exit_isAlwaysPossible(uint128 locked, uint128 held, uint40 until, uint40 deadline) public {
        locked = uint128(bound(locked, 1, 1e30));
        held = uint128(bound(held, 1, 1e30));
        until = uint40(bound(until, NOW + 1, NOW + MAX_LOCK));
        deadline = uint40(bound(deadline, NOW + 1 hours, NOW + MAX_ORDER_LIFE));
        _fund(payer, locked + held + 5);
        _lock(locked, until, 0);
        Order memory order = _order(held, KEEPER, 1);
        order.captureDeadline = deadline;
        _open(order);
        vm.startPrank(payer);
        escrow.withdraw(address(token), payer, 5);
        vm.warp(until);
        escrow.unlock(payer, address(token), KEEPER);
        vm.warp(uint256(deadline) + 1);
        escrow.reclaim(order);
        escrow.withdraw(address(token), payer, locked + held);
        assertEq(token.balanceOf(payer), uint256(locked) + held + 5);
    }
}
