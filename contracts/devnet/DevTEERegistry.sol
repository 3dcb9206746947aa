// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IOpenGradientTEERegistry, IOpenGradientTEEVerifier} from "../interfaces/IOpenGradient.sol";

/// @title DevTEERegistry
/// @notice For local chains only: OpenGradient's TEE registry (the newer form, with an OHTTP configuration, which stays empty
///         here) towards its callers, with the same selectors, events, errors, roles and rules. One entry is ours:
///         `registerDevnetTEE`, by which an administrator vouches for a node that has no attestation. Heartbeats are really
///         verified.
contract DevTEERegistry is AccessControl, IOpenGradientTEERegistry {
    struct OhttpConfig {
        uint8 keyId;
        uint16 kemId;
        uint16 kdfId;
        uint16 aeadId;
        bytes publicKey;
        bytes keyConfig;
        uint256 registeredAt;
    }

    struct TEEInfo {
        address owner;
        address paymentAddress;
        string endpoint;
        bytes publicKey;
        bytes tlsCertificate;
        bytes32 pcrHash;
        uint8 teeType;
        bool enabled;
        uint256 registeredAt;
        uint256 lastHeartbeatAt;
        OhttpConfig ohttpConfig;
    }

    struct PCRMeasurements {
        bytes pcr0;
        bytes pcr1;
        bytes pcr2;
    }

    bytes32 public constant TEE_OPERATOR = keccak256("TEE_OPERATOR");
    IOpenGradientTEEVerifier private constant VERIFIER = IOpenGradientTEEVerifier(address(0x0900));

    mapping(bytes32 teeId => TEEInfo) public tees;
    mapping(uint8 teeType => mapping(bytes32 pcrHash => bool)) public isPCRApproved;
    mapping(uint8 teeType => bool) public isValidTEEType;
    uint256 public heartbeatMaxAge = 1800;
    bytes public awsRootCertificate;
    mapping(uint8 teeType => bytes32[]) private _byType;
    mapping(address owner => bytes32[]) private _byOwner;

    event TEERegistered(bytes32 indexed teeId, address indexed owner, uint8 teeType);
    event TEEDisabled(bytes32 indexed teeId);
    event TEEEnabled(bytes32 indexed teeId);
    event PCRApproved(bytes32 indexed pcrHash, uint8 indexed teeType, string version);
    event PCRRevoked(bytes32 indexed pcrHash, uint8 indexed teeType);
    event HeartbeatReceived(bytes32 indexed teeId, uint256 timestamp);
    event TEETypeAdded(uint8 indexed typeId, string name);
    event AWSCertificateUpdated(bytes32 indexed certHash);

    error TEETypeExists();
    error InvalidTEEType();
    error PCRNotApproved();
    error PCRAlreadyExists();
    error TEEAlreadyExists();
    error TEENotFound();
    error TEENotEnabled();
    error NotTEEOwner();
    error AttestationInvalid(string reason);
    error HeartbeatSignatureInvalid();
    error HeartbeatTimestampTooOld();
    error HeartbeatTimestampInFuture();

    /// @param admin Gets both roles.
    constructor(address admin) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(TEE_OPERATOR, admin);
        _addType(0, "LLMProxy");
        _addType(1, "Validator");
    }

    // ── Nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Registers a node by its attestation. On a devnet the precompile reverts: there are no enclaves.
    function registerTEEWithAttestation(
        bytes calldata attestationDocument,
        bytes calldata signingPublicKey,
        bytes calldata tlsCertificate,
        address paymentAddress,
        string calldata endpoint,
        uint8 teeType
    ) external onlyRole(TEE_OPERATOR) returns (bytes32 teeId) {
        (bool valid, bytes32 pcrHash) = VERIFIER.verifyAttestation(
            attestationDocument, signingPublicKey, tlsCertificate, awsRootCertificate
        );
        require(valid, AttestationInvalid("attestation not valid"));
        return _register(msg.sender, signingPublicKey, tlsCertificate, paymentAddress, endpoint, teeType, pcrHash);
    }

    /// @notice Devnet only, not in OpenGradient's registry: the administrator registers a node without attestation.
    /// @param owner Who owns it there.
    /// @param pcrHash An approved measurement that the node is said to run.
    function registerDevnetTEE(
        address owner,
        bytes calldata signingPublicKey,
        bytes calldata tlsCertificate,
        address paymentAddress,
        string calldata endpoint,
        uint8 teeType,
        bytes32 pcrHash
    ) external onlyRole(DEFAULT_ADMIN_ROLE) returns (bytes32 teeId) {
        return _register(owner, signingPublicKey, tlsCertificate, paymentAddress, endpoint, teeType, pcrHash);
    }

    /// @notice Proves that an enabled node lives: its signature over keccak256(teeId ‖ timestamp). Anyone.
    function heartbeat(bytes32 teeId, uint256 timestamp, bytes calldata signature) external {
        TEEInfo storage tee = _known(teeId);
        require(tee.enabled, TEENotEnabled());
        require(timestamp <= block.timestamp, HeartbeatTimestampInFuture());
        require(block.timestamp - timestamp <= heartbeatMaxAge, HeartbeatTimestampTooOld());
        bytes32 message = keccak256(abi.encodePacked(teeId, timestamp));
        require(VERIFIER.verifyRSAPSS(tee.publicKey, message, signature), HeartbeatSignatureInvalid());
        tee.lastHeartbeatAt = block.timestamp;
        emit HeartbeatReceived(teeId, timestamp);
    }

    /// @notice Disables a node. Its owner, while an operator, or the administrator.
    function disableTEE(bytes32 teeId) external {
        TEEInfo storage tee = _managed(teeId);
        require(tee.enabled, TEENotEnabled());
        tee.enabled = false;
        emit TEEDisabled(teeId);
    }

    /// @notice Enables a node again, if its measurement is still approved. Its owner, while an operator, or the administrator.
    function enableTEE(bytes32 teeId) external {
        TEEInfo storage tee = _managed(teeId);
        require(isPCRApproved[tee.teeType][tee.pcrHash], PCRNotApproved());
        tee.enabled = true;
        emit TEEEnabled(teeId);
    }

    // ── Administration ───────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Approves a measurement for a type.
    function approvePCR(PCRMeasurements calldata pcrs, string calldata version, uint8 teeType)
        external
        onlyRole(DEFAULT_ADMIN_ROLE)
    {
        require(isValidTEEType[teeType], InvalidTEEType());
        bytes32 pcrHash = computePCRHash(pcrs);
        require(!isPCRApproved[teeType][pcrHash], PCRAlreadyExists());
        isPCRApproved[teeType][pcrHash] = true;
        emit PCRApproved(pcrHash, teeType, version);
    }

    /// @notice Withdraws a measurement and disables every node of the type that runs it.
    function revokePCR(bytes32 pcrHash, uint8 teeType) external onlyRole(DEFAULT_ADMIN_ROLE) {
        require(isPCRApproved[teeType][pcrHash], PCRNotApproved());
        isPCRApproved[teeType][pcrHash] = false;
        bytes32[] storage ids = _byType[teeType];
        for (uint256 i; i < ids.length; ++i) {
            TEEInfo storage tee = tees[ids[i]];
            if (tee.enabled && tee.pcrHash == pcrHash) {
                tee.enabled = false;
                emit TEEDisabled(ids[i]);
            }
        }
        emit PCRRevoked(pcrHash, teeType);
    }

    /// @notice Adds a type.
    function addTEEType(uint8 typeId, string calldata name) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _addType(typeId, name);
    }

    /// @notice Sets the root certificate of attestations.
    function setAWSRootCertificate(bytes calldata certificate) external onlyRole(DEFAULT_ADMIN_ROLE) {
        awsRootCertificate = certificate;
        emit AWSCertificateUpdated(keccak256(certificate));
    }

    /// @notice Sets how long a heartbeat counts, seconds.
    function setHeartbeatMaxAge(uint256 maxAge) external onlyRole(DEFAULT_ADMIN_ROLE) {
        heartbeatMaxAge = maxAge;
    }

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice A node's record.
    function getTEE(bytes32 teeId) external view returns (TEEInfo memory) {
        return _known(teeId);
    }

    /// @inheritdoc IOpenGradientTEERegistry
    function getTEEPublicKey(bytes32 teeId) external view override returns (bytes memory) {
        return _known(teeId).publicKey;
    }

    /// @notice Nodes of a type that are enabled, run an approved measurement and sent a recent heartbeat.
    function getActiveTEEs(uint8 teeType) external view returns (TEEInfo[] memory active) {
        bytes32[] storage ids = _byType[teeType];
        active = new TEEInfo[](ids.length);
        uint256 count;
        for (uint256 i; i < ids.length; ++i) {
            if (isTEEActive(ids[i])) active[count++] = tees[ids[i]];
        }
        assembly ("memory-safe") {
            mstore(active, count)
        }
    }

    /// @notice Ids of a type that are enabled.
    function getEnabledTEEs(uint8 teeType) external view returns (bytes32[] memory enabled) {
        bytes32[] storage ids = _byType[teeType];
        enabled = new bytes32[](ids.length);
        uint256 count;
        for (uint256 i; i < ids.length; ++i) {
            if (tees[ids[i]].enabled) enabled[count++] = ids[i];
        }
        assembly ("memory-safe") {
            mstore(enabled, count)
        }
    }

    /// @notice All ids of a type.
    function getTEEsByType(uint8 teeType) external view returns (bytes32[] memory) {
        return _byType[teeType];
    }

    /// @notice All ids of an owner.
    function getTEEsByOwner(address owner) external view returns (bytes32[] memory) {
        return _byOwner[owner];
    }

    /// @notice Whether a node is enabled; false for an unknown one.
    function isTEEEnabled(bytes32 teeId) external view returns (bool) {
        return tees[teeId].enabled;
    }

    /// @notice Whether a node is enabled, runs an approved measurement and sent a recent heartbeat.
    function isTEEActive(bytes32 teeId) public view returns (bool) {
        TEEInfo storage tee = tees[teeId];
        return tee.enabled && isPCRApproved[tee.teeType][tee.pcrHash]
            && block.timestamp - tee.lastHeartbeatAt <= heartbeatMaxAge;
    }

    /// @notice Id of a key.
    function computeTEEId(bytes calldata publicKey) external pure returns (bytes32) {
        return keccak256(publicKey);
    }

    /// @notice Hash of a measurement.
    function computePCRHash(PCRMeasurements calldata pcrs) public pure returns (bytes32) {
        return keccak256(abi.encodePacked(pcrs.pcr0, pcrs.pcr1, pcrs.pcr2));
    }

    // ── Internals ────────────────────────────────────────────────────────────────────────────────────────────────────

    function _register(
        address owner,
        bytes calldata key,
        bytes calldata tlsCertificate,
        address paymentAddress,
        string calldata endpoint,
        uint8 teeType,
        bytes32 pcrHash
    ) private returns (bytes32 teeId) {
        require(isValidTEEType[teeType], InvalidTEEType());
        require(isPCRApproved[teeType][pcrHash], PCRNotApproved());
        teeId = keccak256(key);
        require(tees[teeId].registeredAt == 0, TEEAlreadyExists());
        TEEInfo storage tee = tees[teeId];
        tee.owner = owner;
        tee.paymentAddress = paymentAddress;
        tee.endpoint = endpoint;
        tee.publicKey = key;
        tee.tlsCertificate = tlsCertificate;
        tee.pcrHash = pcrHash;
        tee.teeType = teeType;
        tee.enabled = true;
        tee.registeredAt = block.timestamp;
        tee.lastHeartbeatAt = block.timestamp;
        _byType[teeType].push(teeId);
        _byOwner[owner].push(teeId);
        emit TEERegistered(teeId, owner, teeType);
    }

    function _addType(uint8 typeId, string memory name) private {
        require(!isValidTEEType[typeId], TEETypeExists());
        isValidTEEType[typeId] = true;
        emit TEETypeAdded(typeId, name);
    }

    function _known(bytes32 teeId) private view returns (TEEInfo storage tee) {
        tee = tees[teeId];
        require(tee.registeredAt != 0, TEENotFound());
    }

    function _managed(bytes32 teeId) private view returns (TEEInfo storage tee) {
        tee = _known(teeId);
        bool owns = tee.owner == msg.sender && hasRole(TEE_OPERATOR, msg.sender);
        require(owns || hasRole(DEFAULT_ADMIN_ROLE, msg.sender), NotTEEOwner());
    }
}
