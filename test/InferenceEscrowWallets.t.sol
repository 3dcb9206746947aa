// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {INeutralCaller} from "../contracts/interfaces/INeutralCaller.sol";
import {Lock, Order} from "../contracts/libraries/Orders.sol";
import {InferenceEscrowBase} from "./InferenceEscrowBase.sol";
import {
    DirtyWallet,
    FickleWallet,
    GasBurningWallet,
    ReturnBombWallet,
    RevertingWallet,
    TestWallet,
    WalletFactory
} from "./mocks/Wallets.sol";

/// @notice Payers that are contracts: ERC-1271, EIP-7702, ERC-6492.
contract InferenceEscrowWalletsTest is InferenceEscrowBase {
    bytes32 private constant WRAPPED = 0x6492649264926492649264926492649264926492649264926492649264926492;

    WalletFactory private factory = new WalletFactory();

    // ── ERC-1271 ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_1271_holdAndLock() public {
        address wallet = address(new TestWallet(payer));
        _fund(wallet, 1000);
        Order memory order = _orderOf(wallet);
        escrow.hold(order, _sign(order));
        _assertAccount(wallet, 700, 300);
        Lock memory lock = Lock(wallet, address(token), KEEPER, 100, NOW + 1 days, 0);
        escrow.lock(lock, _signDigest(escrow.lockDigest(lock)));
        assertEq(escrow.lockOf(wallet, address(token), KEEPER).amount, 100);
        vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, wallet));
        escrow.hold(_orderOf(wallet), _signDigest("another digest"));
    }

    function test_1271_opensItself() public {
        TestWallet wallet = new TestWallet(payer);
        _fund(address(wallet), 1000);
        vm.prank(payer);
        wallet.execute(address(escrow), abi.encodeCall(escrow.openOrder, (_orderOf(address(wallet)), "")));
        _assertAccount(address(wallet), 700, 300);
    }

    /// @dev In a batch an account's code is never asked: it could answer anything, at any cost.
    function test_1271_unheldIsSkippedWithoutACall() public {
        address[5] memory wallets = [
            address(new TestWallet(payer)),
            address(new RevertingWallet()),
            address(new GasBurningWallet()),
            address(new ReturnBombWallet()),
            address(new FickleWallet())
        ];
        for (uint256 i; i < wallets.length; ++i) {
            _fund(wallets[i], 1000);
            Order memory order = _orderOf(wallets[i]);
            (bytes32 r, bytes32 vs) = vm.signCompact(payerKey, escrow.orderId(order));
            vm.prank(ledger);
            uint256 gas = gasleft();
            (IInferenceEscrow.CaptureResult result,) = escrow.capture(order, r, vs, 300, true);
            assertLt(gas - gasleft(), 40_000);
            _assertResult(result, IInferenceEscrow.CaptureResult.BadSignature);
        }
    }

    /// @dev Once held, what the wallet says no longer matters.
    function test_1271_heldIsCapturedWhateverTheWalletSaysNow() public {
        FickleWallet wallet = new FickleWallet();
        _fund(address(wallet), 1000);
        Order memory order = _orderOf(address(wallet));
        escrow.hold(order, "anything");
        wallet.set(false);
        _assertResult(_captureUnsigned(order, 300, true), IInferenceEscrow.CaptureResult.Captured);
    }

    function test_1271_hostileAnswersAreRefusals() public {
        address[4] memory wallets = [
            address(new RevertingWallet()),
            address(new GasBurningWallet()),
            address(new ReturnBombWallet()),
            address(new DirtyWallet())
        ];
        for (uint256 i; i < wallets.length; ++i) {
            _fund(wallets[i], 1000);
            Order memory order = _orderOf(wallets[i]);
            bytes memory signature = _sign(order);
            vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, wallets[i]));
            escrow.hold{gas: 3_000_000}(order, signature);
        }
    }

    /// @dev The identity precompile echoes its input, and has no code.
    function test_1271_precompilesNeverSign() public {
        for (uint160 i = 1; i < 0x12; ++i) {
            _fund(address(i), 1000);
            Order memory order = _orderOf(address(i));
            vm.expectRevert(abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, address(i)));
            escrow.hold(order, abi.encodePacked(bytes4(0x1626ba7e), new bytes(61)));
        }
    }

    // ── EIP-7702 ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_7702_theKeyStillSigns() public {
        _fund(payer, 1000);
        vm.etch(payer, abi.encodePacked(hex"ef0100", address(new RevertingWallet())));
        assertEq(payer.code.length, 23);
        Order memory order = _order(300, KEEPER, 1);
        escrow.hold(order, _sign(order));
        _assertAccount(payer, 700, 300);
        _assertResult(_capture(_order(100, KEEPER, 2), 100, true), IInferenceEscrow.CaptureResult.Captured);
    }

    function test_7702_theDelegateSignsToo() public {
        (address owner, uint256 ownerKey) = makeAddrAndKey("owner of the delegate");
        _fund(payer, 1000);
        vm.etch(payer, abi.encodePacked(hex"ef0100", address(new TestWallet(owner))));
        Order memory order = _order(300, KEEPER, 1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ownerKey, escrow.orderId(order));
        escrow.hold(order, abi.encodePacked(r, s, v));
        _assertAccount(payer, 700, 300);
    }

    // ── ERC-6492 ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_6492_deploysAndHolds() public {
        address wallet = factory.addressOf(payer);
        _fund(wallet, 1000);
        Order memory order = _orderOf(wallet);
        assertEq(wallet.code.length, 0);
        escrow.hold(order, _wrap(abi.encodeCall(factory.create, (payer)), _sign(order)));
        assertGt(wallet.code.length, 0);
        _assertAccount(wallet, 700, 300);
    }

    function test_6492_deploysAndLocks() public {
        address wallet = factory.addressOf(payer);
        _fund(wallet, 1000);
        Lock memory lock = Lock(wallet, address(token), KEEPER, 100, NOW + 1 days, 0);
        bytes memory signature = _signDigest(escrow.lockDigest(lock));
        escrow.lock(lock, _wrap(abi.encodeCall(factory.create, (payer)), signature));
        assertEq(escrow.lockOf(wallet, address(token), KEEPER).amount, 100);
    }

    function test_6492_whenDeployedBefore() public {
        address wallet = factory.create(payer);
        _fund(wallet, 1000);
        Order memory order = _orderOf(wallet);
        escrow.hold(order, _wrap(abi.encodeCall(factory.create, (payer)), _sign(order)));
        _assertAccount(wallet, 700, 300);
    }

    function test_6492_returnBombingFactory() public {
        address wallet = factory.addressOf(payer);
        _fund(wallet, 1000);
        Order memory order = _orderOf(wallet);
        escrow.hold{gas: 6_000_000}(order, _wrap(abi.encodeCall(factory.createAndBomb, (payer)), _sign(order)));
        _assertAccount(wallet, 700, 300);
    }

    function test_6492_refusals() public {
        address wallet = factory.addressOf(payer);
        _fund(wallet, 1000);
        Order memory order = _orderOf(wallet);
        bytes memory signature = _sign(order);
        bytes memory refusal = abi.encodeWithSelector(IInferenceEscrow.BadSignature.selector, wallet);
        vm.expectRevert(refusal);
        escrow.hold(order, signature);
        vm.expectRevert(refusal);
        escrow.hold(order, _wrap(abi.encodeCall(factory.fail, ()), signature));
        vm.expectRevert(refusal);
        escrow.hold(order, _wrap(abi.encodeCall(factory.create, (stranger)), signature));
        vm.expectRevert(refusal);
        escrow.hold(order, _wrap(abi.encodeCall(factory.create, (payer)), _signDigest("another digest")));
        vm.expectRevert();
        escrow.hold(order, abi.encodePacked(WRAPPED));
    }

    /// @dev A preparing call comes from an account without money or rights, and cannot come back into the escrow.
    function test_6492_thePreparingCallHasNoPower() public {
        _fund(payer, 1000);
        WitnessFactory witness = new WitnessFactory();
        Order memory order = _orderOf(address(witness));
        bytes memory back = abi.encodeCall(
            witness.strike, (address(escrow), abi.encodeCall(escrow.withdraw, (address(token), stranger, 1)))
        );
        _fund(address(witness), 1000);
        witness.set(false);
        bytes memory signature = abi.encodePacked(abi.encode(address(witness), back, bytes("")), WRAPPED);
        escrow.hold(order, signature);
        assertEq(witness.caller(), escrow.neutralCaller());
        assertFalse(witness.succeeded());
        _assertAccount(address(witness), 700, 300);
    }

    function test_neutralCaller_isForEveryone() public {
        INeutralCaller neutral = INeutralCaller(escrow.neutralCaller());
        vm.prank(stranger);
        neutral.prepare(address(factory), abi.encodeCall(factory.create, (payer)));
        assertGt(factory.addressOf(payer).code.length, 0);
        neutral.prepare(address(factory), abi.encodeCall(factory.fail, ()));
    }

    // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function _orderOf(address wallet) private view returns (Order memory order) {
        order = _order(300, KEEPER, 1);
        order.payer = wallet;
    }

    function _signDigest(bytes32 digest) private view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(payerKey, digest);
        return abi.encodePacked(r, s, v);
    }

    function _wrap(bytes memory create, bytes memory signature) private view returns (bytes memory) {
        return abi.encodePacked(abi.encode(address(factory), create, signature), WRAPPED);
    }
}

/// @notice Account that signs everything once it was prepared, and tries to get back into the escrow meanwhile.
contract WitnessFactory {
    address public caller;
    bool public succeeded;
    bool public yes;

    function set(bool yes_) external {
        yes = yes_;
    }

    function strike(address target, bytes calldata data) external {
        caller = msg.sender;
        yes = true;
        (succeeded,) = target.call(data);
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        return yes ? this.isValidSignature.selector : bytes4(0);
    }
}
