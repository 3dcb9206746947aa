// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

import {Order, Lock} from "../libraries/Orders.sol";

/// @notice Prepayments on Base: one balance per payer and token pays any node and any model.
/// @dev Amounts are in the token's smallest unit. No role can stop a withdrawal of what is free, a reclaim or an unlock. A guardian
///      can stop new money and new commitments for a bounded time (`pause`): deposits, locks and `openOrder`, nothing else. `hold`
///      goes on: an answer that a node gave to a wallet with code can be paid in no other way.
interface IInferenceEscrow {
    /// @notice Times that are fixed at deployment, in seconds; see the views of the same names.
    struct Periods {
        uint40 maxLock;
        uint40 lockTail;
        uint40 minCaptureTime;
        uint40 maxOrderAge;
        uint40 maxOrderLife;
        uint40 maxPause;
        uint40 pauseGap;
    }

    /// @notice One payer's balance in one token; what is locked for keepers stands in `LockState`.
    struct Account {
        /// Spendable and withdrawable at once.
        uint128 free;
        /// Set aside for held orders.
        uint128 held;
    }

    /// @notice What a payer leaves in place, in one token, for one keeper.
    struct LockState {
        /// Not yet drawn.
        uint128 amount;
        /// `unlock` works from this time on, unix seconds.
        uint40 until;
    }

    /// @notice What the escrow knows of one order id. An order that was captured without a hold by the keeper that it names
    ///         (or that names none) stays None: its spent nonce closes it.
    enum OrderStatus {
        None,
        Held,
        Captured,
        Reclaimed,
        /// Captured by a batch row that was voided: held once more, for verified settlement only.
        Reopened
    }

    /// @notice State of one order, in one slot with 80 bits to spare.
    struct OrderState {
        /// What is held; 0 unless Held or Reopened.
        uint128 amount;
        /// Last block timestamp at which the hold can be captured; 0 if the order was never held.
        uint40 captureDeadline;
        OrderStatus status;
    }

    /// @notice Why a capture did not happen. Numbers are stable: batches report them in `RowSkipped`.
    enum CaptureResult {
        Captured,
        BadSignature,
        OrderClosed,
        NonceSpent,
        DeadlinePassed,
        NotYetValid,
        BadTimes,
        ZeroAmount,
        OverMaximum,
        InsufficientBalance,
        // From here on reported by the ledger:
        UnknownNodeIndex,
        NodeNotActive,
        NodeVersionNotCurrent,
        NodeOutsideScope
    }

    /// @notice Where captured money came from; the three parts add up to the captured amount.
    struct Sources {
        uint128 hold;
        uint128 lock;
        uint128 free;
    }

    /// @notice What a payer signs for Permit2, without the spender (this contract) and the witness (the beneficiary).
    /// @dev Witness type: `Deposit(address beneficiary)`.
    struct Permit2Deposit {
        address token;
        uint256 amount;
        /// Unordered nonce of Permit2.
        uint256 nonce;
        /// Last block timestamp at which Permit2 accepts it.
        uint256 deadline;
    }

    // Every event carries the contract's contiguous sequence number, from 1: a reader that sees a gap has missed an event.

