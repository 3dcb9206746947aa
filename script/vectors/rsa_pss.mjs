// Makes test/vectors/rsa_pss.json with Node's crypto (OpenSSL), which shares no code with the contracts.
// Keys are fresh at each run: `node script/vectors/rsa_pss.mjs > test/vectors/rsa_pss.json`.
import crypto from "node:crypto";

const SALT = 32;
const sha256 = (...parts) => crypto.createHash("sha256").update(Buffer.concat(parts)).digest();
const hex = (buffer) => "0x" + buffer.toString("hex");
const cases = [];
const add = (name, valid, key, hash, signature) => cases.push({ name, valid, key: hex(key), hash: hex(hash), signature: hex(signature) });

const pss = (privateKey, hash, saltLength, algorithm = "sha256") =>
  crypto.sign(algorithm, hash, { key: privateKey, padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength });
const raw = (privateKey, block) =>
  crypto.privateDecrypt({ key: privateKey, padding: crypto.constants.RSA_NO_PADDING }, block);
const spki = (publicKey) => publicKey.export({ type: "spki", format: "der" });
const number = (buffer) => BigInt(hex(buffer));
const bytes = (value, size) => Buffer.from(value.toString(16).padStart(size * 2, "0"), "hex");

/// EMSA-PSS-ENCODE with one thing wrong.
function encode(digest, size, fault) {
  const salt = crypto.randomBytes(SALT);
  const h = sha256(Buffer.alloc(8), digest, salt);
  const db = Buffer.concat([Buffer.alloc(size - SALT - 34), Buffer.from([1]), salt]);
  if (fault === "non-zero padding, first byte") db[0] = 0x20;
  if (fault === "non-zero padding, last byte") db[db.length - SALT - 2] = 0x80;
  if (fault === "separator 02") db[db.length - SALT - 1] = 2;
  if (fault === "separator missing") db[db.length - SALT - 1] = 0;
  const mask = Buffer.concat([...Array(Math.ceil(db.length / 32)).keys()].map((i) => sha256(h, Buffer.from([0, 0, 0, i]))));
  const masked = Buffer.from(db.map((byte, i) => byte ^ mask[i]));
  masked[0] &= 0x7f;
  if (fault === "top bit set") masked[0] |= 0x80;
  const trailer = fault === "trailer bd" ? 0xbd : fault === "trailer cc" ? 0xcc : 0xbc;
  if (fault === "hash changed") h[7] ^= 1;
  return Buffer.concat([masked, h, Buffer.from([trailer])]);
}

const lengthOf = (n) => (n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 255]);
const tlv = (tag, content, length = lengthOf(content.length)) => Buffer.concat([Buffer.from([tag, ...length]), content]);
const OID = Buffer.from("06092a864886f70d010101", "hex");
/// SubjectPublicKeyInfo with pieces replaced.
function der(n, { e = "010001", oid = OID, parameters = "0500", unused = "00", sign = "00", inner = lengthOf, outer = lengthOf } = {}) {
  const modulus = tlv(2, Buffer.concat([Buffer.from(sign, "hex"), n]));
  const pair = Buffer.concat([modulus, tlv(2, Buffer.from(e, "hex"))]);
  const bits = Buffer.concat([Buffer.from(unused, "hex"), tlv(0x30, pair, inner(pair.length))]);
  const whole = Buffer.concat([tlv(0x30, Buffer.concat([oid, Buffer.from(parameters, "hex")])), tlv(3, bits)]);
  return tlv(0x30, whole, outer(whole.length));
}

