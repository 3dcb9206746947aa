// Writes keeper/tests/vectors/x402.json: payments as the stock clients sign them, TypeScript here, Python by vectors.py.
// Nonces are random, so the file changes when written anew.
//   vectors.mjs            writes the file, and x402_receipts.json beside it: receipts as the stock library signs them
//   vectors.mjs --receipts writes the receipts alone: nothing in them is random
//   vectors.mjs --check    the digests in it are those of its payments, and their signatures are the payer's; receipts are the same
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { encodePaymentSignatureHeader } from "@x402/core/http";
import { x402Client } from "@x402/core/client";
import { RECEIPT_TYPES, signReceiptEIP712, verifyReceiptSignatureEIP712 } from "@x402/extensions/offer-receipt";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { BatchSettlementEvmScheme, computeChannelId } from "@x402/evm/batch-settlement/client";
import { getAddress, hashTypedData, recoverAddress } from "viem";
import { NETWORK, NETWORK_V1, USDC, accountOf } from "./lib/chain.mjs";
import { HERE, ROOT } from "./lib/child.mjs";

const FILE = `${ROOT}/keeper/tests/vectors/x402.json`;
/** Long enough that no test sees a payment expire. */
const YEARS = 1_900_000_000;
const payer = accountOf("vectors: payer");
const payTo = accountOf("vectors: receiver").address;
const facilitatorAddress = accountOf("vectors: facilitator").address;
const receiverAuthorizer = accountOf("vectors: receiver authorizer").address;

const token = { name: "USD Coin", version: "2" };
const permit2 = { ...token, assetTransferMethod: "permit2" };
const requirements = (scheme, amount, extra) => ({ scheme, network: NETWORK, amount, asset: USDC, payTo, maxTimeoutSeconds: YEARS, extra });
const channel = { receiverAuthorizer, withdrawDelay: 900 };
const resource = { url: "https://seller.example/paid", description: "vector", mimeType: "application/json" };
const KINDS = {
  "exact": requirements("exact", "10000", token),
  "exact-permit2": requirements("exact", "20000", permit2),
  "upto": requirements("upto", "50000", { ...permit2, facilitatorAddress }),
  "deposit": requirements("batch-settlement", "10000", { ...token, ...channel }),
  "deposit-permit2": requirements("batch-settlement", "10000", { ...permit2, ...channel }),
};
const V1 = {
  scheme: "exact", network: NETWORK_V1, maxAmountRequired: "10000", resource: resource.url, description: "vector",
  mimeType: "application/json", payTo, maxTimeoutSeconds: YEARS, asset: USDC, extra: token,
};

let signed = [];
const signer = {
  address: payer.address,
  signTypedData: async data => {
    const digest = hashTypedData(data);
    const signature = await payer.signTypedData(data);
    signed.push({ type: data.primaryType, digest, signature });
    return signature;
  },
  // Nothing was deposited yet, and nothing has to be approved.
  readContract: async ({ functionName }) => (functionName === "channels" ? [0n, 0n] : 2n ** 255n),
};

async function vector(client, name, accepted, version) {
  signed = [];
  const required = { x402Version: version, resource, accepts: [accepted] };
  const payload = await client.createPaymentPayload(required);
  const header = encodePaymentSignatureHeader(payload);
  const request = { x402Version: version, paymentPayload: payload, paymentRequirements: accepted };
  return { name, producer: "@x402/evm 2.27.0", payer: payer.address, header, request, signed };
}

