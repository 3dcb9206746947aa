// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IFeeSplitter} from "../interfaces/IFeeSplitter.sol";
import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";

/// @title FeeSplitter
/// @notice Divides the ledger's fees among accounts that are known before an epoch begins.
contract FeeSplitter is IFeeSplitter, AccessManaged, ReentrancyGuardTransient {
    uint256 private constant _MAX_SHARES = 32;
    uint256 private constant _TOTAL = 10_000;

    IInferenceEscrow private immutable _ESCROW;
    /// @inheritdoc IFeeSplitter
    uint40 public immutable EPOCH;

    /// @inheritdoc IFeeSplitter
    uint64 public seq;
    /// @dev First epochs of the share lists, ascending.
    uint64[] private _starts;
    mapping(uint64 start => Share[]) private _shares;
    /// @inheritdoc IFeeSplitter
    mapping(uint64 epoch => mapping(address token => uint128)) public collectedIn;
    mapping(uint64 epoch => mapping(address token => mapping(address account => uint128))) private _claimed;
    /// @inheritdoc IFeeSplitter
    mapping(address token => uint128) public outstanding;

    /// @param shares Shares of the running epoch.
    constructor(IInferenceEscrow escrow_, address authority_, uint40 epoch, Share[] memory shares)
        AccessManaged(authority_)
    {
        require(address(escrow_) != address(0) && authority_ != address(0), ZeroAddress());
        require(epoch != 0, ZeroEpoch());
        _ESCROW = escrow_;
        EPOCH = epoch;
        _setShares(_epochNow(), shares);
    }

    /// @inheritdoc IFeeSplitter
    function setShares(Share[] calldata shares) external restricted {
        _setShares(_epochNow() + 1, shares);
    }

    /// @inheritdoc IFeeSplitter
    function collect(address token) external nonReentrant returns (uint128 amount) {
        amount = _ESCROW.account(address(this), token).free - outstanding[token];
        require(amount != 0, NothingToCollect(token));
        uint64 epoch = _epochNow();
        outstanding[token] += amount;
        collectedIn[epoch][token] += amount;
        emit Collected(++seq, epoch, token, amount);
    }

    /// @inheritdoc IFeeSplitter
    function claim(uint64 epoch, address token, address to) external nonReentrant returns (uint128 amount) {
        amount = claimable(epoch, token, msg.sender);
        require(amount != 0, NothingToClaim(epoch, token, msg.sender));
        _claimed[epoch][token][msg.sender] += amount;
        outstanding[token] -= amount;
        emit Claimed(++seq, epoch, token, msg.sender, to, amount);
        _ESCROW.withdraw(token, to, amount);
    }

    /// @inheritdoc IFeeSplitter
    function currentEpoch() external view returns (uint64) {
        return _epochNow();
    }

    /// @inheritdoc IFeeSplitter
    function sharesOf(uint64 epoch) external view returns (Share[] memory) {
        return _sharesOf(epoch);
    }

    /// @inheritdoc IFeeSplitter
    function claimable(uint64 epoch, address token, address account) public view returns (uint128) {
        Share[] storage shares = _sharesOf(epoch);
        for (uint256 i; i < shares.length; ++i) {
            if (shares[i].account != account) continue;
            uint256 part = uint256(collectedIn[epoch][token]) * shares[i].bps / _TOTAL;
            // A part of 128 bits.
            // forge-lint: disable-next-line(unsafe-typecast)
            return uint128(part) - _claimed[epoch][token][account];
        }
        return 0;
    }

    /// @inheritdoc IFeeSplitter
    function escrow() external view returns (address) {
        return address(_ESCROW);
    }

    /// @dev Replaces what was said for the same epoch before, which has not begun.
    function _setShares(uint64 epoch, Share[] memory shares) private {
        require(shares.length != 0 && shares.length <= _MAX_SHARES, BadShareCount(shares.length, _MAX_SHARES));
        if (_starts.length == 0 || _starts[_starts.length - 1] != epoch) _starts.push(epoch);
        delete _shares[epoch];
        uint256 total;
        address last;
        for (uint256 i; i < shares.length; ++i) {
            Share memory share = shares[i];
            require(share.account > last, AccountsNotAscending(share.account, last));
            require(share.bps != 0, EmptyShare(share.account));
            last = share.account;
            total += share.bps;
            _shares[epoch].push(share);
        }
        require(total == _TOTAL, BadTotal(total, _TOTAL));
        emit SharesSet(++seq, epoch, shares);
    }

    /// @dev The list with the last start that is not after the epoch; before the first, an empty one.
    function _sharesOf(uint64 epoch) private view returns (Share[] storage) {
        uint256 low;
        uint256 high = _starts.length;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (_starts[middle] <= epoch) low = middle + 1;
            else high = middle;
        }
        // No list starts at the last number there is.
        return _shares[low == 0 ? type(uint64).max : _starts[low - 1]];
    }

    function _epochNow() private view returns (uint64) {
        // Far from 64 bits for any clock.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(block.timestamp / EPOCH);
    }
}
