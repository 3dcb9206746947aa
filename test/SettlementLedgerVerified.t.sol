// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Effects} from "../contracts/libraries/Effects.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {Receipt as InferenceReceipt, Receipts} from "../contracts/libraries/Receipts.sol";
import {HostileVerifier} from "./mocks/HostileVerifier.sol";
import {SettlementLedgerBase} from "./SettlementLedgerBase.sol";

contract SettlementLedgerVerifiedTest is SettlementLedgerBase {
    HostileVerifier private _hostile;

    // ── What a settlement does ───────────────────────────────────────────────────────────────────────────────────────

    function test_paysNodeAndRecords_heldOrder() public {
        Order memory order = _order(0, 7);
        _open(order);
        Settlement memory s = _settlement(node, order, 600);
        s.orderSignature = "";
        bytes32 id = Receipts.settlementId(s.receipt);
        bytes32 receiptHash = keccak256(abi.encode(s.receipt));
        bytes32 before = ledger.accumulator();
        assertEq(before, keccak256(abi.encode(keccak256("Quittance ledger effect"), block.chainid, address(ledger))));

        vm.expectEmit(address(ledger));
        emit ISettlementLedger.Verified(1, 1, id, escrow.orderId(order), node.id, receiptHash, 600, 0);
        vm.prank(stranger);
        assertEq(_settle(s), id);

        assertEq(_free(node.payout), 600);
        assertEq(_free(payer), 1_000_000_000 - 600);
        assertEq(escrow.account(payer, address(token)).held, 0);
        assertEq(escrow.captured(address(token)), 0);
        assertEq(ledger.settled(id), receiptHash);
        assertEq(ledger.seq(), 1);
        assertEq(ledger.effectSeq(), 1);
        assertEq(
            ledger.accumulator(),
            keccak256(
                abi.encode(
                    keccak256("Quittance ledger effect"),
                    block.chainid,
                    address(ledger),
                    before,
                    uint64(1),
                    ISettlementLedger.EffectKind.Verified,
                    keccak256(abi.encode(id, receiptHash))
                )
            )
        );
    }

    function test_settlesSignedOrder_65and64Bytes() public {
        Settlement memory s = _settlement(node, _order(0, 1), 1000);
        _settle(s);
        s = _settlement(node, _order(0, 2), 1000);
        (bytes32 r, bytes32 vs) = vm.signCompact(payerKey, escrow.orderId(s.order));
        s.orderSignature = abi.encodePacked(r, vs);
        _settle(s);
        assertEq(_free(node.payout), 2000);
    }

    function test_settlesRsaVectors() public {
        string memory json = vm.readFile("test/vectors/inferences.json");
        bytes[] memory keys = vm.parseJsonBytesArray(json, ".keys");
        NodeKeys[] memory rsaNodes = new NodeKeys[](keys.length);
        for (uint256 i; i < keys.length; ++i) {
            rsaNodes[i] = _mirror(keys[i], address(rsa), vm.toString(i));
        }
        for (uint256 i; i < 12; ++i) {
            string memory path = string.concat(".inferences[", vm.toString(i), "]");
            NodeKeys memory keys_ = rsaNodes[vm.parseJsonUint(json, string.concat(path, ".key"))];
            Order memory order = _order(0, i);
            bytes32 request = keccak256(vm.parseJsonBytes(json, string.concat(path, ".request")));
            order.requestCommit = _commit(request, 0);
            Settlement memory s = _settlement(keys_, order, 10);
            s.receipt.requestHash = request;
            s.receipt.outputHash = keccak256(vm.parseJsonBytes(json, string.concat(path, ".output")));
            s.receipt.timestamp = uint40(vm.parseJsonUint(json, string.concat(path, ".timestamp")));
            s.inferenceSignature = vm.parseJsonBytes(json, string.concat(path, ".signature"));
            _signMeter(keys_, s);
            assertEq(_message(s.receipt), vm.parseJsonBytes32(json, string.concat(path, ".message")));
            _settle(s);
            assertEq(_free(keys_.payout), 10 * (i % 4 + 1));

            s.order.nonce = 1000 + i;
            _expectRevertOfTampered(s, i);
        }
    }

    function _expectRevertOfTampered(Settlement memory s, uint256 bit) private {
        s.receipt.timestamp ^= uint40(1);
        s.inferenceSignature[bit] ^= 0x01;
        s.orderSignature = _sign(payerKey, escrow.orderId(s.order));
        s.receipt.paymentId = escrow.orderId(s.order);
        bytes32 id = Receipts.settlementId(s.receipt);
        for (uint256 i; i < 4; ++i) {
            NodeKeys memory keys;
            keys.meterSecret = uint256(keccak256(abi.encode(vm.toString(i), "meter"))) >> 8;
            (,,, address meterKey,,) = nodes.evidence(s.receipt.nodeId, s.receipt.nodeVersion, s.receipt.timestamp);
            if (vm.addr(keys.meterSecret) == meterKey) _signMeter(keys, s);
        }
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.BadInferenceSignature.selector, s.receipt.nodeId, _message(s.receipt)
            )
        );
        _settle(s);
        assertEq(ledger.settled(id), 0);
    }

    function testFuzz_feeIsFlooredAndPaidAtOnce(uint128 amount, uint16 bps) public {
        amount = uint128(bound(amount, 1, 1_000_000_000));
        bps = uint16(bound(bps, 0, 100));
        ledger.setFee(bps, treasury);
        Order memory order = _order(0, 1);
        order.maxAmount = amount;
        _settle(_settlement(node, order, amount));
        uint256 fee = uint256(amount) * bps / 10_000;
        assertEq(_free(treasury), fee);
        assertEq(_free(node.payout), amount - fee);
    }

    function test_keeperSettlesFromLock_strangerFromFreeOnly() public {
        _lock(payerKey, 1_000_000_000, 1);
        Settlement memory s = _settlement(node, _order(keeperId, 1), 1000);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector,
                s.receipt.paymentId,
                IInferenceEscrow.CaptureResult.InsufficientBalance
            )
        );
        _settle(s);
        vm.prank(hotKey);
        _settle(s);
        assertEq(escrow.lockOf(payer, address(token), keeperId).amount, 1_000_000_000 - 1000);
        assertTrue(escrow.nonceSpent(payer, address(token), keeperId, 1));
    }

    /// @dev Two signed orders of one nonce: a stranger's settlement of the one must not void the keeper's claim on the other.
    function test_strangerCannotBurnKeepersNonce() public {
        Settlement memory mine = _settlement(declared, _order(keeperId, 1), 1);
        mine.order.nodeScope = declared.id;
        mine.receipt.paymentId = escrow.orderId(mine.order);
        mine.orderSignature = _sign(payerKey, mine.receipt.paymentId);
        _signEvidence(declared, mine);
        _settle(mine);
        assertFalse(escrow.nonceSpent(payer, address(token), keeperId, 1));
        Settlement memory s = _settlement(node, _order(keeperId, 1), 1000);
        vm.prank(hotKey);
        _settle(s);
        assertEq(_free(node.payout), 1000);
    }

    // ── Attacks ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev The payer has its order and the node's answer; only the node's meter key can say what it costs.
    function test_attack_payerSettlesOwnOrderForOneWei() public {
        Order memory order = _order(0, 1);
        _open(order);
        Settlement memory s = _settlement(node, order, 1000);
        s.receipt.amount = 1;
        vm.expectPartialRevert(ISettlementLedger.BadMeterSignature.selector);
        _settle(s);

        NodeKeys memory forged = node;
        forged.meterSecret = payerKey;
        _signMeter(forged, s);
        vm.expectRevert(
            abi.encodeWithSelector(ISettlementLedger.BadMeterSignature.selector, payer, vm.addr(node.meterSecret))
        );
        _settle(s);
        _settle(_settlement(node, order, 1000));
        assertEq(_free(node.payout), 1000);
    }

    /// @dev The meter names the order: the same inference cannot be consumed by another, cheaper order of the same request.
    function test_attack_burningIdWithAnotherOrder() public {
        Settlement memory s = _settlement(node, _order(0, 1), 1000);
        Order memory cheap = _order(0, 1);
        cheap.maxAmount = 1;
        Settlement memory thief = _settlement(node, cheap, 1);
        thief.meterSignature = s.meterSignature;
        thief.receipt.salt = s.receipt.salt;
        vm.expectPartialRevert(ISettlementLedger.BadMeterSignature.selector);
        _settle(thief);

        // With the honest receipt's own payment id the meter fits, but the order does not.
        thief.receipt = s.receipt;
        vm.expectRevert(
            abi.encodeWithSelector(ISettlementLedger.WrongPayment.selector, s.receipt.paymentId, escrow.orderId(cheap))
        );
        _settle(thief);
        _settle(s);
    }

    function test_attack_replay() public {
        Settlement memory s = _settlement(node, _order(0, 1), 100);
        bytes32 id = _settle(s);
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.AlreadySettled.selector, id));
        _settle(s);

        // Another order for the same request, paid with the same answer.
        Order memory again = _order(0, 2);
        again.requestCommit = s.order.requestCommit;
        Settlement memory t = _settlement(node, again, 100);
        t.receipt.requestHash = s.receipt.requestHash;
        t.receipt.outputHash = s.receipt.outputHash;
        _signEvidence(node, t);
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.AlreadySettled.selector, id));
        _settle(t);

        // The same order with another answer.
        Settlement memory u = _settlement(node, s.order, 100);
        u.receipt.outputHash = keccak256("another answer");
        _signEvidence(node, u);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector, u.receipt.paymentId, IInferenceEscrow.CaptureResult.NonceSpent
            )
        );
        _settle(u);
        assertEq(_free(node.payout), 100);
    }

    function test_attack_backdatingWithRevokedKey() public {
        Settlement memory s = _settlement(node, _order(0, 1), 100);
        skip(30 minutes);
        nodes.revoke(node.id);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NodeNotUsable.selector, node.id, node.version, INodeRegistry.NodeStatus.Revoked
            )
        );
        _settle(s);
    }

    function test_attack_backdatingAfterRetirement() public {
        skip(10 minutes);
        Settlement memory past = _settlement(node, _order(0, 1), 100);
        vm.prank(node.operator);
        nodes.retire(node.id);
        skip(3 hours);
        _settle(past);
        Order memory order = _order(0, 2);
        Settlement memory s = _settlement(node, order, 100);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NodeNotUsable.selector, node.id, node.version, INodeRegistry.NodeStatus.Retired
            )
        );
        _settle(s);
        // Dated back before the retirement, the answer is older than the order.
        s.receipt.timestamp = past.receipt.timestamp;
        _signEvidence(node, s);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.TimestampOutside.selector, past.receipt.timestamp, order.validAfter, order.validBefore
            )
        );
        _settle(s);
    }

    function test_attack_rotatedMeterKey() public {
        Settlement memory s = _settlement(node, _order(0, 1), 100);
        NodeKeys memory rotated = node;
        rotated.meterSecret = 77;
        rotated.version = 3;
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, vm.addr(77));
        _settle(s);
        s = _settlement(node, _order(0, 2), 100);
        s.receipt.nodeVersion = 3;
        vm.expectPartialRevert(ISettlementLedger.BadMeterSignature.selector);
        _settle(s);
        _settle(_settlement(rotated, _order(0, 2), 100));
        skip(GRACE + 1);
        s = _settlement(node, _order(0, 3), 100);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NodeNotUsable.selector, node.id, 2, INodeRegistry.NodeStatus.ReplacedVersion
            )
        );
        _settle(s);
    }

    function test_noMeterKey_nothingIsCaptured() public {
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, address(0));
        NodeKeys memory keys = node;
        keys.version = 3;
        Settlement memory s = _settlement(keys, _order(0, 1), 100);
        s.meterSignature = new bytes(65);
        s.receipt.salt = keccak256(s.meterSignature);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NodeNotUsable.selector, node.id, 3, INodeRegistry.NodeStatus.NoMeterKey
            )
        );
        _settle(s);
    }

    function testFuzz_meterForms(uint256 seed) public {
        Settlement memory s = _settlement(node, _order(0, 1), 100);
        bytes memory good = s.meterSignature;
        (bytes32 r, bytes32 sWord, uint8 v) = abi.decode(
            bytes.concat(_slice(good, 0), _slice(good, 32), bytes31(0), bytes1(good[64])), (bytes32, bytes32, uint8)
        );
        uint256 n = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes[6] memory bad = [
            abi.encodePacked(r, n - uint256(sWord), v == 27 ? uint8(28) : uint8(27)),
            abi.encodePacked(r, sWord, v - 27),
            abi.encodePacked(r, bytes32(uint256(sWord) | (uint256(v - 27) << 255))),
            abi.encodePacked(good, bytes1(0)),
            bytes(""),
            abi.encodePacked(r, bytes32(uint256(sWord) ^ (1 << (seed % 256))), v)
        ];
        for (uint256 i; i < bad.length; ++i) {
            s.meterSignature = bad[i];
            s.receipt.salt = keccak256(bad[i]);
            vm.expectPartialRevert(ISettlementLedger.BadMeterSignature.selector);
            _settle(s);
        }
    }

    function test_attack_hostileVerifier() public {
        _hostile = new HostileVerifier();
        nodes.setVerifier(address(_hostile), true);
        NodeKeys memory keys = _mirror("any key", address(_hostile), "hostile");
        Settlement memory s = _settlement(keys, _order(0, 1), 100);
        for (uint8 mode = 1; mode <= uint8(type(HostileVerifier.Mode).max); ++mode) {
            _hostile.setMode(HostileVerifier.Mode(mode));
            vm.expectRevert(
                abi.encodeWithSelector(ISettlementLedger.BadInferenceSignature.selector, keys.id, _message(s.receipt))
            );
            _settle(s);
        }
        vm.etch(address(_hostile), "");
        vm.expectPartialRevert(ISettlementLedger.BadInferenceSignature.selector);
        _settle(s);
    }

    // ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_refusesDisagreement() public {
        Settlement memory s = _settlement(node, _order(0, 1), 100);
        s.receipt.rail = 2;
        _refused(s, abi.encodeWithSelector(ISettlementLedger.WrongRail.selector, 2, 1));
        s = _settlement(node, _order(0, 1), 100);
        s.receipt.payer = stranger;
        _refused(s, abi.encodeWithSelector(ISettlementLedger.WrongPayer.selector, stranger, payer));
        s = _settlement(node, _order(0, 1), 100);
        s.receipt.token = stranger;
        _refused(s, abi.encodeWithSelector(ISettlementLedger.WrongToken.selector, stranger, address(token)));
        s = _settlement(node, _order(0, 1), 100);
        s.receipt.offset = 3;
        _refused(s, abi.encodeWithSelector(ISettlementLedger.WrongOffset.selector, 3, 0));
        s = _settlement(node, _order(0, 1), 100);
        s.receipt.salt = 0;
        _refused(
            s, abi.encodeWithSelector(ISettlementLedger.WrongSalt.selector, bytes32(0), keccak256(s.meterSignature))
        );
        s = _settlement(node, _order(0, 1), 100);
        s.receipt.blinding = bytes32(uint256(1));
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.WrongCommitment.selector,
                _commit(s.receipt.requestHash, s.receipt.blinding),
                s.order.requestCommit
            )
        );
        s = _settlement(node, _order(0, 1), 1001);
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector,
                s.receipt.paymentId,
                IInferenceEscrow.CaptureResult.OverMaximum
            )
        );
        s = _settlement(node, _order(0, 1), 0);
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector, s.receipt.paymentId, IInferenceEscrow.CaptureResult.ZeroAmount
            )
        );
        s = _settlement(node, _order(0, 1), 100);
        s.orderSignature[3] ^= 0x01;
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector,
                s.receipt.paymentId,
                IInferenceEscrow.CaptureResult.BadSignature
            )
        );
        s.orderSignature = "no signature";
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector,
                s.receipt.paymentId,
                IInferenceEscrow.CaptureResult.BadSignature
            )
        );
    }

    function test_refusesUnknownNodeAndVersion() public {
        Settlement memory s = _settlement(node, _order(0, 1), 100);
        s.receipt.nodeVersion = 9;
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.NodeNotUsable.selector, node.id, 9, INodeRegistry.NodeStatus.UnknownVersion
            )
        );
        s.receipt.nodeId = "nobody";
        _refused(
            s,
            abi.encodeWithSelector(
                ISettlementLedger.NodeNotUsable.selector, bytes32("nobody"), 9, INodeRegistry.NodeStatus.Unknown
            )
        );
    }

    function test_scope() public {
        // Open orders are not for declared nodes.
        Settlement memory s = _settlement(declared, _order(0, 1), 100);
        _refused(s, abi.encodeWithSelector(ISettlementLedger.NodeOutsideScope.selector, declared.id, bytes32(0)));
        // An order for one node is not for another.
        Order memory order = _order(0, 1);
        order.nodeScope = declared.id;
        s = _settlement(node, order, 100);
        _refused(s, abi.encodeWithSelector(ISettlementLedger.NodeOutsideScope.selector, node.id, declared.id));
        _settle(_settlement(declared, order, 100));
        assertEq(_free(declared.payout), 100);
    }

    function testFuzz_timestampBounds(uint40 timestamp) public {
        Order memory order = _order(0, 1);
        timestamp = uint40(bound(timestamp, order.validAfter - 2 hours, order.validBefore + 2 hours));
        Settlement memory s = _settlement(node, order, 100);
        s.receipt.timestamp = timestamp;
        _signEvidence(node, s);
        if (timestamp < order.validAfter || timestamp > order.validBefore) {
            _refused(
                s,
                abi.encodeWithSelector(
                    ISettlementLedger.TimestampOutside.selector, timestamp, order.validAfter, order.validBefore
                )
            );
        } else {
            _settle(s);
        }
    }

    /// @dev Any change of any field that the signatures cover is refused, and nothing is consumed.
    function testFuzz_everyReceiptFieldIsBound(uint256 field, uint256 bit) public {
        Order memory order = _order(0, 1);
        _open(order);
        Settlement memory s = _settlement(node, order, 100);
        bytes memory encoded = abi.encode(s.receipt);
        uint256[13] memory widths = [uint256(8), 256, 160, 160, 128, 128, 256, 32, 256, 256, 256, 40, 256];
        field %= 13;
        bit %= widths[field];
        encoded[field * 32 + 31 - bit / 8] ^= bytes1(uint8(1 << (bit % 8)));
        s.receipt = abi.decode(encoded, (InferenceReceipt));
        vm.expectRevert();
        _settle(s);
        assertEq(ledger.effectSeq(), 0);
        _settle(_settlement(node, order, 100));
    }

    function _refused(Settlement memory s, bytes memory reason) private {
        vm.expectRevert(reason);
        _settle(s);
    }

    function _slice(bytes memory data, uint256 offset) private pure returns (bytes32 word) {
        assembly {
            word := mload(add(add(data, 32), offset))
        }
    }
}
