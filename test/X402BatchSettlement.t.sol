// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Vm} from "forge-std/Vm.sol";
import {DevPermit2} from "../contracts/devnet/DevPermit2.sol";
import {DevPermit2DepositCollector} from "../contracts/devnet/DevPermit2DepositCollector.sol";
import {DevUSDC} from "../contracts/devnet/DevUSDC.sol";
import {DepositCollector} from "../contracts/devnet/base/DepositCollector.sol";
import {EIP2612Permits} from "../contracts/devnet/base/EIP2612Permits.sol";
import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {IX402BatchSettlement} from "../contracts/interfaces/IX402BatchSettlement.sol";
import {IX402DepositCollector} from "../contracts/interfaces/IX402DepositCollector.sol";
import {FeeToken} from "./mocks/HostileTokens.sol";
import {TestWallet} from "./mocks/Wallets.sol";
import {X402Base} from "./X402Base.sol";

/// @dev Brings what it was told to, of a token that anyone may mint.
contract MintingCollector is IX402DepositCollector {
    uint256 private immutable _SHARE;
    bytes private _reenter;

    constructor(uint256 share, bytes memory reenter) {
        _SHARE = share;
        _reenter = reenter;
    }

    function collect(address, address token, uint256 amount, bytes32, bytes calldata) external {
        if (_reenter.length != 0) {
            (bool ok, bytes memory reason) = msg.sender.call(_reenter);
            if (!ok) {
                assembly ("memory-safe") {
                    revert(add(reason, 0x20), mload(reason))
                }
            }
        }
        DevUSDC(token).mint(msg.sender, amount * _SHARE / 100);
    }
}

/// @dev Pays deposits by allowance.
contract PullCollector is IX402DepositCollector {
    function collect(address payer, address token, uint256 amount, bytes32, bytes calldata) external {
        DevUSDC(token).transferFrom(payer, msg.sender, amount);
    }
}

