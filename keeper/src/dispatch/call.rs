//! One request to one node over HTTP, whole or streamed, and what its answer says.

use std::fmt;

use futures_util::StreamExt;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::canonical::output::{EventReader, MAX_OUTPUT_BYTES, StreamedOutput, output_text};
use crate::canonical::{Canonical, Endpoint, canonical_request, opened_request};
use crate::error::{Code, Refusal};
use crate::store::completions::Usage;
use crate::types::OrderRow;
use crate::verify::charge::Supplied;
use crate::verify::completion::Evidence;

/// What a caller that streams is told while its order is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// One data object of the node's stream.
    Data(Vec<u8>),
    /// What came so far is void, another node starts over; with the reason.
    Restart(Reason),
}

/// A refusal as it is shown to a caller: code and message.
pub type Reason = (&'static str, String);

/// What is sent to a node.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub canonical: Canonical,
    /// JSON without a `stream` member.
    wire: Vec<u8>,
}

/// A node's answer, not verified yet.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Response body as a caller gets it.
    pub response: Vec<u8>,
    /// The hashed text.
    pub output: String,
    pub evidence: Evidence,
    pub usage: Option<Usage>,
    /// The node's own Meter, when it sends one.
    pub meter: Option<Supplied>,
}

/// Prepares an order's request: as handed in, or rebuilt from the canonical bytes of an order opened on-chain.
///
/// # Errors
/// `request_missing` when none is known, `request_mismatch` when it does not have the order's hash, `malformed`.
pub fn prepare(order: &OrderRow) -> Result<Prepared, Refusal> {
    let missing = || Refusal::new(Code::RequestMissing, "the request of this order is not known: hand it in");
    let request = order.request.as_deref().ok_or_else(missing)?;
    let hash = order.request_hash.ok_or_else(missing)?;
    let of_order = |canonical: &Canonical| canonical.hash == hash;
    if let Some(canonical) = canonical_request(request)?.into_iter().find(of_order) {
        return Ok(Prepared { canonical, wire: request.to_vec() });
    }
    let opened = opened_request(request)?;
    if !of_order(&opened.canonical) {
        let text = "the stored request does not have the hash that the order commits to";
        let (actual, expected) = (opened.canonical.hash.to_string(), hash.to_string());
        return Err(Refusal::mismatch(Code::RequestMismatch, text, actual, expected));
    }
    Ok(Prepared { canonical: opened.canonical, wire: opened.wire })
}

/// Asks a node. With `sink` the answer is streamed there as it comes.
///
/// # Errors
/// `no_node_answered` for silence and HTTP errors, `malformed` for what is no signed answer, `body_too_large`.
pub async fn ask(
    http: &reqwest::Client,
    url: &str,
    prepared: &Prepared,
    sink: Option<&mpsc::Sender<Part>>,
) -> Result<Answer, Refusal> {
    let endpoint = prepared.canonical.endpoint;
    let silent = |error: reqwest::Error| {
        Refusal::new(Code::NoNodeAnswered, format!("the node did not answer: {}", error.without_url()))
    };
    let url = format!("{}{}", url.trim_end_matches('/'), endpoint.path());
    let body = with_stream(&prepared.wire, sink.is_some())?;
    let response = http.post(url).header("content-type", "application/json").body(body).send().await.map_err(silent)?;
    if !response.status().is_success() {
        let text = "the node answered with an HTTP error";
        return Err(Refusal::mismatch(Code::NoNodeAnswered, text, response.status().as_u16(), 200));
    }
    // Gateways stream chat only: a completion comes in one piece even to those who asked for a stream.
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let streams = kind.starts_with("text/event-stream");
    let mut bytes = response.bytes_stream();
    let Some(sink) = sink.filter(|_| streams) else {
        let mut whole = Vec::new();
        while let Some(chunk) = bytes.next().await {
            whole.extend_from_slice(&chunk.map_err(silent)?);
            if whole.len() > MAX_OUTPUT_BYTES {
                return Err(Refusal::new(Code::BodyTooLarge, "the node's answer is too large"));
            }
        }
        let output = output_text(endpoint, &whole)?;
        if let Some(sink) = sink {
            drop(sink.send(Part::Data(whole.clone())).await);
        }
        return answer(whole, output);
    };
    let (mut events, mut gathered) = (EventReader::default(), StreamedOutput::default());
    while let Some(chunk) = bytes.next().await {
        for payload in events.push(&chunk.map_err(silent)?)? {
            gathered.push(&payload)?;
            if !gathered.is_done() {
                // The caller may be gone; its answer is kept for when it asks again.
                drop(sink.send(Part::Data(payload)).await);
            }
        }
        if gathered.is_done() {
            break;
        }
    }
    let last = gathered
        .last_object()
        .ok_or_else(|| Refusal::new(Code::Malformed, "the node's stream ended without its signature"))?;
    let output = gathered.text()?;
    let whole = whole_response(endpoint, last, &output)?;
    answer(whole, output)
}

