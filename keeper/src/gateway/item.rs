//! `POST /settle_data` as `og-x402` sends it: type and data in two headers. Reading, and the checks that need no database.

use alloy::primitives::{Address, B256, address, b256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::canonical::output::output_text;
use crate::canonical::{Variant, canonical_request};
use crate::error::{Code, Refusal};
use crate::verify::completion::{Evidence, NodeKey, hash32, signature};

/// What a gateway sends as node id when the node's answer had none.
pub const FALLBACK_TEE_ID: B256 = b256!("ddc21f2d5d0af861b4fc1390df47f1c93bc5aee54e7e31763e97256d56148253");

/// Contracts that gateways name as payer of a Permit2 payment: they take its `spender`, who only moves the tokens.
/// x402ExactPermit2Proxy and x402UptoPermit2Proxy.
const SPENDERS: [Address; 2] =
    [address!("402085c248EeA27D92E8b30b2C58ed07f9E20001"), address!("4020A4f3b7b90ccA423B9fabCc0CE57C6C240002")];

/// How a proof is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hashes and signature.
    Batch,
    /// The whole request and answer too, and who paid as the gateway says.
    Individual,
}

impl Kind {
    /// The text on the wire, in the database and in job ids.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Individual => "individual",
        }
    }
}

/// A proof as it was handed in.
#[derive(Debug)]
pub struct Item {
    pub kind: Kind,
    pub evidence: Evidence,
    /// Whom the gateway names as payer, unless that is a contract that only moves tokens. Nobody signed it.
    pub payer: Option<Address>,
    /// Request and answer, as JSON.
    pub texts: Option<[Box<RawValue>; 2]>,
    /// A hash came as the gateway writes hashes of its own making (`0x`), not as nodes write theirs.
    prefixed: bool,
}

/// What was compared of request and answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// The rules by which the request's hash is the signed one; `None` when the request was not compared.
    pub variant: Option<Variant>,
    /// The text whose hash was signed; `None` when it was not compared.
    pub output: Option<String>,
}

/// Reads the type. `None` for a private inference, of which nothing is handed in.
///
/// # Errors
/// `unknown_settlement_type`.
pub fn kind(header: Option<&str>) -> Result<Option<Kind>, Refusal> {
    let text = header.unwrap_or_default();
    let plain: String = text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '_' | '-')).collect();
    match plain.to_ascii_lowercase().as_str() {
        "private" | "pivate" => Ok(None),
        "batch" => Ok(Some(Kind::Batch)),
        "individual" | "inidvidual" => Ok(Some(Kind::Individual)),
        _ => {
            let says = "x-settlement-type must be private, batch or individual";
            let shown: String = text.chars().take(64).collect();
            Err(Refusal::mismatch(Code::UnknownSettlementType, says, shown, "private, batch or individual"))
        }
    }
}

/// Reads the data: standard base64 of a JSON object.
///
/// # Errors
/// `bad_settlement_data` naming the member, `fallback_tee_id`, `signature_missing`, `timestamp_missing`.
pub fn read(kind: Kind, header: Option<&[u8]>) -> Result<Item, Refusal> {
    let bad = |text: &str| Refusal::new(Code::BadSettlementData, text);
    let header = header.ok_or_else(|| bad("the header x-settlement-data is missing"))?;
    let json = BASE64.decode(header.trim_ascii());
    let json = json.map_err(|_| bad("x-settlement-data must be standard base64 with padding"))?;
    let members: Map<String, Value> = serde_json::from_slice::<Value>(&json)
        .ok()
        .and_then(|value| if let Value::Object(members) = value { Some(members) } else { None })
        .ok_or_else(|| bad("x-settlement-data must be the base64 of a JSON object"))?;
    let tee_id = member(&members, &["tee_id", "teeId", "tee id", "tee-id"])?;
    let node_id = hash(tee_id, "tee_id")?;
    if node_id == FALLBACK_TEE_ID {
        let text =
            "tee_id is the gateway's stand-in for an answer without tee_id: the node did not sign, nothing is proven";
        return Err(Refusal::new(Code::FallbackTeeId, text));
    }
    let input = text(member(&members, &["input_hash", "inputHash", "input hash", "input-hash"])?, "input_hash")?;
    let output = text(member(&members, &["output_hash", "outputHash", "output hash", "output-hash"])?, "output_hash")?;
    let names = ["tee_signature", "teeSignature", "tee signature", "tee-signature"];
    let signed = text(member(&members, &names)?, "tee_signature")?;
    if matches!(signed.trim(), "" | "0x") {
        let text = "tee_signature is the gateway's stand-in for an answer without signature: nothing is proven";
        return Err(Refusal::new(Code::SignatureMissing, text));
    }
    let own = ["tee_timestamp", "teeTimestamp"];
    let other = ["timestamp", "timeStamp", "time_stamp"];
    let (first, second) = if kind == Kind::Batch { (&own[..], &other[..]) } else { (&other[..], &own[..]) };
    let times = [present(&members, first), present(&members, second)];
    let mut timestamp = None;
    for value in times.into_iter().flatten() {
        let seconds = unix(value).ok_or_else(|| bad("timestamp must be unix seconds: a whole number, or its text"))?;
        if timestamp.replace(seconds).is_some_and(|before| before != seconds) {
            return Err(bad("tee_timestamp and timestamp differ: send the one that the node signed"));
        }
    }
    let timestamp = timestamp.ok_or_else(|| {
        let text = "the timestamp is null: the node's answer had no tee_timestamp, so its signature cannot be checked";
        Refusal::new(Code::TimestampMissing, text)
    })?;
    let named = |refusal: Refusal| Refusal { code: Code::BadSettlementData, ..refusal };
    let evidence = Evidence {
        node_id,
        request_hash: hash32("input_hash", input).map_err(named)?,
        output_hash: hash32("output_hash", output).map_err(named)?,
        timestamp,
        signature: signature("tee_signature", signed).map_err(named)?,
    };
    let prefixed = [input, output].iter().any(|hash| hash.starts_with("0x") || hash.starts_with("0X"));
    let mut item = Item { kind, evidence, payer: None, texts: None, prefixed };
    if kind == Kind::Individual {
        let names = ["eth_address", "ethAddress", "eth address", "eth-address", "address"];
        let payer = text(member(&members, &names)?, "eth_address")?;
        let payer: Address = payer.trim().parse().map_err(|_| bad("eth_address must be an address"))?;
        item.payer = (!SPENDERS.contains(&payer) && payer != Address::ZERO).then_some(payer);
        item.texts = Some(texts(&json)?);
    }
    Ok(item)
}

