//! Canonical requests and outputs against vectors made with Python, and their laws.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use quittance::canonical::json::Json;
use quittance::canonical::output::{EventReader, StreamedOutput, output_text};
use quittance::canonical::print::{dumps, python_str};
use quittance::canonical::{Endpoint, Variant, canonical_at, canonical_request, opened_request};
use quittance::error::Code;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/canonical.json")).unwrap()
}

#[test]
fn requests_hash_as_in_python() {
    let vectors = vectors();
    let cases = vectors["requests"].as_array().unwrap();
    assert!(cases.len() >= 200);
    for case in cases {
        let (name, request) = (&case["name"], case["request"].as_str().unwrap());
        let expected = &case["expected"];
        let found = canonical_request(request.as_bytes());
        if expected.get("refused").is_some() {
            assert_eq!(found.unwrap_err().code, Code::Malformed, "{name}");
            continue;
        }
        let found = found.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        for (label, variant) in [("B", Variant::B), ("A", Variant::A)] {
            let Some(wanted) = expected.get(label) else {
                assert!(found.iter().all(|candidate| candidate.variant != variant), "{name}");
                continue;
            };
            let at = canonical_at(found[0].endpoint, variant, request.as_bytes()).unwrap();
            assert_eq!(String::from_utf8_lossy(&at.bytes), wanted["canonical"].as_str().unwrap(), "{name} {label}");
            assert_eq!(at.hash.to_string(), wanted["hash"].as_str().unwrap(), "{name} {label}");
            assert!(found.iter().any(|candidate| candidate.hash == at.hash), "{name} {label}");
        }
        assert_eq!(found[0].variant, Variant::B, "{name}");
        let differ = expected["A"].is_object() && expected["A"]["hash"] != expected["B"]["hash"];
        assert_eq!(found.len(), 1 + usize::from(differ), "{name}");
    }
}

#[test]
fn values_print_as_in_python() {
    for case in vectors()["values"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let value = Json::parse(text.as_bytes()).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        assert_eq!(dumps(&value), case["expected"]["dumps"].as_str().unwrap(), "{text}");
        assert_eq!(python_str(&value).as_str(), case["expected"]["str"].as_str(), "{text}");
    }
}

/// Canonical bytes that a payer publishes lead back to themselves, and the body sent to the node hashes to them.
#[test]
fn canonical_bytes_are_their_own_canonical_bytes() {
    let vectors = vectors();
    let mut seen = 0;
    for case in vectors["requests"].as_array().unwrap() {
        for candidate in canonical_request(case["request"].as_str().unwrap().as_bytes()).into_iter().flatten() {
            let opened =
                opened_request(&candidate.bytes).unwrap_or_else(|refusal| panic!("{}: {refusal}", case["name"]));
            assert_eq!(opened.canonical.bytes, candidate.bytes);
            assert_eq!(opened.canonical.hash, candidate.hash);
            assert_eq!(opened.canonical.endpoint, candidate.endpoint);
            let sent = canonical_at(candidate.endpoint, opened.canonical.variant, &opened.wire).unwrap();
            assert_eq!(sent.bytes, candidate.bytes, "{}", case["name"]);
            seen += 1;
        }
    }
    assert!(seen > 200);
}

