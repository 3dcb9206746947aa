//! A node's evidence: its key, its signature, its hashes and its clock.

use std::fmt;

use alloy::primitives::{B256, keccak256};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PSS_2048_8192_SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_bindings::typed::{message_hash, settlement_id};
use serde_json::Value;

use crate::error::{Code, Refusal};

/// Latest timestamp that a receipt can hold (uint40).
pub const MAX_TIMESTAMP: u64 = (1 << 40) - 1;

/// Signature bytes at most: RSA-4096.
const MAX_SIGNATURE_BYTES: usize = 512;

/// DER SubjectPublicKeyInfo of an RSA key with e = 65537: what stands before and after the modulus.
const DER_BEFORE: usize = 33;
const DER_AFTER: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];

/// A node's public key, parsed once.
#[derive(Clone)]
pub struct NodeKey {
    id: B256,
    key: ParsedPublicKey,
    modulus_bytes: usize,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("id", &self.id).field("modulus_bytes", &self.modulus_bytes).finish()
    }
}

impl NodeKey {
    /// Reads a DER SubjectPublicKeyInfo: RSA of 2048 to 4096 bits in steps of 256, e = 65537, in its only DER encoding.
    /// The same keys pass here and in the contracts.
    ///
    /// # Errors
    /// `malformed` for any other bytes.
    pub fn parse(spki: &[u8]) -> Result<Self, Refusal> {
        let refuse = || {
            Refusal::new(
                Code::Malformed,
                "not a node key: send the DER SubjectPublicKeyInfo of an RSA key of 2048 to 4096 bits with e = 65537",
            )
        };
        let modulus_bytes = spki.len().checked_sub(DER_BEFORE + DER_AFTER.len()).ok_or_else(refuse)?;
        if !(256..=512).contains(&modulus_bytes) || modulus_bytes % 32 != 0 {
            return Err(refuse());
        }
        let (before, rest) = spki.split_at(DER_BEFORE);
        let (modulus, after) = rest.split_at(modulus_bytes);
        let top_bit = modulus.first().is_some_and(|byte| byte & 0x80 != 0);
        let odd = modulus.last().is_some_and(|byte| byte & 1 != 0);
        if der_before(modulus_bytes).as_deref() != Some(before) || after != DER_AFTER || !top_bit || !odd {
            return Err(refuse());
        }
        let key = ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, spki).map_err(|_| refuse())?;
        Ok(Self { id: keccak256(spki), key, modulus_bytes })
    }

    /// keccak256 of the DER: the node id.
    pub const fn id(&self) -> B256 {
        self.id
    }

    /// Checks RSASSA-PSS with SHA-256 and a salt of 32 bytes over the message hash taken as the message.
    ///
    /// # Errors
    /// `bad_inference_signature`.
    pub fn verify(&self, message_hash: B256, signature: &[u8]) -> Result<(), Refusal> {
        if signature.len() != self.modulus_bytes {
            return Err(Refusal::mismatch(
                Code::BadInferenceSignature,
                "the node's signature has the wrong length",
                signature.len(),
                self.modulus_bytes,
            ));
        }
        self.key.verify_sig(message_hash.as_slice(), signature).map_err(|_| {
            Refusal::new(
                Code::BadInferenceSignature,
                "the node's signature does not fit its key: send the answer exactly as the node signed it",
            )
        })
    }
}

/// Everything before the modulus; the lengths in it follow from the modulus alone.
fn der_before(modulus_bytes: usize) -> Option<Vec<u8>> {
    let length = |more: usize| u16::try_from(modulus_bytes + more).ok().map(u16::to_be_bytes);
    let mut der = vec![0x30, 0x82];
    der.extend(length(34)?);
    der.extend([0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x03, 0x82]);
    der.extend(length(15)?);
    der.extend([0x00, 0x30, 0x82]);
    der.extend(length(10)?);
    der.extend([0x02, 0x82]);
    der.extend(length(1)?);
    der.push(0x00);
    Some(der)
}

/// What a node says about one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub node_id: B256,
    pub request_hash: B256,
    pub output_hash: B256,
    /// Unix seconds.
    pub timestamp: u64,
    pub signature: Vec<u8>,
}

impl Evidence {
    /// Reads the `tee_*` members of a response body, or of the last data object of a stream.
    ///
    /// # Errors
    /// `malformed` naming the member that is missing or cannot be read.
    pub fn from_response(response: &Value) -> Result<Self, Refusal> {
        let text = |name: &str| {
            response.get(name).and_then(Value::as_str).ok_or_else(|| {
                Refusal::new(Code::Malformed, format!("the node's response has no text {name}: ask a node that signs"))
            })
        };
        let timestamp = response.get("tee_timestamp").and_then(Value::as_u64).ok_or_else(|| {
            Refusal::new(Code::Malformed, "tee_timestamp must be a whole number of unix seconds and not negative")
        })?;
        Ok(Self {
            node_id: hash32("tee_id", text("tee_id")?)?,
            request_hash: hash32("tee_request_hash", text("tee_request_hash")?)?,
            output_hash: hash32("tee_output_hash", text("tee_output_hash")?)?,
            timestamp,
            signature: signature("tee_signature", text("tee_signature")?)?,
        })
    }

