// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IInferenceConsumer} from "../contracts/interfaces/IInferenceConsumer.sol";
import {ISettlementLedger} from "../contracts/interfaces/ISettlementLedger.sol";
import {Order} from "../contracts/libraries/Orders.sol";
import {InferenceConsumer} from "../contracts/devnet/InferenceConsumer.sol";
import {SettlementLedgerBase} from "./SettlementLedgerBase.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @notice A paying contract whose callback does one of several hostile things.
contract HostileConsumer is IInferenceConsumer {
    enum Mode {
        Accept,
        Revert,
        Burn,
        Bomb,
        RevertBomb,
        NeedAll,
        Reenter
    }

    ISettlementLedger private immutable _ledger;
    Mode public mode;
    bytes public call_;
    bytes public reentryResult;
    uint256 public gasGiven;
    uint256 public accepted;

    constructor(ISettlementLedger ledger) {
        _ledger = ledger;
    }

    function set(Mode mode_, bytes calldata data) external {
        mode = mode_;
        call_ = data;
    }

    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return this.isValidSignature.selector;
    }

    function onInference(bytes32, bytes32, bytes calldata) external {
        uint256 left = gasleft();
        Mode present = mode;
        require(present != Mode.Revert);
        if (present == Mode.Burn) {
            while (true) {}
        }
        if (present == Mode.Bomb || present == Mode.RevertBomb) {
            // As large as 500,000 gas can pay for.
            assembly {
                if eq(present, 3) { return(0, 400000) }
                revert(0, 400000)
            }
        }
        if (present == Mode.Reenter) {
            (bool success, bytes memory result) = address(_ledger).call(call_);
            require(!success);
            reentryResult = result;
        }
        if (present == Mode.NeedAll) require(left >= 495_000);
        gasGiven = left;
        ++accepted;
    }
}

