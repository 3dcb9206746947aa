// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Order} from "../../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "../InferenceEscrowBase.sol";

/// @notice Gas of the escrow's calls as transactions of their own. Run with FOUNDRY_PROFILE=gas; figures go to test/snapshots.
/// @dev Warm: the account and the nonce word were used before.
/// forge-config: default.isolate = true
contract InferenceEscrowGasTest is InferenceEscrowBase {
    string private constant GROUP = "InferenceEscrow";

    function setUp() public override {
        super.setUp();
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

    /// @dev A hundred payers in one transaction, as a batch has them, without the ledger's part.
    function test_capture_hundredRows() public {
        Rows rows = new Rows();
        vm.etch(ledger, address(rows).code);
        for (uint256 round; round < 2; ++round) {
            Order[] memory orders = new Order[](100);
            bytes32[] memory signatures = new bytes32[](200);
            for (uint256 i; i < 100; ++i) {
                (payer, payerKey) = makeAddrAndKey(string.concat("payer ", vm.toString(i)));
                if (round == 0) {
                    _fund(payer, 100e6);
                    _lock(50e6, NOW + 3 days, 0);
                }
                orders[i] = _order(1e6, KEEPER, round);
                (signatures[2 * i], signatures[2 * i + 1]) = _compact(orders[i]);
            }
            Rows(ledger).run(address(escrow), orders, signatures);
            uint256 gas = vm.snapshotGasLastCall(
                GROUP, round == 0 ? "100 captures from locks, first" : "100 captures from locks, warm"
            );
            assertLe(gas / 100, round == 0 ? 50_000 : 32_000);
        }
        assertEq(escrow.captured(address(token)), 200 * 0.5e6);
    }
}

/// @notice Captures every order it is given, as the ledger's loop does.
contract Rows {
    function run(address escrow, Order[] calldata orders, bytes32[] calldata signatures) external {
        for (uint256 i; i < orders.length; ++i) {
            InferenceEscrowLike(escrow).capture(orders[i], signatures[2 * i], signatures[2 * i + 1], 0.5e6, true);
        }
    }
}

interface InferenceEscrowLike {
    function capture(Order calldata order, bytes32 r, bytes32 vs, uint128 amount, bool byKeeper)
        external
        returns (uint8 result, bytes32 orderId);
}