    /// @param from Account whose tokens arrived.
    event Deposited(
        uint64 seq, address indexed beneficiary, address indexed token, address indexed from, uint128 amount
    );
    /// @param to Receiver of the tokens.
    event Withdrawn(uint64 seq, address indexed owner, address indexed token, address indexed to, uint128 amount);
    /// @param added Moved from free into the lock by this call; 0 when it was only extended.
    /// @param amount In the lock after this call.
    /// @param nonce The lock nonce that this call spent.
    event Locked(
        uint64 seq,
        address indexed payer,
        address indexed token,
        bytes32 indexed keeperId,
        uint128 added,
        uint128 amount,
        uint40 until,
        uint256 nonce
    );
    /// @param amount Moved from the lock back to free; the lock is empty.
    event Unlocked(uint64 seq, address indexed payer, address indexed token, bytes32 indexed keeperId, uint128 amount);
    /// @notice The order's maximum went from free to held.
    /// @param requestBody Canonical request bytes of a public order, or empty.
    event OrderOpened(
        uint64 seq,
        bytes32 indexed orderId,
        address indexed payer,
        bytes32 indexed keeperId,
        Order order,
        bytes requestBody
    );
    /// @notice Money of an order left its payer's balances.
    /// @param sources Where the money came from; what remained of a hold went back to free.
    /// @param released Part of the hold that went back to free; 0 unless the order was held.
    /// @param nonceSpent True when the capture spent the order's nonce, false when it marked the order id.
    event OrderCaptured(
        uint64 seq,
        bytes32 indexed orderId,
        address indexed payer,
        address indexed token,
        bytes32 keeperId,
        uint256 nonce,
        Sources sources,
        uint128 released,
        bool nonceSpent
    );
    /// @notice A batch row was voided: its money is held again.
    /// @param amount Moved from "captured" to held.
    /// @param until Last block timestamp at which a verified settlement can capture it; then anyone reclaims it for the payer.
    event OrderReopened(
        uint64 seq, bytes32 indexed orderId, address indexed payer, address indexed token, uint128 amount, uint40 until
    );
    /// @param amount Moved from held back to free.
    event OrderReclaimed(
        uint64 seq, bytes32 indexed orderId, address indexed payer, address indexed token, uint128 amount
    );
    /// @param mask Every bit i is nonce `word × 256 + i`, spent now whether or not it was before.
    event NoncesCancelled(
        uint64 seq, address indexed payer, address indexed token, bytes32 indexed keeperId, uint248 word, uint256 mask
    );
    /// @param mask As in `NoncesCancelled`.
    event LockNoncesCancelled(uint64 seq, address indexed payer, uint248 word, uint256 mask);
    /// @param ref Batch id (as bytes32) or settlement id that earned it.
    event Credited(uint64 seq, address indexed account, address indexed token, bytes32 indexed ref, uint128 amount);
    /// @notice The guardian stopped deposits, locks and `openOrder`, or let them go on earlier than it said before.
    /// @param until They work from this block timestamp on, whatever anybody does.
    event Paused(uint64 seq, uint40 until);

    error ZeroAmount();
    error ZeroAddress();
    error AmountOverflow(uint256 actual, uint256 limit);
    /// @notice The token moved another amount than it was told to (fee on transfer, no code).
    error TransferMismatch(uint256 actual, uint256 expected);
    error InsufficientFree(uint128 actual, uint128 expected);
    error NotPayer(address actual, address expected);
    error BadSignature(address payer);
    error LockNeedsKeeper();
    /// @notice The end of the lock lies too far ahead.
    error LockTooLong(uint40 actual, uint40 latest);
    /// @notice The end of the lock lies before its present end, or not after now.
    error LockShortened(uint40 actual, uint40 atLeast);
    error LockActive(uint40 nowAt, uint40 until);
    error NothingLocked();
    error NonceSpent(uint256 nonce);
    error OrderClosed(bytes32 orderId, OrderStatus status);
    error OrderNotHeld(bytes32 orderId, OrderStatus status);
    /// @notice `validAfter` lies too far back to open or hold the order.
    error OldOrder(uint40 actual, uint40 atLeast);
    error DeadlineTooSoon(uint40 actual, uint40 atLeast);
    error DeadlineTooLate(uint40 actual, uint40 atMost);
    /// @notice Not validAfter ≤ validBefore ≤ captureDeadline ≤ validAfter + `MAX_ORDER_LIFE`.
    error BadTimes(uint40 validAfter, uint40 validBefore, uint40 captureDeadline);
    error NotExpired(uint40 nowAt, uint40 captureDeadline);
    error BodyTooLong(uint256 actual, uint256 limit);
    /// @notice The request body is not what the order commits to with blinding 0.
    error BodyNeedsPublicOrder(bytes32 actualCommit, bytes32 expectedCommit);
    error OnlyLedger(address actual, address expected);
    error CapturedExceeded(uint128 actual, uint128 available);
    /// @notice The tail of a lock must be shorter than the longest lock, the longest pause shorter than the gap between two; no order
    ///         could be held if the least time to a capture deadline were longer than the longest.
    error BadPeriods(uint40 shorter, uint40 longer);
    /// @notice Deposits, locks and `openOrder` are paused.
    error IntakePaused(uint256 nowAt, uint256 until);
    /// @notice The last pause ended too short a time ago.
    error PauseTooSoon(uint256 nowAt, uint256 earliest);
    /// @notice A pause must not end before now, nor after `latest`.
    error BadPause(uint40 actual, uint256 nowAt, uint256 latest);
    /// @notice The authority does not let this account pause.
    error NotGuardian(address actual);

