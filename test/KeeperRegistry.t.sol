// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {Artifacts} from "../script/Artifacts.sol";

contract KeeperRegistryTest is Test {
    IKeeperRegistry private _registry =
        IKeeperRegistry(Artifacts.deploy("KeeperRegistry", abi.encode(address(1), address(2), address(3), 100e6)));
    address private _owner = makeAddr("owner");
    address private _payout = makeAddr("payout");
    address private _hot = makeAddr("hot");
    bytes32 private constant SALT = "first";

    function test_constructor_refusesZeroes() public {
        for (uint256 i; i < 3; ++i) {
            address[3] memory at = [address(1), address(2), address(3)];
            at[i] = address(0);
            bytes memory code = Artifacts.initcode("KeeperRegistry", abi.encode(at[0], at[1], at[2], 100e6));
            vm.expectRevert(IKeeperRegistry.ZeroAddress.selector);
            this.create(code);
        }
    }

    function create(bytes memory code) external {
        Artifacts.create(code);
    }

    function test_register() public {
        vm.warp(1_800_000_000);
        bytes32 expected = keccak256(abi.encode(_owner, SALT));
        vm.expectEmit(address(_registry));
        emit IKeeperRegistry.KeeperRegistered(1, expected, _owner, _payout);
        vm.expectEmit(address(_registry));
        emit IKeeperRegistry.HotKeySet(2, expected, _hot, true);
        bytes32 id = _register();
        assertEq(id, expected);
        assertEq(id, _registry.keeperIdOf(_owner, SALT));
        IKeeperRegistry.Keeper memory keeper = _registry.keeper(id);
        assertEq(keeper.owner, _owner);
        assertEq(keeper.payout, _payout);
        assertEq(keeper.pendingOwner, address(0));
        assertEq(keeper.registeredAt, 1_800_000_000);
        assertTrue(_registry.isHotKey(id, _hot));
        assertFalse(_registry.isHotKey(id, _owner));
        assertEq(_registry.seq(), 2);
    }

    function test_register_refusals() public {
        bytes32 id = _register();
        address[] memory none;
        vm.startPrank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.KeeperExists.selector, id));
        _registry.register(SALT, _payout, none);
        vm.expectRevert(IKeeperRegistry.ZeroAddress.selector);
        _registry.register("second", address(0), none);
        vm.expectRevert(IKeeperRegistry.ZeroAddress.selector);
        _registry.register("second", _payout, new address[](1));
        assertTrue(_registry.register("second", _payout, none) != id);
        vm.stopPrank();
        // Nobody can take another owner's id.
        assertTrue(_registry.register(SALT, _payout, none) != id);
    }

    function test_hotKeys_rotate() public {
        bytes32 id = _register();
        vm.startPrank(_owner);
        _registry.setHotKey(id, makeAddr("next"), true);
        _registry.setHotKey(id, _hot, false);
        vm.expectRevert(IKeeperRegistry.ZeroAddress.selector);
        _registry.setHotKey(id, address(0), true);
        vm.stopPrank();
        assertFalse(_registry.isHotKey(id, _hot));
        assertTrue(_registry.isHotKey(id, makeAddr("next")));
        assertFalse(_registry.isHotKey(bytes32(uint256(1)), makeAddr("next")));
    }

    function test_ownership_twoSteps() public {
        bytes32 id = _register();
        address next = makeAddr("next");
        vm.prank(_owner);
        _registry.transferOwnership(id, next);
        assertEq(_registry.keeper(id).owner, _owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotPendingOwner.selector, address(this), next));
        _registry.acceptOwnership(id);
        vm.prank(next);
        _registry.acceptOwnership(id);
        assertEq(_registry.keeper(id).owner, next);
        assertEq(_registry.keeper(id).pendingOwner, address(0));
        vm.prank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotOwner.selector, _owner, next));
        _registry.setPayout(id, _owner);
        vm.prank(next);
        _registry.setPayout(id, next);
        assertEq(_registry.keeper(id).payout, next);
    }

    function test_onlyOwner() public {
        bytes32 id = _register();
        bytes memory refusal = abi.encodeWithSelector(IKeeperRegistry.NotOwner.selector, _hot, _owner);
        vm.startPrank(_hot);
        vm.expectRevert(refusal);
        _registry.setHotKey(id, _hot, true);
        vm.expectRevert(refusal);
        _registry.setPayout(id, _hot);
        vm.expectRevert(refusal);
        _registry.transferOwnership(id, _hot);
        bytes32 unknown = bytes32(uint256(1));
        refusal = abi.encodeWithSelector(IKeeperRegistry.UnknownKeeper.selector, unknown);
        vm.expectRevert(refusal);
        _registry.setPayout(unknown, _hot);
        vm.expectRevert(refusal);
        _registry.acceptOwnership(unknown);
        vm.stopPrank();
        vm.prank(_owner);
        vm.expectRevert(IKeeperRegistry.ZeroAddress.selector);
        _registry.setPayout(id, address(0));
    }

    function _register() private returns (bytes32) {
        address[] memory hotKeys = new address[](1);
        hotKeys[0] = _hot;
        vm.prank(_owner);
        return _registry.register(SALT, _payout, hotKeys);
    }
}
