// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {DisputeGameBase} from "./DisputeGameBase.sol";

/// @notice A keeper batches a row for less than the node metered. Its capture frees the rest of the order, and the void row brings back
///         only what it had captured.
contract DisputeGameUnderbatchedTest is DisputeGameBase {
    /// @dev The node metered `metered` for an order over 1000; the keeper captured `amount` of it.
    function _underbatched(uint128 metered, uint128 amount, bool held) private returns (Posted memory p) {
        Settlement[] memory evidence = new Settlement[](1);
        evidence[0] = _settlement(node, _order(keeperId, 1), metered);
        if (held) _open(evidence[0].order);
        ISettlementLedger.OrderRow[] memory rows = _rowsOf(evidence);
        rows[0].amount = amount;
        return _postAs(hotKey, keeperId, rows, evidence);
    }

    /// @dev The node takes the hold of the void row and the rest from what the payer has, never more than the order's maximum.
    function testFuzz_nodeIsPaidWhatItMetered_whileThePayerHasIt(uint128 metered, uint128 amount, bool held) public {
        metered = uint128(bound(metered, 1, 1000));
        amount = uint128(bound(amount, 1, 1000));
        uint256 before = _payersMoney();
        Posted memory p = _underbatched(metered, amount, held);
        if (metered != amount) {
            // The receipt does not speak for that row, so nobody can answer.
            _challenge(p, 0);
            vm.expectRevert();
            _answerAs(stranger, p, 0);
            vm.warp(game.rowOf(1, p.leaves[0]).deadline + 1);
            _resolve(p, 0);
            _settle(p.evidence[0]);
        } else {
            vm.warp(block.timestamp + WINDOW);
            ledger.finalize(p.record);
        }
        assertEq(_free(node.payout), metered);
        assertEq(before - _payersMoney(), metered);
        assertEq(escrow.captured(address(token)), 0);
        assertEq(escrow.account(payer, address(token)).held, 0);
    }

    function test_neverMoreThanTheOrder() public {
        Posted memory p = _underbatched(1001, 1, false);
        _void(p, 0);
        vm.expectRevert(_notCapturable(p, IInferenceEscrow.CaptureResult.OverMaximum));
        _settle(p.evidence[0]);
    }

    /// @dev Who bears it: the node that served an order of a payer who took its money away, beyond what the row had captured.
    function test_payerTookTheRest_nodeBearsIt() public {
        Posted memory p = _underbatched(800, 300, true);
        _void(p, 0);
        uint128 free = _free(payer);
        vm.prank(payer);
        escrow.withdraw(address(token), payer, free - 499);
        vm.expectRevert(_notCapturable(p, IInferenceEscrow.CaptureResult.InsufficientBalance));
        _settle(p.evidence[0]);
        assertEq(escrow.account(payer, address(token)).held, 300, "a refusal changes nothing");
        // One unit more, and it is enough: 300 held, 500 free.
        _fund(payer, 1);
        _settle(p.evidence[0]);
        assertEq(_free(node.payout), 800);
        assertEq(_free(payer), 0);
    }

    /// @dev What is locked for the keeper serves its other orders first: strangers reach it in the lock's tail only, the keeper at once.
    function test_restFromTheLock() public {
        Posted memory p = _underbatched(800, 300, true);
        _void(p, 0);
        uint128 free = _free(payer);
        vm.prank(payer);
        escrow.withdraw(address(token), payer, free);
        uint40 until = escrow.lockOf(payer, address(token), keeperId).until;
        uint256 snapshot = vm.snapshotState();
        vm.expectRevert(_notCapturable(p, IInferenceEscrow.CaptureResult.InsufficientBalance));
        _settle(p.evidence[0]);
        assertGt(until - block.timestamp, 1 days);
        vm.warp(until - 1 days);
        _settle(p.evidence[0]);
        assertEq(_free(node.payout), 800);

        vm.revertToState(snapshot);
        uint128 locked = escrow.lockOf(payer, address(token), keeperId).amount;
        vm.prank(hotKey);
        _settle(p.evidence[0]);
        assertEq(_free(node.payout), 800);
        assertEq(locked - escrow.lockOf(payer, address(token), keeperId).amount, 500);
    }

    function _notCapturable(Posted memory p, IInferenceEscrow.CaptureResult reason)
        private
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(ISettlementLedger.NotCapturable.selector, p.leaves[0].paymentId, reason);
    }

    function _payersMoney() private view returns (uint256) {
        IInferenceEscrow.Account memory account = escrow.account(payer, address(token));
        return account.free + account.held + escrow.lockOf(payer, address(token), keeperId).amount;
    }
}
