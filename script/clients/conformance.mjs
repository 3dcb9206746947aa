// The keeper's facilitator and the stock TypeScript one, side by side on one chain: the same requests, each with one thing
// changed, must find the same verdict. What both say is kept in conformance.json.
//   conformance.mjs [--write]     --write keeps what they say now; without it, that must be what is kept
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { accountOf } from "./lib/chain.mjs";
import { HERE, listening, serve } from "./lib/child.mjs";
import { withDevnet } from "./lib/devnet.mjs";
import { Payer, clone, computeChannelId, malleated } from "./lib/pay.mjs";

const { values } = parseArgs({ options: { write: { type: "boolean", default: false } } });
const FILE = `${HERE}/conformance.json`;
const OPG = "0xFbC2051AE2265686a469421b2C5A2D5462FbF5eB";
const STRANGER = accountOf("conformance: stranger");
const HUGE = (2n ** 256n).toString();

// ── Changes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const parent = (value, path) => path.slice(0, -1).reduce((at, name) => at[name], value);
const last = path => path[path.length - 1];
/** Sets what stands at a path such as `paymentRequirements.payTo`. */
const set = (where, value) => request => {
  const path = where.split(".");
  parent(request, path)[last(path)] = value;
  return request;
};
const drop = where => request => {
  const path = where.split(".");
  delete parent(request, path)[last(path)];
  return request;
};
/** In what was asked for and in what the payer accepted alike. */
const both = (name, value) => request => {
  set(`paymentRequirements.${name}`, value)(request);
  return set(`paymentPayload.accepted.${name}`, value)(request);
};
const inPayload = (where, value) => set(`paymentPayload.payload.${where}`, value);
const all = (...changes) => request => changes.reduce((changed, change) => change(changed), request);

/** What can be wrong with any request. */
const WIRE = {
  "version unknown": all(set("x402Version", 3), set("paymentPayload.x402Version", 3)),
  "payment missing": drop("paymentPayload"),
  "requirements missing": drop("paymentRequirements"),
  "payload missing": drop("paymentPayload.payload"),
  "payload null": set("paymentPayload.payload", null),
  "payload a list": set("paymentPayload.payload", []),
  "payload a text": set("paymentPayload.payload", "0x"),
  "scheme missing": drop("paymentRequirements.scheme"),
  "amount missing": drop("paymentRequirements.amount"),
  "receiver missing": drop("paymentRequirements.payTo"),
  "asset missing": drop("paymentRequirements.asset"),
  "network missing": drop("paymentRequirements.network"),
};

