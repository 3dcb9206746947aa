// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IPermit2} from "../interfaces/IPermit2.sol";

/// @title DevPermit2
/// @notice For local chains only: the calls of Permit2 that wallets, x402 clients and the escrow make, with the same selectors,
///         digests, events and errors. Batches of permits are left out.
/// @dev Has no constructor state: a local chain places its code at 0x000000000022D473030F116dDEE9F6B43aC78BA3.
contract DevPermit2 is IPermit2 {
    using SafeERC20 for IERC20;

    struct Allowed {
        uint160 amount;
        uint48 expiration;
        uint48 nonce;
    }

    /// @notice What one signed allowance grants.
    struct PermitDetails {
        address token;
        uint160 amount;
        uint48 expiration;
        uint48 nonce;
    }

    /// @notice A signed allowance.
    struct PermitSingle {
        PermitDetails details;
        address spender;
        uint256 sigDeadline;
    }

    struct AllowanceTransferDetails {
        address from;
        address to;
        uint160 amount;
        address token;
    }

    struct TokenSpenderPair {
        address token;
        address spender;
    }

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");
    string private constant TOKEN_PERMISSIONS = "TokenPermissions(address token,uint256 amount)";
    bytes32 private constant TOKEN_PERMISSIONS_TYPEHASH = keccak256(bytes(TOKEN_PERMISSIONS));
    bytes32 private constant TRANSFER_TYPEHASH = keccak256(
        "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)"
    );
    string private constant WITNESS_TYPE_STUB =
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,";
    bytes32 private constant DETAILS_TYPEHASH =
        keccak256("PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)");
    bytes32 private constant SINGLE_TYPEHASH = keccak256(
        "PermitSingle(PermitDetails details,address spender,uint256 sigDeadline)PermitDetails(address token,uint160 amount,uint48 expiration,uint48 nonce)"
    );

    /// @notice Allowance of a spender, when it ends, and the nonce of the next signed one.
    mapping(address owner => mapping(address token => mapping(address spender => Allowed))) public allowance;
    /// @notice Spent nonces of signed transfers: bit `nonce % 256` of word `nonce / 256`.
    mapping(address owner => mapping(uint256 word => uint256)) public nonceBitmap;

    event Approval(
        address indexed owner, address indexed token, address indexed spender, uint160 amount, uint48 expiration
    );
    event Permit(
        address indexed owner,
        address indexed token,
        address indexed spender,
        uint160 amount,
        uint48 expiration,
        uint48 nonce
    );
    event Lockdown(address indexed owner, address token, address spender);
    event NonceInvalidation(
        address indexed owner, address indexed token, address indexed spender, uint48 newNonce, uint48 oldNonce
    );
    event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

    error AllowanceExpired(uint256 deadline);
    error InsufficientAllowance(uint256 amount);
    error ExcessiveInvalidation();
    error InvalidAmount(uint256 maxAmount);
    error InvalidNonce();
    error SignatureExpired(uint256 signatureDeadline);
    error InvalidSignatureLength();
    error InvalidSignature();
    error InvalidSigner();
    error InvalidContractSignature();

    // ── Signed transfers ─────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Moves tokens of `owner` that it permitted to the caller by signature.
    function permitTransferFrom(
        PermitTransferFrom calldata permit_,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external {
        bytes32 structHash = keccak256(
            abi.encode(TRANSFER_TYPEHASH, _hash(permit_.permitted), msg.sender, permit_.nonce, permit_.deadline)
        );
        _signedTransfer(permit_, transferDetails, owner, structHash, signature);
    }

    /// @inheritdoc IPermit2
    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit_,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external override {
        bytes32 typeHash = keccak256(abi.encodePacked(WITNESS_TYPE_STUB, witnessTypeString));
        bytes32 structHash = keccak256(
            abi.encode(typeHash, _hash(permit_.permitted), msg.sender, permit_.nonce, permit_.deadline, witness)
        );
        _signedTransfer(permit_, transferDetails, owner, structHash, signature);
    }

    /// @notice Spends the caller's nonces of a word.
    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external {
        nonceBitmap[msg.sender][wordPos] |= mask;
        emit UnorderedNonceInvalidation(msg.sender, wordPos, mask);
    }

    // ── Allowances ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// @notice Sets an allowance of the caller; an expiration of 0 means this block only.
    function approve(address token, address spender, uint160 amount, uint48 expiration) external {
        Allowed storage allowed = allowance[msg.sender][token][spender];
        allowed.amount = amount;
        allowed.expiration = expiration == 0 ? uint48(block.timestamp) : expiration;
        emit Approval(msg.sender, token, spender, amount, expiration);
    }

    /// @notice Sets an allowance by signature.
    function permit(address owner, PermitSingle calldata permitSingle, bytes calldata signature) external {
        require(block.timestamp <= permitSingle.sigDeadline, SignatureExpired(permitSingle.sigDeadline));
        PermitDetails calldata details = permitSingle.details;
        bytes32 structHash = keccak256(
            abi.encode(
                SINGLE_TYPEHASH,
                keccak256(abi.encode(DETAILS_TYPEHASH, details)),
                permitSingle.spender,
                permitSingle.sigDeadline
            )
        );
        _check(owner, structHash, signature);

        Allowed storage allowed = allowance[owner][details.token][permitSingle.spender];
        require(allowed.nonce == details.nonce, InvalidNonce());
        allowed.nonce = details.nonce + 1;
        allowed.amount = details.amount;
        allowed.expiration = details.expiration == 0 ? uint48(block.timestamp) : details.expiration;
        emit Permit(owner, details.token, permitSingle.spender, details.amount, details.expiration, details.nonce);
    }

    /// @notice Moves tokens within the caller's allowance.
    function transferFrom(address from, address to, uint160 amount, address token) external {
        _allowedTransfer(from, to, amount, token);
    }

    /// @notice Moves tokens within the caller's allowances.
    function transferFrom(AllowanceTransferDetails[] calldata transferDetails) external {
        for (uint256 i; i < transferDetails.length; ++i) {
            AllowanceTransferDetails calldata t = transferDetails[i];
            _allowedTransfer(t.from, t.to, t.amount, t.token);
        }
    }

    /// @notice Takes allowances of the caller away.
    function lockdown(TokenSpenderPair[] calldata approvals) external {
        for (uint256 i; i < approvals.length; ++i) {
            allowance[msg.sender][approvals[i].token][approvals[i].spender].amount = 0;
            emit Lockdown(msg.sender, approvals[i].token, approvals[i].spender);
        }
    }

    /// @notice Spends the caller's allowance nonces below a number, at most 65,535 at once.
    function invalidateNonces(address token, address spender, uint48 newNonce) external {
        Allowed storage allowed = allowance[msg.sender][token][spender];
        uint48 oldNonce = allowed.nonce;
        require(newNonce > oldNonce, InvalidNonce());
        require(newNonce - oldNonce <= type(uint16).max, ExcessiveInvalidation());
        allowed.nonce = newNonce;
        emit NonceInvalidation(msg.sender, token, spender, newNonce, oldNonce);
    }

    /// @notice EIP-712 domain separator on this chain at this address.
    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, keccak256("Permit2"), block.chainid, address(this)));
    }

    // ── Internals ────────────────────────────────────────────────────────────────────────────────────────────────────

    function _signedTransfer(
        PermitTransferFrom calldata permit_,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 structHash,
        bytes calldata signature
    ) private {
        require(block.timestamp <= permit_.deadline, SignatureExpired(permit_.deadline));
        require(transferDetails.requestedAmount <= permit_.permitted.amount, InvalidAmount(permit_.permitted.amount));
        uint256 bit = uint256(1) << uint8(permit_.nonce);
        uint256 word = nonceBitmap[owner][permit_.nonce >> 8];
        require(word & bit == 0, InvalidNonce());
        nonceBitmap[owner][permit_.nonce >> 8] = word | bit;
        _check(owner, structHash, signature);
        _transfer(permit_.permitted.token, owner, transferDetails.to, transferDetails.requestedAmount);
    }

    function _allowedTransfer(address from, address to, uint160 amount, address token) private {
        Allowed storage allowed = allowance[from][token][msg.sender];
        require(block.timestamp <= allowed.expiration, AllowanceExpired(allowed.expiration));
        uint160 available = allowed.amount;
        if (available != type(uint160).max) {
            require(amount <= available, InsufficientAllowance(available));
            allowed.amount = available - amount;
        }
        _transfer(token, from, to, amount);
    }

    /// @dev Permit2 does not pass the token's reason on.
    function _transfer(address token, address from, address to, uint256 amount) private {
        require(IERC20(token).trySafeTransferFrom(from, to, amount), "TRANSFER_FROM_FAILED");
    }

    function _hash(TokenPermissions calldata permitted) private pure returns (bytes32) {
        return keccak256(abi.encode(TOKEN_PERMISSIONS_TYPEHASH, permitted));
    }

    /// @dev 64- and 65-byte ECDSA signatures of accounts without code, ERC-1271 of accounts with code.
    function _check(address owner, bytes32 structHash, bytes calldata signature) private view {
        bytes32 digest = MessageHashUtils.toTypedDataHash(DOMAIN_SEPARATOR(), structHash);
        if (owner.code.length != 0) {
            require(
                IERC1271(owner).isValidSignature(digest, signature) == IERC1271.isValidSignature.selector,
                InvalidContractSignature()
            );
            return;
        }
        require(signature.length == 65 || signature.length == 64, InvalidSignatureLength());
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        uint8 v;
        if (signature.length == 65) {
            v = uint8(signature[64]);
        } else {
            v = uint8(uint256(s) >> 255) + 27;
            s = s & bytes32(uint256(type(int256).max));
        }
        address signer = ecrecover(digest, v, r, s);
        require(signer != address(0), InvalidSignature());
        require(signer == owner, InvalidSigner());
    }
}
