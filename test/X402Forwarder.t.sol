// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";
import {DevUSDC} from "../contracts/devnet/DevUSDC.sol";
import {IX402Forwarder} from "../contracts/interfaces/IX402Forwarder.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @dev What a hostile token or proxy could do to whoever calls it.
contract Target {
    event Ran(uint256 value, address sender);

    error No(uint256 value);

    uint256 public calls;

    function run(uint256 value) external {
        ++calls;
        emit Ran(value, msg.sender);
    }

    function refuse(uint256 value) external {
        ++calls;
        revert No(value);
    }

    function silent() external pure {
        assembly {
            revert(0, 0)
        }
    }

    function burn() external pure {
        assembly {
            invalid()
        }
    }

    /// @dev Reverts or returns with as many bytes as asked for.
    function bomb(uint256 size, bool succeed) external pure {
        assembly {
            for { let i := 0 } lt(i, size) { i := add(i, 0x20) } { mstore(i, not(i)) }
            if succeed { return(0, size) }
            revert(0, size)
        }
    }

    /// @dev Succeeds only with this much gas.
    function need(uint256 amount) external {
        require(gasleft() >= amount, "starved");
        ++calls;
    }

    function reenter(IX402Forwarder forwarder) external {
        forwarder.forward(new IX402Forwarder.Call[](1));
    }

    /// @dev Answers a reentrant call as a success although it was refused.
    function tryReenter(IX402Forwarder forwarder, IX402Forwarder.Call[] calldata inner) external returns (bool done) {
        (done,) = address(forwarder).call(abi.encodeCall(forwarder.forward, (inner)));
        require(!done, "forwarded twice");
    }
}