/** What can be wrong with what is asked for, whoever signs what. */
const ASKED = {
  "scheme unknown": both("scheme", "exactly"),
  "scheme differs": set("paymentRequirements.scheme", "exactly"),
  "network unknown": both("network", "eip155:999"),
  "network of another kind": both("network", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"),
  "network malformed": both("network", "eip155:"),
  "network differs": set("paymentPayload.accepted.network", "eip155:1"),
  "receiver differs": set("paymentRequirements.payTo", STRANGER.address),
  "receiver malformed": both("payTo", "0x1234"),
  "asset differs": both("asset", OPG),
  "asset without code": both("asset", STRANGER.address),
  "asset malformed": both("asset", "USDC"),
  "amount huge": both("amount", HUGE),
  "amount negative": both("amount", "-1"),
  "amount not a number": both("amount", "ten"),
  "amount with a point": both("amount", "1.5"),
};

const SIGNATURE = {
  "signature of zeros": inPayload("signature", `0x${"00".repeat(65)}`),
  "signature empty": inPayload("signature", "0x"),
  "signature short": inPayload("signature", `0x${"11".repeat(32)}`),
  "signature no hex": inPayload("signature", "signature"),
  "signature missing": drop("paymentPayload.payload.signature"),
  "signature with the other s": request => inPayload("signature", malleated(request.paymentPayload.payload.signature))(request),
};

const now = () => Math.floor(Date.now() / 1000);

/** By kind: changes of the finished request, and changes after which the payer signs again. */
const KINDS = {
  "exact": {
    stricter: ["value a number"],
    changed: {
      ...WIRE, ...ASKED, ...SIGNATURE,
      "amount differs": set("paymentRequirements.amount", "10001"),
      "domain missing": both("extra", {}),
      "domain's name differs": both("extra", { name: "USDC", version: "2" }),
      "domain's version differs": both("extra", { name: "USD Coin", version: "1" }),
      "authorization missing": drop("paymentPayload.payload.authorization"),
      "authorization's value missing": drop("paymentPayload.payload.authorization.value"),
      "value changed": inPayload("authorization.value", "9999"),
      "value a number": inPayload("authorization.value", 10000),
      "nonce changed": inPayload("authorization.nonce", `0x${"11".repeat(32)}`),
      "nonce short": inPayload("authorization.nonce", "0x11"),
      "payer changed": inPayload("authorization.from", STRANGER.address),
      "payer malformed": inPayload("authorization.from", "0x"),
    },
    signed: {
      "value signed lower": inPayload("authorization.value", "9999"),
      "value signed higher": inPayload("authorization.value", "10001"),
      "receiver signed differs": inPayload("authorization.to", STRANGER.address),
      "expired": inPayload("authorization.validBefore", "1700000000"),
      "expires at once": request => inPayload("authorization.validBefore", String(now() + 2))(request),
      "not yet valid": request => inPayload("authorization.validAfter", String(now() + 3_000))(request),
      "never expires": inPayload("authorization.validBefore", String(2n ** 256n - 1n)),
    },
  },
  "exact-v1": {
    changed: {
      ...SIGNATURE,
      "version unknown": all(set("x402Version", 3), set("paymentPayload.x402Version", 3)),
      "payload missing": drop("paymentPayload.payload"),
      "scheme differs": set("paymentPayload.scheme", "upto"),
      "network unknown": all(set("paymentRequirements.network", "atlantis"), set("paymentPayload.network", "atlantis")),
      "network differs": set("paymentPayload.network", "base-sepolia"),
      "amount differs": set("paymentRequirements.maxAmountRequired", "10001"),
      "receiver differs": set("paymentRequirements.payTo", STRANGER.address),
      "asset without code": set("paymentRequirements.asset", STRANGER.address),
      "domain missing": drop("paymentRequirements.extra"),
      "amount huge": set("paymentRequirements.maxAmountRequired", HUGE),
      "value changed": inPayload("authorization.value", "9999"),
    },
    signed: {
      "receiver signed differs": inPayload("authorization.to", STRANGER.address),
      "expired": inPayload("authorization.validBefore", "1700000000"),
      "not yet valid": request => inPayload("authorization.validAfter", String(now() + 3_000))(request),
    },
  },
  "exact-permit2": {
    changed: {
      ...ASKED, ...SIGNATURE,
      "amount differs": set("paymentRequirements.amount", "10001"),
      "permit missing": drop("paymentPayload.payload.permit2Authorization"),
      "witness missing": drop("paymentPayload.payload.permit2Authorization.witness"),
      "nonce changed": inPayload("permit2Authorization.nonce", "7"),
      "payer changed": inPayload("permit2Authorization.from", STRANGER.address),
    },
    signed: {
      "amount signed lower": inPayload("permit2Authorization.permitted.amount", "9999"),
      "amount signed higher": inPayload("permit2Authorization.permitted.amount", "10001"),
      "token signed differs": inPayload("permit2Authorization.permitted.token", OPG),
      "receiver signed differs": inPayload("permit2Authorization.witness.to", STRANGER.address),
      "spender signed differs": inPayload("permit2Authorization.spender", STRANGER.address),
      "expired": inPayload("permit2Authorization.deadline", "1700000000"),
      "not yet valid": request => inPayload("permit2Authorization.witness.validAfter", String(now() + 3_000))(request),
    },
  },
  "upto": {
    changed: {
      ...ASKED, ...SIGNATURE,
      "permit missing": drop("paymentPayload.payload.permit2Authorization"),
      "payer changed": inPayload("permit2Authorization.from", STRANGER.address),
    },
    signed: {
      "amount signed lower": inPayload("permit2Authorization.permitted.amount", "9999"),
      "token signed differs": inPayload("permit2Authorization.permitted.token", OPG),
      "receiver signed differs": inPayload("permit2Authorization.witness.to", STRANGER.address),
      "facilitator signed differs": inPayload("permit2Authorization.witness.facilitator", STRANGER.address),
      "spender signed differs": inPayload("permit2Authorization.spender", STRANGER.address),
      "expired": inPayload("permit2Authorization.deadline", "1700000000"),
      "not yet valid": request => inPayload("permit2Authorization.witness.validAfter", String(now() + 3_000))(request),
    },
  },
  "deposit": {
    stricter: ["amount huge", "amount negative", "amount not a number", "amount with a point"],
    changed: {
      ...ASKED,
      "channel id differs": inPayload("voucher.channelId", `0x${"11".repeat(32)}`),
      "channel's token differs": inPayload("channelConfig.token", OPG),
      "delay out of range": inPayload("channelConfig.withdrawDelay", 60),
      "authorization missing": inPayload("deposit.authorization", {}),
      "authorization's signature": inPayload("deposit.authorization.erc3009Authorization.signature", `0x${"11".repeat(65)}`),
      "authorization expired": inPayload("deposit.authorization.erc3009Authorization.validBefore", "1700000000"),
      "deposit's amount changed": inPayload("deposit.amount", "60000"),
      "voucher's signature": inPayload("voucher.signature", `0x${"11".repeat(65)}`),
      "voucher missing": drop("paymentPayload.payload.voucher"),
      "type unknown": inPayload("type", "gift"),
    },
    signed: {
      "voucher above the deposit": inPayload("voucher.maxClaimableAmount", "99999999"),
      "voucher of nothing": inPayload("voucher.maxClaimableAmount", "0"),
    },
  },
  "deposit-permit2": {
    changed: {
      "authorization's signature": inPayload("deposit.authorization.permit2Authorization.signature", `0x${"11".repeat(65)}`),
      "authorization expired": inPayload("deposit.authorization.permit2Authorization.deadline", "1700000000"),
      "spender differs": inPayload("deposit.authorization.permit2Authorization.spender", STRANGER.address),
      "amount differs": inPayload("deposit.authorization.permit2Authorization.permitted.amount", "60000"),
      "witness differs": inPayload("deposit.authorization.permit2Authorization.witness.channelId", `0x${"11".repeat(32)}`),
    },
    signed: {},
  },
};

/** Bodies that are no request at all. */
const BODIES = {
  "empty": "",
  "cut off": '{"x402Version":2,"paymentPayload":{',
  "a list": "[]",
  "null": "null",
  "a number": "1",
  "nested deeply": `${"[".repeat(5_000)}${"]".repeat(5_000)}`,
  "no object inside": '{"x402Version":2,"paymentPayload":1,"paymentRequirements":2}',
};

// ── Verdicts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What a facilitator made of a request: accepted, or refused with its word for why. */
async function ask(url, path, body) {
  const response = await fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const text = await response.text();
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // Not every error page is JSON.
  }
  const accepted = response.status === 200 && (path === "/verify" ? answer?.isValid : answer?.success) === true;
  const reason = answer?.invalidReason ?? answer?.errorReason;
  return { accepted, status: response.status, reason, answer };
}

