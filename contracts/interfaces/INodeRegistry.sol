// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title INodeRegistry
/// @notice Nodes, their keys and labels on Base. Versions are append-only: what a batch row names can always be looked up.
/// @dev EIP-712 domain: name "Quittance", version "1", chainId, this contract.
interface INodeRegistry {
    /// @notice How a node came here, weakest first. `Attested` is reserved for Nitro proofs on Base.
    enum Label {
        None,
        Declared,
        Mirrored,
        Attested
    }

    /// @notice Whether a (node, version) can be captured for now. Numbers are stable.
    enum NodeStatus {
        Active,
        Unknown,
        Revoked,
        Retired,
        UnknownVersion,
        ReplacedVersion,
        NoMeterKey
    }

    /// @notice A version of a node.
    struct NodeRef {
        bytes32 nodeId;
        uint32 version;
    }

    /// @notice A node's record.
    struct Node {
        /// Sets meter key and payout; 0 for a mirrored node whose owner has not proved itself.
        address operator;
        /// Proposed operator, 0 if none.
        address pendingOperator;
        /// Mirrored nodes: `owner` of OpenGradient's registry, the only one who can become operator by signature.
        address owner;
        /// Account in the escrow that is credited; never 0 for a known node.
        address payout;
        /// Current version, from 1.
        uint32 version;
        /// Label of the current version.
        Label label;
        /// Block timestamp of the first registration.
        uint40 registeredAt;
        /// 0 while not retired.
        uint40 retiredAt;
        /// 0 while not revoked; final.
        uint40 revokedAt;
        /// `observedAt` of the last mirror report, 0 if none.
        uint40 observedAt;
    }

    /// @notice One version of a node's keys.
    struct Version {
        /// ERC-7913 verifier of inference signatures.
        address verifier;
        /// secp256k1 key of Meter signatures; 0: nothing can be captured.
        address meterKey;
        /// Label under which this version serves.
        Label label;
        /// Block timestamp from which it serves; 0 for an unknown version.
        uint40 createdAt;
        /// 0 while current.
        uint40 replacedAt;
        /// Key bytes for the verifier; RSA: DER SubjectPublicKeyInfo.
        bytes key;
    }

    /// @notice What the mirror quorum saw in OpenGradient's registry, signed as EIP-712 struct `Mirror`.
    struct Mirror {
        /// keccak256(key) is the node id.
        bytes key;
        /// `owner` there.
        address owner;
        /// `paymentAddress` there: the payout until an operator chooses one.
        address paymentAddress;
        /// False retires the node, true registers it or brings it back.
        bool enabled;
        /// Time of the observation, unix seconds; only newer reports count.
        uint40 observedAt;
    }

