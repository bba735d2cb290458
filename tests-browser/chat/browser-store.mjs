// `--ephemeral`: conversations stay in the browser.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { Chat } from "./driver.mjs";

/** Waits until the answer that is written shows this word. */
const shown = (chat, word) => chat.page.waitForFunction((word) => [...document.querySelectorAll("article.live .text")].at(-1)?.textContent.includes(word), word);
const asked = (mock) => mock.control.requests.filter((line) => line === "POST /v1/chat/completions").length;

export const tests = [
  {
    name: "in the browser: send, title, branch, search, delete, over reloads, and nothing on the server",
    mock: { storage: "browser" },
    async run({ chat, mock }) {
      await chat.page.evaluate(() => (navigator.storage.persist = async () => (window.askedToPersist = true)));
      await chat.ask("words 30");
      assert.equal(await chat.page.evaluate(() => window.askedToPersist), true);
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
    name: "in the browser: a stopped answer keeps all that was shown of it",
    mock: { storage: "browser", holdAfter: 40 },
    async run({ chat }) {
      await chat.send("words 100");
      await shown(chat, "word18");
      const before = await chat.lastAnswer();
      await chat.page.keyboard.press("Escape");
      await chat.idle();
      const after = await chat.lastAnswer();
      assert.ok(after.startsWith(before), `${before} | ${after}`);
      await chat.page.reload();
      await chat.answers.first().waitFor();
      assert.equal(await chat.lastAnswer(), after);
    },
  },
  {
    name: "in the browser: a second tab waits for the answer of the first, and can stop it",
    mock: { storage: "browser", holdAfter: 40 },
    async run({ chat, mock }) {
      await chat.send("words 60");
      await shown(chat, "word18");
      const second = await new Chat(chat.context, chat.url).open(new URL(chat.page.url()).hash);
      await second.page.waitForSelector("article.live");
      mock.control.holdAfter = Infinity;
      for (const tab of [chat, second]) {
        await tab.idle();
        assert.match(await tab.lastAnswer(), /^word0 .* word59$/);
      }
      assert.equal(asked(mock), 1);
      mock.control.holdAfter = 40;
      await chat.send("words 70");
      await shown(chat, "word18");
      await second.page.reload();
      await second.page.waitForSelector("article.live");
      await second.page.click(".send");
      for (const tab of [second, chat]) {
        await tab.idle();
        assert.equal(await tab.answers.last().locator(".ending").innerText(), "Stopped");
        assert.match(await tab.lastAnswer(), /^word0 .*word18/);
      }
      assert.equal(asked(mock), 2);
      second.assertSound();
    },
  },
  {
    name: "in the browser: nothing is written back of what was deleted, and a full disk holds up no other answer",
    mock: { storage: "browser", holdAfter: 40 },
    async run({ chat, mock }) {
      await chat.send("words 100");
      await shown(chat, "word18");
      // Another tab deletes the answer just when this one has looked for it.
      await chat.page.evaluate(() => {
        let deleted = false;
        for (const name of ["get", "getKey"]) {
          const looked = IDBObjectStore.prototype[name];
          IDBObjectStore.prototype[name] = function (id) {
            const request = looked.call(this, id);
            if (this.name === "messages" && !deleted) this.transaction.db.transaction("messages", "readwrite").objectStore("messages").delete(id);
            deleted ||= this.name === "messages";
            return request;
          };
        }
      });
      await chat.page.keyboard.press("Escape");
      await chat.idle();
      await chat.page.reload();
      await chat.users.first().waitFor();
      assert.equal(await chat.answers.count(), 0);
      await chat.send("words 100");
      await shown(chat, "word18");
      await chat.page.evaluate(() => {
        const put = IDBObjectStore.prototype.put;
        Object.defineProperty(IDBTransaction.prototype, "error", { get: () => new DOMException("The disk is full.", "QuotaExceededError") });
        IDBObjectStore.prototype.put = function (record) {
          const request = put.call(this, record);
          this.transaction.abort();
          return request;
        };
      });
      mock.control.holdAfter = Infinity;
      await chat.idle();
      assert.match(await chat.answers.last().locator(".failure").innerText(), /The disk is full/);
      await chat.answers.last().evaluate(({ dataset }) => navigator.locks.request(`casallm.answer.${dataset.id}`, { signal: AbortSignal.timeout(9000) }, () => {}));
    },
  },
  {
    name: "in the browser: what another tab has deleted is said to be gone, and stays gone",
    mock: { storage: "browser", holdAfter: 40 },
    async run({ chat }) {
      const failure = chat.page.locator(".banner.failure", { hasText: "This conversation is not in this browser." });
      const database = (name) => chat.page.evaluate(async (name) => (await import("/assets/js/store/database.js"))[name](location.hash.slice(4)), name);
      await chat.send("words 100");
      await shown(chat, "word18");
      await database("removeConversation");
      await chat.page.keyboard.press("Escape");
      await chat.idle();
      assert.deepEqual(await database("messagesOf"), []);
      const tries = [
        () => chat.field.fill("and now?").then(() => chat.field.press("Enter")),
        () => chat.answers.first().locator("[data-do=regenerate]").click(),
      ];
      for (const again of tries) {
        await failure.getByRole("button", { name: "Close" }).click();
        await again();
        await failure.waitFor();
      }
      assert.equal(await chat.field.inputValue(), "and now?");
    },
  },
  {
    name: "in the browser: an answer without a speed, and a note that nothing reads, from a server's export and back",
    mock: { storage: "browser" },
    async run({ chat }) {
      const timing = { first_token_ms: 40, tokens_per_second: null };
      const file = JSON.stringify({ conversations: [{
        conversation: { title: "Short", leaf_id: "b" },
        messages: [{ id: "a", parent_id: null, role: "user", content: "Say one word." },
          { id: "b", parent_id: "a", role: "assistant", content: "House", status: "complete", timing }],
        notes: [{ id: "n", through_id: "a", text: "They spoke of a house.", tokens: 6, created_at: 1 }],
      }] });
      await chat.page.setInputFiles("#import-file", { name: "export.json", mimeType: "application/json", buffer: Buffer.from(file) });
      await chat.answers.first().waitFor();
      assert.equal(await chat.answers.first().locator(".figures").innerText(), "first token after 40 ms");
      assert.equal(await chat.page.locator("details.marker").count(), 0);
      const download = chat.page.waitForEvent("download");
      await chat.page.click("#export-all");
      const [stored] = JSON.parse(await readFile(await (await download).path(), "utf8")).conversations;
      assert.deepEqual(stored.messages[1].timing, timing);
      assert.deepEqual(stored.notes, []);
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
  {
    name: "in the browser: Markdown is what the server writes, and no message runs into the next",
    mock: { storage: "browser" },
    async run({ chat }) {
      // Of `crates/serve/src/store/markdown.rs`.
      const written = await chat.page.evaluate(async () => {
        const { markdownOf } = await import("/assets/js/store/transfer.js");
        const of = (title, system_prompt, contents) => markdownOf({
          conversation: { title, system_prompt, leaf_id: String(contents.length - 1) }, notes: [],
          messages: contents.map((content, i) => ({ id: String(i), parent_id: i ? String(i - 1) : null, role: i % 2 ? "assistant" : "user", content })),
        });
        return [
          of("Hi *there*", "", ["Hi *there*", "**Hello**\n\nyou", "Bye", ""]),
          of("a\nb <b> #\u2028", "Be `brief`.\n", ["```\nunfinished ````", "```js\r\nlet cut = 1;\n## User\n", "x\u2028y"]),
          of(" \n ", "", []),
        ];
      });
      assert.equal(written[0], "# Hi \\*there\\*\n\n## User\n\n```text\nHi *there*\n```\n\n## Assistant\n\n> **Hello**\n> \n> you\n\n## User\n\n```text\nBye\n```\n\n## Assistant\n\n> \n");
      assert.equal(written[1], "# a b \\<b\\> \\#\n\n## System prompt\n\n```text\nBe `brief`.\n```\n\n## User\n\n`````text\n```\nunfinished ````\n`````\n\n## Assistant\n\n> ```js\n> let cut = 1;\n> ## User\n\n## User\n\n```text\nx\u2028y\n```\n");
      assert.equal(written[2], "# Conversation\n");
    },
  },
];
