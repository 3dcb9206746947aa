//! The text whose hash a node signs as its output: from a response body, or gathered from a stream.

use std::collections::BTreeMap;

use super::Endpoint;
use super::json::{Json, Object, PyStr};
use super::print::{dumps, python_str};
use crate::error::{Code, Refusal};

/// Bytes of one answer that are read at most.
pub const MAX_OUTPUT_BYTES: usize = 4 * 1024 * 1024;

/// Tool calls in one streamed answer at most.
const MAX_TOOL_CALLS: usize = 1_024;

/// Output text of a response that came in one piece.
///
/// # Errors
/// `malformed` when the body has no signed output, `body_too_large` beyond [`MAX_OUTPUT_BYTES`].
pub fn output_text(endpoint: Endpoint, response: &[u8]) -> Result<String, Refusal> {
    let response = parse(response)?;
    let choice = first_choice(&response).ok_or_else(|| refuse("the response has no choices[0]"))?;
    if endpoint == Endpoint::Completions {
        return text(choice.get("text").unwrap_or(&Json::Null));
    }
    let message = choice.get("message").and_then(Json::as_object);
    let message = message.ok_or_else(|| refuse("the response has no choices[0].message"))?;
    if choice.get("finish_reason").and_then(Json::as_str) == Some("tool_calls")
        && let Some(calls @ Json::Array(_)) = message.get("tool_calls")
    {
        return Ok(dumps(calls));
    }
    text(message.get("content").unwrap_or(&Json::Null))
}

/// The answer of a stream, gathered from its data objects.
#[derive(Debug, Default)]
pub struct StreamedOutput {
    content: PyStr,
    calls: BTreeMap<u64, ToolCall>,
    finish_reason: Option<String>,
    last: Option<Vec<u8>>,
    read: usize,
    done: bool,
}

#[derive(Debug, Default)]
struct ToolCall {
    id: PyStr,
    name: PyStr,
    arguments: PyStr,
}