async function typescript() {
  const vectors = [];
  const channels = new BatchSettlementEvmScheme(signer);
  const client = new x402Client()
    .register(NETWORK, new ExactEvmScheme(signer))
    .register(NETWORK, new UptoEvmScheme(signer))
    .register(NETWORK, channels)
    .registerV1(NETWORK_V1, new ExactEvmSchemeV1(signer));
  for (const [name, accepted] of Object.entries(KINDS)) vectors.push(await vector(client, name, accepted, 2));
  vectors.push(await vector(client, "exact-v1", V1, 1));

  // As after that deposit: the channel holds money, so what is signed next is a voucher.
  const config = channels.buildChannelConfig(KINDS.deposit);
  const channelId = computeChannelId(config, NETWORK);
  const context = { balance: "100000", chargedCumulativeAmount: "10000", totalClaimed: "0" };
  const storage = { get: async () => context, set: async () => {}, delete: async () => {} };
  const scheme = new BatchSettlementEvmScheme(signer, { storage });
  const later = new x402Client().register(NETWORK, scheme);
  const voucher = await vector(later, "voucher", KINDS.deposit, 2);
  vectors.push({ ...voucher, channelId });

  // The client asks for a refund over HTTP itself: a seller that only listens.
  signed = [];
  let sent;
  const seller = async (_, init) => {
    sent = new Headers(init?.headers).get("PAYMENT-SIGNATURE");
    if (!sent) {
      const header = Buffer.from(JSON.stringify({ x402Version: 2, resource, accepts: [KINDS.deposit] })).toString("base64");
      return new Response("{}", { status: 402, headers: { "PAYMENT-REQUIRED": header } });
    }
    const settled = { success: true, transaction: `0x${"00".repeat(32)}`, network: NETWORK };
    return new Response("{}", { headers: { "PAYMENT-RESPONSE": Buffer.from(JSON.stringify(settled)).toString("base64") } });
  };
  await scheme.refund(resource.url, { amount: "15000", fetch: seller });
  const paymentPayload = JSON.parse(Buffer.from(sent, "base64").toString());
  const request = { x402Version: 2, paymentPayload, paymentRequirements: KINDS.deposit };
  vectors.push({ name: "refund", producer: "@x402/evm 2.27.0", payer: payer.address, header: sent, request, signed, channelId });
  return vectors;
}

const RECEIPTS = `${ROOT}/keeper/tests/vectors/x402_receipts.json`;

/** Receipts of the extension offer-receipt, one that tells the transaction and one that does not. */
async function receipts() {
  const facilitator = accountOf("vectors: facilitator");
  const list = [];
  for (const transaction of [`0x${"ab".repeat(32)}`, ""]) {
    const payload = { version: 1, network: NETWORK, resourceUrl: resource.url, payer: payer.address, issuedAt: 1_795_300_000, transaction };
    const signature = await signReceiptEIP712(payload, data => facilitator.signTypedData(data));
    const { signer } = await verifyReceiptSignatureEIP712({ format: "eip712", payload, signature });
    list.push({ payload, signature, signer });
  }
  const meta = "Receipts as @x402/extensions 2.27.0 signs them; written by script/clients/vectors.mjs. The key is public and for tests only.";
  return `${JSON.stringify({ meta, types: RECEIPT_TYPES, receipts: list }, null, 1)}\n`;
}

async function check() {
  if (readFileSync(RECEIPTS, "utf8") !== (await receipts())) throw new Error("x402_receipts.json is not what the stock library signs");

  const { vectors } = JSON.parse(readFileSync(FILE, "utf8"));
  let signatures = 0;
  for (const { name, producer, payer: account, header, request, signed: all } of vectors) {
    const carried = JSON.parse(Buffer.from(header, "base64").toString());
    if (JSON.stringify(carried) !== JSON.stringify(request.paymentPayload)) throw new Error(`${producer} ${name}: the header carries another payment`);
    for (const { digest, signature } of all) {
      const recovered = await recoverAddress({ hash: digest, signature });
      if (getAddress(recovered) !== getAddress(account)) throw new Error(`${producer} ${name}: signed by ${recovered}`);
      if (!JSON.stringify(request).includes(signature.slice(2))) throw new Error(`${producer} ${name}: the signature is not in it`);
      signatures += 1;
    }
  }
  console.log(`x402.json: ${vectors.length} payments, ${signatures} signatures hold`);
}

if (process.argv.includes("--check")) await check();
else if (process.argv.includes("--receipts")) writeFileSync(RECEIPTS, await receipts());
else {
  const kinds = JSON.stringify({ kinds: KINDS, v1: V1, resource });
  const python = execFileSync(`${ROOT}/cache/clients/bin/python`, ["-B", `${HERE}/vectors.py`], { input: kinds, encoding: "utf8" });
  const meta = "Payments as the stock x402 clients sign them; written by script/clients/vectors.mjs. Keys are public and for tests only.";
  const vectors = [...(await typescript()), ...JSON.parse(python)];
  writeFileSync(FILE, `${JSON.stringify({ meta, chainId: 8453, payTo, facilitatorAddress, receiverAuthorizer, vectors }, null, 1)}\n`);
  writeFileSync(RECEIPTS, await receipts());
  await check();
}