    // ── Deposits: credit exactly what arrived, or revert ─────────────────────────────────────────────────────────────

    /// @notice Deposits from the caller under an ERC-20 approval.
    /// @param beneficiary Account that is credited.
    /// @param amount In the token's smallest unit; must fit 128 bits and arrive in full.
    function deposit(address token, address beneficiary, uint256 amount) external;

    /// @notice Deposits from the caller with an EIP-2612 permit. A permit that somebody else used first is no obstacle.
    /// @param deadline Last block timestamp at which the token accepts the permit.
    function depositWithPermit(
        address token,
        address beneficiary,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Deposits from `from` with an EIP-3009 `ReceiveWithAuthorization`; anyone can send it.
    /// @dev The authorization's nonce must be `keccak256(abi.encode(beneficiary, salt))`, so the sender cannot choose the beneficiary.
    /// @param salt Any value that `from` did not use with this beneficiary before.
    /// @param signature 64 or 65 bytes go to the token as (v, r, s), any other length as bytes (wallets that are contracts).
    function depositWithAuthorization(
        address token,
        address from,
        address beneficiary,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 salt,
        bytes calldata signature
    ) external;

    /// @notice Deposits from `from` with a Permit2 signature whose witness names the beneficiary; anyone can send it.
    /// @param signature As Permit2 takes it.
    function depositWithPermit2(
        Permit2Deposit calldata permit,
        address from,
        address beneficiary,
        bytes calldata signature
    ) external;

    // ── Exits: nobody can stop them ──────────────────────────────────────────────────────────────────────────────────

    /// @notice Sends free balance of the caller to any address.
    function withdraw(address token, address to, uint128 amount) external;

    /// @notice Returns a lock to the payer's free balance after its time. Anyone.
    function unlock(address payer, address token, bytes32 keeperId) external;

    /// @notice Returns a hold to the payer's free balance after its capture deadline. Anyone.
    /// @param order As in its `OrderOpened`, or as a voided batch row captured it.
    function reclaim(Order calldata order) external;

    /// @notice Spends nonces of unheld orders, so that they can no longer be captured. Not while the lock for that keeper runs.
    /// @param word Nonces `word × 256 + i` for every bit i of `mask`.
    function cancelNonces(address token, bytes32 keeperId, uint248 word, uint256 mask) external;

    /// @notice Spends lock nonces of the caller, so that signed locks that nobody sent yet become void.
    /// @param word Nonces `word × 256 + i` for every bit i of `mask`.
    function cancelLockNonces(uint248 word, uint256 mask) external;

    // ── Orders ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Leaves money in place for signed orders that name a keeper. By the payer, or anyone with its signature.
    /// @dev Gives the keeper no power: every order still needs its own signatures. While the lock runs, the nonces of that keeper's
    ///      orders cannot be cancelled.
    /// @param lock_ Amount 0 only extends a lock.
    /// @param signature Empty when the payer calls; otherwise ECDSA, ERC-1271 or ERC-6492.
    function lock(Lock calldata lock_, bytes calldata signature) external;

    /// @notice Holds the maximum of an order. By the payer.
    /// @param requestBody Canonical request bytes of a public order (a keeper can then serve it with no other channel), or empty.
    /// @return orderId EIP-712 digest of the order.
    function openOrder(Order calldata order, bytes calldata requestBody) external returns (bytes32 orderId);

    /// @notice Holds the maximum of an order that the payer signed (ECDSA, ERC-1271 or ERC-6492). Anyone.
    /// @return orderId EIP-712 digest of the order.
    function hold(Order calldata order, bytes calldata signature) external returns (bytes32 orderId);

    // ── For the ledger ───────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Moves up to the order's maximum from hold, lock or free balance to "captured, not yet paid".
    /// @dev Never reverts for what an order or its payer's state can be; what cannot be captured changes nothing.
    /// @param r Signature of an order that nobody held, EIP-2098; only ECDSA keys, since a contract could answer anything at any cost.
    /// @param byKeeper The keeper that the order names acts: it may use the lock and spend the nonce.
    function capture(Order calldata order, bytes32 r, bytes32 vs, uint128 amount, bool byKeeper)
        external
        returns (CaptureResult result, bytes32 orderId);

    /// @notice As `capture`, and credits payee and fee recipient at once.
    /// @param amount Captured amount, fee included.
    /// @param fee Part of `amount` for `feeRecipient`; the payee gets the rest.
    /// @param ref Settlement id, for the `Credited` events.
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
    ) external returns (CaptureResult result, bytes32 orderId);

