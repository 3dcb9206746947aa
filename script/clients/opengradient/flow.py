"""OpenGradient's own software against a devnet: the real SDK pays a gateway that runs the real middleware, whose facilitator is the
keeper. Ends with the money on Base and the proofs on OpenGradient.

flow.py      run it by `script/clients/opengradient/run`
"""

import json
import os
import sys
import tempfile

import requests

from devnet import ROOT, Devnet, account_of
from play import FIXED_PRICE, HERE, Program, ask, until

COST = 3 * 10**15


def ok(text):
    print(f"ok      {text}", flush=True)


def job(net, id_):
    return requests.get(f"{net.keeper}/settle/{id_}", timeout=30).json()


def recorded(net, id_, joined):
    """Waits until a proof stands on OpenGradient and its payment is found."""

    def done():
        found = job(net, id_)
        return found if found.get("status") == "succeeded" and found["result"]["joined"] else None

    found = until(f"proof {id_}", done)["result"]
    assert found["joined"] == joined, found
    assert found["state"] == "direct" and found["paymentId"], found
    assert net.inbox.functions.recordedAt(id_).call() > 0, "not on OpenGradient"
    return found


def sdk(net, gateway, payer):
    """The SDK pays by `upto` with Permit2."""
    net.base.fund(payer)
    net.base.send(payer, net.opg.functions.mint(payer.address, 10**18))
    receiver = account_of("gateway").address
    before = net.opg.functions.balanceOf(receiver).call()
    python = ROOT / "cache/opengradient/sdk/bin/python"
    rpc = net.network["opengradient"]["rpc"]
    user = Program(
        python, "-B", HERE / "sdk.py", rpc, net.registry_address, "What is the capital of France?",
        BASE_MAINNET_RPC=net.network["base"]["rpc"], PAYER_KEY=payer.key.hex(),
    )  # fmt: skip
    said = json.loads(user.line(lambda line: line.startswith("{") and line))
    assert said["output"].startswith("Paris") and said["paymentAddress"] == receiver, said
    assert net.opg.functions.balanceOf(receiver).call() - before == COST, "the gateway was paid what the answer cost"
    assert net.opg.functions.balanceOf(payer.address).call() == 10**18 - COST
    ok("opengradient SDK: registry, pinned certificate, Permit2 approval, upto payment, answer")
    recorded(net, gateway.word("answered"), "window")
    ok("og-x402 middleware: settle_data (batch) recorded on OpenGradient and joined by receiver and time")


def individual(net, gateway, url, payer, folder):
    """A payer who signs an authorization, and asks for individual settlement: the gateway names the payer."""
    net.base.fund(payer)
    net.base.send(payer, net.usdc.functions.mint(payer.address, 10**7))
    ask(net, url, payer, folder, "And of Spain?")
    assert net.usdc.functions.balanceOf(payer.address).call() == 10**7 - FIXED_PRICE
    recorded(net, gateway.word("answered"), "payer")
    ok("og-x402 client and middleware: exact payment, settle_data (individual) recorded and joined by the payer")


def main():
    running = []
    with tempfile.TemporaryDirectory(prefix="quittance-opengradient-") as folder:
        try:
            program = os.environ.get("QUITTANCE", ROOT / "target/debug/quittance")
            devnet = Program(program, "devnet", "--dir", folder)
            running.append(devnet)
            path = devnet.line(lambda line: "network file" in line and line.split("network file", 1)[1].strip())
            net = Devnet(path)
            gateway = Program(sys.executable, "-B", HERE / "gateway.py", path)
            running.append(gateway)
            url = gateway.word("listening")
            beat = gateway.word("heartbeat")
            until("heartbeat", lambda: _mined(net, beat))
            ok("heartbeat relayed to OpenGradient's registry")
            sdk(net, gateway, account_of("sdk payer"))
            individual(net, gateway, url, account_of("individual payer"), folder)
        except BaseException:
            for one in running:
                print(f"── {one.command[1:]}", "".join(one.said[-60:]), sep="\n", file=sys.stderr)
            raise
        finally:
            for one in reversed(running):
                one.stop()
    print("opengradient: 4 passed, 0 failed")


def _mined(net, hash_):
    try:
        receipt = net.opengradient.web3.eth.get_transaction_receipt(hash_)
    except Exception:
        return False
    assert receipt.status == 1, receipt
    return True


main()
