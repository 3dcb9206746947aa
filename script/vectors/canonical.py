#!/usr/bin/env python3
"""Writes keeper/tests/vectors/canonical.json: what OpenGradient's gateways hash of a request, with Python's own json and str.

The digest rules are written here a second time, on purpose not sharing a line with the keeper. Fixed seed: the file is
the same on every run.
  script/vectors/canonical.py            writes the file
  script/vectors/canonical.py --stdin    reads one JSON text per line, prints {"dumps", "str"} or {"refused"} per line
"""
import json
import pathlib
import random
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from keccak import keccak256  # noqa: E402

TARGET = pathlib.Path(__file__).resolve().parents[2] / "keeper/tests/vectors/canonical.json"


class Refused(Exception):
    pass


class OtherVariantOnly(Exception):
    pass


# ── The digest ───────────────────────────────────────────────────────────────────────────────────────────────────────


def temperature(value):
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("temperature")
    try:
        return float(value)
    except OverflowError:
        raise Refused("temperature")


def part_b(part):
    if not isinstance(part, dict):
        return {"type": "text", "text": str(part)}
    if part.get("type") == "text":
        return {"type": "text", "text": part.get("text") or ""}
    entry = {"type": part.get("type")}
    name = part["file"].get("filename") if isinstance(part.get("file"), dict) else None
    if name or part.get("filename"):
        entry["filename"] = name or part["filename"]
    return entry


def call_digest(call, variant):
    if not isinstance(call, dict) or not isinstance(call.get("function", {}), dict):
        raise Refused("tool call")
    defaults = (None, None, None) if variant == "A" else ("", "function", "")
    function = call.get("function", {})
    return {
        "id": call.get("id", defaults[0]),
        "type": call.get("type", defaults[1]),
        "function": {"name": function.get("name", defaults[2]), "arguments": function.get("arguments", defaults[2])},
    }


def message_digest(message, variant):
    if not isinstance(message, dict):
        raise Refused("message")
    role, content = message.get("role"), message.get("content")
    if role == "developer":
        if variant == "A":
            raise OtherVariantOnly
        role = "system"
    if role == "system":
        return {"role": role, "content": content}
    if role == "user":
        if isinstance(content, list) and variant == "B":
            return {"role": role, "content": [part_b(part) for part in content]}
        return {"role": role, "content": content if isinstance(content, str) else str(content)}
    if role == "assistant":
        out = {"role": role, "content": content or ""}
        if message.get("tool_calls"):
            if not isinstance(message["tool_calls"], list):
                raise Refused("tool_calls")
            out["tool_calls"] = [call_digest(call, variant) for call in message["tool_calls"]]
        return out
    if role == "tool":
        return {"role": role, "content": content, "tool_call_id": message.get("tool_call_id")}
    if role == "function":
        return {"role": role, "content": content, "name": message.get("name")}
    raise Refused("role")


def digest(body, variant):
    if not isinstance(body, dict) or ("messages" in body) == ("prompt" in body):
        raise Refused("endpoint")
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise Refused("model")
    d = {"model": model}
    if "messages" in body:
        if not isinstance(body["messages"], list) or not body["messages"]:
            raise Refused("messages")
        d["messages"] = [message_digest(message, variant) for message in body["messages"]]
        d["temperature"] = temperature(body.get("temperature"))
        max_tokens = body.get("max_tokens")
    else:
        d["prompt"] = body["prompt"]
        d["temperature"] = temperature(body.get("temperature", 1))
        max_tokens = body.get("max_tokens", 16)
    if max_tokens is not None:
        d["max_tokens"] = max_tokens
    if body.get("stop"):
        d["stop"] = body["stop"]
    if "messages" in body:
        for member, kind in (("tools", list), ("response_format", dict)):
            if body.get(member):
                if not isinstance(body[member], kind):
                    raise Refused(member)
                d[member] = body[member]
    if variant == "B" and body.get("web_search"):
        d["web_search"] = True
    return d