/// Request and answer of an individual item, byte for byte.
fn texts(json: &[u8]) -> Result<[Box<RawValue>; 2], Refusal> {
    #[derive(serde::Deserialize)]
    struct Texts {
        input: Option<Box<RawValue>>,
        output: Option<Box<RawValue>>,
    }
    let missing = || Refusal::new(Code::BadSettlementData, "an individual item carries input and output");
    let texts: Texts = serde_json::from_slice(json).map_err(|_| missing())?;
    Ok([texts.input.ok_or_else(missing)?, texts.output.ok_or_else(missing)?])
}

impl Item {
    /// Checks the node's signature.
    ///
    /// # Errors
    /// `fallback_hash` when it does not fit and a hash looks like one of the gateway's own making, else `bad_inference_signature`.
    pub fn check_signature(&self, key: &NodeKey) -> Result<(), Refusal> {
        let Err(refusal) = key.verify(self.evidence.message_hash(), &self.evidence.signature) else { return Ok(()) };
        if !self.prefixed {
            return Err(refusal);
        }
        let text = "the signature does not fit the hashes. One begins with 0x, as the gateway's own sha256 of the raw body \
                    does when the node's answer has no tee_request_hash or tee_output_hash: only the node's hashes are signed";
        Err(Refusal::new(Code::FallbackHash, text))
    }

    /// Compares request and answer with the signed hashes, where the rules of canonical texts say what is hashed. A part of a
    /// streamed answer, or a request of a kind that we do not know, is not compared.
    ///
    /// # Errors
    /// `request_mismatch`, `output_mismatch`: the texts are not those that were signed.
    pub fn compare(&self) -> Result<Compared, Refusal> {
        let mut compared = Compared::default();
        let Some([input, output]) = &self.texts else { return Ok(compared) };
        let Ok(candidates) = canonical_request(input.get().as_bytes()) else { return Ok(compared) };
        let signed = candidates.iter().find(|canonical| canonical.hash == self.evidence.request_hash);
        let Some(signed) = signed else {
            let text = "input is not the request that the node signed: hand it in as batch if only the hashes matter";
            let found = candidates.first().map(|canonical| canonical.hash.to_string());
            let expected = self.evidence.request_hash.to_string();
            return Err(Refusal::mismatch(Code::RequestMismatch, text, found, expected));
        };
        compared.variant = Some(signed.variant);
        let Ok(output) = output_text(signed.endpoint, output.get().as_bytes()) else { return Ok(compared) };
        let hash = alloy::primitives::keccak256(&output);
        if hash != self.evidence.output_hash {
            let text = "output is not the answer that the node signed: hand it in as batch if only the hashes matter";
            let expected = self.evidence.output_hash.to_string();
            return Err(Refusal::mismatch(Code::OutputMismatch, text, hash.to_string(), expected));
        }
        compared.output = Some(output);
        Ok(compared)
    }
}

/// The first of these members that is there and not null.
pub(super) fn present<'a>(members: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| members.get(*name)).filter(|value| !value.is_null())
}

fn member<'a>(members: &'a Map<String, Value>, names: &[&str]) -> Result<&'a Value, Refusal> {
    let name = names.first().copied().unwrap_or_default();
    let missing = || Refusal::new(Code::BadSettlementData, format!("x-settlement-data has no {name}"));
    present(members, names).ok_or_else(missing)
}

fn text<'a>(value: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    value.as_str().ok_or_else(|| Refusal::new(Code::BadSettlementData, format!("{name} must be text")))
}

