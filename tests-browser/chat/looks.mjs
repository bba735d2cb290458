// Every state in dark and light, narrow and wide: nothing runs out of the screen, axe-core has nothing serious to say.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const RICH = `say # Building a house

A house begins with **ground**. What follows is set as a page of text, in a column that the eye can hold, with lines that have room.

1. Dig
2. Pour concrete
   - a point within
   - another with \`inline code\`

\`\`\`rust
let a_long_line = "that does not fit into the narrow column of a phone and must scroll on its own, not with the page";
\`\`\`

| Material | Price per square metre | Lasts | Comes from | Weighs |
|---|---:|:---:|---|---|
| Wood | 40 | 60 years | the forests of Bohemia | little |
| Brick | 75 | 200 years | clay | much |

> A quiet quotation.

${"Averylongword".repeat(20)} and [a link](https://example.org/).`;

/** Nothing reaches out of the screen but inside a box that scrolls by itself; no text ends outside of its button. */
function faultsInPage() {
  const faults = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) faults.push(`horizontal overflow: ${document.documentElement.scrollWidth} px in ${width}`);
  const scrolls = (element) => {
    for (let e = element.parentElement; e && e !== document.body; e = e.parentElement) if (["auto", "scroll"].includes(getComputedStyle(e).overflowX)) return e.id !== "transcript";
    return false;
  };
  for (const element of document.body.querySelectorAll("*")) {
    if (!element.checkVisibility({ visibilityProperty: true }) || scrolls(element) || element.closest(".offscreen, .skip, svg, option")) continue;
    const box = element.getBoundingClientRect();
    if (box.width > 0 && (box.right > width + 1 || box.left < -1)) faults.push(`out of the screen: ${element.tagName} .${element.className} ${box.left}-${box.right}`);
  }
  const transcript = document.getElementById("transcript");
  if (transcript.scrollWidth > transcript.clientWidth) faults.push(`the transcript overflows: ${transcript.scrollWidth} in ${transcript.clientWidth}`);
  return faults;
}

async function look(chat, name, pictures) {
  const { page } = chat;
  // Drawn, and measured by those who watch sizes.
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
  assert.deepEqual(await page.evaluate(faultsInPage), [], name);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html.slice(0, 120)} ${node.any[0]?.message ?? ""}`).slice(0, 3).join(" | ")}`), [], `${name}: axe-core`);
}

const looks = (scheme, width) => ({
  name: `looks: ${scheme}, ${width} px: overflow and axe-core in every state`,
  scheme,
  viewport: { width, height: 860 },
  real: true,
  async run({ chat, mock, pictures }) {
    const { page } = chat;
    chat.networkFaultsAllowed = true;
    // The page's own policy forbids script from strings; the debugger may.
    await page.evaluate(axe);
    const shot = (state) => look(chat, `chat-${scheme}-${width}-${state}`, pictures);
    await shot("empty");
    await chat.ask("How do I build a house? I have some land near the river, and little money.");
    await chat.ask(RICH);
    await shot("rich");
    await page.$eval("#transcript", (e) => (e.scrollTop = 0));
    await shot("top");
    if (width > 1280) return;
    await page.click("#toggle-settings");
    await page.fill("#setting-temperature", "77");
    await shot("settings");
    await page.fill("#setting-temperature", "");
    await page.click("#close-settings");
    await page.click("#toggle-details");
    await page.waitForSelector("#chart canvas");
    await shot("speed");
    await page.click("#close-details");
    if (await page.$eval("#sidebar", (e) => e.hidden)) await page.click("#toggle-sidebar");
    await page.fill("#search", "house");
    await page.waitForSelector("#conversations mark");
    await shot("search");
    await page.fill("#search", "");
    await page.waitForSelector("#conversations h2");
    await page.locator("#conversations .icon-button").first().click();
    await shot("menu");
    await page.keyboard.press("Escape");
    if (width < 600) await page.keyboard.press("Escape");
    await page.click("#help");
    await shot("help");
    await page.keyboard.press("Escape");
    await chat.users.last().hover();
    await chat.users.last().locator("[data-do=edit]").click();
    await shot("edit");
    await page.locator(".editor textarea").press("Escape");
    if (!mock) return;
    mock.control.faults.push({ match: /POST .*\/messages$/, status: 503, retryAfter: 600 });
    await chat.field.fill("one more");
    await chat.field.press("Enter");
    await page.waitForSelector(".banner.waiting:visible");
    await shot("waiting");
    await page.getByRole("button", { name: "Cancel" }).click();
    mock.control.faults.push({ match: /POST .*\/messages$/, status: 400, message: "The conversation is longer than the model's context." });
    await chat.field.press("Enter");
    await page.waitForSelector(".banner.failure:visible");
    await shot("refused");
    await page.getByRole("button", { name: "Close", exact: true }).click();
    mock.control.faults.push({ match: /GET .*\/events$/, status: 500, message: "The model fell over." });
    await chat.field.press("Enter");
    await page.waitForSelector("article .failure");
    await shot("failed");
    mock.control.tokenMs = 2000;
    await chat.send("slow");
    await page.waitForSelector("article.live");
    await shot("thinking");
    mock.control.tokenMs = 1;
    mock.control.key = "secret";
    await page.reload();
    await page.waitForSelector("#key");
    await page.evaluate(axe);
    await shot("key");
  },
});

export const tests = [
  ...[360, 1280, 2000].flatMap((width) => ["light", "dark"].map((scheme) => looks(scheme, width))),
  {
    name: "theme: the switch goes from the system's to light and dark, and is kept",
    scheme: "dark",
    async run({ chat }) {
      const ground = () => chat.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const dark = await ground();
      await chat.page.click("#theme");
      const light = await ground();
      assert.notEqual(dark, light);
      await chat.page.reload();
      await chat.ready();
      assert.equal(await ground(), light);
      await chat.page.click("#theme");
      assert.equal(await ground(), dark);
    },
  },
  {
    name: "reduced motion: nothing moves",
    async run({ chat, mock }) {
      await chat.page.emulateMedia({ reducedMotion: "reduce" });
      mock.control.tokenMs = 5000;
      await chat.send("hello");
      await chat.page.waitForSelector(".pulse");
      assert.equal(await chat.page.evaluate(() => document.getAnimations().length), 0);
    },
  },
];
