"""The devnet as these scripts see it: its network file, its accounts, its contracts."""

import json
from pathlib import Path

from eth_account import Account
from eth_utils import keccak
from web3 import Web3

ROOT = Path(__file__).resolve().parents[3]
OPG = "0xFbC2051AE2265686a469421b2C5A2D5462FbF5eB"
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
NETWORK = "eip155:8453"
TRANSFER = Web3.keccak(text="Transfer(address,address,uint256)")


def account_of(role):
    """The devnet's account of a role; its key is public on purpose."""
    return Account.from_key(keccak(text=f"quittance devnet key, public on purpose: {role}"))


def abi(name):
    return json.loads((ROOT / "bindings/abi" / f"{name}.json").read_text())["abi"]


class Chain:
    def __init__(self, rpc):
        self.web3 = Web3(Web3.HTTPProvider(rpc, request_kwargs={"timeout": 60}))

    def contract(self, name, address):
        return self.web3.eth.contract(address=Web3.to_checksum_address(address), abi=abi(name))

    def fund(self, account):
        """Gas money out of nothing."""
        self.web3.provider.make_request("anvil_setBalance", [account.address, hex(10**19)])

    def send(self, account, call):
        """Sends a contract call and waits until it is mined."""
        web3 = self.web3
        transaction = call.build_transaction(
            {"from": account.address, "nonce": web3.eth.get_transaction_count(account.address, "pending")}
        )
        sent = web3.eth.send_raw_transaction(account.sign_transaction(transaction).raw_transaction)
        receipt = web3.eth.wait_for_transaction_receipt(sent, timeout=120)
        assert receipt.status == 1, receipt
        return receipt


class Devnet:
    def __init__(self, path):
        network = json.loads(Path(path).read_text())
        self.base = Chain(network["base"]["rpc"])
        self.opengradient = Chain(network["opengradient"]["rpc"])
        self.network = network
        self.keeper = network["keeper"]["url"]
        self.registry_address = Web3.to_checksum_address(network["opengradient"]["teeRegistry"])
        self.registry = self.opengradient.contract("DevTEERegistry", self.registry_address)
        self.inbox = self.opengradient.contract("SettlementInbox", network["opengradient"]["inbox"])
        self.opg = self.base.contract("DevOPG", OPG)
        self.usdc = self.base.contract("DevUSDC", USDC)
