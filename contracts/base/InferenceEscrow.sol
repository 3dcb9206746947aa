// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAuthority} from "@openzeppelin/contracts/access/manager/IAuthority.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IInferenceEscrow} from "../interfaces/IInferenceEscrow.sol";
import {INeutralCaller} from "../interfaces/INeutralCaller.sol";
import {IPermit2} from "../interfaces/IPermit2.sol";
import {IReceiveWithAuthorization} from "../interfaces/IReceiveWithAuthorization.sol";
import {Nonces} from "../libraries/Nonces.sol";
import {Order, Lock, Orders} from "../libraries/Orders.sol";
import {PayerSignatures} from "../libraries/PayerSignatures.sol";
import {NeutralCaller} from "./NeutralCaller.sol";

/// @notice Prepayments on Base: one balance per payer and token pays any node and any model.
contract InferenceEscrow is IInferenceEscrow, EIP712, ReentrancyGuardTransient {
    using Nonces for mapping(uint248 => uint256);
    using Orders for Order;
    using Orders for Lock;
    using SafeERC20 for IERC20;

    /// @dev Everything between one payer, in one token, and one keeper (0: none). Only that keeper's captures and, while no lock
    ///      runs, the payer spend its nonces: so neither the payer nor a stranger can void what the lock secures.
    struct Lane {
        LockState lock;
        mapping(uint248 word => uint256 bits) nonces;
    }

    /// @dev Result of taking an order's money.
    struct Taken {
        Sources sources;
        uint128 released;
        bool nonceSpent;
    }

    /// @inheritdoc IInferenceEscrow
    uint256 public constant MAX_BODY = 16_384;

    bytes32 private constant DEPOSIT_TYPEHASH = keccak256("Deposit(address beneficiary)");
    string private constant DEPOSIT_WITNESS_TYPE =
        "Deposit witness)Deposit(address beneficiary)TokenPermissions(address token,uint256 amount)";

    /// @inheritdoc IInferenceEscrow
    address public immutable ledger;
    /// @inheritdoc IInferenceEscrow
    address public immutable permit2;
    /// @inheritdoc IInferenceEscrow
    address public immutable neutralCaller;
    /// @inheritdoc IInferenceEscrow
    address public immutable authority;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable MAX_LOCK;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable LOCK_TAIL;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable MIN_CAPTURE_TIME;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable MAX_ORDER_AGE;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable MAX_ORDER_LIFE;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable MAX_PAUSE;
    /// @inheritdoc IInferenceEscrow
    uint40 public immutable PAUSE_GAP;

    /// @dev Number of the last event, and below it the end of the last pause: every event writes this slot, so looking at the pause
    ///      costs next to nothing.
    uint256 private _counter;
    uint256 private constant _TIME_BITS = 40;
    /// @inheritdoc IInferenceEscrow
    mapping(address token => uint128) public captured;

    mapping(address owner => mapping(address token => Account)) private _accounts;
    mapping(bytes32 laneKey => Lane) private _lanes;
    mapping(bytes32 orderId => OrderState) private _orders;
    mapping(address payer => mapping(uint248 word => uint256 bits)) private _lockNonces;

    modifier onlyLedger() {
        _onlyLedger();
        _;
    }

    constructor(address ledger_, Periods memory periods, address permit2_, address authority_)
        EIP712("Quittance", "1")
    {
        require(ledger_ != address(0) && authority_ != address(0), ZeroAddress());
        require(periods.lockTail < periods.maxLock, BadPeriods(periods.lockTail, periods.maxLock));
        require(
            periods.minCaptureTime <= periods.maxOrderLife, BadPeriods(periods.minCaptureTime, periods.maxOrderLife)
        );
        require(periods.maxPause < periods.pauseGap, BadPeriods(periods.maxPause, periods.pauseGap));
        ledger = ledger_;
        permit2 = permit2_;
        authority = authority_;
        neutralCaller = address(new NeutralCaller());
        MAX_LOCK = periods.maxLock;
        LOCK_TAIL = periods.lockTail;
        MIN_CAPTURE_TIME = periods.minCaptureTime;
        MAX_ORDER_AGE = periods.maxOrderAge;
        MAX_ORDER_LIFE = periods.maxOrderLife;
        MAX_PAUSE = periods.maxPause;
        PAUSE_GAP = periods.pauseGap;
    }

    // ── Deposits ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IInferenceEscrow
    function deposit(address token, address beneficiary, uint256 amount) external nonReentrant {
        uint256 before = _beforeDeposit(token, beneficiary, amount);
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        _afterDeposit(token, beneficiary, msg.sender, amount, before);
    }

    /// @inheritdoc IInferenceEscrow
    function depositWithPermit(
        address token,
        address beneficiary,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        uint256 before = _beforeDeposit(token, beneficiary, amount);
        // A permit is public once it is sent: whoever used it first only did what the transfer needs.
        try IERC20Permit(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        _afterDeposit(token, beneficiary, msg.sender, amount, before);
    }

    /// @inheritdoc IInferenceEscrow
    function depositWithAuthorization(
        address token,
        address from,
        address beneficiary,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 salt,
        bytes calldata signature
    ) external nonReentrant {
        uint256 before = _beforeDeposit(token, beneficiary, amount);
        bytes32 nonce = keccak256(abi.encode(beneficiary, salt));
        if (signature.length == 64 || signature.length == 65) {
            (uint8 v, bytes32 r, bytes32 s) = PayerSignatures.split(signature);
            IReceiveWithAuthorization(token)
                .receiveWithAuthorization(from, address(this), amount, validAfter, validBefore, nonce, v, r, s);
        } else {
            IReceiveWithAuthorization(token)
                .receiveWithAuthorization(from, address(this), amount, validAfter, validBefore, nonce, signature);
        }
        _afterDeposit(token, beneficiary, from, amount, before);
    }

    /// @inheritdoc IInferenceEscrow
    function depositWithPermit2(
        Permit2Deposit calldata permit,
        address from,
        address beneficiary,
        bytes calldata signature
    ) external nonReentrant {
        uint256 before = _beforeDeposit(permit.token, beneficiary, permit.amount);
        IPermit2(permit2)
            .permitWitnessTransferFrom(
                IPermit2.PermitTransferFrom(
                    IPermit2.TokenPermissions(permit.token, permit.amount), permit.nonce, permit.deadline
                ),
                IPermit2.SignatureTransferDetails(address(this), permit.amount),
                from,
                keccak256(abi.encode(DEPOSIT_TYPEHASH, beneficiary)),
                DEPOSIT_WITNESS_TYPE,
                signature
            );
        _afterDeposit(permit.token, beneficiary, from, permit.amount, before);
    }

    // ── Exits ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IInferenceEscrow
    function withdraw(address token, address to, uint128 amount) external nonReentrant {
        require(to != address(0), ZeroAddress());
        require(amount != 0, ZeroAmount());
        Account storage from = _accounts[msg.sender][token];
        from.free = _minus(from.free, amount);
        emit Withdrawn(_nextSeq(), msg.sender, token, to, amount);

        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransfer(to, amount);
        uint256 afterwards = IERC20(token).balanceOf(address(this));
        // A token that takes more than it was told takes it from the other payers.
        uint256 moved = before > afterwards ? before - afterwards : 0;
        require(moved == amount, TransferMismatch(moved, amount));
    }

    /// @inheritdoc IInferenceEscrow
    function unlock(address payer, address token, bytes32 keeperId) external nonReentrant {
        LockState storage slot = _lanes[_laneKey(payer, token, keeperId)].lock;
        LockState memory current = slot;
        require(current.amount != 0, NothingLocked());
        require(block.timestamp >= current.until, LockActive(uint40(block.timestamp), current.until));
        slot.amount = 0;
        slot.until = 0;
        _accounts[payer][token].free += current.amount;
        emit Unlocked(_nextSeq(), payer, token, keeperId, current.amount);
    }

    /// @inheritdoc IInferenceEscrow
    function reclaim(Order calldata order) external nonReentrant {
        bytes32 id = _orderId(order);
        OrderState memory state = _orders[id];
        require(
            state.status == OrderStatus.Held || state.status == OrderStatus.Reopened, OrderNotHeld(id, state.status)
        );
        require(block.timestamp > state.captureDeadline, NotExpired(uint40(block.timestamp), state.captureDeadline));
        _orders[id] = OrderState(0, state.captureDeadline, OrderStatus.Reclaimed);
        Account storage payer = _accounts[order.payer][order.token];
        (payer.free, payer.held) = (payer.free + state.amount, payer.held - state.amount);
        emit OrderReclaimed(_nextSeq(), id, order.payer, order.token, state.amount);
    }

    /// @inheritdoc IInferenceEscrow
    function cancelNonces(address token, bytes32 keeperId, uint248 word, uint256 mask) external nonReentrant {
        require(mask != 0, ZeroAmount());
        Lane storage lane = _lanes[_laneKey(msg.sender, token, keeperId)];
        LockState memory current = lane.lock;
        require(
            current.amount == 0 || block.timestamp >= current.until, LockActive(uint40(block.timestamp), current.until)
        );
        lane.nonces[word] |= mask;
        emit NoncesCancelled(_nextSeq(), msg.sender, token, keeperId, word, mask);
    }

    /// @inheritdoc IInferenceEscrow
    function cancelLockNonces(uint248 word, uint256 mask) external nonReentrant {
        require(mask != 0, ZeroAmount());
        _lockNonces[msg.sender][word] |= mask;
        emit LockNoncesCancelled(_nextSeq(), msg.sender, word, mask);
    }

    // ── Orders ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IInferenceEscrow
    function lock(Lock calldata lock_, bytes calldata signature) external nonReentrant {
        _requireRunning();
        require(lock_.keeperId != 0, LockNeedsKeeper());
        uint256 latest = block.timestamp + MAX_LOCK;
        // forge-lint: disable-next-line(unsafe-typecast)
        require(lock_.until <= latest, LockTooLong(lock_.until, uint40(latest)));
        if (msg.sender != lock_.payer) _requireSigned(lock_.payer, _lockDigest(lock_), signature);
        require(_lockNonces[lock_.payer].spend(lock_.nonce), NonceSpent(lock_.nonce));

        LockState storage slot = _lanes[_laneKey(lock_.payer, lock_.token, lock_.keeperId)].lock;
        LockState memory current = slot;
        uint40 atLeast = uint40(block.timestamp + 1);
        if (current.until > atLeast) atLeast = current.until;
        require(lock_.until >= atLeast, LockShortened(lock_.until, atLeast));
        uint128 total = current.amount + lock_.amount;
        require(total != 0, ZeroAmount());
        if (lock_.amount != 0) {
            Account storage payer = _accounts[lock_.payer][lock_.token];
            payer.free = _minus(payer.free, lock_.amount);
        }
        (slot.amount, slot.until) = (total, lock_.until);
        emit Locked(_nextSeq(), lock_.payer, lock_.token, lock_.keeperId, lock_.amount, total, lock_.until, lock_.nonce);
    }

    /// @inheritdoc IInferenceEscrow
    function openOrder(Order calldata order, bytes calldata requestBody) external nonReentrant returns (bytes32 id) {
        _requireRunning();
        require(msg.sender == order.payer, NotPayer(msg.sender, order.payer));
        if (requestBody.length != 0) {
            require(requestBody.length <= MAX_BODY, BodyTooLong(requestBody.length, MAX_BODY));
            bytes32 expected = Orders.requestCommit(keccak256(requestBody), 0);
            require(order.requestCommit == expected, BodyNeedsPublicOrder(order.requestCommit, expected));
        }
        id = _orderId(order);
        _hold(order, id);
        emit OrderOpened(_nextSeq(), id, order.payer, order.keeperId, order, requestBody);
    }

    /// @inheritdoc IInferenceEscrow
    function hold(Order calldata order, bytes calldata signature) external nonReentrant returns (bytes32 id) {
        id = _orderId(order);
        _requireSigned(order.payer, id, signature);
        _hold(order, id);
        emit OrderOpened(_nextSeq(), id, order.payer, order.keeperId, order, "");
    }

    // ── For the ledger ───────────────────────────────────────────────────────────────────────────────────────────────
    // These call nothing but precompiles: they must not run inside another call, and need not shut the door behind them.

    /// @inheritdoc IInferenceEscrow
    function capture(Order calldata order, bytes32 r, bytes32 vs, uint128 amount, bool byKeeper)
        external
        onlyLedger
        nonReentrantView
        returns (CaptureResult result, bytes32 id)
    {
        Taken memory taken;
        (result, id, taken) = _take(order, r, vs, amount, byKeeper, false);
        if (result != CaptureResult.Captured) return (result, id);
        captured[order.token] += amount;
        _emitCaptured(order, id, taken);
    }

    /// @inheritdoc IInferenceEscrow
    function captureTo(
        Order calldata order,
        bytes32 r,
        bytes32 vs,
        uint128 amount,
        bool byKeeper,
        address payee,
        address feeRecipient,
        uint128 fee,
        bytes32 ref
    ) external onlyLedger nonReentrantView returns (CaptureResult result, bytes32 id) {
        require(fee <= amount, CapturedExceeded(fee, amount));
        Taken memory taken;
        (result, id, taken) = _take(order, r, vs, amount, byKeeper, true);
        if (result != CaptureResult.Captured) return (result, id);
        // Paid on, so it never becomes "captured and not yet paid".
        _emitCaptured(order, id, taken);
        if (amount != fee) _credit(order.token, payee, amount - fee, ref);
        if (fee != 0) _credit(order.token, feeRecipient, fee, ref);
    }

    /// @inheritdoc IInferenceEscrow
    function credit(address token, address account_, uint128 amount, bytes32 ref) external onlyLedger nonReentrantView {
        require(amount != 0, ZeroAmount());
        uint128 available = captured[token];
        require(amount <= available, CapturedExceeded(amount, available));
        captured[token] = available - amount;
        _credit(token, account_, amount, ref);
    }

    /// @inheritdoc IInferenceEscrow
    function reopen(Order calldata order, uint128 amount, uint40 until)
        external
        onlyLedger
        nonReentrantView
        returns (bytes32 id)
    {
        require(amount != 0, ZeroAmount());
        uint128 available = captured[order.token];
        require(amount <= available, CapturedExceeded(amount, available));
        id = _orderId(order);
        // Captured from a hold, or by its nonce, which leaves no state.
        OrderStatus status = _orders[id].status;
        require(status == OrderStatus.None || status == OrderStatus.Captured, OrderClosed(id, status));
        captured[order.token] = available - amount;
        _accounts[order.payer][order.token].held += amount;
        _orders[id] = OrderState(amount, until, OrderStatus.Reopened);
        emit OrderReopened(_nextSeq(), id, order.payer, order.token, amount, until);
    }

    // ── Guardian ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IInferenceEscrow
    function pause(uint40 until) external {
        require(IAuthority(authority).canCall(msg.sender, address(this), msg.sig), NotGuardian(msg.sender));
        uint256 last = pausedUntil();
        bool running = block.timestamp < last;
        require(running || block.timestamp >= last + PAUSE_GAP, PauseTooSoon(block.timestamp, last + PAUSE_GAP));
        // A pause that runs can end earlier, never later.
        uint256 latest = running ? last : block.timestamp + MAX_PAUSE;
        // Nobody knows the time of the block that will take the call: to end a pause at once, name any time that has passed.
        // forge-lint: disable-next-line(unsafe-typecast)
        if (running && until < block.timestamp) until = uint40(block.timestamp);
        require(block.timestamp <= until && until <= latest, BadPause(until, block.timestamp, latest));
        _counter = (_counter >> _TIME_BITS << _TIME_BITS) | until;
        emit Paused(_nextSeq(), until);
    }

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @inheritdoc IInferenceEscrow
    function seq() external view returns (uint64) {
        // Counted in steps of one.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(_counter >> _TIME_BITS);
    }

    /// @inheritdoc IInferenceEscrow
    function pausedUntil() public view returns (uint40) {
        // The lowest bits are it.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint40(_counter);
    }

    /// @inheritdoc IInferenceEscrow
    function account(address owner, address token) external view returns (Account memory) {
        return _accounts[owner][token];
    }

    /// @inheritdoc IInferenceEscrow
    function lockOf(address payer, address token, bytes32 keeperId) external view returns (LockState memory) {
        return _lanes[_laneKey(payer, token, keeperId)].lock;
    }

    /// @inheritdoc IInferenceEscrow
    function orderState(bytes32 id) external view returns (OrderState memory) {
        return _orders[id];
    }

    /// @inheritdoc IInferenceEscrow
    function nonceSpent(address payer, address token, bytes32 keeperId, uint256 nonce) external view returns (bool) {
        return _lanes[_laneKey(payer, token, keeperId)].nonces.isSpent(nonce);
    }

    /// @inheritdoc IInferenceEscrow
    function lockNonceSpent(address payer, uint256 nonce) external view returns (bool) {
        return _lockNonces[payer].isSpent(nonce);
    }

    /// @inheritdoc IInferenceEscrow
    function orderId(Order calldata order) external view returns (bytes32) {
        Order memory clean = order;
        return _hashTypedDataV4(clean.structHash());
    }

    /// @inheritdoc IInferenceEscrow
    function lockDigest(Lock calldata lock_) external view returns (bytes32) {
        return _lockDigest(lock_);
    }

    // ── Holding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Moves the maximum from free to held. The payer's authority was checked before.
    function _hold(Order calldata order, bytes32 id) private {
        require(order.maxAmount != 0, ZeroAmount());
        require(_timesFit(order), BadTimes(order.validAfter, order.validBefore, order.captureDeadline));
        // An answer that is older than the hold proves nothing about the service it pays.
        if (uint256(order.validAfter) + MAX_ORDER_AGE < block.timestamp) {
            // forge-lint: disable-next-line(unsafe-typecast)
            revert OldOrder(order.validAfter, uint40(block.timestamp - MAX_ORDER_AGE));
        }
        uint256 earliest = block.timestamp + MIN_CAPTURE_TIME;
        // forge-lint: disable-next-line(unsafe-typecast)
        require(order.captureDeadline >= earliest, DeadlineTooSoon(order.captureDeadline, uint40(earliest)));
        uint256 latest = block.timestamp + MAX_ORDER_LIFE;
        // forge-lint: disable-next-line(unsafe-typecast)
        require(order.captureDeadline <= latest, DeadlineTooLate(order.captureDeadline, uint40(latest)));
        OrderStatus status = _orders[id].status;
        require(status == OrderStatus.None, OrderClosed(id, status));
        // A spent nonce means captured or cancelled.
        require(!_lane(order).nonces.isSpent(order.nonce), NonceSpent(order.nonce));

        Account storage payer = _accounts[order.payer][order.token];
        Account memory balance = payer;
        (payer.free, payer.held) = (_minus(balance.free, order.maxAmount), balance.held + order.maxAmount);
        _orders[id] = OrderState(order.maxAmount, order.captureDeadline, OrderStatus.Held);
    }

    // ── Capturing ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Takes `amount` from the payer's balances or says why not; then nothing has changed. Must not revert for anything that
    ///      a payer can cause, since one row of a batch must not stop the others. Sums cannot overflow: `_afterDeposit` keeps
    ///      the whole of a token under 2^128.
    /// @param verified Whether the evidence was checked: only then may a reopened hold be captured.
    function _take(Order calldata order, bytes32 r, bytes32 vs, uint128 amount, bool byKeeper, bool verified)
        private
        returns (CaptureResult result, bytes32 id, Taken memory taken)
    {
        id = _orderId(order);
        result = _checkTerms(order, amount);
        if (result != CaptureResult.Captured) return (result, id, taken);
        OrderState memory state = _orders[id];
        if (state.status == OrderStatus.Held || (verified && state.status == OrderStatus.Reopened)) {
            result = _takeHold(order, id, state, amount, byKeeper, taken);
        } else if (state.status != OrderStatus.None) {
            result = CaptureResult.OrderClosed;
        } else if (!_timesFit(order)) {
            // What was held or captured before had the right times.
            result = CaptureResult.BadTimes;
        } else if (block.timestamp > order.captureDeadline) {
            result = CaptureResult.DeadlinePassed;
        } else {
            result = _takeSigned(order, id, r, vs, amount, byKeeper, taken);
        }
    }

    /// @dev What depends on nothing but the order, the amount and the time.
    function _checkTerms(Order calldata order, uint128 amount) private view returns (CaptureResult) {
        if (amount == 0) return CaptureResult.ZeroAmount;
        if (amount > order.maxAmount) return CaptureResult.OverMaximum;
        if (block.timestamp < order.validAfter) return CaptureResult.NotYetValid;
        return CaptureResult.Captured;
    }

    /// @dev In order, and over before an admin can make true what it showed after the order was signed.
    function _timesFit(Order calldata order) private view returns (bool) {
        (uint256 begin, uint256 end, uint256 deadline) = (order.validAfter, order.validBefore, order.captureDeadline);
        return begin <= end && end <= deadline && deadline <= begin + MAX_ORDER_LIFE;
    }

    /// @dev The hold's own deadline counts: it may come to differ from the order's.
    function _takeHold(
        Order calldata order,
        bytes32 id,
        OrderState memory state,
        uint128 amount,
        bool byKeeper,
        Taken memory taken
    ) private returns (CaptureResult) {
        if (block.timestamp > state.captureDeadline) return CaptureResult.DeadlinePassed;
        uint128 held = amount;
        if (amount > state.amount) {
            // A keeper batched less than the node metered, and the void row brought back no more. What it let go of is not lost to the
            // node while the payer has it.
            held = state.amount;
            uint128 rest = amount - held;
            (bool enough, uint128 fromLock) = _takeUnheld(order, _lane(order), rest, byKeeper);
            if (!enough) return CaptureResult.InsufficientBalance;
            taken.sources.lock = fromLock;
            taken.sources.free = rest - fromLock;
        }
        taken.sources.hold = held;
        taken.released = state.amount - held;
        _orders[id] = OrderState(0, state.captureDeadline, OrderStatus.Captured);
        Account storage payer = _accounts[order.payer][order.token];
        Account memory balance = payer;
        (payer.free, payer.held) = (balance.free + taken.released, balance.held - state.amount);
        return CaptureResult.Captured;
    }

    /// @dev An order that nobody held: nonce, signature, then funds.
    function _takeSigned(
        Order calldata order,
        bytes32 id,
        bytes32 r,
        bytes32 vs,
        uint128 amount,
        bool byKeeper,
        Taken memory taken
    ) private returns (CaptureResult) {
        Lane storage lane = _lane(order);
        (uint248 word, uint256 bit) = Nonces.split(order.nonce);
        uint256 bits = lane.nonces[word];
        if (bits & bit != 0) return CaptureResult.NonceSpent;
        if (!PayerSignatures.isKey(order.payer, id, r, vs)) return CaptureResult.BadSignature;

        (bool enough, uint128 fromLock) = _takeUnheld(order, lane, amount, byKeeper);
        if (!enough) return CaptureResult.InsufficientBalance;
        taken.sources.lock = fromLock;
        taken.sources.free = amount - fromLock;
        // Anyone may settle verified, but nobody but its keeper may spend the nonce of an order that names one: another order of
        // the same nonce may be what the keeper has answered.
        taken.nonceSpent = byKeeper || order.keeperId == 0;
        if (taken.nonceSpent) lane.nonces[word] = bits | bit;
        else _orders[id].status = OrderStatus.Captured;
        return CaptureResult.Captured;
    }

    /// @dev Takes money that no order holds: the keeper's from its lock first, anybody else's from what is free first. Nothing when it
    ///      is not enough.
    function _takeUnheld(Order calldata order, Lane storage lane, uint128 amount, bool byKeeper)
        private
        returns (bool enough, uint128 fromLock)
    {
        if (byKeeper) {
            uint128 locked = lane.lock.amount;
            fromLock = amount < locked ? amount : locked;
            if (fromLock != amount) {
                Account storage payer = _accounts[order.payer][order.token];
                uint128 free = payer.free;
                if (free < amount - fromLock) return (false, 0);
                payer.free = free - (amount - fromLock);
            }
            if (fromLock != 0) lane.lock.amount = locked - fromLock;
        } else {
            Account storage payer = _accounts[order.payer][order.token];
            uint128 free = payer.free;
            if (free < amount) {
                // Until the tail the lock belongs to the orders that the keeper has answered and not yet settled.
                LockState memory locked = lane.lock;
                fromLock = amount - free;
                if (fromLock > locked.amount || block.timestamp + LOCK_TAIL < locked.until) return (false, 0);
                lane.lock.amount = locked.amount - fromLock;
            }
            if (fromLock != amount) payer.free = free - (amount - fromLock);
        }
        enough = true;
    }

    function _emitCaptured(Order calldata order, bytes32 id, Taken memory taken) private {
        emit OrderCaptured(
            _nextSeq(),
            id,
            order.payer,
            order.token,
            order.keeperId,
            order.nonce,
            taken.sources,
            taken.released,
            taken.nonceSpent
        );
    }

    // ── Money ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _credit(address token, address account_, uint128 amount, bytes32 ref) private {
        require(account_ != address(0), ZeroAddress());
        _accounts[account_][token].free += amount;
        emit Credited(_nextSeq(), account_, token, ref, amount);
    }

    function _beforeDeposit(address token, address beneficiary, uint256 amount) private view returns (uint256) {
        _requireRunning();
        require(beneficiary != address(0), ZeroAddress());
        require(amount != 0, ZeroAmount());
        require(token.code.length != 0, TransferMismatch(0, amount));
        return IERC20(token).balanceOf(address(this));
    }

    /// @dev Credits what arrived, which must be what was announced.
    function _afterDeposit(address token, address beneficiary, address from, uint256 amount, uint256 before) private {
        uint256 afterwards = IERC20(token).balanceOf(address(this));
        uint256 arrived = afterwards > before ? afterwards - before : 0;
        require(arrived == amount, TransferMismatch(arrived, amount));
        // All that is owed in a token is at most its balance: under this limit no sum of accounts can overflow.
        require(afterwards <= type(uint128).max, AmountOverflow(afterwards, type(uint128).max));
        // forge-lint: disable-next-line(unsafe-typecast)
        uint128 amount128 = uint128(amount);
        _accounts[beneficiary][token].free += amount128;
        emit Deposited(_nextSeq(), beneficiary, token, from, amount128);
    }

    function _minus(uint128 free, uint128 amount) private pure returns (uint128) {
        require(free >= amount, InsufficientFree(free, amount));
        return free - amount;
    }

    // ── Small parts ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev ERC-6492: asks the account as it is, and once more after the neutral caller prepared it.
    function _requireSigned(address payer, bytes32 digest, bytes calldata signature) private {
        if (PayerSignatures.isKey(payer, digest, signature)) return;
        bool valid;
        if (PayerSignatures.isWrapped(signature)) {
            (address factory, bytes memory factoryCalldata, bytes memory inner) = PayerSignatures.unwrap(signature);
            valid = PayerSignatures.isAccount(payer, digest, inner);
            if (!valid) {
                INeutralCaller(neutralCaller).prepare(factory, factoryCalldata);
                valid = PayerSignatures.isAccount(payer, digest, inner);
            }
        } else {
            valid = PayerSignatures.isAccount(payer, digest, signature);
        }
        require(valid, BadSignature(payer));
    }

    function _orderId(Order calldata order) private view returns (bytes32) {
        return _hashTypedDataV4(order.structHashCalldata());
    }

    function _lockDigest(Lock memory lock_) private view returns (bytes32) {
        return _hashTypedDataV4(lock_.structHash());
    }

    function _lane(Order calldata order) private view returns (Lane storage) {
        return _lanes[_laneKey(order.payer, order.token, order.keeperId)];
    }

    function _laneKey(address payer, address token, bytes32 keeperId) private pure returns (bytes32) {
        return keccak256(abi.encode(payer, token, keeperId));
    }

    function _nextSeq() private returns (uint64) {
        // One, above the time.
        // forge-lint: disable-next-line(incorrect-shift)
        uint256 counter = _counter + (1 << _TIME_BITS);
        _counter = counter;
        // Counted in steps of one.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint64(counter >> _TIME_BITS);
    }

    function _requireRunning() private view {
        require(block.timestamp >= pausedUntil(), IntakePaused(block.timestamp, pausedUntil()));
    }

    function _onlyLedger() private view {
        require(msg.sender == ledger, OnlyLedger(msg.sender, ledger));
    }
}
