// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {Artifacts} from "../../script/Artifacts.sol";

/// @notice Operators, owners, mirrors, a guardian and strangers who do legal and illegal things to three nodes in any order. Keeps a
///         model of every node that is made of events alone, as an indexer would.
contract NodeRegistryHandler is Test {
    uint40 public constant GRACE = 1 hours;
    uint256 public constant NODES = 3;
    uint64 private constant GUARDIAN_ROLE = 1;
    uint256 private constant P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551;

    struct ModelVersion {
        address verifier;
        address meterKey;
        INodeRegistry.Label label;
        bytes key;
        uint40 createdAt;
    }

    struct Model {
        bool known;
        address operator;
        address pendingOperator;
        address owner;
        address payout;
        uint40 retiredAt;
        uint40 revokedAt;
    }

    INodeRegistry public immutable REGISTRY;
    address private immutable _GUARDIAN = makeAddr("guardian");
    address[2] private _verifiers;
    address[] private _mirrors;
    uint256[3] private _mirrorKeys;
    address[4] private _actors;

    mapping(bytes32 nodeId => Model) private _models;
    mapping(bytes32 nodeId => ModelVersion[]) private _versions;
    uint64 public seq;
    bool public gap;
    bool public revokedTwice;
    bool public versionSkipped;
    bool public trespass;
    uint256 public versionsAdded;
    uint256 public revocations;
    uint256 public mirrored;

    constructor() {
        vm.warp(1_800_000_000);
        IAccessManager manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(address(this))));
        REGISTRY = INodeRegistry(Artifacts.deploy("NodeRegistry", abi.encode(address(manager), GRACE)));
        bytes4[] memory selectors = new bytes4[](1);
        selectors[0] = INodeRegistry.revoke.selector;
        manager.setTargetFunctionRole(address(REGISTRY), selectors, GUARDIAN_ROLE);
        manager.grantRole(GUARDIAN_ROLE, _GUARDIAN, 0);
        for (uint256 i; i < 2; ++i) {
            _verifiers[i] = Artifacts.deploy("ERC7913P256Verifier");
            REGISTRY.setVerifier(_verifiers[i], true);
        }
        REGISTRY.setMirrorVerifier(_verifiers[0]);
        for (uint256 i; i < 4; ++i) {
            _actors[i] = makeAddr(string.concat("actor ", vm.toString(i)));
        }
        _makeMirrors();
        seq = REGISTRY.seq();
    }

    // ── Actions ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function declare(uint256 node, uint256 actor, uint256 verifier, bool metered) external {
        (bytes memory key, uint256 secret) = keyOf(node);
        address by = _actor(actor);
        address meterKey = metered ? makeAddr("meter") : address(0);
        bytes32 digest = REGISTRY.declareDigest(keccak256(key), _verifiers[verifier % 2], by, meterKey, by);
        bytes memory possession = _signP256(secret, digest);
        _watch();
        vm.prank(by);
        try REGISTRY.declare(_verifiers[verifier % 2], key, meterKey, by, possession) {
            _book();
        } catch {}
    }

    function mirror(uint256 node, uint256 owner, uint256 payment, bool enabled, uint256 signers, uint40 age) external {
        (bytes memory key,) = keyOf(node);
        uint40 observedAt = uint40(vm.getBlockTimestamp()) + 60 - uint40(bound(age, 0, 120));
        INodeRegistry.Mirror memory report =
            INodeRegistry.Mirror(key, _actor(owner), _actor(payment), enabled, observedAt);
        bytes32 digest = REGISTRY.mirrorDigest(report);
        uint256 count = 1 + signers % 3;
        bytes[] memory signatures = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(_mirrorKeys[i], digest);
            signatures[i] = abi.encodePacked(r, s, v);
        }
        _watch();
        try REGISTRY.mirror(report, signatures) {
            if (count < 2) trespass = true;
            ++mirrored;
            _book();
        } catch {}
    }

    function claim(uint256 node, uint256 actor) external {
        address by = _actor(actor);
        bytes32 id = idOf(node);
        bool may = _models[id].owner == by;
        _watch();
        vm.prank(by);
        try REGISTRY.claimOperator(id, by, "") {
            if (!may) trespass = true;
            _book();
        } catch {}
    }

    function setMeterKey(uint256 node, uint256 actor, uint256 meterKey) external {
        _asOperator(node, actor, abi.encodeCall(INodeRegistry.setMeterKey, (idOf(node), _meterKey(meterKey))));
    }

    function setPayout(uint256 node, uint256 actor, uint256 payout) external {
        _asOperator(node, actor, abi.encodeCall(INodeRegistry.setPayout, (idOf(node), _actor(payout))));
    }

    function transfer(uint256 node, uint256 actor, uint256 to) external {
        _asOperator(node, actor, abi.encodeCall(INodeRegistry.transferOperator, (idOf(node), _actor(to))));
    }

    function retire(uint256 node, uint256 actor) external {
        _asOperator(node, actor, abi.encodeCall(INodeRegistry.retire, (idOf(node))));
    }

    function rotate(uint256 node, uint256 actor, uint256 newKey, uint256 verifier) external {
        address by = _actor(actor);
        bytes32 id = idOf(node);
        (bytes memory key, uint256 secret) = keyOf(NODES + newKey % 2);
        uint256 count = _versions[id].length;
        address meterKey = count == 0 ? address(0) : _versions[id][count - 1].meterKey;
        bytes32 digest = REGISTRY.declareDigest(id, _verifiers[verifier % 2], by, meterKey, _models[id].payout);
        bytes memory possession = _signP256(secret, digest);
        _asOperator(
            node, actor, abi.encodeCall(INodeRegistry.rotateKey, (id, _verifiers[verifier % 2], key, possession))
        );
    }

    function accept(uint256 node, uint256 actor) external {
        address by = _actor(actor);
        bytes32 id = idOf(node);
        bool may = _models[id].pendingOperator == by;
        _watch();
        vm.prank(by);
        try REGISTRY.acceptOperator(id) {
            if (!may) trespass = true;
            _book();
        } catch {}
    }

    /// @dev Seldom, since it is for ever.
    function revoke(uint256 node, uint256 actor, uint256 chance) external {
        address by = chance % 8 == 0 ? _GUARDIAN : _actor(actor);
        _watch();
        vm.prank(by);
        try REGISTRY.revoke(idOf(node)) {
            if (by != _GUARDIAN) trespass = true;
            _book();
        } catch {}
    }

    function setVerifier(uint256 verifier, bool allowed, uint256 actor) external {
        bool may = actor % 3 != 0;
        _watch();
        if (!may) vm.prank(_actor(actor));
        try REGISTRY.setVerifier(_verifiers[verifier % 2], allowed) {
            if (!may) trespass = true;
            _book();
        } catch {}
    }

    function setMirrorVerifier(uint256 verifier) external {
        _watch();
        try REGISTRY.setMirrorVerifier(verifier % 3 == 2 ? address(0) : _verifiers[verifier % 3]) {
            _book();
        } catch {}
    }

    /// @dev Several blocks share a second, and hours pass between others.
    function pass(uint256 seconds_) external {
        vm.warp(vm.getBlockTimestamp() + bound(seconds_, 0, 2 * GRACE));
    }

    // ── Model ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function model(uint256 node) external view returns (Model memory) {
        return _models[idOf(node)];
    }

    function modelVersions(uint256 node) external view returns (ModelVersion[] memory) {
        return _versions[idOf(node)];
    }

    function idOf(uint256 node) public view returns (bytes32) {
        (bytes memory key,) = keyOf(node % NODES);
        return keccak256(key);
    }

    /// @dev Two more keys than nodes, for rotations; they are nodes to nobody.
    function keyOf(uint256 node) public view returns (bytes memory key, uint256 secret) {
        if (node >= NODES + 2) node %= NODES;
        secret = uint256(keccak256(abi.encode("node", node))) >> 8;
        (uint256 x, uint256 y) = vm.publicKeyP256(secret);
        key = abi.encodePacked(x, y);
    }

    /// @dev What the whole history says, without any of the registry's shortcuts.
    /// @param timestamp 0: a capture in a batch now; otherwise evidence of that time.
    function naiveStatus(uint256 node, uint256 number, uint40 timestamp)
        external
        view
        returns (INodeRegistry.NodeStatus)
    {
        bytes32 id = idOf(node);
        Model memory record = _models[id];
        uint256 count = _versions[id].length;
        uint256 nowAt = vm.getBlockTimestamp();
        if (!record.known) return INodeRegistry.NodeStatus.Unknown;
        if (record.revokedAt != 0) return INodeRegistry.NodeStatus.Revoked;
        if (record.retiredAt != 0) {
            if (timestamp == 0 ? nowAt > record.retiredAt + GRACE : timestamp > record.retiredAt) {
                return INodeRegistry.NodeStatus.Retired;
            }
        }
        if (number == 0 || number > count) return INodeRegistry.NodeStatus.UnknownVersion;
        if (number < count && nowAt > _versions[id][number].createdAt + GRACE) {
            return INodeRegistry.NodeStatus.ReplacedVersion;
        }
        return _versions[id][number - 1].meterKey == address(0)
            ? INodeRegistry.NodeStatus.NoMeterKey
            : INodeRegistry.NodeStatus.Active;
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _asOperator(uint256 node, uint256 actor, bytes memory call_) private {
        address by = _actor(actor);
        bool may = _models[idOf(node)].operator == by;
        _watch();
        vm.prank(by);
        (bool success,) = address(REGISTRY).call(call_);
        if (!success) return;
        if (!may) trespass = true;
        _book();
    }

    function _watch() private {
        vm.recordLogs();
    }

    /// @dev After successes only: logs of a call that reverted are recorded too.
    function _book() private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            Vm.Log memory log = logs[i];
            if (log.emitter != address(REGISTRY)) continue;
            if (abi.decode(log.data, (uint64)) != ++seq) gap = true;
            bytes32 topic = log.topics[0];
            bytes32 id = log.topics.length > 1 ? log.topics[1] : bytes32(0);
            Model storage record = _models[id];
            if (topic == INodeRegistry.NodeRegistered.selector) {
                (,, record.operator, record.payout) =
                    abi.decode(log.data, (uint64, INodeRegistry.Label, address, address));
                record.known = true;
            } else if (topic == INodeRegistry.VersionAdded.selector) {
                _bookVersion(id, log.data);
            } else if (topic == INodeRegistry.OperatorSet.selector) {
                (record.operator, record.pendingOperator) = (address(uint160(uint256(log.topics[2]))), address(0));
            } else if (topic == INodeRegistry.OperatorProposed.selector) {
                record.pendingOperator = address(uint160(uint256(log.topics[2])));
            } else if (topic == INodeRegistry.OwnerSet.selector) {
                record.owner = address(uint160(uint256(log.topics[2])));
            } else if (topic == INodeRegistry.PayoutSet.selector) {
                (, record.payout) = abi.decode(log.data, (uint64, address));
            } else if (topic == INodeRegistry.NodeRetired.selector) {
                (, record.retiredAt) = abi.decode(log.data, (uint64, uint40));
            } else if (topic == INodeRegistry.NodeRestored.selector) {
                record.retiredAt = 0;
            } else if (topic == INodeRegistry.NodeRevoked.selector) {
                if (record.revokedAt != 0) revokedTwice = true;
                (, record.revokedAt) = abi.decode(log.data, (uint64, uint40));
                ++revocations;
            }
        }
    }

    function _bookVersion(bytes32 id, bytes memory data) private {
        (, uint32 number, address verifier, address meterKey, INodeRegistry.Label label, bytes memory key) =
            abi.decode(data, (uint64, uint32, address, address, INodeRegistry.Label, bytes));
        _versions[id].push(ModelVersion(verifier, meterKey, label, key, uint40(vm.getBlockTimestamp())));
        if (number != _versions[id].length) versionSkipped = true;
        ++versionsAdded;
    }

    function _actor(uint256 i) private view returns (address) {
        return _actors[i % _actors.length];
    }

    function _meterKey(uint256 i) private returns (address) {
        return i % 3 == 0 ? address(0) : makeAddr(string.concat("meter ", vm.toString(i % 3)));
    }

    function _makeMirrors() private {
        for (uint256 i; i < 3; ++i) {
            _mirrorKeys[i] = 11 + i;
        }
        for (uint256 i; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (vm.addr(_mirrorKeys[j]) < vm.addr(_mirrorKeys[i])) {
                    (_mirrorKeys[i], _mirrorKeys[j]) = (_mirrorKeys[j], _mirrorKeys[i]);
                }
            }
        }
        for (uint256 i; i < 3; ++i) {
            _mirrors.push(vm.addr(_mirrorKeys[i]));
        }
        REGISTRY.setMirrors(_mirrors, 2);
    }

    function _signP256(uint256 secret, bytes32 digest) private pure returns (bytes memory) {
        (bytes32 r, bytes32 s) = vm.signP256(secret, digest);
        if (uint256(s) > P256_ORDER / 2) s = bytes32(P256_ORDER - uint256(s));
        return abi.encodePacked(r, s);
    }
}
