//! Every reason that a facilitator answer can carry. The texts are those of the reference libraries, which clients match on.

use alloy::primitives::Address;

/// Declares the reasons with their texts.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// Why a payment is refused or not settled.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant),+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text in answers and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

reasons! {
    InvalidPayload = "invalid_payload",
    InvalidRequirements = "invalid_payment_requirements",
    InvalidNetwork = "invalid_network",
    InvalidVersion = "invalid_x402_version",
    InvalidTransactionState = "invalid_transaction_state",
    UnsupportedScheme = "unsupported_scheme",
    UnsupportedPayloadType = "unsupported_payload_type",
    UnexpectedVerify = "unexpected_verify_error",
    UnexpectedSettle = "unexpected_settle_error",
    SettlementPending = "settlement_pending",
    /// It stands for another payment of this payer; what 409 is between client and server.
    IdentifierConflict = "payment_identifier_conflict",
    IdentifierRequired = "payment_identifier_required",
    IdentifierInvalid = "invalid_payment_identifier",
    AssetNotDeployed = "asset_not_deployed_contract",
    FactoryNotAllowed = "eip6492_factory_not_allowed",

    ExactScheme = "invalid_exact_evm_scheme",
    ExactMissingDomain = "invalid_exact_evm_missing_eip712_domain",
    ExactNetworkMismatch = "invalid_exact_evm_network_mismatch",
    ExactSignature = "invalid_exact_evm_signature",
    ExactRecipientMismatch = "invalid_exact_evm_recipient_mismatch",
    ExactValidBefore = "invalid_exact_evm_payload_authorization_valid_before",
    ExactValidAfter = "invalid_exact_evm_payload_authorization_valid_after",
    ExactValueMismatch = "invalid_exact_evm_payload_authorization_value_mismatch",
    /// As version 1 calls it.
    ExactValueMismatchV1 = "invalid_exact_evm_authorization_value",
    ExactEip3009NotSupported = "invalid_exact_evm_eip3009_not_supported",
    ExactNonceUsed = "invalid_exact_evm_nonce_already_used",
    ExactTokenName = "invalid_exact_evm_token_name_mismatch",
    ExactTokenVersion = "invalid_exact_evm_token_version_mismatch",
    ExactInsufficientBalance = "invalid_exact_evm_insufficient_balance",
    ExactSimulationFailed = "invalid_exact_evm_transaction_simulation_failed",
    ExactUndeployedWallet = "invalid_exact_evm_payload_undeployed_smart_wallet",
    ExactTransactionFailed = "invalid_exact_evm_transaction_failed",
    ExactTransferMismatch = "invalid_exact_evm_transfer_event_mismatch",

    Permit2Spender = "invalid_permit2_spender",
    Permit2Recipient = "invalid_permit2_recipient_mismatch",
    Permit2Expired = "permit2_deadline_expired",
    Permit2NotYetValid = "permit2_not_yet_valid",
    Permit2Amount = "permit2_amount_mismatch",
    Permit2Token = "permit2_token_mismatch",
    Permit2Signature = "invalid_permit2_signature",
    Permit2ProxyNotDeployed = "permit2_proxy_not_deployed",
    Permit2InsufficientBalance = "permit2_insufficient_balance",
    Permit2AllowanceRequired = "permit2_allowance_required",
    Permit2SimulationFailed = "permit2_simulation_failed",
    Permit2612Amount = "permit2_2612_amount_mismatch",
    Permit2InvalidAmount = "permit2_invalid_amount",
    Permit2InvalidDestination = "permit2_invalid_destination",
    Permit2InvalidOwner = "permit2_invalid_owner",
    Permit2TooEarly = "permit2_payment_too_early",
    Permit2InvalidNonce = "permit2_invalid_nonce",

    Eip2612Format = "invalid_eip2612_extension_format",
    Eip2612From = "eip2612_from_mismatch",
    Eip2612Asset = "eip2612_asset_mismatch",
    Eip2612Spender = "eip2612_spender_not_permit2",
    Eip2612Expired = "eip2612_deadline_expired",

    ApprovalFormat = "invalid_erc20_approval_extension_format",
    ApprovalFrom = "erc20_approval_from_mismatch",
    ApprovalAsset = "erc20_approval_asset_mismatch",
    ApprovalSpender = "erc20_approval_spender_not_permit2",
    ApprovalTarget = "erc20_approval_tx_wrong_target",
    ApprovalSelector = "erc20_approval_tx_wrong_selector",
    ApprovalTxSpender = "erc20_approval_tx_wrong_spender",
    ApprovalCalldata = "erc20_approval_tx_invalid_calldata",
    ApprovalSigner = "erc20_approval_tx_signer_mismatch",
    ApprovalSignature = "erc20_approval_tx_invalid_signature",
    ApprovalParse = "erc20_approval_tx_parse_failed",
    ApprovalFailed = "erc20_approval_tx_failed",
    ApprovalBroadcast = "erc20_approval_broadcast_failed",
    /// What we give payers for gas is given out for now.
    SponsorLimit = "gas_sponsoring_limit_reached",

    UptoScheme = "invalid_upto_evm_scheme",
    UptoNetworkMismatch = "invalid_upto_evm_network_mismatch",
    UptoExceedsAmount = "invalid_upto_evm_payload_settlement_exceeds_amount",
    UptoTransactionFailed = "invalid_upto_evm_transaction_failed",
    UptoAmountExceedsPermitted = "upto_amount_exceeds_permitted",
    UptoUnauthorizedFacilitator = "upto_unauthorized_facilitator",
    UptoFacilitatorMismatch = "upto_facilitator_mismatch",

    BatchScheme = "invalid_batch_settlement_evm_scheme",
    BatchNetworkMismatch = "invalid_batch_settlement_evm_network_mismatch",
    BatchPayloadType = "invalid_batch_settlement_evm_payload_type",
    BatchChannelId = "invalid_batch_settlement_evm_channel_id_mismatch",
    BatchReceiver = "invalid_batch_settlement_evm_receiver_mismatch",
    BatchReceiverAuthorizer = "invalid_batch_settlement_evm_receiver_authorizer_mismatch",
    BatchToken = "invalid_batch_settlement_evm_token_mismatch",
    BatchDelayMismatch = "invalid_batch_settlement_evm_withdraw_delay_mismatch",
    BatchDelayRange = "invalid_batch_settlement_evm_withdraw_delay_out_of_range",
    BatchAuthorizationRequired = "invalid_batch_settlement_evm_erc3009_authorization_required",
    BatchMissingDomain = "invalid_batch_settlement_evm_missing_eip712_domain",
    BatchValidBefore = "invalid_batch_settlement_evm_payload_authorization_valid_before",
    BatchValidAfter = "invalid_batch_settlement_evm_payload_authorization_valid_after",
    BatchFactoryNotAllowed = "invalid_batch_settlement_evm_eip6492_factory_not_allowed",
    BatchAuthorizationSignature = "invalid_batch_settlement_evm_receive_authorization_signature",
    BatchPermit2Required = "invalid_batch_settlement_evm_permit2_authorization_required",
    BatchPermit2Signature = "invalid_batch_settlement_evm_permit2_invalid_signature",
    BatchPermit2Spender = "invalid_batch_settlement_evm_permit2_invalid_spender",
    BatchPermit2Amount = "invalid_batch_settlement_evm_permit2_amount_mismatch",
    BatchPermit2Expired = "invalid_batch_settlement_evm_permit2_deadline_expired",
    BatchPermit2Allowance = "invalid_batch_settlement_evm_permit2_allowance_required",
    BatchApprovalUnavailable = "invalid_batch_settlement_evm_erc20_approval_unavailable",
    BatchEip2612Amount = "invalid_batch_settlement_evm_eip2612_amount_mismatch",
    BatchVoucherSignature = "invalid_batch_settlement_evm_voucher_signature",
    BatchReadFailed = "invalid_batch_settlement_evm_rpc_read_failed",
    BatchInsufficientBalance = "invalid_batch_settlement_evm_insufficient_balance",
    BatchExceedsBalance = "invalid_batch_settlement_evm_cumulative_exceeds_balance",
    BatchBelowClaimed = "invalid_batch_settlement_evm_cumulative_below_claimed",
    BatchChannelNotFound = "invalid_batch_settlement_evm_channel_not_found",
    BatchDepositSimulation = "invalid_batch_settlement_evm_deposit_simulation_failed",
    BatchDepositFailed = "invalid_batch_settlement_evm_deposit_transaction_failed",
    BatchAuthorizerMismatch = "invalid_batch_settlement_evm_authorizer_address_mismatch",
    BatchAuthorizerMissing = "invalid_batch_settlement_evm_authorizer_not_configured",
    BatchClaimSimulation = "invalid_batch_settlement_evm_claim_simulation_failed",
    BatchClaimFailed = "invalid_batch_settlement_evm_claim_transaction_failed",
    BatchNothingToSettle = "invalid_batch_settlement_evm_nothing_to_settle",
    BatchSettleSimulation = "invalid_batch_settlement_evm_settle_simulation_failed",
    BatchSettleFailed = "invalid_batch_settlement_evm_settle_transaction_failed",
    BatchRefundNoBalance = "invalid_batch_settlement_evm_refund_no_balance",
    BatchRefundPayload = "invalid_batch_settlement_evm_refund_payload",
    BatchRefundAmount = "invalid_batch_settlement_evm_refund_amount_invalid",
    BatchRefundSimulation = "invalid_batch_settlement_evm_refund_simulation_failed",
    BatchRefundFailed = "invalid_batch_settlement_evm_refund_transaction_failed",
    BatchWalletDeployment = "invalid_batch_settlement_evm_smart_wallet_deployment_failed",
}

/// A payment that is refused: the reason, a sentence that says what to do, and the payer as far as known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str())]
pub struct Fault {
    pub reason: Reason,
    pub message: String,
    pub payer: Option<Address>,
}

impl Fault {
    /// A refusal of a payer that is not known yet.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), payer: None }
    }

    /// The refusal of what two places should say alike.
    pub fn differs(reason: Reason, what: &str, found: impl std::fmt::Display, wanted: impl std::fmt::Display) -> Self {
        Self::new(reason, format!("{what} is {found}, it must be {wanted}"))
    }

    /// The same refusal, of this payer.
    pub fn of(self, payer: Address) -> Self {
        Self { payer: Some(payer), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_words() {
        let mut texts: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        texts.sort_unstable();
        let n = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), n);
        assert!(
            texts.iter().all(|text| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        );
    }
}
