// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {Vm} from "forge-std/Vm.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {INodeRegistry} from "../../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {BatchRecord} from "../../contracts/libraries/Batches.sol";
import {Order} from "../../contracts/libraries/Orders.sol";
import {Access} from "../../script/Access.sol";
import {SettlementLedgerBase} from "../SettlementLedgerBase.sol";

/// @notice Says yes to every signature.
contract OpenVerifier is IERC7913SignatureVerifier {
    function verify(bytes calldata, bytes32, bytes calldata) external pure returns (bytes4) {
        return IERC7913SignatureVerifier.verify.selector;
    }
}

/// @notice What was recorded before admin and guardian changed their lists, and how far a whole hostile administration gets.
contract LaterChangesTest is SettlementLedgerBase {
    address private _guardian = makeAddr("guardian");
    uint256 private constant ATTACKER = 666;

    function setUp() public override {
        super.setUp();
        manager.grantRole(1, _guardian, 0);
        manager.setTargetFunctionRole(address(escrow), Access.selectorsOf("InferenceEscrow", "guardian"), 1);
        manager.setTargetFunctionRole(address(nodes), Access.selectorsOf("NodeRegistry", "guardian"), 1);
        ledger.setFee(50, treasury);
    }

    function _batch(uint128 amount) private returns (BatchRecord memory record) {
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](1);
        rows[0] = _row(payerKey, _order(keeperId, 77), amount, 0);
        vm.recordLogs();
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(keeperId, address(token), _refs(node, declared), rows, 0, "");
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] != ISettlementLedger.BatchSettled.selector) continue;
            (,, record,) = abi.decode(logs[i].data, (uint64, uint64, BatchRecord, bytes));
        }
        assertEq(record.total, amount);
    }

    function test_recordedBatch_paysAsRecorded_whateverChangedLater() public {
        BatchRecord memory record = _batch(1000);
        ledger.setFee(100, makeAddr("another recipient"));
        nodes.setVerifier(address(p256), false);
        address[] memory signers = new address[](1);
        signers[0] = vm.addr(ATTACKER);
        nodes.setMirrors(signers, 1);
        manager.setTargetClosed(address(ledger), true);
        manager.setTargetClosed(address(escrow), true);
        manager.updateAuthority(address(ledger), address(manager));
        vm.startPrank(_guardian);
        nodes.revoke(node.id);
        vm.stopPrank();
        manager.setTargetClosed(address(escrow), false);
        vm.prank(_guardian);
        escrow.pause(uint40(block.timestamp) + 7 days);

        skip(WINDOW);
        vm.prank(stranger);
        ledger.finalize(record);
        assertEq(_free(node.payout), 995);
        assertEq(_free(treasury), 5, "fee and recipient of the day it was recorded");
        assertEq(_free(makeAddr("another recipient")), 0);
        vm.prank(node.payout);
        escrow.withdraw(address(token), node.payout, 995);
    }

    /// @dev A mirror quorum that names itself the owner of a known key, and the operator's own later choice: both change where later work is
    ///      paid, and neither what is recorded, whether it is paid with the batch or after an answer.
    function test_recordedBatch_paysTheAccountOfItsSettlement_whateverQuorumAndOperatorSayLater() public {
        BatchRecord memory record = _batch(1000);
        vm.prank(node.operator);
        nodes.setPayout(node.id, makeAddr("operator's next"));
        _reportOwner(vm.addr(ATTACKER));
        assertEq(nodes.node(node.id).payout, vm.addr(ATTACKER), "the quorum did take the node over");
        skip(WINDOW);
        ledger.finalize(record);
        assertEq(_free(node.payout), 995);
        assertEq(_free(makeAddr("operator's next")), 0);
        assertEq(_free(vm.addr(ATTACKER)), 0);
    }

    /// @dev A verified settlement pays at once, so nothing later reaches it.
    function test_verifiedSettlement_isPaidBeforeAnythingCanChange() public {
        _settle(_settlement(node, _order(0, 1), 1000));
        vm.prank(_guardian);
        nodes.revoke(node.id);
        ledger.setFee(0, address(0));
        assertEq(_free(node.payout), 995);
        assertEq(_free(treasury), 5);
    }

    /// @dev The worst that admin and mirror quorum together can do once their delay is over: they forge the node that an order names. What
    ///      the payer put into such orders is theirs, up to each order's maximum; everything else is out of reach.
    function test_forgedNode_reachesOrdersThatNameIt_andNothingElse() public {
        Order memory held = _order(0, 1);
        held.nodeScope = node.id;
        _open(held);
        NodeKeys memory forged = _takeOver();
        uint128 free = _free(payer);

        // Never signed by the payer.
        Settlement memory theft = _settlement(forged, _order(0, 2), 1000);
        theft.orderSignature = _sign(ATTACKER, theft.receipt.paymentId);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector,
                theft.receipt.paymentId,
                IInferenceEscrow.CaptureResult.BadSignature
            )
        );
        _settle(theft);
        // Signed, for another node.
        Order memory other = _order(0, 3);
        other.nodeScope = declared.id;
        theft = _settlement(forged, other, 1000);
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.NodeOutsideScope.selector, forged.id, declared.id));
        _settle(theft);
        // Held for it: the maximum and no more.
        theft = _settlement(forged, held, 1001);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.NotCapturable.selector,
                theft.receipt.paymentId,
                IInferenceEscrow.CaptureResult.OverMaximum
            )
        );
        _settle(theft);
        _settle(_settlement(forged, held, 1000));

        assertEq(_free(payer), free, "not a unit that was not in that order");
        vm.prank(payer);
        escrow.withdraw(address(token), payer, free);
    }

    /// @dev Two of the three mirrors say so.
    function _reportOwner(address owner) private {
        INodeRegistry.Mirror memory report =
            INodeRegistry.Mirror(_p256Key(node.secret), owner, owner, true, uint40(block.timestamp) + 1);
        (uint256 low, uint256 high) = vm.addr(11) < vm.addr(12) ? (11, 12) : (12, 11);
        bytes[] memory signatures = new bytes[](2);
        signatures[0] = _sign(low, nodes.mirrorDigest(report));
        signatures[1] = _sign(high, nodes.mirrorDigest(report));
        nodes.mirror(report, signatures);
    }

    /// @dev Another verifier, another quorum, and a report that the attacker owns the node.
    function _takeOver() private returns (NodeKeys memory forged) {
        address verifier = address(new OpenVerifier());
        nodes.setVerifier(verifier, true);
        nodes.setMirrorVerifier(verifier);
        address[] memory signers = new address[](1);
        signers[0] = vm.addr(ATTACKER);
        nodes.setMirrors(signers, 1);
        bytes memory key = _p256Key(node.secret);
        INodeRegistry.Mirror memory report =
            INodeRegistry.Mirror(key, vm.addr(ATTACKER), vm.addr(ATTACKER), true, uint40(block.timestamp) + 1);
        bytes[] memory signatures = new bytes[](1);
        signatures[0] = _sign(ATTACKER, nodes.mirrorDigest(report));
        nodes.mirror(report, signatures);
        forged = NodeKeys(node.id, node.secret, ATTACKER, vm.addr(ATTACKER), vm.addr(ATTACKER), 4);
        vm.startPrank(vm.addr(ATTACKER));
        nodes.claimOperator(node.id, vm.addr(ATTACKER), "");
        nodes.setMeterKey(node.id, vm.addr(ATTACKER));
        vm.stopPrank();
    }
}
