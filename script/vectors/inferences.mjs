// Makes test/vectors/inferences.json: completions as OpenGradient nodes sign them, with Node's crypto (OpenSSL).
// Keys are fresh at each run: `node script/vectors/inferences.mjs > test/vectors/inferences.json`.
import crypto from "node:crypto";
import { createRequire } from "node:module";
const { keccak256, concat, toBeHex, toUtf8Bytes, hexlify } = createRequire(import.meta.url)("ethers");

const START = 1_800_000_000;
const keys = [];
const inferences = [];
for (let k = 0; k < 3; k++) {
  const { publicKey, privateKey } = crypto.generateKeyPairSync("rsa", { modulusLength: 2048 });
  keys.push(hexlify(publicKey.export({ type: "spki", format: "der" })));
  for (let i = 0; i < 4; i++) {
    const request = toUtf8Bytes(`{"messages":[{"content":"Question ${i} for node ${k}?","role":"user"}],"model":"canned","temperature":0.0}`);
    const output = toUtf8Bytes(`Answer ${i} of node ${k}.`);
    const timestamp = START + 60 * i + k;
    const message = keccak256(concat([keccak256(request), keccak256(output), toBeHex(timestamp, 32)]));
    const signature = crypto.sign("sha256", Buffer.from(message.slice(2), "hex"), {
      key: privateKey,
      padding: crypto.constants.RSA_PKCS1_PSS_PADDING,
      saltLength: 32,
    });
    inferences.push({ key: k, request: hexlify(request), output: hexlify(output), timestamp, message, signature: hexlify(signature) });
  }
}
console.log(JSON.stringify({ made_by: "script/vectors/inferences.mjs", keys, inferences }, null, 1));
