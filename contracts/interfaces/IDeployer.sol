// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @notice Creates a set of contracts that know each other by immutable addresses, in as many calls as their size asks for.
/// @dev Deploy it with CREATE2: its address depends on its owner, and the addresses of what it creates only on its own.
interface IDeployer {
    /// @param nonce Nonce of the creation, from 1.
    event Created(uint256 indexed nonce, address indexed created);

    error NotOwner(address actual, address expected);
    error NothingToDeploy();
    /// @notice The creation code reverted without a reason, or left no code.
    error CreationFailed(uint256 nonce);

    /// @notice Creates the contracts in order, the first ever with nonce 1. Owner only.
    /// @param initcodes Creation code with constructor arguments appended.
    function deploy(bytes[] calldata initcodes) external returns (address[] memory created);

    /// @notice Address of the contract with this nonce, created or not.
    function addressAt(uint256 nonce) external view returns (address);

    function owner() external view returns (address);

    /// @notice How many contracts were created: the last nonce.
    function count() external view returns (uint256);
}
