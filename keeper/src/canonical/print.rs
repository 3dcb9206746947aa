//! Text forms of Python: `json.dumps(value, sort_keys=True)` and `str(value)`.

use std::fmt::Write;

use super::json::{Json, PyStr};
use super::printable::is_printable;

/// `json.dumps(value, sort_keys=True)`: ASCII, keys in code-point order at every depth.
pub fn dumps(value: &Json) -> String {
    let mut out = String::new();
    dump(value, &mut out);
    out
}

fn dump(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(true) => out.push_str("true"),
        Json::Bool(false) => out.push_str("false"),
        Json::Int(digits) => out.push_str(digits),
        Json::Float(value) if value.is_nan() => out.push_str("NaN"),
        Json::Float(value) if value.is_infinite() => out.push_str(if *value > 0.0 { "Infinity" } else { "-Infinity" }),
        Json::Float(value) => out.push_str(&float(*value)),
        Json::Str(text) => dump_string(text, out),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                dump(item, out);
            }
            out.push(']');
        }
        Json::Object(object) => {
            let mut members: Vec<_> = object.members().iter().collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            out.push('{');
            for (i, (key, value)) in members.into_iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                dump_string(key, out);
                out.push_str(": ");
                dump(value, out);
            }
            out.push('}');
        }
    }
}

fn dump_string(text: &PyStr, out: &mut String) {
    out.push('"');
    for code in text.code_points() {
        match code {
            0x22 => out.push_str("\\\""),
            0x5c => out.push_str("\\\\"),
            0x0a => out.push_str("\\n"),
            0x0d => out.push_str("\\r"),
            0x09 => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            0x20..=0x7e => out.extend(char::from_u32(code)),
            0x1_0000.. => {
                let rest = code - 0x1_0000;
                escape(out, 'u', 4, 0xd800 + (rest >> 10));
                escape(out, 'u', 4, 0xdc00 + (rest & 0x3ff));
            }
            _ => escape(out, 'u', 4, code),
        }
    }
    out.push('"');
}

fn escape(out: &mut String, letter: char, width: usize, code: u32) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\{letter}{code:0width$x}");
}

/// `repr` of a finite float: shortest digits that read back, exponent form below 1e-4 and from 1e16.
fn float(value: f64) -> String {
    // Rust prints the same shortest digits, as `d.ddde±x`.
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let fixed = format!("{value}");
        return if fixed.contains('.') { fixed } else { fixed + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// `str(value)`: what gateways of variant A hash for a user content that is not a string.
pub fn python_str(value: &Json) -> PyStr {
    if let Json::Str(text) = value {
        return text.clone();
    }
    let mut out = String::new();
    repr(value, &mut out);
    out.into()
}

fn repr(value: &Json, out: &mut String) {
    match value {
        Json::Null => out.push_str("None"),
        Json::Bool(true) => out.push_str("True"),
        Json::Bool(false) => out.push_str("False"),
        Json::Int(digits) => out.push_str(digits),
        Json::Float(value) if value.is_nan() => out.push_str("nan"),
        Json::Float(value) if value.is_infinite() => out.push_str(if *value > 0.0 { "inf" } else { "-inf" }),
        Json::Float(value) => out.push_str(&float(*value)),
        Json::Str(text) => repr_string(text, out),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(item, out);
            }
            out.push(']');
        }
        Json::Object(object) => {
            out.push('{');
            for (i, (key, value)) in object.members().iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr_string(key, out);
                out.push_str(": ");
                repr(value, out);
            }
            out.push('}');
        }
    }
}

fn repr_string(text: &PyStr, out: &mut String) {
    let has = |quote: char| text.code_points().any(|code| code == u32::from(quote));
    let quote = if has('\'') && !has('"') { '"' } else { '\'' };
    out.push(quote);
    for code in text.code_points() {
        match char::from_u32(code) {
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(character) if character == quote || character == '\\' => out.extend(['\\', character]),
            Some(character) if is_printable(code) => out.push(character),
            _ if code < 0x100 => escape(out, 'x', 2, code),
            _ if code < 0x1_0000 => escape(out, 'u', 4, code),
            _ => escape(out, 'U', 8, code),
        }
    }
    out.push(quote);
}
