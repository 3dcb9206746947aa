// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @dev Vectors come from OpenSSL by way of script/vectors/rsa_pss.mjs.
contract RsaPssVerifierTest is Test {
    struct Case {
        bytes32 hash;
        bytes key;
        string name;
        bytes signature;
        bool valid;
    }

    bytes4 private constant VALID = IERC7913SignatureVerifier.verify.selector;
    bytes4 private constant INVALID = 0xffffffff;

    IERC7913SignatureVerifier private _verifier;
    Case private _good2048;
    Case private _good4096;

    function setUp() public {
        _verifier = IERC7913SignatureVerifier(Artifacts.deploy("RsaPssVerifier"));
        string memory json = vm.readFile("test/vectors/rsa_pss.json");
        _good2048 = _byName(json, "2048: valid 0");
        _good4096 = _byName(json, "4096: valid 0");
    }

    function test_vectors() public view {
        string memory json = vm.readFile("test/vectors/rsa_pss.json");
        uint256 valid;
        uint256 invalid;
        for (uint256 i; vm.keyExistsJson(json, _path(i, "")); ++i) {
            Case memory c = _at(json, i);
            assertEq(_verifier.verify(c.key, c.hash, c.signature), c.valid ? VALID : INVALID, c.name);
            c.valid ? ++valid : ++invalid;
        }
        assertGe(valid, 22);
        assertGe(invalid, 150);
    }

    function testFuzz_bitFlipInSignature(uint256 bit) public view {
        Case memory c = _good2048;
        _flip(c.signature, bit);
        assertEq(_verifier.verify(c.key, c.hash, c.signature), INVALID);
    }

    function testFuzz_bitFlipInKey(uint256 bit) public view {
        Case memory c = _good2048;
        _flip(c.key, bit);
        assertEq(_verifier.verify(c.key, c.hash, c.signature), INVALID);
    }

    function testFuzz_bitFlipInKeyFrame(uint256 bit) public view {
        Case memory c = _good4096;
        // Only the 38 bytes around the modulus.
        bit = bit % (38 * 8);
        _flip(c.key, bit < 33 * 8 ? bit : (c.key.length - 38) * 8 + bit);
        assertEq(_verifier.verify(c.key, c.hash, c.signature), INVALID);
    }

    function testFuzz_bitFlipInHash(uint8 bit) public view {
        Case memory c = _good2048;
        assertEq(_verifier.verify(c.key, c.hash ^ bytes32(uint256(1) << bit), c.signature), INVALID);
    }

    function testFuzz_neverReverts(bytes calldata key, bytes32 hash, bytes calldata signature) public view {
        assertEq(_verifier.verify(key, hash, signature), INVALID);
        assertEq(_verifier.verify(_good2048.key, hash, signature), INVALID);
        assertEq(_verifier.verify(key, _good2048.hash, _good2048.signature), INVALID);
    }

    function testFuzz_truncatedKeyOrSignature(uint256 length) public view {
        Case memory c = _good2048;
        bytes memory cut = bytes.concat(c.key);
        _truncate(cut, length % c.key.length);
        assertEq(_verifier.verify(cut, c.hash, c.signature), INVALID);
        cut = bytes.concat(c.signature);
        _truncate(cut, length % c.signature.length);
        assertEq(_verifier.verify(c.key, c.hash, cut), INVALID);
    }

    /// @dev Under osaka: 32,768 gas in modexp, 2,600 for the cold verifier, the rest hashing and passing the key along.
    function test_gas2048() public {
        Case memory c = _good2048;
        uint256 before = gasleft();
        bytes4 answer = _verifier.verify(c.key, c.hash, c.signature);
        uint256 spent = before - gasleft();
        assertEq(answer, VALID);
        emit log_named_uint("gas", spent);
        assertLt(spent, 45_000);
    }

    function _at(string memory json, uint256 i) private pure returns (Case memory) {
        return Case({
            hash: vm.parseJsonBytes32(json, _path(i, ".hash")),
            key: vm.parseJsonBytes(json, _path(i, ".key")),
            name: vm.parseJsonString(json, _path(i, ".name")),
            signature: vm.parseJsonBytes(json, _path(i, ".signature")),
            valid: vm.parseJsonBool(json, _path(i, ".valid"))
        });
    }

    function _byName(string memory json, string memory name) private view returns (Case memory) {
        for (uint256 i; vm.keyExistsJson(json, _path(i, "")); ++i) {
            if (keccak256(bytes(vm.parseJsonString(json, _path(i, ".name")))) == keccak256(bytes(name))) {
                return _at(json, i);
            }
        }
        revert(name);
    }

    function _path(uint256 i, string memory member) private pure returns (string memory) {
        return string.concat(".cases[", vm.toString(i), "]", member);
    }

    function _flip(bytes memory data, uint256 bit) private pure {
        bit %= data.length * 8;
        data[bit / 8] = bytes1(uint8(data[bit / 8]) ^ uint8(uint256(1) << (bit % 8)));
    }

    function _truncate(bytes memory data, uint256 length) private pure {
        assembly ("memory-safe") {
            mstore(data, length)
        }
    }
}
