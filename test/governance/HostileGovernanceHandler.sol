// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IAuthority} from "@openzeppelin/contracts/access/manager/IAuthority.sol";
import {Vm} from "forge-std/Vm.sol";
import {IFeeSplitter} from "../../contracts/interfaces/IFeeSplitter.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {ISettlementLedger} from "../../contracts/interfaces/ISettlementLedger.sol";
import {BatchRecord} from "../../contracts/libraries/Batches.sol";
import {Lock, Order} from "../../contracts/libraries/Orders.sol";
import {Access} from "../../script/Access.sol";
import {Artifacts} from "../../script/Artifacts.sol";
import {SettlementLedgerBase} from "../SettlementLedgerBase.sol";
import {Attacks} from "./Attacks.sol";

/// @notice An authority that lets everybody do everything.
contract OpenAuthority is IAuthority {
    function canCall(address, address, bytes4) external pure returns (bool) {
        return true;
    }
}

/// @notice Payers, a keeper and a node who go about their business while admin and guardian, who wait for nothing, call every
///         privileged function that there is. Its books know only what payers did and signed.
contract HostileGovernanceHandler is SettlementLedgerBase {
    uint256 private constant PAYERS = 3;
    uint128 private constant PRICE = 500;

    struct Books {
        uint128 deposited;
        uint128 withdrawn;
        uint128 free;
        uint128 held;
        uint128 locked;
        /// Captured from orders that this payer signed.
        uint128 spent;
        uint40 until;
    }

    address public guardian = makeAddr("guardian");
    IFeeSplitter public splitter;
    string[] public attackTargets;
    string[] public attackFunctions;
    mapping(bytes32 attack => uint256) public landed;
    uint256 public attacks;
    uint256 public captures;
    uint256 public finalized;
    /// A privileged call changed somebody's money.
    bool public moved;
    /// A capture took more than was signed, or an order was captured twice.
    bool public overcharged;
    /// A batch paid others or otherwise than recorded.
    bool public misrouted;

    Attacks private _attacks;
    mapping(string name => address) private _at;
    Books[PAYERS] private _books;
    Order[] private _held;
    bytes[] private _batches;
    mapping(bytes32 orderId => bool) private _signed;
    mapping(bytes32 orderId => bool) private _captured;
    uint256 private _nonce = 1;

    function setUp() public override {
        super.setUp();
        IFeeSplitter.Share[] memory shares = new IFeeSplitter.Share[](1);
        shares[0] = IFeeSplitter.Share(treasury, 10_000);
        splitter = IFeeSplitter(Artifacts.deploy("FeeSplitter", abi.encode(escrow, manager, uint40(7 days), shares)));
        manager.grantRole(1, guardian, 0);
        manager.setTargetFunctionRole(address(escrow), Access.selectorsOf("InferenceEscrow", "guardian"), 1);
        manager.setTargetFunctionRole(address(nodes), Access.selectorsOf("NodeRegistry", "guardian"), 1);
        ledger.setFee(37, address(splitter));

        _at["AccessManager"] = address(manager);
        _at["NodeRegistry"] = address(nodes);
        _at["KeeperRegistry"] = address(keepers);
        _at["InferenceEscrow"] = address(escrow);
        _at["SettlementLedger"] = address(ledger);
        _at["FeeSplitter"] = address(splitter);
        string[] memory contracts = Access.contracts();
        for (uint256 i; i < contracts.length; ++i) {
            _list(contracts[i], "admin");
            _list(contracts[i], "guardian");
        }
        address[] memory places = new address[](5);
        (places[0], places[1], places[2]) = (address(escrow), address(ledger), address(nodes));
        (places[3], places[4]) = (address(splitter), address(keepers));
        address[] memory people = new address[](6);
        (people[0], people[1], people[2]) = (address(this), guardian, stranger);
        (people[3], people[4], people[5]) = (address(new OpenAuthority()), address(p256), address(rsa));
        bytes32[] memory ids = new bytes32[](2);
        (ids[0], ids[1]) = (node.id, declared.id);
        _attacks = new Attacks(places, people, ids);

        _books[0].deposited = _books[0].free = _free(payer);
        for (uint256 i = 1; i < PAYERS; ++i) {
            _fund(owner(i), 1e9);
            _books[i].deposited = _books[i].free = 1e9;
        }
    }

    function key(uint256 i) public view returns (uint256) {
        return i % PAYERS == 0 ? payerKey : 7000 + i % PAYERS;
    }

    function owner(uint256 i) public view returns (address) {
        return vm.addr(key(i));
    }

    function attackCount() external view returns (uint256) {
        return attackFunctions.length;
    }

    // ── Hostile ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev A few privileged calls with random arguments, by admin and guardian; none may change a unit of anybody's money.
    function attack(uint256 which, uint256 seed) public {
        for (uint256 i; i < 4; ++i) {
            uint256 index = uint256(keccak256(abi.encode(which, i))) % attackFunctions.length;
            strike(index, uint256(keccak256(abi.encode(seed, i))));
        }
    }

    function strike(uint256 index, uint256 seed) public returns (bool success) {
        string memory function_ = attackFunctions[index];
        bytes memory call_ = _attacks.make(function_, seed);
        address target = _at[attackTargets[index]];
        bytes32 before = _money();
        ++attacks;
        (success,) = target.call(call_);
        if (!success) {
            vm.prank(guardian);
            (success,) = target.call(call_);
        }
        if (success) ++landed[keccak256(abi.encode(attackTargets[index], function_))];
        if (_money() != before) moved = true;
    }

    function landedAt(uint256 index) external view returns (uint256) {
        return landed[keccak256(abi.encode(attackTargets[index], attackFunctions[index]))];
    }

    // ── Payers ───────────────────────────────────────────────────────────────────────────────────────────────────────

    function deposit(uint256 who, uint128 amount) external {
        if (_paused()) return;
        who %= PAYERS;
        amount = uint128(bound(amount, 1, 1e9));
        _fund(owner(who), amount);
        _books[who].deposited += amount;
        _books[who].free += amount;
    }

    function withdraw(uint256 who, uint128 amount) external {
        who %= PAYERS;
        if (_books[who].free == 0) return;
        _withdraw(who, uint128(bound(amount, 1, _books[who].free)));
    }

    function open(uint256 who, uint32 time, bool byPayer) external {
        who %= PAYERS;
        Order memory order = _orderOf(who);
        order.captureDeadline = order.validBefore = uint40(block.timestamp) + uint40(bound(time, 10 minutes, 3 days));
        if (_books[who].free < order.maxAmount) return;
        if (byPayer && _paused()) return;
        if (byPayer) _open(order);
        else escrow.hold(order, _sign(key(who), escrow.orderId(order)));
        _held.push(order);
        _books[who].free -= order.maxAmount;
        _books[who].held += order.maxAmount;
    }

    function lock(uint256 who, uint128 amount, uint32 time) external {
        who %= PAYERS;
        if (_paused() || _books[who].free == 0) return;
        amount = uint128(bound(amount, 1, _books[who].free));
        uint40 until = uint40(block.timestamp) + uint40(bound(time, 1, 7 days));
        if (until < _books[who].until) until = _books[who].until;
        Lock memory lock_ = Lock(owner(who), address(token), keeperId, amount, until, _nonce++);
        escrow.lock(lock_, _sign(key(who), escrow.lockDigest(lock_)));
        _books[who].free -= amount;
        _books[who].locked += amount;
        _books[who].until = until;
    }

    function unlock(uint256 who) external {
        _unlock(who % PAYERS);
    }

    function reclaim(uint256 which) external {
        if (_held.length != 0) _reclaim(which % _held.length);
    }

    function pass(uint32 time) external {
        skip(bound(time, 0, 3 days));
    }

    // ── Keeper ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Rows that the payers signed for this node; what the admin did to node or lists may make the ledger skip them.
    function batch(uint8 size, uint256 kinds) external {
        uint256 count = bound(size, 1, 6);
        ISettlementLedger.OrderRow[] memory rows = new ISettlementLedger.OrderRow[](count);
        for (uint256 i; i < count; ++i) {
            uint256 who = (kinds >> (2 * i)) % PAYERS;
            Order memory order = _orderOf(who);
            _signed[escrow.orderId(order)] = true;
            rows[i] = _row(key(who), order, PRICE, uint16((kinds >> (20 + i)) % 2));
            rows[i].nodeScope = order.nodeScope;
        }
        vm.recordLogs();
        vm.prank(hotKey, hotKey);
        ledger.settleBatch(keeperId, address(token), _refs(node, declared), rows, 0, "");
        _book();
    }

    function finalize(uint256 which) external {
        if (_batches.length == 0) return;
        which %= _batches.length;
        BatchRecord memory record = abi.decode(_batches[which], (BatchRecord));
        if (block.timestamp < record.settledAt + WINDOW) return;
        _finalize(which);
    }

    // ── The end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev Everybody leaves with exactly its own, and every batch pays as it was recorded.
    function leave() external {
        skip(40 days);
        while (_batches.length != 0) {
            _finalize(_batches.length - 1);
        }
        for (uint256 i; i < _held.length; ++i) {
            _reclaim(i);
        }
        for (uint256 i; i < PAYERS; ++i) {
            _unlock(i);
            if (_books[i].free != 0) _withdraw(i, _books[i].free);
            require(_books[i].held == 0 && _books[i].locked == 0, "something is left in the books");
            require(token.balanceOf(owner(i)) == _books[i].deposited - _books[i].spent, "not exactly its own");
        }
        check();
    }

    /// @dev The escrow's state is what the books say.
    function check() public view {
        for (uint256 i; i < PAYERS; ++i) {
            IInferenceEscrow.Account memory account = escrow.account(owner(i), address(token));
            require(account.free == _books[i].free, "free");
            require(account.held == _books[i].held, "held");
            require(escrow.lockOf(owner(i), address(token), keeperId).amount == _books[i].locked, "locked");
        }
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _list(string memory name, string memory who) private {
        string[] memory functions = Access.functionsOf(name, who);
        for (uint256 i; i < functions.length; ++i) {
            require(_at[name] != address(0), string.concat("privileged functions in ", name, ": attack it too"));
            attackTargets.push(name);
            attackFunctions.push(functions[i]);
        }
    }

    function _paused() private view returns (bool) {
        return block.timestamp < escrow.pausedUntil();
    }

    /// @dev Names the node: whoever the admin lets in later is somebody else.
    function _orderOf(uint256 who) private returns (Order memory order) {
        order = _order(keeperId, _nonce++);
        order.payer = owner(who);
        order.nodeScope = node.id;
    }

    function _withdraw(uint256 who, uint128 amount) private {
        uint256 before = token.balanceOf(owner(who));
        vm.prank(owner(who));
        escrow.withdraw(address(token), owner(who), amount);
        require(token.balanceOf(owner(who)) - before == amount, "withdrawn");
        _books[who].free -= amount;
        _books[who].withdrawn += amount;
    }

    function _unlock(uint256 who) private {
        uint128 amount = _books[who].locked;
        if (amount == 0 || block.timestamp < _books[who].until) return;
        escrow.unlock(owner(who), address(token), keeperId);
        _books[who].locked = 0;
        _books[who].free += amount;
    }

    function _reclaim(uint256 which) private {
        Order memory order = _held[which];
        if (escrow.orderState(escrow.orderId(order)).status != IInferenceEscrow.OrderStatus.Held) return;
        if (block.timestamp <= order.captureDeadline) return;
        escrow.reclaim(order);
        uint256 who = _index(order.payer);
        _books[who].held -= order.maxAmount;
        _books[who].free += order.maxAmount;
    }

    function _finalize(uint256 which) private {
        BatchRecord memory record = abi.decode(_batches[which], (BatchRecord));
        uint128 fees;
        uint128 owed;
        for (uint256 i; i < record.credits.length; ++i) {
            fees += record.credits[i].fee;
            if (record.credits[i].nodeId == node.id) owed += record.credits[i].amount - record.credits[i].fee;
            else misrouted = true;
        }
        uint128 before = _free(node.payout);
        uint128 feesBefore = fees == 0 ? 0 : _free(record.feeRecipient);
        ledger.finalize(record);
        if (_free(node.payout) - before != owed) misrouted = true;
        if (fees != 0 && _free(record.feeRecipient) - feesBefore != fees) misrouted = true;
        if (fees > uint256(record.total) / 100) misrouted = true;
        ++finalized;
        _batches[which] = _batches[_batches.length - 1];
        _batches.pop();
    }

    /// @dev Takes captures from the escrow's events into the books.
    function _book() private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter == address(ledger) && logs[i].topics[0] == ISettlementLedger.BatchSettled.selector) {
                (,, BatchRecord memory record,) = abi.decode(logs[i].data, (uint64, uint64, BatchRecord, bytes));
                _batches.push(abi.encode(record));
            }
            if (logs[i].emitter != address(escrow)) continue;
            if (logs[i].topics[0] != IInferenceEscrow.OrderCaptured.selector) continue;
            bytes32 id = logs[i].topics[1];
            (,,, IInferenceEscrow.Sources memory sources,,) =
                abi.decode(logs[i].data, (uint64, bytes32, uint256, IInferenceEscrow.Sources, uint128, bool));
            Books storage books = _books[_index(address(uint160(uint256(logs[i].topics[2]))))];
            books.free -= sources.free;
            books.locked -= sources.lock;
            books.spent += sources.free + sources.lock;
            if (!_signed[id] || _captured[id] || sources.free + sources.lock != PRICE) overcharged = true;
            _captured[id] = true;
            ++captures;
        }
    }

    function _index(address payer_) private view returns (uint256) {
        for (uint256 i; i < PAYERS; ++i) {
            if (owner(i) == payer_) return i;
        }
        revert("not one of the payers");
    }

    /// @dev Everything that anybody owns or is owed.
    function _money() private view returns (bytes32 digest) {
        address t = address(token);
        for (uint256 i; i < PAYERS; ++i) {
            digest = keccak256(abi.encode(digest, escrow.account(owner(i), t), escrow.lockOf(owner(i), t, keeperId)));
        }
        digest = keccak256(
            abi.encode(
                digest,
                escrow.account(node.payout, t),
                escrow.account(declared.payout, t),
                escrow.account(address(splitter), t),
                escrow.account(treasury, t),
                escrow.captured(t),
                token.balanceOf(address(escrow)),
                ledger.accumulator(),
                nodes.node(node.id).payout,
                nodes.node(declared.id).payout
            )
        );
        for (uint256 i; i < _held.length; ++i) {
            digest = keccak256(abi.encode(digest, escrow.orderState(escrow.orderId(_held[i]))));
        }
    }
}