    /// What the node signed.
    pub fn message_hash(&self) -> B256 {
        message_hash(self.request_hash, self.output_hash, self.timestamp)
    }

    /// The id under which this inference is paid, once.
    pub fn settlement_id(&self) -> B256 {
        settlement_id(self.node_id, self.message_hash())
    }
}

/// Reads 32 bytes of hexadecimal text, with or without `0x`.
///
/// # Errors
/// `malformed` naming the member.
pub fn hash32(name: &str, text: &str) -> Result<B256, Refusal> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| {
        Refusal::new(Code::Malformed, format!("{name} must be 32 bytes as 64 hexadecimal digits, with or without 0x"))
    })?;
    Ok(B256::from(bytes))
}

/// Reads a node's signature in standard base64.
///
/// # Errors
/// `malformed` naming the member.
pub fn signature(name: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    let refuse = || Refusal::new(Code::Malformed, format!("{name} must be an RSA signature in standard base64"));
    if text.len() > MAX_SIGNATURE_BYTES.div_ceil(3) * 4 {
        return Err(refuse());
    }
    let bytes = BASE64.decode(text).map_err(|_| refuse())?;
    if (256..=MAX_SIGNATURE_BYTES).contains(&bytes.len()) { Ok(bytes) } else { Err(refuse()) }
}

/// Which timestamps are paid. All in unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct TimestampRules {
    /// The order's window, both ends included.
    pub valid_after: u64,
    pub valid_before: u64,
    /// Wall clock.
    pub now: u64,
    /// Seconds that a timestamp may lie behind / ahead of the wall clock.
    pub max_age: u64,
    pub max_ahead: u64,
}

impl TimestampRules {
    /// Checks a timestamp.
    ///
    /// # Errors
    /// `future_timestamp`, `stale_timestamp`, `timestamp_outside_order`.
    pub fn check(&self, timestamp: u64) -> Result<(), Refusal> {
        let latest = self.now.saturating_add(self.max_ahead).min(MAX_TIMESTAMP);
        if timestamp > latest {
            return Err(Refusal::mismatch(
                Code::FutureTimestamp,
                "the node's timestamp lies in the future: its clock is wrong",
                timestamp,
                format!("at most {latest}"),
            ));
        }
        let earliest = self.now.saturating_sub(self.max_age);
        if timestamp < earliest {
            return Err(Refusal::mismatch(
                Code::StaleTimestamp,
                "the node's timestamp is too old: hand in completions sooner",
                timestamp,
                format!("at least {earliest}"),
            ));
        }
        if timestamp < self.valid_after || timestamp > self.valid_before {
            return Err(Refusal::mismatch(
                Code::TimestampOutsideOrder,
                "the order does not pay for answers of this time",
                timestamp,
                format!("from {} to {}", self.valid_after, self.valid_before),
            ));
        }
        Ok(())
    }
}

/// A completion that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    pub message_hash: B256,
    pub settlement_id: B256,
}

/// Checks a completion against the request that was ordered, the answer that came with it, the node's key and the clock.
/// `output` is the answer text; `None` when only its hash was handed in.
///
/// # Errors
/// `unknown_node` when the evidence names another node than the key's, `request_mismatch`, `output_mismatch`, the codes of
/// [`TimestampRules::check`], `bad_inference_signature`.
pub fn check_completion(
    evidence: &Evidence,
    request_hash: B256,
    output: Option<&str>,
    key: &NodeKey,
    rules: &TimestampRules,
) -> Result<Verified, Refusal> {
    let differ = |code, what: &str, actual: B256, expected: B256| {
        if actual == expected {
            Ok(())
        } else {
            Err(Refusal::mismatch(code, what, actual.to_string(), expected.to_string()))
        }
    };
    differ(
        Code::UnknownNode,
        "the evidence names another node than the one that was asked",
        evidence.node_id,
        key.id(),
    )?;
    differ(
        Code::RequestMismatch,
        "the node answered another request than the one that was ordered",
        evidence.request_hash,
        request_hash,
    )?;
    if let Some(output) = output {
        differ(
            Code::OutputMismatch,
            "the answer is not the text that the node signed",
            evidence.output_hash,
            keccak256(output),
        )?;
    }
    rules.check(evidence.timestamp)?;
    let message_hash = evidence.message_hash();
    key.verify(message_hash, &evidence.signature)?;
    Ok(Verified { message_hash, settlement_id: settlement_id(key.id(), message_hash) })
}
