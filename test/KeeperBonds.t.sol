// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IKeeperRegistry} from "../contracts/interfaces/IKeeperRegistry.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {DisputeGameBase} from "./DisputeGameBase.sol";

/// @notice Stake of keepers: what it covers, when it comes back, and what a slash takes.
contract KeeperBondsTest is DisputeGameBase {
    bytes32 private _id;
    address private _owner = makeAddr("small owner");
    address private _key = makeAddr("small key");

    function setUp() public override {
        super.setUp();
        address[] memory keys = new address[](1);
        keys[0] = _key;
        vm.prank(_owner);
        _id = keepers.register("small", _owner, keys);
    }

    function test_addBond_byAnyone() public {
        vm.expectPartialRevert(IKeeperRegistry.UnknownKeeper.selector);
        keepers.addBond("nobody", 1);
        vm.expectRevert(IKeeperRegistry.ZeroAmount.selector);
        keepers.addBond(_id, 0);
        bondToken.mint(stranger, 250e6);
        vm.startPrank(stranger);
        bondToken.approve(address(keepers), 250e6);
        uint64 number = keepers.seq();
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.BondAdded(number + 1, _id, stranger, 100e6, 100e6);
        keepers.addBond(_id, 100e6);
        keepers.addBond(_id, 150e6);
        vm.stopPrank();
        assertEq(keepers.bondOf(_id).amount, 250e6);
        assertEq(keepers.batchesLeft(_id), 2);
        assertEq(bondToken.balanceOf(address(keepers)), 2000 * SLASH + 250e6);
    }

    function test_everyOpenBatchReservesOneSlash() public {
        _postSmall(1, IKeeperRegistry.BondTooSmall.selector);
        _bond(_id, 2 * SLASH);
        _postSmall(2, 0);
        _postSmall(3, 0);
        assertEq(keepers.bondOf(_id).reserved, 2);
        assertEq(keepers.batchesLeft(_id), 0);
        _postSmall(4, IKeeperRegistry.BondTooSmall.selector);
        _bond(_id, SLASH);
        _postSmall(4, 0);
        assertEq(keepers.bondOf(_id).openBatches, 3);
    }

    /// @dev A call of which nothing is captured reserves nothing.
    function test_noBatch_noReserve() public {
        _bond(_id, SLASH);
        vm.warp(NOW + 2 days);
        Settlement[] memory evidence = new Settlement[](1);
        evidence[0] = _settlement(node, _order(_id, 1), 100);
        evidence[0].order.captureDeadline = 1;
        ISettlementLedger.OrderRow[] memory rows = _rowsOf(evidence);
        vm.prank(_key, _key);
        assertEq(ledger.settleBatch(_id, address(token), _refs(node, declared), rows, 0, ""), 0);
        assertEq(keepers.bondOf(_id).openBatches, 0);
        assertEq(keepers.bondOf(_id).reserved, 0);
    }

    function test_unbonding_andRelease() public {
        _bond(_id, 3 * SLASH);
        Posted memory p = _postSmall(1, 0);
        vm.expectPartialRevert(IKeeperRegistry.NotOwner.selector);
        keepers.setUnbonding(_id, true);
        vm.startPrank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotUnbonding.selector, _id));
        keepers.release(_id, _owner);
        keepers.setUnbonding(_id, true);
        assertEq(keepers.batchesLeft(_id), 0);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.BatchesOpen.selector, _id, 1));
        keepers.release(_id, _owner);
        vm.stopPrank();
        _postSmall(2, IKeeperRegistry.KeeperUnbonding.selector);

        // Stake that is on its way out can still be slashed, and is held while a row is in dispute.
        vm.warp(NOW + WINDOW - 1);
        _challenge(p, 0);
        vm.warp(NOW + WINDOW);
        game.finalize(p.record, p.leaves);
        vm.prank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.BatchesOpen.selector, _id, 1));
        keepers.release(_id, _owner);
        vm.warp(NOW + WINDOW + RESPONSE);
        _resolve(p, 0);
        vm.startPrank(_owner);
        vm.expectRevert(IKeeperRegistry.ZeroAddress.selector);
        keepers.release(_id, address(0));
        assertEq(keepers.release(_id, treasury), 2 * SLASH);
        vm.expectRevert(IKeeperRegistry.ZeroAmount.selector);
        keepers.release(_id, treasury);
        keepers.setUnbonding(_id, false);
        vm.stopPrank();
        assertEq(bondToken.balanceOf(treasury), 2 * SLASH);
    }

    function test_suspension_andReinstatement() public {
        _bond(_id, 3 * SLASH);
        Posted memory bad = _postSmall(1, 0);
        Posted memory good = _postSmall(2, 0);
        vm.prank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.NotSuspended.selector, _id));
        keepers.reinstate(_id);
        _void(bad, 0);
        _postSmall(3, IKeeperRegistry.KeeperSuspended.selector);
        assertEq(keepers.batchesLeft(_id), 0);
        game.finalize(bad.record, bad.leaves);
        vm.expectPartialRevert(IKeeperRegistry.NotOwner.selector);
        keepers.reinstate(_id);
        vm.startPrank(_owner);
        vm.expectRevert(abi.encodeWithSelector(IKeeperRegistry.BatchesOpen.selector, _id, 1));
        keepers.reinstate(_id);
        ledger.finalize(good.record);
        keepers.reinstate(_id);
        vm.stopPrank();
        _postSmall(4, 0);
    }

    /// @dev Each open batch keeps its own reserve, however many rows of another are void.
    function test_slash_takesWhatNothingReserves() public {
        _bond(_id, 2 * SLASH + SLASH / 2);
        Settlement[] memory evidence = new Settlement[](3);
        for (uint256 i; i < 3; ++i) {
            evidence[i] = _settlement(node, _order(_id, 10 + i), 100);
        }
        Posted memory bad = _postAs(_key, _id, _rowsOf(evidence), evidence);
        _postSmall(2, 0);
        for (uint256 i; i < 3; ++i) {
            _challenge(bad, i);
        }
        vm.warp(NOW + RESPONSE + 1);
        _resolve(bad, 0);
        assertEq(keepers.bondOf(_id).amount, SLASH + SLASH / 2);
        _resolve(bad, 1);
        assertEq(keepers.bondOf(_id).amount, SLASH, "half a slash was free");
        _resolve(bad, 2);
        assertEq(keepers.bondOf(_id).amount, SLASH, "the rest is the other batch's");
        assertEq(keepers.rewards(challenger), SLASH / 2 + SLASH / 4);
        assertEq(keepers.burned(), SLASH / 2 + SLASH / 4);
        vm.prank(challenger);
        assertEq(keepers.withdrawReward(treasury), SLASH / 2 + SLASH / 4);
        vm.prank(challenger);
        vm.expectRevert(IKeeperRegistry.ZeroAmount.selector);
        keepers.withdrawReward(treasury);
    }

    /// @dev Every event there is, once, numbered without a gap from where the set-up left it: what an indexer counts on.
    function test_everyEvent_isNumbered() public {
        uint64 number = keepers.seq();
        _bond(_id, SLASH);
        Posted memory bad = _postSmall(1, 0);
        _void(bad, 0);
        game.finalize(bad.record, bad.leaves);
        assertEq(keepers.seq(), number + 2, "added, slashed");
        number += 2;

        vm.startPrank(challenger);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.RewardWithdrawn(++number, challenger, treasury, SLASH / 2);
        keepers.withdrawReward(treasury);
        vm.stopPrank();

        vm.startPrank(_owner);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.Reinstated(++number, _id);
        keepers.reinstate(_id);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.HotKeySet(++number, _id, stranger, true);
        keepers.setHotKey(_id, stranger, true);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.PayoutSet(++number, _id, treasury);
        keepers.setPayout(_id, treasury);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.UnbondingSet(++number, _id, true);
        keepers.setUnbonding(_id, true);
        vm.stopPrank();
        _bond(_id, SLASH);
        ++number;
        vm.startPrank(_owner);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.BondReleased(++number, _id, treasury, SLASH);
        keepers.release(_id, treasury);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.OwnershipProposed(++number, _id, stranger);
        keepers.transferOwnership(_id, stranger);
        vm.stopPrank();
        vm.prank(stranger);
        vm.expectEmit(address(keepers));
        emit IKeeperRegistry.OwnershipTransferred(++number, _id, stranger);
        keepers.acceptOwnership(_id);
        assertEq(keepers.seq(), number);
    }

    function test_onlyLedgerAndGame() public {
        vm.expectPartialRevert(IKeeperRegistry.NotAllowed.selector);
        keepers.openBatch(keeperId, hotKey);
        vm.expectPartialRevert(IKeeperRegistry.NotAllowed.selector);
        keepers.closeBatch(keeperId, true);
        vm.expectPartialRevert(IKeeperRegistry.NotAllowed.selector);
        keepers.slash(keeperId, challenger, true);
    }

    /// @dev A batch of one row, or the refusal that is expected.
    function _postSmall(uint256 nonce, bytes4 refusal) private returns (Posted memory p) {
        Settlement[] memory evidence = new Settlement[](1);
        evidence[0] = _settlement(node, _order(_id, nonce), 100);
        if (refusal == 0) return _postAs(_key, _id, _rowsOf(evidence), evidence);
        ISettlementLedger.OrderRow[] memory rows = _rowsOf(evidence);
        vm.prank(_key, _key);
        vm.expectPartialRevert(refusal);
        ledger.settleBatch(_id, address(token), _refs(node, declared), rows, 0, "");
    }
}
