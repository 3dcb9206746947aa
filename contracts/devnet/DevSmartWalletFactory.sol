// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {DevSmartWallet} from "./DevSmartWallet.sol";

/// @title DevSmartWalletFactory
/// @notice For local chains only: creates wallets whose addresses are known before, as ERC-6492 signatures name them.
contract DevSmartWalletFactory {
    /// @notice Creates the wallet, or only names it when it is there.
    function createAccount(address owner, uint256 salt) external returns (address wallet) {
        wallet = getAddress(owner, salt);
        if (wallet.code.length == 0) new DevSmartWallet{salt: bytes32(salt)}(owner);
    }

    /// @notice Where a wallet is, or will be.
    function getAddress(address owner, uint256 salt) public view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(DevSmartWallet).creationCode, abi.encode(owner)));
        bytes32 hash = keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code));
        return address(uint160(uint256(hash)));
    }
}
