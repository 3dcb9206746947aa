#!/usr/bin/env python3
"""Writes keeper/tests/vectors/gateway.json: what OpenGradient's gateways send to /settle_data and /heartbeat.

Python's own json and base64, as in `og-x402`, and OpenSSL for signatures, with the test-only key of tee.json. Signatures are
randomised, so the file changes when written anew.
  script/vectors/gateway.py            writes the file
  script/vectors/gateway.py --check    verifies what stands in it
"""
import base64
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))
from keccak import keccak256  # noqa: E402

VECTORS = HERE.parents[2] / "keeper/tests/vectors"
TARGET = VECTORS / "gateway.json"
TEE = json.loads((VECTORS / "tee.json").read_text())
FALLBACK = "0xddc21f2d5d0af861b4fc1390df47f1c93bc5aee54e7e31763e97256d56148253"
PAYER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
SPENDER = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002"
REGISTRY = "0x4e72238852f3c918f4E4e57AeC9280dDB0c80248"
PSS = ["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:32", "-pkeyopt", "rsa_mgf1_md:sha256"]


def pkeyutl(flags, key, message, *more):
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / name for name in ("key.pem", "message", "signature")]
        for path, content in zip(paths, (key.encode(), message, *more)):
            path.write_bytes(content)
        sign = ["openssl", "pkeyutl", *flags, "-inkey", paths[0], "-rawin", "-digest", "sha256", "-in", paths[1], *PSS]
        if more:
            sign += ["-sigfile", paths[2]]
        return subprocess.run(sign, check=not more, capture_output=True)


def sign(message):
    return base64.b64encode(pkeyutl(["-sign"], TEE["key"]["privatePem"], message).stdout).decode()


def valid(message, signature):
    return pkeyutl(["-verify"], TEE["key"]["privatePem"], message, base64.b64decode(signature)).returncode == 0


def word(number):
    return number.to_bytes(32, "big")


def raw(text):
    return bytes.fromhex(text.removeprefix("0x"))


def message_hash(data):
    time = data["tee_timestamp"]
    return keccak256(raw(data["input_hash"]) + raw(data["output_hash"]) + word(int(time)))


def settlement_id(data):
    return "0x" + keccak256(raw(data["tee_id"]) + message_hash(data)).hex()


def encoded(data):
    """`_encode_settlement_data` of og-x402."""
    return base64.b64encode(json.dumps(data, separators=(",", ":"), default=str).encode("utf-8")).decode("ascii")


def request(name, kind, data, **more):
    return {"name": name, "headers": {"x-settlement-type": kind, "x-settlement-data": encoded(data)}, **more}


def expected(data, variant=None, output=None, payer=None):
    return {"settlementId": settlement_id(data), "variant": variant, "output": output, "payer": payer}


def batch(fields):
    return {
        "tee_id": fields["tee_id"],
        "input_hash": fields["tee_request_hash"],
        "output_hash": fields["tee_output_hash"],
        "tee_signature": fields["tee_signature"],
        "tee_timestamp": fields["tee_timestamp"],
        "timestamp": fields["tee_timestamp"],
    }


def individual(fields, body, response, payer):
    data = batch(fields)
    time = str(data.pop("timestamp"))
    return {**data, "input": body, "output": response, "timestamp": time, "eth_address": payer}


