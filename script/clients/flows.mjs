// Whole paid requests with stock servers and clients; every balance is read from the chain.
//   flows.mjs [--facilitator stock|keeper|URL]... [--only SERVER/CLIENT]... [--all]
// Through the keeper every server and client is played with one of the other language at least, through the stock facilitator
// one pair: that shows that the devnet's contracts do what the libraries expect. --all plays every pair through both.
import { parseArgs } from "node:util";
import { accountOf } from "./lib/chain.mjs";
import { converse, listening, serve, whenLost } from "./lib/child.mjs";
import { withDevnet } from "./lib/devnet.mjs";

const { values } = parseArgs({
  options: {
    facilitator: { type: "string", multiple: true, default: ["stock", "keeper"] },
    only: { type: "string", multiple: true },
    all: { type: "boolean", default: false },
  },
});

const SERVERS = { express: ["server.mjs"], fastapi: ["server.py", "fastapi"], flask: ["server.py", "flask"] };
const CLIENTS = { fetch: ["client.mjs"], httpx: ["client.py", "httpx"], requests: ["client.py", "requests"] };
const ALL = Object.keys(SERVERS).flatMap(server => Object.keys(CLIENTS).map(client => `${server}/${client}`));
const USUAL = ["express/fetch", "express/httpx", "fastapi/fetch", "flask/requests"];
/** Pairs that are played side by side: most of the time they wait for a block. */
const AT_ONCE = 3;
const FUNDS = 10_000_000n;

const started = Date.now();

class Failure extends Error {}
function same(what, actual, expected) {
  const text = value => JSON.stringify(value, (_, item) => (typeof item === "bigint" ? item.toString() : item));
  if (text(actual) !== text(expected)) throw new Failure(`${what}: ${text(actual)}, expected ${text(expected)}`);
}

/** First and last line: between them stands a trace. */
function brief({ message }) {
  const lines = message.trim().split("\n");
  return lines.length === 1 ? message : `${lines[0]} … ${lines.at(-1)}`;
}

/** One server and one client of their own accounts, and what must move between them. */
class Pair {
  constructor(chain, server, client, payer, receiver) {
    Object.assign(this, { chain, server, client, payer, receiver });
  }

  async balances() {
    const [payer, receiver] = await Promise.all([this.payer, this.receiver].map(one => this.chain.balance(one)));
    return { payer, receiver };
  }

  /** Does something and checks what the payer lost and the receiver got. */
  async moving(paid, received, work) {
    const before = await this.balances();
    const result = await work();
    const after = await this.balances();
    same("payer paid", before.payer - after.payer, paid);
    same("receiver got", after.receiver - before.receiver, received);
    return result;
  }

  async buy(path) {
    const answer = await this.client.ask({ op: "pay", url: this.server + path });
    if (answer.status !== 200) throw new Failure(`${path}: ${answer.status} ${JSON.stringify(answer)}`);
    same("body", answer.body?.paid, path.startsWith("/v1") ? "v1" : path);
    same("success", answer.payment?.success, true);
    same("payer", answer.payment.payer?.toLowerCase(), this.payer.toLowerCase());
    return answer;
  }

  /** A payment that the facilitator sends in a transaction of its own. */
  async settled(path, amount) {
    const answer = await this.moving(amount, amount, () => this.buy(path));
    await this.chain.mined(answer.payment.transaction);
    return answer;
  }

  async manage(action) {
    const response = await fetch(`${this.server}/manager/${action}`, { method: "POST" });
    const body = await response.json();
    if (!response.ok) throw new Failure(`manager ${action}: ${JSON.stringify(body)}`);
    return body;
  }
}

