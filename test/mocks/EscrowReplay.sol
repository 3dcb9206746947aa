// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {Order} from "../../contracts/libraries/Orders.sol";

/// @notice Rebuilds the escrow's whole state from its events, as an indexer would, and never looks at the escrow.
contract EscrowReplay {
    uint64 public seq;
    uint40 public pausedUntil;
    mapping(address token => uint256) public captured;
    mapping(address owner => mapping(address token => IInferenceEscrow.Account)) internal _accounts;
    mapping(address payer => mapping(address token => mapping(bytes32 keeperId => IInferenceEscrow.LockState))) internal
        _locks;
    mapping(
        address payer => mapping(address token => mapping(bytes32 keeperId => mapping(uint256 word => uint256)))
    ) internal _nonces;
    mapping(address payer => mapping(uint256 word => uint256)) internal _lockNonces;
    mapping(bytes32 orderId => IInferenceEscrow.OrderState) internal _orders;

    error Gap(uint64 actual, uint64 expected);
    error UnknownEvent(bytes32 topic);

    function apply_(Vm.Log memory log) external {
        bytes32 topic = log.topics[0];
        uint64 actual = abi.decode(log.data, (uint64));
        if (actual != seq + 1) revert Gap(actual, seq + 1);
        seq = actual;
        if (topic == IInferenceEscrow.OrderOpened.selector) return _opened(log);
        if (topic == IInferenceEscrow.OrderCaptured.selector) return _captured(log);
        if (topic == IInferenceEscrow.LockNoncesCancelled.selector) {
            (, uint248 word_, uint256 mask_) = abi.decode(log.data, (uint64, uint248, uint256));
            _lockNonces[_address(log, 1)][word_] |= mask_;
            return;
        }
        if (topic == IInferenceEscrow.Paused.selector) {
            (, pausedUntil) = abi.decode(log.data, (uint64, uint40));
            return;
        }
        if (topic == IInferenceEscrow.OrderReclaimed.selector) {
            (, uint128 reclaimed) = abi.decode(log.data, (uint64, uint128));
            IInferenceEscrow.Account storage payer = _accounts[_address(log, 2)][_address(log, 3)];
            payer.held -= reclaimed;
            payer.free += reclaimed;
            _orders[log.topics[1]].amount = 0;
            _orders[log.topics[1]].status = IInferenceEscrow.OrderStatus.Reclaimed;
            return;
        }

        address owner = _address(log, 1);
        address token = _address(log, 2);
        if (topic == IInferenceEscrow.Locked.selector) {
            (, uint128 added, uint128 total, uint40 until, uint256 nonce) =
                abi.decode(log.data, (uint64, uint128, uint128, uint40, uint256));
            _accounts[owner][token].free -= added;
            _locks[owner][token][log.topics[3]] = IInferenceEscrow.LockState(total, until);
            _lockNonces[owner][nonce >> 8] |= 1 << (nonce & 0xff);
            return;
        }
        if (topic == IInferenceEscrow.NoncesCancelled.selector) {
            (, uint248 word, uint256 mask) = abi.decode(log.data, (uint64, uint248, uint256));
            _nonces[owner][token][log.topics[3]][word] |= mask;
            return;
        }
        (, uint128 amount) = abi.decode(log.data, (uint64, uint128));
        if (topic == IInferenceEscrow.Deposited.selector) {
            _accounts[owner][token].free += amount;
        } else if (topic == IInferenceEscrow.Withdrawn.selector) {
            _accounts[owner][token].free -= amount;
        } else if (topic == IInferenceEscrow.Unlocked.selector) {
            delete _locks[owner][token][log.topics[3]];
            _accounts[owner][token].free += amount;
        } else if (topic == IInferenceEscrow.Credited.selector) {
            captured[token] -= amount;
            _accounts[owner][token].free += amount;
        } else {
            revert UnknownEvent(topic);
        }
    }

    function account(address owner, address token) external view returns (IInferenceEscrow.Account memory) {
        return _accounts[owner][token];
    }

    function lockOf(address payer, address token, bytes32 keeperId)
        external
        view
        returns (IInferenceEscrow.LockState memory)
    {
        return _locks[payer][token][keeperId];
    }

    function orderState(bytes32 orderId) external view returns (IInferenceEscrow.OrderState memory) {
        return _orders[orderId];
    }

    function nonceSpent(address payer, address token, bytes32 keeperId, uint256 nonce) external view returns (bool) {
        return _nonces[payer][token][keeperId][nonce >> 8] & (1 << (nonce & 0xff)) != 0;
    }

    function lockNonceSpent(address payer, uint256 nonce) external view returns (bool) {
        return _lockNonces[payer][nonce >> 8] & (1 << (nonce & 0xff)) != 0;
    }

    function _opened(Vm.Log memory log) private {
        (, Order memory order,) = abi.decode(log.data, (uint64, Order, bytes));
        IInferenceEscrow.Account storage payer = _accounts[order.payer][order.token];
        payer.free -= order.maxAmount;
        payer.held += order.maxAmount;
        _orders[log.topics[1]] =
            IInferenceEscrow.OrderState(order.maxAmount, order.captureDeadline, IInferenceEscrow.OrderStatus.Held);
    }

    function _captured(Vm.Log memory log) private {
        (
            ,
            bytes32 keeperId,
            uint256 nonce,
            IInferenceEscrow.Sources memory sources,
            uint128 released,
            bool nonceSpent_
        ) = abi.decode(log.data, (uint64, bytes32, uint256, IInferenceEscrow.Sources, uint128, bool));
        address payer = _address(log, 2);
        address token = _address(log, 3);
        IInferenceEscrow.Account storage balance = _accounts[payer][token];
        balance.held -= sources.hold + released;
        balance.free += released;
        balance.free -= sources.free;
        _locks[payer][token][keeperId].amount -= sources.lock;
        captured[token] += uint256(sources.hold) + sources.lock + sources.free;
        if (nonceSpent_) {
            _nonces[payer][token][keeperId][nonce >> 8] |= 1 << (nonce & 0xff);
        } else {
            _orders[log.topics[1]].amount = 0;
            _orders[log.topics[1]].status = IInferenceEscrow.OrderStatus.Captured;
        }
    }

    function _address(Vm.Log memory log, uint256 topic) private pure returns (address) {
        return address(uint160(uint256(log.topics[topic])));
    }
}
