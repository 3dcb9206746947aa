// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {DevPermit2} from "../../contracts/devnet/DevPermit2.sol";
import {DevUSDC} from "../../contracts/devnet/DevUSDC.sol";
import {IInferenceEscrow} from "../../contracts/interfaces/IInferenceEscrow.sol";
import {Order} from "../../contracts/libraries/Orders.sol";
import {Artifacts} from "../../script/Artifacts.sol";
import {InferenceEscrowBase} from "../InferenceEscrowBase.sol";
import {TestToken} from "../mocks/TestToken.sol";

/// @notice Gas of the escrow's calls as transactions of their own, with the devnet's token and Permit2; figures go to test/snapshots.
/// @dev Warm: the account and the nonce word were used before.
/// forge-config: default.isolate = true
contract InferenceEscrowGasTest is InferenceEscrowBase {
    string private constant GROUP = "InferenceEscrow";

    function setUp() public override {
        super.setUp();
        permit2 = Artifacts.deploy("DevPermit2");
        escrow = _deploy(ledger, permit2);
        token = TestToken(Artifacts.deploy("DevUSDC"));
        // Of size and shape as in use: every deposit of the token comes after an earlier one.
        _fund(stranger, 1);
    }

    function test_deposit() public {
        token.mint(payer, 1000e6);
        vm.prank(payer);
        token.approve(address(escrow), 1000e6);
        vm.prank(payer);
        escrow.deposit(address(token), payer, 100e6);
        vm.snapshotGasLastCall(GROUP, "deposit first");
        vm.prank(payer);
        escrow.deposit(address(token), payer, 100e6);
        vm.snapshotGasLastCall(GROUP, "deposit warm");
        vm.prank(payer);
        escrow.withdraw(address(token), payer, 50e6);
        vm.snapshotGasLastCall(GROUP, "withdraw");
    }

    function test_depositWithPermit() public {
        token.mint(payer, 1000e6);
        _depositWithPermit(100e6);
        vm.snapshotGasLastCall(GROUP, "depositWithPermit first");
        _depositWithPermit(100e6);
        vm.snapshotGasLastCall(GROUP, "depositWithPermit warm");
    }

    function test_depositWithAuthorization() public {
        token.mint(payer, 1000e6);
        _depositWithAuthorization(100e6, "first");
        vm.snapshotGasLastCall(GROUP, "depositWithAuthorization first");
        _depositWithAuthorization(100e6, "warm");
        vm.snapshotGasLastCall(GROUP, "depositWithAuthorization warm");
    }

    function test_depositWithPermit2() public {
        token.mint(payer, 1000e6);
        vm.prank(payer);
        token.approve(permit2, type(uint256).max);
        _depositWithPermit2(100e6, 0);
        vm.snapshotGasLastCall(GROUP, "depositWithPermit2 first");
        _depositWithPermit2(100e6, 1);
        vm.snapshotGasLastCall(GROUP, "depositWithPermit2 warm");
    }

    function test_openOrder() public {
        _fund(payer, 100e6);
        _open(_order(1e6, KEEPER, 0));
        assertLe(vm.snapshotGasLastCall(GROUP, "openOrder first"), 90_000);
        _open(_order(1e6, KEEPER, 1));
        assertLe(vm.snapshotGasLastCall(GROUP, "openOrder warm"), 72_000);
    }

    function test_openOrder_withBody() public {
        _fund(payer, 100e6);
        bytes memory body = new bytes(1024);
        for (uint256 i; i < body.length; ++i) {
            body[i] = bytes1(uint8(97 + i % 26));
        }
        Order memory order = _order(1e6, KEEPER, 0);
        order.requestCommit = keccak256(abi.encode(keccak256(body), bytes32(0)));
        vm.prank(payer);
        escrow.openOrder(order, body);
        vm.snapshotGasLastCall(GROUP, "openOrder with 1 KiB");
    }

    function test_holdAndReclaim() public {
        _fund(payer, 100e6);
        Order memory order = _order(1e6, KEEPER, 0);
        bytes memory signature = _sign(order);
        vm.prank(stranger);
        escrow.hold(order, signature);
        vm.snapshotGasLastCall(GROUP, "hold");
        vm.warp(uint256(order.captureDeadline) + 1);
        vm.prank(stranger);
        escrow.reclaim(order);
        vm.snapshotGasLastCall(GROUP, "reclaim");
    }

    function test_lock() public {
        _fund(payer, 100e6);
        _lock(10e6, NOW + 1 days, 0);
        vm.snapshotGasLastCall(GROUP, "lock first");
        _lock(10e6, NOW + 2 days, 1);
        vm.snapshotGasLastCall(GROUP, "lock again");
        vm.warp(NOW + 2 days);
        vm.prank(stranger);
        escrow.unlock(payer, address(token), KEEPER);
        vm.snapshotGasLastCall(GROUP, "unlock");
    }

    function test_cancelNonces() public {
        vm.prank(payer);
        escrow.cancelNonces(address(token), KEEPER, 0, 1);
        vm.snapshotGasLastCall(GROUP, "cancelNonces first");
    }

    /// @dev Alone, so with 21,000 and cold access that the rows of a batch share.
    function test_capture_fromALock() public {
        _fund(payer, 100e6);
        _lock(50e6, NOW + 3 days, 0);
        _capture(_order(1e6, KEEPER, 300), 0.5e6, true);
        _capture(_order(1e6, KEEPER, 0), 0.5e6, true);
        vm.snapshotGasLastCall(GROUP, "capture from a lock, first, alone");
        _capture(_order(1e6, KEEPER, 1), 0.5e6, true);
        vm.snapshotGasLastCall(GROUP, "capture from a lock, warm, alone");
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _depositWithPermit(uint256 amount) private {
        bytes32 structHash = keccak256(
            abi.encode(
                DevUSDC(address(token)).PERMIT_TYPEHASH(), payer, address(escrow), amount, token.nonces(payer), NOW + 60
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, _digest(token.DOMAIN_SEPARATOR(), structHash));
        vm.prank(payer);
        escrow.depositWithPermit(address(token), payer, amount, NOW + 60, v, r, s);
    }

    function _depositWithAuthorization(uint256 amount, bytes32 salt) private {
        bytes32 structHash = keccak256(
            abi.encode(
                DevUSDC(address(token)).RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
                payer,
                address(escrow),
                amount,
                0,
                NOW + 60,
                keccak256(abi.encode(payer, salt))
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, _digest(token.DOMAIN_SEPARATOR(), structHash));
        vm.prank(stranger);
        escrow.depositWithAuthorization(
            address(token), payer, payer, amount, 0, NOW + 60, salt, abi.encodePacked(r, s, v)
        );
    }

    function _depositWithPermit2(uint256 amount, uint256 nonce) private {
        bytes32 permitted =
            keccak256(abi.encode(keccak256("TokenPermissions(address token,uint256 amount)"), address(token), amount));
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,Deposit witness)Deposit(address beneficiary)TokenPermissions(address token,uint256 amount)"
                ),
                permitted,
                address(escrow),
                nonce,
                NOW + 60,
                keccak256(abi.encode(keccak256("Deposit(address beneficiary)"), payer))
            )
        );
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, _digest(DevPermit2(permit2).DOMAIN_SEPARATOR(), structHash));
        vm.prank(stranger);
        escrow.depositWithPermit2(
            IInferenceEscrow.Permit2Deposit(address(token), amount, nonce, NOW + 60),
            payer,
            payer,
            abi.encodePacked(r, s, v)
        );
    }

    function _digest(bytes32 domain, bytes32 structHash) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
