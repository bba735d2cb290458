// Sending, streaming, stopping, branches, reloads: what a conversation is made of.
// Tests marked `real` make no assumption about what the model says and also run against a server with a model.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const LONG = "words 250";

export const tests = [
  {
    name: "send: the answer streams, with its figures, and the title follows",
    real: true,
    async run({ chat, mock }) {
      if (mock) mock.control.holdAfter = 40;
      await chat.send(mock ? "words 60" : "Tell me a story about a house.");
      if (mock) {
        await chat.streaming();
        assert.equal(await chat.answers.last().getAttribute("aria-busy"), "true");
        mock.control.holdAfter = Infinity;
      }
      await chat.page.waitForSelector("article.assistant");
      await chat.idle();
      assert.match(await chat.answers.last().locator(".figures").innerText(), /tokens\/s · first token after .+ · \d[\d,]* of \d[\d,]* tokens reused/);
      assert.match(await chat.page.locator(".gauge-label").innerText(), /^[1-9][\d,]* of \d[\d,]* tokens of context$/);
      await chat.page.waitForFunction(() => document.title.endsWith("CasaLLM") && !document.title.startsWith("New chat"));
      assert.match(chat.page.url(), /#\/c\/./);
      if (mock) {
        assert.match(await chat.lastAnswer(), /^word0 .* word59$/s);
        assert.match(await chat.announced(), /^Answer: word0 word1/);
        assert.equal(await chat.page.locator("#title").innerText(), "words 60");
      }
    },
  },
  {
    name: "Markdown: blocks, code with a copy button, links that open elsewhere",
    async run({ chat, mock }) {
      await chat.context.grantPermissions(["clipboard-read", "clipboard-write"]);
      await chat.ask("say # Title\n\nSome *text*, <br> `code`.\n\n```python\nprint('a')\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n- [x] done\n\n[web](https://example.org/)");
      const answer = chat.answers.last();
      assert.equal(await answer.locator("h3").innerText(), "Title");
      assert.equal(await answer.locator("td").count(), 2);
      assert.equal(await answer.locator("td").nth(1).evaluate((cell) => getComputedStyle(cell).textAlign), "right");
      assert.equal(await answer.locator(".code-head span").innerText(), "python");
      await answer.locator(".code button").click();
      assert.equal(await chat.page.evaluate(() => navigator.clipboard.readText()), "print('a')\n");
      const link = answer.locator("a");
      assert.equal(await link.getAttribute("target"), "_blank");
      assert.match(await link.getAttribute("rel"), /noopener/);
      assert.match(await answer.innerText(), /☑ done/);
      await answer.locator("[aria-label='Copy answer']").click();
      assert.match(await chat.page.evaluate(() => navigator.clipboard.readText()), /^# Title\n\nSome \*text\*/);
    },
  },
  {
    name: "right to left: each block by its own first words, and code never",
    async run({ chat }) {
      await chat.ask("say Here it is:\n\nمرحبا (1).\n\n- שלום.\n\n  עולם `f(x);`\n- hello.\n\n> اقتباس.\n\n| اسم | a |\n|---|---|\n| بيت | b |\n\n```js\nf(a); // مرحبا\n```\n\nAnd that is *all*.");
      await chat.ask("say مرحبا:\n\n```js\nf(a);\n```\n\nHello (1).\n\n1. `let x;` واحد");
      const directions = await chat.page.$$eval("article.assistant", (answers) => answers.map((answer) =>
        [...answer.querySelector(".text").children].map((block) => `${block.className || block.localName} ${getComputedStyle(block).direction}`)));
      assert.deepEqual(directions, [
        ["p ltr", "p rtl", "ul rtl", "blockquote rtl", "table rtl", "code ltr", "p ltr"],
        ["p rtl", "code ltr", "p ltr", "ol rtl"],
      ]);
      assert.deepEqual(await chat.page.$$eval("article.assistant :is(code, pre)", (all) => [...new Set(all.map((code) => getComputedStyle(code).direction))]), ["ltr"]);
    },
  },
  {
    name: "server-sent events are the same wherever the network cuts them",
    async run({ chat }) {
      const read = await chat.page.evaluate(async () => {
        const { readEvents } = await import("/assets/js/sse.js");
        const bytes = new TextEncoder().encode(": ping\n\nevent: a\r\ndata: {\"é\": 1}\r\n\r\ndata:x\rdata: y\r\rid: 3\nretry: 5\n\ndata\n\nevent: cut off\ndata: no\n");
        const all = [];
        for (const size of [1, 2, 3, 5, 1000]) {
          const pieces = new ReadableStream({
            start(controller) {
              for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
              controller.close();
            },
          });
          const events = [];
          for await (const event of readEvents(pieces)) events.push(event);
          all.push(events);
        }
        return all;
      });
      for (const events of read) {
        assert.deepEqual(events, [{ type: "a", data: "{\"é\": 1}" }, { type: "message", data: "x\ny" }, { type: "message", data: "" }]);
      }
    },
  },
  {
    name: "what streamed is what it would be in one piece, wherever the pieces end",
    async run({ chat }) {
      const differences = await chat.page.evaluate(async () => {
        const { StreamingMarkdown } = await import("/assets/js/streaming-markdown.js");
        const { blocksOf, render } = await import("/assets/js/markdown.js");
        const text = "Intro\n#tag line\n\n# Head\ntext\n* * *\n- a\n- b\n\n  c\n\n1. x\n2. y\n\ntail\n---\n\n```js\nlet a;\n\n\nb\n```\nafter\n| a | b |\n|--|--|\n| 1 | 2 |\n\n> q\nlazy\n\n    indented\n\n<div>\nhtml\n\nA [ref] and ![pic](http://x.y/z)\n\n~~~\nopen\n~~~\n~~strike~~ **bold\nover lines**\r\nend\n\n";
        const plain = (element) => {
          element.normalize();
          return element.innerHTML;
        };
        const differences = [];
        for (const [source, sizes] of [[text, [1, 2, 3, 7, 1000]], [`${text}\n[ref]: https://example.org\n`, [1, 5]]]) {
          const whole = document.createElement("div");
          whole.append(render(blocksOf(source.replace(/\r\n?/g, "\n"))));
          for (const size of sizes) {
            const element = document.createElement("div");
            const streaming = new StreamingMarkdown(element);
            for (let at = size; at < source.length; at += size) streaming.grow(source.slice(0, at));
            streaming.finish(source);
            if (plain(element) !== plain(whole)) differences.push([size, plain(element), plain(whole)]);
          }
        }
        return differences;
      });
      assert.deepEqual(differences, []);
    },
  },
  {
    name: "stop: the button and Esc end an answer where it is",
    real: true,
    async run({ chat, mock }) {
      if (mock) mock.control.holdAfter = 100;
      for (const way of ["button", "Escape"]) {
        await chat.send(mock ? LONG : "Tell me a very long story about a house, a river, a forest and a mountain.");
        await chat.streaming();
        if (way === "button") await chat.page.click(".send");
        else await chat.page.keyboard.press("Escape");
        await chat.idle();
        if (mock) {
          assert.equal(await chat.answers.last().locator(".ending").innerText(), "Stopped");
          const text = await chat.lastAnswer();
          assert.ok(text.startsWith("word0") && !text.includes("word249"), text);
          assert.match(await chat.announced(), /Stopped/);
          assert.equal(mock.jobs.size, 0);
        }
      }
    },
  },
  {
    name: "edit: the old version stays as a branch; the switcher goes back and forth, over a reload too",
    real: true,
    async run({ chat }) {
      await chat.ask("first");
      await chat.ask("second");
      const before = await chat.texts();
      await chat.users.nth(1).hover();
      await chat.users.nth(1).locator("[data-do=edit]").click();
      const editor = chat.page.locator(".editor textarea");
      assert.equal(await editor.inputValue(), "second");
      await editor.fill("second, again");
      await editor.press("Enter");
      await editor.waitFor({ state: "detached" });
      await chat.idle();
      const after = await chat.texts();
      assert.equal(after.length, 4);
      assert.equal(after[2], "second, again");
      assert.deepEqual(after.slice(0, 2), before.slice(0, 2));
      const branches = chat.users.nth(1).locator(".branches");
      assert.equal(await branches.innerText(), "2 / 2");
      const saved = chat.page.waitForResponse((response) => response.request().method() === "PATCH");
      await branches.locator("[aria-label='Previous version']").click();
      assert.deepEqual(await chat.texts(), before);
      assert.equal(await branches.innerText(), "1 / 2");
      await saved;
      await chat.page.reload();
      await chat.messages.nth(3).waitFor();
      assert.deepEqual(await chat.texts(), before);
      await branches.locator("[aria-label='Next version']").click();
      assert.deepEqual(await chat.texts(), after);
    },
  },
  {
    name: "edit: Esc leaves the message alone, and an edit in progress outlives a reload",
    async run({ chat }) {
      await chat.ask("one");
      const editor = chat.page.locator(".editor textarea");
      await chat.field.press("ArrowUp");
      await editor.fill("two");
      await chat.page.reload();
      await chat.answers.first().waitFor();
      await chat.field.press("ArrowUp");
      assert.equal(await editor.inputValue(), "two");
      await editor.press("Escape");
      assert.equal(await editor.count(), 0);
      assert.deepEqual((await chat.texts())[0], "one");
      assert.equal(await chat.messages.count(), 2);
    },
  },
  {
    name: "regenerate: another answer to the same message",
    real: true,
    async run({ chat, mock }) {
      await chat.ask("Hello");
      const first = await chat.lastAnswer();
      await chat.answers.first().locator("[data-do=regenerate]").click();
      await chat.page.waitForSelector("article.assistant .branches");
      await chat.idle();
      assert.equal(await chat.messages.count(), 2);
      const branches = chat.answers.first().locator(".branches");
      assert.equal(await branches.innerText(), "2 / 2");
      if (mock) assert.match(await chat.lastAnswer(), /^Version 2/);
      await branches.locator("[aria-label='Previous version']").click();
      assert.equal(await chat.lastAnswer(), first);
    },
  },
  {
    name: "reload: an answer that is being written goes on where it was",
    real: true,
    async run({ chat, mock }) {
      if (mock) mock.control.holdAfter = 100;
      await chat.send(mock ? LONG : "Tell me a long story about a house.");
      await chat.streaming();
      const before = await chat.page.evaluate(() => document.querySelector("article.assistant .text").textContent.trim());
      await chat.page.reload();
      await chat.page.waitForSelector("article.assistant");
      if (mock) {
        assert.equal(await chat.page.locator("article.live").count(), 1);
        mock.control.holdAfter = Infinity;
      }
      await chat.idle();
      const after = (await chat.texts())[1];
      // What is open at the end of a piece (a word between stars) may be set otherwise later.
      assert.ok(after.startsWith(before.slice(0, -20)), `${before} | ${after}`);
      if (mock) {
        assert.match(after, /word249$/);
        assert.equal(after.match(/word0 /g).length, 1);
      }
    },
  },
  {
    name: "another conversation meanwhile: the answer goes on, and the list shows it",
    mock: { holdAfter: 100 },
    async run({ chat, mock }) {
      await chat.send(LONG);
      await chat.streaming();
      await chat.page.click("#new-chat");
      await chat.page.waitForSelector(".empty-title");
      assert.equal(await chat.page.locator("#conversations .busy:visible").count(), 1);
      mock.control.holdAfter = Infinity;
      await chat.ask("in between");
      await chat.page.waitForFunction(() => ![...document.querySelectorAll("#conversations .busy")].some((busy) => busy.checkVisibility()));
      await chat.page.locator("#conversations a", { hasText: LONG }).click();
      await chat.page.waitForFunction(() => document.querySelector("article.assistant .text")?.textContent.includes("word249"));
    },
  },
  {
    name: "drafts: one for each conversation, kept over a reload",
    real: true,
    async run({ chat }) {
      await chat.ask("alpha");
      const alpha = chat.page.url();
      await chat.field.fill("draft of alpha");
      await chat.page.click("#new-chat");
      await chat.page.waitForSelector(".empty-title");
      assert.equal(await chat.field.inputValue(), "");
      await chat.field.fill("draft of the new one");
      await chat.page.reload();
      await chat.ready();
      assert.equal(await chat.field.inputValue(), "draft of the new one");
      await chat.page.goto(alpha);
      await chat.answers.first().waitFor();
      assert.equal(await chat.field.inputValue(), "draft of alpha");
    },
  },
  {
    name: "follows the end only while the reader is there",
    async run({ chat }) {
      await chat.page.setViewportSize({ width: 800, height: 500 });
      const distance = () => chat.page.$eval("#transcript", (e) => e.scrollHeight - e.scrollTop - e.clientHeight);
      await chat.send("words 500");
      await chat.page.waitForFunction(() => document.querySelector("#transcript").scrollHeight > 900);
      assert.ok((await distance()) <= 40, `at the end: ${await distance()}`);
      assert.equal(await chat.page.isVisible("#to-end"), false);
      await chat.page.hover("#transcript");
      await chat.page.mouse.wheel(0, -300);
      await chat.page.waitForSelector("#to-end:visible");
      const place = await chat.page.$eval("#transcript", (e) => e.scrollTop);
      await chat.idle();
      assert.ok(Math.abs((await chat.page.$eval("#transcript", (e) => e.scrollTop)) - place) < 310, "it was pulled away");
      assert.ok((await distance()) > 100);
      await chat.page.click("#to-end");
      assert.ok((await distance()) <= 1);
      assert.equal(await chat.page.isVisible("#to-end"), false);
    },
  },
  {
    name: "export and import: JSON and Markdown out, the same conversation in",
    real: true,
    async run({ chat, mock }) {
      await chat.ask("export me");
      const texts = await chat.texts();
      const save = async (entry) => {
        await chat.page.locator("#conversations li").first().hover();
        await chat.page.locator("#conversations li .icon-button").first().click();
        const download = chat.page.waitForEvent("download");
        await chat.page.getByRole("menuitem", { name: entry }).click();
        const file = await download;
        return { name: file.suggestedFilename(), text: await readFile(await file.path(), "utf8") };
      };
      const json = await save("Export as JSON");
      assert.match(json.name, /\.json$/);
      assert.ok(JSON.parse(json.text));
      const markdown = await save("Export as Markdown");
      assert.match(markdown.name, /\.md$/);
      assert.match(markdown.text, /export me/);
      const choose = (text) => chat.page.setInputFiles("#import-file", { name: "export.json", mimeType: "application/json", buffer: Buffer.from(text) });
      const before = chat.page.url();
      await choose(json.text);
      await chat.page.waitForFunction((url) => location.href !== url && document.querySelectorAll("article.message").length === 2, before);
      assert.deepEqual(await chat.texts(), texts);
      const download = chat.page.waitForEvent("download");
      await chat.page.click("#export-all");
      const all = JSON.parse(await readFile(await (await download).path(), "utf8"));
      if (mock) assert.equal(all.conversations.length, 2);
      chat.networkFaultsAllowed = true;
      await choose(mock ? "{}" : "{ not JSON");
      await chat.page.waitForSelector(".banner.failure:visible");
    },
  },
  {
    name: "list: search, rename, delete",
    real: true,
    async run({ chat }) {
      await chat.ask("about apples");
      await chat.page.click("#new-chat");
      await chat.page.waitForSelector(".empty-title");
      await chat.ask("about pears");
      await chat.page.keyboard.press("Control+k");
      await chat.page.keyboard.type("apples");
      await chat.page.waitForFunction(() => document.querySelectorAll("#conversations a").length === 1);
      assert.ok((await chat.page.locator("#conversations mark").count()) >= 1);
      await chat.page.keyboard.press("Enter");
      await chat.page.waitForFunction(() => document.querySelector("article.user > .text")?.textContent === "about apples");
      await chat.page.fill("#search", "nothing like this");
      await chat.page.waitForFunction(() => document.querySelector("#found").textContent === "Nothing found");
      await chat.page.fill("#search", "");
      await chat.page.waitForFunction(() => document.querySelectorAll("#conversations a").length >= 2);
      const current = chat.page.locator("#conversations li", { has: chat.page.locator("[aria-current]") });
      await current.hover();
      await current.locator(".icon-button").click();
      await chat.page.getByRole("menuitem", { name: "Rename" }).click();
      await chat.page.keyboard.type("Fruit & <b>veg</b>");
      await chat.page.keyboard.press("Enter");
      await chat.page.waitForFunction(() => document.querySelector("#title").textContent === "Fruit & <b>veg</b>" && document.title.startsWith("Fruit"));
      const count = await chat.page.locator("#conversations li").count();
      await current.hover();
      await current.locator(".icon-button").click();
      await chat.page.getByRole("menuitem", { name: "Delete" }).click();
      await chat.page.locator("dialog .danger").click();
      await chat.page.waitForFunction((n) => document.querySelectorAll("#conversations li").length === n - 1, count);
      await chat.page.waitForSelector(".empty-title");
    },
  },
  {
    name: "settings: bounds are checked, and each conversation keeps its own",
    real: true,
    async run({ chat, mock }) {
      await chat.page.click("#toggle-settings");
      const temperature = chat.page.locator("#setting-temperature");
      await temperature.fill("9000");
      assert.match(await chat.page.locator("#problem-temperature").innerText(), /from 0 to/);
      assert.equal(await temperature.getAttribute("aria-invalid"), "true");
      await temperature.fill("NaN");
      assert.match(await chat.page.locator("#problem-temperature").innerText(), /number/);
      await temperature.fill("0,5");
      const whole = async (text) => {
        await chat.page.fill("#setting-top_k", text);
        return chat.page.locator("#problem-top_k").innerText();
      };
      for (const text of ["1.000", "1,5", "1,00", ",100", "1,000,00"]) assert.match(await whole(text), /whole number|Enter a number/, text);
      // As the page writes a thousand itself.
      assert.equal(await whole("1,000"), "");
      await chat.page.fill("#setting-max_tokens", "40");
      await chat.page.fill("#system-prompt", "Be brief.");
      await chat.page.click("#close-settings");
      await chat.ask("with settings");
      await chat.page.reload();
      await chat.answers.first().waitFor();
      await chat.page.click("#toggle-settings");
      assert.equal(await temperature.inputValue(), "0.5");
      assert.equal(await chat.page.inputValue("#system-prompt"), "Be brief.");
      assert.equal(await chat.page.inputValue("#setting-top_k"), "1000");
      await chat.page.fill("#setting-top_k", "");
      await temperature.fill("0.25");
      await chat.page.waitForFunction(() => /Saved/.test(document.querySelector("#settings-state").textContent));
      if (mock) {
        const [conversation] = mock.conversations.values();
        assert.deepEqual(conversation.settings, { temperature: 0.25, max_tokens: 40 });
        assert.equal(conversation.system_prompt, "Be brief.");
      }
      await chat.page.click("#close-settings");
      await chat.page.click("#new-chat");
      await chat.page.waitForSelector(".empty-title");
      assert.equal(await temperature.inputValue(), "");
    },
  },
  {
    name: "speed panel: a row for each answer, and the chart is loaded when it is looked at",
    viewport: { width: 1280, height: 800 },
    async run({ chat, mock }) {
      await chat.ask("one");
      await chat.ask("two");
      const loaded = () => mock.control.requests.some((line) => line.includes("uPlot.iife"));
      assert.equal(loaded(), false);
      await chat.page.click("#toggle-details");
      await chat.page.waitForSelector("#chart canvas");
      assert.equal(loaded(), true);
      assert.equal(await chat.page.locator("#figures tr").count(), 2);
      await chat.page.click("#theme");
      await chat.page.waitForSelector("#chart canvas");
    },
  },
  {
    name: "reading: the progress of a long prompt is shown",
    mock: { prefillMs: 30, holdReading: true },
    async run({ chat, mock }) {
      await chat.send("Hello there, my house");
      await chat.page.waitForSelector("article.live progress");
      assert.match(await chat.page.locator("article.live .waiting").innerText(), /^Reading \d+ of \d+ tokens$/);
      mock.control.holdReading = false;
      await chat.idle();
      assert.equal(await chat.page.locator("article progress").count(), 0);
    },
  },
];
