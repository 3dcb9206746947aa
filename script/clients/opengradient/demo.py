"""The gateway of the demonstration: OpenGradient's own middleware (`og-x402`), unmodified, whose facilitator is the keeper. A payer
with `og-x402`'s own client asks it once; what was paid and handed in is said as one JSON text.

demo.py NETWORK_FILE [GATEWAY_URL]      starts a gateway of its own unless one is named
"""

import base64
import json
import sys
import tempfile
from importlib.metadata import version

import requests
from web3 import Web3
from x402.http import decode_payment_response_header

from devnet import Devnet, account_of
from play import FIXED_PRICE, HERE, Program, ask, until


def main():
    path, *url = sys.argv[1:]
    net = Devnet(path)
    payer, receiver = account_of("gateway payer"), account_of("gateway")
    net.base.fund(payer)
    net.base.send(payer, net.usdc.functions.mint(payer.address, FIXED_PRICE))
    own = None if url else Program(sys.executable, "-B", HERE / "gateway.py", path)
    try:
        with tempfile.TemporaryDirectory(prefix="quittance-gateway-") as folder:
            reply = ask(net, own.word("listening") if own else url[0], payer, folder, "What does a gateway hand in?")
        answer = reply.json()
        hashes = [bytes.fromhex(answer[name]) for name in ("tee_request_hash", "tee_output_hash")]
        message = Web3.keccak(b"".join(hashes) + answer["tee_timestamp"].to_bytes(32, "big"))
        id_ = Web3.to_hex(Web3.keccak(Web3.to_bytes(hexstr=answer["tee_id"]) + message))
        # The middleware hands it in after its answer.
        until("settle_data", lambda: requests.get(f"{net.keeper}/settle/{id_}", timeout=30).status_code == 200)
    finally:
        if own:
            own.stop()
    settled = decode_payment_response_header(reply.headers["PAYMENT-RESPONSE"])
    print(
        json.dumps(
            {
                "settlementId": id_,
                "software": f"og-x402 {version('og-x402')}",
                "payer": payer.address,
                "receiver": receiver.address,
                "amount": str(FIXED_PRICE),
                "transaction": settled.transaction,
                "teeId": answer["tee_id"],
                "requestHash": f"0x{answer['tee_request_hash']}",
                "outputHash": f"0x{answer['tee_output_hash']}",
                "timestamp": answer["tee_timestamp"],
                "signature": f"0x{base64.b64decode(answer['tee_signature']).hex()}",
            }
        )
    )


main()
