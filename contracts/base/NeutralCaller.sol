// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {INeutralCaller} from "../interfaces/INeutralCaller.sol";

/// @notice Calls what it is told, with no privilege anywhere.
contract NeutralCaller is INeutralCaller {
    /// @inheritdoc INeutralCaller
    function prepare(address factory, bytes calldata factoryCalldata) external {
        bytes memory data = factoryCalldata;
        // Copies no return data: a factory could return megabytes of it. Success is not looked at on purpose.
        assembly ("memory-safe") {
            pop(call(gas(), factory, 0, add(data, 0x20), mload(data), 0, 0))
        }
    }
}
