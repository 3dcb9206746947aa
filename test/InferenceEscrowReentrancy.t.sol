// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {Lock, Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";
import {ReentrantToken} from "./mocks/HostileTokens.sol";

/// @notice A token that calls back: every mutator, from within every call that moves tokens, is refused.
contract InferenceEscrowReentrancyTest is InferenceEscrowBase {
    ReentrantToken private hostile;

    /// @dev The hostile token is its own ledger, so not even the ledger's rights get it in.
    function setUp() public override {
        super.setUp();
        hostile = new ReentrantToken();
        escrow = _deploy(address(hostile), address(new OpenPermit2()));
        hostile.mint(address(this), 1e6);
        hostile.mint(address(hostile), 1e6);
        hostile.approve(address(escrow), type(uint256).max);
        vm.prank(address(hostile));
        hostile.approve(address(escrow), type(uint256).max);
        escrow.deposit(address(hostile), address(this), 1000);
        escrow.deposit(address(hostile), address(hostile), 1000);
    }

    function test_everyMutatorFromEveryTransfer() public {
        bytes[] memory mutators = _mutators();
        for (uint256 i; i < mutators.length; ++i) {
            for (uint256 door; door < 5; ++door) {
                hostile.aim(address(escrow), mutators[i]);
                _enter(door);
                assertTrue(hostile.tried());
                assertFalse(hostile.succeeded());
                assertEq(bytes4(hostile.answer()), ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
            }
        }
        uint256 count = mutators.length;
        // Four doors put in 10, one takes 10 out: no more, no less was booked.
        assertEq(escrow.account(address(this), address(hostile)).free, 1000 + count * 30);
        assertEq(escrow.account(address(hostile), address(hostile)).free, 1000);
        assertEq(hostile.balanceOf(address(escrow)), 2000 + count * 30);
    }

    /// @dev The guard ends with the call: one transaction can make many.
    function test_guard_opensAgain() public {
        for (uint256 i; i < 3; ++i) {
            escrow.deposit(address(hostile), address(this), 10);
            escrow.withdraw(address(hostile), address(this), 10);
        }
    }

    /// @dev Tokens that arrive while a deposit runs are nobody's credit.
    function test_nestedTransferIsNotCreditedTwice() public {
        hostile.mint(address(this), 10);
        hostile.approve(address(hostile), type(uint256).max);
        hostile.aim(address(hostile), abi.encodeCall(hostile.transferFrom, (address(this), address(escrow), 10)));
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.TransferMismatch.selector, 20, 10));
        escrow.deposit(address(hostile), address(this), 10);
    }

    function _enter(uint256 door) private {
        address token_ = address(hostile);
        hostile.approve(address(escrow), 10);
        if (door == 0) {
            escrow.deposit(token_, address(this), 10);
        } else if (door == 1) {
            escrow.depositWithPermit(token_, address(this), 10, NOW, 27, 0, 0);
        } else if (door == 2) {
            escrow.depositWithAuthorization(token_, address(this), address(this), 10, 0, NOW, 0, new bytes(65));
        } else if (door == 3) {
            hostile.approve(escrow.permit2(), 10);
            escrow.depositWithPermit2(
                IInferenceEscrow.Permit2Deposit(token_, 10, 0, NOW), address(this), address(this), ""
            );
        } else {
            escrow.withdraw(token_, address(this), 10);
        }
    }

    function _mutators() private view returns (bytes[] memory calls) {
        address token_ = address(hostile);
        Order memory order = _order(1, KEEPER, 0);
        (order.payer, order.token) = (token_, token_);
        Lock memory lock = Lock(token_, token_, KEEPER, 1, NOW + 1, 0);
        calls = new bytes[](15);
        calls[0] = abi.encodeCall(escrow.deposit, (token_, token_, 1));
        calls[1] = abi.encodeCall(escrow.depositWithPermit, (token_, token_, 1, NOW, 27, 0, 0));
        calls[2] =
            abi.encodeCall(escrow.depositWithAuthorization, (token_, token_, token_, 1, 0, NOW, 0, new bytes(65)));
        calls[3] = abi.encodeCall(
            escrow.depositWithPermit2, (IInferenceEscrow.Permit2Deposit(token_, 1, 0, NOW), token_, token_, "")
        );
        calls[4] = abi.encodeCall(escrow.withdraw, (token_, token_, 1));
        calls[5] = abi.encodeCall(escrow.unlock, (token_, token_, KEEPER));
        calls[6] = abi.encodeCall(escrow.reclaim, (order));
        calls[7] = abi.encodeCall(escrow.cancelNonces, (token_, KEEPER, 0, 1));
        calls[8] = abi.encodeCall(escrow.cancelLockNonces, (0, 1));
        calls[9] = abi.encodeCall(escrow.lock, (lock, ""));
        calls[10] = abi.encodeCall(escrow.openOrder, (order, ""));
        calls[11] = abi.encodeCall(escrow.hold, (order, ""));
        calls[12] = abi.encodeCall(escrow.capture, (order, 0, 0, 1, true));
        calls[13] = abi.encodeCall(escrow.captureTo, (order, 0, 0, 1, true, token_, token_, 0, 0));
        calls[14] = abi.encodeCall(escrow.credit, (token_, token_, 1, 0));
    }
}

/// @notice Moves what it is asked to move.
contract OpenPermit2 is IPermit2 {
    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata details,
        address owner,
        bytes32,
        string calldata,
        bytes calldata
    ) external {
        ReentrantToken(permit.permitted.token).transferFrom(owner, details.to, details.requestedAmount);
    }
}
