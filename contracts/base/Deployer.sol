// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {LibRLP} from "solady/utils/LibRLP.sol";
import {IDeployer} from "../interfaces/IDeployer.sol";

/// @notice Creates a set of contracts that know each other by immutable addresses.
contract Deployer is IDeployer {
    /// @inheritdoc IDeployer
    address public immutable owner;
    /// @inheritdoc IDeployer
    uint256 public count;

    constructor(address owner_) {
        owner = owner_;
    }

    /// @inheritdoc IDeployer
    function deploy(bytes[] calldata initcodes) external returns (address[] memory created) {
        require(msg.sender == owner, NotOwner(msg.sender, owner));
        require(initcodes.length != 0, NothingToDeploy());
        uint256 before = count;
        count = before + initcodes.length;
        created = new address[](initcodes.length);
        for (uint256 i; i < initcodes.length; ++i) {
            uint256 nonce = before + i + 1;
            created[i] = _create(initcodes[i], nonce);
            emit Created(nonce, created[i]);
        }
    }

    /// @inheritdoc IDeployer
    function addressAt(uint256 nonce) external view returns (address) {
        return LibRLP.computeAddress(address(this), nonce);
    }

    function _create(bytes memory initcode, uint256 nonce) private returns (address created) {
        assembly ("memory-safe") {
            created := create(0, add(initcode, 0x20), mload(initcode))
            if and(iszero(created), gt(returndatasize(), 0)) {
                let pointer := mload(0x40)
                returndatacopy(pointer, 0, returndatasize())
                revert(pointer, returndatasize())
            }
        }
        require(created.code.length != 0, CreationFailed(nonce));
    }
}
