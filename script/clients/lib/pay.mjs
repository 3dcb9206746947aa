// Facilitator requests as stock clients make them, and the same with something in them changed.
import { authorizationTypes, permit2WitnessTypes, uptoPermit2WitnessTypes, voucherTypes, BATCH_SETTLEMENT_DOMAIN, claimBatchTypes } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { BatchSettlementEvmScheme, computeChannelId } from "@x402/evm/batch-settlement/client";
import { x402Client } from "@x402/core/client";
import { BATCH, CHAIN_ID, NETWORK, NETWORK_V1, PERMIT2, USDC, accountOf } from "./chain.mjs";

export const clone = value => JSON.parse(JSON.stringify(value));
const token = { name: "USD Coin", version: "2" };
const permit2 = { ...token, assetTransferMethod: "permit2" };
const resource = { url: "https://seller.example/paid", description: "conformance", mimeType: "application/json" };

/** A payer of its own, paying one receiver. */
export class Payer {
  constructor(name, receiver, facilitatorAddress, salt) {
    this.account = accountOf(name);
    this.payTo = accountOf(receiver).address;
    this.receiver = accountOf(receiver);
    this.facilitatorAddress = facilitatorAddress;
    this.salt = salt;
  }

  asked(scheme, amount, extra) {
    return { scheme, network: NETWORK, amount, asset: USDC, payTo: this.payTo, maxTimeoutSeconds: 3_600, extra };
  }

  /** What a server asks for, by kind. */
  requirements(kind) {
    const channel = { receiverAuthorizer: this.payTo, withdrawDelay: 900 };
    const v1 = {
      scheme: "exact", network: NETWORK_V1, maxAmountRequired: "10000", resource: resource.url, description: "",
      mimeType: "application/json", payTo: this.payTo, maxTimeoutSeconds: 3_600, asset: USDC, extra: token,
    };
    const kinds = {
      "exact": this.asked("exact", "10000", token),
      "exact-permit2": this.asked("exact", "10000", permit2),
      "exact-v1": v1,
      "upto": this.asked("upto", "10000", { ...permit2, facilitatorAddress: this.facilitatorAddress }),
      "deposit": this.asked("batch-settlement", "10000", { ...token, ...channel }),
      "deposit-permit2": this.asked("batch-settlement", "10000", { ...permit2, ...channel }),
    };
    return clone(kinds[kind]);
  }

  /** Signs what is asked for with the stock client; nothing was deposited before. */
  async sign(requirements, version = 2) {
    const signer = {
      address: this.account.address,
      signTypedData: data => this.account.signTypedData(data),
      readContract: async ({ functionName }) => (functionName === "channels" ? [0n, 0n] : 2n ** 255n),
    };
    const client = new x402Client()
      .register(NETWORK, new ExactEvmScheme(signer))
      .register(NETWORK, new UptoEvmScheme(signer))
      .register(NETWORK, new BatchSettlementEvmScheme(signer, { salt: this.salt }))
      .registerV1(NETWORK_V1, new ExactEvmSchemeV1(signer));
    client.setSpendControls(false);
    return clone(await client.createPaymentPayload({ x402Version: version, resource, accepts: [requirements] }));
  }

  /** A whole request of a kind; `change` is applied to what is asked for before it is signed. */
  async request(kind, change = () => {}) {
    const version = kind === "exact-v1" ? 1 : 2;
    const asked = this.requirements(kind);
    const signed = this.requirements(kind);
    change(signed);
    const paymentPayload = await this.sign(signed, version);
    // Signed for something else, but said to be for what is asked.
    if (version === 2) paymentPayload.accepted = asked;
    return { x402Version: version, paymentPayload, paymentRequirements: clone(asked) };
  }

  /** Signs the authorization in a request anew, after something in it changed. */
  async resign(request, account = this.account) {
    const { payload } = request.paymentPayload;
    const extra = request.paymentRequirements.extra;
    if (payload.authorization) {
      const domain = { name: extra.name, version: extra.version, chainId: CHAIN_ID, verifyingContract: USDC };
      const data = { domain, types: authorizationTypes, primaryType: "TransferWithAuthorization", message: payload.authorization };
      payload.signature = await account.signTypedData(data);
    } else if (payload.permit2Authorization) {
      const { from, ...message } = payload.permit2Authorization;
      const types = message.witness.facilitator ? uptoPermit2WitnessTypes : permit2WitnessTypes;
      const domain = { name: "Permit2", chainId: CHAIN_ID, verifyingContract: PERMIT2 };
      payload.signature = await account.signTypedData({ domain, types, primaryType: "PermitWitnessTransferFrom", message });
    } else {
      const { channelId, maxClaimableAmount } = payload.voucher;
      payload.voucher.signature = await this.voucher(channelId, maxClaimableAmount, account);
    }
    return request;
  }

  voucher(channelId, maxClaimableAmount, account = this.account) {
    const domain = { ...BATCH_SETTLEMENT_DOMAIN, chainId: CHAIN_ID, verifyingContract: BATCH };
    return account.signTypedData({ domain, types: voucherTypes, primaryType: "Voucher", message: { channelId, maxClaimableAmount } });
  }

  /** A voucher on the channel that `deposit` opened. */
  async voucherRequest(deposit, maximum, type = "voucher") {
    const request = clone(deposit);
    const { channelConfig, voucher } = request.paymentPayload.payload;
    const signature = await this.voucher(voucher.channelId, maximum);
    request.paymentPayload.payload = { type, channelConfig, voucher: { channelId: voucher.channelId, maxClaimableAmount: maximum, signature } };
    return request;
  }

  /** What a server's channel manager sends to `/settle`. */
  manager(payload) {
    const minimal = { scheme: "batch-settlement", network: NETWORK, asset: USDC, amount: "0", payTo: this.payTo, maxTimeoutSeconds: 0, extra: {} };
    return { x402Version: 2, paymentPayload: { x402Version: 2, accepted: minimal, payload }, paymentRequirements: clone(minimal) };
  }

  /** A claim of one voucher, signed by the receiver. */
  async claim(voucherRequest, totalClaimed, authorizer = this.receiver) {
    const { channelConfig, voucher } = voucherRequest.paymentPayload.payload;
    const { channelId, maxClaimableAmount, signature } = voucher;
    const domain = { ...BATCH_SETTLEMENT_DOMAIN, chainId: CHAIN_ID, verifyingContract: BATCH };
    const message = { claims: [{ channelId, maxClaimableAmount, totalClaimed }] };
    const claimAuthorizerSignature = await authorizer.signTypedData({ domain, types: claimBatchTypes, primaryType: "ClaimBatch", message });
    const claims = [{ voucher: { channel: channelConfig, maxClaimableAmount }, signature, totalClaimed }];
    return this.manager({ type: "claim", claims, claimAuthorizerSignature });
  }
}

export { computeChannelId };

/** The same signature with the other `s`, which recovers to the same account. */
export function malleated(signature) {
  const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
  const s = order - BigInt(`0x${signature.slice(66, 130)}`);
  const v = signature.slice(130) === "1b" ? "1c" : "1b";
  return signature.slice(0, 66) + s.toString(16).padStart(64, "0") + v;
}
