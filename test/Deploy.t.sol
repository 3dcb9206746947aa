// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {Test} from "forge-std/Test.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {IX402Forwarder} from "../contracts/interfaces/IX402Forwarder.sol";
import {Lock, Order} from "../contracts/libraries/Orders.sol";
import {Deploy} from "../script/Deploy.s.sol";
import {TestToken} from "./mocks/TestToken.sol";

/// @notice What a real network would get: periods, roles and addresses.
contract DeployTest is Test {
    Deploy private _script;
    address private _admin = makeAddr("admin");
    address private _token = makeAddr("bond token");
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
        Deploy.Base memory deployed = _script.base(_admin, _guardian, _token, 100e6);
        assertEq(deployed.escrow.ledger(), address(deployed.ledger));
        assertEq(deployed.ledger.escrow(), address(deployed.escrow));
        assertEq(deployed.ledger.nodes(), address(deployed.nodes));
        assertEq(deployed.ledger.keepers(), address(deployed.keepers));
        assertEq(deployed.ledger.disputes(), address(deployed.game));
        assertEq(deployed.ledger.WINDOW(), 24 hours);
        assertEq(deployed.game.ledger(), address(deployed.ledger));
        assertEq(deployed.game.RESPONSE(), 24 hours);
        assertEq(deployed.game.REOPEN(), 24 hours);
        assertEq(deployed.keepers.ledger(), address(deployed.ledger));
        assertEq(deployed.keepers.disputes(), address(deployed.game));
        assertEq(deployed.keepers.bondToken(), _token);
        assertEq(deployed.keepers.SLASH(), 100e6);
        assertEq(deployed.nodes.mirrorVerifier(), deployed.verifier);

        uint64 admins = _script.ADMIN_ROLE();
        (bool isAdmin, uint32 delay) = deployed.manager.hasRole(admins, _admin);
        assertTrue(isAdmin);
        assertEq(delay, 7 days);
        assertEq(deployed.ledger.feeBps(), 0);
        assertEq(deployed.ledger.feeRecipient(), address(deployed.splitter));
        assertEq(deployed.splitter.escrow(), address(deployed.escrow));
        assertEq(deployed.escrow.authority(), address(deployed.manager));
        (bool senderIsAdmin,) = deployed.manager.hasRole(admins, DEFAULT_SENDER);
        assertFalse(senderIsAdmin);
        (bool isGuardian,) = deployed.manager.hasRole(_script.GUARDIAN_ROLE(), _guardian);
        assertTrue(isGuardian);
    }

    function test_base_shortPeriods_revert() public {
        Deploy.Periods memory periods = _script.production();
        periods.window = 24 hours - 1;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "window", 24 hours - 1, 24 hours));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);

        periods = _script.production();
        periods.response = 24 hours - 1;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "response", 24 hours - 1, 24 hours));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);

        periods = _script.production();
        periods.escrow.minCaptureTime = 1;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "minCaptureTime", 1, 10 minutes));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);

        periods = _script.production();
        periods.escrow.maxLock = 8 days;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooLong.selector, "maxLock", 8 days, 7 days));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);
    }

    function test_base_adminDelay_isLongerThanAnyDispute() public {
        Deploy.Periods memory periods = _script.production();
        periods.adminDelay = 144 hours;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "adminDelay", 144 hours, 144 hours + 1));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);
        periods.response = 48 hours;
        periods.adminDelay = 168 hours;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooShort.selector, "adminDelay", 168 hours, 168 hours + 1));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);
        periods.escrow.maxOrderLife = 24 hours;
        periods.escrow.maxLock = 121 hours + 1;
        periods.adminDelay = 120 hours + 1;
        vm.expectRevert(abi.encodeWithSelector(Deploy.PeriodTooLong.selector, "maxLock", 121 hours + 1, 120 hours + 1));
        _script.base(_admin, _guardian, Deploy.Bonds(_token, 100e6), periods);
    }

    /// @dev Whatever was opened, held or locked when the admin shows what it wants can be taken back before it comes true; a signed order
    ///      is over by then.
    function test_noOrderOutlivesTheAdminsDelay() public {
        vm.warp(1_800_000_000);
        Deploy.Base memory deployed = _script.base(_admin, _guardian, _token, 100e6);
        (address payer, uint256 key) = makeAddrAndKey("payer");
        TestToken token = new TestToken();
        token.mint(address(this), 3000);
        token.approve(address(deployed.escrow), 3000);
        deployed.escrow.deposit(address(token), payer, 3000);
        uint40 nowAt = uint40(block.timestamp);
        uint40 longest = nowAt + deployed.escrow.MAX_ORDER_LIFE();
        Order memory order =
            Order(payer, address(token), 1000, keccak256("request"), 0, 0, nowAt, nowAt + 1, longest, 0);
        vm.prank(payer);
        deployed.escrow.openOrder(order, "");
        Lock memory lock_ = Lock(payer, address(token), keccak256("keeper"), 1000, nowAt + 7 days, 0);
        vm.prank(payer);
        deployed.escrow.lock(lock_, "");

        vm.prank(_admin);
        (bytes32 operation,) = deployed.manager
            .schedule(address(deployed.nodes), abi.encodeCall(INodeRegistry.setMirrors, (new address[](1), 1)), 0);
        vm.warp(deployed.manager.getSchedule(operation));
        deployed.escrow.reclaim(order);
        deployed.escrow.unlock(payer, address(token), lock_.keeperId);
        assertEq(deployed.escrow.account(payer, address(token)).free, 3000);

        order.nonce = 1;
        (bytes32 r, bytes32 vs) = vm.signCompact(key, deployed.escrow.orderId(order));
        vm.prank(address(deployed.ledger));
        (IInferenceEscrow.CaptureResult result,) = deployed.escrow.capture(order, r, vs, 1000, true);
        assertEq(uint8(result), uint8(IInferenceEscrow.CaptureResult.DeadlinePassed));
        order.captureDeadline = uint40(block.timestamp);
        (r, vs) = vm.signCompact(key, deployed.escrow.orderId(order));
        vm.prank(address(deployed.ledger));
        (result,) = deployed.escrow.capture(order, r, vs, 1000, true);
        assertEq(uint8(result), uint8(IInferenceEscrow.CaptureResult.BadTimes), "no later deadline would have helped");
    }

    /// @dev The admin waits, at the very function; nobody else gets in.
    function test_admin_waitsItsDelay() public {
        Deploy.Base memory deployed = _script.base(_admin, _guardian, _token, 100e6);
        address treasury = address(deployed.splitter);
        bytes memory call_ = abi.encodeCall(deployed.ledger.setFee, (100, treasury));
        address ledger = address(deployed.ledger);
        vm.prank(_admin);
        vm.expectPartialRevert(IAccessManager.AccessManagerNotScheduled.selector);
        deployed.ledger.setFee(100, treasury);
        vm.prank(_admin);
        (bytes32 operation,) = deployed.manager.schedule(ledger, call_, 0);
        assertEq(deployed.manager.getSchedule(operation), block.timestamp + 7 days);
        skip(7 days - 1);
        vm.prank(_admin);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotReady.selector, operation));
        deployed.ledger.setFee(100, treasury);
        skip(1);
        vm.prank(_admin);
        deployed.ledger.setFee(100, treasury);
        assertEq(deployed.ledger.feeBps(), 100);
    }

    /// @dev Not even with a new role does the admin come sooner: giving it waits as well.
    function test_admin_cannotGiveItselfARoleAtOnce() public {
        Deploy.Base memory deployed = _script.base(_admin, _guardian, _token, 100e6);
        vm.startPrank(_admin);
        vm.expectPartialRevert(IAccessManager.AccessManagerNotScheduled.selector);
        deployed.manager.grantRole(0, makeAddr("friend"), 0);
        vm.expectPartialRevert(IAccessManager.AccessManagerNotScheduled.selector);
        deployed.manager.setTargetFunctionRole(address(deployed.ledger), new bytes4[](1), 1);
        vm.expectPartialRevert(IAccessManager.AccessManagerNotScheduled.selector);
        deployed.manager.updateAuthority(address(deployed.ledger), _admin);
        vm.expectPartialRevert(IAccessManager.AccessManagerNotScheduled.selector);
        deployed.manager.setTargetClosed(address(deployed.nodes), true);
        vm.stopPrank();
    }

    function test_guardian_pausesAndRevokes_atOnce_andNothingElse() public {
        Deploy.Base memory deployed = _script.base(_admin, _guardian, _token, 100e6);
        vm.warp(1_800_000_000);
        vm.startPrank(_guardian);
        deployed.escrow.pause(uint40(block.timestamp) + 7 days);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.UnknownNode.selector, bytes32(0)));
        deployed.nodes.revoke(0);
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, _guardian));
        deployed.ledger.setFee(0, _guardian);
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, _guardian));
        deployed.nodes.setVerifier(_guardian, true);
        vm.stopPrank();
    }

    function test_base_deployerIsNotAdmin() public {
        vm.expectRevert(abi.encodeWithSelector(Deploy.AdminDeploys.selector, DEFAULT_SENDER));
        _script.base(DEFAULT_SENDER, _guardian, _token, 100e6);
    }

    function test_forwarder_hasOneAddress_forOwnerAndKeys() public {
        address[] memory keys = new address[](2);
        (keys[0], keys[1]) = (makeAddr("key 0"), makeAddr("key 1"));
        uint256 before = vm.snapshotState();
        IX402Forwarder first = _script.forwarder(_admin, keys);
        assertEq(first.owner(), _admin);
        assertTrue(first.isKey(keys[0]) && first.isKey(keys[1]));
        vm.revertToState(before);
        vm.setNonce(DEFAULT_SENDER, 77);
        assertEq(address(_script.forwarder(_admin, keys)), address(first));
        keys[1] = _admin;
        vm.expectRevert(abi.encodeWithSelector(Deploy.OwnerForwards.selector, _admin));
        _script.forwarder(_admin, keys);
    }

    function test_base_needsAdminAndGuardian() public {
        vm.expectRevert(Deploy.ZeroAddress.selector);
        _script.base(address(0), _guardian, _token, 100e6);
        vm.expectRevert(Deploy.ZeroAddress.selector);
        _script.base(_admin, address(0), _token, 100e6);
        vm.expectRevert(Deploy.ZeroAddress.selector);
        _script.base(_admin, _guardian, address(0), 100e6);
        vm.expectRevert(Deploy.ZeroSlash.selector);
        _script.base(_admin, _guardian, _token, 0);
    }
}
