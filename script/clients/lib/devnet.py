"""The devnet's Base as the Python scripts see it."""

from eth_account import Account
from eth_utils import keccak

NETWORK = "eip155:8453"
NETWORK_V1 = "base"
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


def account_of(name):
    """The account of a key in hex, or that a name stands for; the key of a name is public on purpose."""
    if name.startswith("0x"):
        return Account.from_key(name)
    return Account.from_key(keccak(text=f"quittance clients key, public on purpose: {name}"))
