"""A gateway as OpenGradient runs them, in front of a canned model: the real `og-x402` middleware with settlement data enabled, a
key pair of its own, a TLS certificate in OpenGradient's registry, heartbeats. Its facilitator is the keeper.

gateway.py NETWORK_FILE        prints `listening URL`, and `answered SETTLEMENT_ID` and `heartbeat TRANSACTION` as they come
"""

import base64
import datetime
import ipaddress
import json
import os
import socket
import ssl
import sys
import tempfile
import threading
import time

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from flask import Flask, jsonify, request
from web3 import Web3
from werkzeug.serving import make_server
from x402 import x402ResourceServerSync
from x402.http import FacilitatorConfig, HTTPFacilitatorClientSync
from x402.http.middleware.flask import payment_middleware, set_settlement_overrides
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.mechanisms.evm.upto import UptoEvmServerScheme
from x402.schemas import AssetAmount

from devnet import NETWORK, OPG, Devnet, account_of

DEVNET = Devnet(sys.argv[1])
PAY_TO = account_of("gateway")
ANSWER = "Paris, as every canned model knows."
# What one answer costs, in units of OPG, of the 0.1 that a payment may take.
COST = 3 * 10**15
HEARTBEAT_SECONDS = 900
CLOCK_DRIFT = 300

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SPKI = KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
TEE_ID = Web3.keccak(SPKI)


def say(*words):
    print(*words, flush=True)


def sign(message):
    """RSASSA-PSS over a hash taken as the message, as the enclave does it."""
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
    return base64.b64encode(KEY.sign(message, pss, hashes.SHA256())).decode()


def certificate():
    """A self-signed certificate for this machine: DER, and a context that serves it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(address, critical=False)
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = builder.sign(key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        private = serialization.PrivateFormat.PKCS8
        file.write(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
        file.write(made.public_bytes(serialization.Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return made.public_bytes(serialization.Encoding.DER), context


def register(endpoint, tls):
    pcrs = Web3.keccak(b"\x50" * 48 + b"\x51" * 48 + b"\x52" * 48)
    call = DEVNET.registry.functions.registerDevnetTEE(PAY_TO.address, SPKI, tls, PAY_TO.address, endpoint, 0, pcrs)
    DEVNET.opengradient.send(account_of("admin"), call)


def canonical(body):
    """The request as gateways hash it."""
    messages = [{"role": message["role"], "content": message["content"]} for message in body["messages"]]
    digest = {"model": body["model"], "messages": messages, "temperature": float(body.get("temperature") or 0.0)}
    if body.get("max_tokens") is not None:
        digest["max_tokens"] = body["max_tokens"]
    return json.dumps(digest, sort_keys=True).encode()


def answer():
    body = request.get_json()
    request_hash, output_hash = Web3.keccak(canonical(body)), Web3.keccak(text=ANSWER)
    now = int(time.time())
    message = Web3.keccak(request_hash + output_hash + now.to_bytes(32, "big"))
    response = jsonify(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15},
            "tee_signature": sign(message),
            "tee_request_hash": request_hash.hex().removeprefix("0x"),
            "tee_output_hash": output_hash.hex().removeprefix("0x"),
            "tee_timestamp": now,
            "tee_id": Web3.to_hex(TEE_ID),
        }
    )
    if request.path == "/v1/chat/completions":
        set_settlement_overrides(response, {"amount": str(COST)})
    say("answered", Web3.to_hex(Web3.keccak(TEE_ID + message)))
    return response


def heartbeats():
    while True:
        at = int(time.time()) - CLOCK_DRIFT
        body = {
            "teeId": Web3.to_hex(TEE_ID),
            "timestamp": str(at),
            "signature": sign(Web3.keccak(TEE_ID + at.to_bytes(32, "big"))),
            "contractAddress": DEVNET.registry_address,
        }
        # Three tries, ten seconds apart, each of which may take twenty.
        for _ in range(3):
            try:
                reply = requests.post(f"{DEVNET.keeper}/heartbeat", json=body, timeout=20)
                hash_ = reply.json().get("txHash") if reply.status_code < 400 else None
            except requests.RequestException as error:
                say("heartbeat-failed", error)
                hash_ = None
            if hash_:
                say("heartbeat", hash_)
                break
            time.sleep(10)
        time.sleep(HEARTBEAT_SECONDS)


def end_with_starter():
    """Ends with whoever started this, however that ended."""
    sys.stdin.read()
    os._exit(0)


def main():
    if os.environ.get("END_WITH_STARTER"):
        threading.Thread(target=end_with_starter, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    endpoint = f"https://127.0.0.1:{listener.getsockname()[1]}"
    der, context = certificate()
    register(endpoint, der)

    server = x402ResourceServerSync(HTTPFacilitatorClientSync(FacilitatorConfig(url=DEVNET.keeper)))
    server.register(NETWORK, UptoEvmServerScheme())
    server.register(NETWORK, ExactEvmServerScheme())
    opg = AssetAmount(
        amount=str(10**17), asset=OPG, extra={"name": "OpenGradient", "version": "1", "assetTransferMethod": "permit2"}
    )
    upto = PaymentOption(scheme="upto", pay_to=PAY_TO.address, price=opg, network=NETWORK)
    exact = PaymentOption(scheme="exact", pay_to=PAY_TO.address, price="$0.01", network=NETWORK)
    app = Flask(__name__)
    app.add_url_rule("/v1/chat/completions", "chat", answer, methods=["POST"])
    # The same answer for a fixed price in USDC, whose payers sign an EIP-3009 authorization.
    app.add_url_rule("/fixed/chat/completions", "fixed", answer, methods=["POST"])
    routes = {
        "POST /v1/chat/completions": RouteConfig(accepts=upto),
        "POST /fixed/chat/completions": RouteConfig(accepts=exact),
    }
    payment_middleware(app, routes, server, settlement_data_enabled=True)
    threading.Thread(target=heartbeats, daemon=True).start()
    say("listening", endpoint)
    host, port = listener.getsockname()
    make_server(host, port, app, threaded=True, fd=listener.fileno(), ssl_context=context).serve_forever()


main()
