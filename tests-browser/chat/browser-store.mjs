// `--ephemeral`: conversations stay in the browser.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

export const tests = [
  {
    name: "in the browser: send, title, branch, search, delete, over reloads, and nothing on the server",
    mock: { storage: "browser" },
    async run({ chat, mock }) {
      await chat.ask("words 30");
      assert.match(await chat.answers.last().locator(".figures").innerText(), /100 tokens\/s · first token after 42 ms · 3 of/);
      await chat.ask("second");
      const before = await chat.texts();
      await chat.page.reload();
      await chat.messages.nth(3).waitFor();
      assert.deepEqual(await chat.texts(), before);
      assert.equal(await chat.page.locator("#title").innerText(), "words 30");
      await chat.field.press("ArrowUp");
      await chat.page.locator(".editor textarea").fill("second, again");
      await chat.page.locator(".editor textarea").press("Enter");
      await chat.page.waitForSelector(".user .branches");
      await chat.idle();
      assert.equal(await chat.users.nth(1).locator(".branches").innerText(), "2 / 2");
      await chat.answers.last().locator("[data-do=regenerate]").click();
      await chat.page.waitForSelector(".assistant .branches");
      await chat.idle();
      await chat.page.fill("#search", "again");
      await chat.page.waitForSelector("#conversations mark");
      assert.equal(mock.conversations.size + mock.messages.size, 0);
      await chat.page.locator("#conversations li").first().hover();
      await chat.page.locator("#conversations .icon-button").first().click();
      await chat.page.getByRole("menuitem", { name: "Delete" }).click();
      await chat.page.locator("dialog .danger").click();
      await chat.page.waitForSelector(".empty-title");
    },
  },
  {
    name: "in the browser: stop, and a reload in the middle keeps what there was",
    mock: { storage: "browser" },
    async run({ chat }) {
      await chat.send("words 500");
      await chat.streaming();
      await chat.page.keyboard.press("Escape");
      await chat.idle();
      assert.equal(await chat.answers.last().locator(".ending").innerText(), "Stopped");
      await chat.send("words 3000");
      await chat.page.waitForFunction(() => [...document.querySelectorAll("article.assistant .text")].at(-1).textContent.length > 3000);
      await chat.page.reload();
      await chat.messages.nth(3).waitFor();
      await chat.idle();
      assert.equal(await chat.answers.last().locator(".ending").innerText(), "Stopped");
      assert.match(await chat.lastAnswer(), /^word0 word1/);
    },
  },
  {
    name: "in the browser: export and import, and files that are no export",
    mock: { storage: "browser" },
    async run({ chat }) {
      await chat.ask("export me");
      const texts = await chat.texts();
      const download = chat.page.waitForEvent("download");
      await chat.page.click("#export-all");
      const text = await readFile(await (await download).path(), "utf8");
      const choose = (file) => chat.page.setInputFiles("#import-file", { name: "export.json", mimeType: "application/json", buffer: Buffer.from(file) });
      const before = chat.page.url();
      await choose(text);
      await chat.page.waitForFunction((url) => location.href !== url && document.querySelectorAll("article.message").length === 2, before);
      assert.deepEqual(await chat.texts(), texts);
      const cycle = { conversations: [{ conversation: {}, messages: [{ id: "a", parent_id: "b", role: "user", content: "x" }] }] };
      for (const [bad, expected] of [["{ no", /not JSON/], ["[1]", /no conversation/], [JSON.stringify(cycle), /not in order/],
        [JSON.stringify(cycle).replace("\"b\"", "null").replace("user", "system"), /nobody's/]]) {
        await choose(bad);
        await chat.page.waitForFunction((pattern) => new RegExp(pattern).test(document.querySelector(".banner.failure")?.textContent ?? ""), expected.source);
      }
      assert.equal(await chat.page.locator("#conversations li").count(), 2);
    },
  },
];
