// A stock TypeScript resource server (Express) with a route for every way to pay.
//   server.mjs FACILITATOR_URL RECEIVER_NAME     prints `listening URL`
import express from "express";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/server";
import { declareEip2612GasSponsoringExtension, declareErc20ApprovalGasSponsoringExtension } from "@x402/extensions";
import { bazaarResourceServerExtension, declareDiscoveryExtension } from "@x402/extensions/bazaar";
import { declareOfferReceiptExtension } from "@x402/extensions/offer-receipt";
import { declarePaymentIdentifierExtension, PAYMENT_IDENTIFIER } from "@x402/extensions/payment-identifier";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
import { NETWORK, NETWORK_V1, USDC, accountOf } from "./lib/chain.mjs";

const [url, name] = process.argv.slice(2);
const receiver = accountOf(name);
const payTo = receiver.address;
const facilitator = new HTTPFacilitatorClient({ url });
const channels = new BatchSettlementEvmScheme(payTo, { receiverAuthorizerSigner: receiver });
const resources = new x402ResourceServer(facilitator)
  .register(NETWORK, new ExactEvmScheme())
  .register(NETWORK, new UptoEvmScheme())
  .register(NETWORK, channels)
  .registerExtension(bazaarResourceServerExtension);

const option = (scheme, price) => ({ accepts: { scheme, price, network: NETWORK, payTo } });
const permit2 = amount => ({ amount, asset: USDC, extra: { name: "USD Coin", version: "2", assetTransferMethod: "permit2" } });
// The receipt is the facilitator's: this server signs none.
const extensions = {
  ...declareDiscoveryExtension({
    input: { question: "How high is K2?" },
    inputSchema: { properties: { question: { type: "string" } }, required: ["question"] },
    output: { example: { paid: "/extended" } },
  }),
  ...declareOfferReceiptExtension({ includeTxHash: true }),
  [PAYMENT_IDENTIFIER]: declarePaymentIdentifierExtension(true),
};
const routes = {
  "GET /exact": option("exact", "$0.01"),
  "GET /exact-permit2": option("exact", permit2("20000")),
  "GET /exact-unapproved": { ...option("exact", permit2("20000")), extensions: declareEip2612GasSponsoringExtension() },
  "GET /exact-penniless": { ...option("exact", permit2("20000")), extensions: declareErc20ApprovalGasSponsoringExtension() },
  "GET /extended": { ...option("exact", "$0.01"), description: "Answers", mimeType: "application/json", extensions },
  "GET /extended/:part": { ...option("exact", "$0.01"), extensions },
  "GET /upto": option("upto", "$0.10"),
  "GET /upto-nothing": option("upto", "$0.10"),
  "GET /channel": option("batch-settlement", "$0.01"),
  "GET /channel-permit2": option("batch-settlement", permit2("10000")),
};

const app = express();
const manager = channels.createChannelManager(facilitator, NETWORK);
const manage = work => async (_, response) => {
  try {
    response.json((await work()) ?? {});
  } catch (error) {
    response.status(500).json({ error: error.message });
  }
};
app.post("/manager/claim", manage(() => manager.claim()));
app.post("/manager/settle", manage(() => manager.settle()));

// Version 1 had no server in these packages any more; what its servers sent and took is fixed by its text.
const requirements = {
  scheme: "exact",
  network: NETWORK_V1,
  maxAmountRequired: "10000",
  resource: "http://127.0.0.1/v1/exact",
  description: "",
  mimeType: "application/json",
  payTo,
  maxTimeoutSeconds: 300,
  asset: USDC,
  extra: { name: "USD Coin", version: "2" },
};
app.get("/v1/exact", async (request, response) => {
  const header = request.header("X-PAYMENT");
  const refuse = error => response.status(402).json({ x402Version: 1, error, accepts: [requirements] });
  if (!header) return refuse("X-PAYMENT header is required");
  const payload = JSON.parse(Buffer.from(header, "base64").toString());
  const verified = await facilitator.verify(payload, requirements);
  if (!verified.isValid) return refuse(verified.invalidReason);
  const settled = await facilitator.settle(payload, requirements);
  if (!settled.success) return refuse(settled.errorReason);
  response.setHeader("X-PAYMENT-RESPONSE", Buffer.from(JSON.stringify(settled)).toString("base64"));
  response.json({ paid: "v1" });
});

app.use(paymentMiddleware(routes, resources));
for (const route of Object.keys(routes)) {
  const path = route.split(" ")[1];
  app.get(path, (request, response) => {
    if (path === "/upto") setSettlementOverrides(response, { amount: "12345" });
    if (path === "/upto-nothing") setSettlementOverrides(response, { amount: "0" });
    response.json({ paid: request.path });
  });
}
const server = app.listen(0, "127.0.0.1", () => console.log(`listening http://127.0.0.1:${server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