/// @notice How the canonical contract behaves towards payers, receivers and facilitators.
contract X402BatchSettlementTest is X402Base {
    IX402BatchSettlement.ChannelConfig private _config;
    bytes32 private _id;

    function setUp() public override {
        super.setUp();
        _config = _channel("a");
        _id = batch.getChannelId(_config);
    }

    // ── Deposits ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_deposit_byAuthorization() public {
        bytes memory data = _authorization(payer, _config, 100, 7);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.ChannelCreated(_id, _config);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Deposited(_id, stranger, 100, 100);
        vm.prank(stranger);
        batch.deposit(_config, 100, ERC3009_COLLECTOR, data);
        _assertChannel(100, 0);
        assertEq(usdc.balanceOf(BATCH), 100);
        assertEq(usdc.balanceOf(ERC3009_COLLECTOR), 0);

        // A second one adds, and creates nothing.
        data = _authorization(payer, _config, 50, 8);
        vm.recordLogs();
        batch.deposit(_config, 50, ERC3009_COLLECTOR, data);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            assertTrue(logs[i].topics[0] != IX402BatchSettlement.ChannelCreated.selector);
        }
        _assertChannel(150, 0);
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        batch.deposit(_config, 50, ERC3009_COLLECTOR, data);
    }

    /// @dev The nonce names the channel: the same authorization opens no other one.
    function test_deposit_authorizationIsBoundToItsChannel() public {
        bytes memory data = _authorization(payer, _config, 100, 7);
        IX402BatchSettlement.ChannelConfig memory other = _channel("b");
        vm.expectRevert("FiatTokenV2: invalid signature");
        batch.deposit(other, 100, ERC3009_COLLECTOR, data);
    }

    function test_deposit_byPermit2() public {
        (IPermit2.PermitTransferFrom memory permit, bytes memory signature) = _depositPermit(_config, 100, 5);
        bytes memory data = abi.encode(permit.nonce, permit.deadline, signature, "");
        batch.deposit(_config, 100, PERMIT2_COLLECTOR, data);
        _assertChannel(100, 0);
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        batch.deposit(_config, 100, PERMIT2_COLLECTOR, data);
        // Bound to its channel as well.
        (permit, signature) = _depositPermit(_config, 100, 6);
        data = abi.encode(permit.nonce, permit.deadline, signature, "");
        vm.expectRevert(DevPermit2.InvalidSigner.selector);
        batch.deposit(_channel("b"), 100, PERMIT2_COLLECTOR, data);
    }

    function test_deposit_byPermit2_withPermit() public {
        vm.prank(payer.addr);
        usdc.approve(PERMIT2, 0);
        (IPermit2.PermitTransferFrom memory permit, bytes memory signature) = _depositPermit(_config, 100, 5);
        (uint8 v, bytes32 r, bytes32 s) = _sign2612(payer, 100);
        uint256 deadline = block.timestamp + 600;
        bytes memory data =
            abi.encode(permit.nonce, permit.deadline, signature, abi.encode(uint256(99), deadline, v, r, s));
        vm.expectRevert(DevPermit2DepositCollector.Permit2612AmountMismatch.selector);
        batch.deposit(_config, 100, PERMIT2_COLLECTOR, data);
        data = abi.encode(permit.nonce, permit.deadline, signature, abi.encode(uint256(100), deadline, v, r, s));
        uint256 before = vm.snapshotState();
        batch.deposit(_config, 100, PERMIT2_COLLECTOR, data);
        _assertChannel(100, 0);

        // Somebody else used the permit before: said, and no harm.
        vm.revertToState(before);
        usdc.permit(payer.addr, PERMIT2, 100, deadline, v, r, s);
        vm.expectEmit(PERMIT2_COLLECTOR);
        emit EIP2612Permits.EIP2612PermitFailedWithReason(USDC, payer.addr, "EIP2612: invalid signature");
        batch.deposit(_config, 100, PERMIT2_COLLECTOR, data);
        _assertChannel(100, 0);
    }

    function test_deposit_collectorsServeTheBatchContractAlone() public {
        address[2] memory collectors = [ERC3009_COLLECTOR, PERMIT2_COLLECTOR];
        address[2] memory callers = [stranger, payer.addr];
        for (uint256 i; i < 2; ++i) {
            for (uint256 c; c < 2; ++c) {
                vm.prank(callers[c]);
                vm.expectRevert(DepositCollector.OnlyX402BatchSettlement.selector);
                IX402DepositCollector(collectors[i]).collect(payer.addr, USDC, 1, _id, "");
            }
        }
    }

    function test_deposit_anyCollector_mustBringExactlyTheAmount() public {
        MintingCollector good = new MintingCollector(100, "");
        batch.deposit(_config, 100, address(good), "");
        _assertChannel(100, 0);
        for (uint256 share = 99; share <= 101; share += 2) {
            MintingCollector bad = new MintingCollector(share, "");
            vm.expectRevert(IX402BatchSettlement.DepositCollectionFailed.selector);
            batch.deposit(_config, 100, address(bad), "");
        }
        _assertChannel(100, 0);
    }

    function test_deposit_feeOnTransfer_isRefused() public {
        FeeToken token = new FeeToken();
        PullCollector collector = new PullCollector();
        token.mint(payer.addr, 1000);
        vm.prank(payer.addr);
        token.approve(address(collector), 1000);
        _config.token = address(token);
        vm.expectRevert(IX402BatchSettlement.DepositCollectionFailed.selector);
        batch.deposit(_config, 1000, address(collector), "");
    }

    function test_deposit_refusals() public {
        IX402BatchSettlement.ChannelConfig memory config = _channel("a");
        config.payer = address(0);
        _expectInvalidChannel(config);
        config = _channel("a");
        config.receiver = address(0);
        _expectInvalidChannel(config);
        config = _channel("a");
        config.receiverAuthorizer = address(0);
        _expectInvalidChannel(config);
        config = _channel("a");
        config.token = address(0);
        _expectInvalidChannel(config);

        vm.expectRevert(IX402BatchSettlement.InvalidCollector.selector);
        batch.deposit(_config, 1, address(0), "");
        vm.expectRevert(IX402BatchSettlement.ZeroDeposit.selector);
        batch.deposit(_config, 0, ERC3009_COLLECTOR, "");
        config = _channel("a");
        config.withdrawDelay = 899;
        vm.expectRevert(IX402BatchSettlement.WithdrawDelayOutOfRange.selector);
        batch.deposit(config, 1, ERC3009_COLLECTOR, "");
        config.withdrawDelay = 2_592_001;
        vm.expectRevert(IX402BatchSettlement.WithdrawDelayOutOfRange.selector);
        batch.deposit(config, 1, ERC3009_COLLECTOR, "");
        config.withdrawDelay = 2_592_000;
        _deposit(config, 1);

        address mint = address(new MintingCollector(100, ""));
        batch.deposit(_config, type(uint128).max, mint, "");
        vm.expectRevert(IX402BatchSettlement.DepositOverflow.selector);
        batch.deposit(_config, 1, mint, "");
    }

    function test_deposit_reentrancy_isRefused() public {
        bytes[3] memory calls = [
            abi.encodeCall(batch.settle, (receiver, USDC)),
            abi.encodeCall(batch.deposit, (_config, 1, address(1), "")),
            abi.encodeCall(batch.refund, (_config, 1))
        ];
        for (uint256 i; i < calls.length; ++i) {
            MintingCollector collector = new MintingCollector(100, calls[i]);
            vm.expectRevert(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            batch.deposit(_config, 100, address(collector), "");
        }
    }

    // ── Claims ───────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_claim_byReceiverOrAuthorizer() public {
        _deposit(_config, 100);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Claimed(_id, receiver, 40, 40);
        _claim(receiver, 60, 40);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Claimed(_id, authorizer.addr, 20, 60);
        _claim(authorizer.addr, 60, 60);
        // Claims do not lower the balance.
        _assertChannel(100, 60);
        (uint128 claimed, uint128 settled) = batch.receivers(receiver, USDC);
        assertEq(claimed, 60);
        assertEq(settled, 0);
    }

    function test_claim_whatIsClaimed_isSkippedWithoutAWord() public {
        _deposit(_config, 100);
        _claim(receiver, 60, 40);
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_voucher(payer, _config, 60, 40));
        // Not even its signature is looked at.
        rows[0].signature = "";
        vm.recordLogs();
        vm.prank(receiver);
        batch.claim(rows);
        rows[0].totalClaimed = 39;
        vm.prank(receiver);
        batch.claim(rows);
        assertEq(vm.getRecordedLogs().length, 0);
        _assertChannel(100, 40);
    }

    function test_claim_ceilingAndBalance() public {
        _deposit(_config, 100);
        _expectClaim(IX402BatchSettlement.ClaimExceedsCeiling.selector, _voucher(payer, _config, 60, 61));
        _expectClaim(IX402BatchSettlement.ClaimExceedsBalance.selector, _voucher(payer, _config, 200, 101));
        _claim(receiver, 200, 100);
        _assertChannel(100, 100);
    }

    /// @dev All or nothing: one bad row takes the good ones with it.
    function test_claim_oneBadRow_revertsAll() public {
        _deposit(_config, 100);
        IX402BatchSettlement.ChannelConfig memory other = _channel("b");
        _deposit(other, 10);
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](2);
        rows[0] = _voucher(payer, _config, 50, 50);
        rows[1] = _voucher(payer, other, 11, 11);
        vm.startPrank(receiver);
        vm.expectRevert(IX402BatchSettlement.ClaimExceedsBalance.selector);
        batch.claim(rows);
        _assertChannel(100, 0);
        rows[1] = _voucher(payer, other, 11, 10);
        batch.claim(rows);
        vm.stopPrank();
        _assertChannel(100, 50);
        (uint128 claimed,) = batch.receivers(receiver, USDC);
        assertEq(claimed, 60);
    }

    function test_claim_whoMay() public {
        _deposit(_config, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](2);
        rows[0] = _voucher(payer, _config, 50, 50);
        IX402BatchSettlement.ChannelConfig memory other = _channel("b");
        other.receiver = stranger;
        rows[1] = _voucher(payer, other, 50, 0);
        // Of every row, even of one that would be skipped.
        vm.prank(receiver);
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        batch.claim(rows);
        vm.prank(payer.addr);
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        batch.claim(rows);
        vm.prank(authorizer.addr);
        batch.claim(rows);
        _assertChannel(100, 50);
        vm.prank(receiver);
        vm.expectRevert(IX402BatchSettlement.EmptyBatch.selector);
        batch.claim(new IX402BatchSettlement.VoucherClaim[](0));
    }

    function test_claim_voucherSignatures() public {
        _deposit(_config, 100);
        IX402BatchSettlement.VoucherClaim memory row = _voucher(authorizer, _config, 50, 50);
        _expectClaim(IX402BatchSettlement.InvalidSignature.selector, row);
        row = _voucher(payer, _config, 50, 50);
        row.voucher.maxClaimableAmount = 51;
        _expectClaim(IX402BatchSettlement.InvalidSignature.selector, row);

        // A payerAuthorizer signs instead of the payer, by key alone.
        IX402BatchSettlement.ChannelConfig memory config = _channel("authorized");
        config.payerAuthorizer = payerAuthorizer.addr;
        _deposit(config, 100);
        _expectClaim(IX402BatchSettlement.InvalidSignature.selector, _voucher(payer, config, 50, 50));
        row = _voucher(payerAuthorizer, config, 50, 50);
        row.signature = hex"00";
        vm.prank(receiver);
        vm.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureLength.selector, 1));
        batch.claim(_claims(row));
        row = _voucher(payerAuthorizer, config, 50, 50);
        vm.prank(receiver);
        batch.claim(_claims(row));

        // A contract as payer answers by ERC-1271, as payerAuthorizer it cannot.
        address wallet = address(new TestWallet(payer.addr));
        config = _channel("wallet");
        config.payer = wallet;
        batch.deposit(config, 100, address(new MintingCollector(100, "")), "");
        row = _voucher(payer, config, 50, 50);
        vm.prank(receiver);
        batch.claim(_claims(row));
        config = _channel("wallet authorizer");
        config.payerAuthorizer = wallet;
        _deposit(config, 100);
        _expectClaim(IX402BatchSettlement.InvalidSignature.selector, _voucher(payer, config, 50, 50));
    }

    function test_claimWithSignature_anyoneSends() public {
        _deposit(_config, 100);
        IX402BatchSettlement.ChannelConfig memory other = _channel("b");
        other.receiver = makeAddr("another receiver");
        _deposit(other, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](2);
        rows[0] = _voucher(payer, _config, 50, 40);
        rows[1] = _voucher(payer, other, 60, 60);
        bytes memory signature = _signDigest(authorizer, batch.getClaimBatchDigest(rows));
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Claimed(_id, stranger, 40, 40);
        vm.prank(stranger);
        batch.claimWithSignature(rows, signature);
        _assertChannel(100, 40);
        (uint128 claimed,) = batch.receivers(other.receiver, USDC);
        assertEq(claimed, 60);
        // A replay changes nothing.
        vm.recordLogs();
        batch.claimWithSignature(rows, signature);
        assertEq(vm.getRecordedLogs().length, 0);
        // Another amount is another signature.
        rows[0].totalClaimed = 41;
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        batch.claimWithSignature(rows, signature);
    }

    function test_claimWithSignature_refusals() public {
        _deposit(_config, 100);
        vm.expectRevert(IX402BatchSettlement.EmptyBatch.selector);
        batch.claimWithSignature(new IX402BatchSettlement.VoucherClaim[](0), "");
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](2);
        rows[0] = _voucher(payer, _config, 50, 40);
        IX402BatchSettlement.ChannelConfig memory other = _channel("b");
        other.receiverAuthorizer = stranger;
        rows[1] = _voucher(payer, other, 60, 0);
        bytes memory signature = _signDigest(authorizer, batch.getClaimBatchDigest(rows));
        vm.expectRevert(IX402BatchSettlement.NotReceiverAuthorizer.selector);
        batch.claimWithSignature(rows, signature);
        rows[1] = rows[0];
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        batch.claimWithSignature(rows, "");
        signature = _signDigest(payer, batch.getClaimBatchDigest(rows));
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        batch.claimWithSignature(rows, signature);
    }

    /// @dev An authorizer that is a contract decides by ERC-1271, over any bytes that it likes.
    function test_claimWithSignature_contractAuthorizer() public {
        address wallet = address(new TestWallet(authorizer.addr));
        _config.receiverAuthorizer = wallet;
        _id = batch.getChannelId(_config);
        _deposit(_config, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_voucher(payer, _config, 50, 40));
        bytes32 digest = batch.getClaimBatchDigest(rows);
        bytes memory signature = _signDigest(payer, digest);
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        batch.claimWithSignature(rows, signature);
        batch.claimWithSignature(rows, _signDigest(authorizer, digest));
        _assertChannel(100, 40);
    }

    function test_settle_paysTheReceiver_once() public {
        _deposit(_config, 100);
        _claim(receiver, 60, 60);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Settled(receiver, USDC, stranger, 60);
        vm.prank(stranger);
        batch.settle(receiver, USDC);
        assertEq(usdc.balanceOf(receiver), 60);
        vm.recordLogs();
        batch.settle(receiver, USDC);
        batch.settle(stranger, USDC);
        assertEq(vm.getRecordedLogs().length, 0);
        assertEq(usdc.balanceOf(receiver), 60);
        (uint128 claimed, uint128 settled) = batch.receivers(receiver, USDC);
        assertEq(claimed, settled);
    }

    // ── Withdrawals ──────────────────────────────────────────────────────────────────────────────────────────────────

    function test_withdraw_afterTheDelay() public {
        _deposit(_config, 100);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.WithdrawInitiated(_id, 70, uint40(block.timestamp) + 900);
        vm.startPrank(payer.addr);
        batch.initiateWithdraw(_config, 70);
        (uint128 amount, uint40 initiatedAt) = batch.pendingWithdrawals(_id);
        assertEq(amount, 70);
        assertEq(initiatedAt, block.timestamp);
        vm.expectRevert(IX402BatchSettlement.WithdrawalAlreadyPending.selector);
        batch.initiateWithdraw(_config, 1);
        skip(899);
        vm.expectRevert(IX402BatchSettlement.WithdrawDelayNotElapsed.selector);
        batch.finalizeWithdraw(_config);
        skip(1);
        uint256 before = usdc.balanceOf(payer.addr);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.WithdrawFinalized(_id, payer.addr, 70);
        batch.finalizeWithdraw(_config);
        assertEq(usdc.balanceOf(payer.addr), before + 70);
        _assertChannel(30, 0);
        vm.expectRevert(IX402BatchSettlement.WithdrawalNotPending.selector);
        batch.finalizeWithdraw(_config);
        // All of the rest closes the channel, and a new deposit opens it again.
        batch.initiateWithdraw(_config, 30);
        skip(900);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.ChannelClosed(_id, _config);
        batch.finalizeWithdraw(_config);
        vm.stopPrank();
        bytes memory data = _authorization(payer, _config, 5, 0);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.ChannelCreated(_id, _config);
        batch.deposit(_config, 5, ERC3009_COLLECTOR, data);
    }

    /// @dev Claims go on during a withdrawal, which then pays what is left.
    function test_withdraw_claimsComeFirst() public {
        _deposit(_config, 100);
        vm.prank(payer.addr);
        batch.initiateWithdraw(_config, 90);
        _claim(receiver, 50, 50);
        skip(900);
        vm.prank(payer.addr);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.WithdrawFinalized(_id, payer.addr, 50);
        batch.finalizeWithdraw(_config);
        _assertChannel(50, 50);
        // Afterwards what was signed, but not claimed, is gone.
        _expectClaim(IX402BatchSettlement.ClaimExceedsBalance.selector, _voucher(payer, _config, 60, 60));
    }

    function test_withdraw_refusals() public {
        IX402BatchSettlement.ChannelConfig memory config = _channel("authorized");
        config.payerAuthorizer = payerAuthorizer.addr;
        _deposit(config, 100);
        address[3] memory others = [stranger, receiver, authorizer.addr];
        for (uint256 i; i < others.length; ++i) {
            vm.startPrank(others[i]);
            vm.expectRevert(IX402BatchSettlement.InvalidChannel.selector);
            batch.initiateWithdraw(config, 1);
            vm.expectRevert(IX402BatchSettlement.NotAuthorizedToFinalizeWithdraw.selector);
            batch.finalizeWithdraw(config);
            vm.stopPrank();
        }
        vm.startPrank(payer.addr);
        vm.expectRevert(IX402BatchSettlement.NothingToWithdraw.selector);
        batch.initiateWithdraw(config, 0);
        vm.expectRevert(IX402BatchSettlement.WithdrawAmountExceedsAvailable.selector);
        batch.initiateWithdraw(config, 101);
        vm.expectRevert(IX402BatchSettlement.WithdrawAmountExceedsAvailable.selector);
        batch.initiateWithdraw(_channel("never used"), 1);
        vm.stopPrank();
        // The payerAuthorizer may, and the money goes to the payer.
        uint256 before = usdc.balanceOf(payer.addr);
        vm.startPrank(payerAuthorizer.addr);
        batch.initiateWithdraw(config, 100);
        skip(900);
        batch.finalizeWithdraw(config);
        vm.stopPrank();
        assertEq(usdc.balanceOf(payer.addr), before + 100);
    }

    // ── Refunds ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_refund_isCapped_andCountsTheNonce() public {
        _deposit(_config, 100);
        _claim(receiver, 60, 60);
        uint256 before = usdc.balanceOf(payer.addr);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Refunded(_id, receiver, 10);
        vm.prank(receiver);
        batch.refund(_config, 10);
        _assertChannel(90, 60);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Refunded(_id, authorizer.addr, 30);
        vm.prank(authorizer.addr);
        batch.refund(_config, type(uint128).max);
        _assertChannel(60, 60);
        assertEq(usdc.balanceOf(payer.addr), before + 40);
        // Nothing left: no word, but a nonce.
        vm.recordLogs();
        vm.prank(receiver);
        batch.refund(_config, 1);
        assertEq(vm.getRecordedLogs().length, 0);
        assertEq(batch.refundNonce(_id), 3);
        vm.prank(receiver);
        vm.expectRevert(IX402BatchSettlement.ZeroRefund.selector);
        batch.refund(_config, 0);
        address[2] memory others = [stranger, payer.addr];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(IX402BatchSettlement.NotAuthorizedToRefund.selector);
            batch.refund(_config, 1);
        }
    }

    function test_refund_ofAll_closes() public {
        _deposit(_config, 100);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.ChannelClosed(_id, _config);
        vm.prank(receiver);
        batch.refund(_config, 100);
        _assertChannel(0, 0);
    }

    function test_refund_shrinksAPendingWithdrawal() public {
        _deposit(_config, 100);
        vm.prank(payer.addr);
        batch.initiateWithdraw(_config, 80);
        uint40 at = uint40(block.timestamp);
        skip(5);
        vm.startPrank(receiver);
        batch.refund(_config, 10);
        _assertPending(80, at);
        batch.refund(_config, 20);
        _assertPending(70, at);
        batch.refund(_config, 70);
        vm.stopPrank();
        _assertPending(0, 0);
        vm.prank(payer.addr);
        vm.expectRevert(IX402BatchSettlement.WithdrawalNotPending.selector);
        batch.finalizeWithdraw(_config);
    }

    function test_refundWithSignature() public {
        _deposit(_config, 100);
        bytes memory signature = _signDigest(authorizer, batch.getRefundDigest(_id, 0, 30));
        vm.expectRevert(IX402BatchSettlement.InvalidSignature.selector);
        batch.refundWithSignature(_config, 31, 0, signature);
        vm.expectRevert(IX402BatchSettlement.InvalidRefundNonce.selector);
        batch.refundWithSignature(_config, 30, 1, signature);
        vm.expectEmit(BATCH);
        emit IX402BatchSettlement.Refunded(_id, stranger, 30);
        vm.prank(stranger);
        batch.refundWithSignature(_config, 30, 0, signature);
        _assertChannel(70, 0);
        vm.expectRevert(IX402BatchSettlement.InvalidRefundNonce.selector);
        batch.refundWithSignature(_config, 30, 0, signature);
        // A direct refund makes what is signed already void.
        signature = _signDigest(authorizer, batch.getRefundDigest(_id, 1, 30));
        vm.prank(receiver);
        batch.refund(_config, 1);
        vm.expectRevert(IX402BatchSettlement.InvalidRefundNonce.selector);
        batch.refundWithSignature(_config, 30, 1, signature);
    }

    // ── Several calls in one ─────────────────────────────────────────────────────────────────────────────────────────

    /// @dev As the facilitator sends a refund with claims.
    function test_multicall_claimsAndRefunds() public {
        _deposit(_config, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_voucher(payer, _config, 50, 40));
        bytes[] memory calls = new bytes[](2);
        calls[0] =
            abi.encodeCall(batch.claimWithSignature, (rows, _signDigest(authorizer, batch.getClaimBatchDigest(rows))));
        calls[1] = abi.encodeCall(
            batch.refundWithSignature, (_config, 100, 0, _signDigest(authorizer, batch.getRefundDigest(_id, 0, 100)))
        );
        vm.prank(stranger);
        Multicall(BATCH).multicall(calls);
        _assertChannel(40, 40);
    }

    function test_multicall_keepsTheSender() public {
        _deposit(_config, 100);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(batch.claim, (_claims(_voucher(payer, _config, 50, 40))));
        calls[1] = abi.encodeCall(batch.refund, (_config, 10));
        vm.prank(stranger);
        vm.expectRevert(IX402BatchSettlement.NotAuthorizedToClaim.selector);
        Multicall(BATCH).multicall(calls);
        vm.prank(receiver);
        Multicall(BATCH).multicall(calls);
        _assertChannel(90, 40);
        // A failing call takes all with it.
        calls[0] = abi.encodeCall(batch.refund, (_config, 10));
        calls[1] = abi.encodeCall(batch.refund, (_config, 0));
        vm.prank(receiver);
        vm.expectRevert(IX402BatchSettlement.ZeroRefund.selector);
        Multicall(BATCH).multicall(calls);
        _assertChannel(90, 40);
    }

    function test_channelId_dependsOnEverything() public {
        bytes32[9] memory ids;
        ids[0] = _id;
        for (uint256 i = 1; i < 8; ++i) {
            IX402BatchSettlement.ChannelConfig memory config = _channel("a");
            if (i == 1) config.payer = stranger;
            if (i == 2) config.payerAuthorizer = stranger;
            if (i == 3) config.receiver = stranger;
            if (i == 4) config.receiverAuthorizer = stranger;
            if (i == 5) config.token = stranger;
            if (i == 6) config.withdrawDelay = 901;
            if (i == 7) config.salt = "b";
            ids[i] = batch.getChannelId(config);
        }
        vm.chainId(84_532);
        ids[8] = batch.getChannelId(_config);
        for (uint256 i; i < ids.length; ++i) {
            for (uint256 j; j < i; ++j) {
                assertTrue(ids[i] != ids[j]);
            }
        }
    }

    // ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _claim(address sender, uint128 max, uint128 total) private {
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_voucher(payer, _config, max, total));
        vm.prank(sender);
        batch.claim(rows);
    }

    function _expectClaim(bytes4 reason, IX402BatchSettlement.VoucherClaim memory row) private {
        vm.prank(receiver);
        vm.expectRevert(reason);
        batch.claim(_claims(row));
    }

    function _expectInvalidChannel(IX402BatchSettlement.ChannelConfig memory config) private {
        vm.expectRevert(IX402BatchSettlement.InvalidChannel.selector);
        batch.deposit(config, 1, ERC3009_COLLECTOR, "");
    }

    function _assertChannel(uint128 balance, uint128 claimed) private view {
        (uint128 actualBalance, uint128 actualClaimed) = batch.channels(_id);
        assertEq(actualBalance, balance);
        assertEq(actualClaimed, claimed);
    }

    function _assertPending(uint128 amount, uint40 at) private view {
        (uint128 actualAmount, uint40 actualAt) = batch.pendingWithdrawals(_id);
        assertEq(actualAmount, amount);
        assertEq(actualAt, at);
    }
}
