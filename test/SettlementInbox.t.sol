// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";
import {DevTEERegistry} from "../contracts/devnet/DevTEERegistry.sol";
import {ISettlementInbox} from "../contracts/interfaces/ISettlementInbox.sol";
import {Receipts} from "../contracts/libraries/Receipts.sol";
import {RsaSigner} from "./RsaSigner.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @dev Says that it has a key which is not the one that hashes to the id, or answers with rubbish.
contract LyingRegistry {
    bytes private _answer;

    constructor(bytes memory answer) {
        _answer = answer;
    }

    function getTEEPublicKey(bytes32) external view returns (bytes memory) {
        return _answer;
    }
}

contract SettlementInboxTest is Test {
    using RsaSigner for RsaSigner.Key;

    DevTEERegistry private _registry;
    ISettlementInbox private _inbox;
    RsaSigner.Key private _key;
    RsaSigner.Key private _otherKey;
    bytes32 private _node;
    bytes32 private _otherNode;

    function setUp() public {
        vm.warp(1_800_000_000);
        vm.etch(address(0x0900), Artifacts.placed("DevPrecompile0900"));
        _registry = DevTEERegistry(Artifacts.deploy("DevTEERegistry", abi.encode(address(this))));
        _inbox = ISettlementInbox(Artifacts.deploy("SettlementInbox", abi.encode(address(_registry))));
        DevTEERegistry.PCRMeasurements memory pcrs = DevTEERegistry.PCRMeasurements("0", "1", "2");
        _registry.approvePCR(pcrs, "devnet", 0);
        bytes32 pcrHash = _registry.computePCRHash(pcrs);
        _key = RsaSigner.load(0);
        _otherKey = RsaSigner.load(1);
        _node = _registry.registerDevnetTEE(address(this), _key.spki, "", address(1), "http://a", 0, pcrHash);
        _otherNode = _registry.registerDevnetTEE(address(this), _otherKey.spki, "", address(1), "http://b", 0, pcrHash);
    }

    function test_records_good_bad_duplicate_unknown_disabled() public {
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](7);
        items[0] = _inference(_key, 1);
        items[1] = _inference(_key, 2);
        bytes memory right = bytes.concat(items[1].signature);
        items[1].signature[100] ^= 0x01;
        items[2] = items[0];
        items[3] = _inference(_otherKey, 3);
        items[4] = _inference(_key, 4);
        items[4].nodeId = keccak256("nobody");
        items[5] = _inference(_key, 5);
        items[5].nodeId = _otherNode;
        items[6] = _inference(_key, 6);
        _registry.disableTEE(_otherNode);
        assertFalse(_registry.isTEEEnabled(_otherNode));

        bytes32[] memory ids = _ids(items);
        _expectRecorded(1, ids[0], items[0]);
        _expectRefused(2, ids[1], items[1], ISettlementInbox.Refusal.BadSignature);
        _expectRecorded(3, ids[3], items[3]);
        _expectRefused(4, ids[4], items[4], ISettlementInbox.Refusal.UnknownNode);
        _expectRefused(5, ids[5], items[5], ISettlementInbox.Refusal.BadSignature);
        _expectRecorded(6, ids[6], items[6]);
        vm.recordLogs();
        assertEq(_inbox.recordInferences(items), 3);
        assertEq(vm.getRecordedLogs().length, 6);
        assertEq(_inbox.seq(), 6);
        uint256[7] memory expected = [uint256(1), 0, 1, 1, 0, 0, 1];
        for (uint256 i; i < items.length; ++i) {
            assertEq(_inbox.recordedAt(ids[i]), expected[i] * block.timestamp, vm.toString(i));
        }

        // Handed in again: nothing new for what is recorded, and the refused one gets its chance.
        skip(1 days);
        items[1].signature = right;
        assertEq(_inbox.recordInferences(items), 1);
        assertEq(_inbox.recordedAt(ids[1]), block.timestamp);
        assertEq(_inbox.recordedAt(ids[0]), block.timestamp - 1 days);
    }

    function test_noAgeLimit() public {
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](1);
        items[0] = _inference(_key, 1);
        vm.warp(block.timestamp + 1000 days);
        assertEq(_inbox.recordInferences(items), 1);
    }

    function test_anotherSignatureOfTheSameIsADuplicate() public {
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](2);
        items[0] = _inference(_key, 1);
        items[1] = _inference(_key, 1);
        bytes32 message = Receipts.messageHash(items[1].requestHash, items[1].outputHash, items[1].timestamp);
        items[1].signature = _key.signWithSalt(message, "other salt");
        assertTrue(keccak256(items[0].signature) != keccak256(items[1].signature));
        assertEq(_inbox.recordInferences(items), 1);
    }

    function test_emptyAndTooMany() public {
        assertEq(_inbox.recordInferences(new ISettlementInbox.Inference[](0)), 0);
        assertEq(_inbox.seq(), 0);
        vm.expectRevert(abi.encodeWithSelector(ISettlementInbox.TooMany.selector, 257, 256));
        _inbox.recordInferences(new ISettlementInbox.Inference[](257));
        // 256 bad ones are 256 refusals.
        assertEq(_inbox.recordInferences(new ISettlementInbox.Inference[](256)), 0);
        assertEq(_inbox.seq(), 256);
    }

    function test_withoutPrecompileNothingIsRecorded() public {
        vm.etch(address(0x0900), "");
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](1);
        items[0] = _inference(_key, 1);
        assertEq(_inbox.recordInferences(items), 0);
        // Nor when something there answers with another truth than 1.
        vm.etch(address(0x0900), hex"600260005260206000f3");
        assertEq(_inbox.recordInferences(items), 0);
        vm.etch(address(0x0900), hex"6001600052602160006000f3");
        assertEq(_inbox.recordInferences(items), 0);
    }

    function test_registryThatLies() public {
        ISettlementInbox inbox = ISettlementInbox(
            Artifacts.deploy("SettlementInbox", abi.encode(address(new LyingRegistry(_otherKey.spki))))
        );
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](1);
        items[0] = _inference(_otherKey, 1);
        items[0].nodeId = _node;
        bytes32 id = _ids(items)[0];
        vm.expectEmit(address(inbox));
        emit ISettlementInbox.InferenceRefused(1, id, _node, ISettlementInbox.Refusal.UnknownNode);
        assertEq(inbox.recordInferences(items), 0);
        bytes memory code = Artifacts.initcode("SettlementInbox", abi.encode(address(7)));
        vm.expectRevert(abi.encodeWithSelector(ISettlementInbox.NotAContract.selector, address(7)));
        this.create(code);
    }

    function create(bytes memory code) external {
        Artifacts.create(code);
    }

    function testFuzz_changedInferenceIsRefused(uint8 member, uint256 bit) public {
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](1);
        items[0] = _inference(_key, 1);
        bytes32 flip = bytes32(uint256(1) << uint8(bit));
        member %= 4;
        if (member == 0) items[0].requestHash ^= flip;
        else if (member == 1) items[0].outputHash ^= flip;
        else if (member == 2) items[0].timestamp ^= uint256(flip);
        else items[0].signature[bit % 256] ^= bytes1(uint8(uint256(1) << ((bit >> 8) % 8)));
        assertEq(_inbox.recordInferences(items), 0);
    }

    /// @dev OpenGradient's chain runs prague. Osaka added one opcode to it, CLZ (0x1e); none of its contracts may hold it.
    function test_opengradientContractsUseNoOsakaOpcode() public {
        _assertNoClz(address(_inbox));
        _assertNoClz(address(_registry));
        _assertNoClz(address(0x0900));
        _assertNoClz(Artifacts.deploy("DevTEEInferenceVerifier", abi.encode(address(this), address(_registry))));
    }

    function _assertNoClz(address target) private view {
        bytes memory code = target.code;
        assertGt(code.length, 100);
        for (uint256 i; i < code.length; ++i) {
            uint8 opcode = uint8(code[i]);
            assertTrue(opcode != 0x1e, vm.toString(target));
            // PUSH1 to PUSH32 carry data.
            if (opcode >= 0x60 && opcode <= 0x7f) i += opcode - 0x5f;
        }
    }

    function _inference(RsaSigner.Key memory key, uint256 n)
        private
        view
        returns (ISettlementInbox.Inference memory item)
    {
        item.nodeId = key.id();
        item.requestHash = keccak256(abi.encode("request", n));
        item.outputHash = keccak256(abi.encode("output", n));
        item.timestamp = block.timestamp - n;
        item.signature = key.sign(Receipts.messageHash(item.requestHash, item.outputHash, item.timestamp));
    }

    function _ids(ISettlementInbox.Inference[] memory items) private pure returns (bytes32[] memory ids) {
        ids = new bytes32[](items.length);
        for (uint256 i; i < items.length; ++i) {
            bytes32 message = Receipts.messageHash(items[i].requestHash, items[i].outputHash, items[i].timestamp);
            ids[i] = Receipts.settlementId(items[i].nodeId, message);
        }
    }

    function _expectRecorded(uint64 seq, bytes32 id, ISettlementInbox.Inference memory item) private {
        vm.expectEmit(address(_inbox));
        emit ISettlementInbox.InferenceRecorded(seq, id, item.nodeId, item.requestHash, item.outputHash, item.timestamp);
    }

    function _expectRefused(
        uint64 seq,
        bytes32 id,
        ISettlementInbox.Inference memory item,
        ISettlementInbox.Refusal reason
    ) private {
        vm.expectEmit(address(_inbox));
        emit ISettlementInbox.InferenceRefused(seq, id, item.nodeId, reason);
    }
}
