// Programs that these scripts start and end: servers that say where they listen, clients that answer a line with a line.
import { spawn } from "node:child_process";
import { isAbsolute } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const HERE = fileURLToPath(new URL("..", import.meta.url));
export const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const PYTHON = `${ROOT}/cache/clients/bin/python`;

/** Longest wait for a program to start or to answer, on a machine that is busy with other things. */
const PATIENCE = 120_000;

const running = new Set();
let lost = null;

/** Rejects with what a program said when it ends although nobody asked it to. */
export const whenLost = new Promise((_, reject) => (lost = reject));
whenLost.catch(() => {});

function start(command, args, env) {
  const child = spawn(command, args, { cwd: ROOT, env: { ...process.env, ...env }, stdio: ["pipe", "pipe", "pipe"] });
  const said = [];
  const keep = chunk => {
    said.push(chunk.toString());
    if (said.length > 200) said.shift();
  };
  child.stderr.on("data", keep);
  child.stdin.on("error", () => {});
  running.add(child);
  child.on("exit", code => {
    if (running.delete(child)) lost(new Error(`${[command, ...args].join(" ")} ended with ${code}:\n${said.join("")}`));
  });
  child.on("error", error => lost(error));
  return { child, keep, said };
}

/** How a script of this folder is started: by its ending. */
function program(script) {
  const path = isAbsolute(script) ? script : `${HERE}/${script}`;
  if (path.endsWith(".mjs")) return [process.execPath, [path]];
  if (path.endsWith(".py")) return [PYTHON, ["-B", path]];
  return [path, []];
}

function within(promise, what, said) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not answer in ${PATIENCE} ms:\n${said.join("")}`)), PATIENCE);
  });
  return Promise.race([promise, late, whenLost]).finally(() => clearTimeout(timer));
}

/** Starts a server and waits for the line of its standard output that `found` makes something of. */
export async function serve(script, args, env, found) {
  const [command, first] = program(script);
  const { child, keep, said } = start(command, [...first, ...args], env);
  const lines = createInterface({ input: child.stdout });
  const value = new Promise(resolve => {
    lines.on("line", line => {
      keep(`${line}\n`);
      const result = found(line);
      if (result) resolve(result);
    });
  });
  return { value: await within(value, script, said), stop: () => stop(child), pid: child.pid };
}

/** `listening URL` on the standard output. */
export const listening = line => line.match(/^listening (\S+)$/)?.[1];

/** Starts a client: `ask({...})` sends a line of JSON and resolves with the line that answers it. */
export function converse(script, args, env) {
  const [command, first] = program(script);
  const { child, said } = start(command, [...first, ...args], env);
  const waiting = [];
  createInterface({ input: child.stdout }).on("line", line => {
    const answer = JSON.parse(line);
    waiting.shift()?.(answer);
  });
  const ask = async request => {
    const answer = new Promise(resolve => waiting.push(resolve));
    child.stdin.write(`${JSON.stringify(request)}\n`);
    const value = await within(answer, `${script} ${JSON.stringify(request)}`, said);
    if (value.failed) throw new Error(`${script} ${JSON.stringify(request)}: ${value.failed}`);
    return value;
  };
  return { ask, stop: () => stop(child) };
}

function stop(child) {
  if (!running.delete(child)) return Promise.resolve();
  return new Promise(resolve => {
    const kill = setTimeout(() => child.kill("SIGKILL"), 30_000);
    child.on("exit", () => {
      clearTimeout(kill);
      resolve();
    });
    child.kill("SIGTERM");
  });
}

/** Ends everything that was started. */
export const stopAll = () => Promise.all([...running].map(stop));

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => stopAll().then(() => process.exit(1)));
}
