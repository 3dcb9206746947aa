"""What the scripts of this folder share: programs that they start and end, and a payer that asks a gateway."""

import os
import queue
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path

from x402 import x402ClientSync
from x402.http.clients import x402_requests
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client

from devnet import NETWORK, ROOT

HERE = Path(__file__).parent
# On a machine that is busy with other things.
PATIENCE = 240
# Of a request at a fixed price, in units of USDC.
FIXED_PRICE = 10**4


class Program:
    """A child whose lines are read as they come."""

    def __init__(self, *command, **env):
        self.command = [str(part) for part in command]
        self.lines, self.said = queue.Queue(), []
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "END_WITH_STARTER": "1", **env},
            cwd=ROOT,
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


def ask(net, url, payer, folder, question):
    """Pays a gateway's fixed price as `og-x402` clients do, and asks for individual settlement. The answer's response."""
    client = x402ClientSync()
    register_exact_evm_client(client, EthAccountSigner(payer), networks=[NETWORK])
    session = x402_requests(client)
    # The certificate that the registry has, as the SDK pins it.
    registered = [tee for tee in net.registry.functions.getActiveTEEs(0).call() if tee[2] == url]
    pinned = Path(folder) / "gateway.pem"
    pinned.write_text(ssl.DER_cert_to_PEM_cert(registered[0][4]))
    body = {"model": "canned", "messages": [{"role": "user", "content": question}], "temperature": 0.5}
    reply = session.post(
        f"{url}/fixed/chat/completions", json=body, headers={"X-SETTLEMENT-TYPE": "individual"}, timeout=120, verify=str(pinned)
    )
    assert reply.status_code == 200, reply.text
    return reply
