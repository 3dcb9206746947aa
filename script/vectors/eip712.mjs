#!/usr/bin/env node
// Golden vectors of everything that payers and nodes sign or hash, made with ethers, independently of our own code.
// Writes test/vectors/eip712.json; with --check compares it instead. Deterministic: fixed key, RFC 6979 nonces.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { AbiCoder, SigningKey, TypedDataEncoder, Wallet, Signature, keccak256, solidityPacked, toUtf8Bytes } from "ethers";

const target = fileURLToPath(new URL("../../test/vectors/eip712.json", import.meta.url));
const coder = AbiCoder.defaultAbiCoder();
const label = (text) => keccak256(toUtf8Bytes(text));
const ZERO32 = "0x" + "00".repeat(32);
const MAX32 = "0x" + "ff".repeat(32);
const max = (bits) => ((1n << BigInt(bits)) - 1n).toString();

// A test key that has never held anything.
const privateKey = label("quittance test key");
const key = new SigningKey(privateKey);
const signer = new Wallet(privateKey).address;

const escrow = "0x1111111111111111111111111111111111111111";
const ledger = "0x2222222222222222222222222222222222222222";
const domain = (chainId, verifyingContract) => ({ name: "Quittance", version: "1", chainId, verifyingContract });
const token = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";

const types = {
  Order: [
    ["address", "payer"], ["address", "token"], ["uint128", "maxAmount"], ["bytes32", "requestCommit"],
    ["bytes32", "nodeScope"], ["bytes32", "keeperId"], ["uint40", "validAfter"], ["uint40", "validBefore"],
    ["uint40", "captureDeadline"], ["uint256", "nonce"],
  ],
  Lock: [
    ["address", "payer"], ["address", "token"], ["bytes32", "keeperId"], ["uint128", "amount"], ["uint40", "until"],
    ["uint256", "nonce"],
  ],
  Meter: [["bytes32", "settlementId"], ["bytes32", "paymentId"], ["uint128", "offset"], ["uint128", "amount"]],
};
const receiptMembers = [
  ["uint8", "rail"], ["bytes32", "paymentId"], ["address", "payer"], ["address", "token"], ["uint128", "offset"],
  ["uint128", "amount"], ["bytes32", "nodeId"], ["uint32", "nodeVersion"], ["bytes32", "requestHash"],
  ["bytes32", "blinding"], ["bytes32", "outputHash"], ["uint40", "timestamp"], ["bytes32", "salt"],
];
const named = (members) => members.map(([type, name]) => ({ type, name }));

function typed(primaryType, chainId, verifyingContract, message) {
  const fields = { [primaryType]: named(types[primaryType]) };
  const encoder = TypedDataEncoder.from(fields);
  const separator = domain(chainId, verifyingContract);
  const digest = TypedDataEncoder.hash(separator, fields, message);
  const signature = Signature.from(key.sign(digest));
  return {
    chainId,
    verifyingContract,
    domainSeparator: TypedDataEncoder.hashDomain(separator),
    typeString: encoder.encodeType(primaryType),
    typeHash: label(encoder.encodeType(primaryType)),
    message,
    structHash: TypedDataEncoder.hashStruct(primaryType, fields, message),
    digest,
    signature: signature.serialized,
    r: signature.r,
    vs: signature.yParityAndS,
  };
}

const requestCommit = (requestHash, blinding) => keccak256(coder.encode(["bytes32", "bytes32"], [requestHash, blinding]));
const messageHash = (requestHash, outputHash, timestamp) =>
  keccak256(solidityPacked(["bytes32", "bytes32", "uint256"], [requestHash, outputHash, timestamp]));
const settlementId = (nodeId, message) => keccak256(coder.encode(["bytes32", "bytes32"], [nodeId, message]));

const commits = [
  { requestHash: label("a public request"), blinding: ZERO32 },
  { requestHash: label("a private request"), blinding: label("a secret") },
  { requestHash: ZERO32, blinding: ZERO32 },
].map((entry) => ({ ...entry, requestCommit: requestCommit(entry.requestHash, entry.blinding) }));

const orderMessages = [
  {
    payer: signer, token, maxAmount: "250000", requestCommit: commits[0].requestCommit, nodeScope: ZERO32,
    keeperId: label("keeper"), validAfter: "1800000000", validBefore: "1800003600", captureDeadline: "1800007200", nonce: "0",
  },
  {
    payer: signer, token, maxAmount: "1", requestCommit: commits[1].requestCommit, nodeScope: label("node"),
    keeperId: ZERO32, validAfter: "1", validBefore: "2", captureDeadline: "3", nonce: "256",
  },
  {
    payer: signer, token, maxAmount: max(128), requestCommit: MAX32, nodeScope: MAX32, keeperId: MAX32,
    validAfter: max(40), validBefore: max(40), captureDeadline: max(40), nonce: max(256),
  },
];
const orders = [
  typed("Order", 8453, escrow, orderMessages[0]),
  typed("Order", 8453, escrow, orderMessages[1]),
  typed("Order", 8453, escrow, orderMessages[2]),
  typed("Order", 84532, escrow, orderMessages[0]),
  typed("Order", 8453, ledger, orderMessages[0]),
];
const locks = [
  { payer: signer, token, keeperId: label("keeper"), amount: "10000000", until: "1800600000", nonce: "0" },
  { payer: signer, token, keeperId: MAX32, amount: max(128), until: max(40), nonce: max(256) },
].map((message) => typed("Lock", 8453, escrow, message));

const inferences = [
  { nodeId: label("node"), requestHash: commits[0].requestHash, outputHash: label("an answer"), timestamp: "1800000100" },
  { nodeId: label("other node"), requestHash: commits[1].requestHash, outputHash: label("another"), timestamp: max(40) },
].map((entry) => {
  const message = messageHash(entry.requestHash, entry.outputHash, entry.timestamp);
  return { ...entry, messageHash: message, settlementId: settlementId(entry.nodeId, message) };
});

const meters = [
  { settlementId: inferences[0].settlementId, paymentId: orders[0].digest, offset: "0", amount: "123456" },
  { settlementId: MAX32, paymentId: MAX32, offset: max(128), amount: max(128) },
].map((message) => typed("Meter", 8453, ledger, message));

const receipts = [
  {
    rail: "1", paymentId: orders[0].digest, payer: signer, token, offset: "0", amount: "123456",
    nodeId: inferences[0].nodeId, nodeVersion: "1", requestHash: inferences[0].requestHash, blinding: ZERO32,
    outputHash: inferences[0].outputHash, timestamp: inferences[0].timestamp, salt: keccak256(meters[0].signature),
  },
  {
    rail: "255", paymentId: MAX32, payer: escrow, token: ledger, offset: max(128), amount: max(128),
    nodeId: inferences[1].nodeId, nodeVersion: max(32), requestHash: inferences[1].requestHash,
    blinding: commits[1].blinding, outputHash: inferences[1].outputHash, timestamp: max(40),
    salt: keccak256(meters[1].signature),
  },
].map((message) => {
  const abiEncoded = coder.encode(receiptMembers.map(([type]) => type), receiptMembers.map(([, name]) => message[name]));
  const id = settlementId(message.nodeId, messageHash(message.requestHash, message.outputHash, message.timestamp));
  return { message, abiEncoded, receiptHash: keccak256(abiEncoded), settlementId: id };
});

const text = JSON.stringify(
  { privateKey, signer, escrow, ledger, requestCommits: commits, orders, locks, meters, inferences, receipts },
  null,
  2,
) + "\n";

if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("test/vectors/eip712.json differs from what script/vectors/eip712.mjs makes; run it without --check");
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
