// Everything by keyboard, and input methods that use the same keys.

import assert from "node:assert/strict";

const focused = (chat) => chat.page.evaluate(() => document.activeElement?.id || document.activeElement?.getAttribute("aria-label"));

export const tests = [
  {
    name: "keyboard only: write, lines, stop, edit, search, rename, delete, help",
    async run({ chat, mock }) {
      const { keyboard } = chat.page;
      assert.equal(await focused(chat), "message");
      await keyboard.type("line one");
      await keyboard.press("Shift+Enter");
      await keyboard.type("line two");
      await keyboard.press("Enter");
      await chat.answers.first().waitFor();
      await chat.idle();
      assert.equal((await chat.texts())[0], "line one\nline two");
      assert.equal(await focused(chat), "message");
      mock.control.holdAfter = 100;
      await keyboard.type("words 400");
      await keyboard.press("Enter");
      await chat.streaming();
      await keyboard.press("Escape");
      await chat.idle();
      mock.control.holdAfter = Infinity;
      await keyboard.press("ArrowUp");
      assert.equal(await focused(chat), "Edit message");
      await keyboard.press("Control+a");
      await keyboard.type("edited");
      await keyboard.press("Enter");
      await chat.page.waitForFunction(() => document.querySelectorAll("article.user > .text")[1]?.textContent === "edited");
      await chat.idle();
      await keyboard.press("Control+Shift+O");
      await chat.page.waitForSelector(".empty-title");
      assert.equal(await focused(chat), "message");
      await keyboard.press("Control+k");
      assert.equal(await focused(chat), "search");
      await keyboard.press("ArrowDown");
      await keyboard.press("Tab");
      await keyboard.press("Enter");
      assert.equal(await chat.page.evaluate(() => document.activeElement.textContent), "Rename");
      await keyboard.press("Enter");
      await keyboard.type("By keyboard");
      await keyboard.press("Enter");
      await chat.page.waitForFunction(() => document.querySelector("#conversations a .title")?.textContent === "By keyboard");
      await chat.page.waitForFunction(() => document.activeElement.closest("#conversations a"));
      await keyboard.press("Enter");
      await chat.answers.first().waitFor();
      await chat.page.locator("#conversations a").first().focus();
      await keyboard.press("Tab");
      await keyboard.press("Enter");
      await keyboard.press("ArrowUp");
      assert.equal(await chat.page.evaluate(() => document.activeElement.textContent), "Delete");
      await keyboard.press("Enter");
      await keyboard.press("Escape");
      await chat.page.waitForSelector("dialog", { state: "detached" });
      await chat.page.locator("#transcript").focus();
      await keyboard.press("?");
      await chat.page.waitForSelector("#help-title");
      await keyboard.press("Escape");
      await chat.page.waitForSelector("dialog", { state: "detached" });
      await chat.field.focus();
      await keyboard.type("?");
      assert.equal(await chat.page.locator("dialog").count(), 0);
      // A whole answer later nothing has been deleted.
      await chat.ask("still here");
      assert.deepEqual(mock.control.requests.filter((line) => line.startsWith("DELETE")), []);
    },
  },
  {
    name: "Enter while an input method composes does not send",
    async run({ chat, mock }) {
      const client = await chat.context.newCDPSession(chat.page);
      await chat.field.focus();
      await client.send("Input.imeSetComposition", { text: "にほん", selectionStart: 3, selectionEnd: 3 });
      await chat.page.keyboard.press("Enter");
      await chat.page.evaluate(() => document.querySelector("#message").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", keyCode: 229, bubbles: true, cancelable: true })));
      await chat.page.evaluate(() => document.querySelector("#message").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true, cancelable: true })));
      await client.send("Input.insertText", { text: "日本" });
      await chat.page.keyboard.press("Enter");
      await chat.answers.first().waitFor();
      assert.deepEqual([...mock.messages.values()].filter(({ role }) => role === "user").map(({ content }) => content.trim()), ["日本"]);
    },
  },
  {
    name: "on a phone the list and the panels lie over the chat, and give the focus back",
    viewport: { width: 360, height: 740 },
    async run({ chat }) {
      const { page } = chat;
      await page.click("#toggle-sidebar");
      assert.equal(await page.$eval("#chat", (e) => e.inert), true);
      assert.equal(await focused(chat), "close-sidebar");
      await page.keyboard.press("Escape");
      assert.equal(await focused(chat), "toggle-sidebar");
      assert.equal(await page.isVisible("#sidebar"), false);
      await page.click("#toggle-settings");
      assert.equal(await page.$eval("#chat", (e) => e.inert), true);
      await page.keyboard.press("Escape");
      assert.equal(await focused(chat), "toggle-settings");
      await chat.ask("hello");
      await page.click("#toggle-sidebar");
      await page.click("#conversations a");
      await page.waitForSelector("#sidebar", { state: "hidden" });
    },
  },
];