contract SettlementLedgerDeliverTest is SettlementLedgerBase {
    HostileConsumer private _consumer;
    Settlement private _settled;
    bytes32 private _id;

    function setUp() public override {
        super.setUp();
        _consumer = new HostileConsumer(ledger);
        _fund(address(_consumer), 10_000);
        Order memory order = _order(0, 1);
        order.payer = address(_consumer);
        escrow.hold(order, "");
        Settlement memory s = _settlement(node, order, 100);
        _id = _settle(s);
        _settled = s;
    }

    function test_delivers_once() public {
        vm.expectEmit(address(ledger));
        emit ISettlementLedger.Delivered(2, _id, address(_consumer));
        vm.prank(stranger);
        ledger.deliver(_id, _settled.receipt, _output(1));
        assertTrue(ledger.delivered(_id));
        assertEq(_consumer.accepted(), 1);
        assertEq(ledger.effectSeq(), 1, "a delivery is no effect");
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.AlreadyDelivered.selector, _id));
        ledger.deliver(_id, _settled.receipt, _output(1));
    }

    function test_failureChangesNothing_andCanBeRepeated() public {
        for (uint8 mode = 1; mode <= uint8(HostileConsumer.Mode.RevertBomb); ++mode) {
            if (mode == uint8(HostileConsumer.Mode.Bomb)) continue;
            _consumer.set(HostileConsumer.Mode(mode), "");
            uint256 before = gasleft();
            vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.DeliveryFailed.selector, _id));
            ledger.deliver(_id, _settled.receipt, _output(1));
            assertLt(before - gasleft(), 620_000, "bounded");
            assertFalse(ledger.delivered(_id));
            assertEq(ledger.seq(), 1);
            assertEq(ledger.settled(_id), keccak256(abi.encode(_settled.receipt)));
        }
        _consumer.set(HostileConsumer.Mode.Accept, "");
        ledger.deliver(_id, _settled.receipt, _output(1));
        assertEq(_consumer.accepted(), 1);
    }

    function test_returnBombIsNotCopied() public {
        _consumer.set(HostileConsumer.Mode.Bomb, "");
        uint256 before = gasleft();
        ledger.deliver(_id, _settled.receipt, _output(1));
        // 400 kB cost the consumer its own gas; copying them would cost the ledger about as much again.
        assertLt(before - gasleft(), 560_000);
    }

    /// @dev Whatever gas the caller brings, the callback gets its 500,000 or the delivery does not happen.
    function testFuzz_attack_starvedCallback(uint256 gas_) public {
        gas_ = bound(gas_, 30_000, 700_000);
        _consumer.set(HostileConsumer.Mode.NeedAll, "");
        bytes memory call_ = abi.encodeCall(ledger.deliver, (_id, _settled.receipt, _output(1)));
        (bool success, bytes memory result) = address(ledger).call{gas: gas_}(call_);
        if (success) {
            assertGe(_consumer.gasGiven(), 499_000);
        } else {
            assertEq(_consumer.accepted(), 0);
            assertFalse(ledger.delivered(_id));
            if (result.length != 0) assertEq(bytes4(result), ISettlementLedger.NotEnoughGas.selector);
        }
        (success,) = address(ledger).call{gas: 700_000}(call_);
        assertTrue(ledger.delivered(_id));
    }

    function test_attack_reentrancy() public {
        Settlement memory other = _settlement(node, _order(0, 2), 100);
        bytes[2] memory calls = [
            abi.encodeCall(
                ledger.settleVerified,
                (other.order, other.orderSignature, other.receipt, other.inferenceSignature, other.meterSignature)
            ),
            abi.encodeCall(ledger.deliver, (_id, _settled.receipt, _output(1)))
        ];
        uint256 snapshot = vm.snapshotState();
        for (uint256 i; i < calls.length; ++i) {
            _consumer.set(HostileConsumer.Mode.Reenter, calls[i]);
            ledger.deliver(_id, _settled.receipt, _output(1));
            assertEq(bytes4(_consumer.reentryResult()), ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            assertEq(_consumer.accepted(), 1);
            vm.revertToState(snapshot);
        }
    }

    function test_refusals() public {
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.NotSettled.selector, bytes32("no")));
        ledger.deliver("no", _settled.receipt, _output(1));
        vm.expectRevert(
            abi.encodeWithSelector(ISettlementLedger.WrongOutput.selector, keccak256("wrong"), keccak256(_output(1)))
        );
        ledger.deliver(_id, _settled.receipt, "wrong");
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.OutputTooLong.selector, 16_385, 16_384));
        ledger.deliver(_id, _settled.receipt, new bytes(16_385));
        Settlement memory s = _settled;
        s.receipt.payer = stranger;
        vm.expectPartialRevert(ISettlementLedger.WrongReceipt.selector);
        ledger.deliver(_id, s.receipt, _output(1));

        // A wallet without code has nobody to deliver to.
        s = _settlement(node, _order(0, 3), 10);
        bytes32 id = _settle(s);
        vm.expectRevert(abi.encodeWithSelector(ISettlementLedger.NotAContract.selector, payer));
        ledger.deliver(id, s.receipt, _output(3));
    }

    function test_longestOutput() public {
        bytes memory output = new bytes(16_384);
        for (uint256 i; i < output.length; ++i) {
            output[i] = bytes1(uint8(i));
        }
        Order memory order = _order(0, 9);
        order.payer = address(_consumer);
        escrow.hold(order, "");
        Settlement memory s = _settlement(node, order, 10);
        s.receipt.outputHash = keccak256(output);
        _signEvidence(node, s);
        bytes32 id = _settle(s);
        _consumer.set(HostileConsumer.Mode.NeedAll, "");
        ledger.deliver(id, s.receipt, output);
        assertTrue(ledger.delivered(id));
    }

    // ── The example protocol ─────────────────────────────────────────────────────────────────────────────────────────

    function test_exampleConsumer() public {
        InferenceConsumer consumer = InferenceConsumer(Artifacts.deploy("InferenceConsumer", abi.encode(escrow)));
        _fund(address(consumer), 5000);
        bytes memory request = "{\"messages\":[],\"model\":\"canned\"}";
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(InferenceConsumer.NotAllowed.selector, stranger));
        consumer.ask(address(token), 1000, 0, 1 hours, request);
        bytes32 orderId = consumer.ask(address(token), 1000, 0, 1 hours, request);

        uint40 time = uint40(block.timestamp);
        Order memory order = Order(
            address(consumer),
            address(token),
            1000,
            _commit(keccak256(request), 0),
            0,
            0,
            time,
            time + 1 hours,
            time + 2 hours,
            0
        );
        assertEq(escrow.orderId(order), orderId);
        Settlement memory s = _settlement(node, order, 700);
        s.receipt.requestHash = keccak256(request);
        _signEvidence(node, s);
        bytes32 id = _settle(s);
        ledger.deliver(id, s.receipt, _output(0));
        assertEq(consumer.answers(orderId), _output(0));
        vm.expectRevert(abi.encodeWithSelector(InferenceConsumer.NotAllowed.selector, address(this)));
        consumer.onInference(orderId, id, "forged");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(InferenceConsumer.NotAllowed.selector, stranger));
        consumer.withdraw(address(token), 4300);
        consumer.withdraw(address(token), 4300);
        assertEq(token.balanceOf(address(this)), 4300);
    }
}
