// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {Test} from "forge-std/Test.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Order, Lock} from "../contracts/libraries/Orders.sol";
import {TestToken} from "./mocks/TestToken.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @notice An escrow whose ledger is a pranked address, a token, a payer with a key, and the usual steps.
abstract contract InferenceEscrowBase is Test {
    uint40 internal constant NOW = 1_800_000_000;
    uint40 internal constant MAX_LOCK = 7 days;
    uint40 internal constant LOCK_TAIL = 1 days;
    uint40 internal constant MIN_CAPTURE_TIME = 10 minutes;
    uint40 internal constant MAX_ORDER_AGE = 5 minutes;
    /// @dev Longer than in production, so that orders outlive locks here.
    uint40 internal constant MAX_ORDER_LIFE = 10 days;
    uint40 internal constant MAX_PAUSE = 7 days;
    uint40 internal constant PAUSE_GAP = 30 days;
    uint64 internal constant GUARDIAN_ROLE = 1;
    bytes32 internal constant KEEPER = keccak256("keeper");
    bytes32 internal constant OTHER_KEEPER = keccak256("other keeper");
    bytes32 internal constant REQUEST = keccak256("request");

    address internal ledger = makeAddr("ledger");
    address internal node = makeAddr("node");
    address internal stranger = makeAddr("stranger");
    address internal permit2 = makeAddr("permit2");
    address internal payer;
    uint256 internal payerKey;

    address internal guardian = makeAddr("guardian");
    IAccessManager internal manager;
    IInferenceEscrow internal escrow;
    TestToken internal token;

    function setUp() public virtual {
        vm.warp(NOW);
        (payer, payerKey) = makeAddrAndKey("payer");
        manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(address(this))));
        manager.grantRole(GUARDIAN_ROLE, guardian, 0);
        escrow = _deploy(ledger, permit2);
        token = new TestToken();
    }

    function _periods() internal pure returns (IInferenceEscrow.Periods memory) {
        return IInferenceEscrow.Periods(
            MAX_LOCK, LOCK_TAIL, MIN_CAPTURE_TIME, MAX_ORDER_AGE, MAX_ORDER_LIFE, MAX_PAUSE, PAUSE_GAP
        );
    }

    /// @dev From the artifact: `new` would have the compiler optimize the escrow again inside every test contract.
    function _deploy(address ledger_, address permit2_) internal returns (IInferenceEscrow) {
        bytes memory arguments = abi.encode(ledger_, _periods(), permit2_, manager);
        IInferenceEscrow deployed = IInferenceEscrow(Artifacts.deploy("InferenceEscrow", arguments));
        bytes4[] memory guarded = new bytes4[](1);
        guarded[0] = IInferenceEscrow.pause.selector;
        manager.setTargetFunctionRole(address(deployed), guarded, GUARDIAN_ROLE);
        return deployed;
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _fund(address account, uint128 amount) internal {
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(address(token), account, amount);
    }

    function _order(uint128 maxAmount, bytes32 keeperId, uint256 nonce) internal view returns (Order memory) {
        uint40 nowAt = uint40(block.timestamp);
        return Order({
            payer: payer,
            token: address(token),
            maxAmount: maxAmount,
            requestCommit: keccak256(abi.encode(REQUEST, bytes32(0))),
            nodeScope: 0,
            keeperId: keeperId,
            validAfter: nowAt,
            validBefore: nowAt + 1 hours,
            captureDeadline: nowAt + 2 hours,
            nonce: nonce
        });
    }

    function _lockOf(uint128 amount, uint40 until, uint256 nonce) internal view returns (Lock memory) {
        return Lock(payer, address(token), KEEPER, amount, until, nonce);
    }

    function _lock(uint128 amount, uint40 until, uint256 nonce) internal {
        vm.prank(payer);
        escrow.lock(_lockOf(amount, until, nonce), "");
    }

    function _open(Order memory order) internal returns (bytes32) {
        vm.prank(order.payer);
        return escrow.openOrder(order, "");
    }

    function _sign(Order memory order) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, escrow.orderId(order));
        return abi.encodePacked(r, s, v);
    }

    function _compact(Order memory order) internal view returns (bytes32 r, bytes32 vs) {
        return vm.signCompact(payerKey, escrow.orderId(order));
    }

    function _capture(Order memory order, uint128 amount, bool byKeeper)
        internal
        returns (IInferenceEscrow.CaptureResult result)
    {
        (bytes32 r, bytes32 vs) = _compact(order);
        vm.prank(ledger);
        (result,) = escrow.capture(order, r, vs, amount, byKeeper);
    }

    function _captureUnsigned(Order memory order, uint128 amount, bool byKeeper)
        internal
        returns (IInferenceEscrow.CaptureResult result)
    {
        vm.prank(ledger);
        (result,) = escrow.capture(order, 0, 0, amount, byKeeper);
    }

    // ── Looks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _assertAccount(address account, uint128 free, uint128 held) internal view {
        IInferenceEscrow.Account memory actual = escrow.account(account, address(token));
        assertEq(actual.free, free, "free");
        assertEq(actual.held, held, "held");
    }

    function _assertLock(uint128 amount, uint40 until) internal view {
        IInferenceEscrow.LockState memory actual = escrow.lockOf(payer, address(token), KEEPER);
        assertEq(actual.amount, amount, "locked");
        assertEq(actual.until, until, "until");
    }

    function _assertStatus(bytes32 orderId, IInferenceEscrow.OrderStatus status) internal view {
        assertEq(uint8(escrow.orderState(orderId).status), uint8(status), "status");
    }

    function _assertResult(IInferenceEscrow.CaptureResult actual, IInferenceEscrow.CaptureResult expected)
        internal
        pure
    {
        assertEq(uint8(actual), uint8(expected), "capture result");
    }
}
