// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title ISettlementInbox
/// @notice OpenGradient side: records inferences that verify under OpenGradient's own registry. Names no payer.
interface ISettlementInbox {
    /// @notice One signed inference.
    struct Inference {
        /// keccak256 of the node's key (OpenGradient: teeId).
        bytes32 nodeId;
        /// keccak256 of the canonical request bytes.
        bytes32 requestHash;
        /// keccak256 of the UTF-8 output text.
        bytes32 outputHash;
        /// The node's own time, unix seconds.
        uint256 timestamp;
        /// The node's signature over keccak256(requestHash ‖ outputHash ‖ timestamp).
        bytes signature;
    }

    /// @notice Why an inference was not recorded. Numbers are stable.
    enum Refusal {
        None,
        UnknownNode,
        BadSignature
    }

    /// @notice An inference is proven on OpenGradient.
    /// @dev Every event carries the contract's contiguous sequence number, from 1: a reader that sees a gap has missed an event.
    /// @param seq Sequence number of the event.
    /// @param settlementId Identity of the inference on every chain.
    /// @param nodeId The node that signed it.
    /// @param requestHash keccak256 of the canonical request bytes.
    /// @param outputHash keccak256 of the UTF-8 output text.
    /// @param timestamp The node's own time, unix seconds.
    event InferenceRecorded(
        uint64 seq,
        bytes32 indexed settlementId,
        bytes32 indexed nodeId,
        bytes32 requestHash,
        bytes32 outputHash,
        uint256 timestamp
    );
    /// @notice An inference was not recorded in this call; nothing is remembered of it and it can be handed in again.
    /// @param seq Sequence number of the event.
    /// @param settlementId Identity that it would have.
    /// @param nodeId The node that it names.
    /// @param reason Why.
    event InferenceRefused(uint64 seq, bytes32 indexed settlementId, bytes32 indexed nodeId, Refusal reason);

    /// @notice More inferences than one call takes.
    error TooMany(uint256 actual, uint256 limit);
    /// @notice The registry has no code.
    error NotAContract(address registry);

    /// @notice Records each inference whose signature holds; skips what is recorded, reports what is not valid. Anyone.
    /// @dev Cheapest with the inferences of one node side by side.
    /// @param inferences At most `MAX_INFERENCES`.
    /// @return recorded How many were new.
    function recordInferences(Inference[] calldata inferences) external returns (uint256 recorded);

    /// @notice When an inference was recorded.
    /// @param settlementId The inference.
    /// @return Block timestamp, 0 if it was not.
    function recordedAt(bytes32 settlementId) external view returns (uint40);

    /// @notice OpenGradient's TEE registry.
    /// @return Its address.
    function registry() external view returns (address);

    /// @notice Most inferences in one call.
    /// @return The number.
    function MAX_INFERENCES() external view returns (uint256);

    /// @notice Sequence number of the last event, 0 before the first.
    /// @return The number.
    function seq() external view returns (uint64);
}