const FLOWS = {
  "exact": pair => pair.settled("/exact", 10_000n),
  "exact v1": pair => pair.settled("/v1/exact", 10_000n),
  "exact Permit2": pair => pair.settled("/exact-permit2", 20_000n),
  "exact Permit2, approved by signature": async pair => {
    // Another payer, who has money and never sent a transaction.
    const own = pair.payer;
    await pair.client.ask({ op: "forget", payer: pair.unapproved });
    pair.payer = accountOf(pair.unapproved).address;
    try {
      await pair.settled("/exact-unapproved", 20_000n);
    } finally {
      await pair.client.ask({ op: "forget" });
      pair.payer = own;
    }
  },
  // The stock facilitator here has no signer for this extension, and the Python servers have no such route.
  "exact Permit2, approved by a transaction without gas money": async pair => {
    const own = pair.payer;
    await pair.client.ask({ op: "forget", payer: pair.penniless });
    pair.payer = accountOf(pair.penniless).address;
    try {
      same("wei before", await pair.chain.wei(pair.payer), 0n);
      await pair.settled("/exact-penniless", 20_000n);
      await pair.settled("/exact-penniless", 20_000n);
    } finally {
      await pair.client.ask({ op: "forget" });
      pair.payer = own;
    }
  },
  async upto(pair) {
    const answer = await pair.settled("/upto", 12_345n);
    same("amount", answer.payment.amount, "12345");
    const nothing = await pair.moving(0n, 0n, () => pair.buy("/upto-nothing"));
    same("amount", nothing.payment.amount, "0");
    same("transaction", nothing.payment.transaction, "");
  },
  // Payers of the Python packages are keys.
  async "exact from a contract wallet (ERC-6492, ERC-1271)"(pair) {
    const owner = pair.unapproved;
    const wallet = await pair.chain.smart(owner, pair.factory);
    await pair.chain.mint(wallet.address, 20_000n);
    await pair.client.ask({ op: "forget", payer: owner, factory: pair.factory });
    const own = pair.payer;
    pair.payer = wallet.address;
    try {
      same("deployed", await wallet.isDeployed(), false);
      await pair.settled("/exact", 10_000n);
      same("deployed", await wallet.isDeployed(), true);
      await pair.settled("/exact", 10_000n);
    } finally {
      await pair.client.ask({ op: "forget" });
      pair.payer = own;
    }
  },
  "batch-settlement": pair => channel(pair, "/channel", 1),
  "batch-settlement Permit2": pair => channel(pair, "/channel-permit2", 2),
};

/** Deposit, vouchers, claim, settle, partial refund, full refund, reopening: one channel's life. */
async function channel(pair, path, number) {
  const price = 10_000n;
  const salt = `0x${number.toString(16).padStart(64, "0")}`;
  const forget = () => pair.client.ask({ op: "forget", salt });
  await forget();
  // The first request deposits at least what the server asks for; all of it but the price is left for later ones.
  const before = await pair.balances();
  const opened = await pair.buy(path);
  const { channelId } = opened.payment.extra.channelState;
  const deposited = before.payer - (await pair.balances()).payer;
  same("deposit", (await pair.chain.channel(channelId)).balance, deposited);
  if (deposited < 5n * price) throw new Failure(`deposit ${deposited}`);
  await pair.chain.mined(opened.payment.transaction);

  for (const charged of [2n, 3n]) {
    const answer = await pair.moving(0n, 0n, () => pair.buy(path));
    same("voucher", answer.payment.transaction, "");
    same("charged", answer.payment.extra.channelState.chargedCumulativeAmount, String(charged * price));
  }
  // A client that lost its memory finds its channel on chain and goes on.
  await forget();
  await pair.moving(0n, 0n, () => pair.buy(path));

  const totals = await pair.chain.receiver(pair.receiver);
  const [claim] = await pair.moving(0n, 0n, () => pair.manage("claim"));
  same("vouchers", claim.vouchers, 1);
  await pair.chain.mined(claim.transaction);
  same("claimed", (await pair.chain.channel(channelId)).totalClaimed, 4n * price);
  same("receiver's claims", (await pair.chain.receiver(pair.receiver)).totalClaimed, totals.totalClaimed + 4n * price);
  await pair.moving(0n, 4n * price, () => pair.manage("settle"));

  const part = await pair.moving(-15_000n, 0n, () => pair.client.ask({ op: "refund", url: pair.server + path, amount: "15000" }));
  same("refund", part.payment.success, true);
  same("balance after the refund", (await pair.chain.channel(channelId)).balance, deposited - 15_000n);
  await pair.moving(0n, 0n, () => pair.buy(path));

  // The rest goes back; what was bought and not claimed is claimed with it.
  const rest = deposited - 15_000n - 5n * price;
  await pair.moving(-rest, 0n, () => pair.client.ask({ op: "refund", url: pair.server + path }));
  const closed = await pair.chain.channel(channelId);
  same("claimed at the end", closed.totalClaimed, 5n * price);
  same("left in the channel", closed.balance, closed.totalClaimed);
  await pair.moving(0n, price, () => pair.manage("settle"));

  const again = await pair.balances();
  const reopened = await pair.buy(path);
  same("the same channel", reopened.payment.extra.channelState.channelId.toLowerCase(), channelId.toLowerCase());
  const added = again.payer - (await pair.balances()).payer;
  same("balance after reopening", (await pair.chain.channel(channelId)).balance, 5n * price + added);
  await pair.manage("claim");
  await pair.moving(0n, price, () => pair.manage("settle"));
}

