"""A user of the real `opengradient` SDK: approves Permit2, finds the gateway in OpenGradient's registry, pins its certificate, pays
and asks. The SDK takes Base's endpoint from BASE_MAINNET_RPC.

sdk.py RPC REGISTRY QUESTION      key in PAYER_KEY; prints one line of JSON
"""

import asyncio
import json
import os
import sys

import opengradient as og

RPC, REGISTRY, QUESTION = sys.argv[1:]


async def main():
    llm = og.LLM(private_key=os.environ["PAYER_KEY"], rpc_url=RPC, tee_registry_address=REGISTRY)
    approval = llm.ensure_opg_approval(min_allowance=0.5)
    mode = og.x402SettlementMode.BATCH_HASHED
    messages = [{"role": "user", "content": QUESTION}]
    result = await llm.chat(model=next(iter(og.TEE_LLM)), messages=messages, max_tokens=64, x402_settlement_mode=mode)
    await llm.close()
    print(
        json.dumps(
            {
                "allowance": str(approval.allowance_after),
                "output": result.chat_output["content"],
                "teeId": result.tee_id,
                "timestamp": result.tee_timestamp,
                "signature": result.tee_signature,
                "paymentAddress": result.tee_payment_address,
            }
        )
    )


asyncio.run(main())
