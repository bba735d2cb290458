// The list of conversations under somebody's hands while it is read again, and what goes with a conversation.

import assert from "node:assert/strict";

const LONG = "words 250";

/** Waits until the list has been read once more and shown. */
async function readAgain({ page }, act) {
  const read = page.waitForResponse((response) => /\/api\/conversations\?/.test(response.url()));
  await act();
  await (await read).finished();
  await page.evaluate(() => new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve), 50)));
}

/** As when the reader comes back to the tab. */
const comeBack = (page) => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));

async function openMenu({ page }) {
  await page.locator("#conversations li").first().hover();
  await page.locator("#conversations li .icon-button").first().click();
}

/** Conversations made without the page. */
async function make(mock, titles) {
  for (const title of titles) {
    await fetch(`${mock.url}api/conversations`, { method: "POST", body: JSON.stringify({ title }), headers: { "Content-Type": "application/json" } });
  }
}

export const tests = [
  {
    name: "the list is read again while a title is written: the field stays as it is",
    mock: { holdAfter: 100 },
    async run({ chat, mock }) {
      const { page } = chat;
      await chat.send(LONG);
      await chat.streaming();
      await openMenu(chat);
      // The menu is open while the list is read, and its entries still work.
      await readAgain(chat, () => comeBack(page));
      await page.getByRole("menuitem", { name: "Rename" }).click();
      await page.keyboard.type("Half a");
      await readAgain(chat, () => (mock.control.holdAfter = Infinity));
      await chat.idle();
      assert.equal([...mock.conversations.values()][0].title, LONG);
      await page.keyboard.type(" title");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.querySelector("#title").textContent === "Half a title");
      // The list is read anew after the title was taken.
      await page.waitForFunction(() => document.querySelector("#conversations a .title").textContent === "Half a title");
      assert.equal(await page.evaluate(() => document.activeElement.closest("#conversations a") !== null), true);
    },
  },
  {
    name: "a title that could not be saved is said",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.ask("hello");
      mock.control.faults.push({ match: /^PATCH/, status: 503, message: "Not now." });
      await openMenu(chat);
      await chat.page.getByRole("menuitem", { name: "Rename" }).click();
      await chat.page.keyboard.type("Another");
      await chat.page.keyboard.press("Enter");
      await chat.page.waitForFunction(() => /Not now/.test(document.querySelector(".banner.failure")?.textContent));
    },
  },
  {
    name: "older conversations stay in the list when it is read again, with the focus, and do not mix with a search",
    async run({ chat, mock }) {
      const { page } = chat;
      const links = () => page.locator("#conversations a").count();
      await make(mock, Array.from({ length: 120 }, (_, i) => `number ${i}`));
      await readAgain(chat, () => comeBack(page));
      assert.equal(await links(), 50);
      await page.click("#conversations .more");
      await page.waitForFunction(() => document.querySelectorAll("#conversations a").length === 100);
      assert.equal(await page.evaluate(() => document.activeElement.textContent.trim()), "number 69 (being answered)");
      await make(mock, ["the newest"]);
      await readAgain(chat, () => comeBack(page));
      await page.waitForFunction(() => document.querySelector("#conversations a .title").textContent === "the newest");
      assert.equal(await links(), 100);
      assert.equal(await page.evaluate(() => document.activeElement.textContent.trim()), "number 69 (being answered)");
      let open;
      mock.control.faults.push({ match: /GET \/api\/conversations$/, until: new Promise((resolve) => (open = resolve)) });
      const asked = page.waitForRequest(/\/api\/conversations\?/);
      await page.click("#conversations .more");
      await asked;
      await page.fill("#search", "number 7");
      await page.waitForFunction(() => document.querySelector("#found").textContent === "11 found");
      await readAgain(chat, open);
      assert.equal(await links(), 11);
    },
  },
  {
    name: "a conversation that could not be deleted is still listened to",
    mock: { holdAfter: 100 },
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.send(LONG);
      await chat.streaming();
      mock.control.faults.push({ match: /^DELETE/, status: 500, message: "The disk is full." });
      await openMenu(chat);
      await chat.page.getByRole("menuitem", { name: "Delete" }).click();
      await chat.page.locator("dialog .danger").click();
      await chat.page.waitForFunction(() => /disk is full/.test(document.querySelector(".banner").textContent));
      mock.control.holdAfter = Infinity;
      await chat.idle();
      assert.match(await chat.lastAnswer(), /word249$/);
    },
  },
  {
    name: "drafts go with their conversation, and a browser without room for them is told of",
    async run({ chat }) {
      const { page } = chat;
      const kept = () => page.evaluate(() => Object.entries(localStorage).filter(([name]) => name.startsWith("casallm.draft")).map(([, text]) => text).sort());
      await chat.ask("hello");
      await chat.field.press("ArrowUp");
      await page.locator(".editor textarea").fill("an edit");
      await chat.field.fill("a draft");
      assert.deepEqual(await kept(), ["a draft", "an edit"]);
      await openMenu(chat);
      await page.getByRole("menuitem", { name: "Delete" }).click();
      await page.locator("dialog .danger").click();
      await page.waitForSelector(".empty-title");
      assert.deepEqual(await kept(), []);
      await page.evaluate(() => {
        Storage.prototype.setItem = () => {
          throw new DOMException("full", "QuotaExceededError");
        };
      });
      await chat.field.fill("no room");
      await page.waitForFunction(() => /storage is full/.test(document.querySelector(".banner.failure")?.textContent));
    },
  },
];