/** Plays every flow with one server and one client. */
async function play({ kind, url, combination, flows }, chain, factory) {
  const [serverName, clientName] = combination.split("/");
  const [script, ...framework] = SERVERS[serverName];
  const [clientScript, ...library] = CLIENTS[clientName];
  const { payer, receiver, unapproved, penniless } = accounts(kind, combination);
  const server = await serve(script, [url, receiver, ...framework], {}, listening);
  const client = converse(clientScript, library, { RPC: chain.rpc, PAYER: payer });
  const pair = new Pair(chain, server.value, client, accountOf(payer).address, accountOf(receiver).address);
  Object.assign(pair, { unapproved, penniless, factory });
  let failures = 0;
  for (const flow of flows) {
    const act = FLOWS[flow];
    const start = Date.now();
    try {
      await Promise.race([act(pair), whenLost]);
      console.log(`ok      ${kind}  ${combination}  ${flow}  ${Date.now() - start} ms`);
    } catch (error) {
      failures += 1;
      console.log(`FAILED  ${kind}  ${combination}  ${flow}: ${brief(error)}`);
    }
  }
  await client.stop();
  await server.stop();
  return failures;
}

/** New ones each time: a devnet may have seen this script before. */
const accounts = (kind, combination) => ({
  payer: `payer of ${kind}/${combination} ${started}`,
  unapproved: `payer of ${kind}/${combination} without approval ${started}`,
  penniless: `payer of ${kind}/${combination} without gas money ${started}`,
  receiver: `receiver of ${kind}/${combination} ${started}`,
});

async function run({ network, chain }) {
  const factory = network.contracts.x402.walletFactory;
  const combinations = {};
  for (const kind of values.facilitator) {
    const usual = kind === "stock" ? ["express/fetch"] : USUAL;
    combinations[kind] = values.only ?? (values.all ? ALL : usual);
  }
  const all = Object.entries(combinations).flatMap(([kind, list]) => list.map(one => accounts(kind, one)));
  await chain.fund(["stock facilitator", ...all.map(one => one.payer)], FUNDS);
  await chain.fund(all.flatMap(one => [one.unapproved, one.penniless]), FUNDS, false);
  const jobs = [];
  for (const [kind, list] of Object.entries(combinations)) {
    let url = kind === "keeper" ? network.keeper.url : kind;
    if (kind === "stock") url = (await serve("facilitator.mjs", [chain.rpc, "stock facilitator", factory], {}, listening)).value;
    for (const combination of list) {
      const typescript = combination === "express/fetch" && kind !== "stock";
      const flows = Object.keys(FLOWS)
        .filter(flow => !flow.includes("wallet") || combination.endsWith("/fetch"))
        .filter(flow => !flow.includes("gas money") || typescript);
      jobs.push({ kind, url, combination, flows });
    }
  }
  let failures = 0;
  const flows = jobs.reduce((sum, job) => sum + job.flows.length, 0);
  const work = async () => {
    for (let job = jobs.shift(); job; job = jobs.shift()) failures += await play(job, chain, factory);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return { flows, failures };
}

const { flows, failures } = await withDevnet(run);
console.log(`flows: ${flows - failures} passed, ${failures} failed in ${((Date.now() - started) / 1000).toFixed(0)} s`);
process.exit(failures === 0 && flows > 0 ? 0 : 1);