/** How a verdict is written down: no text that contains addresses, amounts or a library's wording. */
function written({ accepted, status, reason }) {
  if (accepted) return "accepted";
  if (status !== 200) return `HTTP ${status}`;
  return /^[a-z0-9_]+$/.test(reason ?? "") ? reason : "raw revert text";
}

class Matrix {
  rows = {};
  problems = [];

  constructor(facilitators) {
    this.facilitators = facilitators;
  }

  /** Asks both; `body` makes the request for one of them. `different` says why their verdicts may differ. */
  async row(name, path, body, different) {
    const answers = {};
    for (const [who, { url }] of Object.entries(this.facilitators)) {
      answers[who] = await ask(url, path, await body(who));
    }
    this.note(name, answers, different);
    return answers;
  }

  note(name, answers, different) {
    const { stock, keeper } = answers;
    if (!different && stock.accepted !== keeper.accepted) {
      this.problems.push(`${name}: stock ${written(stock)}, keeper ${written(keeper)} ${JSON.stringify(keeper.answer)}`);
    }
    if (!keeper.accepted && (keeper.status !== 200 || !/^[a-z0-9_]+$/.test(keeper.reason ?? ""))) {
      this.problems.push(`${name}: the keeper gives no reason: ${keeper.status} ${JSON.stringify(keeper.answer)}`);
    }
    this.rows[name] = { stock: written(stock), keeper: written(keeper), ...(different ? { different } : {}) };
  }
}

// ── The matrix ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const STRICT = "the keeper takes amounts as the protocol writes them only: whole numbers as decimal text";