    /// @notice Credits an account out of what was captured before.
    /// @param ref Batch id, for the `Credited` event.
    function credit(address token, address account, uint128 amount, bytes32 ref) external;

    /// @notice Takes the money of a voided batch row back from "captured" into a hold of its payer, for verified settlement only.
    /// @param order The order that the row captured.
    /// @param amount What the row captured.
    /// @param until Capture deadline of the new hold, unix seconds.
    /// @return orderId EIP-712 digest of the order.
    function reopen(Order calldata order, uint128 amount, uint40 until) external returns (bytes32 orderId);

    // ── Guardian ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Stops deposits, locks and `openOrder` until a time; while that runs, brings its end forward. Guardian only; nothing else
    ///         can be stopped, ever, and a pause that runs cannot be prolonged.
    /// @param until At most `MAX_PAUSE` seconds from now, not within `PAUSE_GAP` seconds after the end of the last pause. While one runs:
    ///              at most its end; a time that has passed ends it now.
    function pause(uint40 until) external;

    // ── Views ────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Free and held balance; all zero for an unknown account.
    function account(address owner, address token) external view returns (Account memory);

    /// @notice Lock of a payer for a keeper; all zero if there is none.
    function lockOf(address payer, address token, bytes32 keeperId) external view returns (LockState memory);

    /// @notice State of an order id; all zero for an unknown one.
    function orderState(bytes32 orderId) external view returns (OrderState memory);

    /// @notice Whether a nonce was captured or cancelled. Held orders do not spend theirs.
    function nonceSpent(address payer, address token, bytes32 keeperId, uint256 nonce) external view returns (bool);

    /// @notice Whether a lock nonce was used or cancelled.
    function lockNonceSpent(address payer, uint256 nonce) external view returns (bool);

    /// @notice Captured and neither paid nor returned.
    function captured(address token) external view returns (uint128);

    /// @notice EIP-712 digest of an order.
    function orderId(Order calldata order) external view returns (bytes32);

    /// @notice EIP-712 digest of a lock.
    function lockDigest(Lock calldata lock_) external view returns (bytes32);

    /// @notice The only contract that captures and credits.
    function ledger() external view returns (address);

    /// @notice Permit2, as used by `depositWithPermit2`.
    function permit2() external view returns (address);

    /// @notice AccessManager that says who may `pause`; it decides nothing else here and cannot be replaced.
    function authority() external view returns (address);

    /// @notice End of the last pause, block timestamp; 0 if there was none. Paused while it lies ahead.
    function pausedUntil() external view returns (uint40);

    /// @notice Contract without privileges that prepares ERC-6492 accounts.
    function neutralCaller() external view returns (address);

    /// @notice Longest time from now to the end of a lock, seconds.
    function MAX_LOCK() external view returns (uint40);

    /// @notice In the last `LOCK_TAIL` seconds of a lock any verified settlement may use it, before that only the keeper's own.
    function LOCK_TAIL() external view returns (uint40);

    /// @notice Least time from opening or holding to the capture deadline, seconds.
    function MIN_CAPTURE_TIME() external view returns (uint40);

    /// @notice How far in the past `validAfter` may lie when an order is opened or held, seconds.
    function MAX_ORDER_AGE() external view returns (uint40);

    /// @notice Longest time from `validAfter`, and from opening or holding, to the capture deadline, seconds.
    function MAX_ORDER_LIFE() external view returns (uint40);

    /// @notice Longest pause, seconds.
    function MAX_PAUSE() external view returns (uint40);

    /// @notice Least time from the end of a pause to the next one, seconds.
    function PAUSE_GAP() external view returns (uint40);

    /// @notice Longest request body, bytes.
    function MAX_BODY() external view returns (uint256);

    /// @notice Sequence number of the last event.
    function seq() external view returns (uint64);
}
