// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title DevOPG
/// @notice For local chains only: anyone can mint. A plain token like OPG on Base: 18 decimals, neither permit nor EIP-3009.
/// @dev Has no constructor state, so its code can be placed at the address that clients know.
contract DevOPG is ERC20 {
    constructor() ERC20("", "") {}

    /// @notice Makes tokens out of nothing. Anyone.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    /// @inheritdoc ERC20
    function name() public pure override returns (string memory) {
        return "OpenGradient";
    }

    /// @inheritdoc ERC20
    function symbol() public pure override returns (string memory) {
        return "OPG";
    }
}
