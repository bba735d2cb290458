// Several conversations at once, and what is under way while another one is shown, or after the page was left.

import assert from "node:assert/strict";

const LONG = "words 250";

/** A promise and what resolves it, for requests that the server keeps waiting. */
function gate() {
  let open;
  const until = new Promise((resolve) => (open = resolve));
  return { until, open };
}

/** Asks in two conversations; the second is shown. @returns {Promise<{a: string, b: string}>} their ids */
async function two(chat) {
  const id = () => chat.page.url().split("#/c/")[1];
  await chat.ask("this is A");
  const a = id();
  await newChat(chat);
  await chat.ask("this is B");
  return { a, b: id() };
}

async function newChat(chat) {
  await chat.page.click("#new-chat");
  await chat.page.waitForSelector(".empty-title");
}

const link = (chat, id) => chat.page.locator(`#conversations a[data-id="${id}"]`);

/** Opens a conversation, and waits for its first message. */
async function choose(chat, id, first) {
  await link(chat, id).click();
  await chat.page.waitForFunction((text) => document.querySelector("article.user > .text")?.textContent === text, first);
}

/** Writes and presses Enter, and does not wait for the field to become empty. */
async function press(chat, text) {
  await chat.field.fill(text);
  await chat.field.press("Enter");
}

/** Lets a conversation that was asked for arrive, with time to be shown. */
async function arrive(chat, id, open) {
  const answered = chat.page.waitForResponse((response) => response.url().endsWith(`/conversations/${id}`));
  open();
  await (await answered).finished();
  await chat.page.evaluate(() => new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve), 50)));
}

/** As when the reader comes back to the tab. */
const comeBack = (page) => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));

