// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";
import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {RsaSigner} from "./RsaSigner.sol";
import {Artifacts} from "../script/Artifacts.sol";

contract NodeRegistryTest is Test {
    using RsaSigner for RsaSigner.Key;

    uint40 private constant GRACE = 1 hours;
    uint64 private constant GUARDIAN = 1;

    IAccessManager private _manager;
    INodeRegistry private _registry;
    address private _rsa;
    RsaSigner.Key private _key;
    RsaSigner.Key private _otherKey;
    bytes32 private _id;

    address private _admin = makeAddr("admin");
    address private _guardian = makeAddr("guardian");
    address private _operator = makeAddr("operator");
    address private _meterKey = makeAddr("meter");
    address private _payout = makeAddr("payout");
    Vm.Wallet private _owner;
    Vm.Wallet[] private _mirrors;

    function setUp() public {
        vm.warp(1_800_000_000);
        vm.chainId(8453);
        _manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(_admin)));
        _registry = INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(_manager), GRACE)));
        _rsa = Artifacts.deploy("RsaPssVerifier");
        _key = RsaSigner.load(0);
        _otherKey = RsaSigner.load(1);
        _id = _key.id();
        _owner = vm.createWallet("owner");
        _makeMirrors();

        bytes4[] memory selectors = new bytes4[](1);
        selectors[0] = INodeRegistry.revoke.selector;
        vm.startPrank(_admin);
        _manager.grantRole(GUARDIAN, _guardian, 0);
        _manager.setTargetFunctionRole(address(_registry), selectors, GUARDIAN);
        _registry.setVerifier(_rsa, true);
        _registry.setMirrorVerifier(_rsa);
        _registry.setMirrors(_mirrorAddresses(), 2);
        vm.stopPrank();
    }

    // ── declare ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_declare_registersAndServes() public {
        bytes memory possession = _possession(_key, _operator);
        vm.expectEmit(address(_registry));
        emit INodeRegistry.NodeRegistered(4, _id, INodeRegistry.Label.Declared, _operator, _payout);
        vm.expectEmit(address(_registry));
        emit INodeRegistry.VersionAdded(5, _id, 1, _rsa, _meterKey, INodeRegistry.Label.Declared, _key.spki);
        vm.prank(_operator);
        assertEq(_registry.declare(_rsa, _key.spki, _meterKey, _payout, possession), _id);

        INodeRegistry.Node memory node = _registry.node(_id);
        assertEq(node.operator, _operator);
        assertEq(node.payout, _payout);
        assertEq(node.owner, address(0));
        assertEq(node.version, 1);
        assertEq(uint8(node.label), uint8(INodeRegistry.Label.Declared));
        assertEq(node.registeredAt, block.timestamp);
        assertEq(_registry.node(_id).payout, _payout);
        _assertStatus(1, INodeRegistry.NodeStatus.Active);
        (,, address verifier, address meterKey, address payout, bytes memory key) =
            _registry.evidence(_id, 1, uint40(block.timestamp));
        assertEq(verifier, _rsa);
        assertEq(meterKey, _meterKey);
        assertEq(payout, _payout);
        assertEq(key, _key.spki);
        assertEq(_registry.seq(), 5);
    }

    function test_declare_withoutMeterKeyCapturesNothing() public {
        _meterKey = address(0);
        _declare();
        _assertStatus(1, INodeRegistry.NodeStatus.NoMeterKey);
    }

    function test_declare_needsPossessionForThisCaller() public {
        bytes memory possession = _possession(_key, _operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadPossession.selector, _id));
        vm.prank(makeAddr("front-runner"));
        _registry.declare(_rsa, _key.spki, _meterKey, _payout, possession);
        // and for this payout and this meter key
        vm.startPrank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadPossession.selector, _id));
        _registry.declare(_rsa, _key.spki, _meterKey, makeAddr("thief"), possession);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadPossession.selector, _id));
        _registry.declare(_rsa, _key.spki, makeAddr("thief"), _payout, possession);
        bytes32 otherId = _otherKey.id();
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadPossession.selector, otherId));
        _registry.declare(_rsa, _otherKey.spki, _meterKey, _payout, possession);
        vm.stopPrank();
    }

    function test_declare_refusals() public {
        bytes memory possession = _possession(_key, _operator);
        vm.startPrank(_operator);
        vm.expectRevert(INodeRegistry.ZeroAddress.selector);
        _registry.declare(_rsa, _key.spki, _meterKey, address(0), possession);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.VerifierNotAllowed.selector, address(7)));
        _registry.declare(address(7), _key.spki, _meterKey, _payout, possession);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadKeyLength.selector, 1025, 1024));
        _registry.declare(_rsa, new bytes(1025), _meterKey, _payout, possession);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadKeyLength.selector, 0, 1024));
        _registry.declare(_rsa, "", _meterKey, _payout, possession);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.VerifierNotAllowed.selector, address(0)));
        _registry.declare(address(0), _key.spki, address(0), _payout, possession);
        _registry.declare(_rsa, _key.spki, _meterKey, _payout, possession);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeExists.selector, _id));
        _registry.declare(_rsa, _key.spki, _meterKey, _payout, possession);
        vm.stopPrank();
    }

    function test_rotateKey_keepsIdAndHistory() public {
        _declare();
        bytes32 digest = _registry.declareDigest(_id, _rsa, _operator, _meterKey, _payout);
        bytes memory byOldKey = _key.sign(digest);
        bytes memory byNewKey = _otherKey.sign(digest);
        vm.prank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadPossession.selector, _id));
        _registry.rotateKey(_id, _rsa, _otherKey.spki, byOldKey);

        skip(100);
        vm.prank(_operator);
        _registry.rotateKey(_id, _rsa, _otherKey.spki, byNewKey);
        INodeRegistry.Version memory old = _registry.version(_id, 1);
        INodeRegistry.Version memory present = _registry.version(_id, 2);
        assertEq(old.key, _key.spki);
        assertEq(old.replacedAt, block.timestamp);
        assertEq(old.createdAt, block.timestamp - 100);
        assertEq(present.key, _otherKey.spki);
        assertEq(present.meterKey, _meterKey);
        assertEq(present.createdAt, block.timestamp);
        assertEq(present.replacedAt, 0);
    }

    function test_rotateKey_onlyDeclaredActiveNodes() public {
        _mirrorAndClaim();
        vm.startPrank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotDeclared.selector, _id));
        _registry.rotateKey(_id, _rsa, _otherKey.spki, "");
        _registry.retire(_id);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRetired.selector, _id));
        _registry.rotateKey(_id, _rsa, _otherKey.spki, "");
        vm.stopPrank();
        _revoke();
        vm.prank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRevoked.selector, _id));
        _registry.rotateKey(_id, _rsa, _otherKey.spki, "");
    }

    // ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_setMeterKey_replacedVersionKeepsGraceAndItsKeys() public {
        _declare();
        address next = makeAddr("next meter");
        vm.prank(_operator);
        _registry.setMeterKey(_id, next);
        uint40 replacedAt = uint40(vm.getBlockTimestamp());

        _assertStatus(1, INodeRegistry.NodeStatus.Active);
        _assertStatus(2, INodeRegistry.NodeStatus.Active);
        vm.warp(replacedAt + GRACE);
        _assertStatus(1, INodeRegistry.NodeStatus.Active);
        vm.warp(replacedAt + GRACE + 1);
        _assertStatus(1, INodeRegistry.NodeStatus.ReplacedVersion);
        _assertStatus(2, INodeRegistry.NodeStatus.Active);
        _assertStatus(3, INodeRegistry.NodeStatus.UnknownVersion);
        _assertStatus(0, INodeRegistry.NodeStatus.UnknownVersion);

        // An answer years later finds what the row named.
        vm.warp(replacedAt + 1000 days);
        assertEq(_registry.version(_id, 1).meterKey, _meterKey);
        assertEq(_registry.version(_id, 2).meterKey, next);
        (INodeRegistry.NodeStatus status,,, address meterKey,, bytes memory key) =
            _registry.evidence(_id, 1, replacedAt);
        assertEq(uint8(status), uint8(INodeRegistry.NodeStatus.ReplacedVersion));
        assertEq(meterKey, _meterKey);
        assertEq(key, _key.spki);
    }

    function testFuzz_versions_areAppendOnly(address[12] calldata keys) public {
        _declare();
        for (uint32 i; i < keys.length; ++i) {
            skip(1);
            vm.prank(_operator);
            _registry.setMeterKey(_id, keys[i]);
        }
        assertEq(_registry.node(_id).version, 13);
        for (uint32 i; i < keys.length; ++i) {
            INodeRegistry.Version memory version = _registry.version(_id, i + 2);
            assertEq(version.meterKey, keys[i]);
            assertEq(version.key, _key.spki);
            assertEq(version.createdAt, _registry.version(_id, i + 1).replacedAt);
        }
        assertEq(_registry.version(_id, 13).replacedAt, 0);
        assertEq(_registry.version(_id, 14).createdAt, 0);
    }

    function test_setMeterKey_removedVerifierStopsNewKeysButNotTakingThemAway() public {
        _declare();
        vm.prank(_admin);
        _registry.setVerifier(_rsa, false);
        vm.startPrank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.VerifierNotAllowed.selector, _rsa));
        _registry.setMeterKey(_id, makeAddr("next meter"));
        _registry.setMeterKey(_id, address(0));
        vm.stopPrank();
        _assertStatus(2, INodeRegistry.NodeStatus.NoMeterKey);
        // What stands stands.
        _assertStatus(1, INodeRegistry.NodeStatus.Active);
    }

    // ── mirror quorum ────────────────────────────────────────────────────────────────────────────────────────────────

    function test_mirror_registersWithoutOperator() public {
        INodeRegistry.Mirror memory report = _report();
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectEmit(address(_registry));
        emit INodeRegistry.NodeRegistered(4, _id, INodeRegistry.Label.Mirrored, address(0), report.paymentAddress);
        vm.expectEmit(address(_registry));
        emit INodeRegistry.OwnerSet(5, _id, _owner.addr);
        vm.expectEmit(address(_registry));
        emit INodeRegistry.VersionAdded(6, _id, 1, _rsa, address(0), INodeRegistry.Label.Mirrored, _key.spki);
        _registry.mirror(report, signatures);

        INodeRegistry.Node memory node = _registry.node(_id);
        assertEq(node.operator, address(0));
        assertEq(node.owner, _owner.addr);
        assertEq(node.payout, report.paymentAddress);
        assertEq(node.observedAt, report.observedAt);
        _assertStatus(1, INodeRegistry.NodeStatus.NoMeterKey);
        (, INodeRegistry.Label label) = _registry.captureStatus(_id, 1);
        assertEq(uint8(label), uint8(INodeRegistry.Label.Mirrored));
    }

    function test_mirror_anySubsetThatReachesTheThreshold() public {
        INodeRegistry.Mirror memory report = _report();
        for (uint256 i; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                report.observedAt += 1;
                _registry.mirror(report, _sign(report, i, j));
            }
        }
        report.observedAt += 1;
        bytes[] memory all = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            all[i] = _sign(report, _mirrors[i].privateKey);
        }
        _registry.mirror(report, all);
        assertEq(_registry.node(_id).version, 1);
    }

    function test_mirror_quorumRefusals() public {
        INodeRegistry.Mirror memory report = _report();
        bytes[] memory one = new bytes[](1);
        one[0] = _sign(report, _mirrors[0].privateKey);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.QuorumMissing.selector, 1, 2));
        _registry.mirror(report, one);

        address a0 = _mirrors[0].addr;
        address a1 = _mirrors[1].addr;
        bytes[] memory signatures = _sign(report, 1, 0);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.SignersNotAscending.selector, a0, a1));
        _registry.mirror(report, signatures);
        signatures = _sign(report, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.SignersNotAscending.selector, a0, a0));
        _registry.mirror(report, signatures);

        Vm.Wallet memory stranger = vm.createWallet("stranger");
        signatures = _sign(report, 0, 1);
        signatures[1] = _sign(report, stranger.privateKey);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotMirror.selector, stranger.addr));
        _registry.mirror(report, signatures);
        signatures[1] = hex"1234";
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotMirror.selector, address(0)));
        _registry.mirror(report, signatures);

        // The upper half of s does not count.
        signatures = _sign(report, 0, 1);
        signatures[0] = _otherHalf(signatures[0]);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotMirror.selector, address(0)));
        _registry.mirror(report, signatures);
    }

    function test_mirror_everyMemberIsSigned() public {
        INodeRegistry.Mirror memory report = _report();
        bytes[] memory signatures = _sign(report, 0, 1);
        INodeRegistry.Mirror memory changed = _report();
        changed.owner = makeAddr("thief");
        _expectNotMirror(changed, signatures);
        changed = _report();
        changed.paymentAddress = makeAddr("thief");
        _expectNotMirror(changed, signatures);
        changed = _report();
        changed.observedAt += 1;
        _expectNotMirror(changed, signatures);
        changed = _report();
        changed.key = _otherKey.spki;
        _expectNotMirror(changed, signatures);
        _registry.mirror(report, signatures);
        changed = _report();
        changed.observedAt += 1;
        signatures = _sign(changed, 0, 1);
        changed.enabled = false;
        _expectNotMirror(changed, signatures);
    }

    function test_mirror_domainIsThisChainAndThisRegistry() public {
        INodeRegistry.Mirror memory report = _report();
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.chainId(84_532);
        vm.expectPartialRevert(INodeRegistry.NotMirror.selector);
        _registry.mirror(report, signatures);
        vm.chainId(8453);
        INodeRegistry other = INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(_manager), GRACE)));
        vm.startPrank(_admin);
        other.setVerifier(_rsa, true);
        other.setMirrorVerifier(_rsa);
        other.setMirrors(_mirrorAddresses(), 2);
        vm.stopPrank();
        vm.expectPartialRevert(INodeRegistry.NotMirror.selector);
        other.mirror(report, signatures);
        _registry.mirror(report, signatures);
    }

    function test_mirror_staleFutureAndUnknown() public {
        INodeRegistry.Mirror memory report = _report();
        report.observedAt = uint40(block.timestamp) + 301;
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                INodeRegistry.FutureReport.selector, report.observedAt, uint40(block.timestamp) + 300
            )
        );
        _registry.mirror(report, signatures);

        report = _report();
        report.enabled = false;
        signatures = _sign(report, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.UnknownNode.selector, _id));
        _registry.mirror(report, signatures);

        report = _report();
        signatures = _sign(report, 0, 1);
        _registry.mirror(report, signatures);
        vm.expectRevert(
            abi.encodeWithSelector(INodeRegistry.StaleReport.selector, report.observedAt, report.observedAt)
        );
        _registry.mirror(report, signatures);
        report.observedAt -= 1;
        signatures = _sign(report, 0, 1);
        vm.expectRevert(
            abi.encodeWithSelector(INodeRegistry.StaleReport.selector, report.observedAt, report.observedAt + 1)
        );
        _registry.mirror(report, signatures);
    }

    function test_mirror_zeroAddresses() public {
        INodeRegistry.Mirror memory report = _report();
        report.owner = address(0);
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectRevert(INodeRegistry.ZeroAddress.selector);
        _registry.mirror(report, signatures);
        report = _report();
        report.paymentAddress = address(0);
        signatures = _sign(report, 0, 1);
        vm.expectRevert(INodeRegistry.ZeroAddress.selector);
        _registry.mirror(report, signatures);
    }

    /// @dev An enclave's public key is public: whoever declared it first must not keep its money.
    function test_mirror_overridesSquatter() public {
        _declare();
        vm.prank(_operator);
        _registry.transferOperator(_id, makeAddr("accomplice"));
        skip(10);
        INodeRegistry.Mirror memory report = _report();
        _registry.mirror(report, _sign(report, 0, 2));

        INodeRegistry.Node memory node = _registry.node(_id);
        assertEq(node.operator, address(0));
        assertEq(node.pendingOperator, address(0));
        assertEq(node.payout, report.paymentAddress);
        assertEq(node.owner, _owner.addr);
        assertEq(node.version, 2);
        assertEq(uint8(node.label), uint8(INodeRegistry.Label.Mirrored));
        assertEq(node.registeredAt, block.timestamp - 10);
        assertEq(_registry.version(_id, 2).meterKey, address(0));
        vm.prank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotOperator.selector, _operator, address(0)));
        _registry.setPayout(_id, _operator);
        vm.prank(makeAddr("accomplice"));
        vm.expectRevert(
            abi.encodeWithSelector(INodeRegistry.NotPendingOperator.selector, makeAddr("accomplice"), address(0))
        );
        _registry.acceptOperator(_id);
    }

    function test_mirror_cannotBeDeclaredOver() public {
        _mirrorAndClaim();
        bytes memory possession = _possession(_key, address(this));
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeExists.selector, _id));
        _registry.declare(_rsa, _key.spki, _meterKey, _payout, possession);
    }

    function test_mirror_disabledRotatedSquatter() public {
        _declare();
        INodeRegistry.Mirror memory report = _report();
        report.enabled = false;
        _registry.mirror(report, _sign(report, 0, 1));
        assertEq(_registry.node(_id).retiredAt, block.timestamp);
        assertEq(uint8(_registry.node(_id).label), uint8(INodeRegistry.Label.Mirrored));
    }

    function test_mirror_payoutFollowsUntilAnOperatorChose() public {
        INodeRegistry.Mirror memory report = _report();
        _registry.mirror(report, _sign(report, 0, 1));
        report.paymentAddress = makeAddr("second");
        report.observedAt += 1;
        _registry.mirror(report, _sign(report, 0, 1));
        assertEq(_registry.node(_id).payout, makeAddr("second"));

        _claim();
        vm.prank(_operator);
        _registry.setPayout(_id, _payout);
        report.paymentAddress = makeAddr("third");
        report.observedAt += 1;
        _registry.mirror(report, _sign(report, 0, 1));
        assertEq(_registry.node(_id).payout, _payout);
        assertEq(_registry.node(_id).operator, _operator);
    }

    function test_mirror_newOwnerStartsAnew() public {
        _mirrorAndClaim();
        Vm.Wallet memory buyer = vm.createWallet("buyer");
        INodeRegistry.Mirror memory report = _report();
        report.owner = buyer.addr;
        report.observedAt += 1;
        _registry.mirror(report, _sign(report, 0, 1));
        assertEq(_registry.node(_id).operator, address(0));
        assertEq(_registry.version(_id, _registry.node(_id).version).meterKey, address(0));
        bytes memory stale = _claimSignature(_owner, _operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotOwner.selector, _owner.addr, buyer.addr));
        _registry.claimOperator(_id, _operator, stale);
    }

    function test_mirror_newMirrorVerifierReachesNodes() public {
        _mirrorAndClaim();
        address next = Artifacts.deploy("RsaPssVerifier");
        vm.startPrank(_admin);
        _registry.setVerifier(next, true);
        _registry.setMirrorVerifier(next);
        _registry.setVerifier(_rsa, false);
        vm.stopPrank();
        INodeRegistry.Mirror memory report = _report();
        report.observedAt += 1;
        _registry.mirror(report, _sign(report, 0, 1));
        INodeRegistry.Version memory version = _registry.version(_id, _registry.node(_id).version);
        assertEq(version.verifier, next);
        assertEq(version.meterKey, _meterKey);
        assertEq(version.key, _key.spki);
        assertEq(_registry.node(_id).operator, _operator);
    }

    function test_mirror_retiresAndRestores() public {
        _mirrorAndClaim();
        INodeRegistry.Mirror memory report = _report();
        report.enabled = false;
        report.observedAt += 1;
        _registry.mirror(report, _sign(report, 0, 1));
        uint40 retiredAt = uint40(vm.getBlockTimestamp());
        assertEq(_registry.node(_id).retiredAt, retiredAt);
        skip(5);
        report.observedAt += 1;
        _registry.mirror(report, _sign(report, 0, 1));
        assertEq(_registry.node(_id).retiredAt, retiredAt, "a second report must not move the time");

        report.enabled = true;
        report.observedAt += 1;
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectEmit(address(_registry));
        emit INodeRegistry.NodeRestored(_registry.seq() + 1, _id);
        _registry.mirror(report, signatures);
        assertEq(_registry.node(_id).retiredAt, 0);
        _assertStatus(2, INodeRegistry.NodeStatus.Active);
    }

    function test_mirror_withoutVerifierOrQuorum() public {
        vm.prank(_admin);
        _registry.setMirrorVerifier(address(0));
        INodeRegistry.Mirror memory report = _report();
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.VerifierNotAllowed.selector, address(0)));
        _registry.mirror(report, signatures);

        INodeRegistry fresh = INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(_manager), GRACE)));
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.QuorumMissing.selector, 2, 0));
        fresh.mirror(report, signatures);
    }

    // ── claimOperator ────────────────────────────────────────────────────────────────────────────────────────────────

    function test_claim_bySignatureOnceWhileNoOperator() public {
        _mirror();
        bytes memory signature = _claimSignature(_owner, _operator);
        vm.expectRevert(
            abi.encodeWithSelector(
                INodeRegistry.NotOwner.selector, _recover(_owner, _operator, makeAddr("thief")), _owner.addr
            )
        );
        _registry.claimOperator(_id, makeAddr("thief"), signature);
        _registry.claimOperator(_id, _operator, signature);
        assertEq(_registry.node(_id).operator, _operator);

        vm.prank(_operator);
        _registry.transferOperator(_id, makeAddr("next"));
        vm.prank(makeAddr("next"));
        _registry.acceptOperator(_id);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.OperatorExists.selector, _id, makeAddr("next")));
        _registry.claimOperator(_id, _operator, signature);
    }

    function test_claim_ownerCallsAndRecovers() public {
        _mirrorAndClaim();
        vm.prank(_operator);
        _registry.transferOperator(_id, makeAddr("next"));
        vm.prank(_owner.addr);
        _registry.claimOperator(_id, makeAddr("rescue"), "");
        INodeRegistry.Node memory node = _registry.node(_id);
        assertEq(node.operator, makeAddr("rescue"));
        assertEq(node.pendingOperator, address(0));
    }

    function test_claim_ownerThatDelegates() public {
        _mirror();
        vm.etch(_owner.addr, abi.encodePacked(hex"ef0100", address(this)));
        vm.prank(_owner.addr);
        _registry.claimOperator(_id, _operator, "");
        assertEq(_registry.node(_id).operator, _operator);
    }

    /// @dev A contract on OpenGradient may have another party's contract at the same address on Base.
    function test_claim_contractAtOwnersAddress() public {
        _mirror();
        vm.etch(_owner.addr, hex"60016001");
        vm.prank(_owner.addr);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.OwnerIsContract.selector, _owner.addr));
        _registry.claimOperator(_id, _operator, "");
    }

    function test_claim_refusals() public {
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.UnknownNode.selector, _id));
        _registry.claimOperator(_id, _operator, "");
        _mirror();
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotOwner.selector, address(this), _owner.addr));
        _registry.claimOperator(_id, _operator, "");
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotOwner.selector, address(0), _owner.addr));
        _registry.claimOperator(_id, _operator, hex"00");
        vm.prank(_owner.addr);
        vm.expectRevert(INodeRegistry.ZeroAddress.selector);
        _registry.claimOperator(_id, address(0), "");
        _revoke();
        vm.prank(_owner.addr);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRevoked.selector, _id));
        _registry.claimOperator(_id, _operator, "");
    }

    function test_claim_declaredNodeHasNoOwner() public {
        _declare();
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotOwner.selector, address(this), address(0)));
        _registry.claimOperator(_id, address(this), "");
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.OperatorExists.selector, _id, _operator));
        _registry.claimOperator(_id, address(this), hex"00");
    }

    // ── retire, revoke ───────────────────────────────────────────────────────────────────────────────────────────────

    function test_retire_pastStaysPayable() public {
        _declare();
        vm.prank(_operator);
        _registry.retire(_id);
        uint40 since = uint40(vm.getBlockTimestamp());
        vm.prank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRetired.selector, _id));
        _registry.retire(_id);

        // Batches, which show no timestamp, for the grace period.
        vm.warp(since + GRACE);
        _assertStatus(1, INodeRegistry.NodeStatus.Active);
        vm.warp(since + GRACE + 1);
        _assertStatus(1, INodeRegistry.NodeStatus.Retired);
        // Verified settlements by the inference's own time.
        _assertEvidence(1, since, INodeRegistry.NodeStatus.Active);
        _assertEvidence(1, since + 1, INodeRegistry.NodeStatus.Retired);
        vm.warp(since);
        _assertEvidence(1, since + 1, INodeRegistry.NodeStatus.Retired);
    }

    function test_revoke_atOnceAndForEver() public {
        _mirrorAndClaim();
        _revoke();
        uint40 since = uint40(vm.getBlockTimestamp());
        assertEq(_registry.node(_id).revokedAt, since);
        _assertStatus(2, INodeRegistry.NodeStatus.Revoked);
        // Also what is dated before: a stolen key backdates.
        _assertEvidence(2, since - 1000, INodeRegistry.NodeStatus.Revoked);

        vm.prank(_guardian);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRevoked.selector, _id));
        _registry.revoke(_id);
        INodeRegistry.Mirror memory report = _report();
        report.observedAt += 1;
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRevoked.selector, _id));
        _registry.mirror(report, signatures);
        vm.startPrank(_operator);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NodeIsRevoked.selector, _id));
        _registry.setMeterKey(_id, makeAddr("next"));
        // Recorded batches stand: their money still finds its way.
        _registry.setPayout(_id, makeAddr("new payout"));
        vm.stopPrank();
        assertEq(_registry.node(_id).payout, makeAddr("new payout"));
        assertEq(_registry.version(_id, 1).key, _key.spki);
    }

    // ── roles and operators ──────────────────────────────────────────────────────────────────────────────────────────

    function test_roles() public {
        _declare();
        bytes memory refusal = abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, address(this));
        address[] memory signers = _mirrorAddresses();
        vm.expectRevert(refusal);
        _registry.revoke(_id);
        vm.expectRevert(refusal);
        _registry.setVerifier(_rsa, true);
        vm.expectRevert(refusal);
        _registry.setMirrorVerifier(_rsa);
        vm.expectRevert(refusal);
        _registry.setMirrors(signers, 1);
        // The guardian's one power is to revoke.
        refusal = abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, _guardian);
        vm.startPrank(_guardian);
        vm.expectRevert(refusal);
        _registry.setMirrors(signers, 1);
        vm.expectRevert(refusal);
        _registry.setVerifier(_rsa, false);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.UnknownNode.selector, bytes32(uint256(1))));
        _registry.revoke(bytes32(uint256(1)));
        vm.stopPrank();
    }

    function test_admin_refusals() public {
        vm.startPrank(_admin);
        vm.expectRevert(INodeRegistry.ZeroAddress.selector);
        _registry.setVerifier(address(0), true);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.VerifierNotAllowed.selector, address(9)));
        _registry.setMirrorVerifier(address(9));
        address[] memory signers = _mirrorAddresses();
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadThreshold.selector, 0, 3));
        _registry.setMirrors(signers, 0);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadThreshold.selector, 4, 3));
        _registry.setMirrors(signers, 4);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.BadThreshold.selector, 1, 33));
        _registry.setMirrors(new address[](33), 1);
        (signers[0], signers[1]) = (signers[1], signers[0]);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.SignersNotAscending.selector, signers[1], signers[0]));
        _registry.setMirrors(signers, 1);
        signers[0] = address(0);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.SignersNotAscending.selector, address(0), address(0)));
        _registry.setMirrors(signers, 1);
        vm.stopPrank();
    }

    function test_setMirrors_oldKeysStopCounting() public {
        Vm.Wallet memory next = vm.createWallet("next mirror");
        address[] memory signers = new address[](1);
        signers[0] = next.addr;
        vm.prank(_admin);
        _registry.setMirrors(signers, 1);
        INodeRegistry.Mirror memory report = _report();
        bytes[] memory signatures = _sign(report, 0, 1);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotMirror.selector, _mirrors[0].addr));
        _registry.mirror(report, signatures);
        signatures = new bytes[](1);
        signatures[0] = _sign(report, next.privateKey);
        _registry.mirror(report, signatures);
        (address[] memory all, uint8 threshold) = _registry.mirrors();
        assertEq(all, signers);
        assertEq(threshold, 1);
    }

    function test_operatorOnly() public {
        _declare();
        bytes memory refusal = abi.encodeWithSelector(INodeRegistry.NotOperator.selector, address(this), _operator);
        vm.expectRevert(refusal);
        _registry.setMeterKey(_id, address(1));
        vm.expectRevert(refusal);
        _registry.setPayout(_id, address(1));
        vm.expectRevert(refusal);
        _registry.rotateKey(_id, _rsa, "", "");
        vm.expectRevert(refusal);
        _registry.transferOperator(_id, address(1));
        vm.expectRevert(refusal);
        _registry.retire(_id);
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.NotPendingOperator.selector, address(this), address(0)));
        _registry.acceptOperator(_id);
        bytes32 unknown = bytes32(uint256(1));
        vm.expectRevert(abi.encodeWithSelector(INodeRegistry.UnknownNode.selector, unknown));
        _registry.setMeterKey(unknown, address(1));
        vm.prank(_operator);
        vm.expectRevert(INodeRegistry.ZeroAddress.selector);
        _registry.setPayout(_id, address(0));
    }

    function test_unknownNode() public view {
        (INodeRegistry.NodeStatus status, INodeRegistry.Label label) = _registry.captureStatus(_id, 1);
        assertEq(uint8(status), uint8(INodeRegistry.NodeStatus.Unknown));
        assertEq(uint8(label), 0);
        _assertEvidence(1, 0, INodeRegistry.NodeStatus.Unknown);
        assertEq(_registry.version(_id, 1).createdAt, 0);
    }

    // ── costs and events ─────────────────────────────────────────────────────────────────────────────────────────────

    function test_captureReadsOneSlot() public {
        _mirrorAndClaim();
        vm.record();
        _registry.captureStatus(_id, 2);
        assertEq(_distinctReads(), 1);
        vm.record();
        _registry.captureStatus(_id, 1);
        assertEq(_distinctReads(), 1, "the version before the current one");
        vm.record();
        _registry.evidence(_id, 2, uint40(block.timestamp));
        assertEq(_distinctReads(), 2);
        INodeRegistry.NodeRef[] memory refs = new INodeRegistry.NodeRef[](1);
        refs[0] = INodeRegistry.NodeRef(_id, 2);
        vm.record();
        uint256[] memory gates = _registry.captureGates(refs);
        assertEq(_distinctReads(), 1, "and the payout account with it");
        assertEq(address(uint160(gates[0])), _registry.node(_id).payout);
    }

    function test_eventsAreNumberedWithoutGap() public {
        vm.recordLogs();
        uint64 last = _registry.seq();
        _declare();
        _mirrorAndClaim();
        vm.startPrank(_operator);
        _registry.setPayout(_id, _payout);
        _registry.transferOperator(_id, makeAddr("next"));
        vm.stopPrank();
        vm.startPrank(makeAddr("next"));
        _registry.acceptOperator(_id);
        _registry.retire(_id);
        vm.stopPrank();
        _revoke();
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 own;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter != address(_registry)) continue;
            uint64 eventSeq;
            bytes memory data = logs[i].data;
            assembly ("memory-safe") {
                eventSeq := mload(add(data, 32))
            }
            assertEq(eventSeq, ++last);
            ++own;
        }
        assertGt(own, 10);
        assertEq(_registry.seq(), last);
    }

    // ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _declare() private {
        bytes memory possession = _possession(_key, _operator);
        vm.prank(_operator);
        _registry.declare(_rsa, _key.spki, _meterKey, _payout, possession);
    }

    function _mirror() private {
        INodeRegistry.Mirror memory report = _report();
        _registry.mirror(report, _sign(report, 0, 1));
    }

    function _claim() private {
        bytes memory signature = _claimSignature(_owner, _operator);
        _registry.claimOperator(_id, _operator, signature);
    }

    function _mirrorAndClaim() private {
        _mirror();
        _claim();
        vm.prank(_operator);
        _registry.setMeterKey(_id, _meterKey);
    }

    function _revoke() private {
        vm.prank(_guardian);
        _registry.revoke(_id);
    }

    function _report() private returns (INodeRegistry.Mirror memory) {
        return INodeRegistry.Mirror({
            key: _key.spki,
            owner: _owner.addr,
            paymentAddress: makeAddr("payment address"),
            enabled: true,
            observedAt: uint40(block.timestamp) - 20
        });
    }

    function _possession(RsaSigner.Key memory key, address operator) private view returns (bytes memory) {
        return key.sign(_registry.declareDigest(key.id(), _rsa, operator, _meterKey, _payout));
    }

    function _claimSignature(Vm.Wallet memory wallet, address operator) private returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(wallet, _registry.claimDigest(_id, operator));
        return abi.encodePacked(r, s, v);
    }

    function _recover(Vm.Wallet memory wallet, address signed, address claimed) private returns (address) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(wallet, _registry.claimDigest(_id, signed));
        return ecrecover(_registry.claimDigest(_id, claimed), v, r, s);
    }

    function _sign(INodeRegistry.Mirror memory report, uint256 privateKey) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(privateKey, _registry.mirrorDigest(report));
        return abi.encodePacked(r, s, v);
    }

    function _sign(INodeRegistry.Mirror memory report, uint256 i, uint256 j)
        private
        view
        returns (bytes[] memory signatures)
    {
        signatures = new bytes[](2);
        signatures[0] = _sign(report, _mirrors[i].privateKey);
        signatures[1] = _sign(report, _mirrors[j].privateKey);
    }

    function _otherHalf(bytes memory signature) private pure returns (bytes memory) {
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        bytes32 r;
        uint256 s;
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        return abi.encodePacked(r, order - s, uint8(signature[64]) == 27 ? uint8(28) : uint8(27));
    }

    function _expectNotMirror(INodeRegistry.Mirror memory report, bytes[] memory signatures) private {
        vm.expectPartialRevert(INodeRegistry.NotMirror.selector);
        _registry.mirror(report, signatures);
    }

    function _makeMirrors() private {
        _mirrors.push(vm.createWallet("mirror a"));
        _mirrors.push(vm.createWallet("mirror b"));
        _mirrors.push(vm.createWallet("mirror c"));
        for (uint256 i; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (_mirrors[i].addr < _mirrors[j].addr) continue;
                Vm.Wallet memory swap = _mirrors[i];
                _mirrors[i] = _mirrors[j];
                _mirrors[j] = swap;
            }
        }
    }

    function _mirrorAddresses() private view returns (address[] memory signers) {
        signers = new address[](3);
        for (uint256 i; i < 3; ++i) {
            signers[i] = _mirrors[i].addr;
        }
    }

    function _distinctReads() private returns (uint256 count) {
        (bytes32[] memory reads,) = vm.accesses(address(_registry));
        for (uint256 i; i < reads.length; ++i) {
            bool seen;
            for (uint256 j; j < i; ++j) {
                seen = seen || reads[i] == reads[j];
            }
            if (!seen) ++count;
        }
    }

    function _assertStatus(uint32 number, INodeRegistry.NodeStatus expected) private view {
        (INodeRegistry.NodeStatus status,) = _registry.captureStatus(_id, number);
        assertEq(uint8(status), uint8(expected));
    }

    function _assertEvidence(uint32 number, uint40 timestamp, INodeRegistry.NodeStatus expected) private view {
        (INodeRegistry.NodeStatus status,,,,,) = _registry.evidence(_id, number, timestamp);
        assertEq(uint8(status), uint8(expected));
    }
}
