// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {ProtocolHandler} from "./ProtocolHandler.sol";

/// @notice The whole protocol in random interleavings: nobody honest ever loses more than the README says.
/// @dev A few runs with every test, many with `FOUNDRY_PROFILE=nightly`, which script/nightly sets.
contract ProtocolInvariants is Test {
    ProtocolHandler private _handler;

    function setUp() public {
        _handler = new ProtocolHandler();
        _handler.setUp();
        targetContract(address(_handler));
        bytes4[] memory actions = new bytes4[](22);
        actions[0] = _handler.order.selector;
        actions[1] = _handler.answer.selector;
        actions[2] = _handler.honestBatch.selector;
        actions[3] = _handler.evilBatch.selector;
        actions[4] = _handler.settle.selector;
        actions[5] = _handler.annoy.selector;
        actions[6] = _handler.finalize.selector;
        actions[7] = _handler.reclaim.selector;
        actions[8] = _handler.deposit.selector;
        actions[9] = _handler.withdraw.selector;
        actions[10] = _handler.lock.selector;
        actions[11] = _handler.unlock.selector;
        actions[12] = _handler.rotateMeterKey.selector;
        actions[13] = _handler.changePayout.selector;
        actions[14] = _handler.guard.selector;
        actions[15] = _handler.administrate.selector;
        actions[16] = _handler.forge.selector;
        actions[17] = _handler.tryForgeries.selector;
        actions[18] = _handler.sellOut.selector;
        actions[19] = _handler.overmeter.selector;
        actions[20] = _handler.tendBond.selector;
        actions[21] = _handler.pass.selector;
        targetSelector(FuzzSelector(address(_handler), actions));
        // Business more often than trouble.
        actions = new bytes4[](10);
        for (uint256 i; i < 4; ++i) {
            (actions[2 * i], actions[2 * i + 1]) = (_handler.order.selector, _handler.answer.selector);
        }
        (actions[8], actions[9]) = (_handler.honestBatch.selector, _handler.evilBatch.selector);
        targetSelector(FuzzSelector(address(_handler), actions));
    }

    /// @dev Checklist 1, 4, 20, 21, 38, 39, 40, 49.
    /// forge-config: default.invariant.runs = 12
    /// forge-config: default.invariant.depth = 128
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: nightly.invariant.runs = 500
    /// forge-config: nightly.invariant.depth = 128
    /// forge-config: nightly.invariant.fail-on-revert = true
    function invariant_nobodyHonestLosesMoreThanTheReadmeSays() public view {
        assertFalse(_handler.unprovenPaid(), "a row that nobody proved was paid");
        assertFalse(_handler.realRefused(), "a receipt that is real was refused");
        assertFalse(_handler.overcharged(), "an order was charged twice, or over its maximum");
        assertFalse(_handler.forgeryPaid(), "an order outlived the admin's delay");
        _handler.checkStakes();
    }

    /// @dev From wherever a run ended: everybody leaves with exactly its own.
    function afterInvariant() public {
        _handler.leave();
        assertFalse(_handler.unprovenPaid(), "a row that nobody proved was paid");
        assertFalse(_handler.realRefused(), "a receipt that is real was refused");
    }

    /// @dev The actions reach what they are for, so the invariant is not about an idle system.
    function test_actionsReachWhatTheyAreFor() public {
        _handler.lock(0, 5e8);
        // Signed, for the honest keeper; held, for the other; held, for no keeper.
        _handler.order(0, 0x000101, 800);
        _handler.order(1, 0x020001, 800);
        _handler.order(2, 0x020001, 700);
        _handler.order(1, 0x030001, 600);
        for (uint256 i; i < 4; ++i) {
            _handler.answer(i, 500);
        }
        assertEq(_handler.answersGiven(), 4);
        _handler.changePayout(true);
        _handler.honestBatch(5);
        assertEq(_handler.rowsRecorded(), 1);
        _handler.rotateMeterKey(7);
        _handler.settle(3, false);
        assertEq(_handler.verified(), 1);
        // One unit of each of two held orders.
        _handler.evilBatch(0x020201);
        assertEq(_handler.rowsStolen(), 2);
        _handler.annoy(0, 0);
        _handler.administrate(50);
        _handler.pass(36 hours);
        _handler.pass(36 hours);
        assertEq(_handler.answered(), 1);
        assertEq(_handler.challenges(), 3);
        assertEq(_handler.voids(), 2);
        assertEq(_handler.verified(), 3, "the node took what it had metered");
        assertEq(_handler.nodeBore(), 0);
        _handler.finalize(0);
        _handler.finalize(1);
        assertEq(_handler.finals(), 2);

        _handler.order(2, 0x000001, 900);
        _handler.order(2, 0x000001, 900);
        _handler.answer(4, 100);
        _handler.forge(0);
        // Its payer has seen what the admin will do.
        _handler.order(2, 0x000001, 900);
        uint256 state = vm.snapshotState();
        _handler.sellOut(0);
        assertEq(_handler.takeovers(), 1);
        _handler.overmeter(4);
        assertEq(
            _handler.verified(), 4, "what is not settled yet goes to whoever has the node, within the order's maximum"
        );
        assertEq(_handler.chargedOf(2), 500 + 900);
        vm.revertToState(state);
        for (uint256 i; i < 5; ++i) {
            _handler.pass(36 hours);
        }
        _handler.forge(0);
        _handler.tryForgeries();
        assertEq(_handler.forgeries(), 6);
        _handler.guard(16);
        _handler.guard(1);
        invariant_nobodyHonestLosesMoreThanTheReadmeSays();
        afterInvariant();
    }
}