export const tests = [
  {
    name: "a conversation that was slow to open does not take the page from what was chosen since",
    async run({ chat, mock }) {
      const { a, b } = await two(chat);
      for (const leave of [() => newChat(chat), () => chat.page.goBack()]) {
        await choose(chat, b, "this is B");
        const { until, open } = gate();
        mock.control.faults.push({ match: new RegExp(`GET .*/${a}$`), until });
        const asked = chat.page.waitForRequest((request) => request.url().endsWith(`/conversations/${a}`));
        await link(chat, a).click();
        await asked;
        await leave();
        const [before, url] = [await chat.texts(), chat.page.url()];
        await chat.field.fill("typed meanwhile");
        await arrive(chat, a, open);
        assert.deepEqual(await chat.texts(), before);
        assert.equal(chat.page.url(), url);
        assert.equal(await chat.field.inputValue(), "typed meanwhile");
      }
    },
  },
  {
    name: "a conversation that could not be opened is opened by a second click, and a broken address names none",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const { a } = await two(chat);
      mock.control.faults.push({ match: new RegExp(`GET .*/${a}$`), status: 500, message: "The disk is full." });
      await link(chat, a).click();
      await chat.page.waitForFunction(() => /disk is full/.test(document.querySelector(".banner").textContent));
      await choose(chat, a, "this is A");
      await chat.page.evaluate(() => (location.hash = "#/c/%"));
      await chat.page.waitForFunction(() => /not here/.test(document.querySelector(".empty-title")?.textContent));
    },
  },
  {
    name: "a message that is being sent is still there when its conversation is come back to",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const { a, b } = await two(chat);
      mock.control.faults.push({ match: /POST .*\/messages$/, status: 503, retryAfter: 600 });
      await press(chat, "patience");
      await chat.page.waitForSelector(".banner.waiting:visible");
      await choose(chat, a, "this is A");
      await choose(chat, b, "this is B");
      assert.equal(await chat.field.inputValue(), "patience");
      assert.equal(await chat.page.locator(".send").getAttribute("aria-label"), "Stop");
      await chat.page.getByRole("button", { name: "Try now" }).click();
      await chat.answers.nth(1).waitFor();
      await chat.idle();
      assert.equal(await chat.field.inputValue(), "");
      await chat.ask("and on");
      assert.deepEqual((await chat.texts()).filter((_, i) => i % 2 === 0), ["this is B", "patience", "and on"]);
    },
  },
  {
    name: "New chat while the first message is being sent shows that message, once",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const { a } = await two(chat);
      await newChat(chat);
      mock.control.faults.push({ match: /POST .*\/conversations$/, status: 503, retryAfter: 600 });
      await press(chat, "the first");
      await chat.page.waitForSelector(".banner.waiting:visible");
      await choose(chat, a, "this is A");
      await newChat(chat);
      await chat.page.getByRole("button", { name: "Try now" }).click();
      await chat.answers.first().waitFor();
      await chat.idle();
      assert.equal((await chat.texts())[0], "the first");
      assert.equal(await chat.field.inputValue(), "");
      await newChat(chat);
      assert.equal(await chat.field.inputValue(), "");
    },
  },
  {
    name: "Cancel gives up the message that waits, not the answer that is shown",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const { a, b } = await two(chat);
      mock.control.faults.push({ match: /POST .*\/messages$/, status: 503, retryAfter: 600 });
      await press(chat, "not now");
      await chat.page.waitForSelector(".banner.waiting:visible");
      await choose(chat, a, "this is A");
      mock.control.holdAfter = 100;
      await chat.send(LONG);
      await chat.streaming();
      await chat.page.getByRole("button", { name: "Cancel" }).click();
      await chat.page.waitForSelector(".banner", { state: "hidden" });
      assert.equal(mock.jobs.size, 1);
      mock.control.holdAfter = Infinity;
      await chat.idle();
      assert.match(await chat.lastAnswer(), /word249$/);
      await choose(chat, b, "this is B");
      assert.equal(await chat.field.inputValue(), "not now");
      assert.equal(await chat.field.isEditable(), true);
      assert.equal(await chat.users.count(), 1);
    },
  },
  {
    name: "Stop while a message is on its way: the field is free at once, and what arrives is stopped",
    async run({ chat, mock }) {
      await chat.ask("before");
      mock.control.holdAfter = 100;
      const { until, open } = gate();
      mock.control.faults.push({ match: /POST .*\/messages$/, until });
      await press(chat, LONG);
      await chat.page.waitForFunction(() => document.querySelector("#message").readOnly);
      await chat.page.keyboard.press("Escape");
      await chat.page.waitForFunction(() => !document.querySelector("#message").readOnly);
      assert.equal(await chat.field.inputValue(), LONG);
      open();
      await chat.answers.nth(1).locator(".ending").waitFor();
      assert.equal(await chat.answers.nth(1).locator(".ending").innerText(), "Stopped");
      assert.equal((await chat.texts())[2], LONG);
      assert.equal(await chat.field.inputValue(), "");
      assert.equal(mock.jobs.size, 0);
    },
  },
  {
    name: "a first message that is given up or refused leaves no empty conversation, and its settings stay",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.page.click("#toggle-settings");
      await chat.page.fill("#system-prompt", "Be brief.");
      await chat.page.click("#close-settings");
      const { until, open } = gate();
      for (const [fault, giveUp] of [
        [{ match: /POST .*\/messages$/, status: 503, retryAfter: 600 }, () => chat.page.getByRole("button", { name: "Cancel" }).click()],
        [{ match: /POST .*\/messages$/, status: 400, message: "No." }, () => chat.page.getByRole("button", { name: "Close", exact: true }).click()],
        [{ match: /POST .*\/conversations$/, until }, () => chat.page.click(".send").then(open)],
      ]) {
        mock.control.faults.push(fault);
        const deleted = chat.page.waitForResponse((response) => response.request().method() === "DELETE");
        await press(chat, "the first");
        await giveUp();
        await deleted;
        await chat.idle();
        assert.equal(mock.conversations.size, 0);
        await chat.page.waitForFunction(() => document.querySelectorAll("#conversations a").length === 0);
        assert.equal(new URL(chat.page.url()).hash.replace("#/", ""), "");
        assert.equal(await chat.field.inputValue(), "the first");
      }
      await press(chat, "the first");
      await chat.answers.first().waitFor();
      assert.deepEqual([...mock.conversations.values()].map((conversation) => conversation.system_prompt), ["Be brief."]);
    },
  },
  {
    name: "a conversation that is made after its message was given up is gone from a list that was read meanwhile",
    async run({ chat, mock }) {
      const making = gate();
      const listing = gate();
      const removing = gate();
      mock.control.faults.push({ match: /POST .*\/conversations$/, until: making.until }, { match: /DELETE .*\/conversations\//, until: removing.until });
      await press(chat, "the first");
      await chat.page.waitForFunction(() => document.querySelector("#message").readOnly);
      mock.control.faults.push({ match: /GET .*\/conversations$/, until: listing.until });
      await chat.page.click(".send");
      const asked = chat.page.waitForRequest((request) => request.method() === "DELETE");
      making.open();
      await asked;
      listing.open();
      await chat.page.waitForFunction(() => document.querySelectorAll("#conversations a").length === 1);
      removing.open();
      await chat.page.waitForFunction(() => document.querySelectorAll("#conversations a").length === 0);
      assert.equal(mock.conversations.size, 0);
    },
  },
  {
    name: "reload: answers of conversations that are not shown are listened to as well",
    mock: { holdAfter: 100 },
    async run({ chat, mock }) {
      await chat.send(LONG);
      await chat.streaming();
      const { hash } = new URL(chat.page.url());
      await newChat(chat);
      await chat.page.reload();
      await chat.ready();
      await chat.page.waitForSelector("#conversations .busy:visible");
      await chat.page.evaluate((address) => (location.hash = address), hash);
      await chat.streaming();
      assert.deepEqual((await chat.texts())[0], LONG);
      await newChat(chat);
      mock.control.holdAfter = Infinity;
      await chat.page.waitForFunction(() => ![...document.querySelectorAll("#conversations .busy")].some((busy) => busy.checkVisibility()));
      assert.deepEqual([...mock.messages.values()].map(({ status }) => status), ["complete", "complete"]);
    },
  },
  {
    name: "continued in another tab: shown when the reader comes back, while it is answered and after",
    async run({ chat, mock }) {
      await chat.ask("in the first tab");
      const first = chat.page;
      await chat.open(new URL(first.url()).hash);
      await chat.answers.first().waitFor();
      mock.control.holdAfter = 100;
      await chat.send(LONG);
      await chat.streaming();
      await comeBack(first);
      await first.locator("article.live .text", { hasText: "word0" }).waitFor();
      mock.control.holdAfter = Infinity;
      await first.waitForFunction(() => document.querySelectorAll("article.assistant .text")[1].textContent.includes("word249"));
      await chat.idle();
      await chat.ask("once more");
      await first.fill("#message", "a draft");
      await comeBack(first);
      await first.waitForFunction(() => document.querySelectorAll("article.message").length === 6);
      assert.equal(await first.inputValue("#message"), "a draft");
    },
  },
  {
    name: "two tabs with a new chat each: a message that is sent in one takes no draft from the other",
    async run({ chat }) {
      const first = chat.page;
      await chat.field.fill("written in the first");
      await chat.open();
      await chat.ready();
      await chat.field.fill("written in the second");
      const [second, field] = [chat.page, chat.field];
      chat.page = first;
      await chat.field.press("Enter");
      await chat.answers.first().waitFor();
      await chat.idle();
      await first.reload();
      await chat.answers.first().waitFor();
      assert.equal(await chat.field.inputValue(), "");
      await second.reload();
      await second.waitForSelector("body:not([aria-busy])");
      assert.equal(await field.inputValue(), "written in the second");
    },
  },
  {
    name: "settings that another tab has changed are shown when the reader comes back, and not undone by the next change",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.ask("in the first tab");
      const [conversation] = mock.conversations.values();
      const first = chat.page;
      await first.click("#toggle-settings");
      await chat.open(new URL(first.url()).hash);
      await chat.answers.first().waitFor();
      await chat.page.click("#toggle-settings");
      const saved = (page) => page.waitForFunction(() => /Saved/.test(document.querySelector("#settings-state").textContent));
      await chat.page.fill("#system-prompt", "Be brief.");
      await chat.page.fill("#setting-top_k", "7");
      await saved(chat.page);
      await comeBack(first);
      await first.waitForFunction(() => document.querySelector("#system-prompt").value === "Be brief.");
      await first.fill("#setting-temperature", "0.5");
      await saved(first);
      assert.deepEqual([conversation.system_prompt, conversation.settings], ["Be brief.", { temperature: 0.5, top_k: 7 }]);
      // What is being written is left alone.
      mock.control.faults.push({ match: /^PATCH/, status: 400, message: "Not now." });
      await first.fill("#system-prompt", "Be brief and");
      await first.waitForFunction(() => /Not saved/.test(document.querySelector("#settings-state").textContent));
      conversation.system_prompt = "Be long.";
      const reread = first.waitForResponse((response) => response.request().method() === "GET" && /conversations\/\w+$/.test(response.url()));
      await comeBack(first);
      await (await reread).finished();
      assert.equal(await first.inputValue("#system-prompt"), "Be brief and");
    },
  },
  {
    name: "a setting that could not be saved is saved before the next message, which waits or fails with it",
    viewport: { width: 1280, height: 800 },
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.ask("before");
      const [conversation] = mock.conversations.values();
      await chat.page.click("#toggle-settings");
      const change = async (value) => {
        await chat.page.fill("#setting-temperature", value);
        await chat.page.waitForFunction(() => /Not saved/.test(document.querySelector("#settings-state").textContent));
      };
      mock.control.faults.push({ match: /^PATCH/, status: 503 });
      await change("0.25");
      await chat.ask("after a pause");
      assert.deepEqual(conversation.settings, { temperature: 0.25 });
      mock.control.faults.push({ match: /^PATCH/, status: 400, message: "That is too warm.", times: 2 });
      await change("0.5");
      await press(chat, "refused");
      await chat.page.waitForFunction(() => /too warm/.test(document.querySelector(".banner").textContent));
      await chat.idle();
      assert.equal(await chat.users.count(), 2);
      assert.equal(await chat.field.inputValue(), "refused");
      await chat.field.press("Enter");
      await chat.answers.nth(2).waitFor();
      assert.deepEqual(conversation.settings, { temperature: 0.5 });
    },
  },
  {
    name: "a message waits for a setting that is being saved, and one that is changed last is sent with the page",
    viewport: { width: 1280, height: 800 },
    async run({ chat, mock }) {
      await chat.ask("before");
      const [conversation] = mock.conversations.values();
      await chat.page.click("#toggle-settings");
      const { until, open } = gate();
      mock.control.faults.push({ match: /^PATCH/, until });
      const saving = chat.page.waitForRequest((request) => request.method() === "PATCH");
      await chat.page.fill("#setting-temperature", "0.25");
      await saving;
      const posts = () => mock.control.requests.filter((line) => /^POST .*messages$/.test(line)).length;
      await press(chat, "after it");
      await chat.page.waitForFunction(() => document.querySelector("#message").readOnly);
      assert.equal(posts(), 1);
      open();
      await chat.answers.nth(1).waitFor();
      assert.deepEqual(conversation.settings, { temperature: 0.25 });
      await chat.idle();
      const kept = await chat.page.evaluate(() => {
        const real = window.fetch;
        return new Promise((resolve) => {
          window.fetch = (url, options) => {
            resolve([options.method, options.keepalive]);
            return real(url, options);
          };
          Object.defineProperty(document, "visibilityState", { value: "hidden" });
          const field = document.querySelector("#setting-temperature");
          field.value = "0.75";
          field.dispatchEvent(new Event("input"));
          document.dispatchEvent(new Event("visibilitychange"));
        });
      });
      assert.deepEqual(kept, ["PATCH", true]);
    },
  },
  {
    name: "a wait stays in sight: what is said meanwhile does not take its place for good",
    viewport: { width: 360, height: 740 },
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.faults.push({ match: /POST .*\/messages$/, status: 503, retryAfter: 600 });
      await press(chat, "not now");
      await chat.page.waitForSelector(".banner.waiting:visible");
      await chat.page.click("#toggle-sidebar");
      await chat.page.setInputFiles("#import-file", { name: "export.json", mimeType: "application/json", buffer: Buffer.from("{}") });
      await chat.page.waitForSelector(".banner.failure:visible");
      // The list lies over the chat; the error must not lie under it.
      await chat.page.getByRole("button", { name: "Close", exact: true }).click();
      await chat.page.getByRole("button", { name: "Cancel" }).click();
      await chat.idle();
      assert.equal(await chat.page.isVisible(".banner"), false);
    },
  },
  {
    name: "the key can be forgotten: the server asks for another",
    mock: { key: "secret" },
    unready: true,
    async run({ chat }) {
      chat.networkFaultsAllowed = true;
      const field = chat.page.locator("#key");
      await field.fill("secret");
      await field.press("Enter");
      await chat.ready();
      await chat.page.click("#forget-key");
      await field.fill("secret");
      assert.equal(await chat.page.evaluate(() => localStorage.getItem("casallm.key")), null);
      await field.press("Enter");
      await chat.ready();
      await chat.ask("hello");
    },
  },
];
