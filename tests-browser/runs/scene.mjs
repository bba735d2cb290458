// Runs that are written while they are looked at, and the real server that shows them.

import { spawn } from "node:child_process";
import { appendFile, mkdir, mkdtemp, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** A number between 0 and 1 that is a function of its seed. */
export const noise = (seed) => {
  const x = Math.sin(seed * 12.9898 + 78.233) * 43758.5453;
  return x - Math.floor(x);
};

/** A row as the trainer writes it. */
export function row(step, { stage = "pretrain", tokensPerStep = 8192, seed = 1, floor = 2.4, secondsPerStep = 0.41, every = 25, gpu = true, rate = 20_000, more = {} } = {}) {
  const loss = floor + 7 * Math.exp(-step / 60) + 1.4 / Math.sqrt(1 + step / 40) + 0.16 * (noise(step + seed * 1000) - 0.5);
  const made = { step, stage, tokens: step * tokensPerStep, loss };
  if (step % every === 0) {
    const validation = loss + 0.05 + 0.02 * noise(step * 7 + seed);
    Object.assign(made, { val_loss: validation, bits_per_byte: validation / 2.9, val: { stories: { loss: validation - 0.1, bits_per_byte: (validation - 0.1) / 2.9 }, science: { loss: validation + 0.1, bits_per_byte: (validation + 0.1) / 2.9 } }, accuracy: 0.5 - validation / 20 });
  }
  Object.assign(made, { lr: 6e-4 * Math.min(1, step / 50) * (0.55 + 0.45 * Math.cos(step / 200)), grad_norm: 0.4 + 1.5 * Math.exp(-step / 30) + 0.3 * noise(step * 3 + seed) }, more);
  made.timing = { seconds: step * secondsPerStep, tokens_per_s: rate * (0.97 + 0.06 * noise(step * 5 + seed)), flop_utilisation: 0.41 + 0.02 * noise(step), memory_bytes: 3.4e9,
    ...(gpu ? { gpu: { load: 0.93 + 0.05 * noise(step * 11), temperature_c: 61 + 6 * noise(step * 13), power_w: 240 + 20 * noise(step * 17), memory_bytes: 6.1e9 } } : {}) };
  return `${JSON.stringify(made)}\n`;
}

/** Rows of DPO. */
export const pairs = (step) => {
  const margin = 1.6 * (1 - Math.exp(-step / 40)) + 0.3 * (noise(step) - 0.5);
  const found = { loss: 0.69 * Math.exp(-step / 80), margin, accuracy: 0.5 + 0.3 * (1 - Math.exp(-step / 30)) + 0.08 * (noise(step * 3) - 0.5), chosen_reward: margin * 0.4, rejected_reward: -margin * 0.6, ranking: 0.55 + 0.1 * (1 - Math.exp(-step / 50)) };
  return row(step, { stage: "dpo", more: { loss: found.loss, preference: found, ...(step % 25 === 0 ? { val_preference: { ...found, accuracy: found.accuracy - 0.03 } } : {}) } });
};

export const rows = (from, to, options) => Array.from({ length: to - from + 1 }, (_, i) => row(from + i, options)).join("");
export const event = (kind, step, more = {}) => `${JSON.stringify({ event: kind, ...more, step, stage: more.stage ?? "pretrain" })}\n`;

/** A folder of runs. */
export class Scene {
  static async make() {
    const scene = new Scene();
    scene.root = await mkdtemp(join(tmpdir(), "casallm-runs-"));
    scene.folder = join(scene.root, "runs");
    await mkdir(scene.folder);
    scene.children = [];
    return scene;
  }

  path(name, file = "metrics.jsonl") {
    return join(this.folder, name, file);
  }

  async write(name, text, file = "metrics.jsonl") {
    await mkdir(join(this.folder, name), { recursive: true });
    await writeFile(this.path(name, file), text);
  }

  append(name, text) {
    return appendFile(this.path(name), text);
  }

  /** As if it had been written so many seconds ago. */
  async age(name, seconds) {
    const then = Date.now() / 1000 - seconds;
    await utimes(this.path(name), then, then);
  }

  /** Holds the run's lock as a process that trains it does; the result lets go of it. */
  async hold(name) {
    await this.write(name, "1\n", "run.lock");
    const child = spawn("python3", ["-c", "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()", this.path(name, "run.lock")], { stdio: ["pipe", "pipe", "inherit"] });
    this.children.push(child);
    await new Promise((resolve, reject) => {
      child.stdout.once("data", resolve);
      child.once("exit", () => reject(new Error("the lock is not to be had")));
    });
    return async () => {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.stdin.end();
      await ended;
    };
  }

  /** Starts the server. @param {{binary: string, port?: number}} options */
  async serve({ binary, port = 0 }) {
    const child = spawn(binary, ["serve", "--runs", this.folder, "--port", String(port), "--json"], { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, PORT: undefined } });
    this.children.push(child);
    for await (const line of createInterface({ input: child.stdout })) {
      const said = JSON.parse(line);
      if (said.event === "listening") this.port = said.port;
      if (said.event === "dashboard") this.url = said.url;
      if (said.event === "ready") break;
    }
    if (!this.url) throw new Error(`${binary} serve --runs did not start`);
    this.server = child;
    return this;
  }

  async stop() {
    const ended = new Promise((resolve) => this.server.once("exit", resolve));
    this.server.kill("SIGKILL");
    await ended;
  }

  async close() {
    for (const child of this.children) if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await rm(this.root, { recursive: true, force: true });
  }
}