for (const bits of [2048, 3072, 4096]) {
  const { publicKey, privateKey } = crypto.generateKeyPairSync("rsa", { modulusLength: bits });
  const key = spki(publicKey);
  const size = bits / 8;
  const n = key.subarray(33, 33 + size);
  const hash = crypto.randomBytes(32);
  const digest = sha256(hash);
  if (!der(n).equals(key)) throw new Error("own DER differs");
  const good = pss(privateKey, hash, SALT);

  for (let i = 0; i < 4; i++) {
    const message = crypto.randomBytes(32);
    add(`${bits}: valid ${i}`, true, key, message, pss(privateKey, message, SALT));
  }
  add(`${bits}: valid, hash 0`, true, key, Buffer.alloc(32), pss(privateKey, Buffer.alloc(32), SALT));
  add(`${bits}: valid, encoded by hand`, true, key, hash, raw(privateKey, encode(digest, size)));
  for (const salt of [0, 20, 31, 33, 64]) add(`${bits}: salt of ${salt}`, false, key, hash, pss(privateKey, hash, salt));
  add(`${bits}: longest salt`, false, key, hash, pss(privateKey, hash, crypto.constants.RSA_PSS_SALTLEN_MAX_SIGN));
  for (const fault of ["trailer bd", "trailer cc", "non-zero padding, first byte", "non-zero padding, last byte", "separator 02", "separator missing", "hash changed"])
    add(`${bits}: ${fault}`, false, key, hash, raw(privateKey, encode(digest, size, fault)));
  for (;;) {
    const block = encode(digest, size, "top bit set");
    if (number(block) >= number(n)) continue;
    add(`${bits}: top bit set`, false, key, hash, raw(privateKey, block));
    break;
  }
  add(`${bits}: single hash`, false, key, hash, raw(privateKey, encode(hash, size)));
  add(`${bits}: SHA-384`, false, key, hash, pss(privateKey, hash, SALT, "sha384"));
  add(`${bits}: PKCS #1 v1.5`, false, key, hash, crypto.sign("sha256", hash, privateKey));
  add(`${bits}: other message`, false, key, crypto.randomBytes(32), good);

  for (let tries = 0; ; tries++) {
    const signature = pss(privateKey, hash, SALT);
    const sum = number(signature) + number(n);
    if (sum >> BigInt(bits) !== 0n && tries < 4000) continue;
    add(`${bits}: s + n`, false, key, hash, bytes(sum, sum >> BigInt(bits) ? size + 1 : size));
    add(`${bits}: s of the same`, true, key, hash, signature);
    break;
  }
  add(`${bits}: s = n`, false, key, hash, Buffer.from(n));
  add(`${bits}: s = 0`, false, key, hash, Buffer.alloc(size));
  add(`${bits}: s = 1`, false, key, hash, bytes(1n, size));
  add(`${bits}: s all ones`, false, key, hash, Buffer.alloc(size, 255));
  add(`${bits}: signature empty`, false, key, hash, Buffer.alloc(0));
  add(`${bits}: signature one byte short`, false, key, hash, good.subarray(1));
  add(`${bits}: signature with a leading zero`, false, key, hash, Buffer.concat([Buffer.alloc(1), good]));
  add(`${bits}: signature with a trailing zero`, false, key, hash, Buffer.concat([good, Buffer.alloc(1)]));

  const keys = {
    "exponent 3": der(n, { e: "03" }),
    "exponent 65537 with a leading zero": der(n, { e: "00010001" }),
    "exponent 65539": der(n, { e: "010003" }),
    "no NULL": der(n, { parameters: "" }),
    "other parameters": der(n, { parameters: "0400" }),
    "OID of RSASSA-PSS": der(n, { oid: Buffer.from("06092a864886f70d01010a", "hex") }),
    "unused bits": der(n, { unused: "01" }),
    "negative modulus": der(n, { sign: "" }),
    "modulus with two leading zeros": der(n, { sign: "0000" }),
    "sign byte 01": der(n, { sign: "01" }),
    "three length bytes inside": der(n, { inner: (l) => [0x83, 0, l >> 8, l & 255] }),
    "three length bytes outside": der(n, { outer: (l) => [0x83, 0, l >> 8, l & 255] }),
    "indefinite length outside": Buffer.concat([der(n, { outer: () => [0x80] }), Buffer.alloc(2)]),
    "bytes after the end": Buffer.concat([key, Buffer.alloc(1)]),
    "32 bytes after the end": Buffer.concat([key, Buffer.alloc(32)]),
    "last byte missing": key.subarray(0, key.length - 1),
    "PKCS #1 alone": publicKey.export({ type: "pkcs1", format: "der" }),
    "modulus alone": Buffer.from(n),
    "even modulus": der(bytes(number(n) - 1n, size)),
    "top bit of the modulus clear": der(Buffer.concat([Buffer.from([n[0] & 0x7f]), n.subarray(1)])),
    "modulus of zeros": der(Buffer.alloc(size)),
    "empty": Buffer.alloc(0),
  };
  for (const [name, bad] of Object.entries(keys)) add(`${bits}: key: ${name}`, false, bad, hash, good);
}

for (const bits of [1024, 1984, 2040, 2056, 2052, 4352]) {
  const { publicKey, privateKey } = crypto.generateKeyPairSync("rsa", { modulusLength: bits });
  const hash = crypto.randomBytes(32);
  add(`key of ${bits} bits`, false, spki(publicKey), hash, pss(privateKey, hash, SALT));
}
{
  const { publicKey, privateKey } = crypto.generateKeyPairSync("rsa", { modulusLength: 2048, publicExponent: 3 });
  const hash = crypto.randomBytes(32);
  add("key made with exponent 3", false, spki(publicKey), hash, pss(privateKey, hash, SALT));
  const { publicKey: p256 } = crypto.generateKeyPairSync("ec", { namedCurve: "P-256" });
  add("key on P-256", false, spki(p256), hash, crypto.randomBytes(256));
  const big = crypto.generateKeyPairSync("rsa", { modulusLength: 2304 });
  add("2304: valid", true, spki(big.publicKey), hash, pss(big.privateKey, hash, SALT));
}

// Keys that tests sign with (test/RsaSigner.sol): for nothing else.
const signers = [0, 1].map(() => {
  const { publicKey, privateKey } = crypto.generateKeyPairSync("rsa", { modulusLength: 2048 });
  const { n, d } = privateKey.export({ format: "jwk" });
  const part = (text) => hex(Buffer.from(text, "base64url"));
  return { key: hex(spki(publicKey)), modulus: part(n), exponent: part(d) };
});

console.log(JSON.stringify({ made_by: "script/vectors/rsa_pss.mjs", signers, cases }, null, 1));
