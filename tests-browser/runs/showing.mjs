// What is in the files is what is shown, also while they are written, cut back, or damaged.

import assert from "node:assert/strict";
import { event, pairs, row, rows } from "./scene.mjs";

const tile = (page, name) => page.locator("#progress dt", { hasText: new RegExp(`^${name}$`) }).locator("xpath=following-sibling::dd");
const progressLine = (page, text) => page.waitForFunction((wanted) => document.querySelector(".progress-line")?.textContent.includes(wanted), text);
/** Where the pointer is, by a chart's own words. */
const where = (page, id = "loss") => page.locator(`#chart-${id} .where`).textContent();
const choose = (page, name) => page.getByRole("radio", { name, exact: true }).check();

export const tests = [
  {
    name: "an empty folder teaches, and a run that begins is shown by itself",
    nothing: true,
    async run({ page, scene, picture }) {
      await page.getByText("No training runs here yet").waitFor();
      await picture("runs-empty");
      await scene.write("first", "");
      await page.getByText("No steps yet", { exact: true }).first().waitFor();
      const letGo = await scene.hold("first");
      await page.getByText("Preparing", { exact: true }).waitFor();
      await scene.append("first", event("began", 0, { steps: 400, tokens_per_step: 8192 }) + rows(1, 10));
      await page.waitForSelector("#chart-loss:visible");
      await progressLine(page, "Step 10 of 400");
      await letGo();
    },
  },
  {
    name: "rows appear as they are written, a torn line waits for its end, and a lock that is let go ends the run",
    before: (scene) => scene.write("a", event("began", 0, { steps: 400 }) + rows(1, 60)),
    async run({ page, scene }) {
      const letGo = await scene.hold("a");
      await page.locator("#state[data-state=live]").waitFor();
      const line = row(61);
      await scene.append("a", line.slice(0, 50));
      await scene.append("a", "");
      await progressLine(page, "Step 60 of 400");
      await scene.append("a", line.slice(50) + rows(62, 100));
      await progressLine(page, "Step 100 of 400");
      assert.match(await page.locator(".progress-line").textContent(), /410 ms a step.*left, until about/);
      assert.equal(await page.locator(".progress-share").textContent(), "25 %");
      assert.equal(await tile(page, "FLOP utilisation").evaluate((e) => e.firstChild.textContent.replace(/\d %/, "x %")), "4x %");
      await letGo();
      await page.locator("#state[data-state=ended]").waitFor();
      await page.getByText("Stopped before its end").first().waitFor();
      assert.ok(await page.locator("#chart-gpu_temperature").isVisible() && !(await page.locator("#chart-margin").isVisible()));
    },
  },
  {
    name: "a file that a resume has cut back is read anew and marked where it went on",
    before: (scene) => scene.write("a", rows(1, 80)),
    async run({ page, scene }) {
      await progressLine(page, "Step 80");
      assert.equal(await page.locator("#chart-loss").getAttribute("data-marks"), "0");
      await scene.write("a", rows(1, 40) + event("resumed", 40) + rows(41, 50, { seed: 9 }));
      await progressLine(page, "Step 50");
      await page.waitForFunction(() => document.querySelector("#chart-loss").dataset.marks === "1" && document.querySelector("#chart-val_loss").dataset.marks === "1");
      await page.getByText("resumed after step 40").waitFor();
      await page.locator("#events").getByText("Resumed", { exact: true }).waitFor();
    },
  },
  {
    name: "runs lie over one another by step, tokens and time",
    before: async (scene) => {
      const sample = (step) => event("sample", step, { prompt: "Once", text: " upon a time" });
      await scene.write("slow", rows(1, 200, { floor: 2.6, secondsPerStep: 0.9, tokensPerStep: 4096 }) + sample(200) + event("resumed", 200));
      await scene.write("slow", "seed = 1\n", "recipe.toml");
      await scene.write("fast", rows(1, 100, { seed: 2, secondsPerStep: 0.2 }));
      await scene.write("other", rows(1, 50, { seed: 3 }));
    },
    hash: "#run=slow",
    async run({ page }) {
      const chart = page.locator("#chart-loss");
      const heads = () => page.$$eval("#samples h2, #events h2, #recipe h2", (all) => all.filter((head) => head.checkVisibility()).map((head) => head.textContent.trim()));
      await page.locator("#recipe h2").waitFor();
      assert.deepEqual(await heads(), ["Samples", "Events", "Recipe"]);
      await page.getByLabel("Show fast with the others").check();
      await page.locator("#compared tbody tr").nth(1).waitFor();
      // Of several, these are the first one's.
      assert.deepEqual(await heads(), ["Samples slow", "Events slow", "Recipe slow"]);
      await page.waitForFunction(() => document.querySelectorAll("#chart-loss .entry").length === 2);
      const colours = await page.$$eval("#chart-loss .entry", (entries) => entries.map((entry) => getComputedStyle(entry, "::before").borderTopColor));
      assert.notEqual(colours[0], colours[1]);
      const point = async (share) => {
        const box = await chart.locator(".u-over").boundingBox();
        await page.mouse.move(box.x + box.width * share, box.y + 60);
        await chart.locator(".where").waitFor();
        return where(page);
      };
      assert.match(await point(0.5), /at step (100|101)/);
      await choose(page, "Tokens");
      assert.match(await point(0.999), /at tokens 8\d\dk/);
      await choose(page, "Time");
      assert.match(await point(0.5), /at 90 s|at \d+ s|at 2 min/);
      assert.match(page.url(), /run=slow&run=fast&x=seconds/);
      // Another window of the same address shows the same.
      await page.reload();
      await page.waitForFunction(() => document.querySelectorAll("#chart-loss .entry").length === 2);
      assert.equal(await page.getByRole("radio", { name: "Time", exact: true }).isChecked(), true);
      await page.locator("button.run", { hasText: "other" }).click();
      await page.waitForFunction(() => document.querySelectorAll("#chart-loss .entry").length === 1 && document.querySelector("h1").textContent === "other");
    },
  },
  {
    name: "charts are zoomed, moved and read by mouse and keys, all together",
    viewport: { width: 1280, height: 1800 },
    before: (scene) => scene.write("a", rows(1, 1000)),
    async run({ page }) {
      const over = page.locator("#chart-loss .u-over");
      const box = await over.boundingBox();
      const at = (share) => [box.x + share * box.width, box.y + 80];
      /** The pointer there is at about this step. */
      const stepAt = async (share, wanted, id = "loss") => {
        await page.mouse.move(...at(share));
        await page.waitForFunction(([chart, step]) => {
          const found = /^at step ([\d,]+)$/.exec(document.querySelector(`#chart-${chart} .where`)?.textContent ?? "");
          return found && Math.abs(Number(found[1].replaceAll(",", "")) - step) <= 12;
        }, [id, wanted]);
      };
      const drag = async (from, to) => {
        await page.mouse.move(...at(from));
        await page.mouse.down();
        await page.mouse.move(...at((from + to) / 2), { steps: 4 });
        await page.mouse.move(...at(to), { steps: 4 });
        await page.mouse.up();
      };
      const all = page.getByRole("button", { name: "Show all" });
      assert.ok(await all.isDisabled());
      await drag(0.2, 0.6);
      await stepAt(0, 201);
      await stepAt(0.999, 600);
      await stepAt(0.5, 400, "grad_norm");
      await page.keyboard.down("Shift");
      await drag(0.5, 0.25);
      await page.keyboard.up("Shift");
      await stepAt(0, 301);
      await choose(page, "Move");
      await drag(0.25, 0.5);
      await stepAt(0, 201);
      await all.click();
      await stepAt(0, 1);
      await page.locator("#chart-lr").focus();
      await page.keyboard.press("Home");
      await page.keyboard.press("ArrowRight");
      await page.waitForFunction(() => /^at step 1[01]$/.test(document.querySelector("#chart-lr .where")?.textContent));
      await page.keyboard.press("+");
      await page.locator("#tools button:enabled").waitFor();
      await page.keyboard.press("0");
      await page.locator("#tools button:disabled").waitFor();
      assert.match(await page.locator("#chart-lr").getAttribute("aria-label"), /^Learning rate\. Newest: \d/);
    },
  },
  {
    name: "stages are shown one at a time, the newest first; DPO has its own charts",
    before: (scene) => scene.write("a", rows(1, 100) + rows(1, 60, { stage: "sft" }) + Array.from({ length: 120 }, (_, i) => pairs(i)).join("")),
    async run({ page, picture }) {
      await page.locator("#chart-margin").waitFor();
      assert.deepEqual(await page.$$eval("#tools input[name=stage]", (inputs) => inputs.map(({ value, checked }) => [value, checked])), [["pretrain", false], ["sft", false], ["dpo", true]]);
      for (const id of ["margin", "preferred", "rewards"]) assert.ok(await page.locator(`#chart-${id}`).isVisible(), id);
      await picture("runs-dpo");
      await choose(page, "Pre-training");
      await progressLine(page, "Step 100");
      assert.ok(!(await page.locator("#chart-margin").isVisible()));
    },
  },
  {
    name: "samples are shown by step and follow the newest; the recipe and its hash are shown",
    before: async (scene) => {
      const sample = (step) => event("sample", step, { prompt: "Once upon a time", text: ` there was a house at step ${step}.` });
      await scene.write("a", rows(1, 25) + sample(25) + rows(26, 50) + sample(50));
      await scene.write("a", "[pretrain]\nsteps = 90\n", "settings.toml");
    },
    async run({ page, scene }) {
      await page.locator("#samples").getByText("a house at step 50").waitFor();
      await progressLine(page, "Step 50 of 90");
      await scene.append("a", rows(51, 75) + event("sample", 75, { prompt: "Once", text: "step 75" }));
      await page.locator("#samples").getByText("step 75", { exact: true }).waitFor();
      await page.getByRole("button", { name: "Samples before" }).click();
      await page.getByRole("button", { name: "Samples before" }).click();
      await page.locator("#samples").getByText("a house at step 25").waitFor();
      assert.match(await page.locator(".hash").textContent(), /^[0-9a-f]{64}$/);
      await page.locator("#recipe summary").click();
      assert.match(await page.locator("#recipe pre").textContent(), /steps = 90/);
    },
  },
  {
    name: "a run whose file ends in hundreds of samples, or in the zeros of a cut of power, shows its rows",
    before: async (scene) => {
      const begun = event("began", 0, { steps: 400 }) + rows(1, 200);
      await scene.write("samples", begun + event("sample", 200, { prompt: "Once", text: "x".repeat(400) }).repeat(300));
      await scene.write("zeros", `${begun}${"\0".repeat(100_000)}`);
    },
    hash: "#run=samples",
    async run({ page }) {
      await progressLine(page, "Step 200 of 400");
      await page.locator("button.run", { hasText: "zeros" }).click();
      await page.waitForFunction(() => document.querySelector("h1").textContent === "zeros");
      await progressLine(page, "Step 200 of 400");
      assert.ok(await page.locator("#chart-loss").isVisible());
      assert.equal(await page.locator(".run-state[data-state=stopped]").count(), 2);
    },
  },
  {
    name: "a run whose loss was no number at last has none in the list",
    before: (scene) => scene.write("a", rows(1, 9) + row(10, { more: { loss: null } })),
    async run({ page }) {
      await progressLine(page, "Step 10");
      assert.match(await page.locator("#runs .figures").textContent(), /^pretrain 10 · \d+ s ago$/);
    },
  },
  {
    name: "the recipe is that of the stage that runs, and of the run when its process has ended",
    nothing: true,
    before: async (scene) => {
      await scene.write("a", "");
      await scene.write("a", "# as somebody wrote it\n", "recipe.toml");
    },
    async run({ page, scene }) {
      const recipe = (text) => page.locator("#recipe pre", { hasText: text }).waitFor({ state: "attached" });
      const letGo = await scene.hold("a");
      await page.getByText("Preparing", { exact: true }).waitFor();
      await scene.append("a", rows(1, 3));
      await recipe("as somebody wrote it");
      await scene.write("a", "[pretrain]\nsteps = 70\n", "settings.toml");
      await scene.append("a", event("began", 0, { steps: 70 }) + rows(4, 70));
      await recipe("steps = 70");
      await scene.write("a", "[sft]\nepochs = 2\n", "settings.toml");
      await scene.append("a", event("began", 0, { steps: 9, stage: "sft" }) + rows(1, 5, { stage: "sft" }));
      await recipe("epochs = 2");
      await scene.write("a", "[sft]\nepochs = 3\n", "settings.toml");
      await letGo();
      await recipe("epochs = 3");
    },
  },
  {
    name: "a run that cannot be read is told of and holds up no other, and is asked for as often as the list",
    offline: true,
    before: async (scene) => {
      await scene.write("broken", rows(1, 50));
      await scene.write("whole", rows(1, 60));
    },
    hash: "#run=whole",
    async run({ page, scene }) {
      let asked = 0;
      let lists = 0;
      page.on("request", (request) => request.url().endsWith("/api/runs") && (lists += 1));
      await page.route(/broken\/columns/, (route) => {
        asked += 1;
        return route.fulfill({ status: 500, json: { error: { message: "the disk hums" } } });
      });
      await page.locator("button.run", { hasText: "broken" }).click();
      await page.getByText("This run cannot be read").waitFor();
      await page.locator("#banner", { hasText: "broken: the disk hums" }).waitFor();
      const [before, listed] = [asked, lists];
      while (lists < listed + 3) await page.waitForResponse(/\/api\/runs$/);
      assert.ok(asked > before && asked - before <= lists - listed + 1, `${asked - before} times in ${lists - listed} lists`);
      await page.getByLabel("Show whole with the others").check();
      await scene.append("whole", rows(61, 70));
      await page.locator("#compared tbody tr", { hasText: "whole" }).getByText("70", { exact: true }).waitFor();
      await page.unroute(/broken\/columns/);
      await page.locator("#compared tbody tr", { hasText: "broken" }).getByText("50", { exact: true }).waitFor();
      assert.ok(await page.locator("#banner").isHidden());
    },
  },
  {
    name: "a server that goes away is told of, and what was missed is fetched when it is back",
    offline: true,
    before: (scene) => scene.write("a", rows(1, 50)),
    async run({ page, scene, binary }) {
      await progressLine(page, "Step 50");
      await scene.hold("a");
      await page.locator("#state[data-state=live]").waitFor();
      await scene.stop();
      await page.getByText("The server cannot be reached.").waitFor();
      await page.locator("#state[data-state=lost]").waitFor();
      await scene.append("a", rows(51, 70));
      await scene.serve({ binary, port: scene.port });
      await page.getByRole("button", { name: "Try now" }).click({ timeout: 1000 }).catch(() => {});
      await progressLine(page, "Step 70");
      await page.locator("#state[data-state=live]").waitFor();
      assert.ok(await page.locator("#banner").isHidden());
    },
  },
];
