// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {IX402BatchSettlement} from "../../contracts/interfaces/IX402BatchSettlement.sol";
import {X402Base} from "../X402Base.sol";

/// @notice Payer, receivers and strangers using six channels in any order, and what must be true of each step.
contract X402BatchSettlementHandler is X402Base {
    uint256 private constant CHANNELS = 6;

    /// @dev What went in and came out, by the tokens themselves.
    uint256 public deposited;
    uint256 public paidBack;
    uint256 public paidOut;
    mapping(string action => uint256) public done;

    IX402BatchSettlement.ChannelConfig[] private _configs;
    address[2] private _receivers;
    uint256 private _salt;

    function setUp() public override {
        super.setUp();
        _receivers = [receiver, makeAddr("receiver 2")];
        for (uint256 i; i < CHANNELS; ++i) {
            IX402BatchSettlement.ChannelConfig memory config = _channel(bytes32(i));
            config.receiver = _receivers[i % 2];
            if (i >= 4) config.payerAuthorizer = payerAuthorizer.addr;
            config.withdrawDelay = uint40(900 * (i + 1));
            _configs.push(config);
        }
    }

    function channels() external view returns (IX402BatchSettlement.ChannelConfig[] memory) {
        return _configs;
    }

    function receivers() external view returns (address[2] memory) {
        return _receivers;
    }

    // ── Actions ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function deposit(uint256 index, uint256 amount) external {
        IX402BatchSettlement.ChannelConfig memory config = _pick(index);
        amount = bound(amount, 1, 1000);
        uint256 before = usdc.balanceOf(BATCH);
        bytes memory data = _authorization(payer, config, amount, ++_salt);
        batch.deposit(config, uint128(amount), ERC3009_COLLECTOR, data);
        assertEq(usdc.balanceOf(BATCH), before + amount);
        deposited += amount;
        ++done["deposit"];
    }

    /// @dev Any voucher, also one that is too large or was claimed before.
    function claim(uint256 index, uint256 max, uint256 total, bool byAuthorizer) external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_row(index, max, total));
        IX402BatchSettlement.ChannelConfig memory config = rows[0].voucher.channel;
        (uint128 balance, uint128 claimed) = batch.channels(batch.getChannelId(config));
        uint128 asked = rows[0].totalClaimed;
        bool fails = asked > claimed && (asked > rows[0].voucher.maxClaimableAmount || asked > balance);
        vm.prank(byAuthorizer ? config.receiverAuthorizer : config.receiver);
        if (fails) vm.expectRevert();
        batch.claim(rows);
        (uint128 after_, uint128 claimedAfter) = batch.channels(batch.getChannelId(config));
        // A claim never lowers a balance, and takes exactly what it says.
        assertEq(after_, balance);
        assertEq(claimedAfter, fails || asked <= claimed ? claimed : asked);
        ++done[fails ? "refused claim" : "claim"];
    }

    /// @dev Two rows, maybe of one channel, by the authorizer's signature.
    function claimWithSignature(uint256 first, uint256 second, uint256 total) external {
        IX402BatchSettlement.VoucherClaim[] memory rows = new IX402BatchSettlement.VoucherClaim[](2);
        rows[0] = _row(first, 2000, total);
        rows[1] = _row(second, 2000, total / 2);
        bytes memory signature = _signDigest(authorizer, batch.getClaimBatchDigest(rows));
        vm.prank(stranger);
        try batch.claimWithSignature(rows, signature) {
            ++done["claimWithSignature"];
        } catch {}
    }

    function settle(uint256 index) external {
        address to = _receivers[index % 2];
        (uint128 claimed, uint128 settled) = batch.receivers(to, USDC);
        uint256 before = usdc.balanceOf(to);
        batch.settle(to, USDC);
        assertEq(usdc.balanceOf(to) - before, claimed - settled);
        paidOut += claimed - settled;
        ++done["settle"];
    }

    function initiateWithdraw(uint256 index, uint256 amount) external {
        IX402BatchSettlement.ChannelConfig memory config = _pick(index);
        vm.prank(config.payer);
        try batch.initiateWithdraw(config, uint128(bound(amount, 0, 2000))) {
            ++done["initiateWithdraw"];
        } catch {}
    }

    function finalizeWithdraw(uint256 index) external {
        IX402BatchSettlement.ChannelConfig memory config = _pick(index);
        (uint128 pending, uint40 at) = batch.pendingWithdrawals(batch.getChannelId(config));
        uint256 before = usdc.balanceOf(config.payer);
        vm.prank(config.payer);
        try batch.finalizeWithdraw(config) {
            assertGe(block.timestamp, at + config.withdrawDelay);
            assertLe(usdc.balanceOf(config.payer) - before, pending);
            paidBack += usdc.balanceOf(config.payer) - before;
            ++done["finalizeWithdraw"];
        } catch {}
    }

    function refund(uint256 index, uint256 amount, bool signed) external {
        IX402BatchSettlement.ChannelConfig memory config = _pick(index);
        bytes32 id = batch.getChannelId(config);
        uint128 asked = uint128(bound(amount, 1, 2000));
        uint256 nonce = batch.refundNonce(id);
        uint256 before = usdc.balanceOf(config.payer);
        (uint128 balance, uint128 claimed) = batch.channels(id);
        if (signed) {
            bytes memory signature = _signDigest(authorizer, batch.getRefundDigest(id, nonce, asked));
            batch.refundWithSignature(config, asked, nonce, signature);
        } else {
            vm.prank(config.receiver);
            batch.refund(config, asked);
        }
        uint256 back = usdc.balanceOf(config.payer) - before;
        assertEq(back, asked < balance - claimed ? asked : balance - claimed);
        assertEq(batch.refundNonce(id), nonce + 1);
        // What waits to be withdrawn is there.
        (uint128 pending,) = batch.pendingWithdrawals(id);
        (uint128 balanceAfter, uint128 claimedAfter) = batch.channels(id);
        if (claimedAfter == claimed && back != 0) assertLe(pending, balanceAfter - claimedAfter);
        paidBack += back;
        ++done["refund"];
    }

    /// @dev Claim and refund in one, as facilitators send it.
    function multicall(uint256 index, uint256 total, uint256 amount) external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_row(index, 2000, total));
        IX402BatchSettlement.ChannelConfig memory config = rows[0].voucher.channel;
        uint256 before = usdc.balanceOf(config.payer);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(batch.claim, (rows));
        calls[1] = abi.encodeCall(batch.refund, (config, uint128(bound(amount, 1, 2000))));
        vm.prank(config.receiver);
        try Multicall(BATCH).multicall(calls) {
            paidBack += usdc.balanceOf(config.payer) - before;
            ++done["multicall"];
        } catch {}
    }

    /// @dev Whoever is not part of a channel gets nowhere.
    function intrude(uint256 index, uint256 total) external {
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_row(index, 2000, total));
        IX402BatchSettlement.ChannelConfig memory config = rows[0].voucher.channel;
        bytes[5] memory calls = [
            abi.encodeCall(batch.claim, (rows)),
            abi.encodeCall(batch.refund, (config, 1)),
            abi.encodeCall(batch.initiateWithdraw, (config, 1)),
            abi.encodeCall(batch.finalizeWithdraw, (config)),
            abi.encodeCall(batch.claimWithSignature, (rows, rows[0].signature))
        ];
        for (uint256 i; i < calls.length; ++i) {
            vm.prank(stranger);
            (bool success,) = BATCH.call(calls[i]);
            assertFalse(success);
        }
        ++done["intrude"];
    }

    function pass(uint256 time) external {
        skip(bound(time, 1, 3000));
    }

    // ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _pick(uint256 index) private view returns (IX402BatchSettlement.ChannelConfig memory) {
        return _configs[index % CHANNELS];
    }

    function _row(uint256 index, uint256 max, uint256 total)
        private
        returns (IX402BatchSettlement.VoucherClaim memory)
    {
        IX402BatchSettlement.ChannelConfig memory config = _pick(index);
        return _voucher(
            config.payerAuthorizer == address(0) ? payer : payerAuthorizer,
            config,
            uint128(bound(max, 0, 2000)),
            uint128(bound(total, 0, 2100))
        );
    }
}
