// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {IPermit2} from "../../contracts/interfaces/IPermit2.sol";
import {IX402Forwarder} from "../../contracts/interfaces/IX402Forwarder.sol";
import {IX402UptoPermit2Proxy} from "../../contracts/interfaces/IX402Permit2Proxies.sol";
import {Artifacts} from "../../script/Artifacts.sol";
import {X402Base} from "../X402Base.sol";

/// @notice Gas of transactions of payments, with the devnet's token, Permit2 and proxy. Every payment has a payer of its own and a nonce that
///         shares no slot with another, as stock clients draw them; the receiver was paid before.
/// forge-config: default.isolate = true
contract X402ForwarderGasTest is X402Base {
    string private constant GROUP = "X402Forwarder";

    IX402Forwarder private _forwarder;
    address private _key = makeAddr("key");

    function setUp() public override {
        super.setUp();
        address[] memory keys = new address[](1);
        keys[0] = _key;
        _forwarder = IX402Forwarder(Artifacts.deploy("X402Forwarder", abi.encode(stranger, keys)));
        usdc.mint(receiver, 1);
    }

    function test_exact() public {
        assertLt(_measure("exact, 1 payment", _exacts(0, 1)), 100_000);
        _measure("exact, 10 payments", _exacts(1, 10));
        // Far from what one transaction may use.
        assertLt(_measure("exact, 100 payments", _exacts(11, 100)), 8_000_000);
        assertEq(usdc.balanceOf(receiver), 1 + 111 * 1000);
    }

    function test_upto() public {
        assertLt(_measure("upto, 1 payment", _uptos(0, 1)), 120_000);
        _measure("upto, 10 payments", _uptos(1, 10));
        assertLt(_measure("upto, 100 payments", _uptos(11, 100)), 10_000_000);
        assertEq(usdc.balanceOf(receiver), 1 + 111 * 900);
    }

    function _measure(string memory name, IX402Forwarder.Call[] memory calls) private returns (uint256 used) {
        used = _forward(calls);
        vm.snapshotGasLastCall(GROUP, name);
    }

    function _forward(IX402Forwarder.Call[] memory calls) private returns (uint256) {
        vm.prank(_key);
        IX402Forwarder.Result[] memory results = _forwarder.forward(calls);
        uint256 used = vm.lastCallGas().gasTotalUsed;
        for (uint256 i; i < results.length; ++i) {
            assertTrue(results[i].success);
        }
        return used;
    }

    function _exacts(uint256 from, uint256 count) private returns (IX402Forwarder.Call[] memory calls) {
        calls = new IX402Forwarder.Call[](count);
        for (uint256 i; i < count; ++i) {
            Vm.Wallet memory wallet = _payer("exact", from + i);
            bytes32 nonce = keccak256(abi.encode("exact", from + i));
            bytes32 structHash = keccak256(
                abi.encode(
                    usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
                    wallet.addr,
                    receiver,
                    1000,
                    0,
                    block.timestamp + 600,
                    nonce
                )
            );
            bytes32 digest = keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(wallet, digest);
            bytes memory data = abi.encodePacked(
                bytes4(0xe3ee160e),
                abi.encode(wallet.addr, receiver, 1000, 0, block.timestamp + 600),
                abi.encode(nonce, v, r, s)
            );
            calls[i] = IX402Forwarder.Call(digest, USDC, 150_000, data);
        }
    }

    function _uptos(uint256 from, uint256 count) private returns (IX402Forwarder.Call[] memory calls) {
        calls = new IX402Forwarder.Call[](count);
        for (uint256 i; i < count; ++i) {
            payer = _payer("upto", from + i);
            IPermit2.PermitTransferFrom memory permit = _permit(1000, uint256(keccak256(abi.encode("upto", from + i))));
            IX402UptoPermit2Proxy.Witness memory witness =
                IX402UptoPermit2Proxy.Witness(receiver, address(_forwarder), block.timestamp - 600);
            bytes memory data =
                abi.encodeCall(upto.settle, (permit, 900, payer.addr, witness, _signUpto(permit, witness)));
            calls[i] = IX402Forwarder.Call(keccak256(data), UPTO, 250_000, data);
        }
    }

    function _payer(string memory kind, uint256 index) private returns (Vm.Wallet memory wallet) {
        wallet = vm.createWallet(string.concat(kind, vm.toString(index)));
        _rich(wallet.addr);
    }
}

/// @dev Does nothing: what is left is the forwarder's own.
contract Nothing {
    fallback() external {}
}

/// @notice Gas that the forwarder itself uses for one more payment, calldata aside: not isolated, so that no transaction's floor price hides it.
contract X402ForwarderOverheadTest is X402Base {
    function test_overhead() public {
        address[] memory keys = new address[](1);
        keys[0] = address(this);
        IX402Forwarder forwarder = IX402Forwarder(Artifacts.deploy("X402Forwarder", abi.encode(stranger, keys)));
        address nothing = address(new Nothing());
        // As much data as an `exact` payment has.
        IX402Forwarder.Call memory item = IX402Forwarder.Call("id", nothing, 100_000, new bytes(4 + 9 * 32));
        uint256[2] memory used;
        for (uint256 i; i < 2; ++i) {
            IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](50 + 50 * i);
            for (uint256 c; c < calls.length; ++c) {
                calls[c] = item;
            }
            forwarder.forward(calls);
            used[i] = vm.lastCallGas().gasTotalUsed;
        }
        uint256 each = (used[1] - used[0]) / 50;
        assertLt(each, 4000);
        vm.snapshotValue("X402Forwarder", "forwarder's own part of a further payment", each);
    }
}