fn hash(value: &Value, name: &str) -> Result<B256, Refusal> {
    hash32(name, text(value, name)?).map_err(|refusal| Refusal { code: Code::BadSettlementData, ..refusal })
}

/// Unix seconds as a whole number, its decimal text, or its hexadecimal text with `0x`.
pub(super) fn unix(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let text = text.trim();
            match text.strip_prefix("0x") {
                Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
                None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/gateway.json")).unwrap()
    }

    fn key() -> NodeKey {
        NodeKey::parse(&hex::decode(&vectors()["key"]["spki"].as_str().unwrap()[2..]).unwrap()).unwrap()
    }

    fn encoded(value: &Value) -> String {
        BASE64.encode(value.to_string())
    }

    fn decoded(entry: &Value) -> Value {
        let data = entry["headers"]["x-settlement-data"].as_str().unwrap();
        serde_json::from_slice(&BASE64.decode(data).unwrap()).unwrap()
    }

    #[test]
    fn every_spelling_of_the_type() {
        for text in ["batch", " Batch ", "BATCH", "b_a-t c h"] {
            assert_eq!(kind(Some(text)).unwrap(), Some(Kind::Batch), "{text}");
        }
        for text in ["individual", "inidvidual", "INDIVIDUAL", "in-dividual"] {
            assert_eq!(kind(Some(text)).unwrap(), Some(Kind::Individual), "{text}");
        }
        for text in ["private", "pivate", "PRIVATE"] {
            assert_eq!(kind(Some(text)).unwrap(), None, "{text}");
        }
        for text in [None, Some(""), Some("settle"), Some("batches"), Some("SETTLE_BATCH")] {
            assert_eq!(kind(text).unwrap_err().code, Code::UnknownSettlementType, "{text:?}");
        }
    }

    #[test]
    fn what_the_python_library_sends_is_read_and_holds() {
        let key = key();
        let vectors = vectors();
        let entries = vectors["requests"].as_array().unwrap();
        assert!(entries.len() >= 6);
        for entry in entries {
            let name = entry["name"].as_str().unwrap();
            let kind = kind(entry["headers"]["x-settlement-type"].as_str()).unwrap().unwrap();
            let item = read(kind, entry["headers"]["x-settlement-data"].as_str().map(str::as_bytes)).unwrap();
            item.check_signature(&key).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            let compared = item.compare().unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            let variant = compared.variant.map(Variant::as_str);
            assert_eq!(variant, entry["expected"]["variant"].as_str(), "{name}");
            assert_eq!(compared.output.as_deref(), entry["expected"]["output"].as_str(), "{name}");
            let payer = item.payer.map(|payer| payer.to_string());
            assert_eq!(payer.as_deref(), entry["expected"]["payer"].as_str(), "{name}");
            assert_eq!(item.evidence.settlement_id().to_string(), entry["expected"]["settlementId"].as_str().unwrap());
        }
    }

    #[test]
    fn the_gateways_stand_ins_are_refused_by_name() {
        let key = key();
        for entry in vectors()["refused"].as_array().unwrap() {
            let name = entry["name"].as_str().unwrap();
            let kind = kind(entry["headers"]["x-settlement-type"].as_str()).unwrap().unwrap();
            let data = entry["headers"]["x-settlement-data"].as_str();
            let refused = read(kind, data.map(str::as_bytes))
                .and_then(|item| item.check_signature(&key).and_then(|()| item.compare()))
                .unwrap_err();
            assert_eq!(refused.code.as_str(), entry["code"].as_str().unwrap(), "{name}: {refused}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let good = decoded(&vectors()["requests"][0]);
        let refused = |kind: Kind, value: &Value| read(kind, Some(encoded(value).as_bytes())).unwrap_err().code;
        assert!(read(Kind::Batch, Some(encoded(&good).as_bytes())).is_ok());
        for (name, value) in [
            ("tee_id", json!("0x12")),
            ("tee_id", json!(7)),
            ("tee_id", Value::Null),
            ("input_hash", json!("")),
            ("output_hash", json!("zz")),
            ("tee_signature", json!("c2ln")),
            ("tee_signature", json!("not base64!")),
            ("tee_timestamp", json!(1.5)),
            ("tee_timestamp", json!(-1)),
            ("tee_timestamp", json!("12x")),
            ("timestamp", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[name] = value.clone();
            assert_eq!(refused(Kind::Batch, &bad), Code::BadSettlementData, "{name} {value}");
        }
        assert_eq!(refused(Kind::Individual, &good), Code::BadSettlementData, "no payer, no texts");
        assert_eq!(refused(Kind::Batch, &json!([1])), Code::BadSettlementData);
        for header in [None, Some(&b"{}"[..]), Some(b"e30"), Some(b"\xff\xfe"), Some(b"")] {
            assert_eq!(read(Kind::Batch, header).unwrap_err().code, Code::BadSettlementData, "{header:?}");
        }
        for (text, seconds) in
            [("0x6b00aa80", Some(1_795_205_760)), ("12", Some(12)), ("", None), ("0x", None), ("+1", None)]
        {
            let read = unix(&json!(text));
            assert_eq!(read, seconds.filter(|_| !text.is_empty()), "{text}");
        }
    }
}