fn answer(response: Vec<u8>, output: String) -> Result<Answer, Refusal> {
    let body: Value = serde_json::from_slice(&response)
        .map_err(|error| Refusal::new(Code::Malformed, format!("the node's answer is no JSON: {error}")))?;
    Ok(Answer {
        output,
        evidence: Evidence::from_response(&body)?,
        usage: usage(body.get("usage")),
        meter: body.get("meter").map(supplied).transpose()?,
        response,
    })
}

/// Reads `usage`: `prompt_tokens` and `completion_tokens`, or `input_tokens` and `output_tokens`.
pub fn usage(usage: Option<&Value>) -> Option<Usage> {
    let usage = usage?;
    let tokens = |names: [&str; 2]| names.iter().find_map(|name| usage.get(name)).and_then(Value::as_u64);
    Some(Usage {
        input: tokens(["prompt_tokens", "input_tokens"])?,
        output: tokens(["completion_tokens", "output_tokens"])?,
    })
}

/// Reads a Meter: `{offset, amount, signature}`, amounts as decimal text or numbers, the signature in hexadecimal.
///
/// # Errors
/// `bad_meter` naming the member.
pub fn supplied(meter: &Value) -> Result<Supplied, Refusal> {
    let bad = |name: &str| Refusal::new(Code::BadMeter, format!("the Meter's {name} is missing or cannot be read"));
    let units = |name: &str| match meter.get(name) {
        Some(Value::String(text)) => text.parse().map_err(|_| bad(name)),
        Some(Value::Number(number)) => number.to_string().parse().map_err(|_| bad(name)),
        None if name == "offset" => Ok(0),
        _ => Err(bad(name)),
    };
    let signature = meter.get("signature").and_then(Value::as_str).ok_or_else(|| bad("signature"))?;
    let signature = hex::decode(signature.strip_prefix("0x").unwrap_or(signature)).map_err(|_| bad("signature"))?;
    Ok(Supplied { offset: units("offset")?, amount: units("amount")?, signature })
}

/// A streamed answer as the body that the node would have sent in one piece.
fn whole_response(endpoint: Endpoint, last: &[u8], output: &str) -> Result<Vec<u8>, Refusal> {
    let bad = |error: serde_json::Error| Refusal::new(Code::Malformed, format!("the stream's last object: {error}"));
    let mut body: Value = serde_json::from_slice(last).map_err(bad)?;
    let reason = body.pointer("/choices/0/finish_reason").cloned().unwrap_or_else(|| json!("stop"));
    let choice = match endpoint {
        Endpoint::Completions => json!({ "index": 0, "text": output, "finish_reason": reason }),
        Endpoint::Chat if reason == "tool_calls" => {
            let calls: Value = serde_json::from_str(output).map_err(bad)?;
            json!({ "index": 0, "message": { "role": "assistant", "content": null, "tool_calls": calls }, "finish_reason": reason })
        }
        Endpoint::Chat => {
            json!({ "index": 0, "message": { "role": "assistant", "content": output }, "finish_reason": reason })
        }
    };
    body["choices"] = json!([choice]);
    body["object"] = json!(match endpoint {
        Endpoint::Chat => "chat.completion",
        Endpoint::Completions => "text_completion",
    });
    serde_json::to_vec(&body).map_err(bad)
}

