// What the charts draw by, against the plain way to compute it. Runs in the page, which has the modules.

import assert from "node:assert/strict";
import { rows } from "./scene.mjs";

/** Columns that grow by parts, and the least and largest of all buckets after each. Runs in the page. */
async function wrongBuckets() {
  const { Column, StageData } = await import("../assets/runs/columns.js");
  const column = new Column();
  const all = [];
  const wrong = [];
  let seed = 7;
  const random = () => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
  for (const part of [1, 7, 8, 1, 9, 100, 3000, 3]) {
    const values = Float32Array.from({ length: part }, () => (random() < 0.1 ? NaN : random()));
    all.push(...values);
    column.values.append(values);
    for (const size of [1, 2, 8, 16, 64, 128, 1024]) {
      const count = Math.ceil(all.length / size);
      const [low, high] = [new Float32Array(count), new Float32Array(count)];
      column.buckets(0, size, count, low, high);
      for (let bucket = 0; bucket < count; bucket += 1) {
        const here = all.slice(bucket * size, (bucket + 1) * size).filter((value) => !Number.isNaN(value));
        if (low[bucket] !== Math.min(...here) || high[bucket] !== Math.max(...here)) wrong.push([all.length, size, bucket]);
      }
    }
  }
  // Smoothed in parts as in one piece, over gaps.
  const [parts, whole] = [new StageData("a"), new StageData("b")];
  parts.dense.set("loss", new Column());
  whole.dense.set("loss", new Column());
  const values = Float32Array.of(4, NaN, 2, 8, 6, 1);
  whole.dense.get("loss").values.append(values);
  for (const value of values) {
    parts.dense.get("loss").values.append(Float32Array.of(value));
    parts.smoothed("loss", 3);
  }
  const read = (data) => [...data.smoothed("loss", 3).values.array.subarray(0, 6)];
  return { wrong, parts: read(parts), whole: read(whole) };
}

export const tests = [
  {
    name: "the page's head names every module that is loaded, so that none waits for another",
    before: (scene) => scene.write("a", rows(1, 10)),
    async run({ page }) {
      const { loaded, named } = await page.evaluate(() => ({
        loaded: performance.getEntriesByType("resource").map(({ name }) => new URL(name).pathname).filter((path) => path.endsWith(".js")),
        named: [...document.querySelectorAll("head script, head link[rel=modulepreload]")].map((element) => new URL(element.src ?? element.href, location.href).pathname),
      }));
      assert.deepEqual([...new Set(loaded)].sort(), named.sort());
    },
  },
  {
    name: "steps, tokens and seconds beyond all measure are drawn, and hang nothing",
    before: (scene) => {
      const huge = (i) => ({ step: 9e18 + 4096 * i, stage: "pretrain", tokens: 9e18 + 4096 * i, loss: 3 - i, lr: 0.1, timing: { seconds: 1e18 + 200 * i } });
      return scene.write("a", [0, 1, 2].map((i) => `${JSON.stringify(huge(i))}\n`).join(""));
    },
    async run({ page }) {
      for (const name of ["Tokens", "Time", "Steps"]) {
        await page.getByRole("radio", { name, exact: true }).check();
        await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
      }
      assert.ok(await page.locator("#chart-loss canvas").isVisible());
    },
  },
  {
    name: "what stands at an axis is where it says",
    before: (scene) => scene.write("a", rows(1, 10)),
    async run({ page }) {
      const told = await page.evaluate(async () => {
        const { placeTicks, valueTicks } = await import("../assets/runs/ticks.js");
        const { fixed, percent, bytes } = await import("../assets/runs/numbers.js");
        const plot = { scales: { y: { distr: 1 } } };
        const ticks = (increment, from = 0) => [0, 1, 2, 3].map((n) => (from + n) * increment);
        const values = (increment, format = fixed, id = "loss") => valueTicks({ format, id })(plot, ticks(increment), 1, 36, increment).join(" ");
        const places = (increment, axis) => placeTicks(axis)(plot, ticks(increment), 0, 72, increment).join(" ");
        return [values(2.5), values(0.25), values(0.1), values(0.025), values(2500), values(5000), values(1e-5), values(0.025, percent), values(0.25, percent), values(2.5e9, bytes, "memory"),
          places(500, "step"), places(5000, "step"), places(0.5, "seconds")];
      });
      assert.deepEqual(told, ["0 2.5 5.0 7.5", "0 0.25 0.50 0.75", "0 0.1 0.2 0.3", "0 0.025 0.050 0.075", "0 2500 5000 7500", "0 5k 10k 15k", "0 0.00001 0.00002 0.00003", "0.0 % 2.5 % 5.0 % 7.5 %", "0 % 25 % 50 % 75 %",
        "0 2.5 GB 5.0 GB 7.5 GB", "0 500 1000 1500", "0 5k 10k 15k", "0.0 s 0.5 s 1.0 s 1.5 s"]);
    },
  },
  {
    name: "least and largest of buckets are those of their rows, and smoothing is the same in parts, however columns have grown",
    before: (scene) => scene.write("a", rows(1, 10)),
    async run({ page }) {
      const { wrong, parts, whole } = await page.evaluate(wrongBuckets);
      assert.deepEqual(wrong, []);
      assert.deepEqual(parts, whole);
      // (4 * 2/3 * 2/3 + ... ) by hand: the average of 4 and 2 with weights 2/3 and 1 after the gap.
      assert.ok(Math.abs(whole[2] - (4 * (2 / 3) + 2) / (2 / 3 + 1)) < 1e-6 && whole[0] === 4 && whole[1] === 4, String(whole));
    },
  },
];
