// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";

/// @notice A verifier that misbehaves in one of several ways once it is told to.
contract HostileVerifier is IERC7913SignatureVerifier {
    enum Mode {
        Honest,
        Reverts,
        Zero,
        Garbage,
        DirtyMagic,
        ShortMagic,
        Bomb,
        RevertBomb,
        Empty,
        Burns
    }

    Mode public mode;

    function setMode(Mode mode_) external {
        mode = mode_;
    }

    function verify(bytes calldata, bytes32, bytes calldata) external view returns (bytes4) {
        bytes32 magic = IERC7913SignatureVerifier.verify.selector;
        Mode present = mode;
        require(present != Mode.Reverts);
        assembly {
            switch present
            case 2 { mstore(0, 0) }
            case 3 { mstore(0, not(0)) }
            case 4 { mstore(0, or(magic, 1)) }
            default { mstore(0, magic) }
            switch present
            case 5 { return(0, 4) }
            case 6 {
                mstore(0, 0)
                return(0, 1000000)
            }
            case 7 { revert(0, 1000000) }
            case 8 { return(0, 0) }
            case 9 { invalid() }
            default { return(0, 32) }
        }
    }
}
