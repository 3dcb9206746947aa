// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IOpenGradientTEEVerifier} from "../interfaces/IOpenGradient.sol";
import {Receipts} from "../libraries/Receipts.sol";
import {DevTEERegistry} from "./DevTEERegistry.sol";

/// @title DevTEEInferenceVerifier
/// @notice For local chains only: OpenGradient's inference verifier towards its callers. Signatures are really verified.
contract DevTEEInferenceVerifier is AccessControl {
    /// @notice Oldest inference that verifies, seconds.
    uint256 public constant MAX_INFERENCE_AGE = 3600;
    /// @notice How far ahead a node's clock may be, seconds.
    uint256 public constant FUTURE_TOLERANCE = 300;
    IOpenGradientTEEVerifier private constant VERIFIER = IOpenGradientTEEVerifier(address(0x0900));

    /// @notice The registry that is asked for keys.
    DevTEERegistry public registry;

    event RegistryUpdated(address indexed oldRegistry, address indexed newRegistry);

    error InvalidRegistryAddress();

    /// @param admin May replace the registry.
    /// @param registry_ The registry that is asked for keys.
    constructor(address admin, address registry_) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _setRegistry(registry_);
    }

    /// @notice Replaces the registry.
    function setRegistry(address newRegistry) external onlyRole(DEFAULT_ADMIN_ROLE) {
        _setRegistry(newRegistry);
    }

    /// @notice True when the node is enabled now, the timestamp is recent and the signature holds; never reverts.
    function verifySignature(
        bytes32 teeId,
        bytes32 inputHash,
        bytes32 outputHash,
        uint256 timestamp,
        bytes calldata signature
    ) external view returns (bool) {
        if (timestamp > block.timestamp + FUTURE_TOLERANCE) return false;
        if (timestamp < block.timestamp && block.timestamp - timestamp > MAX_INFERENCE_AGE) return false;
        if (!registry.isTEEEnabled(teeId)) return false;
        bytes memory key = registry.getTEEPublicKey(teeId);
        return VERIFIER.verifyRSAPSS(key, computeMessageHash(inputHash, outputHash, timestamp), signature);
    }

    /// @notice What a node signs.
    function computeMessageHash(bytes32 inputHash, bytes32 outputHash, uint256 timestamp)
        public
        pure
        returns (bytes32)
    {
        return Receipts.messageHash(inputHash, outputHash, timestamp);
    }

    function _setRegistry(address newRegistry) private {
        require(newRegistry != address(0), InvalidRegistryAddress());
        emit RegistryUpdated(address(registry), newRegistry);
        registry = DevTEERegistry(newRegistry);
    }
}