    /// @notice A node was registered.
    /// @dev Every event carries the contract's contiguous sequence number, from 1: a reader that sees a gap has missed an event.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param label How it came here.
    /// @param operator Its operator, 0 if none yet.
    /// @param payout Its payout account.
    event NodeRegistered(uint64 seq, bytes32 indexed nodeId, Label label, address operator, address payout);
    /// @notice A version became current; the one before it keeps the grace period.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param version Its new current version.
    /// @param verifier ERC-7913 verifier of inference signatures.
    /// @param meterKey Key of Meter signatures, 0 if none.
    /// @param label Label of the version.
    /// @param key Key bytes for the verifier.
    event VersionAdded(
        uint64 seq, bytes32 indexed nodeId, uint32 version, address verifier, address meterKey, Label label, bytes key
    );
    /// @notice An operator was proposed, or a proposal withdrawn.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param pendingOperator Who may accept; 0: nobody.
    event OperatorProposed(uint64 seq, bytes32 indexed nodeId, address indexed pendingOperator);
    /// @notice The operator changed.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param operator The operator; 0: the owner has to claim it.
    event OperatorSet(uint64 seq, bytes32 indexed nodeId, address indexed operator);
    /// @notice The owner that OpenGradient's registry names was seen for the first time, or changed.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param owner The owner.
    event OwnerSet(uint64 seq, bytes32 indexed nodeId, address indexed owner);
    /// @notice The payout account was set.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param payout The account.
    event PayoutSet(uint64 seq, bytes32 indexed nodeId, address payout);
    /// @notice The node's service ended.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param since Inferences up to this time stay payable, unix seconds.
    event NodeRetired(uint64 seq, bytes32 indexed nodeId, uint40 since);
    /// @notice A retired node serves again.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    event NodeRestored(uint64 seq, bytes32 indexed nodeId);
    /// @notice The guardian stopped all captures for a node.
    /// @param seq Sequence number of the event.
    /// @param nodeId The node.
    /// @param since Block timestamp.
    event NodeRevoked(uint64 seq, bytes32 indexed nodeId, uint40 since);
    /// @notice A verifier was allowed or removed.
    /// @param seq Sequence number of the event.
    /// @param verifier The verifier.
    /// @param allowed True when new versions may use it.
    event VerifierSet(uint64 seq, address indexed verifier, bool allowed);
    /// @notice The verifier that mirrored keys get was set.
    /// @param seq Sequence number of the event.
    /// @param verifier The verifier; 0: no mirroring.
    event MirrorVerifierSet(uint64 seq, address indexed verifier);
    /// @notice The mirror quorum was replaced.
    /// @param seq Sequence number of the event.
    /// @param signers All mirror keys.
    /// @param threshold How many of them a report needs.
    event MirrorsSet(uint64 seq, address[] signers, uint8 threshold);

    /// @notice No node has this id.
    error UnknownNode(bytes32 nodeId);
    /// @notice A node with this key exists.
    error NodeExists(bytes32 nodeId);
    /// @notice Only the operator may do this.
    error NotOperator(address actual, address expected);
    /// @notice Only the proposed operator may do this.
    error NotPendingOperator(address actual, address expected);
    /// @notice The caller, or the signer, is not the owner that OpenGradient's registry names.
    error NotOwner(address actual, address expected);
    /// @notice A contract cannot prove that the owner on OpenGradient, which has the same address, is the same party.
    error OwnerIsContract(address owner);
    /// @notice A signed claim counts only while there is no operator; the owner itself can still call.
    error OperatorExists(bytes32 nodeId, address operator);
    /// @notice New versions must not use this verifier.
    error VerifierNotAllowed(address verifier);
    /// @notice The key did not sign its declaration.
    error BadPossession(bytes32 nodeId);
    /// @notice The guardian revoked the node.
    error NodeIsRevoked(bytes32 nodeId);
    /// @notice The node is retired.
    error NodeIsRetired(bytes32 nodeId);
    /// @notice Only Declared nodes rotate keys here.
    error NotDeclared(bytes32 nodeId);
    /// @notice A report at least as new was applied before.
    error StaleReport(uint40 actual, uint40 newerThan);
    /// @notice The report is from the future.
    error FutureReport(uint40 actual, uint40 latest);
    /// @notice Fewer signatures than the threshold, or no quorum set.
    error QuorumMissing(uint256 actual, uint256 expected);
    /// @notice The signer is not a mirror key; 0: the signature is malformed.
    error NotMirror(address signer);
    /// @notice Signers must ascend, so that none counts twice.
    error SignersNotAscending(address actual, address above);
    /// @notice The threshold must be at least 1 and at most the number of signers, which is at most 32.
    error BadThreshold(uint256 actual, uint256 signers);
    /// @notice Key bytes must be neither empty nor longer than the limit.
    error BadKeyLength(uint256 actual, uint256 limit);
    /// @notice An account must not be zero.
    error ZeroAddress();

