// Past the context: what the page says when messages no longer fit.

import assert from "node:assert/strict";

export const tests = [
  {
    name: "overflow, summarise: a warning before, a marker after, and the note can be read",
    mock: { context: 110 },
    async run({ chat }) {
      const warning = chat.page.locator(".gauge-warning");
      await chat.ask("words 12");
      assert.equal(await warning.isVisible(), false);
      await chat.ask("words 26");
      assert.match(await warning.innerText(), /Nearly full\. Older messages will be condensed/);
      await chat.ask("words 13");
      const marker = chat.page.locator("details.marker");
      await marker.waitFor();
      assert.match(await marker.locator("summary").innerText(), /Earlier messages were condensed/);
      assert.equal(await marker.locator(".note").isVisible(), false);
      await marker.locator("summary").click();
      assert.equal(await marker.locator(".note").innerText(), "They spoke of a house.");
      // It stands after the last message that it condenses, which is still there.
      assert.equal(await chat.page.$eval("details.marker", (e) => [...document.querySelectorAll("article.message")].indexOf(e.previousElementSibling)), 1);
      assert.equal((await chat.texts())[0], "words 12");
      await chat.page.reload();
      await marker.waitFor();
    },
  },
  {
    name: "overflow, drop-oldest: the answer says how many messages it did not see",
    mock: { context: 110, overflow: "drop-oldest" },
    async run({ chat }) {
      await chat.ask("words 12");
      await chat.ask("words 26");
      assert.match(await chat.page.locator(".gauge-warning").innerText(), /oldest messages will be left out/);
      await chat.ask("words 13");
      assert.match(await chat.page.locator("p.marker").innerText(), /The 2 oldest messages were left out of this answer/);
    },
  },
  {
    name: "overflow, in the browser: what the page says is what is done without a place for notes",
    mock: { context: 110, storage: "browser" },
    async run({ chat }) {
      await chat.ask("words 12");
      await chat.ask("words 26");
      assert.match(await chat.page.locator(".gauge-warning").innerText(), /oldest messages will be left out/);
      await chat.ask("words 90");
      assert.equal(await chat.answers.last().locator(".ending").innerText(), "Ended because the context is full");
    },
  },
  {
    name: "overflow, refuse: says so, and the message is not lost",
    mock: { context: 100, overflow: "refuse" },
    async run({ chat }) {
      chat.networkFaultsAllowed = true;
      const long = "a long message ".repeat(60);
      await chat.field.fill(long);
      await chat.field.press("Enter");
      await chat.page.waitForSelector(".banner.failure:visible");
      assert.match(await chat.page.locator(".banner").innerText(), /longer than the model's context/);
      assert.equal(await chat.field.inputValue(), long);
    },
  },
];
