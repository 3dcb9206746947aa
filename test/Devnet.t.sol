// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";
import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {DevOPG} from "../contracts/devnet/DevOPG.sol";
import {DevPermit2} from "../contracts/devnet/DevPermit2.sol";
import {DevPrecompile0900} from "../contracts/devnet/DevPrecompile0900.sol";
import {DevTEEInferenceVerifier} from "../contracts/devnet/DevTEEInferenceVerifier.sol";
import {DevTEERegistry} from "../contracts/devnet/DevTEERegistry.sol";
import {DevUSDC} from "../contracts/devnet/DevUSDC.sol";
import {IPermit2} from "../contracts/interfaces/IPermit2.sol";
import {Receipts} from "../contracts/libraries/Receipts.sol";
import {RsaSigner} from "./RsaSigner.sol";
import {Artifacts} from "../script/Artifacts.sol";

/// @dev Accepts what its owner signed.
contract Wallet1271 {
    address private immutable _OWNER;

    constructor(address owner) {
        _OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (bytes32 r, bytes32 s) = abi.decode(signature, (bytes32, bytes32));
        return ecrecover(hash, uint8(signature[64]), r, s) == _OWNER ? IERC1271.isValidSignature.selector : bytes4(0);
    }
}

/// @dev Digests and signatures in test/vectors/devnet.json are made with ethers by script/vectors/devnet.mjs.
contract DevnetTokensTest is Test {
    address private constant USDC = 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913;
    address private constant PERMIT2 = 0x000000000022D473030F116dDEE9F6B43aC78BA3;

    DevUSDC private _usdc = DevUSDC(USDC);
    DevPermit2 private _permit2 = DevPermit2(PERMIT2);
    string private _json;
    address private _signer;
    address private _to;

    function setUp() public {
        vm.chainId(8453);
        vm.warp(1_800_000_000);
        // As a local chain places them: no constructor ran at these addresses.
        vm.etch(USDC, Artifacts.placed("DevUSDC"));
        vm.etch(PERMIT2, Artifacts.placed("DevPermit2"));
        _json = vm.readFile("test/vectors/devnet.json");
        _signer = vm.parseJsonAddress(_json, ".signer");
        _to = vm.parseJsonAddress(_json, ".to");
        _usdc.mint(_signer, 1_000_000);
    }

    function test_metadata() public {
        assertEq(_usdc.name(), "USD Coin");
        assertEq(_usdc.symbol(), "USDC");
        assertEq(_usdc.version(), "2");
        assertEq(_usdc.decimals(), 6);
        DevOPG opg = DevOPG(Artifacts.deploy("DevOPG"));
        assertEq(opg.name(), "OpenGradient");
        assertEq(opg.symbol(), "OPG");
        assertEq(opg.decimals(), 18);
        opg.mint(_to, 5);
        assertEq(opg.balanceOf(_to), 5);
        assertEq(_usdc.DOMAIN_SEPARATOR(), vm.parseJsonBytes32(_json, ".usdcDomain"));
        assertEq(_permit2.DOMAIN_SEPARATOR(), vm.parseJsonBytes32(_json, ".permit2Domain"));
        vm.chainId(84_532);
        assertTrue(_usdc.DOMAIN_SEPARATOR() != vm.parseJsonBytes32(_json, ".usdcDomain"));
    }

    function test_permit() public {
        (uint8 v, bytes32 r, bytes32 s) = _split(".permit");
        _usdc.permit(_signer, _to, 250_000, 1_800_003_600, v, r, s);
        assertEq(_usdc.allowance(_signer, _to), 250_000);
        assertEq(_usdc.nonces(_signer), 1);
        vm.expectRevert("EIP2612: invalid signature");
        _usdc.permit(_signer, _to, 250_000, 1_800_003_600, v, r, s);
        vm.warp(1_800_003_601);
        vm.expectRevert("FiatTokenV2: permit is expired");
        _usdc.permit(_signer, _to, 250_000, 1_800_003_600, v, r, s);
    }

    function test_transferWithAuthorization_bothForms() public {
        bytes32 nonce = vm.parseJsonBytes32(_json, ".transfer.nonce");
        bytes memory signature = vm.parseJsonBytes(_json, ".transfer.signature");
        (uint8 v, bytes32 r, bytes32 s) = _split(".transfer");
        uint256 before = vm.snapshotState();
        _usdc.transferWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, signature);
        assertEq(_usdc.balanceOf(_to), 250_000);
        assertTrue(_usdc.authorizationState(_signer, nonce));
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        _usdc.transferWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, signature);
        vm.revertToState(before);

        vm.expectRevert("FiatTokenV2: invalid signature");
        _usdc.transferWithAuthorization(_signer, _to, 250_001, 1_799_999_000, 1_800_003_600, nonce, v, r, s);
        vm.warp(1_799_999_000);
        vm.expectRevert("FiatTokenV2: authorization is not yet valid");
        _usdc.transferWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, v, r, s);
        vm.warp(1_800_003_600);
        vm.expectRevert("FiatTokenV2: authorization is expired");
        _usdc.transferWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, v, r, s);
        vm.warp(1_800_003_599);
        _usdc.transferWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, v, r, s);
        assertEq(_usdc.balanceOf(_to), 250_000);
    }

    function test_receiveWithAuthorization_onlyPayee() public {
        bytes32 nonce = vm.parseJsonBytes32(_json, ".receive.nonce");
        bytes memory signature = vm.parseJsonBytes(_json, ".receive.signature");
        (uint8 v, bytes32 r, bytes32 s) = _split(".receive");
        vm.expectRevert("FiatTokenV2: caller must be the payee");
        _usdc.receiveWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, signature);
        // Not interchangeable with the other authorization.
        vm.expectRevert("FiatTokenV2: invalid signature");
        _usdc.transferWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, v, r, s);
        uint256 before = vm.snapshotState();
        vm.prank(_to);
        _usdc.receiveWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, v, r, s);
        assertEq(_usdc.balanceOf(_to), 250_000);
        vm.revertToState(before);
        vm.prank(_to);
        _usdc.receiveWithAuthorization(_signer, _to, 250_000, 1_799_999_000, 1_800_003_600, nonce, signature);
        assertEq(_usdc.balanceOf(_to), 250_000);
    }

    function test_cancelAuthorization() public {
        bytes32 nonce = vm.parseJsonBytes32(_json, ".cancel.nonce");
        (uint8 v, bytes32 r, bytes32 s) = _split(".cancel");
        _usdc.cancelAuthorization(_signer, nonce, v, r, s);
        assertTrue(_usdc.authorizationState(_signer, nonce));
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        _usdc.cancelAuthorization(_signer, nonce, v, r, s);
    }

    function test_authorization_ofContractWallet() public {
        Vm.Wallet memory owner = vm.createWallet("wallet owner");
        address wallet = address(new Wallet1271(owner.addr));
        _usdc.mint(wallet, 10);
        bytes32 structHash = keccak256(
            abi.encode(
                _usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(), wallet, _to, 10, 0, type(uint256).max, keccak256("nonce")
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", _usdc.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(owner, digest);
        _usdc.transferWithAuthorization(
            wallet, _to, 10, 0, type(uint256).max, keccak256("nonce"), abi.encodePacked(r, s, v)
        );
        assertEq(_usdc.balanceOf(_to), 10);
    }

    // ── Permit2 ──────────────────────────────────────────────────────────────────────────────────────────────────────

    function test_permit2_selectors() public pure {
        // Selectors of the contract on Base that wallets and x402 clients call.
        assertEq(DevPermit2.permitTransferFrom.selector, bytes4(0x30f28b7a));
        assertEq(DevPermit2.permitWitnessTransferFrom.selector, bytes4(0x137c29fe));
        assertEq(DevPermit2.permit.selector, bytes4(0x2b67b570));
        assertEq(DevPermit2.approve.selector, bytes4(0x87517c45));
        assertEq(bytes4(keccak256("transferFrom(address,address,uint160,address)")), bytes4(0x36c78516));
        assertEq(DevPermit2.invalidateUnorderedNonces.selector, bytes4(0x3ff9dcb1));
        assertEq(DevPermit2.InvalidNonce.selector, bytes4(0x756688fe));
    }

    function test_permit2_transfer() public {
        _approvePermit2();
        (IPermit2.PermitTransferFrom memory permit, bytes memory signature) = _permit2Vector(".permit2Transfer");
        IPermit2.SignatureTransferDetails memory details = IPermit2.SignatureTransferDetails(address(this), 200_000);
        vm.expectRevert(DevPermit2.InvalidSigner.selector);
        _permit2.permitTransferFrom(permit, details, _signer, signature);
        vm.startPrank(_to);
        details.requestedAmount = 250_001;
        vm.expectRevert(abi.encodeWithSelector(DevPermit2.InvalidAmount.selector, 250_000));
        _permit2.permitTransferFrom(permit, details, _signer, signature);
        details.requestedAmount = 200_000;
        _permit2.permitTransferFrom(permit, details, _signer, signature);
        assertEq(_usdc.balanceOf(address(this)), 200_000);
        assertEq(_permit2.nonceBitmap(_signer, permit.nonce >> 8), uint256(1) << uint8(permit.nonce));
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        _permit2.permitTransferFrom(permit, details, _signer, signature);
        vm.stopPrank();
    }

    function test_permit2_witness() public {
        _approvePermit2();
        (IPermit2.PermitTransferFrom memory permit, bytes memory signature) = _permit2Vector(".permit2Witness");
        IPermit2.SignatureTransferDetails memory details = IPermit2.SignatureTransferDetails(_to, 250_000);
        bytes32 witness = vm.parseJsonBytes32(_json, ".permit2Witness.witness");
        string memory typeString = vm.parseJsonString(_json, ".permit2Witness.witnessTypeString");
        vm.startPrank(_to);
        vm.expectRevert(DevPermit2.InvalidSigner.selector);
        _permit2.permitWitnessTransferFrom(permit, details, _signer, "other", typeString, signature);
        uint256 before = vm.snapshotState();
        _permit2.permitWitnessTransferFrom(permit, details, _signer, witness, typeString, signature);
        assertEq(_usdc.balanceOf(_to), 250_000);
        vm.revertToState(before);

        // The 64-byte form is the same signature.
        bytes memory compact = vm.parseJsonBytes(_json, ".permit2Witness.compact");
        assertEq(compact.length, 64);
        _permit2.permitWitnessTransferFrom(permit, details, _signer, witness, typeString, compact);
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        _permit2.permitWitnessTransferFrom(permit, details, _signer, witness, typeString, compact);
        vm.stopPrank();
    }

    function test_permit2_refusals() public {
        _approvePermit2();
        (IPermit2.PermitTransferFrom memory permit, bytes memory signature) = _permit2Vector(".permit2Transfer");
        IPermit2.SignatureTransferDetails memory details = IPermit2.SignatureTransferDetails(_to, 1);
        vm.prank(_signer);
        _permit2.invalidateUnorderedNonces(permit.nonce >> 8, uint256(1) << uint8(permit.nonce));
        vm.startPrank(_to);
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        _permit2.permitTransferFrom(permit, details, _signer, signature);
        permit.nonce += 256;
        vm.expectRevert(DevPermit2.InvalidSignatureLength.selector);
        _permit2.permitTransferFrom(permit, details, _signer, hex"00");
        vm.expectRevert(DevPermit2.InvalidSignature.selector);
        _permit2.permitTransferFrom(permit, details, _signer, new bytes(65));
        vm.warp(permit.deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(DevPermit2.SignatureExpired.selector, permit.deadline));
        _permit2.permitTransferFrom(permit, details, _signer, signature);
        vm.stopPrank();
    }

    function test_permit2_allowance() public {
        _approvePermit2();
        DevPermit2.PermitSingle memory single = DevPermit2.PermitSingle({
            details: DevPermit2.PermitDetails(USDC, 250_000, 1_800_003_600, 0), spender: _to, sigDeadline: 1_800_003_600
        });
        bytes memory signature = vm.parseJsonBytes(_json, ".permit2Allowance.signature");
        _permit2.permit(_signer, single, signature);
        (uint160 amount, uint48 expiration, uint48 nonce) = _permit2.allowance(_signer, USDC, _to);
        assertEq(amount, 250_000);
        assertEq(expiration, 1_800_003_600);
        assertEq(nonce, 1);
        vm.expectRevert(DevPermit2.InvalidNonce.selector);
        _permit2.permit(_signer, single, signature);

        vm.startPrank(_to);
        _permit2.transferFrom(_signer, _to, 200_000, USDC);
        vm.expectRevert(abi.encodeWithSelector(DevPermit2.InsufficientAllowance.selector, 50_000));
        _permit2.transferFrom(_signer, _to, 50_001, USDC);
        vm.warp(1_800_003_601);
        vm.expectRevert(abi.encodeWithSelector(DevPermit2.AllowanceExpired.selector, 1_800_003_600));
        _permit2.transferFrom(_signer, _to, 1, USDC);
        vm.stopPrank();

        vm.prank(_signer);
        _permit2.approve(USDC, _to, type(uint160).max, 0);
        vm.prank(_to);
        _permit2.transferFrom(_signer, _to, 1, USDC);
        (amount, expiration,) = _permit2.allowance(_signer, USDC, _to);
        assertEq(amount, type(uint160).max);
        assertEq(expiration, block.timestamp);
    }

    function _approvePermit2() private {
        vm.prank(_signer);
        _usdc.approve(PERMIT2, type(uint256).max);
    }

    function _permit2Vector(string memory path)
        private
        view
        returns (IPermit2.PermitTransferFrom memory permit, bytes memory signature)
    {
        uint256 nonce = vm.parseJsonUint(_json, string.concat(path, ".nonce"));
        permit = IPermit2.PermitTransferFrom(IPermit2.TokenPermissions(USDC, 250_000), nonce, 1_800_003_600);
        signature = vm.parseJsonBytes(_json, string.concat(path, ".signature"));
    }

    function _split(string memory path) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes memory signature = vm.parseJsonBytes(_json, string.concat(path, ".signature"));
        (r, s) = abi.decode(signature, (bytes32, bytes32));
        v = uint8(signature[64]);
    }
}

