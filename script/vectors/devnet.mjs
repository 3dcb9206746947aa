// Makes test/vectors/devnet.json with ethers: what wallets sign for USDC and Permit2 on Base.
//   node script/vectors/devnet.mjs > test/vectors/devnet.json
import { Signature, TypedDataEncoder, Wallet, id, AbiCoder, keccak256 } from "ethers";

// For tests only: a key that anyone can derive.
const wallet = new Wallet(id("quittance devnet vectors"));
const to = "0x00000000000000000000000000000000000a11ce".toLowerCase();
const USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
const PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3";
const usdc = { name: "USD Coin", version: "2", chainId: 8453, verifyingContract: USDC };
const permit2 = { name: "Permit2", chainId: 8453, verifyingContract: PERMIT2 };
const [value, validAfter, validBefore] = [250000, 1799999000, 1800003600];

const fields = (text) => text.split(",").map((field) => ({ type: field.split(" ")[0], name: field.split(" ")[1] }));
const sign = (domain, types, message) => wallet.signTypedData(domain, types, message);

const authorization = fields("address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce");
const authorize = async (name, nonce) => ({
  nonce,
  signature: await sign(usdc, { [name]: authorization }, { from: wallet.address, to, value, validAfter, validBefore, nonce }),
});

const TokenPermissions = fields("address token,uint256 amount");
const permitted = { token: USDC, amount: value };
const transfer = fields("TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline");
const Deposit = fields("address beneficiary");
const witness = { beneficiary: wallet.address };
const nonce = 1234567;
const withWitness = await sign(
  permit2,
  { PermitWitnessTransferFrom: [...transfer, { type: "Deposit", name: "witness" }], TokenPermissions, Deposit },
  { permitted, spender: to, nonce, deadline: validBefore, witness },
);

console.log(JSON.stringify({
  made_by: "script/vectors/devnet.mjs",
  signer: wallet.address,
  to,
  usdcDomain: TypedDataEncoder.hashDomain(usdc),
  permit2Domain: TypedDataEncoder.hashDomain(permit2),
  permit: {
    signature: await sign(
      usdc,
      { Permit: fields("address owner,address spender,uint256 value,uint256 nonce,uint256 deadline") },
      { owner: wallet.address, spender: to, value, nonce: 0, deadline: validBefore },
    ),
  },
  transfer: await authorize("TransferWithAuthorization", id("transfer")),
  receive: await authorize("ReceiveWithAuthorization", id("receive")),
  cancel: {
    nonce: id("cancel"),
    signature: await sign(
      usdc,
      { CancelAuthorization: fields("address authorizer,bytes32 nonce") },
      { authorizer: wallet.address, nonce: id("cancel") },
    ),
  },
  permit2Transfer: {
    nonce,
    signature: await sign(permit2, { PermitTransferFrom: transfer, TokenPermissions }, { permitted, spender: to, nonce, deadline: validBefore }),
  },
  permit2Witness: {
    nonce,
    witness: keccak256(AbiCoder.defaultAbiCoder().encode(["bytes32", "address"], [id("Deposit(address beneficiary)"), wallet.address])),
    witnessTypeString: "Deposit witness)Deposit(address beneficiary)TokenPermissions(address token,uint256 amount)",
    signature: withWitness,
    compact: Signature.from(withWitness).compactSerialized,
  },
  permit2Allowance: {
    signature: await sign(
      permit2,
      {
        PermitSingle: fields("PermitDetails details,address spender,uint256 sigDeadline"),
        PermitDetails: fields("address token,uint160 amount,uint48 expiration,uint48 nonce"),
      },
      { details: { token: USDC, amount: value, expiration: validBefore, nonce: 0 }, spender: to, sigDeadline: validBefore },
    ),
  },
}, null, 1));