async function verdicts(matrix, payers) {
  for (const [name, body] of Object.entries(BODIES)) {
    for (const path of ["/verify", "/settle"]) await matrix.row(`${path} body: ${name}`, path, () => body);
  }
  for (const [kind, { changed, signed, stricter = [] }] of Object.entries(KINDS)) {
    await matrix.row(`/verify ${kind}: valid`, "/verify", who => payers[who].request(kind));
    for (const [name, change] of Object.entries(changed)) {
      await matrix.row(`/verify ${kind}: ${name}`, "/verify", async who => change(await payers[who].request(kind)), stricter.includes(name) && STRICT);
    }
    for (const [name, change] of Object.entries(signed)) {
      const body = async who => payers[who].resign(change(await payers[who].request(kind)));
      await matrix.row(`/verify ${kind}: ${name}`, "/verify", body);
    }
    // Nothing of a refused payment is sent: neither by one nor by the other.
    await matrix.row(`/settle ${kind}: of a payer without money`, "/settle", who => payers[`${who} poor`].request(kind));
  }
}

const REPLAY = "the keeper answers a payment that it settled with that settlement";

async function settlements(matrix, payers) {
  for (const kind of ["exact", "exact-v1", "exact-permit2", "upto"]) {
    const requests = {};
    for (const who of Object.keys(matrix.facilitators)) requests[who] = await payers[who].request(kind);
    const first = await matrix.row(`/settle ${kind}: valid`, "/settle", who => requests[who]);
    const again = await matrix.row(`/settle ${kind}: again`, "/settle", who => requests[who], REPLAY);
    if (again.keeper.answer?.transaction !== first.keeper.answer?.transaction) {
      matrix.problems.push(`/settle ${kind}: again: another transaction`);
    }
    await matrix.row(`/verify ${kind}: settled before`, "/verify", who => requests[who]);
  }
  const above = async who => set("paymentRequirements.amount", "10001")(await payers[who].request("upto"));
  await matrix.row("/settle upto: more than permitted", "/settle", above);
  const less = async who => set("paymentRequirements.amount", "4321")(await payers[who].request("upto"));
  await matrix.row("/settle upto: less than permitted", "/settle", less);
}

const CLAIMED = "the keeper answers a claim that adds nothing without a transaction";

async function channels(matrix, payers) {
  const deposits = {};
  for (const who of Object.keys(matrix.facilitators)) deposits[who] = await payers[who].request("deposit");
  await matrix.row("/settle deposit: valid", "/settle", who => deposits[who]);
  await matrix.row("/settle deposit: again", "/settle", who => deposits[who], REPLAY);
  const voucher = maximum => who => payers[who].voucherRequest(deposits[who], maximum);
  await matrix.row("/verify voucher: valid", "/verify", voucher("20000"));
  const changes = {
    "signature": inPayload("voucher.signature", `0x${"11".repeat(65)}`),
    "amount changed": inPayload("voucher.maxClaimableAmount", "30000"),
    "channel id differs": inPayload("voucher.channelId", `0x${"11".repeat(32)}`),
    "delay differs": inPayload("channelConfig.withdrawDelay", 901),
    "token differs": inPayload("channelConfig.token", OPG),
    "receiver differs": set("paymentRequirements.payTo", STRANGER.address),
    "authorizer differs": both("extra", { name: "USD Coin", version: "2", receiverAuthorizer: STRANGER.address, withdrawDelay: 900 }),
    "network unknown": both("network", "eip155:999"),
    "voucher missing": drop("paymentPayload.payload.voucher"),
    "configuration missing": drop("paymentPayload.payload.channelConfig"),
  };
  for (const [name, change] of Object.entries(changes)) {
    await matrix.row(`/verify voucher: ${name}`, "/verify", async who => change(await voucher("20000")(who)));
  }
  await matrix.row("/verify voucher: above the balance", "/verify", voucher("99999999"));
  await matrix.row("/verify voucher: of nothing", "/verify", voucher("0"));
  await matrix.row("/settle voucher", "/settle", voucher("20000"));
  const unopened = async who => {
    const other = new Payer(`conformance: payer of ${who}`, `conformance: receiver of ${who}`, undefined, `0x${"22".repeat(32)}`);
    return other.voucherRequest(await other.request("deposit"), "20000");
  };
  await matrix.row("/verify voucher: of no channel", "/verify", unopened);

  const refund = maximum => who => payers[who].voucherRequest(deposits[who], maximum, "refund");
  await matrix.row("/verify refund: valid", "/verify", refund("10000"));
  await matrix.row("/verify refund: above the balance", "/verify", refund("99999999"));
  const settle = who => payers[who].manager({ type: "settle", receiver: payers[who].payTo, token: deposits[who].paymentRequirements.asset });
  await matrix.row("/settle settle: nothing claimed", "/settle", settle);
  const claims = {};
  for (const who of Object.keys(matrix.facilitators)) claims[who] = await payers[who].claim(await voucher("20000")(who), "20000");
  const forged = async who => payers[who].claim(await voucher("20000")(who), "20000", STRANGER);
  await matrix.row("/settle claim: signed by a stranger", "/settle", forged);
  const greedy = async who => payers[who].claim(await voucher("20000")(who), "20001");
  await matrix.row("/settle claim: more than the voucher", "/settle", greedy);
  await matrix.row("/settle claim: valid", "/settle", who => claims[who]);
  await matrix.row("/settle claim: again", "/settle", who => claims[who], CLAIMED);
  await matrix.row("/verify voucher: below what was claimed", "/verify", voucher("15000"));
  await matrix.row("/settle settle: what was claimed", "/settle", settle);
}

