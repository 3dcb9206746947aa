// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";

/// @notice Reads contracts/access.json: who may call which function of which contract. Deployments give roles by it, tests hold the
///         contracts to it.
library Access {
    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    /// @notice Signatures of the functions that `who` may call; none if there are none.
    function functionsOf(string memory name, string memory who) internal view returns (string[] memory) {
        string memory json = VM.readFile("contracts/access.json");
        string memory path = string.concat(".contracts.", name, ".", who);
        return VM.keyExistsJson(json, path) ? VM.parseJsonStringArray(json, path) : new string[](0);
    }

    /// @notice Their selectors.
    function selectorsOf(string memory name, string memory who) internal view returns (bytes4[] memory selectors) {
        string[] memory functions = functionsOf(name, who);
        selectors = new bytes4[](functions.length);
        for (uint256 i; i < functions.length; ++i) {
            selectors[i] = selector(functions[i]);
        }
    }

    /// @notice Names of all contracts of the table.
    function contracts() internal view returns (string[] memory) {
        return VM.parseJsonKeys(VM.readFile("contracts/access.json"), ".contracts");
    }

    /// @notice Selector of a signature.
    function selector(string memory signature) internal pure returns (bytes4) {
        return bytes4(keccak256(bytes(signature)));
    }
}
