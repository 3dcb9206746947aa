"""A stock Python resource server with a route for every way to pay.

server.py FACILITATOR_URL RECEIVER_NAME fastapi|flask     prints `listening URL`
"""

import base64
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from devnet import NETWORK, NETWORK_V1, USDC, account_of
from x402.extensions.eip2612_gas_sponsoring import declare_eip2612_gas_sponsoring_extension
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, HTTPFacilitatorClientSync
from x402.http.types import PaymentOption, RouteConfig
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.server import (
    BatchSettlementChannelManager,
    BatchSettlementChannelManagerSync,
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
    ChannelManagerConfig,
    ChannelManagerConfigSync,
)
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.mechanisms.evm.upto import UptoEvmServerScheme
from x402.schemas import AssetAmount
from x402.schemas.helpers import parse_payment_payload
from x402.schemas.v1 import PaymentRequirementsV1

URL, NAME, FRAMEWORK = sys.argv[1:]
ACCOUNT = account_of(NAME)
PAY_TO = ACCOUNT.address


def permit2(amount):
    extra = {"name": "USD Coin", "version": "2", "assetTransferMethod": "permit2"}
    return AssetAmount(amount=amount, asset=USDC, extra=extra)


def option(scheme, price, extensions=None):
    accepts = PaymentOption(scheme=scheme, pay_to=PAY_TO, price=price, network=NETWORK)
    return RouteConfig(accepts=accepts, extensions=extensions)


ROUTES = {
    "GET /exact": option("exact", "$0.01"),
    "GET /exact-permit2": option("exact", permit2("20000")),
    "GET /exact-unapproved": option("exact", permit2("20000"), declare_eip2612_gas_sponsoring_extension()),
    "GET /upto": option("upto", "$0.10"),
    "GET /upto-nothing": option("upto", "$0.10"),
    "GET /channel": option("batch-settlement", "$0.01"),
    "GET /channel-permit2": option("batch-settlement", permit2("10000")),
}
PATHS = [route.split(" ")[1] for route in ROUTES]
OVERRIDES = {"/upto": {"amount": "12345"}, "/upto-nothing": {"amount": "0"}}

CHANNELS = BatchSettlementEvmScheme(
    PAY_TO, BatchSettlementEvmSchemeServerConfig(receiver_authorizer_signer=LocalAuthorizerSigner(ACCOUNT))
)

# Version 1 has no server in these packages any more; what its servers sent and took is fixed by its text.
REQUIREMENTS_V1 = {
    "scheme": "exact",
    "network": NETWORK_V1,
    "maxAmountRequired": "10000",
    "resource": "http://127.0.0.1/v1/exact",
    "description": "",
    "mimeType": "application/json",
    "payTo": PAY_TO,
    "maxTimeoutSeconds": 300,
    "asset": USDC,
    "extra": {"name": "USD Coin", "version": "2"},
}


def version_1(header):
    """Status, body and headers of version 1's one route."""

    def refuse(error):
        return 402, {"x402Version": 1, "error": error, "accepts": [REQUIREMENTS_V1]}, {}

    if not header:
        return refuse("X-PAYMENT header is required")
    payload = parse_payment_payload(base64.b64decode(header))
    requirements = PaymentRequirementsV1.model_validate(REQUIREMENTS_V1)
    with HTTPFacilitatorClientSync(FacilitatorConfig(url=URL)) as facilitator:
        verified = facilitator.verify(payload, requirements)
        if not verified.is_valid:
            return refuse(verified.invalid_reason)
        settled = facilitator.settle(payload, requirements)
    if not settled.success:
        return refuse(settled.error_reason)
    text = settled.model_dump_json(by_alias=True, exclude_none=True)
    return 200, {"paid": "v1"}, {"X-PAYMENT-RESPONSE": base64.b64encode(text.encode()).decode()}


def serve_fastapi(listener):
    import uvicorn
    from fastapi import FastAPI, Response
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import JSONResponse
    from starlette.requests import Request
    from x402 import x402ResourceServer
    from x402.http.middleware.fastapi import PaymentMiddlewareASGI, set_settlement_overrides

    facilitator = HTTPFacilitatorClient(FacilitatorConfig(url=URL))
    resources = x402ResourceServer(facilitator)
    for scheme in (ExactEvmServerScheme(), UptoEvmServerScheme(), CHANNELS):
        resources.register(NETWORK, scheme)
    manager = BatchSettlementChannelManager(
        ChannelManagerConfig(scheme=CHANNELS, facilitator=facilitator, receiver=PAY_TO, token=USDC, network=NETWORK)
    )
    app = FastAPI()
    app.add_middleware(PaymentMiddlewareASGI, routes=ROUTES, server=resources)

    def sell(path):
        async def handler(response: Response):
            if path in OVERRIDES:
                set_settlement_overrides(response, OVERRIDES[path])
            return {"paid": path}

        app.get(path)(handler)

    for path in PATHS:
        sell(path)

    @app.get("/v1/exact")
    async def exact_v1(request: Request):
        status, body, headers = await run_in_threadpool(version_1, request.headers.get("X-PAYMENT"))
        return JSONResponse(body, status, headers)

    @app.post("/manager/{action}")
    async def manage(action: str):
        try:
            result = await getattr(manager, action)()
        except Exception as error:
            return JSONResponse({"error": str(error)}, 500)
        return [vars(one) for one in result] if isinstance(result, list) else vars(result)

    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


def serve_flask(listener):
    from flask import Flask, jsonify, request
    from werkzeug.serving import make_server
    from x402 import x402ResourceServerSync
    from x402.http.middleware.flask import payment_middleware, set_settlement_overrides

    facilitator = HTTPFacilitatorClientSync(FacilitatorConfig(url=URL))
    resources = x402ResourceServerSync(facilitator)
    for scheme in (ExactEvmServerScheme(), UptoEvmServerScheme(), CHANNELS):
        resources.register(NETWORK, scheme)
    manager = BatchSettlementChannelManagerSync(
        ChannelManagerConfigSync(scheme=CHANNELS, facilitator=facilitator, receiver=PAY_TO, token=USDC, network=NETWORK)
    )
    app = Flask(__name__)

    def sell(path):
        def handler():
            response = jsonify({"paid": path})
            if path in OVERRIDES:
                set_settlement_overrides(response, OVERRIDES[path])
            return response

        app.add_url_rule(path, path, handler)

    for path in PATHS:
        sell(path)

    @app.get("/v1/exact")
    def exact_v1():
        status, body, headers = version_1(request.headers.get("X-PAYMENT"))
        return body, status, headers

    @app.post("/manager/<action>")
    def manage(action):
        try:
            result = getattr(manager, action)()
        except Exception as error:
            return {"error": str(error)}, 500
        return jsonify([vars(one) for one in result] if isinstance(result, list) else vars(result))

    payment_middleware(app, ROUTES, resources)
    host, port = listener.getsockname()
    make_server(host, port, app, threaded=True, fd=listener.fileno()).serve_forever()


LISTENER = socket.create_server(("127.0.0.1", 0), backlog=128)
# Connections wait in the backlog until the framework takes them.
print(f"listening http://127.0.0.1:{LISTENER.getsockname()[1]}", flush=True)
{"fastapi": serve_fastapi, "flask": serve_flask}[FRAMEWORK](LISTENER)