    /// @notice Registers a Declared node, which serves only orders that name it. The caller becomes operator.
    /// @param verifier An allowed ERC-7913 verifier.
    /// @param key Key bytes for that verifier; the node id is their keccak256.
    /// @param meterKey secp256k1 key of Meter signatures, or 0 for now.
    /// @param payout Account in the escrow that is credited.
    /// @param possession Signature by the node's key over `declareDigest(nodeId, verifier, caller, meterKey, payout)`.
    /// @return nodeId keccak256(key).
    function declare(address verifier, bytes calldata key, address meterKey, address payout, bytes calldata possession)
        external
        returns (bytes32 nodeId);

    /// @notice Applies a report that at least `threshold` mirror keys signed. Anyone.
    /// @dev Overrides a Declared registration of the same key, and starts anew for a new owner: in both cases operator and
    ///      meter key are cleared and the payout is the reported one. Otherwise an operator's own choices stay. When the
    ///      administrator replaced the mirror verifier, the next report gives the node a version with the new one.
    /// @param report What the mirrors saw.
    /// @param signatures 65-byte ECDSA signatures over `mirrorDigest(report)` in ascending order of signer.
    function mirror(Mirror calldata report, bytes[] calldata signatures) external;

    /// @notice Makes the owner that OpenGradient's registry names, or whom it chooses, the operator of a mirrored node.
    /// @dev A signature counts only while there is no operator, so it cannot be replayed against a later one. The owner's
    ///      own call always counts: it recovers a node from a lost operator key.
    /// @param nodeId The node.
    /// @param operator The new operator.
    /// @param signature Empty when the owner calls; otherwise its 65-byte ECDSA signature over `claimDigest(nodeId, operator)`.
    function claimOperator(bytes32 nodeId, address operator, bytes calldata signature) external;

    /// @notice Sets the meter key (a new version). Operator only.
    /// @param nodeId The node.
    /// @param meterKey The key; 0 stops captures once the grace period of the present version is over.
    function setMeterKey(bytes32 nodeId, address meterKey) external;

    /// @notice Sets the payout account, also for batches that are not final. Operator only.
    /// @param nodeId The node.
    /// @param payout Account in the escrow that is credited.
    function setPayout(bytes32 nodeId, address payout) external;

    /// @notice Replaces verifier and key of a Declared node (a new version; the id stays). Operator only.
    /// @param nodeId The node.
    /// @param verifier An allowed ERC-7913 verifier.
    /// @param key Key bytes for that verifier.
    /// @param possession Signature by the new key over the same digest as in `declare`, with the present meter key and payout.
    function rotateKey(bytes32 nodeId, address verifier, bytes calldata key, bytes calldata possession) external;

    /// @notice Proposes a new operator, who must accept. Operator only.
    /// @param nodeId The node.
    /// @param newOperator Who may accept; 0 withdraws a proposal.
    function transferOperator(bytes32 nodeId, address newOperator) external;

    /// @notice Accepts a proposed operator role. Proposed operator only.
    /// @param nodeId The node.
    function acceptOperator(bytes32 nodeId) external;

    /// @notice Ends service: earlier inferences stay payable. Operator only; only a newer mirror report undoes it.
    /// @param nodeId The node.
    function retire(bytes32 nodeId) external;

    /// @notice Stops all captures for a node from this block on, for ever. Guardian only; recorded batches stand.
    /// @param nodeId The node.
    function revoke(bytes32 nodeId) external;

    /// @notice Allows or removes a verifier for new versions. Admin only.
    /// @param verifier The verifier.
    /// @param allowed True to allow it.
    function setVerifier(address verifier, bool allowed) external;

    /// @notice Sets the verifier that mirrored keys get. Admin only.
    /// @param verifier An allowed verifier; 0 stops new mirroring.
    function setMirrorVerifier(address verifier) external;

    /// @notice Replaces the mirror quorum. Admin only.
    /// @param signers Mirror keys, ascending.
    /// @param threshold How many of them a report needs.
    function setMirrors(address[] calldata signers, uint8 threshold) external;

