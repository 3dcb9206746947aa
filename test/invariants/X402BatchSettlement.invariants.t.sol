// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {DevUSDC} from "../../contracts/devnet/DevUSDC.sol";
import {IX402BatchSettlement} from "../../contracts/interfaces/IX402BatchSettlement.sol";
import {X402BatchSettlementHandler} from "./X402BatchSettlementHandler.sol";

/// @notice What holds of x402's channels after any sequence of actions, as of the canonical contract.
contract X402BatchSettlementInvariants is Test {
    IX402BatchSettlement private constant BATCH = IX402BatchSettlement(0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003);
    DevUSDC private constant USDC = DevUSDC(0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913);

    X402BatchSettlementHandler private _handler;

    function setUp() public {
        _handler = new X402BatchSettlementHandler();
        _handler.setUp();
        targetContract(address(_handler));
        bytes4[] memory actions = new bytes4[](10);
        actions[0] = _handler.deposit.selector;
        actions[1] = _handler.claim.selector;
        actions[2] = _handler.claimWithSignature.selector;
        actions[3] = _handler.settle.selector;
        actions[4] = _handler.initiateWithdraw.selector;
        actions[5] = _handler.finalizeWithdraw.selector;
        actions[6] = _handler.refund.selector;
        actions[7] = _handler.multicall.selector;
        actions[8] = _handler.intrude.selector;
        actions[9] = _handler.pass.selector;
        targetSelector(FuzzSelector(address(_handler), actions));
        // Most of what there is needs a deposit before.
        for (uint256 i; i < 6; ++i) {
            _handler.deposit(i, 500);
        }
    }

    /// @dev The contract has exactly what channels and receivers may still take, and every unit went where it was said to go.
    /// forge-config: default.invariant.fail-on-revert = true
    function invariant_booksAddUp() public view {
        IX402BatchSettlement.ChannelConfig[] memory channels = _handler.channels();
        uint256 open;
        uint256 claimed;
        for (uint256 i; i < channels.length; ++i) {
            bytes32 id = BATCH.getChannelId(channels[i]);
            (uint128 balance, uint128 total) = BATCH.channels(id);
            assertLe(total, balance);
            open += balance - total;
            claimed += total;
        }
        address[2] memory receivers = _handler.receivers();
        uint256 unsettled;
        uint256 received;
        for (uint256 i; i < receivers.length; ++i) {
            (uint128 total, uint128 settled) = BATCH.receivers(receivers[i], address(USDC));
            assertLe(settled, total);
            unsettled += total - settled;
            received += total;
            assertEq(USDC.balanceOf(receivers[i]), settled);
        }
        assertEq(claimed, received);
        assertEq(USDC.balanceOf(address(BATCH)), open + unsettled);
        assertEq(USDC.balanceOf(address(BATCH)), _handler.deposited() - _handler.paidBack() - _handler.paidOut());
    }

    /// @dev The handler reaches everything; a sequence of one kind only would prove little.
    function test_handler_reachesEverything() public {
        _handler.claim(0, 400, 300, false);
        _handler.claim(0, 200, 350, true);
        _handler.claimWithSignature(1, 2, 200);
        _handler.settle(0);
        _handler.initiateWithdraw(3, 100);
        _handler.pass(3000);
        _handler.pass(3000);
        _handler.finalizeWithdraw(3);
        _handler.refund(4, 10, true);
        _handler.refund(4, 10, false);
        _handler.multicall(5, 20, 30);
        _handler.intrude(5, 50);
        string[10] memory actions = [
            "deposit",
            "claim",
            "refused claim",
            "claimWithSignature",
            "settle",
            "initiateWithdraw",
            "finalizeWithdraw",
            "refund",
            "multicall",
            "intrude"
        ];
        for (uint256 i; i < actions.length; ++i) {
            assertGt(_handler.done(actions[i]), 0, actions[i]);
        }
        invariant_booksAddUp();
    }
}
