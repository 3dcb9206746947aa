//! Errors of contracts that ours call: tokens, OpenZeppelin, Permit2, the compiler's own. Each is as its standard declares it.

alloy::sol! {
    #[derive(Debug)]
    interface Known {
        // The compiler's.
        error Error(string reason);
        error Panic(uint256 code);
        // ERC-6093 and OpenZeppelin.
        error ERC20InsufficientBalance(address sender, uint256 balance, uint256 needed);
        error ERC20InsufficientAllowance(address spender, uint256 allowance, uint256 needed);
        error ERC20InvalidSender(address sender);
        error ERC20InvalidReceiver(address receiver);
        error ERC20InvalidApprover(address approver);
        error ERC20InvalidSpender(address spender);
        error ERC2612ExpiredSignature(uint256 deadline);
        error ERC2612InvalidSigner(address signer, address owner);
        error SafeERC20FailedOperation(address token);
        error InvalidAccountNonce(address account, uint256 currentNonce);
        error AddressEmptyCode(address target);
        error FailedCall();
        error InsufficientBalance(uint256 balance, uint256 needed);
        error ECDSAInvalidSignature();
        error ECDSAInvalidSignatureLength(uint256 length);
        error ECDSAInvalidSignatureS(bytes32 s);
        error ReentrancyGuardReentrantCall();
        error EnforcedPause();
        error OwnableUnauthorizedAccount(address account);
        error AccessManagedUnauthorized(address caller);
        error AccessManagerUnauthorizedAccount(address msgsender, uint64 roleId);
        error AccessManagerUnauthorizedCall(address caller, address target, bytes4 selector);
        error AccessManagerNotScheduled(bytes32 operationId);
        error AccessManagerNotReady(bytes32 operationId);
        error AccessManagerExpired(bytes32 operationId);
        error SafeCastOverflowedUintDowncast(uint8 bits, uint256 value);
        // Permit2.
        error AllowanceExpired(uint256 deadline);
        error InsufficientAllowance(uint256 amount);
        error ExcessiveInvalidation();
        error InvalidAmount(uint256 maxAmount);
        error InvalidNonce();
        error LengthMismatch();
        error SignatureExpired(uint256 signatureDeadline);
        error InvalidSignatureLength();
        error InvalidSignature();
        error InvalidSigner();
        error InvalidContractSignature();
        // Old tokens and Solady.
        error TransferFailed();
        error TransferFromFailed();
        error ApproveFailed();
    }
}

pub use Known::KnownErrors;

/// Name of the error with this selector.
pub fn name(selector: [u8; 4]) -> Option<&'static str> {
    KnownErrors::name_by_selector(selector)
}

/// What a panic code of the compiler means.
pub const fn panic(code: u64) -> &'static str {
    match code {
        0x01 => "an assertion failed",
        0x11 => "an arithmetic operation overflowed",
        0x12 => "a division by zero",
        0x21 => "a value that its enum does not have",
        0x22 => "broken storage of a byte array",
        0x31 => "pop of an empty array",
        0x32 => "an index beyond the end of an array",
        0x41 => "too much memory",
        0x51 => "a call of an unset function pointer",
        _ => "an unknown panic of the compiler",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_of_real_reverts() {
        for (selector, expected) in [
            ("e450d38c", "ERC20InsufficientBalance"),
            ("fb8f41b2", "ERC20InsufficientAllowance"),
            ("08c379a0", "Error"),
            ("4e487b71", "Panic"),
            ("5274afe7", "SafeERC20FailedOperation"),
            ("756688fe", "InvalidNonce"),
            ("cd21db4f", "SignatureExpired"),
            ("815e1d64", "InvalidSigner"),
        ] {
            let selector: [u8; 4] = hex::decode(selector).unwrap().try_into().unwrap();
            assert_eq!(name(selector), Some(expected));
        }
        assert_eq!(name([1, 2, 3, 4]), None);
    }
}
