// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ISettlementInbox} from "../interfaces/ISettlementInbox.sol";
import {IOpenGradientTEERegistry, IOpenGradientTEEVerifier} from "../interfaces/IOpenGradient.sol";
import {Receipts} from "../libraries/Receipts.sol";

/// @title SettlementInbox
/// @notice Records on OpenGradient that an inference was signed by a node of OpenGradient's own registry.
contract SettlementInbox is ISettlementInbox {
    /// @dev OpenGradient's RSA-PSS precompile: no code, so only a low-level call reaches it and nothing it does can revert us.
    address private constant TEE_VERIFIER = address(0x0900);

    /// @inheritdoc ISettlementInbox
    uint256 public constant override MAX_INFERENCES = 256;
    /// @inheritdoc ISettlementInbox
    address public immutable override registry;
    /// @inheritdoc ISettlementInbox
    uint64 public override seq;
    /// @inheritdoc ISettlementInbox
    mapping(bytes32 settlementId => uint40) public override recordedAt;

    /// @param registry_ OpenGradient's TEE registry; it is asked for keys and never trusted with their ids.
    constructor(address registry_) {
        require(registry_.code.length != 0, NotAContract(registry_));
        registry = registry_;
    }

    /// @inheritdoc ISettlementInbox
    function recordInferences(Inference[] calldata inferences) external override returns (uint256 recorded) {
        require(inferences.length <= MAX_INFERENCES, TooMany(inferences.length, MAX_INFERENCES));
        uint64 number = seq;
        // Keys come from ten or more slots there: runs of one node ask once.
        bytes32 keyOf;
        bytes memory key;
        for (uint256 i; i < inferences.length; ++i) {
            Inference calldata item = inferences[i];
            bytes32 message = Receipts.messageHash(item.requestHash, item.outputHash, item.timestamp);
            bytes32 id = Receipts.settlementId(item.nodeId, message);
            if (recordedAt[id] != 0) continue;
            if (keyOf != item.nodeId) {
                keyOf = item.nodeId;
                key = _keyOf(item.nodeId);
            }
            Refusal refusal = key.length == 0
                ? Refusal.UnknownNode
                : _verifies(key, message, item.signature) ? Refusal.None : Refusal.BadSignature;
            if (refusal != Refusal.None) {
                emit InferenceRefused(++number, id, item.nodeId, refusal);
                continue;
            }
            recordedAt[id] = uint40(block.timestamp);
            ++recorded;
            emit InferenceRecorded(++number, id, item.nodeId, item.requestHash, item.outputHash, item.timestamp);
        }
        seq = number;
    }

    /// @dev Empty for an id that was never registered. Disabled nodes keep their key: that does not unprove the past.
    function _keyOf(bytes32 nodeId) private view returns (bytes memory) {
        try IOpenGradientTEERegistry(registry).getTEEPublicKey(nodeId) returns (bytes memory key) {
            if (keccak256(key) == nodeId) return key;
        } catch {}
        return "";
    }

    function _verifies(bytes memory key, bytes32 message, bytes calldata signature) private view returns (bool) {
        (bool done, bytes memory answer) =
            TEE_VERIFIER.staticcall(abi.encodeCall(IOpenGradientTEEVerifier.verifyRSAPSS, (key, message, signature)));
        return done && answer.length == 32 && abi.decode(answer, (uint256)) == 1;
    }
}
