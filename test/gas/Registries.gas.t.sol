// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {ISettlementInbox} from "../../contracts/interfaces/ISettlementInbox.sol";
import {IOpenGradientTEEVerifier} from "../../contracts/interfaces/IOpenGradient.sol";
import {DevTEERegistry} from "../../contracts/devnet/DevTEERegistry.sol";
import {SettlementLedgerBase} from "../SettlementLedgerBase.sol";
import {Artifacts} from "../../script/Artifacts.sol";

/// @notice Gas of what nodes, mirrors and keepers do besides settling: each call is a transaction of its own.
/// forge-config: default.isolate = true
contract RegistriesGas is SettlementLedgerBase {
    /// @dev What OpenGradient's precompile charges; a local chain has a contract in its place, whose gas is taken out.
    uint256 private constant PRECOMPILE_GAS = 20_000;

    function test_keeper() public {
        address[] memory hotKeys = new address[](2);
        (hotKeys[0], hotKeys[1]) = (address(1), address(2));
        keepers.register("gas", treasury, hotKeys);
        vm.snapshotGasLastCall("registries", "keeper register, 2 hot keys");
    }

    function test_declare() public {
        _declareP256("gas");
        vm.snapshotGasLastCall("registries", "node declare, P-256");
    }

    function test_mirror() public {
        bytes memory key = vm.parseJsonBytesArray(vm.readFile("test/vectors/inferences.json"), ".keys")[0];
        nodes.setMirrorVerifier(address(rsa));
        INodeRegistry.Mirror memory report =
            INodeRegistry.Mirror(key, stranger, treasury, true, uint40(block.timestamp));
        bytes[] memory signatures = new bytes[](2);
        (uint256 low, uint256 high) = vm.addr(11) < vm.addr(12) ? (11, 12) : (12, 11);
        bytes32 digest = nodes.mirrorDigest(report);
        (signatures[0], signatures[1]) = (_sign(low, digest), _sign(high, digest));
        nodes.mirror(report, signatures);
        vm.snapshotGasLastCall("registries", "node mirror, RSA-2048, 2 signatures");
        vm.prank(stranger);
        nodes.claimOperator(keccak256(key), stranger, "");
        vm.prank(stranger);
        nodes.setMeterKey(keccak256(key), treasury);
        vm.snapshotGasLastCall("registries", "node setMeterKey, RSA-2048");
    }

    function test_recordInferences() public {
        vm.etch(address(0x0900), Artifacts.placed("DevPrecompile0900"));
        DevTEERegistry registry = DevTEERegistry(Artifacts.deploy("DevTEERegistry", abi.encode(address(this))));
        ISettlementInbox inbox = ISettlementInbox(Artifacts.deploy("SettlementInbox", abi.encode(address(registry))));
        string memory json = vm.readFile("test/vectors/inferences.json");
        bytes memory key = vm.parseJsonBytesArray(json, ".keys")[0];
        registry.approvePCR(DevTEERegistry.PCRMeasurements("a", "b", "c"), "v1", 0);
        registry.registerDevnetTEE(
            stranger, key, "certificate", treasury, "https://node", 0, keccak256(bytes.concat("a", "b", "c"))
        );
        ISettlementInbox.Inference[] memory items = new ISettlementInbox.Inference[](4);
        for (uint256 i; i < 4; ++i) {
            string memory path = string.concat(".inferences[", vm.toString(i), "]");
            items[i] = ISettlementInbox.Inference(
                keccak256(key),
                keccak256(vm.parseJsonBytes(json, string.concat(path, ".request"))),
                keccak256(vm.parseJsonBytes(json, string.concat(path, ".output"))),
                vm.parseJsonUint(json, string.concat(path, ".timestamp")),
                vm.parseJsonBytes(json, string.concat(path, ".signature"))
            );
        }
        uint256 verification = _verification(key, json, items[0].signature);
        // The inbox's sequence number has been used before.
        assertEq(inbox.recordInferences(_slice(items, 0, 1)), 1);
        assertEq(inbox.recordInferences(_slice(items, 1, 2)), 1);
        uint256 one = vm.lastCallGas().gasTotalUsed;
        assertEq(inbox.recordInferences(_slice(items, 2, 4)), 2);
        uint256 further = vm.lastCallGas().gasTotalUsed - one - verification + PRECOMPILE_GAS;
        vm.snapshotValue("registries", "recordInferences, 1 item", one - verification + PRECOMPILE_GAS);
        vm.snapshotValue("registries", "recordInferences, further item of a node", further);
        // The target, 45,000, is under what cannot be saved: slot 22,100, precompile 20,000, calldata 6,500, event 2,200.
        assertLe(further, 56_000);
    }

    /// @dev Gas of the stand-in for the precompile, without the call itself.
    function _verification(bytes memory key, string memory json, bytes memory signature) private returns (uint256) {
        bytes32 message = vm.parseJsonBytes32(json, ".inferences[0].message");
        assertTrue(IOpenGradientTEEVerifier(address(0x0900)).verifyRSAPSS(key, message, signature));
        // A static call is not isolated: this is its execution alone.
        return vm.lastCallGas().gasTotalUsed;
    }

    function _slice(ISettlementInbox.Inference[] memory items, uint256 from, uint256 to)
        private
        pure
        returns (ISettlementInbox.Inference[] memory part)
    {
        part = new ISettlementInbox.Inference[](to - from);
        for (uint256 i; i < part.length; ++i) {
            part[i] = items[from + i];
        }
    }
}
