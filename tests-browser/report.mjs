// Opens the report of a run in Chromium, light and dark, narrow and wide, and fails on anything that a reader would
// stumble over. Then damages the page in every way that is checked: a check that does not notice fails too.
//
//     node report.mjs RUN/report.html [folder for screenshots]

import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { faultsInPage } from "./faults.mjs";

const [file, screenshots] = process.argv.slice(2);
if (!file) {
  console.error("usage: node report.mjs REPORT.html [SCREENSHOTS]");
  process.exit(2);
}
const report = resolve(file);
const views = ["light", "dark"].flatMap((scheme) => [390, 1400].map((width) => ({ scheme, width })));

/** Every fault of a page in one view: what the page shows, what the console says, what it asks of the network. */
async function faultsOf(browser, path, { scheme, width }, picture) {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: 900 } });
  const page = await context.newPage();
  const faults = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`script error: ${error.message}`));
  page.on("request", (request) => {
    const url = request.url();
    if (url !== pathToFileURL(path).href && !url.startsWith("data:")) faults.push(`request: ${url}`);
  });
  await page.goto(pathToFileURL(path).href, { waitUntil: "load" });
  // What is folded away has to be right as well.
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  faults.push(...(await page.evaluate(faultsInPage)));
  if (picture) await page.screenshot({ path: picture, fullPage: true });
  await context.close();
  return faults;
}

/** Ways to damage a report, and the fault that each must be found by. */
const damages = [
  ["faint text", /contrast/, (html) => html.replace("</style>", "p { color: #808080; }</style>")],
  ["tiny letters", /letters of/, (html) => html.replace("</style>", ".lead { font-size: 6px; }</style>")],
  ["a wide box", /horizontal overflow/, (html) => html.replace("<main>", '<main><div style="width:3000px">x</div>')],
  ["no curve", /without a curve/, (html) => html.replaceAll(/(<path class="series[^"]*" d=")[^"]*"/g, '$1M0 0"')],
  ["no chart", /charts, not one/, (html) => html.replaceAll('class="chart"', 'class="gone"')],
  ["a missing number", /not a number/, (html) => html.replace("<dd>", "<dd>NaN ")],
  [
    "an answer without a line of its own",
    /runs on/,
    (html) => html.replace("<main>", '<main><p><span class="prompt">Hello?</span>Hi.</p>'),
  ],
  ["one direction for all", /own direction/, (html) => html.replaceAll("unicode-bidi: plaintext", "unicode-bidi: isolate")],
  ["a script", /console/, (html) => html.replace("<main>", "<main><script>1</script>")],
  ["a broken link", /link to nowhere/, (html) => html.replace('href="#', 'href="#no-')],
  [
    "a picture from elsewhere",
    /request|console/,
    (html) => html.replace("<main>", '<main><img alt="" src="picture.png">'),
  ],
];

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
if (!existsSync(executablePath)) {
  console.error(`no Chromium at ${executablePath}: install it, or name one in CHROMIUM`);
  process.exit(2);
}
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const scratch = await mkdtemp(join(tmpdir(), "casallm-report-"));
let passed = 0;
let failed = 0;
const tell = (what, faults) => {
  console.log(`test ${what} ... ${faults.length ? "FAILED" : "ok"}`);
  faults.forEach((fault) => console.log(`    ${fault}`));
  faults.length ? (failed += 1) : (passed += 1);
};
try {
  if (screenshots) await mkdir(screenshots, { recursive: true });
  for (const view of views) {
    const name = `${view.scheme} ${view.width}px`;
    const picture = screenshots && join(screenshots, `report-${view.scheme}-${view.width}.png`);
    tell(`report, ${name}`, await faultsOf(browser, report, view, picture));
  }
  const html = await readFile(report, "utf8");
  for (const [name, expected, damage] of damages) {
    const damaged = damage(html);
    const path = join(scratch, "damaged.html");
    await writeFile(path, damaged);
    const found = await faultsOf(browser, path, views[0]);
    const noticed = damaged !== html && found.some((fault) => expected.test(fault));
    tell(`damage is noticed: ${name}`, noticed ? [] : [`found only: ${found.join("; ") || "nothing"}`]);
  }
} finally {
  await browser.close();
  await rm(scratch, { recursive: true });
}
console.log(`\ntest result: ${failed ? "FAILED" : "ok"}. ${passed} passed; ${failed} failed`);
process.exit(failed ? 1 : 0);
