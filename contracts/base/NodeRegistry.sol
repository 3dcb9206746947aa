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
/// @dev A capture in a batch reads two slots: the first of the node and the one of its version. A verified capture reads one
///      piece of code besides.
contract NodeRegistry is INodeRegistry, AccessManaged, EIP712 {
    /// @dev Slots: what a capture reads; what an operator's call reads; and the rest.
    struct NodeSlots {
        address payout;
        uint40 retiredAt;
        uint40 revokedAt;
        // ─ slot 2
        address operator;
        uint32 version;
        Label label;
        uint40 registeredAt;
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
        require(record.label == Label.Declared, NotDeclared(nodeId));
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
            label: record.label,
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
        NodeSlots storage record = _nodes[nodeId];
        VersionSlot storage slot = _versions[nodeId][number];
        uint256 retiredAt = record.retiredAt;
        bool retired = retiredAt != 0 && block.timestamp > retiredAt + GRACE;
        return (_status(record, slot, retired), slot.label);
    }

    /// @inheritdoc INodeRegistry
    function evidence(bytes32 nodeId, uint32 number, uint40 timestamp)
        external
        view
        override
        returns (NodeStatus status, Label label, address verifier, address meterKey, address payout, bytes memory key)
    {
        NodeSlots storage record = _nodes[nodeId];
        VersionSlot storage slot = _versions[nodeId][number];
        bool retired = record.retiredAt != 0 && timestamp > record.retiredAt;
        status = _status(record, slot, retired);
        label = slot.label;
        payout = record.payout;
        if (slot.createdAt != 0) (verifier, meterKey, key) = _keys(slot.pointer);
    }

    /// @inheritdoc INodeRegistry
    function payoutOf(bytes32 nodeId) external view override returns (address) {
        return _nodes[nodeId].payout;
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
        uint32 number = record.version + 1;
        if (number != 1) _versions[nodeId][number - 1].replacedAt = uint40(block.timestamp);
        record.version = number;
        record.label = label;
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
        record.retiredAt = uint40(block.timestamp);
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

    function _status(NodeSlots storage record, VersionSlot storage slot, bool retired)
        private
        view
        returns (NodeStatus)
    {
        if (record.payout == address(0)) return NodeStatus.Unknown;
        if (record.revokedAt != 0) return NodeStatus.Revoked;
        if (retired) return NodeStatus.Retired;
        if (slot.createdAt == 0) return NodeStatus.UnknownVersion;
        uint256 replacedAt = slot.replacedAt;
        if (replacedAt != 0 && block.timestamp > replacedAt + GRACE) return NodeStatus.ReplacedVersion;
        return slot.metered ? NodeStatus.Active : NodeStatus.NoMeterKey;
    }

    function _keys(address pointer) private view returns (address verifier, address meterKey, bytes memory key) {
        bytes memory head = SSTORE2.read(pointer, 0, 40);
        assembly ("memory-safe") {
            verifier := shr(96, mload(add(head, 32)))
            meterKey := shr(96, mload(add(head, 52)))
        }
        key = SSTORE2.read(pointer, 40);
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
