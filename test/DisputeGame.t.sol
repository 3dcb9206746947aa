// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IDisputeGame} from "../contracts/interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {INodeRegistry} from "../contracts/interfaces/INodeRegistry.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Batches, BatchRecord, Leaf} from "../contracts/libraries/Batches.sol";
import {Effects} from "../contracts/libraries/Effects.sol";
import {ReceiptEvidence, RowProof} from "../contracts/libraries/Evidence.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {Receipts} from "../contracts/libraries/Receipts.sol";
import {Artifacts} from "../script/Artifacts.sol";
import {DisputeGameBase} from "./DisputeGameBase.sol";

contract DisputeGameTest is DisputeGameBase {
    IDisputeGame.RowStatus private constant LOCKED = IDisputeGame.RowStatus.Locked;
    IDisputeGame.RowStatus private constant PROVEN = IDisputeGame.RowStatus.Proven;
    IDisputeGame.RowStatus private constant VOID = IDisputeGame.RowStatus.Void;

    // ── challenge ────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_challenge_locksTheRow() public {
        Posted memory p = _post(5, 1, 100);
        uint256 bond = game.challengeBond();
        bytes32[] memory proof = _proof(p, 3);
        vm.expectEmit(address(game));
        emit IDisputeGame.Challenged(1, 1, 3, challenger, 42, bond, NOW + RESPONSE);
        vm.prank(challenger);
        game.challenge{value: bond}(p.record, p.leaves[3], proof, 42);
        IDisputeGame.Row memory row = game.rowOf(1, p.leaves[3]);
        assertEq(row.challenger, challenger);
        assertEq(row.deadline, NOW + RESPONSE);
        assertEq(uint256(row.bond) * 1 gwei, bond);
        _assertRow(p, 3, LOCKED);
        assertEq(address(game).balance, bond);
        (, uint256 excluded, bool slashed,) = ledger.batchState(1);
        assertEq(excluded, 1);
        assertFalse(slashed);
        assertEq(game.seq(), 1);
    }

    function test_challenge_everyRowOfEveryTreeSize() public {
        uint256 nonce = 1;
        for (uint256 size = 1; size <= 9; ++size) {
            Posted memory p = _post(size, nonce, 10);
            nonce += size;
            for (uint256 row; row < size; ++row) {
                assertTrue(ledger.verifyLeaf(p.record, p.leaves[row], _proof(p, row)));
                _challenge(p, row);
            }
            (, uint256 excluded,,) = ledger.batchState(p.record.batchId);
            assertEq(excluded, size);
        }
    }

    function test_challenge_bond() public {
        Posted memory p = _post(2, 1, 100);
        bytes32[] memory proof = _proof(p, 0);
        assertEq(game.challengeBond(), 120_000 gwei, "the floor: 600,000 gas at 0.2 gwei");
        uint256 bond = game.challengeBond();
        vm.startPrank(challenger);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.BadBond.selector, bond - 1 gwei, bond));
        game.challenge{value: bond - 1 gwei}(p.record, p.leaves[0], proof, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.BadBond.selector, bond + 1, bond));
        game.challenge{value: bond + 1}(p.record, p.leaves[0], proof, 0);
        vm.fee(0.5 gwei + 1);
        bond = game.challengeBond();
        assertEq(bond, 300_001 gwei, "twice an answer at the base fee, in whole gwei");
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.BadBond.selector, bond - 1 gwei, bond));
        game.challenge{value: bond - 1 gwei}(p.record, p.leaves[0], proof, 0);
        game.challenge{value: bond}(p.record, p.leaves[0], proof, 0);
    }

    function test_challenge_onlyWhatStandsInTheBatch() public {
        Posted memory p = _post(5, 1, 100);
        uint256 bond = game.challengeBond();
        bytes32[] memory proof = _proof(p, 3);
        vm.startPrank(challenger);
        Leaf memory leaf = abi.decode(abi.encode(p.leaves[3]), (Leaf));
        leaf.amount = 99;
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotInBatch.selector, 1, 3));
        game.challenge{value: bond}(p.record, leaf, proof, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotInBatch.selector, 1, 2));
        game.challenge{value: bond}(p.record, p.leaves[2], proof, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.UnitOutside.selector, 100, 0, 100));
        game.challenge{value: bond}(p.record, p.leaves[3], proof, 100);

        BatchRecord memory forged = abi.decode(abi.encode(p.record), (BatchRecord));
        forged.settledAt += 1;
        vm.expectPartialRevert(ISettlementLedger.WrongRecord.selector);
        game.challenge{value: bond}(forged, p.leaves[3], proof, 0);
        forged = abi.decode(abi.encode(p.record), (BatchRecord));
        forged.batchId = 2;
        vm.expectRevert(
            abi.encodeWithSelector(ISettlementLedger.BatchNotOpen.selector, 2, ISettlementLedger.BatchStatus.None)
        );
        game.challenge{value: bond}(forged, p.leaves[3], proof, 0);
    }

    function test_challenge_onceAndInTheWindow() public {
        Posted memory p = _post(3, 1, 100);
        _challenge(p, 0);
        uint256 bond = game.challengeBond();
        bytes32[] memory proof = _proof(p, 0);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 0, LOCKED));
        game.challenge{value: bond}(p.record, p.leaves[0], proof, 5);
        _answerAs(stranger, p, 0);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 0, PROVEN));
        game.challenge{value: bond}(p.record, p.leaves[0], proof, 0);

        vm.warp(NOW + WINDOW - 1);
        _challenge(p, 1);
        assertEq(game.rowOf(1, p.leaves[1]).deadline, NOW + WINDOW - 1 + RESPONSE, "full response time");
        vm.warp(NOW + WINDOW);
        proof = _proof(p, 2);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WindowOver.selector, NOW + WINDOW, NOW + WINDOW));
        game.challenge{value: bond}(p.record, p.leaves[2], proof, 0);
    }

    // ── answer ───────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_answer_anyoneWithTheReceipt_earnsTheBond() public {
        Posted memory p = _post(3, 1, 100);
        _challenge(p, 1);
        uint256 bond = game.challengeBond();
        vm.warp(NOW + RESPONSE);
        vm.expectEmit(address(game));
        emit IDisputeGame.Answered(2, 1, 1, stranger, Receipts.settlementId(p.evidence[1].receipt), bond);
        _answerAs(stranger, p, 1);
        _assertRow(p, 1, PROVEN);
        assertEq(game.withdrawable(stranger), bond);
        (, uint256 excluded,,) = ledger.batchState(1);
        assertEq(excluded, 0);
        ledger.finalize(p.record);
        assertEq(_free(node.payout), 300);
        assertEq(keepers.bondOf(keeperId).openBatches, 0);

        uint256 before = treasury.balance;
        vm.prank(stranger);
        game.withdrawBonds(treasury);
        assertEq(treasury.balance, before + bond);
        assertEq(address(game).balance, 0);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NothingToWithdraw.selector, stranger));
        game.withdrawBonds(treasury);
    }

    function test_answer_afterFinality_paysTheRow() public {
        ledger.setFee(100, treasury);
        Posted memory p = _post(3, 1, 999);
        vm.warp(NOW + WINDOW - 1);
        _challenge(p, 1);
        vm.warp(NOW + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.RowsExcluded.selector, 1, 1));
        ledger.finalize(p.record);
        game.finalize(p.record, _excluded(p, 1));
        assertEq(_free(node.payout), 2 * 990);
        assertEq(_free(treasury), 2 * 9);
        assertEq(escrow.captured(address(token)), 999, "the locked row stays captured");
        assertEq(uint8(ledger.batchStatus(1)), uint8(ISettlementLedger.BatchStatus.Final));
        assertEq(keepers.bondOf(keeperId).openBatches, 1, "its stake too");
        assertEq(keepers.bondOf(keeperId).reserved, 1);

        // The row is paid to the account of its settlement.
        vm.prank(node.operator);
        nodes.setPayout(node.id, makeAddr("later"));
        uint64 effect = ledger.effectSeq();
        bytes32 before = ledger.accumulator();
        uint64 number = ledger.seq();
        vm.expectEmit(address(ledger));
        emit ISettlementLedger.RowFinalized(number + 1, effect + 1, 1, 1, 990, 9);
        _answerAs(stranger, p, 1);
        assertEq(
            ledger.accumulator(),
            Effects.fold(
                block.chainid,
                address(ledger),
                before,
                effect + 1,
                uint8(ISettlementLedger.EffectKind.RowFinal),
                keccak256(abi.encode(uint64(1), uint32(1)))
            )
        );
        assertEq(_free(node.payout), 3 * 990);
        assertEq(_free(treasury), 3 * 9);
        assertEq(escrow.captured(address(token)), 0);
        assertEq(keepers.bondOf(keeperId).openBatches, 0);
        assertEq(keepers.bondOf(keeperId).reserved, 0);
    }

    function test_answer_notAfterTheResponseTime() public {
        Posted memory p = _post(1, 1, 100);
        _challenge(p, 0);
        ReceiptEvidence memory evidence = _evidence(p, 0);
        vm.warp(NOW + RESPONSE + 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.ResponseOver.selector, NOW + RESPONSE + 1, NOW + RESPONSE));
        game.answer(p.record, p.leaves[0], p.evidence[0].order, evidence);
    }

    function test_answer_needsAChallenge() public {
        Posted memory p = _post(1, 1, 100);
        ReceiptEvidence memory evidence = _evidence(p, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 0, IDisputeGame.RowStatus.None));
        game.answer(p.record, p.leaves[0], p.evidence[0].order, evidence);
    }

    function test_answer_onlyTheReceiptOfTheRow_withItsSignatures() public {
        Posted memory p = _post(3, 1, 100);
        _challenge(p, 0);
        Order memory order = p.evidence[0].order;

        // Another row's receipt.
        vm.expectPartialRevert(IDisputeGame.WrongReceipt.selector);
        game.answer(p.record, p.leaves[0], order, _evidence(p, 1));
        // Another order.
        vm.expectPartialRevert(IDisputeGame.WrongOrder.selector);
        game.answer(p.record, p.leaves[0], p.evidence[1].order, _evidence(p, 0));
        // Another record, which only looks alike.
        Posted memory other = _post(1, 9, 100);
        vm.expectPartialRevert(IDisputeGame.WrongRowStatus.selector);
        game.answer(other.record, p.leaves[0], order, _evidence(p, 0));
        // Any bit of the receipt.
        ReceiptEvidence memory e = _evidence(p, 0);
        e.receipt.outputHash ^= bytes32(uint256(1));
        vm.expectPartialRevert(IDisputeGame.WrongReceipt.selector);
        game.answer(p.record, p.leaves[0], order, e);
        e.receipt.outputHash ^= bytes32(uint256(1));
        // Signatures.
        bytes memory good = e.inferenceSignature;
        e.inferenceSignature = _evidence(p, 1).inferenceSignature;
        vm.expectPartialRevert(ISettlementLedger.BadInferenceSignature.selector);
        game.answer(p.record, p.leaves[0], order, e);
        e.inferenceSignature = good;
        e.meterSignature = _evidence(p, 1).meterSignature;
        vm.expectPartialRevert(ISettlementLedger.WrongSalt.selector);
        game.answer(p.record, p.leaves[0], order, e);
        e = _evidence(p, 0);
        game.answer(p.record, p.leaves[0], order, e);
    }

    /// @dev The keeper made it up: signed by nobody, metered by nobody, for another request, or outside the order's times.
    function test_answer_notWhatTheKeeperMadeUp() public {
        Settlement[] memory evidence = new Settlement[](4);
        for (uint256 i; i < 4; ++i) {
            evidence[i] = _settlement(node, _order(keeperId, 1 + i), 100);
        }
        // Signed by the keeper instead of the node's meter key.
        NodeKeys memory false_ = node;
        false_.meterSecret = 0xbad;
        _signMeter(false_, evidence[0]);
        // Another request of the same node.
        evidence[1].receipt.requestHash = _request(99);
        _signEvidence(node, evidence[1]);
        // Too early.
        evidence[2].receipt.timestamp = NOW - 1;
        _signEvidence(node, evidence[2]);
        // Metered to another payment.
        evidence[3].receipt.paymentId = keccak256("another");
        _signEvidence(node, evidence[3]);
        Posted memory p = _postRows(evidence);
        bytes4[4] memory errors = [
            ISettlementLedger.BadMeterSignature.selector,
            ISettlementLedger.WrongCommitment.selector,
            ISettlementLedger.TimestampOutside.selector,
            IDisputeGame.WrongOrder.selector
        ];
        for (uint256 i; i < 4; ++i) {
            _challenge(p, i);
            ReceiptEvidence memory e = _evidence(p, i);
            vm.expectPartialRevert(errors[i]);
            game.answer(p.record, p.leaves[i], p.evidence[i].order, e);
        }
        vm.warp(NOW + WINDOW + 1);
        for (uint256 i; i < 4; ++i) {
            _resolve(p, i);
        }
        game.finalize(p.record, p.leaves);
        assertEq(_free(node.payout), 0);
        assertEq(escrow.captured(address(token)), 0);
        assertEq(escrow.account(payer, address(token)).held, 400);
    }

    /// @dev Whoever changes what after the capture: the version that the row names answers.
    function test_answer_operatorRotatesAndGuardianRevokes() public {
        Posted memory p = _post(1, 1, 100);
        _challenge(p, 0);
        vm.startPrank(node.operator);
        nodes.setMeterKey(node.id, makeAddr("another"));
        nodes.setMeterKey(node.id, address(0));
        nodes.retire(node.id);
        vm.stopPrank();
        nodes.setVerifier(address(p256), false);
        nodes.revoke(node.id);
        vm.warp(NOW + RESPONSE);
        _answerAs(stranger, p, 0);
        ledger.finalize(p.record);
        assertEq(_free(node.payout), 100);
    }

    // ── resolve ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_resolve_voidsReopensAndSlashes() public {
        Posted memory p = _post(3, 1, 100);
        _challenge(p, 1);
        uint256 bond = game.challengeBond();
        vm.warp(NOW + RESPONSE);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.ResponseRunning.selector, NOW + RESPONSE, NOW + RESPONSE));
        game.resolve(p.record, p.leaves[1], p.evidence[1].order);
        vm.warp(NOW + RESPONSE + 1);
        vm.expectPartialRevert(ISettlementLedger.WrongPayment.selector);
        game.resolve(p.record, p.leaves[1], p.evidence[0].order);

        bytes32 orderId = p.leaves[1].paymentId;
        IKeeperRegistry.Bond memory before = keepers.bondOf(keeperId);
        uint64 number = ledger.seq();
        uint64 effect = ledger.effectSeq();
        vm.expectEmit(address(ledger));
        emit ISettlementLedger.RowVoided(number + 1, effect + 1, 1, orderId, 1, 100, true);
        vm.expectEmit(address(game));
        emit IDisputeGame.Unproven(2, 1, 1, challenger, bond, SLASH);
        vm.prank(stranger);
        game.resolve(p.record, p.leaves[1], p.evidence[1].order);

        _assertRow(p, 1, VOID);
        assertEq(game.withdrawable(challenger), bond, "the bond goes back");
        assertEq(keepers.rewards(challenger), SLASH / 2);
        assertEq(keepers.burned(), SLASH / 2);
        IKeeperRegistry.Bond memory bonds = keepers.bondOf(keeperId);
        assertEq(bonds.amount, before.amount - SLASH);
        assertTrue(bonds.suspended);
        assertEq(bonds.openBatches, 1);
        assertEq(bonds.reserved, 0, "the batch's reserve is taken");
        IInferenceEscrow.OrderState memory state = escrow.orderState(orderId);
        assertEq(uint8(state.status), uint8(IInferenceEscrow.OrderStatus.Reopened));
        assertEq(state.amount, 100);
        assertEq(state.captureDeadline, NOW + RESPONSE + 1 + REOPEN);
        assertEq(escrow.account(payer, address(token)).held, 100);

        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 1, VOID));
        game.resolve(p.record, p.leaves[1], p.evidence[1].order);
        game.finalize(p.record, _excluded(p, 1));
        assertEq(_free(node.payout), 200, "the honest rows are paid");
        assertEq(escrow.captured(address(token)), 0);
        assertEq(keepers.bondOf(keeperId).openBatches, 0);
        vm.prank(challenger);
        keepers.withdrawReward(treasury);
        assertEq(bondToken.balanceOf(treasury), SLASH / 2);
    }

    function test_resolve_afterFinality() public {
        Posted memory p = _post(3, 1, 100);
        vm.warp(NOW + WINDOW - 1);
        _challenge(p, 0);
        _challenge(p, 2);
        vm.warp(NOW + WINDOW);
        game.finalize(p.record, _excluded(p, 0, 2));
        vm.warp(NOW + WINDOW + RESPONSE);
        _resolve(p, 0);
        assertEq(keepers.bondOf(keeperId).openBatches, 1);
        _resolve(p, 2);
        IKeeperRegistry.Bond memory bonds = keepers.bondOf(keeperId);
        assertEq(bonds.openBatches, 0);
        assertEq(bonds.reserved, 0);
        assertEq(bonds.amount, 998 * SLASH, "the second took from what nothing reserves");
        assertEq(escrow.captured(address(token)), 0);
        assertEq(_free(node.payout), 100);
    }

    function test_reopenedMoney_onlyVerifiedThenReclaimed() public {
        Posted memory p = _post(2, 1, 100);
        _challenge(p, 0);
        _challenge(p, 1);
        vm.warp(NOW + RESPONSE + 1);
        _resolve(p, 0);
        _resolve(p, 1);
        Order memory order = p.evidence[0].order;
        uint40 until = escrow.orderState(p.leaves[0].paymentId).captureDeadline;

        // No batch takes it, not even of the keeper that the order names.
        vm.prank(keepers.keeper(keeperId).owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.BatchesOpen.selector, keeperId, 1));
        keepers.reinstate(keeperId);
        Leaf[] memory both = _excluded(p, 0, 1);
        game.finalize(p.record, both);
        keepers.reinstate(keeperId);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](1);
        rows[0] = _row(payerKey, order, 100, 0);
        vm.prank(hotKey, hotKey);
        assertEq(ledger.settleBatch(keeperId, address(token), _refs(node, declared), rows, 0, ""), 0);
        vm.expectPartialRevert(IInferenceEscrow.NotExpired.selector);
        escrow.reclaim(order);

        // The node still has its receipt, though its version was replaced long ago.
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, makeAddr("next meter"));
        vm.warp(vm.getBlockTimestamp() + GRACE + 1);
        _settle(p.evidence[0]);
        assertEq(_free(node.payout), 100);
        assertEq(escrow.account(payer, address(token)).held, 100);

        vm.warp(until + 1 days + 2);
        vm.expectPartialRevert(ISettlementLedger.NotCapturable.selector);
        _settle(p.evidence[1]);
        uint128 before = _free(payer);
        vm.prank(stranger);
        escrow.reclaim(p.evidence[1].order);
        assertEq(_free(payer), before + 100);
        assertEq(escrow.account(payer, address(token)).held, 0);
    }

    /// @dev A keeper that challenges itself gains nothing: the row is void, and half of the slash is burned.
    function test_selfChallenge_shieldsNothing() public {
        Posted memory p = _post(1, 1, 100);
        vm.deal(hotKey, 1 ether);
        _challengeAs(hotKey, p, 0);
        vm.warp(NOW + RESPONSE + 1);
        _resolve(p, 0);
        assertEq(keepers.rewards(hotKey), SLASH / 2);
        assertEq(keepers.bondOf(keeperId).amount, 999 * SLASH);
        assertEq(_free(node.payout), 0);
        assertEq(escrow.account(payer, address(token)).held, 100);
    }

    // ── Duplicates ───────────────────────────────────────────────────────────────────────────────────────────────────

    function test_voidDuplicate_ofAVerifiedSettlement() public {
        // The same answer is sold for two orders of the same request.
        Settlement[] memory rows = new Settlement[](2);
        rows[0] = _settlement(node, _order(keeperId, 1), 100);
        rows[1] = _settlement(node, _order(keeperId, 2), 100);
        Posted memory p = _postRows(rows);
        Order memory again = _order(0, 700);
        again.requestCommit = rows[0].order.requestCommit;
        Settlement memory verified = _settlement(node, again, 90);
        verified.receipt.requestHash = rows[0].receipt.requestHash;
        verified.receipt.outputHash = rows[0].receipt.outputHash;
        _signEvidence(node, verified);
        bytes32 id = Receipts.settlementId(rows[0].receipt);

        RowProof memory proof = _rowProof(p, 0);
        ReceiptEvidence memory evidence = _evidence(p, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotSettled.selector, id));
        game.voidDuplicate(proof, evidence);
        _settle(verified);
        vm.expectRevert(
            abi.encodeWithSelector(IDisputeGame.NotSettled.selector, Receipts.settlementId(rows[1].receipt))
        );
        game.voidDuplicate(_rowProof(p, 1), _evidence(p, 1));
        _challenge(p, 0);
        vm.expectEmit(address(game));
        emit IDisputeGame.Duplicate(2, 1, 0, id, 0, 0);
        game.voidDuplicate(proof, evidence);
        _assertRow(p, 0, VOID);
        assertEq(game.withdrawable(challenger), game.challengeBond(), "it pointed at bad money");
        assertFalse(keepers.bondOf(keeperId).suspended, "no slash");
        assertEq(keepers.bondOf(keeperId).amount, 1000 * SLASH);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 0, VOID));
        game.voidDuplicate(proof, evidence);

        vm.warp(NOW + WINDOW);
        game.finalize(p.record, _excluded(p, 0));
        assertEq(_free(node.payout), 190, "row 1 and the verified settlement");
        assertEq(keepers.bondOf(keeperId).openBatches, 0);
        assertEq(keepers.bondOf(keeperId).reserved, 0);
    }

    function test_voidDuplicate_ofAnEarlierRow() public {
        (Posted memory a, Posted memory b) = _sameAnswerTwice();
        RowProof memory one = _rowProof(a, 1);
        RowProof memory two = _rowProof(b, 0);
        ReceiptEvidence memory oneEvidence = _evidence(a, 1);
        ReceiptEvidence memory twoEvidence = _evidence(b, 0);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotLater.selector, 1, 1, 2, 0));
        game.voidDuplicate(one, oneEvidence, two, twoEvidence);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.NotLater.selector, 1, 1, 1, 1));
        game.voidDuplicate(one, oneEvidence, one, oneEvidence);
        vm.expectPartialRevert(IDisputeGame.NotDuplicate.selector);
        game.voidDuplicate(two, twoEvidence, _rowProof(a, 0), _evidence(a, 0));
        // Without the earlier one's own signatures it takes nothing from the later one.
        oneEvidence.inferenceSignature = _evidence(a, 0).inferenceSignature;
        vm.expectPartialRevert(ISettlementLedger.BadInferenceSignature.selector);
        game.voidDuplicate(two, twoEvidence, one, oneEvidence);
        oneEvidence = _evidence(a, 1);

        _challenge(a, 1);
        vm.prank(stranger);
        game.voidDuplicate(two, twoEvidence, one, oneEvidence);
        _assertRow(a, 1, PROVEN);
        _assertRow(b, 0, VOID);
        assertEq(game.withdrawable(stranger), game.challengeBond(), "it is the answer of the earlier one");
        vm.warp(NOW + WINDOW);
        ledger.finalize(a.record);
        game.finalize(b.record, _excluded(b, 0));
        assertEq(_free(node.payout), 200, "paid once");
    }

    function test_voidDuplicate_notByAVoidRow_norOnceItIsPaid() public {
        (Posted memory a, Posted memory b) = _sameAnswerTwice();
        _void(a, 1);
        RowProof memory two = _rowProof(b, 0);
        ReceiptEvidence memory twoEvidence = _evidence(b, 0);
        RowProof memory one = _rowProof(a, 1);
        ReceiptEvidence memory oneEvidence = _evidence(a, 1);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 1, VOID));
        game.voidDuplicate(two, twoEvidence, one, oneEvidence);
        ledger.finalize(b.record);
        _settle(a.evidence[1]);
        vm.expectPartialRevert(ISettlementLedger.BatchNotOpen.selector);
        game.voidDuplicate(two, twoEvidence);
    }

    // ── finalize ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_finalize_needsExactlyTheExcludedRows() public {
        Posted memory p = _post(4, 1, 100);
        _challenge(p, 1);
        _challenge(p, 3);
        _challenge(p, 2);
        _answerAs(stranger, p, 2);
        vm.expectPartialRevert(ISettlementLedger.WindowOpen.selector);
        game.finalize(p.record, _excluded(p, 1, 3));
        vm.warp(NOW + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRows.selector, 1, 2));
        game.finalize(p.record, _excluded(p, 1));
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRows.selector, 1, 4));
        game.finalize(p.record, _excluded(p, 3, 1));
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRows.selector, 1, 2));
        game.finalize(p.record, _excluded(p, 1, 1));
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 2, PROVEN));
        game.finalize(p.record, _excluded(p, 1, 2));
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.WrongRowStatus.selector, 1, 0, IDisputeGame.RowStatus.None));
        game.finalize(p.record, _excluded(p, 0, 1));
        game.finalize(p.record, _excluded(p, 1, 3));
        vm.expectPartialRevert(ISettlementLedger.BatchNotOpen.selector);
        game.finalize(p.record, _excluded(p, 1, 3));
        assertEq(_free(node.payout), 200);
    }

    /// @dev Credits do not say of which version they are: both versions of a node are paid to one account.
    function test_finalize_aNodeWithTwoVersionsInOneBatch() public {
        ledger.setFee(100, treasury);
        NodeKeys memory old = node;
        vm.prank(node.operator);
        nodes.setMeterKey(node.id, vm.addr(node.meterSecret));
        node.version = 3;
        NodeKeys memory kept = declared;
        declared = old;
        Settlement[] memory evidence = new Settlement[](2);
        evidence[0] = _settlement(node, _order(keeperId, 1), 150);
        evidence[1] = _settlement(old, _order(keeperId, 2), 299);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](2);
        for (uint256 i; i < 2; ++i) {
            rows[i] = _row(payerKey, evidence[i].order, evidence[i].receipt.amount, uint16(i));
            rows[i].receiptHash = keccak256(abi.encode(evidence[i].receipt));
        }
        Posted memory p = _postAs(hotKey, keeperId, rows, evidence);
        declared = kept;
        assertEq(p.record.credits.length, 2);
        _void(p, 1);
        game.finalize(p.record, _excluded(p, 1));
        assertEq(_free(node.payout), 149);
        assertEq(_free(treasury), 1);
        assertEq(escrow.captured(address(token)), 0);
    }

    /// @dev Whatever the order of calls: never more than was captured, and all of it somewhere.
    function testFuzz_anyOrderOfCalls_addsUp(uint256 seed) public {
        ledger.setFee(100, treasury);
        Posted memory p = _post(6, 1, 999);
        uint128 payerBefore = _free(payer);
        for (uint256 i; i < 6; ++i) {
            if (seed >> i & 1 == 1) _challenge(p, i);
        }
        for (uint256 i; i < 6; ++i) {
            if (seed >> i & 1 == 1 && seed >> (8 + i) & 1 == 1) _answerAs(stranger, p, i);
        }
        if (seed >> 16 & 1 == 1) {
            vm.warp(NOW + WINDOW);
            game.finalize(p.record, _open(p));
        }
        if (vm.getBlockTimestamp() <= NOW + RESPONSE) {
            for (uint256 i; i < 6; ++i) {
                if (seed >> (24 + i) & 1 == 1 && _status(p, i) == LOCKED) _answerAs(stranger, p, i);
            }
        }
        vm.warp(NOW + WINDOW + 1);
        for (uint256 i; i < 6; ++i) {
            if (_status(p, i) == LOCKED) _resolve(p, i);
        }
        if (ledger.batchStatus(1) == ISettlementLedger.BatchStatus.Open) game.finalize(p.record, _open(p));
        uint256 voided;
        for (uint256 i; i < 6; ++i) {
            if (_status(p, i) == VOID) ++voided;
        }
        assertEq(escrow.captured(address(token)), 0);
        assertEq(escrow.account(payer, address(token)).held, voided * 999);
        assertEq(_free(node.payout), (6 - voided) * 990);
        assertEq(_free(treasury), (6 - voided) * 9);
        assertEq(_free(payer), payerBefore);
        assertEq(keepers.bondOf(keeperId).openBatches, 0);
        assertEq(keepers.bondOf(keeperId).reserved, 0);
        assertEq(keepers.bondOf(keeperId).amount, (1000 - voided) * SLASH);
        assertEq(address(game).balance, game.withdrawable(challenger) + game.withdrawable(stranger));
    }

    // ── Who may ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_constructor_needsALedger() public {
        bytes memory code = Artifacts.initcode("DisputeGame", abi.encode(address(0), RESPONSE, REOPEN));
        vm.expectRevert(IDisputeGame.ZeroAddress.selector);
        this.create(code);
    }

    function create(bytes memory code) external {
        Artifacts.create(code);
    }

    function test_onlyTheGame() public {
        Posted memory p = _post(1, 1, 100);
        bytes memory refusal =
            abi.encodeWithSelector(ISettlementLedger.OnlyDisputes.selector, address(this), address(game));
        vm.expectRevert(refusal);
        ledger.lockRow(1, 0);
        vm.expectRevert(refusal);
        ledger.releaseRow(p.record, p.leaves[0]);
        vm.expectRevert(refusal);
        ledger.voidRow(p.record, p.leaves[0], p.evidence[0].order, 0, false, false);
        vm.expectRevert(refusal);
        ledger.finalizeExcept(p.record, p.record.credits, 0);
        vm.expectPartialRevert(IInferenceEscrow.OnlyLedger.selector);
        escrow.reopen(p.evidence[0].order, 1, 1);
    }

    function test_withdrawBonds_toWhoRefusesIt() public {
        Posted memory p = _post(1, 1, 100);
        _challenge(p, 0);
        _answerAs(stranger, p, 0);
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDisputeGame.TransferFailed.selector, address(token)));
        game.withdrawBonds(address(token));
        vm.expectRevert(IDisputeGame.ZeroAddress.selector);
        game.withdrawBonds(address(0));
        assertEq(game.withdrawable(stranger), game.challengeBond(), "nothing is lost");
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Row 1 of batch 1 and row 0 of batch 2 are the same inference, charged to two orders.
    function _sameAnswerTwice() private returns (Posted memory a, Posted memory b) {
        a = _post(2, 1, 100);
        Settlement[] memory rows = new Settlement[](1);
        Order memory order = _order(keeperId, 50);
        order.requestCommit = a.evidence[1].order.requestCommit;
        rows[0] = _settlement(node, order, 100);
        rows[0].receipt.requestHash = a.evidence[1].receipt.requestHash;
        rows[0].receipt.outputHash = a.evidence[1].receipt.outputHash;
        _signEvidence(node, rows[0]);
        b = _postRows(rows);
    }

    function _status(Posted memory p, uint256 row) private view returns (IDisputeGame.RowStatus) {
        return game.rowOf(p.record.batchId, p.leaves[row]).status;
    }

    /// @dev The rows that finalization leaves out.
    function _open(Posted memory p) private view returns (Leaf[] memory list) {
        (, uint256 count,,) = ledger.batchState(p.record.batchId);
        list = new Leaf[](count);
        uint256 next;
        for (uint256 i; i < p.leaves.length; ++i) {
            IDisputeGame.RowStatus status = _status(p, i);
            if (status == LOCKED || status == VOID) list[next++] = p.leaves[i];
        }
        assertEq(next, count);
    }
}
