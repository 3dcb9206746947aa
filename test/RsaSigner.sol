// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";

/// @dev A node's RSA key that really signs: the plain form of RSASSA-PSS-SIGN, against which the verifier is also tested.
library RsaSigner {
    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    struct Key {
        bytes spki;
        bytes modulus;
        bytes exponent;
    }

    /// @dev Test keys 0 and 1 of test/vectors/rsa_pss.json.
    function load(uint256 index) internal view returns (Key memory) {
        string memory json = VM.readFile("test/vectors/rsa_pss.json");
        string memory path = string.concat(".signers[", VM.toString(index), "]");
        return Key({
            spki: VM.parseJsonBytes(json, string.concat(path, ".key")),
            modulus: VM.parseJsonBytes(json, string.concat(path, ".modulus")),
            exponent: VM.parseJsonBytes(json, string.concat(path, ".exponent"))
        });
    }

    function id(Key memory key) internal pure returns (bytes32) {
        return keccak256(key.spki);
    }

    /// @dev Signature over the 32 bytes of `hash` as the message.
    function sign(Key memory key, bytes32 hash) internal view returns (bytes memory) {
        return signWithSalt(key, hash, keccak256(abi.encode("salt", hash)));
    }

    function signWithSalt(Key memory key, bytes32 hash, bytes32 salt) internal view returns (bytes memory signature) {
        bytes memory block_ = encode(sha256(abi.encodePacked(hash)), salt, key.modulus.length);
        bool done;
        (done, signature) = address(5)
            .staticcall(
                abi.encodePacked(
                    block_.length, key.exponent.length, key.modulus.length, block_, key.exponent, key.modulus
                )
            );
        require(done, "modexp");
    }

    /// @dev EMSA-PSS-ENCODE, byte by byte as in RFC 8017.
    function encode(bytes32 digest, bytes32 salt, uint256 size) internal pure returns (bytes memory) {
        bytes32 h = sha256(abi.encodePacked(bytes8(0), digest, salt));
        bytes memory db = abi.encodePacked(new bytes(size - 66), bytes1(0x01), salt);
        bytes memory mask;
        for (uint32 i; mask.length < db.length; ++i) {
            mask = abi.encodePacked(mask, sha256(abi.encodePacked(h, i)));
        }
        for (uint256 i; i < db.length; ++i) {
            db[i] = db[i] ^ mask[i];
        }
        db[0] = db[0] & 0x7f;
        return abi.encodePacked(db, h, bytes1(0xbc));
    }
}
