// A million rows: how long they take to be there, and how the charts move.

import assert from "node:assert/strict";
import { createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { once } from "node:events";
import { row } from "./scene.mjs";

const ROWS = 1_000_000;
const FRAMES = 90;
/** Lines that one frame may draw in all charts together, however many rows there are. */
const MOST_LINES = 150_000;

async function write(scene) {
  await mkdir(scene.path("million", ""), { recursive: true });
  const out = createWriteStream(scene.path("million"), { highWaterMark: 8 << 20 });
  for (let from = 1; from <= ROWS; from += 10_000) {
    let text = "";
    for (let step = from; step < from + 10_000; step += 1) text += row(step, { every: 1000 });
    if (!out.write(text)) await once(out, "drain");
  }
  out.end();
  await once(out, "finish");
}

/** Counts what is drawn; when the loss was drawn first, and of how many rows, in milliseconds since the page was asked for. */
function watchInPage() {
  globalThis.lines = 0;
  const lineTo = CanvasRenderingContext2D.prototype.lineTo;
  CanvasRenderingContext2D.prototype.lineTo = function (x, y) {
    globalThis.lines += 1;
    return lineTo.call(this, x, y);
  };
  const watch = () => {
    const canvas = document.querySelector("#chart-loss:not([hidden]) canvas");
    if (!canvas || globalThis.lines < 500) return requestAnimationFrame(watch);
    // What was drawn in this frame is seen in the next.
    requestAnimationFrame(() => (globalThis.shownAfter = performance.now()));
  };
  requestAnimationFrame(watch);
}

/** Moves a zoomed view a little at every frame, for so many frames. Runs in the page. */
async function moveInPage(frames) {
  const over = document.querySelector("#chart-loss .u-over");
  const box = over.getBoundingClientRect();
  const fire = (type, x) => over.dispatchEvent(new PointerEvent(type, { pointerId: 1, bubbles: true, clientX: box.left + x, clientY: box.top + 50, button: 0, shiftKey: true, pointerType: "mouse" }));
  over.setPointerCapture = () => {};
  const next = () => new Promise((resolve) => requestAnimationFrame(resolve));
  fire("pointerdown", 700);
  await next();
  const [lines, times] = [[], []];
  for (let frame = 0; frame < frames; frame += 1) {
    globalThis.lines = 0;
    fire("pointermove", 700 - 5 * frame);
    times.push(await next());
    await Promise.resolve();
    lines.push(globalThis.lines);
  }
  fire("pointerup", 200);
  const gaps = times.slice(1).map((time, i) => time - times[i]).sort((a, b) => a - b);
  return { lines: Math.max(...lines), still: lines.filter((count) => count === 0).length, median: gaps[gaps.length >> 1], worst: gaps.at(-1), rate: (1000 * gaps.length) / (times.at(-1) - times[0]) };
}

export const tests = [
  {
    name: "a million rows are there at once and move with the pointer",
    unopened: true,
    before: write,
    async run({ page, scene, tell, bar }) {
      const begun = performance.now();
      const response = await fetch(new URL("../api/runs/million/columns", scene.url));
      const bytes = (await response.arrayBuffer()).byteLength;
      const first = performance.now() - begun;
      await page.addInitScript(watchInPage);
      await page.goto(scene.url);
      await page.waitForFunction(() => globalThis.shownAfter);
      const shown = await page.evaluate(() => globalThis.shownAfter);
      await page.waitForFunction((count) => document.querySelector(".progress-line")?.textContent.includes(`Step ${count}`), ROWS.toLocaleString("en"));
      tell(`${ROWS.toLocaleString("en")} rows, ${(bytes / 1e6).toFixed(0)} MB of columns: the server had read the file after ${first.toFixed(0)} ms, the page showed it ${shown.toFixed(0)} ms after it was asked for`);
      // A third of it is seen, then moved.
      await page.locator("#chart-loss").focus();
      await page.keyboard.press("+");
      await page.keyboard.press("+");
      const moved = await page.evaluate(moveInPage, FRAMES);
      const drawn = await page.evaluate(() => [...document.querySelectorAll(".chart-card:not([hidden]) canvas")].length);
      tell(`${FRAMES} frames of moving ${drawn} charts: ${moved.rate.toFixed(1)} a second, ${moved.median.toFixed(1)} ms in the middle, ${moved.worst.toFixed(1)} ms at worst, ${moved.lines} lines at most`);
      assert.ok(moved.lines > 500 && moved.lines < MOST_LINES, `${moved.lines} lines in a frame`);
      assert.ok(moved.still <= 3, `${moved.still} of ${FRAMES} frames stood still`);
      if (bar) {
        assert.ok(shown < 1000, `${shown} ms until a million rows were shown`);
        assert.ok(moved.rate >= 58, `${moved.rate} frames a second`);
      }
    },
  },
];
