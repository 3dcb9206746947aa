"""The Python part of vectors.mjs: reads the offers on standard input, writes the payments on standard output."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from devnet import NETWORK, account_of
from eth_account.messages import _hash_eip191_message, encode_typed_data
from x402 import x402ClientSync
from x402.http.utils import encode_payment_signature_header
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme, BatchSettlementEvmSchemeOptions
from x402.mechanisms.evm.batch_settlement.client.storage import BatchSettlementClientContext
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.mechanisms.evm.upto import UptoEvmClientScheme
from x402.schemas.helpers import parse_payment_required

PRODUCER = "x402 2.25.0 (Python)"


class Signer(EthAccountSigner):
    """Notes what it signs."""

    signed = []

    def sign_typed_data(self, domain, types, primary_type, message):
        signature = super().sign_typed_data(domain, types, primary_type, message)
        domain = domain if isinstance(domain, dict) else {
            "name": domain.name, "version": domain.version,
            "chainId": domain.chain_id, "verifyingContract": domain.verifying_contract,
        }
        plain = {name: [f if isinstance(f, dict) else {"name": f.name, "type": f.type} for f in fields] for name, fields in types.items()}
        digest = _hash_eip191_message(encode_typed_data(domain, plain, message))
        self.signed.append({"type": primary_type, "digest": "0x" + digest.hex().removeprefix("0x"), "signature": "0x" + signature.hex()})
        return signature

    def read_contract(self, address, abi, function_name, *args):
        return (0, 0) if function_name == "channels" else 2**255


SIGNER = Signer(account_of("vectors: payer"))


def client_with(channels):
    client = x402ClientSync()
    register_exact_evm_client(client, SIGNER, NETWORK)
    client.register(NETWORK, UptoEvmClientScheme(SIGNER))
    client.register(NETWORK, channels)
    return client


def vector(client, name, accepted, version, resource):
    SIGNER.signed = []
    required = {"x402Version": version, "accepts": [accepted]} | ({"resource": resource} if version == 2 else {"error": ""})
    payload = client.create_payment_payload(parse_payment_required(json.dumps(required).encode()))
    header = encode_payment_signature_header(payload)
    carried = payload.model_dump(by_alias=True, exclude_none=True)
    request = {"x402Version": version, "paymentPayload": carried, "paymentRequirements": accepted}
    return {"name": name, "producer": PRODUCER, "payer": SIGNER.address, "header": header, "request": request, "signed": SIGNER.signed}


offers = json.load(sys.stdin)
scheme = BatchSettlementEvmScheme(SIGNER, BatchSettlementEvmSchemeOptions(salt="0x" + "00" * 31 + "01"))
client = client_with(scheme)
vectors = [vector(client, name, accepted, 2, offers["resource"]) for name, accepted in offers["kinds"].items()]
vectors.append(vector(client, "exact-v1", offers["v1"], 1, None))


class Funded:
    """As after a deposit: the channel holds money."""

    def get(self, key):
        return BatchSettlementClientContext(balance="100000", charged_cumulative_amount="10000", total_claimed="0")

    def set(self, key, context):
        pass

    def delete(self, key):
        pass


scheme = BatchSettlementEvmScheme(SIGNER, BatchSettlementEvmSchemeOptions(salt="0x" + "00" * 31 + "01", storage=Funded()))
vectors.append(vector(client_with(scheme), "voucher", offers["kinds"]["deposit"], 2, offers["resource"]))
json.dump(vectors, sys.stdout)
