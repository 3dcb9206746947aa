// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {Deploy} from "../script/Deploy.s.sol";

/// @notice What a real network would get: periods, roles and addresses.
contract DeployTest is Test {
    Deploy private _script;
    address private _admin = makeAddr("admin");
    address private _guardian = makeAddr("guardian");

    function setUp() public {
        // As on a real network, where the deterministic deployer stands.
        vm.etch(
            0x4e59b44847b379578588920cA78FbF26c0B4956C,
            hex"7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
        );
        _script = new Deploy();
    }

    function test_productionPeriods_passTheirFloors() public view {
        _script.check(_script.production());
    }

    function test_base_contractsKnowEachOther_andTheDeployerKeepsNothing() public {
        Deploy.Base memory deployed = _script.base(_admin, _guardian);
        assertEq(deployed.escrow.ledger(), address(deployed.ledger));
        assertEq(deployed.ledger.escrow(), address(deployed.escrow));
        assertEq(deployed.ledger.nodes(), address(deployed.nodes));
        assertEq(deployed.ledger.keepers(), address(deployed.keepers));
        assertEq(deployed.ledger.WINDOW(), 24 hours);
        assertEq(deployed.nodes.mirrorVerifier(), deployed.verifier);

        uint64 admins = _script.ADMIN_ROLE();
        (bool isAdmin,) = deployed.manager.hasRole(admins, _admin);
        assertTrue(isAdmin);
        (bool senderIsAdmin,) = deployed.manager.hasRole(admins, DEFAULT_SENDER);
        assertFalse(senderIsAdmin);
        (bool isGuardian,) = deployed.manager.hasRole(_script.GUARDIAN_ROLE(), _guardian);
        assertTrue(isGuardian);
    }

    function test_base_shortPeriods_revert() public {
        Deploy.Periods memory periods = _script.production();
        periods.window = 24 hours - 1;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "window", 24 hours - 1, 24 hours));
        _script.base(_admin, _guardian, periods);

        periods = _script.production();
        periods.escrow.minCaptureTime = 1;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "minCaptureTime", 1, 10 minutes));
        _script.base(_admin, _guardian, periods);

        periods = _script.production();
        periods.escrow.maxLock = 8 days;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooLong.selector, "maxLock", 8 days, 7 days));
        _script.base(_admin, _guardian, periods);
    }

    function test_base_needsAdminAndGuardian() public {
        vm.expectRevert(Deploy.ZeroAddress.selector);
        _script.base(address(0), _guardian);
        vm.expectRevert(Deploy.ZeroAddress.selector);
        _script.base(_admin, address(0));
    }
}
