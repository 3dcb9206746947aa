// What the demonstration shows of stock x402 clients: a server and a client that know nothing of Quittance but a URL. Pays by
// `exact`, by `upto` and from a channel, sends one payment again and again, and says what came of it as one JSON text.
//   demo.mjs NETWORK_FILE
import { readFileSync } from "node:fs";
import { accountOf } from "./lib/chain.mjs";
import { converse, listening, serve, stopAll, whenLost } from "./lib/child.mjs";

/** How often the same payment is sent again, all at once. */
const AGAIN = 20;
const RECEIVER = "demo: receiver";

/** A channel that is opened, paid from twice, claimed and settled. */
async function channel(buy, manage) {
  const opened = await buy("/channel");
  const vouchers = [await buy("/channel"), await buy("/channel")];
  const [claim] = await manage("claim");
  const settled = await manage("settle");
  return {
    id: opened.payment.extra.channelState.channelId,
    deposited: opened.payment.transaction,
    vouchers: vouchers.map(voucher => voucher.payment.transaction),
    claimed: claim.transaction,
    settled: settled.transaction,
    paid: String(BigInt(opened.payload.accepted.amount) * BigInt(1 + vouchers.length)),
  };
}

async function play(network) {
  const url = network.keeper.url;
  const { privateKey: payer } = network.accounts.find(account => account.role === "x402-payer");
  const server = (await serve("server.mjs", [url, RECEIVER], {}, listening)).value;
  const client = converse("client.mjs", [], { RPC: network.base.rpc, PAYER: payer });
  const buy = async path => {
    const answer = await client.ask({ op: "pay", url: server + path });
    if (answer.status !== 200) throw new Error(`${path}: ${JSON.stringify(answer)}`);
    return answer;
  };
  const manage = async action => {
    const response = await fetch(`${server}/manager/${action}`, { method: "POST" });
    if (!response.ok) throw new Error(`${action}: ${await response.text()}`);
    return response.json();
  };
  const exact = await buy("/exact");
  const request = { x402Version: 2, paymentPayload: exact.payload, paymentRequirements: exact.payload.accepted };
  const body = JSON.stringify(request);
  const again = Array.from({ length: AGAIN }, async () => {
    const response = await fetch(`${url}/settle`, { method: "POST", headers: { "content-type": "application/json" }, body });
    return (await response.json()).transaction;
  });
  const replays = await Promise.all(again);
  const upto = await buy("/upto");
  return {
    payer: accountOf(payer).address,
    receiver: accountOf(RECEIVER).address,
    exact: { transaction: exact.payment.transaction, amount: exact.payload.accepted.amount },
    replays,
    upto: { transaction: upto.payment.transaction, maximum: upto.payload.accepted.amount, amount: upto.payment.amount },
    channel: await channel(buy, manage),
  };
}

try {
  const network = JSON.parse(readFileSync(process.argv[2], "utf8"));
  console.log(JSON.stringify(await Promise.race([play(network), whenLost])));
} finally {
  await stopAll();
}
