// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {Test, Vm} from "forge-std/Test.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Lock, Order} from "../contracts/libraries/Orders.sol";
import {EscrowReplay} from "./mocks/EscrowReplay.sol";
import {TestToken} from "./mocks/TestToken.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @notice Everything that payers, strangers, keepers and the ledger can do, in any order, with few nonces so that they collide.
contract EscrowHandler is Test {
    uint256 internal constant PAYERS = 3;
    uint256 public constant NONCES = 6;
    uint256 public constant LOCK_NONCES = 16;

    IInferenceEscrow public immutable ESCROW;
    TestToken public immutable TOKEN;
    EscrowReplay public immutable REPLAY;
    address public immutable LEDGER;
    address public constant GUARDIAN = address(0x6a4d1a);

    address[] public accounts;
    uint256[] internal _keys;
    bytes32[3] public keepers = [bytes32(0), keccak256("keeper"), keccak256("other keeper")];
    Order[] internal _orders;
    mapping(bytes32 orderId => bool) internal _known;

    uint256 public donated;
    uint256 public deposited;
    uint256 public withdrawn;
    mapping(bytes32 orderId => uint256) public capturesOf;
    uint256 public captures;
    uint256 public mostCapturesOfOneOrder;

    constructor(IInferenceEscrow escrow, TestToken token, address ledger) {
        (ESCROW, TOKEN, LEDGER) = (escrow, token, ledger);
        REPLAY = new EscrowReplay();
        for (uint256 i; i < PAYERS; ++i) {
            (address payer, uint256 key) = makeAddrAndKey(string.concat("payer ", vm.toString(i)));
            accounts.push(payer);
            _keys.push(key);
        }
        accounts.push(makeAddr("node"));
        accounts.push(makeAddr("fee recipient"));
    }

    /// @dev Every action ends with the replay of its events.
    modifier replayed() {
        vm.recordLogs();
        _;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter == address(ESCROW)) REPLAY.apply_(logs[i]);
        }
    }

    function deposit(uint256 who, uint128 amount) external replayed {
        amount = uint128(bound(amount, 1, 1e12));
        TOKEN.mint(address(this), amount);
        TOKEN.approve(address(ESCROW), amount);
        ESCROW.deposit(address(TOKEN), accounts[who % accounts.length], amount);
        deposited += amount;
    }

    function donate(uint64 amount) external replayed {
        TOKEN.mint(address(ESCROW), amount);
        donated += amount;
    }

    function withdraw(uint256 who, uint128 amount) external replayed {
        address owner = accounts[who % accounts.length];
        amount = uint128(bound(amount, 1, ESCROW.account(owner, address(TOKEN)).free));
        vm.prank(owner);
        ESCROW.withdraw(address(TOKEN), owner, amount);
        withdrawn += amount;
    }

    function lock(uint256 who, uint256 keeper, uint128 amount, uint40 time, uint256 nonce, bool signed)
        external
        replayed
    {
        who %= PAYERS;
        uint128 free = ESCROW.account(accounts[who], address(TOKEN)).free;
        Lock memory lock_ = Lock({
            payer: accounts[who],
            token: address(TOKEN),
            keeperId: keepers[1 + keeper % 2],
            amount: uint128(bound(amount, 0, free)),
            until: uint40(block.timestamp) + uint40(bound(time, 1, 3 days)),
            nonce: nonce % LOCK_NONCES
        });
        if (signed) {
            ESCROW.lock(lock_, _sign(who, ESCROW.lockDigest(lock_)));
        } else {
            vm.prank(accounts[who]);
            ESCROW.lock(lock_, "");
        }
    }

    function unlock(uint256 who, uint256 keeper) external replayed {
        ESCROW.unlock(accounts[who % PAYERS], address(TOKEN), keepers[keeper % 3]);
    }

    function open(uint256 who, uint256 keeper, uint128 amount, uint40 time, uint256 nonce, bool signed)
        external
        replayed
    {
        who %= PAYERS;
        uint128 free = ESCROW.account(accounts[who], address(TOKEN)).free;
        Order memory order = _order(who, keeper, uint128(bound(amount, 1, free)), time, nonce);
        if (signed) {
            ESCROW.hold(order, _sign(who, ESCROW.orderId(order)));
        } else {
            vm.prank(order.payer);
            ESCROW.openOrder(order, "");
        }
        _remember(order);
    }

    function reclaim(uint256 index) external replayed {
        ESCROW.reclaim(_orders[index % _orders.length]);
    }

    function cancel(uint256 who, uint256 keeper, uint256 nonce) external replayed {
        vm.prank(accounts[who % PAYERS]);
        ESCROW.cancelNonces(address(TOKEN), keepers[keeper % 3], 0, 1 << (nonce % NONCES));
    }

    function cancelLock(uint256 who, uint256 nonce) external replayed {
        vm.prank(accounts[who % PAYERS]);
        ESCROW.cancelLockNonces(0, 1 << (nonce % LOCK_NONCES));
    }

    /// @dev An order that was seen before, held or not.
    function captureKnown(uint256 index, uint128 amount, bool byKeeper, bool pay) external replayed {
        Order memory order = _orders[index % _orders.length];
        _capture(order, uint128(bound(amount, 0, order.maxAmount)), byKeeper, pay);
    }

    /// @dev An order that the payer signed and nobody held.
    function captureSigned(
        uint256 who,
        uint256 keeper,
        uint128 maxAmount,
        uint128 amount,
        uint40 time,
        uint256 nonce,
        bool byKeeper,
        bool pay
    ) external replayed {
        Order memory order = _order(who % PAYERS, keeper, uint128(bound(maxAmount, 1, 1e12)), time, nonce);
        _remember(order);
        _capture(order, uint128(bound(amount, 1, order.maxAmount)), byKeeper, pay);
    }

    function credit(uint256 who, uint128 amount) external replayed {
        amount = uint128(bound(amount, 1, ESCROW.captured(address(TOKEN))));
        vm.prank(LEDGER);
        ESCROW.credit(address(TOKEN), accounts[who % accounts.length], amount, bytes32(uint256(1)));
    }

    /// @dev The guardian at its worst: whenever it may, for as long as it may.
    function pause(uint40 time) external replayed {
        vm.prank(GUARDIAN);
        ESCROW.pause(uint40(block.timestamp) + uint40(bound(time, 1, 7 days)));
    }

    /// @dev Several blocks share a second, and hours pass between others.
    function wait_(uint256 seconds_) external {
        vm.warp(block.timestamp + bound(seconds_, 0, 1 days));
    }

    function ordersLength() external view returns (uint256) {
        return _orders.length;
    }

    function orderAt(uint256 index) external view returns (Order memory) {
        return _orders[index];
    }

    function accountsLength() external view returns (uint256) {
        return accounts.length;
    }

    function _capture(Order memory order, uint128 amount, bool byKeeper, bool pay) private {
        bytes32 id = ESCROW.orderId(order);
        IInferenceEscrow.CaptureResult result;
        if (pay) {
            result = _captureTo(order, id, amount, byKeeper);
        } else {
            (bytes32 r, bytes32 vs) = _compact(order.payer, id);
            vm.prank(LEDGER);
            (result,) = ESCROW.capture(order, r, vs, amount, byKeeper);
        }
        if (result == IInferenceEscrow.CaptureResult.Captured) {
            ++captures;
            uint256 times = ++capturesOf[id];
            if (times > mostCapturesOfOneOrder) mostCapturesOfOneOrder = times;
        }
    }

    function _captureTo(Order memory order, bytes32 id, uint128 amount, bool byKeeper)
        private
        returns (IInferenceEscrow.CaptureResult result)
    {
        (bytes32 r, bytes32 vs) = _compact(order.payer, id);
        // In two halves, which the compiler's stack has room for; every argument is static.
        bytes memory call_ = abi.encodePacked(ESCROW.captureTo.selector, abi.encode(order, r, vs, amount, byKeeper));
        vm.prank(LEDGER);
        (bool success, bytes memory answer) = address(ESCROW)
            .call(bytes.concat(call_, abi.encode(accounts[3], accounts[4], amount / 100, bytes32("ref"))));
        require(success, "captureTo");
        (result,) = abi.decode(answer, (IInferenceEscrow.CaptureResult, bytes32));
    }

    function _remember(Order memory order) private {
        bytes32 id = ESCROW.orderId(order);
        if (_known[id]) return;
        _known[id] = true;
        _orders.push(order);
    }

    function _order(uint256 who, uint256 keeper, uint128 maxAmount, uint40 time, uint256 nonce)
        private
        view
        returns (Order memory)
    {
        uint40 nowAt = uint40(block.timestamp);
        uint40 deadline = nowAt + uint40(bound(time, 600, 1 days));
        return Order({
            payer: accounts[who],
            token: address(TOKEN),
            maxAmount: maxAmount,
            requestCommit: keccak256("request"),
            nodeScope: 0,
            keeperId: keepers[keeper % 3],
            validAfter: nowAt,
            validBefore: deadline,
            captureDeadline: deadline,
            nonce: nonce % NONCES
        });
    }

    function _sign(uint256 who, bytes32 digest) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keys[who], digest);
        return abi.encodePacked(r, s, v);
    }

    function _compact(address payer, bytes32 digest) private view returns (bytes32, bytes32) {
        for (uint256 i; i < PAYERS; ++i) {
            if (accounts[i] == payer) return vm.signCompact(_keys[i], digest);
        }
        return (0, 0);
    }
}