/// A request with its `stream` member set. Every other member keeps its text and its place: gateways of variant A hash
/// the order of members in parts of a message.
///
/// # Errors
/// `malformed` when the request is no JSON object.
pub fn with_stream(request: &[u8], stream: bool) -> Result<Vec<u8>, Refusal> {
    let bad =
        |error: serde_json::Error| Refusal::new(Code::Malformed, format!("the request is no JSON object: {error}"));
    let Members(members) = serde_json::from_slice(request).map_err(bad)?;
    let mut body = String::from("{");
    for (name, value) in members.iter().filter(|(name, _)| name != "stream") {
        body.push_str(&serde_json::to_string(name).map_err(bad)?);
        body.push(':');
        body.push_str(value.get());
        body.push(',');
    }
    body.push_str(if stream { "\"stream\":true}" } else { "\"stream\":false}" });
    Ok(body.into_bytes())
}

/// Members of a JSON object in their order, values as text.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_set_and_nothing_else_changes() {
        let body = br#"{"stream": true, "z": [1.0, 1e400], "a": {"y":1,"b":"\ud83d"}, "stream": 1}"#;
        let plain = with_stream(body, false).unwrap();
        assert_eq!(String::from_utf8(plain).unwrap(), r#"{"z":[1.0, 1e400],"a":{"y":1,"b":"\ud83d"},"stream":false}"#);
        assert_eq!(with_stream(b"{}", true).unwrap(), br#"{"stream":true}"#);
        assert_eq!(with_stream(b"[]", true).unwrap_err().code, Code::Malformed);
    }

    #[test]
    fn usage_and_meter_in_both_spellings() {
        let read = |value: Value| usage(Some(&value));
        assert_eq!(read(json!({"prompt_tokens": 3, "completion_tokens": 4})), Some(Usage { input: 3, output: 4 }));
        assert_eq!(read(json!({"input_tokens": 3, "output_tokens": 4})), Some(Usage { input: 3, output: 4 }));
        assert_eq!(read(json!({"prompt_tokens": -3, "completion_tokens": 4})), None);
        let meter = supplied(&json!({"amount": "340282366920938463463374607431768211455", "signature": "0x0102"}));
        assert_eq!(meter.unwrap(), Supplied { offset: 0, amount: u128::MAX, signature: vec![1, 2] });
        let meter = supplied(&json!({"amount": 7, "offset": 1, "signature": "0102"})).unwrap();
        assert_eq!((meter.offset, meter.amount), (1, 7));
        assert_eq!(supplied(&json!({"amount": -7, "signature": "01"})).unwrap_err().code, Code::BadMeter);
        assert_eq!(supplied(&json!({"amount": 7})).unwrap_err().code, Code::BadMeter);
    }

    #[tokio::test]
    async fn a_node_that_answers_whole_serves_a_caller_that_streams() {
        use crate::clock::Clock;
        use crate::crypto::RsaKey;
        use crate::devnet::node::{NodeConfig, serve};
        let stop = tokio_util::sync::CancellationToken::new();
        let key = RsaKey::generate().unwrap();
        let node = serve(NodeConfig::default(), key, Clock::default(), stop.clone()).await.unwrap();
        for (body, events) in [
            (&br#"{"model":"canned-small","prompt":"Once"}"#[..], 1..2),
            (br#"{"model":"canned-small","messages":[{"role":"user","content":"Hi"}]}"#, 3..99),
        ] {
            let canonical = canonical_request(body).unwrap().remove(0);
            let prepared = Prepared { canonical, wire: body.to_vec() };
            let (sender, mut parts) = mpsc::channel(100);
            let answer = ask(&reqwest::Client::new(), &node.url(), &prepared, Some(&sender)).await.unwrap();
            drop(sender);
            let mut seen = 0;
            while let Some(Part::Data(_)) = parts.recv().await {
                seen += 1;
            }
            assert!(events.contains(&seen), "{seen}");
            assert_eq!(answer.evidence.output_hash, alloy::primitives::keccak256(&answer.output));
            assert!(answer.usage.is_some());
        }
        stop.cancel();
    }

    #[test]
    fn a_streamed_answer_reads_as_a_whole_one() {
        let last = br#"{"choices":[{"delta":{},"index":0,"finish_reason":"stop"}],"tee_timestamp":5}"#;
        let whole = whole_response(Endpoint::Chat, last, "Paris.").unwrap();
        assert_eq!(output_text(Endpoint::Chat, &whole).unwrap(), "Paris.");
        assert!(String::from_utf8(whole).unwrap().contains("\"tee_timestamp\":5"));
    }
}
