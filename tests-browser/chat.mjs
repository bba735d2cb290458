// Uses the chat page in Chromium as people do, and as they should not.
//
//     node chat.mjs                          against a server without a model (chat/mock.mjs), everything
//     node chat.mjs http://127.0.0.1:7860/   against a running `casallm serve`: what does not depend on the model's words
//     node chat.mjs --damages                and the page damaged on its way: a test that does not notice is none
//     node chat.mjs ... --only WORDS         tests whose names have these words; may be given more than once
//     node chat.mjs ... --pictures FOLDER    with screenshots

import { AssertionError } from "node:assert";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { runTest } from "./chat/runner.mjs";
import { tests as conversation } from "./chat/conversation.mjs";
import { tests as overflow } from "./chat/overflow.mjs";
import { tests as hostile } from "./chat/hostile.mjs";
import { tests as network } from "./chat/network.mjs";
import { tests as keyboard } from "./chat/keyboard.mjs";
import { tests as browserStore } from "./chat/browser-store.mjs";
import { tests as meanwhile } from "./chat/meanwhile.mjs";
import { tests as list } from "./chat/list.mjs";
import { tests as looks } from "./chat/looks.mjs";
import { tests as files } from "./chat/files.mjs";
import { damages } from "./chat/damages.mjs";

const AT_ONCE = 4;

const { values, positionals } = parseArgs({ allowPositionals: true, options: { damages: { type: "boolean" }, only: { type: "string", multiple: true }, pictures: { type: "string" } } });
const [server] = positionals;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
if (!existsSync(executablePath)) {
  console.error(`no Chromium at ${executablePath}: install it, or name one in CHROMIUM`);
  process.exit(2);
}
if (values.pictures) await mkdir(values.pictures, { recursive: true });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const all = [...files, ...conversation, ...overflow, ...hostile, ...network, ...keyboard, ...browserStore, ...meanwhile, ...list, ...looks];
const wanted = (name) => !values.only || values.only.some((words) => name.includes(words));
let passed = 0;
let failed = 0;

/** @param {string} name @param {string[]} lines @param {Error|null} error @param {number} begun */
function told(name, lines, error, begun) {
  console.log(`test ${name} ... ${error ? "FAILED" : "ok"} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
  lines.forEach((line) => console.log(`    ${line}`));
  if (error) console.log(String(error.stack ?? error).replace(/^/gm, "    "));
  error ? (failed += 1) : (passed += 1);
}

async function tried(test) {
  const begun = performance.now();
  const lines = [];
  const error = await runTest(browser, test, { server, pictures: values.pictures, tell: (line) => lines.push(line) });
  told(test.name, lines, error, begun);
}

/** The page is damaged on its way to the browser: a test that does not notice, or stumbles over something else, is none. */
async function damaged({ name, file, from, to, caughtBy, says }) {
  const begun = performance.now();
  let done = false;
  const damage = (path, text) => {
    if (path !== file) return undefined;
    const changed = text.replace(from, to);
    done ||= changed !== text;
    return changed;
  };
  const test = all.find((one) => one.name.includes(caughtBy));
  const error = await runTest(browser, test, { damage, tell: () => {}, impatient: true });
  const noticed = error instanceof AssertionError || says?.test(error?.message);
  const missed = done && noticed ? null : new Error(done ? `no test noticed: ${error?.stack ?? "it passed"}` : `${file} has nothing like: ${from}`);
  told(`damage is noticed: ${name}`, [], missed, begun);
}

const work = [
  ...all.filter((test) => (!server || test.real) && wanted(test.name)).map((test) => () => tried(test)),
  ...(values.damages ? damages : []).filter(({ name }) => wanted(`damage is noticed: ${name}`)).map((damage) => () => damaged(damage)),
];
// Most of a test is waiting, so that several run at once; one server with one model answers one after another.
const worker = async () => {
  for (let next = work.shift(); next; next = work.shift()) await next();
};
await Promise.all(Array.from({ length: server ? 1 : AT_ONCE }, worker));
await browser.close();
console.log(`\ntest result: ${failed ? "FAILED" : "ok"}. ${passed} passed; ${failed} failed`);
process.exit(failed ? 1 : 0);