contract X402ForwarderTest is Test {
    IX402Forwarder private _forwarder;
    Target private _target = new Target();
    address private _owner = makeAddr("owner");
    address private _key = makeAddr("key");
    address private _other = makeAddr("other key");
    address private _stranger = makeAddr("stranger");
    uint64 private constant GAS = 100_000;

    function setUp() public {
        address[] memory keys = new address[](2);
        (keys[0], keys[1]) = (_key, _other);
        _forwarder = IX402Forwarder(Artifacts.deploy("X402Forwarder", abi.encode(_owner, keys)));
    }

    // ── Forwarding ───────────────────────────────────────────────────────────────────────────────────────────────────

    function test_forward_makesCallsInOrder_asItself() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](2);
        calls[0] = _item(1, abi.encodeCall(Target.run, (7)));
        calls[1] = _item(2, abi.encodeCall(Target.run, (8)));
        vm.expectEmit(address(_target));
        emit Target.Ran(7, address(_forwarder));
        vm.expectEmit(address(_forwarder));
        emit IX402Forwarder.Forwarded(bytes32(uint256(1)), true, "");
        vm.expectEmit(address(_target));
        emit Target.Ran(8, address(_forwarder));
        vm.expectEmit(address(_forwarder));
        emit IX402Forwarder.Forwarded(bytes32(uint256(2)), true, "");
        IX402Forwarder.Result[] memory results = _forward(_key, calls);
        assertEq(results.length, 2);
        assertTrue(results[0].success && results[1].success);
        assertEq(results[0].reason.length + results[1].reason.length, 0);
        assertEq(_target.calls(), 2);
    }

    /// @dev One bad of many: its own effects are gone, the others stand and keep their logs to themselves.
    function test_forward_aFailingCallStopsNoneOfTheOthers() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](7);
        calls[0] = _item(0, abi.encodeCall(Target.run, (0)));
        calls[1] = _item(1, abi.encodeCall(Target.refuse, (1)));
        calls[2] = _item(2, abi.encodeCall(Target.silent, ()));
        calls[3] = _item(3, abi.encodeCall(Target.burn, ()));
        calls[4] = _item(4, "no such function");
        calls[5] = IX402Forwarder.Call(bytes32(uint256(5)), makeAddr("nobody"), GAS, "");
        calls[6] = _item(6, abi.encodeCall(Target.run, (6)));
        vm.recordLogs();
        IX402Forwarder.Result[] memory results = _forward(_other, calls);
        Vm.Log[] memory logs = vm.getRecordedLogs();

        for (uint256 i; i < calls.length; ++i) {
            assertEq(results[i].success, i == 0 || i == 6);
        }
        assertEq(results[1].reason, abi.encodeWithSelector(Target.No.selector, 1));
        for (uint256 i = 2; i < 5; ++i) {
            assertEq(results[i].reason.length, 0);
        }
        assertEq(results[5].reason, abi.encodeWithSelector(IX402Forwarder.NoCode.selector, makeAddr("nobody")));
        assertEq(_target.calls(), 2);
        // Ran, 0, 1, 2, 3, 4, 5, Ran, 6
        assertEq(logs.length, 9);
        uint256 id;
        for (uint256 i; i < logs.length; ++i) {
            if (i == 0 || i == 7) {
                assertEq(logs[i].emitter, address(_target));
                continue;
            }
            assertEq(logs[i].emitter, address(_forwarder));
            assertEq(logs[i].topics[0], IX402Forwarder.Forwarded.selector);
            assertEq(logs[i].topics[1], bytes32(id));
            assertEq(logs[i].data, abi.encode(results[id].success, results[id].reason));
            ++id;
        }
    }

    function test_forward_paysWithAnAuthorization_forAnyKey() public {
        DevUSDC usdc = DevUSDC(Artifacts.deploy("DevUSDC"));
        Vm.Wallet memory payer = vm.createWallet("payer");
        usdc.mint(payer.addr, 10);
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                payer.addr,
                _stranger,
                10,
                0,
                type(uint256).max,
                bytes32("nonce")
            )
        );
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(payer, keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash)));
        bytes memory data = abi.encodeWithSignature(
            "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
            payer.addr,
            _stranger,
            10,
            0,
            type(uint256).max,
            bytes32("nonce"),
            v,
            r,
            s
        );
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](2);
        calls[0] = IX402Forwarder.Call("first", address(usdc), GAS, data);
        // A replay in the same transaction pays nothing twice.
        calls[1] = IX402Forwarder.Call("again", address(usdc), GAS, data);
        IX402Forwarder.Result[] memory results = _forward(_other, calls);
        assertTrue(results[0].success);
        assertFalse(results[1].success);
        assertEq(
            results[1].reason,
            abi.encodeWithSignature("Error(string)", "FiatTokenV2: authorization is used or canceled")
        );
        assertEq(usdc.balanceOf(_stranger), 10);
    }

    function test_forward_keysOnly() public {
        IX402Forwarder.Call[] memory calls = _one(abi.encodeCall(Target.run, (1)));
        address[3] memory others = [_stranger, _owner, address(_target)];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotKey.selector, others[i]));
            _forwarder.forward(calls);
        }
        assertEq(_target.calls(), 0);
    }

    function test_forward_nothing_reverts() public {
        vm.prank(_key);
        vm.expectRevert(IX402Forwarder.NothingToForward.selector);
        _forwarder.forward(new IX402Forwarder.Call[](0));
    }

    function test_forward_takesNoEther() public {
        vm.deal(_key, 1 ether);
        vm.startPrank(_key);
        (bool sent,) = address(_forwarder).call{value: 1}("");
        assertFalse(sent);
        (sent,) = address(_forwarder).call{value: 1}(
            abi.encodeCall(_forwarder.forward, (_one(abi.encodeCall(Target.run, (1)))))
        );
        assertFalse(sent);
        vm.stopPrank();
    }

    // ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_reason_isCut() public {
        uint256 max = _forwarder.MAX_REASON();
        for (uint256 size = max - 33; size <= max + 33; ++size) {
            IX402Forwarder.Result memory result = _forward(_key, _one(abi.encodeCall(Target.bomb, (size, false))))[0];
            assertFalse(result.success);
            assertEq(result.reason.length, size < max ? size : max);
            for (uint256 offset; offset + 32 <= result.reason.length; offset += 32) {
                bytes32 word;
                bytes memory reason = result.reason;
                assembly {
                    word := mload(add(add(reason, 0x20), offset))
                }
                assertEq(uint256(word), ~offset);
            }
        }
    }

    /// @dev Megabytes of answers cost the call its own gas and the others nothing.
    function test_returnBombs_costTheOthersNothing() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](11);
        for (uint256 i; i < 10; ++i) {
            bytes memory bomb = abi.encodeCall(Target.bomb, (200_000, i % 2 == 1));
            calls[i] = IX402Forwarder.Call(bytes32(i), address(_target), 1_000_000, bomb);
        }
        calls[10] = _item(10, abi.encodeCall(Target.run, (1)));
        vm.prank(_key);
        uint256 before = gasleft();
        IX402Forwarder.Result[] memory results = _forwarder.forward{gas: 11_500_000}(calls);
        // The bombs themselves, 6,250 words each; copying ten of them would cost more than seven million.
        assertLt(before - gasleft(), 6_000_000);
        for (uint256 i; i < 10; ++i) {
            assertEq(results[i].success, i % 2 == 1);
            assertEq(results[i].reason.length, i % 2 == 0 ? 256 : 0);
        }
        assertTrue(results[10].success);
    }

    // ── Gas ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Whatever gas the transaction has: a call has all of what it was promised, or nothing of the transaction stays.
    function testFuzz_gas_noCallIsStarved(uint256 gas) public {
        gas = bound(gas, 50_000, 1_500_000);
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](3);
        for (uint256 i; i < 3; ++i) {
            // Less what decoding costs until it asks; the limit itself is what the call gets.
            bytes memory data = abi.encodeCall(Target.need, (299_000));
            calls[i] = IX402Forwarder.Call(bytes32(i), address(_target), 300_000, data);
        }
        vm.prank(_key);
        (bool success, bytes memory answer) =
            address(_forwarder).call{gas: gas}(abi.encodeCall(_forwarder.forward, (calls)));
        if (!success) {
            assertTrue(answer.length == 0 || bytes4(answer) == IX402Forwarder.NotEnoughGas.selector);
            assertEq(_target.calls(), 0);
            return;
        }
        IX402Forwarder.Result[] memory results = abi.decode(answer, (IX402Forwarder.Result[]));
        for (uint256 i; i < 3; ++i) {
            assertTrue(results[i].success);
        }
        assertEq(_target.calls(), 3);
    }

    /// @dev Calls that burn all they get leave enough to write down what came of them.
    function test_gas_burningCallsLeaveEnoughForTheRest() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](20);
        for (uint256 i; i < 20; ++i) {
            calls[i] = _item(i, abi.encodeCall(Target.burn, ()));
        }
        // What the interface lets a caller compute, and what 20 entries take to decode and return.
        uint256 gas = 20 * (GAS + _forwarder.CALL_RESERVE()) + GAS / 63 + 60_000;
        vm.prank(_key);
        IX402Forwarder.Result[] memory results = _forwarder.forward{gas: gas}(calls);
        for (uint256 i; i < 20; ++i) {
            assertFalse(results[i].success);
        }
    }

    function test_gas_tooLittleForALaterCall_revertsAll() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](2);
        calls[0] = _item(0, abi.encodeCall(Target.run, (0)));
        calls[1] = _item(1, abi.encodeCall(Target.run, (1)));
        calls[1].gas = type(uint64).max;
        vm.prank(_key);
        (bool success, bytes memory answer) = address(_forwarder).call(abi.encodeCall(_forwarder.forward, (calls)));
        assertFalse(success);
        assertEq(bytes4(answer), IX402Forwarder.NotEnoughGas.selector);
        (uint256 index, uint256 actual, uint256 expected) = abi.decode(_tail(answer), (uint256, uint256, uint256));
        assertEq(index, 1);
        assertLt(actual, expected);
        uint256 limit = type(uint64).max;
        assertEq(expected, limit + limit / 63 + _forwarder.CALL_RESERVE());
        assertEq(_target.calls(), 0);
    }

    /// @dev A call gets no more than its limit, so one payment cannot eat what others need.
    function test_gas_isLimited() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](2);
        calls[0] = _item(0, abi.encodeCall(Target.need, (GAS)));
        calls[1] = _item(1, abi.encodeCall(Target.need, (GAS - 1000)));
        IX402Forwarder.Result[] memory results = _forward(_key, calls);
        assertFalse(results[0].success);
        assertTrue(results[1].success);
    }

    // ── Reentrancy ───────────────────────────────────────────────────────────────────────────────────────────────────

    function test_reentrancy_isRefused_evenOfAKey() public {
        vm.prank(_owner);
        _forwarder.setKey(address(_target), true);
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](3);
        calls[0] = _item(0, abi.encodeCall(Target.reenter, (_forwarder)));
        IX402Forwarder.Call[] memory inner = _one(abi.encodeCall(Target.run, (1)));
        calls[1] = _item(1, abi.encodeCall(Target.tryReenter, (_forwarder, inner)));
        // Through itself, as its own caller.
        calls[2] = IX402Forwarder.Call(
            bytes32(uint256(2)), address(_forwarder), GAS, abi.encodeCall(_forwarder.forward, (inner))
        );
        IX402Forwarder.Result[] memory results = _forward(_key, calls);
        bytes memory guard = abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        assertEq(results[0].reason, guard);
        assertTrue(results[1].success);
        assertEq(results[2].reason, guard);
        assertEq(_target.calls(), 0);
        // The guard ends with the call.
        assertTrue(_forward(address(_target), inner)[0].success);
    }

    function test_keysCannotReachTheOwnersFunctionsThroughIt() public {
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](2);
        address self = address(_forwarder);
        calls[0] = IX402Forwarder.Call(0, self, GAS, abi.encodeCall(_forwarder.setKey, (_stranger, true)));
        calls[1] = IX402Forwarder.Call(0, self, GAS, abi.encodeCall(_forwarder.transferOwnership, (_key)));
        IX402Forwarder.Result[] memory results = _forward(_key, calls);
        for (uint256 i; i < 2; ++i) {
            assertEq(results[i].reason, abi.encodeWithSelector(IX402Forwarder.NotOwner.selector, self, _owner));
        }
    }

    // ── Owner ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_setKey() public {
        assertTrue(_forwarder.isKey(_key) && _forwarder.isKey(_other));
        assertFalse(_forwarder.isKey(_stranger) || _forwarder.isKey(_owner));
        vm.startPrank(_owner);
        vm.expectEmit(address(_forwarder));
        emit IX402Forwarder.KeySet(_key, false);
        _forwarder.setKey(_key, false);
        vm.expectEmit(address(_forwarder));
        emit IX402Forwarder.KeySet(_stranger, true);
        _forwarder.setKey(_stranger, true);
        vm.expectRevert(IX402Forwarder.ZeroAddress.selector);
        _forwarder.setKey(address(0), true);
        vm.stopPrank();
        IX402Forwarder.Call[] memory calls = _one(abi.encodeCall(Target.run, (1)));
        vm.prank(_key);
        vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotKey.selector, _key));
        _forwarder.forward(calls);
        assertTrue(_forward(_stranger, calls)[0].success);
    }

    function test_setKey_ownerOnly() public {
        vm.prank(_key);
        vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotOwner.selector, _key, _owner));
        _forwarder.setKey(_stranger, true);
    }

    function test_ownership_movesInTwoSteps() public {
        address next = makeAddr("next owner");
        vm.prank(_stranger);
        vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotOwner.selector, _stranger, _owner));
        _forwarder.transferOwnership(_stranger);
        vm.expectEmit(address(_forwarder));
        emit IX402Forwarder.OwnershipOffered(_owner, next);
        vm.prank(_owner);
        _forwarder.transferOwnership(next);
        assertEq(_forwarder.owner(), _owner);
        assertEq(_forwarder.pendingOwner(), next);
        vm.prank(_stranger);
        vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotPendingOwner.selector, _stranger, next));
        _forwarder.acceptOwnership();
        vm.expectEmit(address(_forwarder));
        emit IX402Forwarder.OwnershipTransferred(_owner, next);
        vm.prank(next);
        _forwarder.acceptOwnership();
        assertEq(_forwarder.owner(), next);
        assertEq(_forwarder.pendingOwner(), address(0));
        vm.prank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotOwner.selector, _owner, next));
        _forwarder.setKey(_stranger, true);
    }

    function test_ownership_anOfferCanBeTakenBack() public {
        vm.startPrank(_owner);
        _forwarder.transferOwnership(_stranger);
        _forwarder.transferOwnership(address(0));
        vm.stopPrank();
        vm.prank(_stranger);
        vm.expectRevert(abi.encodeWithSelector(IX402Forwarder.NotPendingOwner.selector, _stranger, address(0)));
        _forwarder.acceptOwnership();
    }

    function test_constructor_saysWhoMay() public {
        address[] memory keys = new address[](1);
        keys[0] = _stranger;
        address at = vm.computeCreateAddress(address(this), vm.getNonce(address(this)));
        vm.expectEmit(at);
        emit IX402Forwarder.OwnershipTransferred(address(0), _owner);
        vm.expectEmit(at);
        emit IX402Forwarder.KeySet(_stranger, true);
        assertEq(Artifacts.deploy("X402Forwarder", abi.encode(_owner, keys)), at);
        assertTrue(IX402Forwarder(at).isKey(_stranger));
        keys[0] = address(0);
        bytes memory code = Artifacts.initcode("X402Forwarder", abi.encode(_owner, keys));
        vm.expectRevert(IX402Forwarder.ZeroAddress.selector);
        this.create(code);
    }

    function test_constructor_needsAnOwner() public {
        bytes memory code = Artifacts.initcode("X402Forwarder", abi.encode(address(0), new address[](0)));
        vm.expectRevert(IX402Forwarder.ZeroAddress.selector);
        this.create(code);
    }

    // ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function create(bytes memory code) external returns (address) {
        return Artifacts.create(code);
    }

    /// @dev Arguments of an error.
    function _tail(bytes memory answer) private pure returns (bytes memory tail) {
        tail = new bytes(answer.length - 4);
        for (uint256 i; i < tail.length; ++i) {
            tail[i] = answer[i + 4];
        }
    }

    function _forward(address key, IX402Forwarder.Call[] memory calls)
        private
        returns (IX402Forwarder.Result[] memory)
    {
        vm.prank(key);
        return _forwarder.forward(calls);
    }

    function _one(bytes memory data) private view returns (IX402Forwarder.Call[] memory calls) {
        calls = new IX402Forwarder.Call[](1);
        calls[0] = _item(1, data);
    }

    function _item(uint256 id, bytes memory data) private view returns (IX402Forwarder.Call memory) {
        return IX402Forwarder.Call(bytes32(id), address(_target), GAS, data);
    }
}
