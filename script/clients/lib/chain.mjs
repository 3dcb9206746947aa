// The devnet's Base as these scripts see it: funded accounts, balances, transactions.
import { createPublicClient, createWalletClient, defineChain, encodeFunctionData, http, keccak256, maxUint256, parseAbi, toHex } from "viem";
import { toSmartAccount } from "viem/account-abstraction";
import { nonceManager, privateKeyToAccount } from "viem/accounts";

export const CHAIN_ID = 8453;
export const NETWORK = `eip155:${CHAIN_ID}`;
/** The same network in version 1 of the protocol. */
export const NETWORK_V1 = "base";
export const USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
export const PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3";
export const BATCH = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003";

export const TOKEN = parseAbi([
  "function mint(address to, uint256 amount)",
  "function approve(address spender, uint256 amount) returns (bool)",
  "function balanceOf(address) view returns (uint256)",
  "function allowance(address, address) view returns (uint256)",
  "event Transfer(address indexed from, address indexed to, uint256 value)",
]);
export const CHANNELS = parseAbi([
  "function channels(bytes32) view returns (uint128 balance, uint128 totalClaimed)",
  "function receivers(address receiver, address token) view returns (uint128 totalClaimed, uint128 totalSettled)",
]);

const FACTORY = parseAbi([
  "function createAccount(address owner, uint256 salt) returns (address)",
  "function getAddress(address owner, uint256 salt) view returns (address)",
]);

/** A key that a name stands for; public on purpose. */
export const keyOf = name => keccak256(toHex(`quittance clients key, public on purpose: ${name}`));
/** The account of a name, or of a key in hex. */
export const accountOf = name => privateKeyToAccount(name.startsWith("0x") ? name : keyOf(name));

export class Chain {
  constructor(rpc) {
    this.rpc = rpc;
    this.chain = defineChain({
      id: CHAIN_ID,
      name: "devnet",
      nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
      rpcUrls: { default: { http: [rpc] } },
      contracts: { multicall3: { address: "0xcA11bde05977b3631167028862bE2a173976CA11" } },
    });
    // One POST for each request: what a facilitator gets by batching is then seen.
    this.transport = http(rpc, { timeout: 60_000 });
    this.public = createPublicClient({ chain: this.chain, transport: this.transport, pollingInterval: 100 });
  }

  wallet(account) {
    return createWalletClient({ chain: this.chain, transport: this.transport, account });
  }

  /** USDC for accounts of names; with `approved` also ether and a full allowance for Permit2. */
  async fund(names, usdc, approved = true) {
    const minter = accountOf("minter");
    const all = approved ? [minter, ...names.map(accountOf)] : [minter];
    await Promise.all(all.map(account => this.call("anvil_setBalance", [account.address, toHex(10n ** 20n)])));
    const wallet = this.wallet(privateKeyToAccount(keyOf("minter"), { nonceManager }));
    const hashes = [];
    for (const name of names) {
      const args = [accountOf(name).address, usdc];
      hashes.push(await wallet.writeContract({ address: USDC, abi: TOKEN, functionName: "mint", args, gas: 100_000n }));
      if (!approved) continue;
      const own = this.wallet(accountOf(name));
      const approval = { address: USDC, abi: TOKEN, functionName: "approve", args: [PERMIT2, maxUint256] };
      hashes.push(await own.writeContract({ ...approval, gas: 100_000n }));
    }
    for (const hash of hashes) await this.mined(hash);
  }

  /** The contract wallet of a name, as viem's smart accounts are: until it is there it signs as ERC-6492 says. */
  smart(name, factory) {
    const owner = accountOf(name);
    const args = [owner.address, 0n];
    return toSmartAccount({
      client: this.public,
      getAddress: () => this.public.readContract({ address: factory, abi: FACTORY, functionName: "getAddress", args }),
      getFactoryArgs: async () => ({
        factory,
        factoryData: encodeFunctionData({ abi: FACTORY, functionName: "createAccount", args }),
      }),
      signMessage: message => owner.signMessage(message),
      signTypedData: data => owner.signTypedData(data),
    });
  }

  /** USDC out of nothing. */
  async mint(address, usdc) {
    const wallet = this.wallet(privateKeyToAccount(keyOf("minter"), { nonceManager }));
    await this.mined(await wallet.writeContract({ address: USDC, abi: TOKEN, functionName: "mint", args: [address, usdc], gas: 100_000n }));
  }

  call(method, params) {
    return this.public.request({ method, params });
  }

  balance(address) {
    return this.public.readContract({ address: USDC, abi: TOKEN, functionName: "balanceOf", args: [address] });
  }

  wei(address) {
    return this.public.getBalance({ address });
  }

  async channel(id) {
    const read = { address: BATCH, abi: CHANNELS, functionName: "channels", args: [id] };
    const [balance, totalClaimed] = await this.public.readContract(read);
    return { balance, totalClaimed };
  }

  async receiver(address) {
    const read = { address: BATCH, abi: CHANNELS, functionName: "receivers", args: [address, USDC] };
    const [totalClaimed, totalSettled] = await this.public.readContract(read);
    return { totalClaimed, totalSettled };
  }

  /** The receipt of a transaction that must be in a block and succeed. */
  async mined(hash) {
    const receipt = await this.public.waitForTransactionReceipt({ hash, timeout: 120_000 });
    if (receipt.status !== "success") throw new Error(`transaction ${hash} reverted`);
    return receipt;
  }
}
