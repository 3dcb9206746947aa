// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IDisputeGame} from "../contracts/interfaces/IDisputeGame.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {DisputeGameBase} from "./DisputeGameBase.sol";
import {HostileVerifier} from "./mocks/HostileVerifier.sol";
import {FickleWallet, GasBurningWallet, ReturnBombWallet, RevertingWallet} from "./mocks/Wallets.sol";

/// @notice Calls back into the game when it is paid.
contract ReentrantChallenger {
    IDisputeGame private immutable _GAME;
    bytes public refusal;

    constructor(IDisputeGame game) {
        _GAME = game;
    }

    function take() external {
        _GAME.withdrawBonds(address(this));
    }

    receive() external payable {
        (bool success, bytes memory result) = address(_GAME).call(abi.encodeCall(_GAME.withdrawBonds, (address(this))));
        require(!success);
        refusal = result;
    }
}

/// @notice Takes ETH and answers with a megabyte, or burns whatever gas it gets.
contract BombReceiver {
    receive() external payable {
        assembly {
            return(0, 1000000)
        }
    }
}

/// @notice Verifiers, payers and receivers that turn against a dispute.
contract DisputeGameHostileTest is DisputeGameBase {
    HostileVerifier private _verifier;
    NodeKeys private _hostile;

    function setUp() public override {
        super.setUp();
        _verifier = new HostileVerifier();
        nodes.setVerifier(address(_verifier), true);
        _hostile = _mirror("any key", address(_verifier), "hostile");
    }

    /// @dev Row 0 of the node with the hostile verifier, row 1 of an honest one.
    function _batch() private returns (Posted memory p) {
        NodeKeys memory kept = declared;
        declared = _hostile;
        Settlement[] memory evidence = new Settlement[](2);
        evidence[0] = _settlement(_hostile, _order(keeperId, 1), 100);
        evidence[0].inferenceSignature = "whatever";
        evidence[1] = _settlement(node, _order(keeperId, 2), 100);
        p = _postRows(evidence);
        declared = kept;
    }

    // ── Verifiers ────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_verifier_reverts() public {
        _isRefused(HostileVerifier.Mode.Reverts);
    }

    function test_verifier_answersGarbage() public {
        _isRefused(HostileVerifier.Mode.Zero);
        _isRefused(HostileVerifier.Mode.Garbage);
        _isRefused(HostileVerifier.Mode.DirtyMagic);
        _isRefused(HostileVerifier.Mode.ShortMagic);
        _isRefused(HostileVerifier.Mode.Empty);
    }

    function test_verifier_returnBomb() public {
        _isRefused(HostileVerifier.Mode.Bomb);
        _isRefused(HostileVerifier.Mode.RevertBomb);
    }

    function test_verifier_burnsGas() public {
        _isRefused(HostileVerifier.Mode.Burns);
    }

    function test_verifier_hasNoCodeAnyMore() public {
        Posted memory p = _batch();
        _challenge(p, 0);
        vm.etch(address(_verifier), "");
        vm.expectPartialRevert(ISettlementLedger.BadInferenceSignature.selector);
        _answerAs(stranger, p, 0);
        _paysTheOthers(p);
    }

    /// @dev A verifier that lies by its state says no while the challenge runs and yes before and after. The row is void and the keeper
    ///      slashed, so the admin must list none that has state; payers are whole, other rows stand, and the node still has its money.
    function test_verifier_liesByState() public {
        Posted memory p = _batch();
        _challenge(p, 0);
        _verifier.setMode(HostileVerifier.Mode.Zero);
        vm.expectPartialRevert(ISettlementLedger.BadInferenceSignature.selector);
        _answerAs(stranger, p, 0);
        _paysTheOthers(p);
        assertEq(escrow.account(payer, address(token)).held, 100, "it waits for whoever proves it");
        _verifier.setMode(HostileVerifier.Mode.Honest);
        _settle(p.evidence[0]);
        assertEq(_free(_hostile.payout), 100);
    }

    /// @dev Whatever it does, it does it to its own node: the answer is refused, and the honest row is answered and paid.
    function _isRefused(HostileVerifier.Mode mode) private {
        uint256 state = vm.snapshotState();
        Posted memory p = _batch();
        _challenge(p, 0);
        _challenge(p, 1);
        _verifier.setMode(mode);
        vm.expectRevert(
            abi.encodeWithSelector(
                ISettlementLedger.BadInferenceSignature.selector, _hostile.id, _message(p.evidence[0].receipt)
            )
        );
        _answerAs(stranger, p, 0);
        _answerAs(stranger, p, 1);
        _paysTheOthers(p);
        vm.revertToState(state);
    }

    /// @dev Row 0 becomes void and row 1 is paid.
    function _paysTheOthers(Posted memory p) private {
        uint128 before = _free(payer);
        vm.warp(game.rowOf(1, p.leaves[0]).deadline + 1);
        _resolve(p, 0);
        game.finalize(p.record, _excluded(p, 0));
        assertEq(_free(node.payout), 100);
        assertEq(_free(_hostile.payout), 0);
        assertEq(escrow.account(payer, address(token)).held, 100);
        assertEq(_free(payer), before);
        assertEq(escrow.captured(address(token)), 0);
    }

    // ── Payers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_payer1271_reverts() public {
        _isNotAsked(type(RevertingWallet).runtimeCode);
    }

    function test_payer1271_burnsGas() public {
        _isNotAsked(type(GasBurningWallet).runtimeCode);
    }

    function test_payer1271_returnBomb() public {
        _isNotAsked(type(ReturnBombWallet).runtimeCode);
    }

    function test_payer1271_hasNoCodeAnyMore() public {
        _isNotAsked("");
    }

    /// @dev The wallet agreed when its order was held. Nothing that a dispute does asks it again: not the batch, not the answer, not what
    ///      becomes of the money of a void row.
    function _isNotAsked(bytes memory code) private {
        address wallet = address(new FickleWallet());
        _fund(wallet, 2000);
        Settlement[] memory evidence = new Settlement[](2);
        for (uint256 i; i < 2; ++i) {
            Order memory order = _order(keeperId, 1 + i);
            order.payer = wallet;
            escrow.hold(order, "wallet");
            evidence[i] = _settlement(node, order, 600);
        }
        vm.etch(wallet, code);
        vm.expectCall(wallet, abi.encodePacked(IERC1271.isValidSignature.selector), 0);
        Posted memory p = _postRows(evidence);
        assertEq(_free(wallet), 800);
        _challenge(p, 0);
        _challenge(p, 1);
        _answerAs(stranger, p, 0);
        vm.warp(game.rowOf(1, p.leaves[1]).deadline + 1);
        _resolve(p, 1);
        game.finalize(p.record, _excluded(p, 1));
        assertEq(_free(node.payout), 600);
        assertEq(escrow.account(wallet, address(token)).held, 600);
        uint256 state = vm.snapshotState();
        _settle(p.evidence[1]);
        assertEq(_free(node.payout), 1200);
        vm.revertToState(state);
        vm.warp(escrow.orderState(p.leaves[1].paymentId).captureDeadline + 1);
        escrow.reclaim(p.evidence[1].order);
        assertEq(_free(wallet), 1400);
        vm.prank(wallet);
        escrow.withdraw(address(token), wallet, 1400);
    }

    // ── Receivers of bonds ───────────────────────────────────────────────────────────────────────────────────────────

    function test_receiver_reenters() public {
        ReentrantChallenger receiver = new ReentrantChallenger(game);
        Posted memory p = _post(1, 1, 100);
        vm.deal(address(receiver), 1 ether);
        _challengeAs(address(receiver), p, 0);
        vm.warp(game.rowOf(1, p.leaves[0]).deadline + 1);
        _resolve(p, 0);
        receiver.take();
        assertEq(address(receiver).balance, 1 ether);
        assertEq(bytes4(receiver.refusal()), bytes4(keccak256("ReentrancyGuardReentrantCall()")));
        assertEq(address(game).balance, 0);
    }

    function test_receiver_returnBomb() public {
        address receiver = address(new BombReceiver());
        Posted memory p = _post(1, 1, 100);
        _challenge(p, 0);
        _answerAs(stranger, p, 0);
        uint256 bond = game.withdrawable(stranger);
        vm.prank(stranger);
        game.withdrawBonds(receiver);
        assertEq(receiver.balance, bond);
    }
}
