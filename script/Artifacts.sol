// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";

/// @notice Deploys the contracts from the committed bindings: the very bytes that a keeper's devnet and a deployment use.
/// @dev Tests so depend on interfaces alone and are not compiled again when a contract changes; `script/bindings` builds the
///      contracts, and `script/test bindings` compares what is committed with the sources.
library Artifacts {
    error NotCreated(string name);

    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// @notice Creation code of a contract with its arguments appended.
    function initcode(string memory name, bytes memory arguments) internal view returns (bytes memory) {
        return abi.encodePacked(VM.getCode(_path(name)), arguments);
    }

    /// @notice Runtime code of a devnet contract that a local chain places at a known address.
    function placed(string memory name) internal view returns (bytes memory) {
        return VM.getDeployedCode(_path(name));
    }

    /// @notice Creates a contract; a revert of its constructor is passed on.
    function deploy(string memory name, bytes memory arguments) internal returns (address) {
        return create(initcode(name, arguments));
    }

    /// @notice As `deploy`, for a contract without constructor arguments.
    function deploy(string memory name) internal returns (address) {
        return deploy(name, "");
    }

    /// @notice As `deploy`, at the address that the code, its arguments and the salt determine.
    function deploySalted(string memory name, bytes memory arguments, bytes32 salt) internal returns (address created) {
        bytes memory code = initcode(name, arguments);
        assembly ("memory-safe") {
            created := create2(0, add(code, 0x20), mload(code), salt)
        }
        require(created != address(0), NotCreated(name));
    }

    /// @notice Runs creation code; a revert is passed on.
    function create(bytes memory code) internal returns (address created) {
        assembly ("memory-safe") {
            created := create(0, add(code, 0x20), mload(code))
            if iszero(created) {
                let pointer := mload(0x40)
                returndatacopy(pointer, 0, returndatasize())
                revert(pointer, returndatasize())
            }
        }
    }

    function _path(string memory name) private pure returns (string memory) {
        return string.concat("bindings/abi/", name, ".json");
    }
}