#[test]
fn an_opened_completion_without_max_tokens_is_sent_with_null() {
    let [candidate] = &canonical_request(br#"{"prompt":"p","max_tokens":null}"#).unwrap()[..] else { panic!() };
    let opened = opened_request(&candidate.bytes).unwrap();
    assert_eq!(opened.wire, br#"{"max_tokens": null, "model": null, "prompt": "p", "temperature": 1.0}"#);
}

#[test]
fn bytes_that_are_not_canonical_cannot_be_opened() {
    let refusal = opened_request(br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#).unwrap_err();
    assert_eq!(refusal.code, Code::RequestMismatch);
}

#[test]
fn hostile_requests_are_refused() {
    let deep = |n: usize| format!(r#"{{"prompt":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    assert!(canonical_request(deep(120).as_bytes()).is_ok());
    for n in [200, 100_000, 500_000] {
        assert_eq!(canonical_request(deep(n).as_bytes()).unwrap_err().code, Code::Malformed);
        assert_eq!(canonical_request("[".repeat(n).as_bytes()).unwrap_err().code, Code::Malformed);
        assert_eq!(canonical_request("{\"a\":".repeat(n / 5).as_bytes()).unwrap_err().code, Code::Malformed);
    }
    assert_eq!(canonical_request(&vec![b' '; 1024 * 1024 + 1]).unwrap_err().code, Code::BodyTooLarge);
    assert_eq!(canonical_request(b"{\"prompt\":\"\xff\"}").unwrap_err().code, Code::Malformed);
    assert_eq!(canonical_request(b"\xef\xbb\xbf{\"prompt\":\"\"}").unwrap_err().code, Code::Malformed);
    assert_eq!(canonical_request(b"{\"prompt\":\"\xed\xa0\x80\"}").unwrap_err().code, Code::Malformed, "raw surrogate");
}

#[test]
fn many_members_do_not_cost_quadratic_time() {
    let members: Vec<String> = (0..100_000).map(|i| format!("\"{i}\":0")).collect();
    let body = format!("{{\"prompt\":{{{}}}}}", members.join(","));
    let start = std::time::Instant::now();
    assert!(canonical_request(body.as_bytes()).is_ok());
    assert!(start.elapsed().as_secs() < 10);
}

fn chat(message: &str, reason: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"finish_reason":"{reason}","message":{message}}}]}}"#)
}

