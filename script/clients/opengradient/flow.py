"""OpenGradient's own software against a devnet: the real SDK pays a gateway that runs the real middleware, whose facilitator is the
keeper. Ends with the money on Base and the proofs on OpenGradient.

flow.py      run it by `script/clients/opengradient/run`
"""

import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests
from x402 import x402ClientSync
from x402.http.clients import x402_requests
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client

from devnet import NETWORK, ROOT, Devnet, account_of

HERE = Path(__file__).parent
# On a machine that is busy with other things.
PATIENCE = 240
COST = 3 * 10**15


class Program:
    """A child whose lines are read as they come."""

    def __init__(self, *command, **env):
        self.command = [str(part) for part in command]
        self.lines, self.said = queue.Queue(), []
        self.child = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}, cwd=ROOT
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.said.append(line)
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def line(self, wanted):
        """What `wanted` makes of the first line of which it makes something."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f"{self.command[1:]} did not say it in {PATIENCE} s:\n{''.join(self.said[-40:])}")
            if line is None:
                raise SystemExit(f"{self.command} ended with {self.child.wait()}:\n{''.join(self.said[-40:])}")
            found = wanted(line)
            if found:
                return found

    def word(self, name):
        """The word after `name` on a line of its own."""
        return self.line(lambda line: line.startswith(f"{name} ") and line.split(" ", 1)[1])

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.child.kill()


def until(what, ask):
    deadline = time.monotonic() + PATIENCE
    while True:
        found = ask()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not in {PATIENCE} s"
        time.sleep(0.5)


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
    client = x402ClientSync()
    register_exact_evm_client(client, EthAccountSigner(payer), networks=[NETWORK])
    session = x402_requests(client)
    # The certificate that the registry has, as the SDK pins it.
    registered = [tee for tee in net.registry.functions.getActiveTEEs(0).call() if tee[2] == url]
    pinned = Path(folder) / "gateway.pem"
    pinned.write_text(ssl.DER_cert_to_PEM_cert(registered[0][4]))
    body = {"model": "canned", "messages": [{"role": "user", "content": "And of Spain?"}], "temperature": 0.5}
    reply = session.post(
        f"{url}/fixed/chat/completions", json=body, headers={"X-SETTLEMENT-TYPE": "individual"}, timeout=120, verify=str(pinned)
    )
    assert reply.status_code == 200, reply.text
    assert net.usdc.functions.balanceOf(payer.address).call() == 10**7 - 10**4
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
