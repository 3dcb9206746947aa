// A devnet of its own for one script: chains, contracts and a keeper, all ended with it.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Chain } from "./chain.mjs";
import { ROOT, serve, stopAll, whenLost } from "./child.mjs";

/** Calls `work` with the devnet's network, its file and its Base. `$DEVNET` names the network file of one that runs already. */
export async function withDevnet(work) {
  const dir = mkdtempSync(join(tmpdir(), "quittance-clients-"));
  try {
    let file = process.env.DEVNET;
    if (!file) {
      const program = process.env.QUITTANCE ?? `${ROOT}/target/debug/quittance`;
      const found = line => line.match(/network file\s+(\S+)/)?.[1];
      file = (await serve(program, ["devnet", "--dir", dir], {}, found)).value;
    }
    const network = JSON.parse(readFileSync(file, "utf8"));
    return await Promise.race([work({ network, file, chain: new Chain(network.base.rpc), dir }), whenLost]);
  } finally {
    await stopAll();
    rmSync(dir, { recursive: true, force: true });
  }
}