def expected(text):
    """What the keeper must answer for a request body, in JSON."""
    try:
        body = json.loads(text)
        out = {}
        for variant in "BA":
            try:
                canonical = json.dumps(digest(body, variant), sort_keys=True)
            except OtherVariantOnly:
                continue
            out[variant] = {"canonical": canonical, "hash": "0x" + keccak256(canonical.encode()).hex()}
        return out
    except (Refused, ValueError, RecursionError):
        return {"refused": True}


# ── Cases ────────────────────────────────────────────────────────────────────────────────────────────────────────────

NAMED = {
    "chat_plain": '{"model":"m","messages":[{"role":"user","content":"Hi"}]}',
    "chat_every_member": '{"model":"m","messages":[{"role":"system","content":"S"},{"role":"user","content":"U","name":"n"},'
    '{"role":"assistant","content":"A","refusal":null},{"role":"tool","content":"T","tool_call_id":"c"},'
    '{"role":"function","content":"F","name":"f"}],"temperature":0.7,"max_tokens":64,"stop":["a","b"],'
    '"tools":[{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}],"response_format":{"type":"text"},'
    '"stream":true,"top_p":0.9,"n":2,"seed":1,"user":"u","tool_choice":"auto","parallel_tool_calls":false,'
    '"presence_penalty":1,"frequency_penalty":1,"logit_bias":{},"max_completion_tokens":5,"reasoning_effort":"low","metadata":{}}',
    "temperature_integer": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":1}',
    "temperature_null": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":null}',
    "temperature_negative_zero": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":-0.0}',
    "temperature_negative_zero_integer": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":-0}',
    "temperature_infinite": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":1E400}',
    "temperature_nan": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":NaN}',
    "temperature_huge_integer": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":123456789012345678901234567890}',
    "temperature_integer_without_float": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":1' + "0" * 309 + "}",
    "temperature_text": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":"0.7"}',
    "temperature_true": '{"model":"m","messages":[{"role":"user","content":""}],"temperature":true}',
    "max_tokens_zero": '{"model":"m","messages":[{"role":"user","content":""}],"max_tokens":0}',
    "max_tokens_null": '{"model":"m","messages":[{"role":"user","content":""}],"max_tokens":null}',
    "max_tokens_float": '{"model":"m","messages":[{"role":"user","content":""}],"max_tokens":1e2}',
    "falsy_members": '{"model":"m","messages":[{"role":"user","content":""}],"stop":"","tools":[],"response_format":{},"web_search":0}',
    "falsy_members_of_other_types": '{"model":"m","messages":[{"role":"user","content":""}],"stop":0.0,"tools":{},"response_format":null,"web_search":""}',
    "web_search": '{"model":"m","messages":[{"role":"user","content":""}],"web_search":true}',
    "web_search_truthy": '{"model":"m","messages":[{"role":"user","content":""}],"web_search":"no"}',
    "stop_string": '{"model":"m","messages":[{"role":"user","content":""}],"stop":"\\n"}',
    "tools_not_a_list": '{"model":"m","messages":[{"role":"user","content":""}],"tools":{"a":1}}',
    "response_format_text": '{"model":"m","messages":[{"role":"user","content":""}],"response_format":"json"}',
    "model_null": '{"model":null,"messages":[{"role":"user","content":""}]}',
    "model_absent": '{"messages":[{"role":"user","content":""}]}',
    "model_number": '{"model":4,"messages":[{"role":"user","content":""}]}',
    "developer": '{"model":"m","messages":[{"role":"developer","content":"D"},{"role":"user","content":"U"}]}',
    "unknown_role": '{"model":"m","messages":[{"role":"critic","content":"D"}]}',
    "role_absent": '{"model":"m","messages":[{"content":"D"}]}',
    "no_messages": '{"model":"m","messages":[]}',
    "messages_object": '{"model":"m","messages":{}}',
    "message_text": '{"model":"m","messages":["hi"]}',
    "neither": '{"model":"m"}',
    "both": '{"model":"m","messages":[{"role":"user","content":""}],"prompt":"p"}',
    "body_list": "[]",
    "system_list": '{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"a"}]},{"role":"user","content":"u"}]}',
    "system_without_content": '{"model":"m","messages":[{"role":"system"},{"role":"user","content":"u"}]}',
    "user_without_content": '{"model":"m","messages":[{"role":"user"}]}',
    "user_number": '{"model":"m","messages":[{"role":"user","content":1.50}]}',
    "user_object": '{"model":"m","messages":[{"role":"user","content":{"b":1,"a":[true,null,false]}}]}',
    "user_parts": '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"What\'s \\"this\\"?"},'
    '{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},{"type":"file","file":{"filename":"a.pdf","file_data":"BBBB"}},'
    '{"type":"file","file":{"file_data":"CCCC"},"filename":"b.pdf"},{"filename":""},"bare",7,null,{"type":"text","text":null},{"type":"text"}]}]}',
    "user_parts_quotes": '{"model":"m","messages":[{"role":"user","content":["it\'s","say \\"x\\"","both \' and \\"","back\\\\slash","\\n\\r\\t\\u0000\\u001f\\u007f\\u00a0\\u00e9\\u00ad\\u2028\\ud83d\\ude80\\ud800\\u3000\\ufeff\\udbff\\udfff"]}]}',
    "user_parts_empty": '{"model":"m","messages":[{"role":"user","content":[]}]}',
    "user_duplicate_keys": '{"model":"m","messages":[{"role":"user","content":[{"a":1,"b":2,"a":3}]}]}',
    "assistant_null": '{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[]}]}',
    "assistant_list": '{"model":"m","messages":[{"role":"assistant","content":[{"type":"text","text":"x"}]}]}',
    "assistant_falsy": '{"model":"m","messages":[{"role":"assistant","content":0}]}',
    "assistant_calls": '{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"c","type":"function","index":0,"function":{"name":"f","arguments":"{\\"a\\":1}","x":1}}]}]}',
    "assistant_calls_missing": '{"model":"m","messages":[{"role":"assistant","tool_calls":[{},{"function":{}},{"id":null,"type":null,"function":{"name":null,"arguments":null}}]}]}',
    "assistant_call_function_null": '{"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":null}]}]}',
    "assistant_calls_object": '{"model":"m","messages":[{"role":"assistant","tool_calls":{"a":1}}]}',
    "assistant_calls_of_text": '{"model":"m","messages":[{"role":"assistant","tool_calls":["a"]}]}',
    "tool_without_id": '{"model":"m","messages":[{"role":"tool","content":{"b":1,"a":2}}]}',
    "completions_plain": '{"model":"m","prompt":"p"}',
    "completions_null_temperature": '{"model":"m","prompt":"p","temperature":null}',
    "completions_null_max_tokens": '{"model":"m","prompt":"p","max_tokens":null}',
    "completions_all": '{"model":"m","prompt":["a","b"],"max_tokens":5,"temperature":0,"stop":["x"],"best_of":2,"echo":true,"tools":[1],"web_search":1}',
    "duplicate_members": '{"model":"a","messages":[],"messages":[{"role":"user","content":"x","content":"y"}],"model":"b"}',
    "escapes": '{"model":"m","messages":[{"role":"user","content":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\\u007f\\u0080\\u00ff\\uD83D\\uDE80\\ud800\\udc00\\udfff\\ud800x"}]}',
    "raw_unicode": '{"model":"m","messages":[{"role":"user","content":"Grüße 日本 🚀 \x7f"}]}',
    "key_order": '{"model":"m","messages":[{"role":"user","content":"u"}],"response_format":{"\\ud83d\\ude80":1,"\\ufb33":2,"\\ud800":3,"z":4,"Z":5,"":6,"\\u00e9":7,"\\uffff":8}}',
    "numbers": '{"model":"m","messages":[{"role":"user","content":"u"}],"response_format":{"v":[0,-0,-0.0,1,1.0,1e0,1E5,1e15,1e16,1e17,123456789012345678901234567890,0.1,0.0001,0.00001,1e-5,5e-324,1.7976931348623157e308,1e308,1e309,-1e309,1E400,NaN,Infinity,-Infinity,9007199254740993,9007199254740993.0,1.5e300,123456789.123456789,100000000000000000000.0,0.1e1,1e-7,12345678901234567.0]}}',
    "digits_4300": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":' + "9" * 4300 + "}",
    "digits_4301": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":' + "9" * 4301 + "}",
    "white_space": ' \t\r\n{ "model" :\t"m" ,\n"messages" : [ { "role" : "user" , "content" : "u" } ] } \n',
    "nested_100": '{"model":"m","messages":[{"role":"user","content":"u"}],"response_format":{"v":' + "[" * 100 + "]" * 100 + "}}",
    "refused_trailing_comma": '{"model":"m","messages":[{"role":"user","content":"u"},]}',
    "refused_control_character": '{"model":"m","messages":[{"role":"user","content":"a\tb"}]}',
    "refused_bad_escape": '{"model":"m","messages":[{"role":"user","content":"\\x41"}]}',
    "refused_short_escape": '{"model":"m","messages":[{"role":"user","content":"\\u12"}]}',
    "refused_leading_zero": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":01}',
    "refused_plus": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":+1}',
    "refused_bare_point": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":1.}',
    "refused_no_fraction": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":.5}',
    "refused_no_exponent": '{"model":"m","messages":[{"role":"user","content":"u"}],"max_tokens":1e}',
    "refused_single_quotes": "{'model':'m'}",
    "refused_extra": '{"model":"m","messages":[{"role":"user","content":"u"}]} x',
    "refused_open": '{"model":"m","messages":[{"role":"user","content":"u"}]',
    "refused_empty": "",
    "refused_comment": '{"model":"m",/**/"prompt":"p"}',
    "refused_literal": '{"model":"m","prompt":True}',
}