contract DevnetOpenGradientTest is Test {
    using RsaSigner for RsaSigner.Key;

    DevTEERegistry private _registry;
    DevTEEInferenceVerifier private _verifier;
    RsaSigner.Key private _key;
    bytes32 private _id;
    bytes32 private _pcrHash;
    address private _owner = makeAddr("owner");

    function setUp() public {
        vm.warp(1_800_000_000);
        vm.etch(address(0x0900), Artifacts.placed("DevPrecompile0900"));
        _registry = DevTEERegistry(Artifacts.deploy("DevTEERegistry", abi.encode(address(this))));
        _verifier = DevTEEInferenceVerifier(
            Artifacts.deploy("DevTEEInferenceVerifier", abi.encode(address(this), address(_registry)))
        );
        DevTEERegistry.PCRMeasurements memory pcrs = DevTEERegistry.PCRMeasurements("0", "1", "2");
        _pcrHash = _registry.computePCRHash(pcrs);
        _registry.approvePCR(pcrs, "devnet", 0);
        _registry.grantRole(_registry.TEE_OPERATOR(), _owner);
        _key = RsaSigner.load(0);
        _id = _registry.registerDevnetTEE(_owner, _key.spki, "tls", address(5), "http://a", 0, _pcrHash);
    }

    /// @dev Selectors, topics and role as OpenGradient's contracts have them.
    function test_surface() public view {
        assertEq(DevTEERegistry.registerTEEWithAttestation.selector, bytes4(0x15c9bdb4));
        assertEq(DevTEERegistry.heartbeat.selector, bytes4(0x42830ad8));
        assertEq(DevTEERegistry.disableTEE.selector, bytes4(0x17883717));
        assertEq(DevTEERegistry.enableTEE.selector, bytes4(0x005ae7cf));
        assertEq(DevTEERegistry.approvePCR.selector, bytes4(0x4c4c8e8b));
        assertEq(DevTEERegistry.revokePCR.selector, bytes4(0xa041ff51));
        assertEq(DevTEERegistry.addTEEType.selector, bytes4(0xcbdfc4e0));
        assertEq(DevTEERegistry.setAWSRootCertificate.selector, bytes4(0x43ed3274));
        assertEq(DevTEERegistry.setHeartbeatMaxAge.selector, bytes4(0x5c1090b2));
        assertEq(DevTEERegistry.getTEE.selector, bytes4(0x418b207d));
        assertEq(DevTEERegistry.getActiveTEEs.selector, bytes4(0x4b6014da));
        assertEq(DevTEERegistry.getEnabledTEEs.selector, bytes4(0x63b86b89));
        assertEq(DevTEERegistry.getTEEsByType.selector, bytes4(0xb82644b7));
        assertEq(DevTEERegistry.getTEEsByOwner.selector, bytes4(0xe44cc482));
        assertEq(DevTEERegistry.isTEEEnabled.selector, bytes4(0x927d3c95));
        assertEq(DevTEERegistry.isTEEActive.selector, bytes4(0xa3bf31f1));
        assertEq(DevTEERegistry.getTEEPublicKey.selector, bytes4(0x2cbe7552));
        assertEq(DevTEERegistry.computeTEEId.selector, bytes4(0xf33d2c00));
        assertEq(_registry.heartbeatMaxAge.selector, bytes4(0x87267aca));
        assertEq(_registry.isPCRApproved.selector, bytes4(0x9831ced5));
        assertEq(DevTEEInferenceVerifier.verifySignature.selector, bytes4(0x58db61a8));
        assertEq(DevTEEInferenceVerifier.computeMessageHash.selector, bytes4(0xc206baa3));
        assertEq(DevTEEInferenceVerifier.setRegistry.selector, bytes4(0xa91ee0dc));
        assertEq(DevPrecompile0900.verifyRSAPSS.selector, bytes4(0x7e26679a));
        assertEq(DevPrecompile0900.verifyAttestation.selector, bytes4(0xf7cf40d3));
        assertEq(
            DevTEERegistry.TEERegistered.selector, 0x97d0af70a4d2c616e9c1093d5f57c8b31b3a7d824f1d335e5d5416402ec14931
        );
        assertEq(
            DevTEERegistry.HeartbeatReceived.selector,
            0x3cf0bf7708060bf073b6ddb921eef0485b3eb9da828e0ed751fa6582ef337f57
        );
        assertEq(DevTEERegistry.TEENotFound.selector, bytes4(0xf6523b65));
        assertEq(DevTEERegistry.AttestationInvalid.selector, bytes4(0x06d1f25a));
        assertEq(_registry.TEE_OPERATOR(), 0xae5084c516dacf3f1a818c437d702c28b8d2088455f592a7ea799413e3b6f1bf);
        assertEq(_verifier.MAX_INFERENCE_AGE(), 3600);
        assertEq(_verifier.FUTURE_TOLERANCE(), 300);
    }

    function test_registration() public {
        assertEq(_id, keccak256(_key.spki));
        DevTEERegistry.TEEInfo memory tee = _registry.getTEE(_id);
        assertEq(tee.owner, _owner);
        assertEq(tee.paymentAddress, address(5));
        assertEq(tee.endpoint, "http://a");
        assertTrue(tee.enabled);
        assertEq(_registry.getActiveTEEs(0).length, 1);
        assertEq(_registry.getActiveTEEs(1).length, 0);
        assertEq(_registry.getTEEsByOwner(_owner)[0], _id);
        assertEq(_registry.getTEEPublicKey(_id), _key.spki);

        vm.expectRevert(DevTEERegistry.TEEAlreadyExists.selector);
        _registry.registerDevnetTEE(_owner, _key.spki, "", address(5), "", 0, _pcrHash);
        vm.expectRevert(DevTEERegistry.InvalidTEEType.selector);
        _registry.registerDevnetTEE(_owner, "k", "", address(5), "", 2, _pcrHash);
        vm.expectRevert(DevTEERegistry.PCRNotApproved.selector);
        _registry.registerDevnetTEE(_owner, "k", "", address(5), "", 1, _pcrHash);
        vm.expectRevert(DevTEERegistry.TEENotFound.selector);
        _registry.getTEEPublicKey("nobody");
        vm.startPrank(_owner);
        vm.expectPartialRevert(IAccessControl.AccessControlUnauthorizedAccount.selector);
        _registry.registerDevnetTEE(_owner, "k", "", address(5), "", 0, _pcrHash);
        // The real entry says that a devnet has no attestation.
        vm.expectRevert(DevPrecompile0900.AttestationNotAvailableOnDevnet.selector);
        _registry.registerTEEWithAttestation("doc", "k", "", address(5), "", 0);
        vm.stopPrank();
    }

    function test_heartbeat() public {
        skip(1801);
        assertFalse(_registry.isTEEActive(_id));
        assertTrue(_registry.isTEEEnabled(_id));
        assertEq(_registry.getActiveTEEs(0).length, 0);
        assertEq(_registry.getEnabledTEEs(0).length, 1);

        uint256 timestamp = vm.getBlockTimestamp() - 300;
        bytes memory signature = _key.sign(keccak256(abi.encodePacked(_id, timestamp)));
        vm.expectRevert(DevTEERegistry.HeartbeatSignatureInvalid.selector);
        _registry.heartbeat(_id, timestamp - 1, signature);
        vm.expectEmit(address(_registry));
        emit DevTEERegistry.HeartbeatReceived(_id, timestamp);
        _registry.heartbeat(_id, timestamp, signature);
        assertTrue(_registry.isTEEActive(_id));
        assertEq(_registry.getTEE(_id).lastHeartbeatAt, block.timestamp);

        vm.expectRevert(DevTEERegistry.HeartbeatTimestampInFuture.selector);
        _registry.heartbeat(_id, block.timestamp + 1, signature);
        vm.expectRevert(DevTEERegistry.HeartbeatTimestampTooOld.selector);
        _registry.heartbeat(_id, block.timestamp - 1801, signature);
        vm.expectRevert(DevTEERegistry.TEENotFound.selector);
        _registry.heartbeat("nobody", timestamp, signature);
        _registry.disableTEE(_id);
        vm.expectRevert(DevTEERegistry.TEENotEnabled.selector);
        _registry.heartbeat(_id, timestamp, signature);
    }

    function test_disableEnableRevoke() public {
        vm.prank(makeAddr("stranger"));
        vm.expectRevert(DevTEERegistry.NotTEEOwner.selector);
        _registry.disableTEE(_id);
        vm.prank(_owner);
        _registry.disableTEE(_id);
        assertEq(_registry.getEnabledTEEs(0).length, 0);
        assertEq(_registry.getTEEsByType(0).length, 1);
        vm.prank(_owner);
        _registry.enableTEE(_id);
        assertTrue(_registry.isTEEActive(_id));

        vm.expectEmit(address(_registry));
        emit DevTEERegistry.TEEDisabled(_id);
        vm.expectEmit(address(_registry));
        emit DevTEERegistry.PCRRevoked(_pcrHash, 0);
        _registry.revokePCR(_pcrHash, 0);
        assertFalse(_registry.isTEEEnabled(_id));
        vm.prank(_owner);
        vm.expectRevert(DevTEERegistry.PCRNotApproved.selector);
        _registry.enableTEE(_id);
        // Key history stays.
        assertEq(_registry.getTEEPublicKey(_id), _key.spki);
    }

    function test_inferenceVerifier() public {
        uint256 timestamp = vm.getBlockTimestamp();
        bytes memory signature = _key.sign(Receipts.messageHash("in", "out", timestamp));
        assertTrue(_verifier.verifySignature(_id, "in", "out", timestamp, signature));
        assertFalse(_verifier.verifySignature(_id, "in", "other", timestamp, signature));
        assertFalse(_verifier.verifySignature("nobody", "in", "out", timestamp, signature));
        assertFalse(_verifier.verifySignature(_id, "in", "out", timestamp, "rubbish"));
        vm.warp(timestamp + 3600);
        assertTrue(_verifier.verifySignature(_id, "in", "out", timestamp, signature));
        vm.warp(timestamp + 3601);
        assertFalse(_verifier.verifySignature(_id, "in", "out", timestamp, signature));
        vm.warp(timestamp - 300);
        assertTrue(_verifier.verifySignature(_id, "in", "out", timestamp, signature));
        vm.warp(timestamp - 301);
        assertFalse(_verifier.verifySignature(_id, "in", "out", timestamp, signature));
        vm.warp(timestamp);
        _registry.disableTEE(_id);
        assertFalse(_verifier.verifySignature(_id, "in", "out", timestamp, signature));
        vm.expectRevert(DevTEEInferenceVerifier.InvalidRegistryAddress.selector);
        _verifier.setRegistry(address(0));
    }
}
