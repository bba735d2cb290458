// Uses the dashboard of training runs in Chromium, with the real server and runs that are written meanwhile.
//
//     node runs.mjs ../target/release/casallm
//     node runs.mjs BINARY --only WORDS        tests whose names have these words; may be given more than once
//     node runs.mjs BINARY --pictures FOLDER   with screenshots
//     node runs.mjs BINARY --bar               a million rows must load in a second and move at 60 frames a second
//     node runs.mjs BINARY --web ../web        the page's files from here, not those in the binary

import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { extname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { Scene } from "./runs/scene.mjs";
import { tests as showing } from "./runs/showing.mjs";
import { tests as arithmetic } from "./runs/arithmetic.mjs";
import { tests as alarms } from "./runs/alarms.mjs";
import { tests as looks } from "./runs/looks.mjs";
import { tests as million } from "./runs/million.mjs";

const { values, positionals } = parseArgs({ allowPositionals: true, options: { bar: { type: "boolean" }, only: { type: "string", multiple: true }, pictures: { type: "string" }, web: { type: "string" } } });
const binary = positionals[0] && resolve(positionals[0]);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
if (!binary || !existsSync(binary) || !existsSync(executablePath)) {
  console.error(binary && existsSync(binary) ? `no Chromium at ${executablePath}: install it, or name one in CHROMIUM` : "usage: node runs.mjs BINARY [--only WORDS] [--pictures FOLDER] [--bar]");
  process.exit(2);
}
if (values.pictures) await mkdir(values.pictures, { recursive: true });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const AT_ONCE = 4;
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
/** Chromium's own line for a request that failed; some tests make them fail on purpose. */
const NETWORK = /Failed to load resource|net::ERR/;

/** The page's files from a folder, with the server's headers. */
async function fromFolder(context, url) {
  const policy = (await fetch(url)).headers.get("content-security-policy");
  await context.route(/\/(runs\/|assets\/.*)$/, async (route) => {
    const path = new URL(route.request().url()).pathname;
    const name = path === "/runs/" ? "runs/index.html" : path.replace("/assets/", "");
    await route.fulfill({ body: await readFile(join(values.web, name)), headers: { "content-type": TYPES[extname(name)], "content-security-policy": policy } });
  });
}

async function tried(test) {
  const lines = [];
  const scene = await Scene.make();
  const context = await browser.newContext({ viewport: test.viewport ?? { width: 1280, height: 860 }, colorScheme: test.scheme ?? "light", isMobile: test.phone, hasTouch: test.phone });
  const faults = [];
  let error = null;
  try {
    await test.before?.(scene);
    await scene.serve({ binary });
    if (values.web) await fromFolder(context, scene.url);
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on("console", (message) => message.type() === "error" && !(test.offline && NETWORK.test(message.text())) && faults.push(`console: ${message.text()}`));
    page.on("pageerror", (fault) => faults.push(`script error: ${fault.message}`));
    page.on("request", (request) => new URL(request.url()).origin !== new URL(scene.url).origin && faults.push(`request to elsewhere: ${request.url()}`));
    if (!test.unopened) await page.goto(scene.url + (test.hash ?? ""));
    if (!test.unopened && !test.nothing) await page.waitForSelector("#chart-loss:visible");
    const picture = async (name) => values.pictures && page.screenshot({ path: join(values.pictures, `${name}.png`) });
    await test.run({ page, scene, context, binary, picture, pictures: values.pictures, bar: values.bar, tell: (line) => lines.push(line) });
    assert.deepEqual(faults, []);
  } catch (caught) {
    error = caught;
    if (faults.length) lines.push(...faults);
  } finally {
    await context.close();
    await scene.close();
  }
  return { error, lines };
}

let [passed, failed] = [0, 0];
const wanted = (name) => !values.only || values.only.some((words) => name.includes(words));
/** Most of a test is waiting, so that several run at once. */
async function all(tests, atOnce) {
  const left = tests.filter(({ name }) => wanted(name));
  const worker = async () => {
    for (let test = left.shift(); test; test = left.shift()) {
      const begun = performance.now();
      const { error, lines } = await tried(test);
      console.log(`test ${test.name} ... ${error ? "FAILED" : "ok"} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
      lines.forEach((line) => console.log(`    ${line}`));
      if (error) console.log(String(error.stack ?? error).replace(/^/gm, "    "));
      error ? (failed += 1) : (passed += 1);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}
await all([...arithmetic, ...showing, ...alarms, ...looks], AT_ONCE);
// What is measured is measured alone.
await all(million, 1);
await browser.close();
console.log(`\ntest result: ${failed ? "FAILED" : "ok"}. ${passed} passed; ${failed} failed`);
process.exit(failed ? 1 : 0);