CHARACTERS = 'abz09 _-"\'\\/\n\t\r\b\f\x00\x1f\x7f\x80\xa0\xadßéΩжא中日ー\u2028\u200b\ufb33\ufeff\uffff🚀𝄞\U0010ffff\ud800\udfff'


class Spelled:
    """A number with the text that spells it."""

    def __init__(self, text):
        self.text = text


def string(r):
    return "".join(r.choice(CHARACTERS) for _ in range(r.choice([0, 1, 3, 8])))


def number(r):
    kind = r.randrange(5)
    if kind == 0:
        return Spelled(str(r.randrange(-100, 100)))
    if kind == 1:
        return Spelled(str(r.getrandbits(r.choice([31, 53, 64, 256])) * r.choice([1, -1])))
    if kind == 2:
        return Spelled(repr(r.uniform(-2, 2)))
    if kind == 3:
        return Spelled(f"{r.choice(['', '-'])}{r.randrange(10)}.{r.randrange(10**6)}{r.choice('eE')}{r.choice(['', '+', '-'])}{r.randrange(330)}")
    return Spelled(r.choice(["-0", "-0.0", "0e0", "1E400", "-1E400", "NaN", "Infinity", "-Infinity", "1e16", "1e-5", "1e22"]))


def value(r, depth=0):
    kind = r.randrange(7 if depth < 4 else 5)
    if kind == 0:
        return r.choice([None, True, False])
    if kind in (1, 2):
        return number(r)
    if kind in (3, 4):
        return string(r)
    if kind == 5:
        return [value(r, depth + 1) for _ in range(r.randrange(4))]
    return [(string(r), value(r, depth + 1)) for _ in range(r.randrange(4))] or ()