    /// @notice A node's record.
    /// @param nodeId The node.
    /// @return The record; all zero for an unknown id.
    function node(bytes32 nodeId) external view returns (Node memory);

    /// @notice One version of a node, current or replaced.
    /// @param nodeId The node.
    /// @param number The version, from 1.
    /// @return The version; all zero for an unknown one.
    function version(bytes32 nodeId, uint32 number) external view returns (Version memory);

    /// @notice Whether rows naming this version are captured now. Retired nodes and replaced versions keep `GRACE` seconds.
    /// @param nodeId The node.
    /// @param number The version.
    /// @return status Active, or why not.
    /// @return label Label of the version.
    function captureStatus(bytes32 nodeId, uint32 number) external view returns (NodeStatus status, Label label);

    /// @notice `captureStatus` of many and where they are paid, a word each: decoding one array costs a batch a third of three.
    /// @param refs Nodes and versions.
    /// @return gates In the order of `refs`: payout account in the lowest 160 bits (0 for an unknown node), then the label in 8 bits
    ///         (`None` for an unknown version), then the status.
    function captureGates(NodeRef[] calldata refs) external view returns (uint256[] memory gates);

    /// @notice As `captureStatus`, with what verification needs; a retired node stays payable for inferences up to its retirement.
    /// @param nodeId The node.
    /// @param number The version.
    /// @param timestamp The inference's own time, unix seconds.
    /// @return status Active, or why not; the other values are set for every known version.
    /// @return label Label of the version.
    /// @return verifier ERC-7913 verifier.
    /// @return meterKey Key of Meter signatures.
    /// @return payout Account that is credited.
    /// @return key Key bytes for the verifier.
    function evidence(bytes32 nodeId, uint32 number, uint40 timestamp)
        external
        view
        returns (NodeStatus status, Label label, address verifier, address meterKey, address payout, bytes memory key);

    /// @notice Whether new versions may use a verifier.
    /// @param verifier The verifier.
    /// @return True when they may.
    function isVerifier(address verifier) external view returns (bool);

    /// @notice The verifier that mirrored keys get.
    /// @return The verifier; 0: no mirroring.
    function mirrorVerifier() external view returns (address);

    /// @notice The mirror quorum.
    /// @return signers All mirror keys, ascending.
    /// @return threshold How many of them a report needs; 0: none set.
    function mirrors() external view returns (address[] memory signers, uint8 threshold);

    /// @notice EIP-712 digest of `Declare(bytes32 nodeId,address verifier,address operator,address meterKey,address payout)`.
    /// @param nodeId The node.
    /// @param verifier Verifier of the key that signs.
    /// @param operator Operator that the key accepts.
    /// @param meterKey Meter key that it accepts.
    /// @param payout Payout account that it accepts.
    /// @return The digest.
    function declareDigest(bytes32 nodeId, address verifier, address operator, address meterKey, address payout)
        external
        view
        returns (bytes32);

    /// @notice EIP-712 digest of `Mirror(bytes key,address owner,address paymentAddress,bool enabled,uint40 observedAt)`.
    /// @param report The report.
    /// @return The digest.
    function mirrorDigest(Mirror calldata report) external view returns (bytes32);

    /// @notice EIP-712 digest of `ClaimOperator(bytes32 nodeId,address operator)`.
    /// @param nodeId The node.
    /// @param operator The operator that the owner chooses.
    /// @return The digest.
    function claimDigest(bytes32 nodeId, address operator) external view returns (bytes32);

    /// @notice How long a replaced version, and a retired node in a batch, can still be captured.
    /// @return Seconds.
    function GRACE() external view returns (uint40);

    /// @notice Longest key.
    /// @return Bytes.
    function MAX_KEY_BYTES() external view returns (uint256);

    /// @notice Sequence number of the last event, 0 before the first.
    /// @return The number.
    function seq() external view returns (uint64);
}
