// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Vm} from "forge-std/Vm.sol";
import {DevMulticall3} from "../contracts/devnet/DevMulticall3.sol";
import {DevPermit2} from "../contracts/devnet/DevPermit2.sol";
import {DevSmartWallet} from "../contracts/devnet/DevSmartWallet.sol";
import {DevSmartWalletFactory} from "../contracts/devnet/DevSmartWalletFactory.sol";
import {EIP2612Permits} from "../contracts/devnet/base/EIP2612Permits.sol";
import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {IX402Forwarder} from "../contracts/interfaces/IX402Forwarder.sol";
import {
    IX402ExactPermit2Proxy,
    IX402Permit2Proxy,
    IX402UptoPermit2Proxy
} from "../contracts/interfaces/IX402Permit2Proxies.sol";
import {Artifacts} from "../script/Artifacts.sol";
import {PlainToken} from "./mocks/HostileTokens.sol";
import {X402Base} from "./X402Base.sol";

/// @dev Fails as some tokens do: with a text, a panic, or nothing that is known.
contract OddPermitToken is PlainToken {
    uint256 public mode;

    error Odd(address one, address two);

    function setMode(uint256 mode_) external {
        mode = mode_;
    }

    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) external view {
        require(mode != 0, "no permit today");
        assert(mode != 1);
        revert Odd(address(1), address(2));
    }
}

