// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";
import {DevPermit2} from "../contracts/devnet/DevPermit2.sol";
import {DevUSDC} from "../contracts/devnet/DevUSDC.sol";
import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {IX402BatchSettlement} from "../contracts/interfaces/IX402BatchSettlement.sol";
import {IX402ExactPermit2Proxy, IX402UptoPermit2Proxy} from "../contracts/interfaces/IX402Permit2Proxies.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @notice x402's contracts where every chain has them, and everything that payers and authorizers sign.
abstract contract X402Base is Test {
    address internal constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;
    address internal constant MULTICALL3 = 0xcA11bde05977b3631167028862bE2a173976CA11;
    address internal constant USDC = 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913;
    address internal constant EXACT = 0x402085c248EeA27D92E8b30b2C58ed07f9E20001;
    address internal constant UPTO = 0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002;
    address internal constant BATCH = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003;
    address internal constant ERC3009_COLLECTOR = 0x4020806089470a89826cB9fB1f4059150b550004;
    address internal constant PERMIT2_COLLECTOR = 0x4020425FAf3B746C082C2f942b4E5159887B0005;

    DevUSDC internal usdc = DevUSDC(USDC);
    DevPermit2 internal permit2 = DevPermit2(PERMIT2);
    IX402ExactPermit2Proxy internal exact = IX402ExactPermit2Proxy(EXACT);
    IX402UptoPermit2Proxy internal upto = IX402UptoPermit2Proxy(UPTO);
    IX402BatchSettlement internal batch = IX402BatchSettlement(BATCH);

    Vm.Wallet internal payer;
    Vm.Wallet internal payerAuthorizer;
    Vm.Wallet internal authorizer;
    uint256 private _salts = 1000;
    address internal receiver = makeAddr("receiver");
    address internal stranger = makeAddr("stranger");

    function setUp() public virtual {
        vm.chainId(8453);
        vm.warp(1_800_000_000);
        vm.etch(USDC, Artifacts.placed("DevUSDC"));
        vm.etch(PERMIT2, Artifacts.placed("DevPermit2"));
        vm.etch(MULTICALL3, Artifacts.placed("DevMulticall3"));
        vm.etch(EXACT, Artifacts.placed("DevX402ExactPermit2Proxy"));
        vm.etch(UPTO, Artifacts.placed("DevX402UptoPermit2Proxy"));
        vm.etch(BATCH, Artifacts.placed("DevX402BatchSettlement"));
        vm.etch(ERC3009_COLLECTOR, Artifacts.placed("DevERC3009DepositCollector"));
        vm.etch(PERMIT2_COLLECTOR, Artifacts.placed("DevPermit2DepositCollector"));
        payer = vm.createWallet("payer");
        payerAuthorizer = vm.createWallet("payerAuthorizer");
        authorizer = vm.createWallet("receiverAuthorizer");
        _rich(payer.addr);
    }

    /// @dev Money, and an allowance for Permit2.
    function _rich(address account) internal {
        usdc.mint(account, 1_000_000e6);
        vm.prank(account);
        usdc.approve(PERMIT2, type(uint256).max);
    }

    function _sign(Vm.Wallet memory signer, bytes32 domain, bytes32 structHash) internal returns (bytes memory) {
        return _signDigest(signer, keccak256(abi.encodePacked(hex"1901", domain, structHash)));
    }

    function _signDigest(Vm.Wallet memory signer, bytes32 digest) internal returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(signer, digest);
        return abi.encodePacked(r, s, v);
    }

    // ── Permit2 ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function _permit(uint256 amount, uint256 nonce) internal view returns (IPermit2.PermitTransferFrom memory) {
        return IPermit2.PermitTransferFrom(IPermit2.TokenPermissions(USDC, amount), nonce, block.timestamp + 600);
    }

    /// @dev The type strings are those of the payers' clients, not read from the contracts.
    function _signPermit(
        Vm.Wallet memory signer,
        IPermit2.PermitTransferFrom memory permit,
        address spender,
        bytes32 witness,
        string memory witnessTypeString
    ) internal returns (bytes memory) {
        bytes32 typeHash = keccak256(
            abi.encodePacked(
                "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,",
                witnessTypeString
            )
        );
        bytes32 permitted =
            keccak256(abi.encode(keccak256("TokenPermissions(address token,uint256 amount)"), permit.permitted));
        bytes32 structHash = keccak256(abi.encode(typeHash, permitted, spender, permit.nonce, permit.deadline, witness));
        return _sign(signer, permit2.DOMAIN_SEPARATOR(), structHash);
    }

    function _signExact(IPermit2.PermitTransferFrom memory permit, IX402ExactPermit2Proxy.Witness memory witness)
        internal
        returns (bytes memory)
    {
        bytes32 hash = keccak256(abi.encode(keccak256("Witness(address to,uint256 validAfter)"), witness));
        string memory text =
            "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)";
        return _signPermit(payer, permit, EXACT, hash, text);
    }

    function _signUpto(IPermit2.PermitTransferFrom memory permit, IX402UptoPermit2Proxy.Witness memory witness)
        internal
        returns (bytes memory)
    {
        bytes32 hash = keccak256(
            abi.encode(keccak256("Witness(address to,address facilitator,uint256 validAfter)"), witness)
        );
        string memory text =
            "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";
        return _signPermit(payer, permit, UPTO, hash, text);
    }

    function _sign2612(Vm.Wallet memory signer, uint256 value) internal returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.PERMIT_TYPEHASH(), signer.addr, PERMIT2, value, usdc.nonces(signer.addr), block.timestamp + 600
            )
        );
        return vm.sign(signer, keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash)));
    }

    // ── Channels ─────────────────────────────────────────────────────────────────────────────────────────────────────

    function _channel(bytes32 salt) internal view returns (IX402BatchSettlement.ChannelConfig memory) {
        return IX402BatchSettlement.ChannelConfig({
            payer: payer.addr,
            payerAuthorizer: address(0),
            receiver: receiver,
            receiverAuthorizer: authorizer.addr,
            token: USDC,
            withdrawDelay: 900,
            salt: salt
        });
    }

    /// @dev By EIP-3009, signed by whoever is the payer.
    function _deposit(IX402BatchSettlement.ChannelConfig memory config, uint128 amount) internal {
        batch.deposit(config, amount, ERC3009_COLLECTOR, _authorization(payer, config, amount, ++_salts));
    }

    function _authorization(
        Vm.Wallet memory signer,
        IX402BatchSettlement.ChannelConfig memory config,
        uint256 amount,
        uint256 salt
    ) internal returns (bytes memory) {
        bytes32 nonce = keccak256(abi.encode(batch.getChannelId(config), salt));
        bytes32 structHash = keccak256(
            abi.encode(
                0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8,
                config.payer,
                ERC3009_COLLECTOR,
                amount,
                0,
                block.timestamp + 600,
                nonce
            )
        );
        bytes memory signature = _sign(signer, usdc.DOMAIN_SEPARATOR(), structHash);
        return abi.encode(0, block.timestamp + 600, salt, signature);
    }

    function _depositPermit(IX402BatchSettlement.ChannelConfig memory config, uint256 amount, uint256 nonce)
        internal
        returns (IPermit2.PermitTransferFrom memory permit, bytes memory signature)
    {
        permit = IPermit2.PermitTransferFrom(
            IPermit2.TokenPermissions(config.token, amount), nonce, block.timestamp + 600
        );
        bytes32 witness =
            keccak256(abi.encode(keccak256("DepositWitness(bytes32 channelId)"), batch.getChannelId(config)));
        signature = _signPermit(
            payer,
            permit,
            PERMIT2_COLLECTOR,
            witness,
            "DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)"
        );
    }

    function _voucher(
        Vm.Wallet memory signer,
        IX402BatchSettlement.ChannelConfig memory config,
        uint128 max,
        uint128 total
    ) internal returns (IX402BatchSettlement.VoucherClaim memory) {
        bytes memory signature = _signDigest(signer, batch.getVoucherDigest(batch.getChannelId(config), max));
        return IX402BatchSettlement.VoucherClaim(IX402BatchSettlement.Voucher(config, max), signature, total);
    }

    function _claims(IX402BatchSettlement.VoucherClaim memory row)
        internal
        pure
        returns (IX402BatchSettlement.VoucherClaim[] memory rows)
    {
        rows = new IX402BatchSettlement.VoucherClaim[](1);
        rows[0] = row;
    }
}
