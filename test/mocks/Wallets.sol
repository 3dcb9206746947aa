// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";

/// @notice Account of one key, which it asks through ERC-1271; also what an EIP-7702 account may delegate to.
contract TestWallet is IERC1271 {
    address public immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (address recovered,,) = ECDSA.tryRecoverCalldata(hash, signature);
        return recovered == OWNER ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    function execute(address target, bytes calldata data) external returns (bytes memory) {
        require(msg.sender == OWNER);
        (bool ok, bytes memory result) = target.call(data);
        require(ok);
        return result;
    }
}

/// @notice Deploys a `TestWallet` where everyone can know it before: what ERC-6492 signatures name.
contract WalletFactory {
    error Failing();

    function create(address owner) external returns (address) {
        return address(new TestWallet{salt: 0}(owner));
    }

    function createAndBomb(address owner) external {
        new TestWallet{salt: 0}(owner);
        assembly {
            return(0, 1000000)
        }
    }

    function fail() external pure {
        revert Failing();
    }

    function addressOf(address owner) external view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(TestWallet).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), bytes32(0), code)))));
    }
}

contract RevertingWallet is IERC1271 {
    error Never();

    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        revert Never();
    }
}

contract GasBurningWallet is IERC1271 {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly {
            invalid()
        }
    }
}

contract ReturnBombWallet is IERC1271 {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly {
            return(0, 1000000)
        }
    }
}

/// @notice Answers with the right four bytes and dirt behind them.
contract DirtyWallet is IERC1271 {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000001)
            return(0, 0x20)
        }
    }
}

/// @notice Wipes out its own answer: true while `yes`.
contract FickleWallet is IERC1271 {
    bool public yes = true;

    function set(bool yes_) external {
        yes = yes_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        return yes ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}
