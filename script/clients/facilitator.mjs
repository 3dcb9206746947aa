// A stock TypeScript facilitator as its authors show it, with a nonce manager: what the keeper is compared with.
//   facilitator.mjs RPC_URL KEY_NAME [WALLET_FACTORY]     prints `listening URL`
import express from "express";
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import { UptoEvmScheme } from "@x402/evm/upto/facilitator";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/facilitator";
import { EIP2612_GAS_SPONSORING } from "@x402/extensions";
import { createWalletClient, publicActions } from "viem";
import { nonceManager, privateKeyToAccount } from "viem/accounts";
import { Chain, NETWORK, NETWORK_V1, keyOf } from "./lib/chain.mjs";

const [rpc, name, ...eip6492AllowedFactories] = process.argv.slice(2);
const { chain, transport } = new Chain(rpc);
const account = privateKeyToAccount(keyOf(name), { nonceManager });
const client = createWalletClient({ account, chain, transport, pollingInterval: 100 }).extend(publicActions);
const signer = toFacilitatorEvmSigner({
  address: account.address,
  getCode: args => client.getCode(args),
  readContract: args => client.readContract({ ...args, args: args.args || [] }),
  verifyTypedData: args => client.verifyTypedData(args),
  writeContract: args => client.writeContract({ ...args, args: args.args || [] }),
  sendTransaction: args => client.sendTransaction(args),
  waitForTransactionReceipt: args => client.waitForTransactionReceipt(args),
});

const facilitator = new x402Facilitator();
facilitator.register(NETWORK, new ExactEvmScheme(signer, { eip6492AllowedFactories }));
facilitator.register(NETWORK, new UptoEvmScheme(signer));
facilitator.register(NETWORK, new BatchSettlementEvmScheme(signer));
facilitator.registerV1(NETWORK_V1, new ExactEvmSchemeV1(signer));
facilitator.registerExtension(EIP2612_GAS_SPONSORING);

const app = express();
app.use(express.json({ limit: "1mb" }));
const answer = work => async (request, response) => {
  try {
    response.json(await work(request.body));
  } catch (error) {
    response.status(500).json({ error: error instanceof Error ? error.message : "unknown" });
  }
};
app.post("/verify", answer(body => facilitator.verify(body.paymentPayload, body.paymentRequirements)));
app.post("/settle", answer(body => facilitator.settle(body.paymentPayload, body.paymentRequirements)));
app.get("/supported", answer(() => facilitator.getSupported()));
const server = app.listen(0, "127.0.0.1", () => console.log(`listening http://127.0.0.1:${server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