#[test]
fn output_is_the_raw_text_or_the_dumped_tool_calls() {
    let text = |body: &str| output_text(Endpoint::Chat, body.as_bytes());
    assert_eq!(text(&chat(r#"{"content":"«ß» 🚀\n"}"#, "stop")).unwrap(), "«ß» 🚀\n");
    assert_eq!(text(&chat(r#"{"content":null}"#, "stop")).unwrap(), "");
    assert_eq!(text(&chat(r#"{}"#, "length")).unwrap(), "");
    assert_eq!(
        text(&chat(r#"{"content":[{"type":"text","text":"a"},{"type":"x"},"b",{"text":null}]}"#, "stop")).unwrap(),
        "ab"
    );
    let calls = r#"{"content":"ignored","tool_calls":[{"type":"function","id":"c","function":{"name":"ü","arguments":"{\"a\": 1}"}}]}"#;
    let dumped = r#"[{"function": {"arguments": "{\"a\": 1}", "name": "\u00fc"}, "id": "c", "type": "function"}]"#;
    assert_eq!(text(&chat(calls, "tool_calls")).unwrap(), dumped);
    assert_eq!(text(&chat(calls, "stop")).unwrap(), "ignored");
    let completion = br#"{"choices":[{"text":"hello","index":0}]}"#;
    assert_eq!(output_text(Endpoint::Completions, completion).unwrap(), "hello");
    for bad in ["{}", "[]", r#"{"choices":[]}"#, r#"{"choices":[{}]}"#, r#"{"choices":[1]}"#, "x"] {
        assert_eq!(text(bad).unwrap_err().code, Code::Malformed, "{bad}");
    }
    assert_eq!(text(&chat(r#"{"content":"\ud800"}"#, "stop")).unwrap_err().code, Code::Malformed);
}

#[test]
fn streams_are_gathered_across_any_cut() {
    let stream = concat!(
        ": comment\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Grü\"},\"finish_reason\":null}]}\n\n",
        "event: x\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ße 🚀\"},\"finish_reason\":null}]}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{},\"index\":0,\"finish_reason\":\"stop\"}],\"tee_signature\":\"s\"}\n\n",
        "data: [DONE]\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"late\"}}]}\n\n",
    );
    for size in [1, 2, 7, 1000] {
        let (mut events, mut output) = (EventReader::default(), StreamedOutput::default());
        for piece in stream.as_bytes().chunks(size) {
            for data in events.push(piece).unwrap() {
                output.push(&data).unwrap();
            }
        }
        assert!(output.is_done());
        assert_eq!(output.text().unwrap(), "Grüße 🚀");
        assert!(output.last_object().unwrap().starts_with(b"{\"choices\""));
    }
}

#[test]
fn streamed_tool_calls_are_joined_without_their_index() {
    let mut output = StreamedOutput::default();
    for delta in [
        r#"{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}"#,
        r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\""}}],"content":"ignored"}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}"#,
    ] {
        output.push(format!(r#"{{"choices":[{{"delta":{delta},"finish_reason":null}}]}}"#).as_bytes()).unwrap();
    }
    output.push(br#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#).unwrap();
    assert_eq!(
        output.text().unwrap(),
        r#"[{"function": {"arguments": "{\"x\":1}", "name": "f"}, "id": "a", "type": "function"}, {"function": {"arguments": "{}", "name": "g"}, "id": "b", "type": "function"}]"#
    );
    let broken = StreamedOutput::default().push(br#"{"error": "Stream processing failed"}"#).unwrap_err();
    assert_eq!(broken.code, Code::Malformed);
}

fn json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(|number| Value::Number(number.into())),
        any::<f64>().prop_filter_map("finite", |number| serde_json::Number::from_f64(number).map(Value::Number)),
    ];
    let text = ".{0,12}|[\\x00-\\xff\u{ffff}\u{1f680}'\"\\\\]{0,8}";
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::Bool), number, text.prop_map(Value::String)];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map(text, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn printing_loses_nothing_and_is_idempotent(value in json()) {
        let printed = dumps(&Json::parse(value.to_string().as_bytes()).unwrap());
        prop_assert!(printed.is_ascii());
        prop_assert_eq!(&dumps(&Json::parse(printed.as_bytes()).unwrap()), &printed);
        // serde compares arbitrary-precision numbers as text: compare what both print.
        let back: Value = serde_json::from_str(&printed).unwrap();
        prop_assert_eq!(dumps(&Json::parse(back.to_string().as_bytes()).unwrap()), printed);
    }

    #[test]
    fn floats_read_back_to_the_same_bits(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let printed = dumps(&Json::Float(number));
        prop_assert_eq!(printed.parse::<f64>().unwrap().to_bits(), bits);
        prop_assert!(printed.contains(['.', 'e']));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = canonical_request(&bytes);
        let _ = opened_request(&bytes);
        let _ = output_text(Endpoint::Chat, &bytes);
        let _ = StreamedOutput::default().push(&bytes);
    }

    #[test]
    fn arbitrary_content_is_canonical_once(content in json(), other in json()) {
        let body = serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": content }], "response_format": { "x": other } });
        for candidate in canonical_request(body.to_string().as_bytes()).unwrap() {
            let opened = opened_request(&candidate.bytes).unwrap();
            prop_assert_eq!(opened.canonical.hash, candidate.hash);
            prop_assert_eq!(opened.wire, candidate.bytes);
        }
    }
}

/// With a Python at hand, its answers on fresh values; the committed vectors are the rule.
#[test]
fn fresh_values_print_as_in_this_machines_python() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../script/vectors/canonical.py");
    let Ok(mut python) = Command::new("python3")
        .args([script, "--stdin"])
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        eprintln!("no python3: skipped");
        return;
    };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut lines = Vec::new();
    for _ in 0..500 {
        lines.push(json().new_tree(&mut runner).unwrap().current().to_string());
    }
    // Written beside the reading: both pipes are small.
    let (mut stdin, text) = (python.stdin.take().unwrap(), lines.join("\n") + "\n");
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let answers: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), lines.len());
    for (line, answer) in lines.iter().zip(answers) {
        let value = Json::parse(line.as_bytes()).unwrap();
        assert_eq!(dumps(&value), answer["dumps"].as_str().unwrap(), "{line}");
        // Which characters `str` shows depends on Python's Unicode version; the Latin ones no longer change.
        if line.chars().all(|character| character < '\u{180}') {
            assert_eq!(python_str(&value).as_str(), answer["str"].as_str(), "{line}");
        }
    }
}
