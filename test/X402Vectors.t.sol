// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {IX402BatchSettlement} from "../contracts/interfaces/IX402BatchSettlement.sol";
import {IX402ExactPermit2Proxy, IX402UptoPermit2Proxy} from "../contracts/interfaces/IX402Permit2Proxies.sol";
import {X402Base} from "./X402Base.sol";

/// @notice Payments as the stock x402 clients sign them (script/clients/vectors.mjs), settled by the contracts of the devnet: so both agree
///         on every digest.
contract X402VectorsTest is X402Base {
    string private _json;
    address private _payTo;
    uint256 private _count;

    function setUp() public override {
        super.setUp();
        _json = vm.readFile("keeper/tests/vectors/x402.json");
        _payTo = vm.parseJsonAddress(_json, ".payTo");
        while (vm.keyExistsJson(_json, _at(_count, ""))) ++_count;
    }

    function test_everyVector_settles() public {
        assertGe(_count, 15);
        for (uint256 i; i < _count; ++i) {
            uint256 before = vm.snapshotState();
            _rich(vm.parseJsonAddress(_json, _at(i, ".payer")));
            string memory name = vm.parseJsonString(_json, _at(i, ".name"));
            bytes32 kind = keccak256(bytes(name));
            if (kind == keccak256("exact") || kind == keccak256("exact-v1")) _exact(i);
            else if (kind == keccak256("exact-permit2")) _exactPermit2(i);
            else if (kind == keccak256("upto")) _upto(i);
            else if (kind == keccak256("deposit")) _depositVector(i, false);
            else if (kind == keccak256("deposit-permit2")) _depositVector(i, true);
            else if (kind == keccak256("voucher") || kind == keccak256("refund")) _voucherVector(i);
            else revert(string.concat("no test for ", name));
            vm.revertToState(before);
        }
    }

    function _exact(uint256 i) private {
        address from = _address(i, "authorization.from");
        uint256 value = _uint(i, "authorization.value");
        usdc.transferWithAuthorization(
            from,
            _payTo,
            value,
            _uint(i, "authorization.validAfter"),
            _uint(i, "authorization.validBefore"),
            _bytes32(i, "authorization.nonce"),
            _bytes(i, "signature")
        );
        assertEq(usdc.balanceOf(_payTo), value);
    }

    function _exactPermit2(uint256 i) private {
        IPermit2.PermitTransferFrom memory permit = _permitOf(i, "permit2Authorization");
        assertEq(_address(i, "permit2Authorization.spender"), EXACT);
        IX402ExactPermit2Proxy.Witness memory witness =
            IX402ExactPermit2Proxy.Witness(_payTo, _uint(i, "permit2Authorization.witness.validAfter"));
        exact.settle(permit, _address(i, "permit2Authorization.from"), witness, _bytes(i, "signature"));
        assertEq(usdc.balanceOf(_payTo), permit.permitted.amount);
    }

    function _upto(uint256 i) private {
        IPermit2.PermitTransferFrom memory permit = _permitOf(i, "permit2Authorization");
        assertEq(_address(i, "permit2Authorization.spender"), UPTO);
        address facilitator = vm.parseJsonAddress(_json, ".facilitatorAddress");
        IX402UptoPermit2Proxy.Witness memory witness =
            IX402UptoPermit2Proxy.Witness(_payTo, facilitator, _uint(i, "permit2Authorization.witness.validAfter"));
        address from = _address(i, "permit2Authorization.from");
        vm.prank(facilitator);
        upto.settle(permit, permit.permitted.amount - 1, from, witness, _bytes(i, "signature"));
        assertEq(usdc.balanceOf(_payTo), permit.permitted.amount - 1);
    }

    function _depositVector(uint256 i, bool byPermit2) private {
        IX402BatchSettlement.ChannelConfig memory config = _config(i);
        bytes32 id = batch.getChannelId(config);
        assertEq(id, _bytes32(i, "voucher.channelId"));
        uint128 amount = uint128(_uint(i, "deposit.amount"));
        if (byPermit2) {
            string memory path = "deposit.authorization.permit2Authorization";
            IPermit2.PermitTransferFrom memory permit = _permitOf(i, path);
            bytes memory signature = _bytes(i, string.concat(path, ".signature"));
            batch.deposit(config, amount, PERMIT2_COLLECTOR, abi.encode(permit.nonce, permit.deadline, signature, ""));
        } else {
            string memory path = "deposit.authorization.erc3009Authorization";
            bytes memory data = abi.encode(
                _uint(i, string.concat(path, ".validAfter")),
                _uint(i, string.concat(path, ".validBefore")),
                uint256(_bytes32(i, string.concat(path, ".salt"))),
                _bytes(i, string.concat(path, ".signature"))
            );
            batch.deposit(config, amount, ERC3009_COLLECTOR, data);
        }
        _claimVector(i, config, amount);
    }

    /// @dev Of a channel that somebody else deposited into.
    function _voucherVector(uint256 i) private {
        IX402BatchSettlement.ChannelConfig memory config = _config(i);
        assertEq(batch.getChannelId(config), _bytes32(i, "voucher.channelId"));
        uint128 max = uint128(_uint(i, "voucher.maxClaimableAmount"));
        // Straight into the books: how the money came is not what is looked at.
        usdc.mint(BATCH, max);
        vm.store(BATCH, keccak256(abi.encode(batch.getChannelId(config), 2)), bytes32(uint256(max)));
        _claimVector(i, config, max);
    }

    function _claimVector(uint256 i, IX402BatchSettlement.ChannelConfig memory config, uint128 balance) private {
        uint128 max = uint128(_uint(i, "voucher.maxClaimableAmount"));
        assertLe(max, balance);
        IX402BatchSettlement.VoucherClaim[] memory rows = _claims(
            IX402BatchSettlement.VoucherClaim(
                IX402BatchSettlement.Voucher(config, max), _bytes(i, "voucher.signature"), max
            )
        );
        vm.prank(config.receiver);
        batch.claim(rows);
        batch.settle(config.receiver, config.token);
        assertEq(usdc.balanceOf(config.receiver), max);
    }

    function _config(uint256 i) private view returns (IX402BatchSettlement.ChannelConfig memory) {
        return IX402BatchSettlement.ChannelConfig({
            payer: _address(i, "channelConfig.payer"),
            payerAuthorizer: _address(i, "channelConfig.payerAuthorizer"),
            receiver: _address(i, "channelConfig.receiver"),
            receiverAuthorizer: _address(i, "channelConfig.receiverAuthorizer"),
            token: _address(i, "channelConfig.token"),
            withdrawDelay: uint40(_uint(i, "channelConfig.withdrawDelay")),
            salt: _bytes32(i, "channelConfig.salt")
        });
    }

    function _permitOf(uint256 i, string memory path) private view returns (IPermit2.PermitTransferFrom memory) {
        return IPermit2.PermitTransferFrom(
            IPermit2.TokenPermissions(
                _address(i, string.concat(path, ".permitted.token")), _uint(i, string.concat(path, ".permitted.amount"))
            ),
            _uint(i, string.concat(path, ".nonce")),
            _uint(i, string.concat(path, ".deadline"))
        );
    }

    function _at(uint256 i, string memory path) private pure returns (string memory) {
        return string.concat(".vectors[", vm.toString(i), "]", path);
    }

    function _payload(uint256 i, string memory path) private pure returns (string memory) {
        return _at(i, string.concat(".request.paymentPayload.payload.", path));
    }

    function _address(uint256 i, string memory path) private view returns (address) {
        return vm.parseJsonAddress(_json, _payload(i, path));
    }

    function _uint(uint256 i, string memory path) private view returns (uint256) {
        return vm.parseJsonUint(_json, _payload(i, path));
    }

    function _bytes32(uint256 i, string memory path) private view returns (bytes32) {
        return vm.parseJsonBytes32(_json, _payload(i, path));
    }

    function _bytes(uint256 i, string memory path) private view returns (bytes memory) {
        return vm.parseJsonBytes(_json, _payload(i, path));
    }
}