impl StreamedOutput {
    /// Takes the text after `data: ` of one server-sent event; after `[DONE]` nothing more is taken.
    ///
    /// # Errors
    /// `malformed` for an error event or what is no chunk, `body_too_large` beyond [`MAX_OUTPUT_BYTES`].
    pub fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let data = data.trim_ascii();
        if self.done || data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        self.read = self.read.saturating_add(data.len());
        if self.read > MAX_OUTPUT_BYTES {
            return Err(Refusal::mismatch(Code::BodyTooLarge, "the answer is too large", self.read, MAX_OUTPUT_BYTES));
        }
        let chunk = parse(data)?;
        if chunk.get("error").is_some_and(Json::is_truthy) {
            return Err(refuse("the node broke off its stream with an error"));
        }
        if chunk.get("tee_signature").is_some() {
            self.last = Some(data.to_vec());
        }
        let Some(choice) = first_choice(&chunk) else { return Ok(()) };
        if let Some(reason) = choice.get("finish_reason").and_then(Json::as_str) {
            self.finish_reason = Some(reason.to_owned());
        }
        // `/v1/completions` chunks carry the text itself.
        if let Some(Json::Str(text)) = choice.get("text") {
            self.content.push(text);
        }
        let Some(delta) = choice.get("delta").and_then(Json::as_object) else { return Ok(()) };
        match delta.get("content") {
            None | Some(Json::Null) => {}
            Some(Json::Str(text)) => self.content.push(text),
            Some(_) => return Err(refuse("content of a chunk must be a string")),
        }
        for call in delta.get("tool_calls").and_then(Json::as_array).unwrap_or_default() {
            self.push_call(call.as_object().ok_or_else(|| refuse("a tool call of a chunk must be an object"))?)?;
        }
        Ok(())
    }

    fn push_call(&mut self, fragment: &Object) -> Result<(), Refusal> {
        let index = match fragment.get("index") {
            None | Some(Json::Null) => 0,
            Some(index) => index.as_u64().ok_or_else(|| refuse("index of a tool call must be a whole number"))?,
        };
        if self.calls.len() >= MAX_TOOL_CALLS && !self.calls.contains_key(&index) {
            return Err(refuse("too many tool calls in one answer"));
        }
        let call = self.calls.entry(index).or_default();
        let of = |object: &Object, key: &str| match object.get(key) {
            Some(Json::Str(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        call.id = of(fragment, "id").unwrap_or_else(|| std::mem::take(&mut call.id));
        if let Some(function) = fragment.get("function").and_then(Json::as_object) {
            call.name = of(function, "name").unwrap_or_else(|| std::mem::take(&mut call.name));
            if let Some(arguments) = of(function, "arguments") {
                call.arguments.push(&arguments);
            }
        }
        Ok(())
    }

    /// Whether `[DONE]` came.
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// The data object that carries the `tee_*` fields and the usage, as it came.
    pub fn last_object(&self) -> Option<&[u8]> {
        self.last.as_deref()
    }

    /// Output text of what was gathered.
    ///
    /// # Errors
    /// `malformed` when it cannot be written as UTF-8.
    pub fn text(&self) -> Result<String, Refusal> {
        if self.finish_reason.as_deref() == Some("tool_calls") && !self.calls.is_empty() {
            let call = |call: &ToolCall| {
                let function = Object::default()
                    .with("name", Json::Str(call.name.clone()))
                    .with("arguments", Json::Str(call.arguments.clone()));
                let entry = Object::default().with("id", Json::Str(call.id.clone())).with("type", "function".into());
                Json::Object(entry.with("function", Json::Object(function)))
            };
            return Ok(dumps(&Json::Array(self.calls.values().map(call).collect())));
        }
        utf8(&self.content)
    }
}

/// Splits a byte stream of server-sent events into the payloads of their `data` lines.
#[derive(Debug, Default)]
pub struct EventReader {
    rest: Vec<u8>,
}

impl EventReader {
    /// Adds bytes; gives every data payload that is complete.
    ///
    /// # Errors
    /// `body_too_large` for a line beyond [`MAX_OUTPUT_BYTES`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
        self.rest.extend_from_slice(bytes);
        let mut payloads = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = self.rest[start..start + length].trim_ascii_end();
            if let Some(payload) = line.strip_prefix(b"data:") {
                payloads.push(payload.trim_ascii_start().to_vec());
            }
            start += length + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > MAX_OUTPUT_BYTES {
            return Err(Refusal::new(Code::BodyTooLarge, "an event of the stream is too large"));
        }
        Ok(payloads)
    }
}

fn refuse(what: &str) -> Refusal {
    Refusal::new(Code::Malformed, what)
}

fn parse(bytes: &[u8]) -> Result<Object, Refusal> {
    if bytes.len() > MAX_OUTPUT_BYTES {
        return Err(Refusal::mismatch(Code::BodyTooLarge, "the answer is too large", bytes.len(), MAX_OUTPUT_BYTES));
    }
    match Json::parse(bytes)? {
        Json::Object(object) => Ok(object),
        _ => Err(refuse("the response must be a JSON object")),
    }
}

fn first_choice(response: &Object) -> Option<&Object> {
    response.get("choices").and_then(Json::as_array).and_then(<[Json]>::first).and_then(Json::as_object)
}

/// A string as it is, the texts of a list of parts joined, nothing for anything else.
fn text(content: &Json) -> Result<String, Refusal> {
    match content {
        Json::Str(text) => utf8(text),
        Json::Array(parts) => {
            let mut joined = PyStr::default();
            for part in parts {
                match part {
                    Json::Object(part) => match part.get("text") {
                        None | Some(Json::Null) => {}
                        Some(Json::Str(text)) => joined.push(text),
                        Some(_) => return Err(refuse("text of a content part must be a string")),
                    },
                    other => joined.push(&python_str(other)),
                }
            }
            utf8(&joined)
        }
        _ => Ok(String::new()),
    }
}

fn utf8(text: &PyStr) -> Result<String, Refusal> {
    text.as_str().map(str::to_owned).ok_or_else(|| refuse("the answer holds a lone surrogate, which no node can sign"))
}
