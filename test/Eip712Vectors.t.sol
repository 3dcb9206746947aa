// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Lock, Order, Orders} from "../contracts/libraries/Orders.sol";
import {PayerSignatures} from "../contracts/libraries/PayerSignatures.sol";
import {Meter, Receipt as PaidReceipt, Receipts} from "../contracts/libraries/Receipts.sol";

/// @notice Our hashes against those that ethers made (script/vectors/eip712.mjs).
contract Eip712VectorsTest is Test {
    using Orders for Order;
    using Orders for Lock;
    using Receipts for Meter;
    using Receipts for PaidReceipt;

    string internal json;
    address internal signer;

    function setUp() public {
        json = vm.readFile("test/vectors/eip712.json");
        signer = _address(".signer");
        assertEq(vm.addr(uint256(_bytes32(".privateKey"))), signer);
    }

    function test_requestCommits() public view {
        uint256 count;
        for (; vm.keyExistsJson(json, _at(".requestCommits", count)); ++count) {
            string memory path = _at(".requestCommits", count);
            assertEq(
                Orders.requestCommit(_bytes32(path, ".requestHash"), _bytes32(path, ".blinding")),
                _bytes32(path, ".requestCommit")
            );
        }
        assertEq(count, 3);
    }

    function test_orders() public {
        uint256 count;
        for (; vm.keyExistsJson(json, _at(".orders", count)); ++count) {
            string memory path = _at(".orders", count);
            Order memory order = _order(string.concat(path, ".message"));
            assertEq(Orders.ORDER_TYPEHASH, _bytes32(path, ".typeHash"));
            assertEq(order.structHash(), _bytes32(path, ".structHash"));
            assertEq(this.structHashCalldata(order), _bytes32(path, ".structHash"));
            assertEq(_escrowOf(path).orderId(order), _bytes32(path, ".digest"));
            _checkSignature(path);
        }
        assertEq(count, 5);
    }

    function test_locks() public {
        uint256 count;
        for (; vm.keyExistsJson(json, _at(".locks", count)); ++count) {
            string memory path = _at(".locks", count);
            Lock memory lock = _lock(string.concat(path, ".message"));
            assertEq(Orders.LOCK_TYPEHASH, _bytes32(path, ".typeHash"));
            assertEq(lock.structHash(), _bytes32(path, ".structHash"));
            assertEq(_escrowOf(path).lockDigest(lock), _bytes32(path, ".digest"));
            _checkSignature(path);
        }
        assertEq(count, 2);
    }

    function test_meters() public view {
        uint256 count;
        for (; vm.keyExistsJson(json, _at(".meters", count)); ++count) {
            string memory path = _at(".meters", count);
            string memory message = string.concat(path, ".message");
            Meter memory meter = Meter({
                settlementId: _bytes32(message, ".settlementId"),
                paymentId: _bytes32(message, ".paymentId"),
                offset: uint128(_uint(message, ".offset")),
                amount: uint128(_uint(message, ".amount"))
            });
            assertEq(Receipts.METER_TYPEHASH, _bytes32(path, ".typeHash"));
            assertEq(meter.structHash(), _bytes32(path, ".structHash"));
            bytes32 domain = keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256("Quittance"),
                    keccak256("1"),
                    _uint(path, ".chainId"),
                    _address(string.concat(path, ".verifyingContract"))
                )
            );
            assertEq(domain, _bytes32(path, ".domainSeparator"));
            assertEq(keccak256(abi.encodePacked(hex"1901", domain, meter.structHash())), _bytes32(path, ".digest"));
            _checkSignature(path);
        }
        assertEq(count, 2);
    }

    function test_inferences() public view {
        uint256 count;
        for (; vm.keyExistsJson(json, _at(".inferences", count)); ++count) {
            string memory path = _at(".inferences", count);
            bytes32 message = Receipts.messageHash(
                _bytes32(path, ".requestHash"), _bytes32(path, ".outputHash"), _uint(path, ".timestamp")
            );
            assertEq(message, _bytes32(path, ".messageHash"));
            assertEq(Receipts.settlementId(_bytes32(path, ".nodeId"), message), _bytes32(path, ".settlementId"));
        }
        assertEq(count, 2);
    }

    function test_receipts() public view {
        uint256 count;
        for (; vm.keyExistsJson(json, _at(".receipts", count)); ++count) {
            string memory path = _at(".receipts", count);
            PaidReceipt memory receipt = _receipt(string.concat(path, ".message"));
            assertEq(abi.encode(receipt), vm.parseJsonBytes(json, string.concat(path, ".abiEncoded")));
            assertEq(receipt.hash(), _bytes32(path, ".receiptHash"));
            assertEq(receipt.settlementId(), _bytes32(path, ".settlementId"));
        }
        assertEq(count, 2);
    }

    /// @dev A digest is good for one chain, one contract and one struct only.
    function test_digests_areNotInterchangeable() public view {
        bytes32[] memory digests = new bytes32[](9);
        for (uint256 i; i < 5; ++i) {
            digests[i] = _bytes32(_at(".orders", i), ".digest");
        }
        for (uint256 i; i < 2; ++i) {
            digests[5 + i] = _bytes32(_at(".locks", i), ".digest");
            digests[7 + i] = _bytes32(_at(".meters", i), ".digest");
        }
        for (uint256 i; i < digests.length; ++i) {
            for (uint256 j; j < i; ++j) {
                assertNotEq(digests[i], digests[j]);
            }
        }
    }

    function testFuzz_structHash_sameFromMemoryAndCalldata(Order memory order) public view {
        assertEq(this.structHashCalldata(order), order.structHash());
    }

    function structHashCalldata(Order calldata order) external pure returns (bytes32) {
        return order.structHashCalldata();
    }

    function isKey(address account, bytes32 digest, bytes calldata signature) external pure returns (bool) {
        return PayerSignatures.isKey(account, digest, signature);
    }

    // ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev The real contract at the vector's address and chain.
    function _escrowOf(string memory path) private returns (IInferenceEscrow escrow) {
        vm.chainId(_uint(path, ".chainId"));
        address where = _address(string.concat(path, ".verifyingContract"));
        deployCodeTo(
            "bindings/abi/InferenceEscrow.json",
            abi.encode(
                address(1),
                IInferenceEscrow.Periods(7 days, 1 days, 600, 300, 3 days, 7 days, 30 days),
                address(2),
                address(3)
            ),
            where
        );
        return IInferenceEscrow(where);
    }

    function _checkSignature(string memory path) private view {
        bytes32 digest = _bytes32(path, ".digest");
        bytes32 r = _bytes32(path, ".r");
        bytes32 vs = _bytes32(path, ".vs");
        assertTrue(PayerSignatures.isKey(signer, digest, r, vs));
        assertTrue(this.isKey(signer, digest, vm.parseJsonBytes(json, string.concat(path, ".signature"))));
        assertTrue(this.isKey(signer, digest, abi.encodePacked(r, vs)));
        assertFalse(this.isKey(signer, keccak256(abi.encode(digest)), abi.encodePacked(r, vs)));
    }

    function _order(string memory path) private view returns (Order memory) {
        return Order({
            payer: _address(string.concat(path, ".payer")),
            token: _address(string.concat(path, ".token")),
            maxAmount: uint128(_uint(path, ".maxAmount")),
            requestCommit: _bytes32(path, ".requestCommit"),
            nodeScope: _bytes32(path, ".nodeScope"),
            keeperId: _bytes32(path, ".keeperId"),
            validAfter: uint40(_uint(path, ".validAfter")),
            validBefore: uint40(_uint(path, ".validBefore")),
            captureDeadline: uint40(_uint(path, ".captureDeadline")),
            nonce: _uint(path, ".nonce")
        });
    }

    function _lock(string memory path) private view returns (Lock memory) {
        return Lock({
            payer: _address(string.concat(path, ".payer")),
            token: _address(string.concat(path, ".token")),
            keeperId: _bytes32(path, ".keeperId"),
            amount: uint128(_uint(path, ".amount")),
            until: uint40(_uint(path, ".until")),
            nonce: _uint(path, ".nonce")
        });
    }

    function _receipt(string memory path) private view returns (PaidReceipt memory) {
        return PaidReceipt({
            rail: uint8(_uint(path, ".rail")),
            paymentId: _bytes32(path, ".paymentId"),
            payer: _address(string.concat(path, ".payer")),
            token: _address(string.concat(path, ".token")),
            offset: uint128(_uint(path, ".offset")),
            amount: uint128(_uint(path, ".amount")),
            nodeId: _bytes32(path, ".nodeId"),
            nodeVersion: uint32(_uint(path, ".nodeVersion")),
            requestHash: _bytes32(path, ".requestHash"),
            blinding: _bytes32(path, ".blinding"),
            outputHash: _bytes32(path, ".outputHash"),
            timestamp: uint40(_uint(path, ".timestamp")),
            salt: _bytes32(path, ".salt")
        });
    }

    function _at(string memory list, uint256 index) private pure returns (string memory) {
        return string.concat(list, "[", vm.toString(index), "]");
    }

    function _address(string memory path) private view returns (address) {
        return vm.parseJsonAddress(json, path);
    }

    function _bytes32(string memory path) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, path);
    }

    function _bytes32(string memory path, string memory member) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, string.concat(path, member));
    }

    function _uint(string memory path, string memory member) private view returns (uint256) {
        return vm.parseJsonUint(json, string.concat(path, member));
    }
}
