// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Leaf} from "../../contracts/libraries/Batches.sol";
import {ReceiptEvidence, RowProof} from "../../contracts/libraries/Evidence.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {Order} from "../../contracts/libraries/Orders.sol";
import {DisputeGameBase} from "../DisputeGameBase.sol";

/// @notice Gas of every step of a dispute about rows of a batch of 100 by 10 nodes, whose node signs with RSA-2048.
/// forge-config: default.isolate = true
contract DisputesGas is DisputeGameBase {
    uint256 private constant ROWS = 100;
    string private _vectors;
    NodeKeys private _rsaNode;
    NodeKeys[] private _others;

    function setUp() public override {
        super.setUp();
        _vectors = vm.readFile("test/vectors/inferences.json");
        bytes memory key = vm.parseJsonBytesArray(_vectors, ".keys")[0];
        _rsaNode = _mirror(key, address(rsa), "rsa");
        for (uint256 i; i < 9; ++i) {
            _others.push(_mirrorP256(string.concat("other ", vm.toString(i))));
        }
        // The contracts' own counters have been used before.
        _challenge(_post(1, 1_000_000, 1), 0);
    }

    function test_disputes() public {
        Posted memory p = _postHundred();
        _challenge(p, 0);
        assertLe(vm.snapshotGasLastCall("disputes", "challenge"), 90_000);
        _challenge(p, 1);
        _challenge(p, 2);
        _answerAs(stranger, p, 0);
        assertLe(vm.snapshotGasLastCall("disputes", "answer RSA-PSS, first of an account"), 220_000);
        _answerAs(stranger, p, 1);
        assertLe(vm.snapshotGasLastCall("disputes", "answer RSA-PSS"), 220_000);
        vm.warp(NOW + WINDOW - 1);
        _challenge(p, 3);
        vm.warp(NOW + WINDOW + 1);
        _resolve(p, 2);
        vm.snapshotGasLastCall("disputes", "resolve");
        Leaf[] memory excluded = _excluded(p, 2, 3);
        game.finalize(p.record, excluded);
        vm.snapshotGasLastCall("disputes", "finalize of 10 nodes without 2 rows, first");
        _answerAs(stranger, p, 3);
        assertLe(vm.snapshotGasLastCall("disputes", "answer RSA-PSS of a final batch, paid"), 250_000);
        vm.prank(stranger);
        game.withdrawBonds(stranger);
        vm.snapshotGasLastCall("disputes", "withdrawBonds");
    }

    function test_voidDuplicate() public {
        Posted memory p = _postHundred();
        Order memory again = _order(0, 0);
        again.nonce = 900;
        again.requestCommit = p.evidence[0].order.requestCommit;
        again.maxAmount = 90;
        Settlement memory s = p.evidence[0];
        Settlement memory verified =
            Settlement(again, _sign(payerKey, escrow.orderId(again)), s.receipt, s.inferenceSignature, "");
        bytes memory meter = s.meterSignature;
        bytes32 salt = s.receipt.salt;
        (bytes32 paymentId, uint128 amount) = (s.receipt.paymentId, s.receipt.amount);
        (verified.receipt.paymentId, verified.receipt.amount) = (escrow.orderId(again), 90);
        _signMeter(_rsaNode, verified);
        _settle(verified);
        (s.receipt.paymentId, s.receipt.amount, s.receipt.salt, s.meterSignature) = (paymentId, amount, salt, meter);
        RowProof memory proof = _rowProof(p, 0);
        ReceiptEvidence memory evidence = _evidence(p, 0);
        game.voidDuplicate(proof, evidence);
        vm.snapshotGasLastCall("disputes", "voidDuplicate of a verified settlement, RSA-PSS");
    }

    function test_keeperBonds() public {
        bondToken.mint(address(this), 3 * SLASH);
        bondToken.approve(address(keepers), 3 * SLASH);
        keepers.addBond(otherKeeperId, SLASH);
        vm.snapshotGasLastCall("disputes", "addBond");
        keepers.setUnbonding(otherKeeperId, true);
        vm.snapshotGasLastCall("disputes", "setUnbonding");
        keepers.release(otherKeeperId, treasury);
        vm.snapshotGasLastCall("disputes", "release");
    }

    /// @dev The first rows are RSA inferences of the vectors; the others fill the batch.
    function _postHundred() private returns (Posted memory p) {
        Settlement[] memory evidence = new Settlement[](ROWS);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](ROWS);
        INodeRegistry.NodeRef[] memory refs = new INodeRegistry.NodeRef[](10);
        refs[0] = INodeRegistry.NodeRef(_rsaNode.id, _rsaNode.version);
        for (uint256 i; i < 9; ++i) {
            refs[i + 1] = INodeRegistry.NodeRef(_others[i].id, _others[i].version);
        }
        for (uint256 i; i < ROWS; ++i) {
            uint16 which = i < 4 ? 0 : uint16(1 + i % 9);
            evidence[i] = which == 0 ? _rsaSettlement(i) : _settlement(_others[which - 1], _order(keeperId, i), 700);
            rows[i] = _row(payerKey, evidence[i].order, 700, which);
            rows[i].receiptHash = keccak256(abi.encode(evidence[i].receipt));
        }
        return _postOf(hotKey, keeperId, refs, rows, evidence);
    }

    function _rsaSettlement(uint256 index) private view returns (Settlement memory s) {
        string memory path = string.concat(".inferences[", vm.toString(index), "]");
        Order memory order = _order(keeperId, index);
        bytes32 request = keccak256(vm.parseJsonBytes(_vectors, string.concat(path, ".request")));
        order.requestCommit = _commit(request, 0);
        s = _settlement(_rsaNode, order, 700);
        s.receipt.requestHash = request;
        s.receipt.outputHash = keccak256(vm.parseJsonBytes(_vectors, string.concat(path, ".output")));
        s.receipt.timestamp = uint40(vm.parseJsonUint(_vectors, string.concat(path, ".timestamp")));
        s.inferenceSignature = vm.parseJsonBytes(_vectors, string.concat(path, ".signature"));
        _signMeter(_rsaNode, s);
    }
}
