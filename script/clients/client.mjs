// A stock TypeScript client: a line of JSON says what to buy, a line of JSON says what came of it.
//   RPC=URL PAYER=NAME client.mjs
import { createInterface } from "node:readline";
import { toClientEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { Chain, NETWORK, NETWORK_V1, accountOf } from "./lib/chain.mjs";

const chain = new Chain(process.env.RPC);
let sent = null;

/** A client as after a start: it remembers no channel. Another salt makes another channel; with `factory` a contract wallet pays. */
async function fresh({ payer = process.env.PAYER, salt, factory }) {
  const account = factory ? await chain.smart(payer, factory) : accountOf(payer);
  const signer = toClientEvmSigner(account, chain.public);
  const channels = new BatchSettlementEvmScheme(signer, { salt });
  const client = new x402Client()
    .register(NETWORK, new ExactEvmScheme(signer, { rpcUrl: chain.rpc }))
    .register(NETWORK, new UptoEvmScheme(signer))
    .register(NETWORK, channels)
    .registerV1(NETWORK_V1, new ExactEvmSchemeV1(account));
  const watched = (input, init) => {
    const request = new Request(input, init);
    sent = request.headers.get("PAYMENT-SIGNATURE") ?? request.headers.get("X-PAYMENT") ?? sent;
    return fetch(request);
  };
  return { channels, pay: wrapFetchWithPayment(watched, client) };
}

let client = await fresh({});

async function perform(request) {
  switch (request.op) {
    case "pay": {
      sent = null;
      const response = await client.pay(request.url);
      const refused = response.status === 402 && response.headers.get("PAYMENT-REQUIRED");
      const header = response.headers.get("PAYMENT-RESPONSE") ?? response.headers.get("X-PAYMENT-RESPONSE");
      return {
        status: response.status,
        error: refused ? JSON.parse(Buffer.from(refused, "base64").toString()).error : undefined,
        body: await response.json().catch(() => null),
        payment: header && decodePaymentResponseHeader(header),
        payload: sent && JSON.parse(Buffer.from(sent, "base64").toString()),
      };
    }
    case "refund":
      return { payment: await client.channels.refund(request.url, request.amount ? { amount: request.amount } : {}) };
    case "forget":
      client = await fresh(request);
      return {};
    default:
      throw new Error(`unknown: ${request.op}`);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await perform(JSON.parse(line)).catch(error => ({ failed: error.stack ?? String(error) }));
  console.log(JSON.stringify(answer));
}
