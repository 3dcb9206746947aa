// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {HostileGovernanceHandler} from "./HostileGovernanceHandler.sol";

/// @notice Checklist 20, 42, 49: no function lets an admin or a guardian move, freeze or redirect deposited money, whatever they call in
///         whatever order and however little they wait.
contract HostileGovernanceInvariants is Test {
    HostileGovernanceHandler private _handler;

    function setUp() public {
        _handler = new HostileGovernanceHandler();
        _handler.setUp();
        bytes4[] memory actions = new bytes4[](12);
        actions[0] = _handler.attack.selector;
        actions[1] = _handler.deposit.selector;
        actions[2] = _handler.withdraw.selector;
        actions[3] = _handler.open.selector;
        actions[4] = _handler.lock.selector;
        actions[5] = _handler.unlock.selector;
        actions[6] = _handler.reclaim.selector;
        actions[7] = _handler.pass.selector;
        actions[8] = _handler.batch.selector;
        actions[9] = _handler.finalize.selector;
        actions[10] = _handler.attack.selector;
        actions[11] = _handler.batch.selector;
        targetContract(address(_handler));
        targetSelector(FuzzSelector(address(_handler), actions));
    }

    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_privilegedCallsTouchNobodysMoney() public view {
        assertFalse(_handler.moved(), "a privileged call changed somebody's money");
        assertFalse(_handler.overcharged(), "a capture that its payer did not sign");
        assertFalse(_handler.misrouted(), "a batch was not paid as recorded");
        _handler.check();
    }

    /// @dev From wherever a run ended: everybody gets out, exactly.
    function afterInvariant() public {
        _handler.leave();
        assertFalse(_handler.misrouted(), "a batch was not paid as recorded");
    }

    /// @dev Each privileged function of the table alone, with many arguments: it lands, and touches nobody's money. A function that the
    ///      table names and `Attacks` does not know fails here.
    function test_everyPrivilegedFunction_lands_andTouchesNobodysMoney() public {
        _handler.lock(0, 5e8, 3 days);
        _handler.open(1, 1 hours, true);
        _handler.batch(3, 0);
        uint256 count = _handler.attackCount();
        assertGe(count, 19);
        for (uint256 i; i < count; ++i) {
            uint256 state = vm.snapshotState();
            for (uint256 seed; seed < 24; ++seed) {
                _handler.strike(i, uint256(keccak256(abi.encode(i, seed))));
                // A guardian may do so once in 30 days, and a node can be revoked once.
                skip(31 days);
            }
            assertFalse(_handler.moved(), _handler.attackFunctions(i));
            bool direct = keccak256(bytes(_handler.attackFunctions(i))) != keccak256("setAuthority(address)");
            assertEq(_handler.landedAt(i) != 0, direct, _handler.attackFunctions(i));
            _handler.leave();
            vm.revertToState(state);
        }
    }

    /// @dev The actions reach what they are for: the invariant is not about an idle system.
    function test_actionsSettleAndPay() public {
        _handler.lock(0, 5e8, 3 days);
        _handler.open(1, 1 hours, true);
        _handler.batch(6, 0);
        assertGt(_handler.captures(), 0);
        _handler.attack(1, 2);
        _handler.pass(2 days);
        _handler.finalize(0);
        assertEq(_handler.finalized(), 1);
        _handler.check();
        _handler.leave();
        assertFalse(_handler.misrouted());
    }
}
