// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";
import {FalseToken, FeeToken, NoReturnToken, PlainToken, RebasingToken, SilentToken} from "./mocks/HostileTokens.sol";
import {TestPermit2} from "./mocks/TestPermit2.sol";

contract InferenceEscrowDepositTest is InferenceEscrowBase {
    bytes32 private constant RECEIVE = keccak256(
        "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );
    string private constant WITNESS =
        "Deposit witness)Deposit(address beneficiary)TokenPermissions(address token,uint256 amount)";

    address private beneficiary = makeAddr("beneficiary");

    function setUp() public override {
        super.setUp();
        permit2 = address(new TestPermit2());
        escrow = _deploy(ledger, permit2);
        token.mint(payer, 1000);
        vm.prank(payer);
        token.approve(permit2, 1000);
    }

    // ── Approval ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_deposit_creditsTheBeneficiary() public {
        vm.startPrank(payer);
        token.approve(address(escrow), 400);
        vm.expectEmit(address(escrow));
        emit IInferenceEscrow.Deposited(1, beneficiary, address(token), payer, 400);
        escrow.deposit(address(token), beneficiary, 400);
        _assertAccount(beneficiary, 400, 0);
        _assertAccount(payer, 0, 0);
        assertEq(token.balanceOf(address(escrow)), 400);
    }

    function test_deposit_refusesZeroes() public {
        vm.expectRevert(IInferenceEscrow.ZeroAmount.selector);
        escrow.deposit(address(token), beneficiary, 0);
        vm.expectRevert(IInferenceEscrow.ZeroAddress.selector);
        escrow.deposit(address(token), address(0), 1);
    }

    function test_deposit_ignoresDonations() public {
        token.mint(address(escrow), 7);
        vm.startPrank(payer);
        token.approve(address(escrow), 400);
        escrow.deposit(address(token), beneficiary, 400);
        _assertAccount(beneficiary, 400, 0);
    }

    function testFuzz_deposit_neverTruncates(uint256 amount) public {
        amount = bound(amount, 1, type(uint256).max - 1000);
        PlainToken plain = new PlainToken();
        plain.mint(address(this), amount);
        plain.approve(address(escrow), amount);
        if (amount > type(uint128).max) {
            vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.AmountOverflow.selector, amount, type(uint128).max));
            escrow.deposit(address(plain), beneficiary, amount);
        } else {
            escrow.deposit(address(plain), beneficiary, amount);
            assertEq(escrow.account(beneficiary, address(plain)).free, amount);
        }
    }

    /// @dev The whole of a token stays under 2^128, so no later sum of accounts can overflow and stop a batch.
    function test_deposit_limitsTheWholeOfAToken() public {
        PlainToken plain = new PlainToken();
        plain.mint(address(this), uint256(type(uint128).max) + 1);
        plain.approve(address(escrow), type(uint256).max);
        escrow.deposit(address(plain), beneficiary, type(uint128).max);
        vm.expectRevert(
            abi.encodeWithSelector(
                IInferenceEscrow.AmountOverflow.selector, uint256(type(uint128).max) + 1, type(uint128).max
            )
        );
        escrow.deposit(address(plain), payer, 1);
    }

    // ── EIP-2612 ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_depositWithPermit() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(300);
        vm.prank(payer);
        escrow.depositWithPermit(address(token), beneficiary, 300, NOW + 60, v, r, s);
        _assertAccount(beneficiary, 300, 0);
    }

    function test_depositWithPermit_survivesFrontRunning() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(300);
        vm.prank(stranger);
        token.permit(payer, address(escrow), 300, NOW + 60, v, r, s);
        vm.prank(payer);
        escrow.depositWithPermit(address(token), beneficiary, 300, NOW + 60, v, r, s);
        _assertAccount(beneficiary, 300, 0);
    }

    /// @dev An allowance that the payer left is not a stranger's to deposit.
    function test_depositWithPermit_takesFromTheCallerOnly() public {
        (uint8 v, bytes32 r, bytes32 s) = _permit(300);
        vm.prank(stranger);
        vm.expectRevert();
        escrow.depositWithPermit(address(token), stranger, 300, NOW + 60, v, r, s);
        _assertAccount(stranger, 0, 0);
    }

    function test_depositWithPermit_failsWithoutAllowance() public {
        vm.prank(payer);
        vm.expectRevert();
        escrow.depositWithPermit(
            address(token), beneficiary, 300, NOW + 60, 27, bytes32(uint256(1)), bytes32(uint256(1))
        );
    }

    // ── EIP-3009 ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_depositWithAuthorization_inEveryFormOfTheSignature() public {
        for (uint256 i; i < 2; ++i) {
            bytes32 salt = bytes32(i);
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, _authorization(payer, 100, salt));
            bytes memory signature = i == 0
                ? abi.encodePacked(r, s, v)
                : abi.encodePacked(r, bytes32(uint256(s) | (uint256(v - 27) << 255)));
            vm.prank(stranger);
            escrow.depositWithAuthorization(address(token), payer, beneficiary, 100, 0, NOW + 60, salt, signature);
        }
        _assertAccount(beneficiary, 200, 0);
        assertEq(token.balanceOf(payer), 800);
    }

    /// @dev Wallets that are contracts sign with more than 65 bytes; the token's bytes form asks them.
    function test_depositWithAuthorization_fromAContract() public {
        LongWallet wallet = new LongWallet();
        token.mint(address(wallet), 100);
        escrow.depositWithAuthorization(
            address(token),
            address(wallet),
            beneficiary,
            100,
            0,
            NOW + 60,
            0,
            bytes("a signature of more than sixty-five bytes, as multi-signature wallets have")
        );
        _assertAccount(beneficiary, 100, 0);
    }

    /// @dev The nonce binds the beneficiary: a thief that copies the call from the mempool can only do what it does.
    function test_depositWithAuthorization_cannotBeRedirected() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, _authorization(payer, 100, 0));
        bytes memory signature = abi.encodePacked(r, s, v);
        vm.startPrank(stranger);
        vm.expectRevert();
        escrow.depositWithAuthorization(address(token), payer, stranger, 100, 0, NOW + 60, 0, signature);
        // As receiver the token demands the escrow itself.
        bytes32 nonce = keccak256(abi.encode(beneficiary, bytes32(0)));
        vm.expectRevert();
        token.receiveWithAuthorization(payer, address(escrow), 100, 0, NOW + 60, nonce, v, r, s);
        escrow.depositWithAuthorization(address(token), payer, beneficiary, 100, 0, NOW + 60, 0, signature);
        // The owner's own call now comes too late, and nothing is lost.
        vm.expectRevert();
        escrow.depositWithAuthorization(address(token), payer, beneficiary, 100, 0, NOW + 60, 0, signature);
        _assertAccount(beneficiary, 100, 0);
        _assertAccount(stranger, 0, 0);
    }

    // ── Permit2 ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_depositWithPermit2() public {
        (IInferenceEscrow.Permit2Deposit memory permit, bytes memory signature) = _permit2Deposit(250);
        vm.prank(stranger);
        escrow.depositWithPermit2(permit, payer, beneficiary, signature);
        _assertAccount(beneficiary, 250, 0);
        vm.expectRevert(TestPermit2.InvalidNonce.selector);
        escrow.depositWithPermit2(permit, payer, beneficiary, signature);
    }

    function test_depositWithPermit2_cannotBeRedirected() public {
        (IInferenceEscrow.Permit2Deposit memory permit, bytes memory signature) = _permit2Deposit(250);
        vm.prank(stranger);
        vm.expectRevert(TestPermit2.InvalidSigner.selector);
        escrow.depositWithPermit2(permit, payer, stranger, signature);
        permit.amount = 251;
        vm.expectRevert(TestPermit2.InvalidSigner.selector);
        escrow.depositWithPermit2(permit, payer, beneficiary, signature);
    }

    // ── Hostile tokens ───────────────────────────────────────────────────────────────────────────────────────────────

    function test_hostile_feeOnTransfer() public {
        FeeToken hostile = new FeeToken();
        hostile.mint(address(this), 1000);
        hostile.approve(address(escrow), 1000);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.TransferMismatch.selector, 990, 1000));
        escrow.deposit(address(hostile), beneficiary, 1000);
    }

    function test_hostile_returnsFalse() public {
        FalseToken hostile = new FalseToken();
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(hostile)));
        escrow.deposit(address(hostile), beneficiary, 1000);
    }

    function test_hostile_movesNothing() public {
        SilentToken hostile = new SilentToken();
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.TransferMismatch.selector, 0, 1000));
        escrow.deposit(address(hostile), beneficiary, 1000);
    }

    function test_hostile_noCode() public {
        bytes memory mismatch = abi.encodeWithSelector(IInferenceEscrow.TransferMismatch.selector, 0, 1000);
        vm.expectRevert(mismatch);
        escrow.deposit(makeAddr("no code"), beneficiary, 1000);
        vm.expectRevert(mismatch);
        escrow.depositWithPermit(makeAddr("no code"), beneficiary, 1000, NOW, 27, 0, 0);
        vm.expectRevert(mismatch);
        escrow.depositWithAuthorization(makeAddr("no code"), payer, beneficiary, 1000, 0, NOW, 0, new bytes(65));
        vm.expectRevert(mismatch);
        escrow.depositWithPermit2(
            IInferenceEscrow.Permit2Deposit(makeAddr("no code"), 1000, 0, NOW), payer, beneficiary, ""
        );
    }

    function test_hostile_returnsNothing_isAnHonestOldToken() public {
        NoReturnToken old = new NoReturnToken();
        old.mint(address(this), 1000);
        old.approve(address(escrow), 1000);
        escrow.deposit(address(old), address(this), 1000);
        escrow.withdraw(address(old), beneficiary, 1000);
        assertEq(old.balanceOf(beneficiary), 1000);
    }

    function test_hostile_rebasing_hurtsOnlyItsOwnHolders() public {
        RebasingToken hostile = new RebasingToken();
        hostile.mint(address(this), 1000);
        hostile.approve(address(escrow), 1000);
        escrow.deposit(address(hostile), address(this), 1000);
        _fund(payer, 500);
        hostile.rebase(50);
        vm.expectRevert();
        escrow.withdraw(address(hostile), beneficiary, 1000);
        vm.prank(payer);
        escrow.withdraw(address(token), beneficiary, 500);
        assertEq(token.balanceOf(beneficiary), 500);
        hostile.rebase(100);
        escrow.withdraw(address(hostile), beneficiary, 1000);
    }

    // ── Signing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _permit(uint256 amount) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                payer,
                address(escrow),
                amount,
                token.nonces(payer),
                NOW + 60
            )
        );
        return vm.sign(payerKey, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
    }

    function _authorization(address from, uint256 amount, bytes32 salt) private view returns (bytes32) {
        bytes32 nonce = keccak256(abi.encode(beneficiary, salt));
        bytes32 structHash = keccak256(abi.encode(RECEIVE, from, address(escrow), amount, 0, NOW + 60, nonce));
        return keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash));
    }

    function _permit2Deposit(uint256 amount)
        private
        view
        returns (IInferenceEscrow.Permit2Deposit memory permit, bytes memory signature)
    {
        permit = IInferenceEscrow.Permit2Deposit(address(token), amount, 5, NOW + 60);
        bytes32 witness = keccak256(abi.encode(keccak256("Deposit(address beneficiary)"), beneficiary));
        bytes32 digest = TestPermit2(permit2)
            .digestOf(
                IPermit2.PermitTransferFrom(IPermit2.TokenPermissions(address(token), amount), 5, NOW + 60),
                address(escrow),
                witness,
                WITNESS
            );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, digest);
        signature = abi.encodePacked(r, s, v);
    }
}

contract LongWallet {
    function isValidSignature(bytes32, bytes calldata signature) external pure returns (bytes4) {
        return signature.length > 65 ? this.isValidSignature.selector : bytes4(0);
    }
}
