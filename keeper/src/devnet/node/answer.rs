//! The canned responder: no model, and every answer says so.

use serde_json::{Value, json};

use crate::canonical::json::Json;
use crate::canonical::{Canonical, Endpoint};

/// Bytes that count as one token.
const BYTES_PER_TOKEN: usize = 4;

/// Characters of the question that an answer repeats at most.
const REPEATED: usize = 80;

/// What a node says before it signs.
#[derive(Clone, Debug)]
pub struct Answer {
    pub content: String,
    /// Non-empty: the answer is these calls and no text.
    pub tool_calls: Vec<Value>,
    pub finish_reason: &'static str,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl Answer {
    /// The `usage` member.
    pub fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }
}

/// Answers a request that was canonicalised. The same request has the same answer.
pub fn answer(node: &str, canonical: &Canonical, body: &Json) -> Answer {
    let prompt_tokens = tokens(canonical.bytes.len());
    let tool_calls = tool_calls(canonical, body);
    if !tool_calls.is_empty() {
        let completion_tokens = tokens(tool_calls.iter().map(|call| call.to_string().len()).sum());
        return Answer {
            content: String::new(),
            tool_calls,
            finish_reason: "tool_calls",
            prompt_tokens,
            completion_tokens,
        };
    }
    let (asked, length) = question(canonical.endpoint, body);
    let told = format!(
        "This is a canned answer from the devnet node {node}, not from a model. You asked ({length} characters): {asked}"
    );
    let mut content = if wants_json(body) { json!({ "canned": true, "answer": told }).to_string() } else { told };
    let mut finish_reason = "stop";
    if let Some(cut) = stops(body).filter_map(|stop| content.find(stop)).min() {
        content.truncate(cut);
    }
    // As in the gateway, 0 means its own default.
    let limit = canonical.max_tokens.filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok());
    if let Some(limit) = limit.map(|limit| limit.saturating_mul(BYTES_PER_TOKEN)).filter(|limit| *limit < content.len())
    {
        content.truncate(content.floor_char_boundary(limit));
        finish_reason = "length";
    }
    let completion_tokens = tokens(content.len());
    Answer { content, tool_calls, finish_reason, prompt_tokens, completion_tokens }
}

fn tokens(bytes: usize) -> u64 {
    u64::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u64::MAX)
}

fn member<'a>(body: &'a Json, name: &str) -> Option<&'a Json> {
    body.as_object().and_then(|body| body.get(name))
}

/// The start of the last message or of the prompt, and how long it is.
fn question(endpoint: Endpoint, body: &Json) -> (String, usize) {
    let asked = match endpoint {
        Endpoint::Chat => member(body, "messages")
            .and_then(Json::as_array)
            .and_then(<[Json]>::last)
            .and_then(|message| member(message, "content")),
        Endpoint::Completions => member(body, "prompt"),
    };
    let text = match asked {
        Some(Json::Array(parts)) => {
            parts.iter().filter_map(|part| member(part, "text").and_then(Json::as_str)).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.as_str().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    (text.chars().take(REPEATED).collect(), text.chars().count())
}

fn wants_json(body: &Json) -> bool {
    let kind = member(body, "response_format").and_then(|format| member(format, "type")).and_then(Json::as_str);
    matches!(kind, Some("json_object" | "json_schema"))
}

fn stops(body: &Json) -> impl Iterator<Item = &str> {
    let stops = match member(body, "stop") {
        Some(Json::Array(stops)) => stops.as_slice(),
        Some(stop) => std::slice::from_ref(stop),
        None => &[],
    };
    stops.iter().filter_map(Json::as_str).filter(|stop| !stop.is_empty())
}

/// One call of the tool that `tool_choice` names, or of the first one when it says `required`.
fn tool_calls(canonical: &Canonical, body: &Json) -> Vec<Value> {
    if canonical.endpoint != Endpoint::Chat {
        return Vec::new();
    }
    let name_of = |tool: &Json| member(tool, "function").and_then(|function| member(function, "name")).cloned();
    let tools = member(body, "tools").and_then(Json::as_array).unwrap_or_default();
    let name = match member(body, "tool_choice") {
        Some(choice) if choice.as_str() == Some("required") => tools.first().and_then(name_of),
        Some(choice) => {
            tools.iter().find_map(|tool| name_of(tool).filter(|name| name_of(choice).as_ref() == Some(name)))
        }
        None => None,
    };
    let Some(name) = name.as_ref().and_then(Json::as_str) else { return Vec::new() };
    let id = format!("call_{}", &canonical.hash.to_string()[2..14]);
    vec![json!({ "id": id, "type": "function", "function": { "name": name, "arguments": r#"{"canned": true}"# } })]
}