contract InferenceEscrowInvariantTest is Test {
    address private ledger = makeAddr("ledger");
    IInferenceEscrow private escrow;
    TestToken private token;
    EscrowHandler private handler;
    EscrowReplay private replay;

    function setUp() public {
        vm.warp(1_800_000_000);
        token = new TestToken();
        IAccessManager manager = IAccessManager(Artifacts.deploy("AccessManager", abi.encode(address(this))));
        bytes memory arguments = abi.encode(
            ledger,
            IInferenceEscrow.Periods(7 days, 1 days, 10 minutes, 5 minutes, 3 days, 7 days, 30 days),
            address(1),
            manager
        );
        escrow = IInferenceEscrow(Artifacts.deploy("InferenceEscrow", arguments));
        handler = new EscrowHandler(escrow, token, ledger);
        bytes4[] memory guarded = new bytes4[](1);
        guarded[0] = IInferenceEscrow.pause.selector;
        manager.setTargetFunctionRole(address(escrow), guarded, 1);
        manager.grantRole(1, handler.GUARDIAN(), 0);
        replay = handler.REPLAY();
        for (uint256 i; i < 3; ++i) {
            handler.deposit(i, 1e12);
        }
        targetContract(address(handler));
    }

    /// @dev token.balanceOf = Σ free + Σ held + Σ locked + captured, but for what was given away.
    function invariant_everyUnitIsOwedToSomebody_andNoOrderIsCapturedTwice() public view {
        (uint256 free, uint256 held, uint256 locked) = _sums();
        uint256 owed = free + held + locked + escrow.captured(address(token));
        assertEq(token.balanceOf(address(escrow)), owed + handler.donated());
        assertEq(owed, handler.deposited() - handler.withdrawn());
        assertLe(handler.mostCapturesOfOneOrder(), 1);
    }

    /// @dev Too slow after every call, and what drifts once stays wrong: checked at the end of every run.
    function afterInvariant() public {
        _checkHeld();
        _checkReplay();
        _leave();
    }

    /// @dev What an account holds is the sum of its held orders.
    function _checkHeld() private view {
        (, uint256 held,) = _sums();
        uint256 sum;
        for (uint256 i; i < handler.ordersLength(); ++i) {
            IInferenceEscrow.OrderState memory state = escrow.orderState(escrow.orderId(handler.orderAt(i)));
            assertTrue(state.amount == 0 || state.status == IInferenceEscrow.OrderStatus.Held);
            sum += state.amount;
        }
        assertEq(held, sum);
    }

    /// @dev What an indexer knows from the events alone is the state, to the last bit.
    function _checkReplay() private view {
        address t = address(token);
        assertEq(replay.seq(), escrow.seq());
        assertEq(replay.pausedUntil(), escrow.pausedUntil());
        assertEq(replay.captured(t), escrow.captured(t));
        for (uint256 i; i < handler.accountsLength(); ++i) {
            address owner = handler.accounts(i);
            assertEq(abi.encode(replay.account(owner, t)), abi.encode(escrow.account(owner, t)));
            for (uint256 k; k < 3; ++k) {
                bytes32 keeper = handler.keepers(k);
                assertEq(abi.encode(replay.lockOf(owner, t, keeper)), abi.encode(escrow.lockOf(owner, t, keeper)));
                for (uint256 n; n < handler.NONCES(); ++n) {
                    assertEq(replay.nonceSpent(owner, t, keeper, n), escrow.nonceSpent(owner, t, keeper, n));
                }
            }
            for (uint256 n; n < handler.LOCK_NONCES(); ++n) {
                assertEq(replay.lockNonceSpent(owner, n), escrow.lockNonceSpent(owner, n));
            }
        }
        for (uint256 i; i < handler.ordersLength(); ++i) {
            bytes32 id = escrow.orderId(handler.orderAt(i));
            assertEq(abi.encode(replay.orderState(id)), abi.encode(escrow.orderState(id)));
        }
    }

    /// @dev From wherever a run ended: when the times have passed, everybody leaves with everything, and nobody's help.
    function _leave() private {
        vm.warp(block.timestamp + 30 days);
        for (uint256 i; i < handler.ordersLength(); ++i) {
            Order memory order = handler.orderAt(i);
            if (escrow.orderState(escrow.orderId(order)).amount != 0) escrow.reclaim(order);
        }
        for (uint256 i; i < handler.accountsLength(); ++i) {
            address owner = handler.accounts(i);
            for (uint256 k; k < 3; ++k) {
                bytes32 keeper = handler.keepers(k);
                if (escrow.lockOf(owner, address(token), keeper).amount != 0) {
                    escrow.unlock(owner, address(token), keeper);
                }
            }
            IInferenceEscrow.Account memory balance = escrow.account(owner, address(token));
            assertEq(balance.held, 0);
            if (balance.free != 0) {
                vm.prank(owner);
                escrow.withdraw(address(token), owner, balance.free);
            }
        }
        assertEq(token.balanceOf(address(escrow)), escrow.captured(address(token)) + handler.donated());
    }

    function _sums() private view returns (uint256 free, uint256 held, uint256 locked) {
        for (uint256 i; i < handler.accountsLength(); ++i) {
            address owner = handler.accounts(i);
            IInferenceEscrow.Account memory balance = escrow.account(owner, address(token));
            free += balance.free;
            held += balance.held;
            for (uint256 k; k < 3; ++k) {
                locked += escrow.lockOf(owner, address(token), handler.keepers(k)).amount;
            }
        }
    }
}
