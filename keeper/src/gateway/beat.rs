//! `POST /heartbeat` as gateways send it, with every spelling of its members; reading, and the checks that need no database.

use alloy::primitives::{Address, B256, keccak256};
use serde_json::{Map, Value};

use super::item::{present, unix};
use crate::error::{Code, Refusal};
use crate::verify::completion::{NodeKey, hash32, signature};

/// Seconds before a heartbeat is too old for the registry that it must still have, to be mined in time.
pub const MARGIN: u64 = 60;

/// A node's sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub tee_id: B256,
    /// The node's own time, unix seconds.
    pub timestamp: u64,
    pub signature: Vec<u8>,
    /// The registry that it is meant for.
    pub registry: Option<Address>,
}

impl Heartbeat {
    /// Reads a body.
    ///
    /// # Errors
    /// `bad_heartbeat` naming the member.
    pub fn read(body: &Value) -> Result<Self, Refusal> {
        let bad = |text: String| Refusal::new(Code::BadHeartbeat, text);
        let members = body.as_object().ok_or_else(|| bad("a heartbeat is a JSON object".to_owned()))?;
        let text = |names: &[&str]| -> Result<&str, Refusal> {
            let name = names.first().copied().unwrap_or_default();
            let value = member(members, names)?;
            value.as_str().ok_or_else(|| bad(format!("{name} must be text")))
        };
        let named = |refusal: Refusal| Refusal { code: Code::BadHeartbeat, ..refusal };
        let time = member(members, &["timestamp", "timeStamp", "time_stamp"])?;
        let registry = present(members, &["contractAddress", "registry", "contract_address"]);
        let registry = registry.map(|value| value.as_str().and_then(|text| text.trim().parse().ok()));
        Ok(Self {
            tee_id: hash32("teeId", text(&["teeId", "tee_id", "tee id", "tee-id"])?).map_err(named)?,
            timestamp: unix(time)
                .ok_or_else(|| bad("timestamp must be unix seconds, a number or its text".to_owned()))?,
            signature: signature("signature", text(&["signature", "teeSignature", "tee_signature"])?).map_err(named)?,
            registry: match registry {
                Some(None) => return Err(bad("contractAddress must be an address".to_owned())),
                Some(address) => address,
                None => None,
            },
        })
    }

    /// What the node signed: keccak256(teeId ‖ uint256 timestamp).
    pub fn message(&self) -> B256 {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(self.tee_id.as_slice());
        bytes[56..].copy_from_slice(&self.timestamp.to_be_bytes());
        keccak256(bytes)
    }

    /// Checks time and signature as the registry will. `now` and `max_age` in seconds.
    ///
    /// # Errors
    /// `future_timestamp`, `stale_timestamp`, `bad_inference_signature`.
    pub fn check(&self, key: &NodeKey, now: u64, max_age: u64) -> Result<(), Refusal> {
        if self.timestamp > now {
            let text = "the heartbeat lies in the future: the registry would refuse it";
            return Err(Refusal::mismatch(Code::FutureTimestamp, text, self.timestamp, now));
        }
        let earliest = now.saturating_sub(max_age.saturating_sub(MARGIN));
        if self.timestamp < earliest {
            let text = "the heartbeat is too old: the registry would refuse it, sign a new one";
            return Err(Refusal::mismatch(Code::StaleTimestamp, text, self.timestamp, earliest));
        }
        key.verify(self.message(), &self.signature)
    }
}

fn member<'a>(members: &'a Map<String, Value>, names: &[&str]) -> Result<&'a Value, Refusal> {
    let name = names.first().copied().unwrap_or_default();
    present(members, names).ok_or_else(|| Refusal::new(Code::BadHeartbeat, format!("the heartbeat has no {name}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/gateway.json")).unwrap()
    }

    #[test]
    fn heartbeats_of_openssl_hold_within_their_time() {
        let vectors = vectors();
        let key = NodeKey::parse(&hex::decode(&vectors["key"]["spki"].as_str().unwrap()[2..]).unwrap()).unwrap();
        let beat = Heartbeat::read(&vectors["heartbeat"]["body"]).unwrap();
        assert_eq!(beat.message().to_string(), vectors["heartbeat"]["message"].as_str().unwrap());
        let at = beat.timestamp;
        assert!(beat.check(&key, at, 1_800).is_ok() && beat.check(&key, at + 1_740, 1_800).is_ok());
        assert_eq!(beat.check(&key, at - 1, 1_800).unwrap_err().code, Code::FutureTimestamp);
        assert_eq!(beat.check(&key, at + 1_741, 1_800).unwrap_err().code, Code::StaleTimestamp);
        let other = Heartbeat { timestamp: at + 1, ..beat };
        assert_eq!(other.check(&key, at + 1, 1_800).unwrap_err().code, Code::BadInferenceSignature);
    }

    #[test]
    fn every_spelling() {
        let body = &vectors()["heartbeat"]["body"];
        let [id, time, signature] = ["teeId", "timestamp", "signature"].map(|name| body[name].clone());
        let expected = Heartbeat::read(body).unwrap();
        assert!(expected.registry.is_some());
        for tee in ["teeId", "tee_id", "tee id", "tee-id"] {
            for at in ["timestamp", "timeStamp", "time_stamp"] {
                for sig in ["signature", "teeSignature", "tee_signature"] {
                    let read = Heartbeat::read(&json!({ tee: id, at: time, sig: signature })).unwrap();
                    assert_eq!(read, Heartbeat { registry: None, ..expected.clone() });
                }
            }
        }
        let hexadecimal = format!("0x{:x}", expected.timestamp);
        for at in [json!(expected.timestamp), json!(hexadecimal)] {
            let read = Heartbeat::read(&json!({ "teeId": id, "timestamp": at, "signature": signature }));
            assert_eq!(read.unwrap().timestamp, expected.timestamp);
        }
        for (name, value) in [
            ("teeId", Value::Null),
            ("teeId", json!("0x12")),
            ("timestamp", json!("soon")),
            ("signature", json!("c2ln")),
            ("contractAddress", json!("0x12")),
            ("contractAddress", json!(7)),
        ] {
            let mut bad = body.clone();
            bad[name] = value;
            assert_eq!(Heartbeat::read(&bad).unwrap_err().code, Code::BadHeartbeat, "{name}");
        }
        assert_eq!(Heartbeat::read(&json!([])).unwrap_err().code, Code::BadHeartbeat);
    }
}