def spell(r, v):
    """JSON text of a value in one of its many spellings; an object is a list of pairs, so keys may repeat."""
    space = lambda: r.choice(["", "", "", " ", "\n", "\t "])  # noqa: E731
    if isinstance(v, Spelled):
        return v.text
    if v is None or isinstance(v, bool):
        return json.dumps(v)
    if isinstance(v, str):
        text = json.dumps(v, ensure_ascii=r.random() < 0.5 or any("\ud800" <= c <= "\udfff" for c in v))
        if r.random() < 0.2:
            text = text.replace("/", "\\/")
        return text.upper().replace("\\U", "\\u") if text.startswith('"\\ud') and text.isascii() and len(text) == 8 else text
    if v == () or isinstance(v, list) and v and isinstance(v[0], tuple) and len(v[0]) == 2:
        return "{" + ",".join(f"{space()}{spell(r, k)}{space()}:{space()}{spell(r, x)}{space()}" for k, x in v) + "}"
    return "[" + space() + ",".join(space() + spell(r, x) + space() for x in v) + "]"


def maybe(r, members, name, make, chance=0.4):
    if r.random() < chance:
        members.append((name, make()))


def message(r):
    role = r.choice(["system", "user", "user", "user", "assistant", "tool", "function", "developer", "system"])
    members = [("role", role)]
    maybe(r, members, "content", lambda: string(r) if r.random() < 0.5 else value(r), 0.9)
    if role == "user" and r.random() < 0.4:
        parts = [
            r.choice([
                lambda: [("type", "text"), ("text", string(r))],
                lambda: [("type", "image_url"), ("image_url", [("url", string(r))])],
                lambda: [("type", "file"), ("file", [("filename", string(r)), ("file_data", "AA")])],
                lambda: value(r),
            ])()
            for _ in range(r.randrange(1, 4))
        ]
        members = [("role", role), ("content", parts)]
    maybe(r, members, "name", lambda: string(r))
    maybe(r, members, "tool_call_id", lambda: string(r))
    if role == "assistant" and r.random() < 0.6:
        call = []
        maybe(r, call, "id", lambda: string(r), 0.8)
        maybe(r, call, "type", lambda: "function", 0.8)
        maybe(r, call, "function", lambda: [("name", string(r)), ("arguments", string(r))][: r.randrange(1, 3)], 0.9)
        members.append(("tool_calls", [call or ()] * r.randrange(1, 3)))
    r.shuffle(members)
    return members