/// @notice `exact` and `upto` payments by Permit2, sent by anyone, by a facilitator, by our forwarder.
contract X402Permit2ProxiesTest is X402Base {
    IPermit2.PermitTransferFrom private _signed;
    IX402ExactPermit2Proxy.Witness private _to;
    IX402UptoPermit2Proxy.Witness private _upto;
    bytes private _exactSignature;
    bytes private _uptoSignature;
    address private _facilitator = makeAddr("facilitator");

    function setUp() public override {
        super.setUp();
        _signed = _permit(1000, 42);
        _to = IX402ExactPermit2Proxy.Witness(receiver, block.timestamp - 5);
        _upto = IX402UptoPermit2Proxy.Witness(receiver, _facilitator, block.timestamp - 5);
        _exactSignature = _signExact(_signed, _to);
        _uptoSignature = _signUpto(_signed, _upto);
    }

    // ── exact ────────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_exact_anyoneSettles_theFullAmount_once() public {
        vm.expectEmit(EXACT);
        emit IX402Permit2Proxy.Settled();
        vm.prank(stranger);
        exact.settle(_signed, payer.addr, _to, _exactSignature);
        assertEq(usdc.balanceOf(receiver), 1000);
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        exact.settle(_signed, payer.addr, _to, _exactSignature);
        // What an undecoded replay shows.
        assertEq(DevPermit2.InvalidNonce.selector, bytes4(0x756688fe));
    }

    function test_exact_nothingSignedCanBeChanged() public {
        _to.to = stranger;
        _expectExact(DevPermit2.InvalidSigner.selector);
        _to.to = receiver;
        _to.validAfter += 1;
        _expectExact(DevPermit2.InvalidSigner.selector);
        _to.validAfter -= 1;
        _signed.permitted.amount = 999;
        _expectExact(DevPermit2.InvalidSigner.selector);
        _signed.permitted.amount = 1000;
        // Another proxy is another spender.
        IX402UptoPermit2Proxy.Witness memory witness = IX402UptoPermit2Proxy.Witness(receiver, stranger, _to.validAfter);
        vm.prank(stranger);
        vm.expectRevert(DevPermit2.InvalidSigner.selector);
        upto.settle(_signed, 1000, payer.addr, witness, _exactSignature);
    }

    function test_exact_refusals() public {
        vm.expectRevert(IX402Permit2Proxy.InvalidOwner.selector);
        exact.settle(_signed, address(0), _to, _exactSignature);
        _to.to = address(0);
        _expectExact(IX402Permit2Proxy.InvalidDestination.selector);
        _to.to = receiver;
        _to.validAfter = block.timestamp + 1;
        _expectExact(IX402Permit2Proxy.PaymentTooEarly.selector);
        _to.validAfter = block.timestamp;
        _signed.permitted.amount = 0;
        _expectExact(IX402Permit2Proxy.InvalidAmount.selector);
        _signed.permitted.amount = 1000;
        vm.warp(_signed.deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(DevPermit2.SignatureExpired.selector, _signed.deadline));
        exact.settle(_signed, payer.addr, _to, _exactSignature);
    }

    /// @dev Permit2 does not say why a token refused.
    function test_exact_withoutMoneyOrAllowance() public {
        vm.prank(payer.addr);
        usdc.approve(PERMIT2, 999);
        vm.expectRevert("TRANSFER_FROM_FAILED");
        exact.settle(_signed, payer.addr, _to, _exactSignature);
    }

    function test_exact_withPermit() public {
        vm.prank(payer.addr);
        usdc.approve(PERMIT2, 0);
        IX402Permit2Proxy.EIP2612Permit memory permit = _eip2612(1000);
        permit.value = 1001;
        vm.expectRevert(IX402Permit2Proxy.Permit2612AmountMismatch.selector);
        exact.settleWithPermit(permit, _signed, payer.addr, _to, _exactSignature);
        permit.value = 1000;
        vm.expectEmit(EXACT);
        emit IX402Permit2Proxy.SettledWithPermit();
        exact.settleWithPermit(permit, _signed, payer.addr, _to, _exactSignature);
        assertEq(usdc.balanceOf(receiver), 1000);
    }

    function test_exact_withPermit_aFailingPermitIsOnlyLogged() public {
        OddPermitToken token = new OddPermitToken();
        token.mint(payer.addr, 10_000);
        vm.prank(payer.addr);
        token.approve(PERMIT2, 10_000);
        _signed.permitted.token = address(token);
        for (uint256 mode; mode < 3; ++mode) {
            token.setMode(mode);
            _signed.nonce = mode;
            bytes memory signature = _signExact(_signed, _to);
            vm.expectEmit(EXACT);
            if (mode == 0) {
                emit EIP2612Permits.EIP2612PermitFailedWithReason(address(token), payer.addr, "no permit today");
            } else if (mode == 1) {
                emit EIP2612Permits.EIP2612PermitFailedWithPanic(address(token), payer.addr, 1);
            } else {
                bytes memory data = abi.encodeWithSelector(OddPermitToken.Odd.selector, address(1), address(2));
                emit EIP2612Permits.EIP2612PermitFailedWithData(address(token), payer.addr, data);
            }
            exact.settleWithPermit(
                IX402Permit2Proxy.EIP2612Permit(1000, 0, 0, 0, 0), _signed, payer.addr, _to, signature
            );
        }
        assertEq(token.balanceOf(receiver), 3000);
    }

    // ── upto ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_upto_theFacilitatorSettles_atMostWhatWasSigned_once() public {
        vm.startPrank(_facilitator);
        vm.expectRevert(IX402UptoPermit2Proxy.AmountExceedsPermitted.selector);
        upto.settle(_signed, 1001, payer.addr, _upto, _uptoSignature);
        vm.expectRevert(IX402Permit2Proxy.InvalidAmount.selector);
        upto.settle(_signed, 0, payer.addr, _upto, _uptoSignature);
        vm.expectEmit(UPTO);
        emit IX402Permit2Proxy.Settled();
        upto.settle(_signed, 400, payer.addr, _upto, _uptoSignature);
        assertEq(usdc.balanceOf(receiver), 400);
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        upto.settle(_signed, 1, payer.addr, _upto, _uptoSignature);
        vm.stopPrank();
    }

    function test_upto_onlyTheSignedFacilitator() public {
        vm.prank(stranger);
        vm.expectRevert(IX402UptoPermit2Proxy.UnauthorizedFacilitator.selector);
        upto.settle(_signed, 400, payer.addr, _upto, _uptoSignature);
        _upto.facilitator = stranger;
        vm.prank(stranger);
        vm.expectRevert(DevPermit2.InvalidSigner.selector);
        upto.settle(_signed, 400, payer.addr, _upto, _uptoSignature);
    }

    function test_upto_refusals() public {
        vm.startPrank(_facilitator);
        vm.expectRevert(IX402Permit2Proxy.InvalidOwner.selector);
        upto.settle(_signed, 1, address(0), _upto, _uptoSignature);
        _upto.to = address(0);
        vm.expectRevert(IX402Permit2Proxy.InvalidDestination.selector);
        upto.settle(_signed, 1, payer.addr, _upto, _uptoSignature);
        _upto.to = receiver;
        _upto.validAfter = block.timestamp + 1;
        vm.expectRevert(IX402Permit2Proxy.PaymentTooEarly.selector);
        upto.settle(_signed, 1, payer.addr, _upto, _uptoSignature);
        vm.stopPrank();
    }

    function test_upto_withPermit() public {
        vm.prank(payer.addr);
        usdc.approve(PERMIT2, 0);
        IX402Permit2Proxy.EIP2612Permit memory permit = _eip2612(1000);
        vm.expectEmit(UPTO);
        emit IX402Permit2Proxy.SettledWithPermit();
        vm.prank(_facilitator);
        upto.settleWithPermit(permit, _signed, 400, payer.addr, _upto, _uptoSignature);
        assertEq(usdc.balanceOf(receiver), 400);
    }

    // ── Our forwarder ────────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev The forwarder is the facilitator that payers sign; each of its keys settles, together with everything else.
    function test_forwarder_isTheFacilitator_whicheverKeySends() public {
        address[] memory keys = new address[](2);
        (keys[0], keys[1]) = (makeAddr("key 0"), makeAddr("key 1"));
        IX402Forwarder forwarder = IX402Forwarder(Artifacts.deploy("X402Forwarder", abi.encode(stranger, keys)));
        _upto.facilitator = address(forwarder);
        IX402Forwarder.Call[] memory calls = new IX402Forwarder.Call[](4);
        for (uint256 i; i < 2; ++i) {
            _signed.nonce = 100 + i;
            bytes memory data =
                abi.encodeCall(upto.settle, (_signed, 300 + i, payer.addr, _upto, _signUpto(_signed, _upto)));
            calls[i] = IX402Forwarder.Call(bytes32(i), UPTO, 200_000, data);
        }
        _signed.nonce = 42;
        bytes memory exactCall = abi.encodeCall(exact.settle, (_signed, payer.addr, _to, _exactSignature));
        calls[2] = IX402Forwarder.Call(bytes32(uint256(2)), EXACT, 200_000, exactCall);
        calls[3] = IX402Forwarder.Call(bytes32(uint256(3)), EXACT, 200_000, exactCall);
        vm.prank(keys[1]);
        IX402Forwarder.Result[] memory results = forwarder.forward(calls);
        assertTrue(results[0].success && results[1].success && results[2].success);
        assertEq(results[3].reason, abi.encodeWithSelector(DevPermit2.InvalidNonce.selector));
        assertEq(usdc.balanceOf(receiver), 300 + 301 + 1000);
    }

    // ── Contract wallets ─────────────────────────────────────────────────────────────────────────────────────────────

    /// @dev As a facilitator settles for a wallet that is not there yet: its factory first, then the payment.
    function test_counterfactualWallet_isDeployedAndPays_inOneMulticall() public {
        DevSmartWalletFactory factory = DevSmartWalletFactory(Artifacts.deploy("DevSmartWalletFactory"));
        address wallet = factory.getAddress(payer.addr, 9);
        usdc.mint(wallet, 100);
        assertEq(wallet.code.length, 0);
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), wallet, receiver, 100, 0, block.timestamp + 9, bytes32("n")
            )
        );
        bytes memory signature = _sign(payer, usdc.DOMAIN_SEPARATOR(), structHash);
        bytes memory pay = abi.encodeWithSignature(
            "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
            wallet,
            receiver,
            100,
            0,
            block.timestamp + 9,
            bytes32("n"),
            signature
        );
        DevMulticall3.Call[] memory calls = new DevMulticall3.Call[](2);
        calls[0] = DevMulticall3.Call(address(factory), abi.encodeCall(factory.createAccount, (payer.addr, 9)));
        calls[1] = DevMulticall3.Call(USDC, pay);
        DevMulticall3.Result[] memory results = DevMulticall3(MULTICALL3).tryAggregate(false, calls);
        assertTrue(results[0].success && results[1].success);
        assertEq(abi.decode(results[0].returnData, (address)), wallet);
        assertEq(usdc.balanceOf(receiver), 100);
        assertEq(DevSmartWallet(payable(wallet)).owner(), payer.addr);
        // Creating it again names it.
        assertEq(factory.createAccount(payer.addr, 9), wallet);
        assertTrue(factory.getAddress(payer.addr, 10) != wallet);
    }

    function test_smartWallet_executesAndSignsForItsOwnerAlone() public {
        DevSmartWallet wallet = DevSmartWallet(payable(Artifacts.deploy("DevSmartWallet", abi.encode(payer.addr))));
        usdc.mint(address(wallet), 5);
        bytes memory transfer = abi.encodeCall(usdc.transfer, (receiver, 5));
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(DevSmartWallet.NotOwner.selector, stranger, payer.addr));
        wallet.execute(USDC, 0, transfer);
        vm.prank(payer.addr);
        wallet.execute(USDC, 0, transfer);
        assertEq(usdc.balanceOf(receiver), 5);
        vm.deal(address(this), 1 ether);
        (bool sent,) = address(wallet).call{value: 1 ether}("");
        assertTrue(sent);
        assertEq(wallet.isValidSignature("hash", _signDigest(payer, "hash")), bytes4(0x1626ba7e));
        assertEq(wallet.isValidSignature("hash", _signDigest(authorizer, "hash")), bytes4(0xffffffff));
        bytes memory long = abi.encode(uint256(0), _signDigest(payer, "hash"));
        assertEq(wallet.isValidSignature("hash", long), bytes4(0x1626ba7e));
        long = abi.encode(uint256(0), _signDigest(authorizer, "hash"));
        assertEq(wallet.isValidSignature("hash", long), bytes4(0xffffffff));
        assertEq(wallet.isValidSignature("hash", "rubbish"), bytes4(0xffffffff));
    }

    // ── Multicall3 ───────────────────────────────────────────────────────────────────────────────────────────────────

    function test_multicall3_failures() public {
        DevMulticall3 multicall = DevMulticall3(MULTICALL3);
        DevMulticall3.Call3[] memory calls = new DevMulticall3.Call3[](2);
        calls[0] = DevMulticall3.Call3(USDC, false, abi.encodeCall(usdc.balanceOf, (payer.addr)));
        calls[1] = DevMulticall3.Call3(USDC, true, "no such function");
        DevMulticall3.Result[] memory results = multicall.aggregate3(calls);
        assertEq(abi.decode(results[0].returnData, (uint256)), usdc.balanceOf(payer.addr));
        assertFalse(results[1].success);
        calls[1].allowFailure = false;
        vm.expectRevert("Multicall3: call failed");
        multicall.aggregate3(calls);

        DevMulticall3.Call[] memory plain = new DevMulticall3.Call[](1);
        plain[0] = DevMulticall3.Call(USDC, "no such function");
        assertFalse(multicall.tryAggregate(false, plain)[0].success);
        vm.expectRevert("Multicall3: call failed");
        multicall.tryAggregate(true, plain);
        vm.expectRevert("Multicall3: call failed");
        multicall.aggregate(plain);
        plain[0].callData = abi.encodeCall(usdc.decimals, ());
        (uint256 number, bytes[] memory data) = multicall.aggregate(plain);
        assertEq(number, block.number);
        assertEq(abi.decode(data[0], (uint8)), 6);
        (,, results) = multicall.blockAndAggregate(plain);
        assertEq(abi.decode(results[0].returnData, (uint8)), 6);
    }

    function test_multicall3_values() public {
        DevMulticall3 multicall = DevMulticall3(MULTICALL3);
        DevMulticall3.Call3Value[] memory calls = new DevMulticall3.Call3Value[](2);
        calls[0] = DevMulticall3.Call3Value(receiver, false, 1, "");
        calls[1] = DevMulticall3.Call3Value(stranger, false, 2, "");
        vm.deal(address(this), 10);
        multicall.aggregate3Value{value: 3}(calls);
        assertEq(multicall.getEthBalance(receiver), 1);
        assertEq(multicall.getEthBalance(stranger), 2);
        vm.deal(MULTICALL3, 1);
        vm.expectRevert("Multicall3: value mismatch");
        multicall.aggregate3Value{value: 2}(calls);
        assertEq(multicall.getBlockNumber(), block.number);
        assertEq(multicall.getCurrentBlockTimestamp(), block.timestamp);
        assertEq(multicall.getChainId(), 8453);
    }

    // ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _expectExact(bytes4 reason) private {
        vm.expectRevert(reason);
        exact.settle(_signed, payer.addr, _to, _exactSignature);
    }

    function _eip2612(uint256 value) private returns (IX402Permit2Proxy.EIP2612Permit memory) {
        (uint8 v, bytes32 r, bytes32 s) = _sign2612(payer, value);
        return IX402Permit2Proxy.EIP2612Permit(value, block.timestamp + 600, r, s, v);
    }
}
