// What goes wrong with a run is told; what stands in its files does nothing.

import assert from "node:assert/strict";
import { ATTACKS } from "../chat/hostile.mjs";
import { event, row, rows } from "./scene.mjs";

const alert = (page, name) => page.locator("#alerts .alert", { has: page.locator("strong", { hasText: new RegExp(`^${name}$`) }) });

export const tests = [
  {
    name: "alerts tell of spikes, rollbacks, failed checkpoints, numbers that are none, damage, a fall of speed, and a run that stands still",
    before: async (scene) => {
      const guard = { quantity: "loss", value: 9.5, mean: 2.4, z: 31, batch: "rows 8 to 16 of stories", action: "rollback" };
      await scene.write("a", rows(1, 400) + event("spike", 401, guard) + event("rolled_back", 401, { to: 390, passed_over: [398, 399, 400] })
        + event("checkpoint_failed", 402, { reason: "the disk is full" }) + event("not_finite", 403, { quantity: "grad_norm", value: "infinite", batch: "rows 1 to 2", action: "skip" })
        + event("spike", 9, { ...guard, value: 8.25 }));
    },
    async run({ page, scene }) {
      for (const [name, text] of [["Spike", "31.00 deviations"], ["Rolled back", "Back to step 390; 3 batches passed over"], ["Checkpoint failed", "the disk is full"], ["Not finite", "the gradient norm is infinite"]]) {
        await alert(page, name).getByText(text, { exact: false }).waitFor().catch((error) => assert.fail(`${name}: ${error.message}`));
      }
      // What is long past is in the list of events alone.
      assert.ok(!(await page.locator("#alerts").textContent()).includes("8.250"));
      assert.ok((await page.locator("#events").textContent()).includes("8.250"));
      assert.equal(await page.locator("#chart-loss").getAttribute("data-marks"), "1");
      await scene.append("a", "no JSON\n{\"step\":1}\n" + rows(401, 440, { rate: 9_000 }));
      await alert(page, "Damaged lines").getByText("2 lines of metrics.jsonl cannot be read").waitFor();
      assert.equal(await alert(page, "Throughput fell").count(), 0);
      await scene.hold("a");
      await alert(page, "Throughput fell").waitFor();
      assert.equal(await alert(page, "Stalled").count(), 0);
      await scene.age("a", 3600);
      await alert(page, "Stalled").getByText("nothing for 60 min").waitFor();
      // Told aloud as it happens.
      await page.waitForFunction(() => /Stalled/.test(document.getElementById("announcer-a").textContent + document.getElementById("announcer-b").textContent));
      await page.getByRole("button", { name: "Hide: Stalled" }).click();
      assert.equal(await alert(page, "Stalled").count(), 0);
    },
  },
  {
    name: "hostile names, samples, events and recipes execute nothing, load nothing, and stay readable",
    before: async (scene) => {
      const names = ["<img src=x onerror='window.pwned=1'>", "‮ reversed", "a\"onmouseover=\"window.pwned=2", "%2e%2e", "javascript:window.pwned=3", "x".repeat(200)];
      for (const [i, name] of names.entries()) await scene.write(name, rows(1, 20 + i));
      const attacks = ATTACKS.map((text, i) => event("sample", i, { prompt: text, text }) + event("note", i, { text }) + event(text.slice(0, 60), i, { [text]: text })).join("");
      const odd = [event("spike", 1, { quantity: { a: 1 }, value: "x", mean: null, z: [], batch: {}, action: "<b>" }), event("rolled_back", 1, { to: "y", passed_over: 7 }), event("__proto__", 1, { constructor: 1 }), event("toString", 2),
        event("slower", 3, { seconds: "a", machine: [1] }), event("began", 1, { steps: -4 }), "{\"event\":\"sample\",\"stage\":\"pretrain\",\"step\":7,\"prompt\":{},\"text\":[1]}\n"].join("");
      await scene.write("hostile", rows(1, 30) + row(31, { more: { val: { "<script>window.pwned=9</script>": { loss: 3 }, "__proto__": { loss: 2 }, constructor: { loss: 1 } } } }) + attacks + odd + row(32));
      await scene.write("hostile", ATTACKS.join("\n"), "settings.toml");
    },
    hash: "#run=hostile&stage=%3Cimg%3E",
    async run({ page, scene }) {
      await page.goto(`${scene.url}#run=hostile`);
      await page.waitForFunction((count) => document.querySelectorAll("#events tbody tr").length >= 40 && document.querySelectorAll("#runs li").length >= count, 6);
      for (const button of await page.locator("button.run").all()) await button.click();
      await page.locator("button.run", { hasText: /^hostile/ }).click();
      await page.waitForSelector("#samples .sample");
      for (const box of await page.locator("#runs input").all()) await box.check();
      await page.waitForFunction(() => document.querySelectorAll("#compared tbody tr").length >= 6);
      await page.locator("button.run", { hasText: /^hostile/ }).click();
      await page.locator("#recipe summary").click();
      await page.getByRole("button", { name: "Samples before" }).click();
      const found = await page.evaluate(() => ({
        pwned: globalThis.pwned ?? null, polluted: /** @type {any} */ ({}).loss ?? null,
        strange: [...document.querySelectorAll("#app script, #app iframe, #app object, #app style, #app form:not(#tools), #app img, #app a:not(#to-chat)")].map((e) => e.outerHTML.slice(0, 80)),
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      }));
      assert.deepEqual(found, { pwned: null, polluted: null, strange: [], wide: 0 });
      assert.match(await page.locator("#recipe pre").textContent(), /<script>window\.pwned = 1<\/script>/);
    },
  },
];
