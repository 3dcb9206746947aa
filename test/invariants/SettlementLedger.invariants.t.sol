// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {TestToken} from "../mocks/TestToken.sol";
import {SettlementLedgerHandler} from "./SettlementLedgerHandler.sol";

/// @notice What holds after any sequence of actions, with the real escrow, registries and verifier.
contract SettlementLedgerInvariants is Test {
    SettlementLedgerHandler private _handler;
    ISettlementLedger private _ledger;
    IInferenceEscrow private _escrow;
    TestToken private _token;

    function setUp() public {
        _handler = new SettlementLedgerHandler();
        _handler.setUp();
        (address ledger, address escrow, address token) = _handler.contracts();
        (_ledger, _escrow, _token) = (ISettlementLedger(ledger), IInferenceEscrow(escrow), TestToken(token));
        bytes4[] memory actions = new bytes4[](12);
        actions[0] = _handler.deposit.selector;
        actions[1] = _handler.withdraw.selector;
        actions[2] = _handler.lock.selector;
        actions[3] = _handler.unlock.selector;
        actions[4] = _handler.hold.selector;
        actions[5] = _handler.reclaim.selector;
        actions[6] = _handler.cancel.selector;
        actions[7] = _handler.settle.selector;
        actions[8] = _handler.replay.selector;
        actions[9] = _handler.batch.selector;
        actions[10] = _handler.finalize.selector;
        actions[11] = _handler.pass.selector;
        targetContract(address(_handler));
        targetSelector(FuzzSelector(address(_handler), actions));
        _handler.setFee(37);
    }

    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_books() public view {
        uint256 balance = _token.balanceOf(address(_escrow));
        assertEq(balance, _handler.deposited() - _handler.withdrawn(), "deposits - withdrawals");
        assertEq(balance, _handler.accounts() + _escrow.captured(address(_token)), "sum of accounts and captured");
        assertEq(_escrow.captured(address(_token)), _handler.openTotal(), "captured = open batches");
        assertEq(
            _handler.capturedTotal(),
            _handler.creditedTotal() + _handler.openTotal(),
            "captured = credits and fees + open"
        );
        assertFalse(_handler.paidTwice(), "a settlement id is paid once");
        assertFalse(_handler.rowMismatch(), "a bad row stops no other, and no good row is skipped");
        assertFalse(_handler.gap(), "sequence numbers are contiguous");
        assertEq(_ledger.seq(), _handler.ledgerSeq());
        assertEq(_ledger.effectSeq(), _handler.effects());
        assertEq(_escrow.seq(), _handler.escrowSeq());
        assertEq(_ledger.accumulator(), _handler.fold(), "accumulator = fold of events");
    }

    /// @dev The actions reach what they are for, so the invariants are not about an idle system.
    function test_actionsSettle() public {
        _handler.lock(0, 5e8);
        _handler.settle(0, false, false, false, 400);
        _handler.hold(0, false);
        _handler.settle(0, false, true, false, 400);
        _handler.replay(1, true, true);
        assertEq(_handler.verifiedCount(), 2);
        _handler.batch(8, 0x15, 0);
        assertEq(_handler.batchesPosted(), 1);
        assertEq(_handler.openTotal(), 2500);
        _handler.finalize(0, true);
        assertEq(_handler.openTotal(), 2500, "too early");
        _handler.finalize(0, false);
        assertEq(_handler.openTotal(), 0);
        assertEq(_handler.effects(), 4);
        invariant_books();
        _handler.exitAll();
    }

    /// @dev From whatever state: reclaim, unlock, withdraw, and no payer's money stays.
    function afterInvariant() public {
        _handler.exitAll();
    }
}
