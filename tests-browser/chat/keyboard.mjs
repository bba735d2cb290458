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
  {
    name: "the focus stays with what was pressed: versions, menu entries, and a question whose first answer is no",
    async run({ chat }) {
      const { page } = chat;
      await chat.ask("first");
      await chat.field.press("ArrowUp");
      await page.locator(".editor textarea").fill("second");
      await page.locator(".editor textarea").press("Enter");
      await page.waitForSelector(".user .branches");
      await chat.idle();
      for (const label of ["Previous version", "Next version"]) {
        await chat.users.first().locator(`[aria-label="${label}"]`).focus();
        await page.keyboard.press("Enter");
        await page.waitForFunction((n) => document.querySelector(".user .branches span").textContent === n, label === "Previous version" ? "1 / 2" : "2 / 2");
        assert.equal(await focused(chat), label);
      }
      const more = page.locator("#conversations li .icon-button").first();
      await more.focus();
      await page.keyboard.press("Enter");
      const download = page.waitForEvent("download");
      await page.getByRole("menuitem", { name: "Export as JSON" }).press("Enter");
      await download;
      assert.equal(await focused(chat), "More for first");
      await page.keyboard.press("Enter");
      await page.keyboard.press("ArrowUp");
      await page.keyboard.press("Enter");
      await page.waitForSelector("dialog");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "Cancel");
      await page.keyboard.press("Enter");
      await page.waitForSelector("dialog", { state: "detached" });
      assert.equal(await focused(chat), "More for first");
    },
  },
  {
    name: "an edit is sent by the same keys as a message, and is no longer than one",
    mock: { messageBytes: 100 },
    async run({ chat, mock }) {
      const editor = chat.page.locator(".editor textarea");
      await chat.ask("first");
      await chat.field.press("ArrowUp");
      await editor.fill("second");
      for (const keys of ["Control+Enter", "Alt+Enter", "Meta+Enter"]) await editor.press(keys);
      await editor.fill("é".repeat(51));
      await editor.press("Enter");
      assert.match(await chat.page.locator(".editor .problem").innerText(), /longer than 100 bytes/);
      await editor.fill("é".repeat(50));
      assert.equal(await chat.page.locator(".editor .problem").isVisible(), false);
      await editor.press("Enter");
      await chat.page.waitForSelector(".user .branches");
      assert.deepEqual([...mock.messages.values()].filter(({ role }) => role === "user").map(({ content }) => content), ["first", "é".repeat(50)]);
    },
  },
  {
    name: "on a phone Enter makes a line in an edit too, and the button sends",
    viewport: { width: 360, height: 740 },
    phone: true,
    async run({ chat, mock }) {
      const editor = chat.page.locator(".editor textarea");
      await chat.field.fill("first");
      await chat.page.click(".send");
      await chat.answers.first().waitFor();
      await chat.idle();
      await chat.users.first().locator("[data-do=edit]").click();
      await editor.fill("one");
      await editor.press("Enter");
      await editor.pressSequentially("two");
      assert.equal(await editor.inputValue(), "one\ntwo");
      await chat.page.locator(".editor .primary").click();
      await chat.page.waitForSelector(".user .branches");
      assert.equal((await chat.texts())[0], "one\ntwo");
      assert.equal([...mock.messages.values()].filter(({ role }) => role === "user").length, 2);
    },
  },
  {
    name: "what is wrong with a message is told once, not with every letter",
    mock: { messageBytes: 10 },
    async run({ chat }) {
      await chat.page.evaluate(() => {
        window.told = [];
        const problem = document.querySelector("#message-problem");
        new MutationObserver(() => window.told.push(problem.textContent)).observe(problem, { childList: true, characterData: true, subtree: true });
      });
      await chat.field.pressSequentially("fourteen bytes");
      await chat.field.fill("");
      assert.deepEqual(await chat.page.evaluate(() => window.told), ["This message is longer than 10 bytes, the most that the server takes.", ""]);
    },
  },
];