/** The same payment fifty times at once: paid once, and by the keeper with one transaction. */
async function crowd(matrix, payers, chain) {
  for (const kind of ["exact", "exact-permit2", "upto"]) {
    const request = await payers.keeper.request(kind);
    const before = await chain.balance(payers.keeper.payTo);
    const answers = await Promise.all(Array.from({ length: 50 }, () => ask(matrix.facilitators.keeper.url, "/settle", request)));
    const moved = (await chain.balance(payers.keeper.payTo)) - before;
    const transactions = new Set(answers.map(({ answer }) => answer?.transaction));
    const accepted = answers.filter(answer => answer.accepted).length;
    if (accepted !== 50 || transactions.size !== 1 || moved !== 10_000n) {
      matrix.problems.push(`${kind}, 50 at once: ${accepted} accepted, ${transactions.size} transactions, ${moved} units paid`);
    }
    matrix.rows[`/settle ${kind}: 50 at once`] = { keeper: `${accepted} accepted, ${transactions.size} transaction, paid once` };
  }
}

async function run({ network, chain }) {
  const roles = ["stock", "keeper"].flatMap(who => [`conformance: payer of ${who}`]);
  await chain.fund(["conformance: stock facilitator", ...roles], 1_000_000_000n);
  const stock = await serve("facilitator.mjs", [network.base.rpc, "conformance: stock facilitator"], {}, listening);
  const facilitators = { stock: { url: stock.value }, keeper: { url: process.env.FACILITATOR === "stock" ? stock.value : network.keeper.url } };
  const payers = {};
  for (const [who, facilitator] of Object.entries(facilitators)) {
    const { kinds } = await (await fetch(`${facilitator.url}/supported`)).json();
    const address = kinds.find(kind => kind.scheme === "upto")?.extra?.facilitatorAddress;
    payers[who] = new Payer(`conformance: payer of ${who}`, `conformance: receiver of ${who}`, address);
    payers[`${who} poor`] = new Payer(`conformance: poor payer of ${who}`, `conformance: receiver of ${who}`, address);
  }
  const matrix = new Matrix(facilitators);
  await verdicts(matrix, payers);
  await settlements(matrix, payers);
  await channels(matrix, payers);
  await crowd(matrix, payers, chain);
  return matrix;
}

const matrix = await withDevnet(run);
const lines = Object.entries(matrix.rows).map(([name, row]) => `${JSON.stringify(name)}: ${JSON.stringify(row)}`);
const text = `{\n${lines.join(",\n")}\n}\n`;
if (values.write) writeFileSync(FILE, text);
else if (readFileSync(FILE, "utf8") !== text) {
  const kept = JSON.parse(readFileSync(FILE, "utf8"));
  for (const name of new Set([...Object.keys(kept), ...Object.keys(matrix.rows)])) {
    const [was, is] = [kept[name], matrix.rows[name]].map(row => JSON.stringify(row));
    if (was !== is) matrix.problems.push(`${name}: ${is}, conformance.json has ${was}`);
  }
}
for (const problem of matrix.problems) console.log(`FAILED  ${problem}`);
const count = Object.keys(matrix.rows).length;
console.log(`conformance: ${count} requests, ${matrix.problems.length} problems`);
process.exit(matrix.problems.length === 0 && count > 100 ? 0 : 1);
