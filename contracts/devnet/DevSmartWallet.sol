// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @title DevSmartWallet
/// @notice For local chains only: an account of one key that signs through ERC-1271, so that payers with contract wallets can be tried.
contract DevSmartWallet is IERC1271 {
    /// @notice Whose key signs and who may execute.
    address public immutable owner;

    error NotOwner(address actual, address expected);

    constructor(address owner_) {
        owner = owner_;
    }

    receive() external payable {}

    /// @notice Makes a call as this account. Owner only.
    function execute(address target, uint256 value, bytes calldata data) external returns (bytes memory) {
        require(msg.sender == owner, NotOwner(msg.sender, owner));
        return Address.functionCallWithValue(target, data, value);
    }

    /// @notice Takes the owner's 65 bytes, and the longer form of wallets with several owners: an owner's number and its signature.
    /// @inheritdoc IERC1271
    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        bytes memory own = signature;
        if (signature.length > 65) (, own) = abi.decode(signature, (uint256, bytes));
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecover(hash, own);
        bool valid = failure == ECDSA.RecoverError.NoError && signer == owner;
        return valid ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
