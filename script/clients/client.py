"""A stock Python client: a line of JSON says what to buy, a line of JSON says what came of it.

RPC=URL PAYER=NAME client.py httpx|requests
"""

import asyncio
import base64
import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from devnet import NETWORK, account_of
from x402 import x402Client, x402ClientSync
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme, BatchSettlementEvmSchemeOptions, RefundOptions
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC
from x402.mechanisms.evm.upto import UptoEvmClientScheme

VIA = sys.argv[1]


class Wallet:
    """A client as after a start: it remembers no channel. Another salt makes another channel."""

    def __init__(self, payer=None, salt=None):
        signer = EthAccountSignerWithRPC(account_of(payer or os.environ["PAYER"]), os.environ["RPC"])
        self.channels = BatchSettlementEvmScheme(signer, BatchSettlementEvmSchemeOptions(salt=salt))
        self.client = (x402Client if VIA == "httpx" else x402ClientSync)()
        register_exact_evm_client(self.client, signer, NETWORK)
        self.client.register(NETWORK, UptoEvmClientScheme(signer))
        self.client.register(NETWORK, self.channels)

    async def by_httpx(self, url):
        from x402.http.clients.httpx import x402HttpxClient

        async with x402HttpxClient(self.client, timeout=90) as http:
            response = await http.get(url)
            return response.status_code, response.headers, response.content

    def by_requests(self, url):
        from x402.http.clients.requests import x402_requests

        with x402_requests(self.client) as session:
            response = session.get(url, timeout=90)
            return response.status_code, response.headers, response.content

    def pay(self, url):
        status, headers, body = asyncio.run(self.by_httpx(url)) if VIA == "httpx" else self.by_requests(url)
        header = headers.get("PAYMENT-RESPONSE") or headers.get("X-PAYMENT-RESPONSE")
        payment = json.loads(base64.b64decode(header)) if header else None
        try:
            body = json.loads(body)
        except ValueError:
            body = None
        refused = headers.get("PAYMENT-REQUIRED") if status == 402 else None
        error = json.loads(base64.b64decode(refused)).get("error") if refused else None
        return {"status": status, "error": error, "body": body, "payment": payment}


WALLET = Wallet()


def perform(request):
    global WALLET
    match request["op"]:
        case "pay":
            return WALLET.pay(request["url"])
        case "refund":
            settled = WALLET.channels.refund(request["url"], RefundOptions(amount=request.get("amount")))
            return {"payment": settled.model_dump(by_alias=True, exclude_none=True)}
        case "forget":
            WALLET = Wallet(request.get("payer"), request.get("salt"))
            return {}


for line in sys.stdin:
    try:
        answer = perform(json.loads(line))
    except Exception:
        answer = {"failed": traceback.format_exc()}
    print(json.dumps(answer, default=str), flush=True)