def request(r):
    members = [("model", string(r))]
    if r.random() < 0.8:
        members.append(("messages", [message(r) for _ in range(r.randrange(1, 4))]))
    else:
        members.append(("prompt", string(r) if r.random() < 0.7 else value(r)))
    maybe(r, members, "temperature", lambda: r.choice([None, number(r)]))
    maybe(r, members, "max_tokens", lambda: r.choice([None, Spelled(str(r.randrange(5000)))]))
    maybe(r, members, "stop", lambda: r.choice([None, "", string(r), [string(r)]]))
    maybe(r, members, "tools", lambda: [value(r) for _ in range(r.randrange(3))])
    maybe(r, members, "response_format", lambda: [("type", "json_schema"), ("schema", value(r))])
    maybe(r, members, "web_search", lambda: r.choice([True, False, None]))
    maybe(r, members, "stream", lambda: True)
    maybe(r, members, string(r) + "x", lambda: value(r))
    maybe(r, members, "model", lambda: string(r), 0.1)
    r.shuffle(members)
    return spell(r, members)


def texts(text):
    try:
        v = json.loads(text)
        lone = any("\ud800" <= c <= "\udfff" for c in str(v))  # only in a bare string: JSON readers refuse it
        return {"dumps": json.dumps(v, sort_keys=True), "str": None if lone else str(v)}
    except (ValueError, RecursionError):
        return {"refused": True}


def main():
    if sys.argv[1:] == ["--stdin"]:
        for line in sys.stdin:
            print(json.dumps(texts(line.rstrip("\n"))))
        return
    r = random.Random(20261120)
    requests = dict(NAMED)
    requests |= {f"random_{i:03}": request(r) for i in range(220)}
    values = [spell(r, value(r)) for _ in range(150)] + [repr(r.uniform(-1, 1) * 10.0 ** r.randrange(-320, 308)) for _ in range(100)]
    lines = [json.dumps({"name": name, "request": text, "expected": expected(text)}) for name, text in requests.items()]
    printed = [json.dumps({"text": text, "expected": texts(text)}) for text in dict.fromkeys(values)]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(
        '{"note": "Written by script/vectors/canonical.py",\n"requests": [\n' + ",\n".join(lines)
        + '\n],\n"values": [\n' + ",\n".join(printed) + "\n]}\n"
    )
    refused = sum("refused" in line["expected"] for line in map(json.loads, lines))
    print(f"{TARGET.name}: {len(lines)} requests ({refused} refused), {len(printed)} values, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
