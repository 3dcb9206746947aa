// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";
import {Artifacts} from "../script/Artifacts.sol";
import {DevMulticall3} from "../contracts/devnet/DevMulticall3.sol";
import {DevPermit2DepositCollector} from "../contracts/devnet/DevPermit2DepositCollector.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {EIP2612Permits} from "../contracts/devnet/base/EIP2612Permits.sol";
import {DepositCollector} from "../contracts/devnet/base/DepositCollector.sol";
import {IX402BatchSettlement} from "../contracts/interfaces/IX402BatchSettlement.sol";
import {IX402DepositCollector} from "../contracts/interfaces/IX402DepositCollector.sol";
import {
    IX402ExactPermit2Proxy,
    IX402Permit2Proxy,
    IX402UptoPermit2Proxy
} from "../contracts/interfaces/IX402Permit2Proxies.sol";
import {X402Base} from "./X402Base.sol";

/// @notice What clients and facilitators know of x402's contracts by heart: selectors, topics, type hashes. The numbers are those of the
///         canonical contracts; each must be what our sources compile to and be in the code that a devnet places.
contract X402SurfaceTest is X402Base {
    struct Row {
        string name;
        bytes32 actual;
        bytes32 canonical;
    }

    Row[] private _rows;

    function _four(string memory name, bytes4 actual, bytes4 canonical) private {
        _rows.push(Row(name, actual, canonical));
    }

    function _word(string memory name, bytes32 actual, bytes32 canonical) private {
        _rows.push(Row(name, actual, canonical));
    }

    function _check(string memory contractName) private {
        bytes memory code = Artifacts.placed(contractName);
        for (uint256 i; i < _rows.length; ++i) {
            Row memory row = _rows[i];
            assertEq(row.actual, row.canonical, row.name);
            uint256 length = uint256(row.canonical) << 32 == 0 ? 4 : 32;
            bool found = _contains(code, row.canonical, length);
            // An error's selector with zeros at its end may be written as a smaller number that is shifted further.
            if (!found && length == 4) found = _contains(code, bytes32(_odd(uint32(bytes4(row.canonical))) << 224), 4);
            assertTrue(found, string.concat("not in the code: ", row.name));
        }
        delete _rows;
    }

    function _odd(uint256 value) private pure returns (uint256) {
        while (value & 1 == 0) value >>= 1;
        return value;
    }

    /// @dev Leading zeros of a pushed constant are not in the code.
    function _contains(bytes memory code, bytes32 word, uint256 length) private pure returns (bool) {
        while (length > 1 && word[0] == 0) {
            word <<= 8;
            --length;
        }
        bytes32 mask = bytes32(type(uint256).max << (256 - 8 * length));
        for (uint256 i; i + length <= code.length; ++i) {
            bytes32 found;
            assembly ("memory-safe") {
                found := mload(add(add(code, 0x20), i))
            }
            if (found & mask == word & mask) return true;
        }
        return false;
    }

    function test_exactProxy() public {
        _four("settle", IX402ExactPermit2Proxy.settle.selector, 0x13cd3b53);
        _four("settleWithPermit", IX402ExactPermit2Proxy.settleWithPermit.selector, 0xfa340378);
        _proxyRows();
        _word("Witness", exact.WITNESS_TYPEHASH(), 0xd97b3239a7f32295517bd14cb074edfdd188dfe5eb42f802bb26d4fd1eb12c37);
        _check("DevX402ExactPermit2Proxy");
        assertEq(
            exact.WITNESS_TYPE_STRING(),
            "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,uint256 validAfter)"
        );
        assertEq(exact.PERMIT2(), PERMIT2);
    }

    function test_uptoProxy() public {
        _four("settle", IX402UptoPermit2Proxy.settle.selector, 0xff11e7b4);
        _four("settleWithPermit", IX402UptoPermit2Proxy.settleWithPermit.selector, 0x016c1748);
        _four("AmountExceedsPermitted", IX402UptoPermit2Proxy.AmountExceedsPermitted.selector, 0xfe64b4c7);
        _four("UnauthorizedFacilitator", IX402UptoPermit2Proxy.UnauthorizedFacilitator.selector, 0x0f6fae87);
        _proxyRows();
        _word("Witness", upto.WITNESS_TYPEHASH(), 0xd4171c445a74218b01d4fd8af34ff1106580ea1e36ff837e64484bfaa2253b75);
        _check("DevX402UptoPermit2Proxy");
        assertEq(
            upto.WITNESS_TYPE_STRING(),
            "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)"
        );
        assertEq(upto.PERMIT2(), PERMIT2);
        // Constructors alone use it.
        assertEq(IX402Permit2Proxy.InvalidPermit2Address.selector, bytes4(0x59106c89));
    }

    function _proxyRows() private {
        _four("InvalidAmount", IX402Permit2Proxy.InvalidAmount.selector, 0x2c5211c6);
        _four("InvalidOwner", IX402Permit2Proxy.InvalidOwner.selector, 0x49e27cff);
        _four("InvalidDestination", IX402Permit2Proxy.InvalidDestination.selector, 0xac6b05f5);
        _four("PaymentTooEarly", IX402Permit2Proxy.PaymentTooEarly.selector, 0xa65539fa);
        _four("Permit2612AmountMismatch", IX402Permit2Proxy.Permit2612AmountMismatch.selector, 0x050cda49);
        _word(
            "Settled",
            IX402Permit2Proxy.Settled.selector,
            0x97088ec3606cfe8cc112180570d03fcde05f9b8e1bfef8e27784eaf5dd5691b6
        );
        _word(
            "SettledWithPermit",
            IX402Permit2Proxy.SettledWithPermit.selector,
            0xde5b89d10fc800c459329c382fabfcad0be0ed7e5328e01fae04e507b09ef5d8
        );
        _four("PERMIT2", IX402Permit2Proxy.PERMIT2.selector, 0x6afdd850);
        _four("WITNESS_TYPEHASH", IX402Permit2Proxy.WITNESS_TYPEHASH.selector, 0x2c03ae6a);
        _four("WITNESS_TYPE_STRING", IX402Permit2Proxy.WITNESS_TYPE_STRING.selector, 0x156e2152);
        _permitRows();
    }

    function _permitRows() private {
        _word(
            "EIP2612PermitFailedWithReason",
            EIP2612Permits.EIP2612PermitFailedWithReason.selector,
            0x0fea7e5a0e14e9f700b9b0666ffd524bacb9ceb9e6234ea2bfb8e1d0ee2365e7
        );
        _word(
            "EIP2612PermitFailedWithPanic",
            EIP2612Permits.EIP2612PermitFailedWithPanic.selector,
            0x278207c426558a8c6ef49e9a3c6f87d257ca5c1852f0c988ad5caf894d197623
        );
        _word(
            "EIP2612PermitFailedWithData",
            EIP2612Permits.EIP2612PermitFailedWithData.selector,
            0x41d715076dfd9c1fd3135fbb7675020aab7fb8e82349a0cd5aaa970dcfb816fe
        );
    }

    function test_batchSettlement_functions() public {
        _four("deposit", IX402BatchSettlement.deposit.selector, 0x140f1e75);
        _four("claim", IX402BatchSettlement.claim.selector, 0x29237b0c);
        _four("claimWithSignature", IX402BatchSettlement.claimWithSignature.selector, 0xe43ce1f2);
        _four("settle", IX402BatchSettlement.settle.selector, 0x9db32a8f);
        _four("initiateWithdraw", IX402BatchSettlement.initiateWithdraw.selector, 0xcf5cf3dc);
        _four("finalizeWithdraw", IX402BatchSettlement.finalizeWithdraw.selector, 0xe88377b1);
        _four("refund", IX402BatchSettlement.refund.selector, 0xdce4bfae);
        _four("refundWithSignature", IX402BatchSettlement.refundWithSignature.selector, 0xb77433e9);
        _four("multicall", Multicall.multicall.selector, 0xac9650d8);
        _four("channels", IX402BatchSettlement.channels.selector, 0x7a7ebd7b);
        _four("pendingWithdrawals", IX402BatchSettlement.pendingWithdrawals.selector, 0xb7f06ebe);
        _four("receivers", IX402BatchSettlement.receivers.selector, 0x21ff6389);
        _four("refundNonce", IX402BatchSettlement.refundNonce.selector, 0xf0dc792e);
        _four("getChannelId", IX402BatchSettlement.getChannelId.selector, 0x5e5e0b87);
        _four("getVoucherDigest", IX402BatchSettlement.getVoucherDigest.selector, 0x862bb199);
        _four("getRefundDigest", IX402BatchSettlement.getRefundDigest.selector, 0xe25cf189);
        _four("getClaimBatchDigest", IX402BatchSettlement.getClaimBatchDigest.selector, 0x488ccc3b);
        _four("eip712Domain", IERC5267.eip712Domain.selector, 0x84b0196e);
        _four("CHANNEL_CONFIG_TYPEHASH", IX402BatchSettlement.CHANNEL_CONFIG_TYPEHASH.selector, 0x8e4a68ac);
        _four("CLAIM_BATCH_TYPEHASH", IX402BatchSettlement.CLAIM_BATCH_TYPEHASH.selector, 0x53ab0fae);
        _four("CLAIM_ENTRY_TYPEHASH", IX402BatchSettlement.CLAIM_ENTRY_TYPEHASH.selector, 0xba94ec0d);
        _four("REFUND_TYPEHASH", IX402BatchSettlement.REFUND_TYPEHASH.selector, 0x1e69ef40);
        _four("VOUCHER_TYPEHASH", IX402BatchSettlement.VOUCHER_TYPEHASH.selector, 0x94739e87);
        _four("MIN_WITHDRAW_DELAY", IX402BatchSettlement.MIN_WITHDRAW_DELAY.selector, 0xae159439);
        _four("MAX_WITHDRAW_DELAY", IX402BatchSettlement.MAX_WITHDRAW_DELAY.selector, 0x1fc3277d);
        _check("DevX402BatchSettlement");
        assertEq(batch.MIN_WITHDRAW_DELAY(), 900);
        assertEq(batch.MAX_WITHDRAW_DELAY(), 2_592_000);
    }

    function test_batchSettlement_errors() public {
        _four("InvalidChannel", IX402BatchSettlement.InvalidChannel.selector, 0xea3a9a39);
        _four("ZeroDeposit", IX402BatchSettlement.ZeroDeposit.selector, 0x56316e87);
        _four("DepositOverflow", IX402BatchSettlement.DepositOverflow.selector, 0x1132981b);
        _four("InvalidSignature", IX402BatchSettlement.InvalidSignature.selector, 0x8baa579f);
        _four("NotReceiverAuthorizer", IX402BatchSettlement.NotReceiverAuthorizer.selector, 0xf5e2237d);
        _four("NotAuthorizedToClaim", IX402BatchSettlement.NotAuthorizedToClaim.selector, 0xdefb7069);
        _four("NotAuthorizedToRefund", IX402BatchSettlement.NotAuthorizedToRefund.selector, 0x7864f008);
        _four("ClaimExceedsCeiling", IX402BatchSettlement.ClaimExceedsCeiling.selector, 0xf1789775);
        _four("ClaimExceedsBalance", IX402BatchSettlement.ClaimExceedsBalance.selector, 0x7d8242b6);
        _four("WithdrawalAlreadyPending", IX402BatchSettlement.WithdrawalAlreadyPending.selector, 0xa2aed0f0);
        _four("WithdrawalNotPending", IX402BatchSettlement.WithdrawalNotPending.selector, 0x3a0a1ca6);
        _four(
            "NotAuthorizedToFinalizeWithdraw", IX402BatchSettlement.NotAuthorizedToFinalizeWithdraw.selector, 0x15f969d5
        );
        _four("WithdrawDelayNotElapsed", IX402BatchSettlement.WithdrawDelayNotElapsed.selector, 0xf3965827);
        _four("NothingToWithdraw", IX402BatchSettlement.NothingToWithdraw.selector, 0xd0d04f60);
        _four(
            "WithdrawAmountExceedsAvailable", IX402BatchSettlement.WithdrawAmountExceedsAvailable.selector, 0x6d3d5764
        );
        _four("WithdrawDelayOutOfRange", IX402BatchSettlement.WithdrawDelayOutOfRange.selector, 0x4574fab6);
        _four("EmptyBatch", IX402BatchSettlement.EmptyBatch.selector, 0xc2e5347d);
        _four("DepositCollectionFailed", IX402BatchSettlement.DepositCollectionFailed.selector, 0xeb43592c);
        _four("InvalidCollector", IX402BatchSettlement.InvalidCollector.selector, 0x18b1afd4);
        _four("InvalidRefundNonce", IX402BatchSettlement.InvalidRefundNonce.selector, 0x164f1afe);
        _four("ZeroRefund", IX402BatchSettlement.ZeroRefund.selector, 0xd758525c);
        // OpenZeppelin's.
        _four("ReentrancyGuardReentrantCall", bytes4(keccak256("ReentrancyGuardReentrantCall()")), 0x3ee5aeb5);
        _four("ECDSAInvalidSignature", bytes4(keccak256("ECDSAInvalidSignature()")), 0xf645eedf);
        _four("ECDSAInvalidSignatureLength", bytes4(keccak256("ECDSAInvalidSignatureLength(uint256)")), 0xfce698f7);
        _four("ECDSAInvalidSignatureS", bytes4(keccak256("ECDSAInvalidSignatureS(bytes32)")), 0xd78bce0c);
        _four("SafeERC20FailedOperation", bytes4(keccak256("SafeERC20FailedOperation(address)")), 0x5274afe7);
        _four("FailedCall", bytes4(keccak256("FailedCall()")), 0xd6bda275);
        _check("DevX402BatchSettlement");
    }

    function test_batchSettlement_eventsAndTypes() public {
        _word(
            "ChannelCreated",
            IX402BatchSettlement.ChannelCreated.selector,
            0x69d8248d5566bdb2ebc4d218970710d8378a2ff9b709a999e052b71970f808fa
        );
        _word(
            "ChannelClosed",
            IX402BatchSettlement.ChannelClosed.selector,
            0x8d5942f197f362dfd44dfdc1b0b7a9721c9151b67f55817c83349271d3c08d37
        );
        _word(
            "Deposited",
            IX402BatchSettlement.Deposited.selector,
            0x6c2a09353b5e75e70d0b9778b80a413809bb235d46c211811c474b3346791d89
        );
        _word(
            "Claimed",
            IX402BatchSettlement.Claimed.selector,
            0x36bd546bb573e8921fdbfd934bbed62d872796b01792cd240cce27f79dd3eddd
        );
        _word(
            "Settled",
            IX402BatchSettlement.Settled.selector,
            0x7337b4386b690fdb8ba66905b92b9d45d33bc6626ee2620c905fb150ec0cc47d
        );
        _word(
            "Refunded",
            IX402BatchSettlement.Refunded.selector,
            0xa84286cf8ebc7903a663c77c8d99aa92b600d4c2fcca872a5d4a663db4eb394b
        );
        _word(
            "WithdrawInitiated",
            IX402BatchSettlement.WithdrawInitiated.selector,
            0xe4280d0d903c7f258f62b07c62f262377cbaa23f7791d78126e6446e0f0e3c23
        );
        _word(
            "WithdrawFinalized",
            IX402BatchSettlement.WithdrawFinalized.selector,
            0x546ce1e2242cd930c196bd08b894443562d709b4fffe4f028a75a6d233efc6e3
        );
        _word(
            "ChannelConfig",
            batch.CHANNEL_CONFIG_TYPEHASH(),
            0x1c9a06ceab9b0ebbd3301dc56c9111bb6d9af421356dc9ccb3b7084c755db308
        );
        _word("Voucher", batch.VOUCHER_TYPEHASH(), 0x1e1bd6ff84c3e0d9029a292b212e039c0ca97ec497c55191a4a5874294609a69);
        _word("Refund", batch.REFUND_TYPEHASH(), 0xbe23ad087435072cd69b49cc5b92de10ee610fce7ae0ab428307972d764bb216);
        _word(
            "ClaimEntry",
            batch.CLAIM_ENTRY_TYPEHASH(),
            0x30b9a0367528fca13c3e8ec6134c3113f1887ebe7a1ad61de0955aac288b0cf5
        );
        _word(
            "ClaimBatch",
            batch.CLAIM_BATCH_TYPEHASH(),
            0x42bd57c010b870c2e96203c66341f28a6a19b4d56a74533a8eb5f706b9fd6d57
        );
        _check("DevX402BatchSettlement");
        assertEq(
            IERC5267.EIP712DomainChanged.selector, 0x0a6387c9ea3628b88a633bb4f3b151770f70085117a15f9bf3787cda53f13d31
        );
    }

    /// @dev Of no claims, on Base Sepolia.
    function test_batchSettlement_domain() public {
        (bytes1 fields, string memory name, string memory version, uint256 chainId, address at,,) =
            IERC5267(BATCH).eip712Domain();
        assertEq(fields, hex"0f");
        assertEq(name, "x402 Batch Settlement");
        assertEq(version, "1");
        assertEq(chainId, 8453);
        assertEq(at, BATCH);
        vm.chainId(84_532);
        assertEq(
            batch.getClaimBatchDigest(new IX402BatchSettlement.VoucherClaim[](0)),
            0x57b970b91bd540b4ca1aa82be12adbc9b769b6e978e5285b2a859bd989304e9a
        );
    }

    /// @dev Readers of proofs and storage find everything in the canonical slots.
    function test_batchSettlement_storage() public {
        IX402BatchSettlement.ChannelConfig memory config = _channel("storage");
        bytes32 id = batch.getChannelId(config);
        _deposit(config, 100);
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(_voucher(payer, config, 70, 60));
        vm.startPrank(receiver);
        batch.claim(rows);
        batch.refund(config, 1);
        vm.stopPrank();
        batch.settle(receiver, USDC);
        vm.prank(payer.addr);
        batch.initiateWithdraw(config, 5);
        assertEq(vm.load(BATCH, keccak256(abi.encode(id, 2))), bytes32(uint256(60) << 128 | 99));
        assertEq(vm.load(BATCH, keccak256(abi.encode(id, 3))), bytes32(uint256(1)));
        assertEq(vm.load(BATCH, keccak256(abi.encode(id, 4))), bytes32(block.timestamp << 128 | 5));
        bytes32 slot = keccak256(abi.encode(USDC, keccak256(abi.encode(receiver, 5))));
        assertEq(vm.load(BATCH, slot), bytes32(uint256(60) << 128 | 60));
        assertEq(vm.load(BATCH, 0) | vm.load(BATCH, bytes32(uint256(1))), 0);
    }

    function test_collectors() public {
        _four("collect", IX402DepositCollector.collect.selector, 0xe416d8d3);
        _four("x402BatchSettlement", DepositCollector(ERC3009_COLLECTOR).x402BatchSettlement.selector, 0x4dec6d95);
        _four("OnlyX402BatchSettlement", DepositCollector.OnlyX402BatchSettlement.selector, 0x9794beb9);
        _check("DevERC3009DepositCollector");

        DevPermit2DepositCollector collector = DevPermit2DepositCollector(PERMIT2_COLLECTOR);
        _four("collect", IX402DepositCollector.collect.selector, 0xe416d8d3);
        _four("x402BatchSettlement", DepositCollector(PERMIT2_COLLECTOR).x402BatchSettlement.selector, 0x4dec6d95);
        _four("OnlyX402BatchSettlement", DepositCollector.OnlyX402BatchSettlement.selector, 0x9794beb9);
        _four("PERMIT2", collector.PERMIT2.selector, 0x6afdd850);
        _four("DEPOSIT_WITNESS_TYPEHASH", collector.DEPOSIT_WITNESS_TYPEHASH.selector, 0x4f829976);
        _four("DEPOSIT_WITNESS_TYPE_STRING", collector.DEPOSIT_WITNESS_TYPE_STRING.selector, 0x22971aa0);
        _four("Permit2612AmountMismatch", DevPermit2DepositCollector.Permit2612AmountMismatch.selector, 0x050cda49);
        _word(
            "DepositWitness",
            collector.DEPOSIT_WITNESS_TYPEHASH(),
            0xba0000097e86dabe64178afe31109221193339a6861598f2133fcbdc92c84479
        );
        _permitRows();
        _check("DevPermit2DepositCollector");
        assertEq(
            collector.DEPOSIT_WITNESS_TYPE_STRING(),
            "DepositWitness witness)DepositWitness(bytes32 channelId)TokenPermissions(address token,uint256 amount)"
        );
        assertEq(DepositCollector(ERC3009_COLLECTOR).x402BatchSettlement(), BATCH);
        assertEq(DepositCollector(PERMIT2_COLLECTOR).x402BatchSettlement(), BATCH);
        // Constructors alone use it.
        assertEq(DepositCollector.InvalidX402BatchSettlementAddress.selector, bytes4(0xe55654f5));
    }

    function test_multicall3() public {
        _four("aggregate", DevMulticall3.aggregate.selector, 0x252dba42);
        _four("tryAggregate", DevMulticall3.tryAggregate.selector, 0xbce38bd7);
        _four("tryBlockAndAggregate", DevMulticall3.tryBlockAndAggregate.selector, 0x399542e9);
        _four("blockAndAggregate", DevMulticall3.blockAndAggregate.selector, 0xc3077fa9);
        _four("aggregate3", DevMulticall3.aggregate3.selector, 0x82ad56cb);
        _four("aggregate3Value", DevMulticall3.aggregate3Value.selector, 0x174dea71);
        _four("getEthBalance", DevMulticall3.getEthBalance.selector, 0x4d2301cc);
        _four("getBlockNumber", DevMulticall3.getBlockNumber.selector, 0x42cbb15c);
        _four("getCurrentBlockTimestamp", DevMulticall3.getCurrentBlockTimestamp.selector, 0x0f28c97d);
        _four("getChainId", DevMulticall3.getChainId.selector, 0x3408e470);
        _check("DevMulticall3");
    }
}
