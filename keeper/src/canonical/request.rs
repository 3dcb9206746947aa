//! Which members of a request OpenGradient's gateways hash: the digest `d` of both endpoints in both variants.

use super::Variant;
use super::json::{Json, Object};
use super::print::python_str;
use crate::error::{Code, Refusal};

/// `None` where a gateway of this variant answers 500 to what the other variant serves.
type Digest = Result<Option<Json>, Refusal>;

/// Digest of a `/v1/chat/completions` request.
pub fn chat(body: &Object, variant: Variant) -> Digest {
    let sent = body.get("messages").and_then(Json::as_array).filter(|messages| !messages.is_empty());
    let Some(sent) = sent else { return Err(refuse("messages must be a list with at least one message")) };
    let mut messages = Vec::with_capacity(sent.len());
    for message in sent {
        let Some(message) = message.as_object() else { return Err(refuse("each message must be an object")) };
        let Some(message) = self::message(message, variant)? else { return Ok(None) };
        messages.push(Json::Object(message));
    }
    let mut digest = Object::default().with("model", model(body)?).with("messages", Json::Array(messages));
    digest = digest.with("temperature", temperature(body.get("temperature"), 0.0)?);
    digest = options(digest, body, body.get("max_tokens").cloned());
    if let Some(tools) = truthy(body, "tools") {
        if tools.as_array().is_none() {
            return Err(refuse("tools must be a list"));
        }
        digest = digest.with("tools", tools.clone());
    }
    if let Some(format) = truthy(body, "response_format") {
        if format.as_object().is_none() {
            return Err(refuse("response_format must be an object"));
        }
        digest = digest.with("response_format", format.clone());
    }
    Ok(Some(Json::Object(web_search(digest, body, variant))))
}

/// Digest of a `/v1/completions` request, whose absent members have other defaults: temperature 1.0, max_tokens 16.
pub fn completions(body: &Object, variant: Variant) -> Digest {
    let Some(prompt) = body.get("prompt") else { return Err(refuse("prompt is missing")) };
    let digest = Object::default().with("model", model(body)?).with("prompt", prompt.clone());
    let absent_temperature = if body.get("temperature").is_some() { 0.0 } else { 1.0 };
    let digest = digest.with("temperature", temperature(body.get("temperature"), absent_temperature)?);
    let max_tokens = body.get("max_tokens").cloned().unwrap_or_else(|| Json::Int("16".to_owned()));
    Ok(Some(Json::Object(web_search(options(digest, body, Some(max_tokens)), body, variant))))
}

fn refuse(what: impl Into<String>) -> Refusal {
    Refusal::new(Code::Malformed, what)
}

fn truthy<'a>(body: &'a Object, key: &str) -> Option<&'a Json> {
    body.get(key).filter(|value| value.is_truthy())
}

fn member(body: &Object, key: &str) -> Json {
    body.get(key).cloned().unwrap_or(Json::Null)
}

fn model(body: &Object) -> Result<Json, Refusal> {
    match member(body, "model") {
        model @ (Json::Null | Json::Str(_)) => Ok(model),
        _ => Err(refuse("model must be a string")),
    }
}

/// `float(x)`; `otherwise` when absent or null.
fn temperature(sent: Option<&Json>, otherwise: f64) -> Result<Json, Refusal> {
    match sent {
        None | Some(Json::Null) => Ok(Json::Float(otherwise)),
        Some(Json::Float(value)) => Ok(Json::Float(*value)),
        Some(Json::Int(digits)) => match digits.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Json::Float(value)),
            _ => Err(refuse("temperature is too large")),
        },
        Some(_) => Err(refuse("temperature must be a number")),
    }
}

fn options(mut digest: Object, body: &Object, max_tokens: Option<Json>) -> Object {
    if let Some(max_tokens) = max_tokens.filter(|value| *value != Json::Null) {
        digest = digest.with("max_tokens", max_tokens);
    }
    if let Some(stop) = truthy(body, "stop") {
        digest = digest.with("stop", stop.clone());
    }
    digest
}

fn web_search(digest: Object, body: &Object, variant: Variant) -> Object {
    if variant == Variant::B && truthy(body, "web_search").is_some() {
        return digest.with("web_search", Json::Bool(true));
    }
    digest
}

fn message(sent: &Object, variant: Variant) -> Result<Option<Object>, Refusal> {
    let role = sent.get("role").and_then(Json::as_str).ok_or_else(|| refuse("each message needs a role"))?;
    let named = |role: &str| Object::default().with("role", role.into());
    let content = member(sent, "content");
    Ok(Some(match role {
        "system" => named("system").with("content", content),
        "developer" if variant == Variant::A => return Ok(None),
        "developer" => named("system").with("content", content),
        "user" => named("user").with("content", user_content(content, variant)),
        "assistant" => {
            let content = if content.is_truthy() { content } else { "".into() };
            let message = named("assistant").with("content", content);
            match truthy(sent, "tool_calls") {
                None => message,
                Some(calls) => message.with("tool_calls", tool_calls(calls, variant)?),
            }
        }
        "tool" => named("tool").with("content", content).with("tool_call_id", member(sent, "tool_call_id")),
        "function" => named("function").with("content", content).with("name", member(sent, "name")),
        other => {
            return Err(refuse(format!(
                "unknown message role {other:?}: use system, developer, user, assistant, tool or function"
            )));
        }
    }))
}

/// Variant A: `str()` of anything but a string. Variant B: a list stays a list without the bytes of attachments.
fn user_content(content: Json, variant: Variant) -> Json {
    let parts = match &content {
        Json::Str(_) => return content,
        Json::Array(parts) if variant == Variant::B => parts,
        other => return Json::Str(python_str(other)),
    };
    let text_part = |text: Json| Json::Object(Object::default().with("type", "text".into()).with("text", text));
    let part = |part: &Json| {
        let Some(object) = part.as_object() else { return text_part(Json::Str(python_str(part))) };
        let kind = member(object, "type");
        if kind.as_str() == Some("text") {
            return text_part(truthy(object, "text").cloned().unwrap_or_else(|| "".into()));
        }
        let of_file = object.get("file").and_then(Json::as_object).and_then(|file| truthy(file, "filename"));
        let entry = Object::default().with("type", kind);
        Json::Object(match of_file.or_else(|| truthy(object, "filename")) {
            Some(filename) => entry.with("filename", filename.clone()),
            None => entry,
        })
    };
    Json::Array(parts.iter().map(part).collect())
}

fn tool_calls(calls: &Json, variant: Variant) -> Result<Json, Refusal> {
    let Some(calls) = calls.as_array() else { return Err(refuse("tool_calls must be a list")) };
    let or = |object: &Object, key: &str, default: &str| {
        object.get(key).cloned().unwrap_or_else(|| if variant == Variant::A { Json::Null } else { default.into() })
    };
    let call = |call: &Json| {
        let Some(call) = call.as_object() else { return Err(refuse("each tool call must be an object")) };
        let none = Object::default();
        let function = match call.get("function") {
            None => &none,
            Some(Json::Object(function)) => function,
            Some(_) => return Err(refuse("function of a tool call must be an object")),
        };
        let function =
            Object::default().with("name", or(function, "name", "")).with("arguments", or(function, "arguments", ""));
        let entry = Object::default().with("id", or(call, "id", "")).with("type", or(call, "type", "function"));
        Ok(Json::Object(entry.with("function", Json::Object(function))))
    };
    Ok(Json::Array(calls.iter().map(call).collect::<Result<_, Refusal>>()?))
}
