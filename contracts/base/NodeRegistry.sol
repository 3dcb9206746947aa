// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SSTORE2} from "solady/utils/SSTORE2.sol";
import {INodeRegistry} from "../interfaces/INodeRegistry.sol";

/// @title NodeRegistry
/// @notice Who serves, under which keys, and who is paid for it.
/// @dev A capture in a batch reads one slot of the node. A verified capture reads that, the slot of the version and one piece of
///      code. A payment reads nothing: a batch keeps the payout account of its settlement.
contract NodeRegistry is INodeRegistry, AccessManaged, EIP712 {
    /// @dev Slots: the gate, which is all that a capture in a batch reads; what an operator's call reads; and the rest. For the gate to
    ///      be one slot its numbers are narrower than elsewhere: seconds up to the year 2106, and 16 million versions.
    struct NodeSlots {
        address payout;
        uint24 version;
        uint32 retiredAt;
        /// When the version before this one was replaced.
        uint32 replacedAt;
        /// See `_LABEL_MASK` and the others.
        uint8 flags;
        // ─ slot 2
        address operator;
        uint40 registeredAt;
        uint40 revokedAt;
        // ─ slot 3
        address pendingOperator;
        uint40 observedAt;
        // ─ slot 4
        address owner;
    }

    /// @dev One slot. The code at `pointer` is verifier ‖ meterKey ‖ key.
    struct VersionSlot {
        address pointer;
        uint40 createdAt;
        uint40 replacedAt;
        Label label;
        bool metered;
    }

    /// @dev Flags of the gate: label (two bits) and "has a meter key" of the current version, the same of the one before, revoked.
    uint8 private constant _VERSION_BITS = 3;
    uint8 private constant _VERSION_MASK = 7;
    uint8 private constant _LABEL_MASK = 3;
    uint8 private constant _METERED = 4;
    uint8 private constant _REVOKED = 64;
    /// @dev Where the members of the gate start, bits.
    uint256 private constant _VERSION = 160;
    uint256 private constant _RETIRED_AT = 184;
    uint256 private constant _REPLACED_AT = 216;
    uint256 private constant _FLAGS = 248;
    uint256 private constant _REVOKED_BIT = uint256(_REVOKED) << _FLAGS;

    bytes32 private constant DECLARE_TYPEHASH =
        keccak256("Declare(bytes32 nodeId,address verifier,address operator,address meterKey,address payout)");
    bytes32 private constant MIRROR_TYPEHASH =
        keccak256("Mirror(bytes key,address owner,address paymentAddress,bool enabled,uint40 observedAt)");
    bytes32 private constant CLAIM_TYPEHASH = keccak256("ClaimOperator(bytes32 nodeId,address operator)");

    /// @dev Clocks of two chains differ by seconds; a quorum gains nothing by dating a report a little ahead.
    uint40 private constant CLOCK_TOLERANCE = 300;
    uint256 private constant MAX_MIRRORS = 32;
    /// @dev First bytes of an account's code that delegates by EIP-7702: still the account of its key.
    bytes3 private constant DELEGATION = 0xef0100;

    /// @inheritdoc INodeRegistry
    uint256 public constant override MAX_KEY_BYTES = 1024;
    /// @inheritdoc INodeRegistry
    uint40 public immutable override GRACE;

    /// @inheritdoc INodeRegistry
    uint64 public override seq;
    uint8 private _threshold;
    /// @inheritdoc INodeRegistry
    address public override mirrorVerifier;
    address[] private _mirrors;
    mapping(address signer => bool) private _isMirror;
    /// @inheritdoc INodeRegistry
    mapping(address verifier => bool) public override isVerifier;
    mapping(bytes32 nodeId => NodeSlots) private _nodes;
    mapping(bytes32 nodeId => mapping(uint32 number => VersionSlot)) private _versions;

    /// @param authority AccessManager that names guardian and administrator.
    /// @param grace Seconds for which a replaced version can still be captured.
    constructor(address authority, uint40 grace) AccessManaged(authority) EIP712("Quittance", "1") {
        GRACE = grace;
    }

    // ── Nodes and their operators ────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc INodeRegistry
    function declare(address verifier, bytes calldata key, address meterKey, address payout, bytes calldata possession)
        external
        override
        returns (bytes32 nodeId)
    {
        require(payout != address(0), ZeroAddress());
        nodeId = keccak256(key);
        NodeSlots storage record = _nodes[nodeId];
        require(record.registeredAt == 0, NodeExists(nodeId));

        record.payout = payout;
        record.operator = msg.sender;
        record.registeredAt = uint40(block.timestamp);
        emit NodeRegistered(++seq, nodeId, Label.Declared, msg.sender, payout);
        _addVersion(nodeId, verifier, meterKey, Label.Declared, key);

        _checkPossession(
            declareDigest(nodeId, verifier, msg.sender, meterKey, payout), nodeId, verifier, key, possession
        );
    }

    /// @inheritdoc INodeRegistry
    function mirror(Mirror calldata report, bytes[] calldata signatures) external override {
        require(report.owner != address(0) && report.paymentAddress != address(0), ZeroAddress());
        uint40 latest = uint40(block.timestamp) + CLOCK_TOLERANCE;
        require(report.observedAt <= latest, FutureReport(report.observedAt, latest));
        bytes32 nodeId = keccak256(report.key);
        NodeSlots storage record = _nodes[nodeId];
        require(record.revokedAt == 0, NodeIsRevoked(nodeId));
        require(report.observedAt > record.observedAt, StaleReport(report.observedAt, record.observedAt));
        require(report.enabled || record.registeredAt != 0, UnknownNode(nodeId));
        _checkQuorum(mirrorDigest(report), signatures);

        record.observedAt = report.observedAt;
        if (record.owner != report.owner) {
            _mirrorAnew(record, nodeId, report);
        } else {
            _mirrorAgain(record, nodeId, report);
        }
        if (!report.enabled && record.retiredAt == 0) {
            _retire(record, nodeId);
        } else if (report.enabled && record.retiredAt != 0) {
            record.retiredAt = 0;
            emit NodeRestored(++seq, nodeId);
        }
    }

    /// @inheritdoc INodeRegistry
    function claimOperator(bytes32 nodeId, address operator, bytes calldata signature) external override {
        require(operator != address(0), ZeroAddress());
        NodeSlots storage record = _unrevoked(nodeId);
        address owner = record.owner;
        if (signature.length == 0) {
            require(msg.sender == owner, NotOwner(msg.sender, owner));
            // Another party may be able to deploy a contract at the address that a contract has on OpenGradient.
            require(owner.code.length == 0 || bytes3(owner.code) == DELEGATION, OwnerIsContract(owner));
        } else {
            require(record.operator == address(0), OperatorExists(nodeId, record.operator));
            (address signer,,) = ECDSA.tryRecover(claimDigest(nodeId, operator), signature);
            require(signer != address(0) && signer == owner, NotOwner(signer, owner));
        }
        _setOperator(record, nodeId, operator);
    }

    /// @inheritdoc INodeRegistry
    function setMeterKey(bytes32 nodeId, address meterKey) external override {
        NodeSlots storage record = _operated(nodeId);
        require(record.revokedAt == 0, NodeIsRevoked(nodeId));
        VersionSlot storage current = _versions[nodeId][record.version];
        (address verifier,, bytes memory key) = _keys(current.pointer);
        _addVersion(nodeId, verifier, meterKey, current.label, key);
    }

    /// @inheritdoc INodeRegistry
    function setPayout(bytes32 nodeId, address payout) external override {
        require(payout != address(0), ZeroAddress());
        _setPayout(_operated(nodeId), nodeId, payout);
    }

    /// @inheritdoc INodeRegistry
    function rotateKey(bytes32 nodeId, address verifier, bytes calldata key, bytes calldata possession)
        external
        override
    {
        NodeSlots storage record = _operated(nodeId);
        require(record.revokedAt == 0, NodeIsRevoked(nodeId));
        require(record.retiredAt == 0, NodeIsRetired(nodeId));
        require(Label(record.flags & _LABEL_MASK) == Label.Declared, NotDeclared(nodeId));
        (, address meterKey,) = _keys(_versions[nodeId][record.version].pointer);
        _addVersion(nodeId, verifier, meterKey, Label.Declared, key);

        bytes32 digest = declareDigest(nodeId, verifier, msg.sender, meterKey, record.payout);
        _checkPossession(digest, nodeId, verifier, key, possession);
    }

    /// @inheritdoc INodeRegistry
    function transferOperator(bytes32 nodeId, address newOperator) external override {
        _operated(nodeId).pendingOperator = newOperator;
        emit OperatorProposed(++seq, nodeId, newOperator);
    }

    /// @inheritdoc INodeRegistry
    function acceptOperator(bytes32 nodeId) external override {
        NodeSlots storage record = _known(nodeId);
        require(msg.sender == record.pendingOperator, NotPendingOperator(msg.sender, record.pendingOperator));
        _setOperator(record, nodeId, msg.sender);
    }

    /// @inheritdoc INodeRegistry
    function retire(bytes32 nodeId) external override {
        NodeSlots storage record = _operated(nodeId);
        require(record.retiredAt == 0, NodeIsRetired(nodeId));
        _retire(record, nodeId);
    }

    // ── Roles ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc INodeRegistry
    function revoke(bytes32 nodeId) external override restricted {
        NodeSlots storage record = _unrevoked(nodeId);
        record.revokedAt = uint40(block.timestamp);
        record.flags |= _REVOKED;
        emit NodeRevoked(++seq, nodeId, uint40(block.timestamp));
    }

    /// @inheritdoc INodeRegistry
    function setVerifier(address verifier, bool allowed) external override restricted {
        require(verifier != address(0), ZeroAddress());
        isVerifier[verifier] = allowed;
        emit VerifierSet(++seq, verifier, allowed);
    }

    /// @inheritdoc INodeRegistry
    function setMirrorVerifier(address verifier) external override restricted {
        require(verifier == address(0) || isVerifier[verifier], VerifierNotAllowed(verifier));
        mirrorVerifier = verifier;
        emit MirrorVerifierSet(++seq, verifier);
    }

    /// @inheritdoc INodeRegistry
    function setMirrors(address[] calldata signers, uint8 threshold) external override restricted {
        require(
            threshold != 0 && threshold <= signers.length && signers.length <= MAX_MIRRORS,
            BadThreshold(threshold, signers.length)
        );
        for (uint256 i; i < _mirrors.length; ++i) {
            _isMirror[_mirrors[i]] = false;
        }
        address last;
        for (uint256 i; i < signers.length; ++i) {
            require(signers[i] > last, SignersNotAscending(signers[i], last));
            last = signers[i];
            _isMirror[last] = true;
        }
        _mirrors = signers;
        _threshold = threshold;
        emit MirrorsSet(++seq, signers, threshold);
    }

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc INodeRegistry
    function node(bytes32 nodeId) external view override returns (Node memory) {
        NodeSlots storage record = _nodes[nodeId];
        return Node({
            operator: record.operator,
            pendingOperator: record.pendingOperator,
            owner: record.owner,
            payout: record.payout,
            version: record.version,
            label: Label(record.flags & _LABEL_MASK),
            registeredAt: record.registeredAt,
            retiredAt: record.retiredAt,
            revokedAt: record.revokedAt,
            observedAt: record.observedAt
        });
    }

    /// @inheritdoc INodeRegistry
    function version(bytes32 nodeId, uint32 number) external view override returns (Version memory record) {
        VersionSlot storage slot = _versions[nodeId][number];
        if (slot.createdAt == 0) return record;
        (address verifier, address meterKey, bytes memory key) = _keys(slot.pointer);
        return Version(verifier, meterKey, slot.label, slot.createdAt, slot.replacedAt, key);
    }

    /// @inheritdoc INodeRegistry
    function captureStatus(bytes32 nodeId, uint32 number)
        external
        view
        override
        returns (NodeStatus status, Label label)
    {
        return _captureStatus(_gate(nodeId), nodeId, number);
    }

    /// @inheritdoc INodeRegistry
    function captureGates(NodeRef[] calldata refs) external view override returns (uint256[] memory gates) {
        gates = new uint256[](refs.length);
        for (uint256 i; i < refs.length; ++i) {
            NodeRef calldata ref = refs[i];
            uint256 gate = _gate(ref.nodeId);
            (NodeStatus status, Label label) = _captureStatus(gate, ref.nodeId, ref.version);
            gates[i] = uint160(gate) | (uint256(label) << 160) | (uint256(status) << 168);
        }
    }

    /// @inheritdoc INodeRegistry
    function evidence(bytes32 nodeId, uint32 number, uint40 timestamp)
        external
        view
        override
        returns (NodeStatus status, Label label, address verifier, address meterKey, address payout, bytes memory key)
    {
        uint256 gate = _gate(nodeId);
        uint256 retiredAt = uint32(gate >> _RETIRED_AT);
        (status, label) = _status(gate, nodeId, number, retiredAt != 0 && timestamp > retiredAt);
        payout = address(uint160(gate));
        address pointer = _versions[nodeId][number].pointer;
        if (pointer != address(0)) (verifier, meterKey, key) = _keys(pointer);
    }

    /// @inheritdoc INodeRegistry
    function mirrors() external view override returns (address[] memory signers, uint8 threshold) {
        return (_mirrors, _threshold);
    }

    /// @inheritdoc INodeRegistry
    function declareDigest(bytes32 nodeId, address verifier, address operator, address meterKey, address payout)
        public
        view
        override
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(DECLARE_TYPEHASH, nodeId, verifier, operator, meterKey, payout)));
    }

    /// @inheritdoc INodeRegistry
    function mirrorDigest(Mirror calldata report) public view override returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    MIRROR_TYPEHASH,
                    keccak256(report.key),
                    report.owner,
                    report.paymentAddress,
                    report.enabled,
                    report.observedAt
                )
            )
        );
    }

    /// @inheritdoc INodeRegistry
    function claimDigest(bytes32 nodeId, address operator) public view override returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CLAIM_TYPEHASH, nodeId, operator)));
    }

    // ── Internals ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev A new key, a Declared one that the mirrors took over, or a new owner: nothing of an earlier operator stays.
    function _mirrorAnew(NodeSlots storage record, bytes32 nodeId, Mirror calldata report) private {
        if (record.registeredAt == 0) {
            record.registeredAt = uint40(block.timestamp);
            record.payout = report.paymentAddress;
            emit NodeRegistered(++seq, nodeId, Label.Mirrored, address(0), report.paymentAddress);
        } else {
            _setOperator(record, nodeId, address(0));
            _setPayout(record, nodeId, report.paymentAddress);
        }
        record.owner = report.owner;
        emit OwnerSet(++seq, nodeId, report.owner);
        _addVersion(nodeId, mirrorVerifier, address(0), Label.Mirrored, report.key);
    }

    /// @dev Follows a new payment address until an operator chose one, and a new mirror verifier.
    function _mirrorAgain(NodeSlots storage record, bytes32 nodeId, Mirror calldata report) private {
        if (record.operator == address(0) && record.payout != report.paymentAddress) {
            _setPayout(record, nodeId, report.paymentAddress);
        }
        address wanted = mirrorVerifier;
        (address verifier, address meterKey,) = _keys(_versions[nodeId][record.version].pointer);
        if (report.enabled && wanted != address(0) && wanted != verifier) {
            _addVersion(nodeId, wanted, meterKey, Label.Mirrored, report.key);
        }
    }

    function _addVersion(bytes32 nodeId, address verifier, address meterKey, Label label, bytes memory key) private {
        // Taking a meter key away must work whatever became of the verifier.
        require(
            isVerifier[verifier] || (meterKey == address(0) && _isCurrent(nodeId, verifier)),
            VerifierNotAllowed(verifier)
        );
        require(key.length != 0 && key.length <= MAX_KEY_BYTES, BadKeyLength(key.length, MAX_KEY_BYTES));
        NodeSlots storage record = _nodes[nodeId];
        uint24 number = record.version + 1;
        if (number != 1) _versions[nodeId][number - 1].replacedAt = uint40(block.timestamp);
        uint8 flags = record.flags;
        uint8 current = uint8(label) | (meterKey == address(0) ? 0 : _METERED);
        record.version = number;
        record.replacedAt = uint32(block.timestamp);
        // Nobody adds a version to a revoked node: that bit is clear.
        record.flags = current | ((flags & _VERSION_MASK) << _VERSION_BITS);
        _versions[nodeId][number] = VersionSlot({
            pointer: SSTORE2.write(abi.encodePacked(verifier, meterKey, key)),
            createdAt: uint40(block.timestamp),
            replacedAt: 0,
            label: label,
            metered: meterKey != address(0)
        });
        emit VersionAdded(++seq, nodeId, number, verifier, meterKey, label, key);
    }

    function _setOperator(NodeSlots storage record, bytes32 nodeId, address operator) private {
        record.operator = operator;
        record.pendingOperator = address(0);
        emit OperatorSet(++seq, nodeId, operator);
    }

    function _setPayout(NodeSlots storage record, bytes32 nodeId, address payout) private {
        record.payout = payout;
        emit PayoutSet(++seq, nodeId, payout);
    }

    function _retire(NodeSlots storage record, bytes32 nodeId) private {
        record.retiredAt = uint32(block.timestamp);
        emit NodeRetired(++seq, nodeId, uint40(block.timestamp));
    }

    function _checkPossession(
        bytes32 digest,
        bytes32 nodeId,
        address verifier,
        bytes calldata key,
        bytes calldata possession
    ) private view {
        require(
            IERC7913SignatureVerifier(verifier).verify(key, digest, possession)
                == IERC7913SignatureVerifier.verify.selector,
            BadPossession(nodeId)
        );
    }

    function _checkQuorum(bytes32 digest, bytes[] calldata signatures) private view {
        uint256 threshold = _threshold;
        require(threshold != 0 && signatures.length >= threshold, QuorumMissing(signatures.length, threshold));
        address last;
        for (uint256 i; i < signatures.length; ++i) {
            (address signer,,) = ECDSA.tryRecover(digest, signatures[i]);
            require(_isMirror[signer], NotMirror(signer));
            require(signer > last, SignersNotAscending(signer, last));
            last = signer;
        }
    }

    function _captureStatus(uint256 gate, bytes32 nodeId, uint32 number) private view returns (NodeStatus, Label) {
        uint256 retiredAt = uint32(gate >> _RETIRED_AT);
        return _status(gate, nodeId, number, retiredAt != 0 && block.timestamp > retiredAt + GRACE);
    }

    /// @dev Current version and the one before are in the gate; older ones count only if they too were replaced just now.
    function _status(uint256 gate, bytes32 nodeId, uint256 number, bool retired)
        private
        view
        returns (NodeStatus, Label label)
    {
        uint256 current = uint24(gate >> _VERSION);
        uint256 replacedAt;
        bool metered;
        if (number == current) {
            // 0 before the first version: no flags, no label.
            (label, metered) = _version(gate >> _FLAGS);
        } else if (number + 1 == current && number != 0) {
            (label, metered) = _version(gate >> (_FLAGS + _VERSION_BITS));
            replacedAt = uint32(gate >> _REPLACED_AT);
        } else {
            VersionSlot memory slot = _versions[nodeId][uint32(number)];
            (label, metered, replacedAt) = (slot.label, slot.metered, slot.replacedAt);
        }
        if (address(uint160(gate)) == address(0)) return (NodeStatus.Unknown, label);
        if (gate & _REVOKED_BIT != 0) return (NodeStatus.Revoked, label);
        if (retired) return (NodeStatus.Retired, label);
        if (label == Label.None) return (NodeStatus.UnknownVersion, label);
        if (replacedAt != 0 && block.timestamp > replacedAt + GRACE) return (NodeStatus.ReplacedVersion, label);
        return (metered ? NodeStatus.Active : NodeStatus.NoMeterKey, label);
    }

    /// @dev What three bits of the flags say of a version.
    function _version(uint256 flags) private pure returns (Label label, bool metered) {
        return (Label(flags & _LABEL_MASK), flags & _METERED != 0);
    }

    /// @dev The first slot in one read; members of a storage struct are read one by one.
    function _gate(bytes32 nodeId) private view returns (uint256 gate) {
        NodeSlots storage record = _nodes[nodeId];
        assembly ("memory-safe") {
            gate := sload(record.slot)
        }
    }

    function _keys(address pointer) private view returns (address verifier, address meterKey, bytes memory key) {
        bytes memory data = SSTORE2.read(pointer);
        // Key and length are made of the same memory: the length stands where the two addresses stood.
        assembly ("memory-safe") {
            verifier := shr(96, mload(add(data, 32)))
            meterKey := shr(96, mload(add(data, 52)))
            key := add(data, 40)
            mstore(key, sub(mload(data), 40))
        }
    }

    function _isCurrent(bytes32 nodeId, address verifier) private view returns (bool current) {
        uint32 number = _nodes[nodeId].version;
        if (number != 0) {
            (address present,,) = _keys(_versions[nodeId][number].pointer);
            current = present == verifier;
        }
    }

    function _known(bytes32 nodeId) private view returns (NodeSlots storage record) {
        record = _nodes[nodeId];
        require(record.registeredAt != 0, UnknownNode(nodeId));
    }

    function _unrevoked(bytes32 nodeId) private view returns (NodeSlots storage record) {
        record = _known(nodeId);
        require(record.revokedAt == 0, NodeIsRevoked(nodeId));
    }

    function _operated(bytes32 nodeId) private view returns (NodeSlots storage record) {
        record = _known(nodeId);
        require(msg.sender == record.operator, NotOperator(msg.sender, record.operator));
    }
}
