// Extensions of x402 with the stock libraries on both sides: one identifier pays once, the stock verifier takes the facilitator's
// receipt, the stock client finds what was paid for in the catalogue.
//   extensions.mjs
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { x402Client, x402HTTPClient } from "@x402/core/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { withBazaar } from "@x402/extensions/bazaar";
import { extractReceiptFromResponse, verifyReceiptSignatureEIP712 } from "@x402/extensions/offer-receipt";
import { appendPaymentIdentifierToExtensions } from "@x402/extensions/payment-identifier";
import { NETWORK, USDC, accountOf } from "./lib/chain.mjs";
import { ROOT, listening, serve } from "./lib/child.mjs";
import { withDevnet } from "./lib/devnet.mjs";

const PAYER = "extensions: payer";
const RECEIVER = "extensions: receiver";
/** Longest wait for an entry of the catalogue, which is made after the answer. */
const PATIENCE = 120_000;

let failures = 0;
function check(what, holds, found) {
  if (!holds) failures += 1;
  console.log(`${holds ? "ok     " : "FAILED "} extensions  ${what}${holds ? "" : `: ${JSON.stringify(found)}`}`);
}

/** Asks for a resource, signs the payment with this identifier and sends it; `first` sends one that was signed before. */
async function buy(http, url, identifier, first) {
  let payload = first;
  if (!payload) {
    const asked = await fetch(url);
    const required = http.getPaymentRequiredResponse(name => asked.headers.get(name), await asked.json());
    appendPaymentIdentifierToExtensions(required.extensions, identifier);
    payload = await http.createPaymentPayload(required);
  }
  const response = await fetch(url, { headers: http.encodePaymentSignatureHeader(payload) });
  const header = response.headers.get("PAYMENT-RESPONSE");
  const required = response.status === 402 && http.getPaymentRequiredResponse(name => response.headers.get(name), {});
  return { status: response.status, response, payload, settled: header && http.getPaymentSettleResponse(() => header), error: required?.error };
}

async function run({ network, file, chain, dir }) {
  await chain.fund([PAYER], 1_000_000n);
  const receiver = accountOf(RECEIVER).address;
  const server = (await serve("server.mjs", [network.keeper.url, RECEIVER], {}, listening)).value;
  const http = new x402HTTPClient(new x402Client().register(NETWORK, new ExactEvmScheme(accountOf(PAYER))));
  const identifier = `pay_${randomUUID().replaceAll("-", "")}`;

  const paid = await buy(http, `${server}/extended?question=private-question`, identifier);
  check("a payment with all of them is settled", paid.status === 200 && paid.settled?.success, paid);
  const same = { x402Version: 2, paymentPayload: paid.payload, paymentRequirements: paid.payload.accepted };
  const facilitator = new HTTPFacilitatorClient({ url: network.keeper.url });
  // What the header tells the server stays with it.
  const { extensionResponses, ...again } = await facilitator.settle(same.paymentPayload, same.paymentRequirements);
  check("the server is told of its entry", extensionResponses?.bazaar?.status === "processing", extensionResponses);
  check("the same payment gets the first result", JSON.stringify(again) === JSON.stringify(paid.settled), [again, paid.settled]);
  const other = await buy(http, `${server}/extended?question=private-question`, identifier);
  check("another payment with its identifier is refused", other.status === 402 && other.error === "payment_identifier_conflict", other.error);
  const balance = await chain.balance(receiver);
  check("it is paid once", balance === 10_000n, String(balance));

  const receipt = extractReceiptFromResponse(paid.response);
  const { signer, payload } = await verifyReceiptSignatureEIP712(receipt);
  check("the receipt names payment and payer", payload.payer === accountOf(PAYER).address && payload.transaction === paid.settled.transaction && payload.resourceUrl === paid.payload.resource.url && payload.network === NETWORK, payload);
  const hotKey = await chain.public.readContract({
    address: network.base.keeperRegistry,
    abi: [{ type: "function", name: "isHotKey", stateMutability: "view", inputs: [{ type: "bytes32" }, { type: "address" }], outputs: [{ type: "bool" }] }],
    functionName: "isHotKey",
    args: [network.keeper.id, signer],
  });
  check("and is signed by a key that the keeper registered", hotKey, signer);

  const routed = await buy(http, `${server}/extended/private-part`, `pay_${randomUUID()}`);
  check("a route with a parameter is paid", routed.status === 200, routed);
  const { bazaar } = withBazaar(facilitator).extensions;
  const deadline = Date.now() + PATIENCE;
  let list;
  do {
    list = await bazaar.listResources({ type: "http", payTo: receiver });
    if (list.pagination.total < 2) await new Promise(resolve => setTimeout(resolve, 200));
  } while (list.pagination.total < 2 && Date.now() < deadline);
  const urls = list.items.map(item => item.resource).sort();
  check("both resources are in the catalogue, without what was asked", JSON.stringify(urls) === JSON.stringify([`${server}/extended`, `${server}/extended/:part`]), list);
  check("nothing private is kept", !JSON.stringify(list).includes("private-"), list);
  const item = list.items.find(({ resource }) => resource === `${server}/extended`);
  const [accepted] = item?.accepts ?? [];
  check("with what the server says of it", item?.description === "Answers" && item.extensions.bazaar.info.input.method === "GET" && item.extensions.bazaar.info.output.example.paid === "/extended", item);
  check("and what it costs", accepted?.amount === "10000" && accepted.payTo === receiver && accepted.asset === USDC && accepted.extra.name === "USD Coin", item);
  const page = await bazaar.listResources({ payTo: receiver, limit: 1, offset: 1 });
  check("page by page", page.items.length === 1 && page.pagination.total === 2 && page.items[0].resource !== list.items[0].resource, page);
  const none = await bazaar.listResources({ payTo: receiver, scheme: "upto" });
  check("and by scheme", none.items.length === 0 && none.pagination.total === 0, none);

  // The keeper's own receipts of the same payments, by its command line.
  const quittance = (...args) => execFileSync(process.env.QUITTANCE ?? `${ROOT}/target/debug/quittance`, [...args, "--network", file], { encoding: "utf8" });
  const { receipts } = JSON.parse(quittance("receipt", "export", "--rail", "x402", "--payer", accountOf(PAYER).address));
  check("both payments are listed", receipts.length === 2 && receipts.every(({ rail, amount }) => rail === "direct" && amount === "10000"), receipts);
  const files = receipts.map(({ paymentId }) => {
    const path = join(dir, `${paymentId}.json`);
    writeFileSync(path, quittance("receipt", "get", paymentId));
    return path;
  });
  check("their receipt files hold, by themselves and on the chain", quittance("receipt", "verify", ...files).includes("2 receipts: all checks hold"), files);
  return failures;
}

const failed = await withDevnet(run);
console.log(`extensions: ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
