// Makes test/vectors/merkle.json with OpenZeppelin's JavaScript trees, which share no code with the contracts.
// Deterministic: `node script/vectors/merkle.mjs > test/vectors/merkle.json`.
import { createRequire } from "node:module";
const require = createRequire(import.meta.url);
const { StandardMerkleTree } = require("@openzeppelin/merkle-tree");
const { keccak256, toUtf8Bytes } = require("ethers");

const TYPES = ["uint8", "bytes32", "uint128", "uint128", "bytes32", "uint32", "bytes32", "uint32"];
const word = (name, i) => keccak256(toUtf8Bytes(`${name} ${i}`));
/// Row i of every tree: the test computes the same.
const leaf = (i) => [1, word("payment", i), 0n, BigInt(i + 1) ** 5n, word("node", i % 7), (i % 3) + 1, word("receipt", i), i];

const trees = [];
for (const size of [...Array(20).keys()].map((i) => i + 1).concat(100, 256)) {
  const tree = StandardMerkleTree.of([...Array(size).keys()].map(leaf), TYPES, { sortLeaves: false });
  const proven = size <= 20 ? [...Array(size).keys()] : [0, 1, size >> 1, size - 2, size - 1];
  trees.push({ size, root: tree.root, proven, proofs: proven.map((i) => tree.getProof(i)) });
}
console.log(JSON.stringify({ made_by: "script/vectors/merkle.mjs", trees }, null, 1));
