// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {NodeRegistryHandler} from "./NodeRegistryHandler.sol";

/// @notice What holds of nodes after any sequence of actions.
contract NodeRegistryInvariants is Test {
    NodeRegistryHandler private _handler;
    INodeRegistry private _registry;

    function setUp() public {
        _handler = new NodeRegistryHandler();
        _registry = _handler.REGISTRY();
        targetContract(address(_handler));
        bytes4[] memory actions = new bytes4[](13);
        actions[0] = _handler.declare.selector;
        actions[1] = _handler.mirror.selector;
        actions[2] = _handler.claim.selector;
        actions[3] = _handler.setMeterKey.selector;
        actions[4] = _handler.setPayout.selector;
        actions[5] = _handler.transfer.selector;
        actions[6] = _handler.retire.selector;
        actions[7] = _handler.rotate.selector;
        actions[8] = _handler.accept.selector;
        actions[9] = _handler.revoke.selector;
        actions[10] = _handler.setVerifier.selector;
        actions[11] = _handler.setMirrorVerifier.selector;
        actions[12] = _handler.pass.selector;
        targetSelector(FuzzSelector(address(_handler), actions));
    }

    /// @dev Checklist 31: events are numbered without a gap and let an indexer rebuild the state exactly.
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: default.invariant.runs = 32
    function invariant_31_eventsRebuildTheState() public view {
        assertEq(_registry.seq(), _handler.seq());
        assertFalse(_handler.gap(), "gap");
        for (uint256 i; i < _handler.NODES(); ++i) {
            bytes32 id = _handler.idOf(i);
            NodeRegistryHandler.Model memory model = _handler.model(i);
            INodeRegistry.Node memory node = _registry.node(id);
            assertEq(node.registeredAt != 0, model.known, "known");
            assertEq(node.operator, model.operator, "operator");
            assertEq(node.pendingOperator, model.pendingOperator, "pending operator");
            assertEq(node.owner, model.owner, "owner");
            assertEq(node.payout, model.payout, "payout");
            assertEq(_registry.node(id).payout, model.payout, "payout");
            assertEq(node.retiredAt, model.retiredAt, "retired");
            assertEq(node.revokedAt, model.revokedAt, "revoked");
            assertEq(node.version, _handler.modelVersions(i).length, "version");
        }
    }

    /// @dev Checklist 40: key history is append-only, and what a version said it says for ever.
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: default.invariant.runs = 32
    function invariant_40_historyIsAppendOnly() public view {
        assertFalse(_handler.versionSkipped(), "numbers without a gap");
        for (uint256 i; i < _handler.NODES(); ++i) {
            bytes32 id = _handler.idOf(i);
            NodeRegistryHandler.ModelVersion[] memory history = _handler.modelVersions(i);
            for (uint256 j; j < history.length; ++j) {
                INodeRegistry.Version memory version = _registry.version(id, uint32(j + 1));
                assertEq(version.verifier, history[j].verifier);
                assertEq(version.meterKey, history[j].meterKey);
                assertEq(uint8(version.label), uint8(history[j].label));
                assertEq(version.key, history[j].key);
                assertEq(version.createdAt, history[j].createdAt);
                assertEq(version.replacedAt, j + 1 < history.length ? history[j + 1].createdAt : 0);
            }
            assertEq(_registry.version(id, uint32(history.length + 1)).createdAt, 0);
        }
    }

    /// @dev Checklist 40: what can be captured follows from the whole history; the one slot that a batch reads tells the same.
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: default.invariant.runs = 32
    function invariant_40_gateAgreesWithTheHistory() public view {
        for (uint256 i; i < _handler.NODES(); ++i) {
            bytes32 id = _handler.idOf(i);
            NodeRegistryHandler.ModelVersion[] memory history = _handler.modelVersions(i);
            INodeRegistry.NodeRef[] memory refs = new INodeRegistry.NodeRef[](history.length + 2);
            for (uint256 j; j < refs.length; ++j) {
                refs[j] = INodeRegistry.NodeRef(id, uint32(j));
            }
            uint256[] memory gates = _registry.captureGates(refs);
            for (uint256 j; j < refs.length; ++j) {
                (INodeRegistry.NodeStatus status, INodeRegistry.Label label) = _registry.captureStatus(id, uint32(j));
                assertEq(uint8(status), uint8(_handler.naiveStatus(i, j, 0)), "capture status");
                uint256 packed = (uint256(status) << 168) | (uint256(label) << 160);
                packed |= uint160(_registry.node(id).payout);
                assertEq(gates[j], packed, "one by one and together");
                bool exists = j != 0 && j <= history.length;
                assertEq(uint8(label), exists ? uint8(history[j - 1].label) : 0, "label");
                _checkEvidence(i, id, uint32(j));
            }
        }
    }

    /// @dev Operators, owners, mirrors and roles do what is theirs and nothing else; a revocation is for ever.
    /// forge-config: default.invariant.fail-on-revert = true
    /// forge-config: default.invariant.runs = 32
    function invariant_42_nobodyTrespasses() public view {
        assertFalse(_handler.trespass(), "done by somebody who may not");
        assertFalse(_handler.revokedTwice(), "revoked twice");
    }

    /// @dev The actions reach what they are for, so the invariants are not about an idle system.
    function test_actionsReachWhatTheyAreFor() public {
        _handler.declare(0, 0, 0, true);
        assertEq(_versions(0), 1);
        _handler.setMeterKey(0, 0, 1);
        assertEq(_versions(0), 2);
        _handler.rotate(0, 0, 0, 1);
        assertEq(_versions(0), 3);
        assertEq(uint8(_handler.naiveStatus(0, 3, 0)), uint8(INodeRegistry.NodeStatus.Active));
        _handler.pass(2 * _handler.GRACE());
        assertEq(uint8(_handler.naiveStatus(0, 2, 0)), uint8(INodeRegistry.NodeStatus.ReplacedVersion));
        _handler.setPayout(0, 0, 3);
        assertEq(_handler.model(0).payout, makeAddr("actor 3"));
        _handler.transfer(0, 0, 1);
        _handler.accept(0, 1);
        assertEq(_handler.model(0).operator, makeAddr("actor 1"));
        _handler.retire(0, 1);
        assertGt(_handler.model(0).retiredAt, 0);
        _handler.mirror(1, 2, 3, true, 1, 60);
        assertEq(_handler.mirrored(), 1);
        _handler.claim(1, 2);
        assertEq(_handler.model(1).operator, makeAddr("actor 2"));
        _handler.setVerifier(1, false, 1);
        _handler.setMirrorVerifier(2);
        _handler.revoke(1, 0, 0);
        assertEq(_handler.revocations(), 1);
        assertFalse(_handler.trespass());
        invariant_31_eventsRebuildTheState();
        invariant_40_historyIsAppendOnly();
        invariant_40_gateAgreesWithTheHistory();
    }

    function _versions(uint256 node) private view returns (uint256) {
        return _handler.modelVersions(node).length;
    }

    function _checkEvidence(uint256 node, bytes32 id, uint32 number) private view {
        uint40 timestamp = uint40(vm.getBlockTimestamp() - 30 minutes);
        (INodeRegistry.NodeStatus status,, address verifier, address meterKey, address payout, bytes memory key) =
            _registry.evidence(id, number, timestamp);
        assertEq(uint8(status), uint8(_handler.naiveStatus(node, number, timestamp)), "evidence status");
        INodeRegistry.Version memory version = _registry.version(id, number);
        assertEq(verifier, version.verifier);
        assertEq(meterKey, version.meterKey);
        assertEq(key, version.key);
        assertEq(payout, _registry.node(id).payout);
    }
}
