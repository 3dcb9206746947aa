//! Response bodies and stream events in the gateway's form, with what the node signs.

use alloy::primitives::{B256, hex, keccak256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use quittance_bindings::typed::message_hash;
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::misbehave::Mode;
use crate::canonical::json::Json;
use crate::canonical::print::dumps;
use crate::canonical::{Canonical, Endpoint};
use crate::crypto::RsaKey;
use crate::error::Result;

/// Characters in one streamed piece.
const PIECE: usize = 24;

/// A signed answer.
#[derive(Clone, Debug)]
pub struct Signed {
    pub answer: Answer,
    /// Unix seconds.
    pub timestamp: u64,
    /// `tee_*` members.
    tee: Map<String, Value>,
}

/// Signs an answer as the gateway does, or as `mode` says.
///
/// # Errors
/// Those of [`RsaKey::sign`].
pub fn sign(key: &RsaKey, canonical: &Canonical, answer: Answer, timestamp: u64, mode: Mode) -> Result<Signed> {
    let output = output_of(&answer);
    let output_hash = match mode {
        Mode::WrongHash => keccak256(format!("not {output}")),
        _ => keccak256(&output),
    };
    let message = message_hash(canonical.hash, output_hash, timestamp);
    let signed = if mode == Mode::BadSignature { keccak256(message) } else { message };
    let signature = BASE64.encode(key.sign(signed)?);
    let digits = |hash: B256| hex::encode(hash);
    let mut tee = Map::new();
    tee.insert("tee_signature".to_owned(), signature.into());
    tee.insert("tee_request_hash".to_owned(), digits(canonical.hash).into());
    tee.insert("tee_output_hash".to_owned(), digits(output_hash).into());
    tee.insert("tee_timestamp".to_owned(), timestamp.into());
    tee.insert("tee_id".to_owned(), key.id().to_string().into());
    Ok(Signed { answer, timestamp, tee })
}

/// The text whose hash is signed.
fn output_of(answer: &Answer) -> String {
    if answer.tool_calls.is_empty() {
        return answer.content.clone();
    }
    let calls = Value::Array(answer.tool_calls.clone()).to_string();
    Json::parse(calls.as_bytes()).map(|calls| dumps(&calls)).unwrap_or_default()
}

impl Signed {
    /// Body of an answer in one piece.
    pub fn body(&self, canonical: &Canonical) -> Value {
        let answer = &self.answer;
        let (object, choice) = match canonical.endpoint {
            Endpoint::Completions => ("text_completion", json!({ "text": answer.content })),
            Endpoint::Chat if answer.tool_calls.is_empty() => {
                ("chat.completion", json!({ "message": { "role": "assistant", "content": answer.content } }))
            }
            Endpoint::Chat => {
                let message = json!({ "role": "assistant", "content": null, "tool_calls": answer.tool_calls });
                ("chat.completion", json!({ "message": message }))
            }
        };
        let mut choice = choice;
        choice["index"] = 0.into();
        choice["finish_reason"] = answer.finish_reason.into();
        let mut body = json!({
            "id": format!("{}-{}", if object == "chat.completion" { "chatcmpl" } else { "cmpl" }, hex::encode(&canonical.hash[..12])),
            "object": object,
            "created": self.timestamp,
            "model": canonical.model,
            "choices": [choice],
            "usage": answer.usage(),
        });
        self.add_tee(&mut body);
        body
    }

    /// Data of each event of a stream, `[DONE]` included.
    pub fn events(&self, canonical: &Canonical) -> Vec<String> {
        let answer = &self.answer;
        let chunk = |delta: Value, reason: Value| {
            json!({
                "choices": [{ "delta": delta, "index": 0, "finish_reason": reason }],
                "model": canonical.model,
            })
        };
        let mut events = Vec::new();
        for (index, call) in answer.tool_calls.iter().enumerate() {
            let mut call = call.clone();
            call["index"] = index.into();
            events.push(chunk(json!({ "role": "assistant", "tool_calls": [call] }), Value::Null));
        }
        let characters: Vec<char> = answer.content.chars().collect();
        for piece in characters.chunks(PIECE) {
            let text: String = piece.iter().collect();
            events.push(chunk(json!({ "role": "assistant", "content": text }), Value::Null));
        }
        let mut last = chunk(json!({}), answer.finish_reason.into());
        last["usage"] = answer.usage();
        self.add_tee(&mut last);
        events.push(last);
        events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]).collect()
    }

    fn add_tee(&self, body: &mut Value) {
        if let Some(members) = body.as_object_mut() {
            members.extend(self.tee.clone());
        }
    }
}
