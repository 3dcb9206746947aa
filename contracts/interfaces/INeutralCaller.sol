// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Calls what it is told, with no privilege anywhere. Never approve it or give it anything.
/// @dev ERC-6492 accounts are deployed by a call that the signature names. That call must not come from a contract that holds funds.
interface INeutralCaller {
    /// @notice Makes the preparing call of an ERC-6492 signature. Anyone; whether it helped, the signature check after it tells.
    /// @param factory Called contract.
    /// @param factoryCalldata Calldata of the call.
    function prepare(address factory, bytes calldata factoryCalldata) external;
}
