// The dashboard in dark and light, narrow and wide: nothing runs out of the screen, axe-core has nothing serious to say.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { event, row, rows } from "./scene.mjs";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RECIPE = await readFile(new URL("../../recipes/small-cpu.toml", import.meta.url), "utf8").catch(() => "[pretrain]\nsteps = 1200\n");

/** Nothing reaches out of the screen but inside a box that scrolls by itself, and nothing says what is no number. */
function faultsInPage() {
  const faults = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) faults.push(`horizontal overflow: ${document.documentElement.scrollWidth} px in ${width}`);
  const main = document.getElementById("scroll");
  if (main.scrollWidth > main.clientWidth) faults.push(`the page overflows: ${main.scrollWidth} in ${main.clientWidth}`);
  const scrolls = (element) => {
    for (let e = element.parentElement; e && e !== document.body; e = e.parentElement) if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return true;
    return false;
  };
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility({ visibilityProperty: true }) || scrolls(element) || element.closest(".offscreen, .skip, svg")) continue;
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.right > width + 1 || box.left < -1)) faults.push(`out of the screen: ${element.tagName} .${element.className} ${box.left}-${box.right}`);
  }
  for (const element of document.querySelectorAll("dd, td, .readout, .progress-line")) {
    if (/\b(NaN|undefined|Infinity|null)\b/.test(element.textContent)) faults.push(`not a number: ${element.textContent}`);
  }
  return faults;
}

async function look({ page, picture, pictures }, name) {
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  await picture(name);
  if (pictures) {
    // All of it, at its full height.
    const [size, height] = [page.viewportSize(), await page.evaluate(() => document.getElementById("scroll").scrollHeight + 80)];
    await page.setViewportSize({ width: size.width, height });
    await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 300)));
    await page.screenshot({ path: join(pictures, `${name}-all.png`) });
    await page.setViewportSize(size);
  }
  assert.deepEqual(await page.evaluate(faultsInPage), [], name);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html.slice(0, 120)} ${node.any[0]?.message ?? ""}`).slice(0, 3).join(" | ")}`), [], `${name}: axe-core`);
}

/** Pixels of each colour of the runs that are on a chart's canvas. */
async function inks(page, id) {
  // What is out of sight is not drawn.
  await page.locator(`#chart-${id}`).scrollIntoViewIfNeeded();
  await page.waitForSelector(`#chart-${id} canvas`);
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  return page.evaluate(inksInPage, id);
}

function inksInPage(chart) {
  const canvas = document.querySelector(`#chart-${chart} canvas`);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const colours = [...Array(8).keys()].map((n) => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--series-${n})`;
    const [r, g, b] = getComputedStyle(probe).color.match(/\d+/g).map(Number);
    probe.remove();
    return [r, g, b];
  });
  return colours.map(([r, g, b]) => {
    let count = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200 && Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12) count += 1;
    return count;
  });
}

const looks = (scheme, width) => ({
  name: `looks: ${scheme}, ${width} px: overflow and axe-core, one run and several`,
  scheme,
  viewport: { width, height: 860 },
  hash: "#run=evening",
  before: async (scene) => {
    const sample = (step) => event("sample", step, { prompt: "The sun", text: ` is a star at the centre of the solar system. It gives light and heat to the Earth, and plants use that light to grow (step ${step}).` }) + event("sample", step, { prompt: "Water", text: " boils at one hundred degrees, and freezes at zero." });
    await scene.write("morning", rows(1, 900, { seed: 4, floor: 2.55 }));
    await scene.write("evening", event("began", 0, { steps: 1200, tokens_per_step: 8192 }) + rows(1, 300) + sample(300) + event("resumed", 300) + rows(301, 600) + sample(600)
      + event("slow_step", 580, { seconds: 4.2, usual: 0.41, machine: { cpu_mhz: 1800, hottest_celsius: 96 } }) + event("checkpoint_failed", 600, { reason: "/home/casa/runs/evening/checkpoints: the disk is full: 1.2 GB needed, 0.3 GB free" }) + row(601));
    await scene.write("evening", RECIPE, "settings.toml");
    await scene.hold("evening");
  },
  async run(tools) {
    const { page } = tools;
    // The page's own policy forbids script from strings; the debugger may.
    await page.evaluate(axe);
    await look(tools, `runs-${scheme}-${width}-one`);
    const [first, second] = await inks(page, "loss");
    assert.ok(first > 100 && second === 0, `${first} and ${second} pixels of the first two colours`);
    if (width < 800) await page.locator("#toggle-sidebar").click();
    await page.getByLabel("Show morning with the others").check();
    if (width < 800) {
      await look(tools, `runs-${scheme}-${width}-list`);
      await page.keyboard.press("Escape");
    }
    await page.locator("#compared tbody tr").nth(1).waitFor();
    await page.waitForFunction(() => document.querySelectorAll("#chart-loss .entry").length === 2);
    await look(tools, `runs-${scheme}-${width}-two`);
    const both = await inks(page, "loss");
    assert.ok(both[0] > 100 && both[1] > 100, `${both} pixels of the colours`);
    await page.getByLabel("Log scale").check();
    await look(tools, `runs-${scheme}-${width}-log`);
  },
});

export const tests = [[1280, "light"], [1280, "dark"], [360, "light"], [360, "dark"]].map(([width, scheme]) => looks(scheme, width));
