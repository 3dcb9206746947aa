// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IFeeSplitter} from "../contracts/interfaces/IFeeSplitter.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Artifacts} from "../script/Artifacts.sol";
import {SettlementLedgerBase} from "./SettlementLedgerBase.sol";

/// @notice Fees of the real ledger, divided by shares that stand before an epoch begins.
contract FeeSplitterTest is SettlementLedgerBase {
    uint40 private constant EPOCH = 7 days;

    IFeeSplitter private _splitter;
    address private _a;
    address private _b;
    address private _c;

    function setUp() public override {
        super.setUp();
        address[] memory list = new address[](3);
        (list[0], list[1], list[2]) = (makeAddr("share a"), makeAddr("share b"), makeAddr("share c"));
        list = _sorted(list);
        (_a, _b, _c) = (list[0], list[1], list[2]);
        vm.warp((uint256(NOW) / EPOCH + 1) * EPOCH);
        _splitter = IFeeSplitter(Artifacts.deploy("FeeSplitter", _arguments(_shares(7000, 3000))));
        ledger.setFee(100, address(_splitter));
    }

    function _arguments(IFeeSplitter.Share[] memory shares) private view returns (bytes memory) {
        return abi.encode(escrow, manager, EPOCH, shares);
    }

    function _shares(uint16 a, uint16 b) private view returns (IFeeSplitter.Share[] memory shares) {
        shares = new IFeeSplitter.Share[](2);
        (shares[0], shares[1]) = (IFeeSplitter.Share(_a, a), IFeeSplitter.Share(_b, b));
    }

    /// @dev A verified settlement of 1000 units pays a fee of 10.
    function _earn(uint256 nonce) private {
        _settle(_settlement(node, _order(0, nonce), 1000));
    }

    function test_feesOfTheLedger_areSharedAndPulled() public {
        _earn(0);
        assertEq(_free(address(_splitter)), 10);
        uint64 epoch = _splitter.currentEpoch();
        vm.expectEmit(address(_splitter));
        emit IFeeSplitter.Collected(2, epoch, address(token), 10);
        vm.prank(stranger);
        assertEq(_splitter.collect(address(token)), 10);
        assertEq(_splitter.claimable(epoch, address(token), _a), 7);
        assertEq(_splitter.claimable(epoch, address(token), _b), 3);
        assertEq(_splitter.claimable(epoch, address(token), stranger), 0);

        vm.expectEmit(address(_splitter));
        emit IFeeSplitter.Claimed(3, epoch, address(token), _a, stranger, 7);
        vm.prank(_a);
        _splitter.claim(epoch, address(token), stranger);
        assertEq(token.balanceOf(stranger), 7);
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.NothingToClaim.selector, epoch, token, _a));
        vm.prank(_a);
        _splitter.claim(epoch, address(token), _a);
        // What comes later in the epoch is divided alike.
        _earn(1);
        _splitter.collect(address(token));
        vm.prank(_a);
        assertEq(_splitter.claim(epoch, address(token), _a), 7);
        vm.prank(_b);
        assertEq(_splitter.claim(epoch, address(token), _b), 6);
        assertEq(_splitter.outstanding(address(token)), 0);
        assertEq(_free(address(_splitter)), 0);
    }

    function test_shares_areFixedBeforeTheEpochBegins() public {
        uint64 epoch = _splitter.currentEpoch();
        vm.expectEmit(address(_splitter));
        emit IFeeSplitter.SharesSet(2, epoch + 1, _shares(1000, 9000));
        _splitter.setShares(_shares(1000, 9000));
        assertEq(_splitter.sharesOf(epoch)[0].bps, 7000, "the running epoch keeps its own");
        assertEq(_splitter.sharesOf(epoch + 1)[0].bps, 1000);
        assertEq(_splitter.sharesOf(epoch + 99)[0].bps, 1000, "until others follow");
        // Until it begins it can be replaced.
        _splitter.setShares(_shares(2000, 8000));
        assertEq(_splitter.sharesOf(epoch + 1)[0].bps, 2000);

        _earn(0);
        _splitter.collect(address(token));
        skip(EPOCH);
        _splitter.setShares(_shares(9999, 1));
        assertEq(_splitter.sharesOf(epoch + 1)[0].bps, 2000);
        _earn(1);
        _splitter.collect(address(token));
        assertEq(_splitter.claimable(epoch, address(token), _a), 7);
        assertEq(_splitter.claimable(epoch + 1, address(token), _a), 2);
        assertEq(_splitter.claimable(epoch + 1, address(token), _b), 8);
        assertEq(_splitter.collectedIn(epoch, address(token)), 10);
        skip(5 * EPOCH);
        assertEq(_splitter.sharesOf(epoch)[0].bps, 7000, "for ever");
        assertEq(_splitter.sharesOf(epoch - 1).length, 0, "none before the first");
        vm.prank(_a);
        assertEq(_splitter.claim(epoch, address(token), _a), 7, "claims do not expire");
    }

    function test_setShares_isChecked() public {
        IFeeSplitter.Share[] memory shares = _shares(7000, 2999);
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.BadTotal.selector, 9999, 10_000));
        _splitter.setShares(shares);
        shares = _shares(10_000, 0);
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.EmptyShare.selector, _b));
        _splitter.setShares(shares);
        shares = _shares(5000, 5000);
        shares[1].account = _a;
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.AccountsNotAscending.selector, _a, _a));
        _splitter.setShares(shares);
        shares[0].account = address(0);
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.AccountsNotAscending.selector, address(0), address(0)));
        _splitter.setShares(shares);
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.BadShareCount.selector, 0, 32));
        _splitter.setShares(new IFeeSplitter.Share[](0));
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.BadShareCount.selector, 33, 32));
        _splitter.setShares(new IFeeSplitter.Share[](33));
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, stranger));
        vm.prank(stranger);
        _splitter.setShares(_shares(7000, 3000));
    }

    function test_constructor_isChecked() public {
        IFeeSplitter.Share[] memory shares = _shares(7000, 3000);
        bytes memory code = Artifacts.initcode("FeeSplitter", abi.encode(address(0), manager, EPOCH, shares));
        vm.expectRevert(IFeeSplitter.ZeroAddress.selector);
        this.create(code);
        code = Artifacts.initcode("FeeSplitter", abi.encode(escrow, address(0), EPOCH, shares));
        vm.expectRevert(IFeeSplitter.ZeroAddress.selector);
        this.create(code);
        code = Artifacts.initcode("FeeSplitter", abi.encode(escrow, manager, 0, shares));
        vm.expectRevert(IFeeSplitter.ZeroEpoch.selector);
        this.create(code);
        code = Artifacts.initcode("FeeSplitter", _arguments(new IFeeSplitter.Share[](0)));
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.BadShareCount.selector, 0, 32));
        this.create(code);
    }

    function create(bytes memory code) external {
        Artifacts.create(code);
    }

    function test_collect_nothing() public {
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.NothingToCollect.selector, address(token)));
        _splitter.collect(address(token));
        _earn(0);
        _splitter.collect(address(token));
        vm.expectRevert(abi.encodeWithSelector(IFeeSplitter.NothingToCollect.selector, address(token)));
        _splitter.collect(address(token));
    }

    /// @dev Whatever arrives when, whoever claims when: nobody gets more than its part, and what is left over is dust.
    function testFuzz_parts(uint128[6] memory amounts, uint16[6] memory cuts, uint8[12] memory steps) public {
        uint64 first = _splitter.currentEpoch();
        for (uint256 i; i < 6; ++i) {
            uint128 amount = uint128(bound(amounts[i], 1, 1e24));
            _fund(address(_splitter), amount);
            if (steps[i] % 3 != 0) _splitter.collect(address(token));
            if (steps[i] % 2 == 0) _claimAll(first, steps[i] % 5 < 3 ? _a : _b);
            if (steps[6 + i] % 2 == 0) {
                uint16 cut = uint16(bound(cuts[i], 1, 9999));
                _splitter.setShares(_shares(cut, 10_000 - cut));
                skip(EPOCH);
            }
        }
        if (_free(address(_splitter)) != _splitter.outstanding(address(token))) _splitter.collect(address(token));
        _claimAll(first, _a);
        _claimAll(first, _b);
        uint256 expectedA;
        uint256 total;
        uint256 parts;
        for (uint64 e; e < 7; ++e) {
            uint256 collected = _splitter.collectedIn(first + e, address(token));
            if (collected == 0) continue;
            expectedA += collected * _splitter.sharesOf(first + e)[0].bps / 10_000;
            total += collected;
            parts += 2;
        }
        assertEq(token.balanceOf(_a), expectedA);
        uint256 left = total - token.balanceOf(_a) - token.balanceOf(_b);
        assertLt(left, parts + 1, "dust");
        assertEq(_splitter.outstanding(address(token)), left);
        assertEq(_free(address(_splitter)), left);
    }

    function _claimAll(uint64 first, address account) private {
        for (uint64 e; e < 7; ++e) {
            if (_splitter.claimable(first + e, address(token), account) == 0) continue;
            vm.prank(account);
            _splitter.claim(first + e, address(token), account);
        }
    }
}