def build():
    entries = {entry["name"]: entry for entry in TEE["entries"]}
    requests, refused = [], []
    whole = [entry for entry in entries.values() if "response" in entry]
    for entry in whole:
        body, response = json.loads(entry["request"]), json.loads(entry["response"])
        data = batch(response)
        requests.append(request(f"{entry['name']}, batch", "batch", data, expected=expected(data)))
        data = individual(response, body, response, PAYER)
        wanted = expected(data, entry["variant"], entry["output"], PAYER)
        requests.append(request(f"{entry['name']}, individual", "individual", data, expected=wanted))
    first = whole[0]
    body, response = json.loads(first["request"]), json.loads(first["response"])
    good = batch(response)

    with_prefix = {**good, "input_hash": "0x" + good["input_hash"], "output_hash": "0x" + good["output_hash"]}
    requests.append(request("hashes with 0x", "batch", with_prefix, expected=expected(good)))
    data = individual(response, body, response, SPENDER)
    wanted = expected(data, first["variant"], first["output"])
    requests.append(request("a Permit2 payment: the spender is no payer", "Inidvidual", data, expected=wanted))
    streamed = entries["stream"]
    tail = json.loads(streamed["stream"].strip().split("\n\n")[-2].removeprefix("data: "))
    data = individual(tail, json.loads(streamed["request"]), tail, PAYER)
    wanted = expected(data, streamed["variant"], None, PAYER)
    requests.append(request("the last event of a stream", "individual", data, expected=wanted))
    data = individual(response, "not an object", response, PAYER)
    requests.append(request("a request that is no JSON object", "individual", data, expected=expected(data, payer=PAYER)))
    texts = {**good, "tee_timestamp": str(good["tee_timestamp"]), "timestamp": hex(good["timestamp"])}
    requests.append(request("times as text", "batch", texts, expected=expected(good)))

    def refuse(name, code, data, kind="batch"):
        refused.append({**request(name, kind, data), "code": code})

    sha = {
        "input_hash": "0x" + hashlib.sha256(first["request"].encode()).hexdigest(),
        "output_hash": "0x" + hashlib.sha256(first["response"].encode()).hexdigest(),
    }
    refuse("no tee_id in the answer", "fallback_tee_id", {**good, "tee_id": FALLBACK})
    refuse("no hashes in the answer", "fallback_hash", {**good, **sha})
    refuse("no signature in the answer", "signature_missing", {**good, "tee_signature": "0x"})
    refuse("no timestamp in the answer", "timestamp_missing", {**good, "tee_timestamp": None, "timestamp": None})
    refuse("another answer's signature", "bad_inference_signature", {**good, "tee_signature": sign(b"\0" * 32)})
    refuse("another time", "bad_inference_signature", {**good, "tee_timestamp": 7, "timestamp": 7})
    other = {**body, "messages": [{"role": "user", "content": "another question"}]}
    refuse("another request", "request_mismatch", individual(response, other, response, PAYER), "individual")
    answer = json.loads(json.dumps(response))
    answer["choices"][0]["message"]["content"] = "another answer"
    refuse("another answer", "output_mismatch", individual(response, body, answer, PAYER), "individual")

    beat = keccak256(raw(response["tee_id"]) + word(response["tee_timestamp"]))
    heartbeat = {
        "teeId": response["tee_id"],
        "timestamp": str(response["tee_timestamp"]),
        "signature": sign(beat),
        "contractAddress": REGISTRY,
    }
    return {
        "note": "Written by script/vectors/gateway.py. The key is that of tee.json: public, for tests only.",
        "key": {"spki": TEE["key"]["spki"], "nodeId": TEE["key"]["nodeId"]},
        "requests": requests,
        "refused": refused,
        "heartbeat": {"message": "0x" + beat.hex(), "body": heartbeat},
    }


def check():
    stored = json.loads(TARGET.read_text())
    built = build()
    for known, made in zip(stored["requests"], built["requests"], strict=True):
        assert known == made, known["name"]
        data = json.loads(base64.b64decode(known["headers"]["x-settlement-data"]))
        assert valid(message_hash(data), data["tee_signature"]), known["name"]
    assert [(one["name"], one["code"]) for one in stored["refused"]] == [(one["name"], one["code"]) for one in built["refused"]]
    assert stored["key"] == built["key"]
    beat = stored["heartbeat"]
    assert beat["message"] == built["heartbeat"]["message"]
    assert valid(raw(beat["message"]), beat["body"]["signature"]), "heartbeat"
    print(f"{TARGET.name}: {len(stored['requests'])} requests and {len(stored['refused'])} refusals hold")


if "--check" in sys.argv:
    check()
else:
    TARGET.write_text(json.dumps(build(), indent=1) + "\n")
