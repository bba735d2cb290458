// Servers that refuse, restart or vanish: nothing that was written is lost, and the page says what it waits for.

import assert from "node:assert/strict";

export const tests = [
  {
    name: "401: the key is asked for once, a wrong one is refused, the right one is kept",
    mock: { key: "secret" },
    unready: true,
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const field = chat.page.locator("#key");
      await field.fill("wrong");
      await field.press("Enter");
      await chat.page.waitForSelector("dialog .failure");
      await field.fill("secret");
      await field.press("Enter");
      await chat.ready();
      await chat.ask("hello");
      await chat.page.reload();
      await chat.ready();
      await chat.answers.first().waitFor();
      assert.equal(await chat.page.locator("dialog").count(), 0);
      // The server has another key now: asked again, and the message is still there.
      mock.control.key = "other";
      await chat.field.fill("once more");
      await chat.field.press("Enter");
      await field.fill("other");
      await field.press("Enter");
      await chat.page.waitForFunction(() => document.querySelectorAll("article.assistant").length === 2);
      await chat.idle();
    },
  },
  {
    name: "a key that no header can carry is refused like any other, now and after a reload",
    mock: { key: "secret" },
    unready: true,
    async run({ chat }) {
      chat.networkFaultsAllowed = true;
      const field = chat.page.locator("#key");
      await field.fill("sec\u200bret");
      await field.press("Enter");
      await chat.page.waitForSelector("dialog .failure");
      await chat.page.reload();
      await field.fill("secret");
      await field.press("Enter");
      await chat.ready();
      await chat.ask("hello");
    },
  },
  {
    name: "a browser that keeps nothing for the site: the key and the theme last as long as the page",
    mock: { key: "secret" },
    unready: true,
    async run({ chat }) {
      chat.networkFaultsAllowed = true;
      await chat.page.addInitScript(() => Object.defineProperty(window, "localStorage", { configurable: true, get() { throw new DOMException("Access is denied.", "SecurityError"); } }));
      await chat.page.reload();
      await chat.page.locator("#key").fill("secret");
      await chat.page.locator("#key").press("Enter");
      await chat.ready();
      await chat.ask("hello");
      await chat.page.click("#theme");
      assert.equal(await chat.page.evaluate(() => document.documentElement.dataset.theme), "light");
      await chat.page.click("#toggle-sidebar");
      assert.equal(await chat.page.isVisible("#sidebar"), false);
    },
  },
  {
    name: "a start that fails says why",
    unready: true,
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.ready();
      mock.control.faults.push({ match: /GET \/api\/config/, status: 500, message: "The model fell over." });
      await chat.page.reload();
      const banner = chat.page.locator(".banner.failure");
      assert.match(await banner.innerText(), /The page could not start\. The model fell over\. Reload it to try again\./);
      await chat.page.route("**/store/server.js", (route) => route.abort());
      await chat.page.reload();
      assert.match(await banner.innerText(), /could not start\..*server\.js/);
      await chat.page.unroute("**/store/server.js");
      await chat.page.reload();
      await chat.ready();
      // The browser's console is told as well.
      assert.equal(chat.faults.splice(0).length, 2);
    },
  },
  {
    name: "429 and 503: waits as long as asked, shows it, sends again by itself",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.faults.push({ match: /POST .*\/messages$/, status: 429, retryAfter: 1 }, { match: /POST .*\/messages$/, status: 503, retryAfter: 30 });
      await chat.field.fill("patience");
      await chat.field.press("Enter");
      const banner = chat.page.locator(".banner.waiting");
      await banner.waitFor();
      assert.match(await banner.innerText(), /Too many requests at once\. Sending again in 1 second\./);
      assert.equal(await chat.field.inputValue(), "patience");
      await chat.page.waitForFunction(() => /busy/.test(document.querySelector(".banner").textContent));
      assert.match(await banner.innerText(), /The server is busy\. Sending again in (30|29) seconds\./);
      await banner.getByRole("button", { name: "Try now" }).click();
      await chat.answers.first().waitFor();
      await chat.idle();
      assert.equal(await banner.isVisible(), false);
      assert.equal(await chat.users.count(), 1);
    },
  },
  {
    name: "a wait can be given up, and the message stays in the field",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.faults.push({ match: /POST .*\/messages$/, status: 503, retryAfter: 60, times: 9 });
      await chat.field.fill("not now");
      await chat.field.press("Enter");
      await chat.page.locator(".banner.waiting").getByRole("button", { name: "Cancel" }).click();
      await chat.idle();
      assert.equal(await chat.field.inputValue(), "not now");
      assert.equal(await chat.field.isEditable(), true);
      await chat.page.reload();
      await chat.ready();
      await chat.page.waitForFunction(() => document.querySelector("#message").value === "not now");
    },
  },
  {
    name: "a request that arrived but was not answered is not made twice",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.faults.push({ match: /POST .*\/messages$/, cut: "after" });
      await chat.field.fill("only once");
      await chat.field.press("Enter");
      await chat.answers.first().waitFor();
      await chat.idle();
      assert.equal([...mock.messages.values()].filter((message) => message.role === "user").length, 1);
      mock.control.faults.push({ match: /POST .*\/regenerate$/, cut: "after" });
      await chat.answers.first().locator("[data-do=regenerate]").click();
      await chat.page.waitForSelector("article.assistant .branches");
      await chat.idle();
      assert.equal([...mock.messages.values()].length, 3);
    },
  },
  {
    name: "a cut stream is picked up again, with no word lost or twice",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.holdAfter = 100;
      await chat.send("words 400");
      await chat.streaming();
      mock.control.faults.push({ match: /GET .*\/events$/, status: 503, retryAfter: 60 });
      mock.cut();
      await chat.page.waitForFunction(() => /The server is busy\. Reconnecting in \d+ seconds/.test(document.querySelector(".banner").textContent));
      await chat.page.getByRole("button", { name: "Try now" }).click();
      await chat.page.waitForSelector(".banner", { state: "hidden" });
      await chat.page.waitForFunction(() => document.querySelectorAll("article.live").length === 1);
      assert.equal((await chat.lastAnswer()).match(/word0/g).length, 1);
      mock.control.holdAfter = Infinity;
      await chat.idle(30_000);
      assert.equal(await chat.lastAnswer(), Array.from({ length: 400 }, (_, i) => `word${i}`).join(" "));
      assert.equal(await chat.page.isVisible(".banner"), false);
    },
  },
  {
    name: "waits for a server that is away grow, though each try waits for other tabs first",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      // Another tab that takes all places again and again.
      const other = await (await new chat.constructor(chat.context, chat.url).open()).ready();
      await other.page.evaluate(() => {
        const held = () => new Promise((free) => setTimeout(free, 700));
        const hold = () => Promise.all(["1", "2", "3", "4"].map((n) => navigator.locks.request(`casallm.stream.${n}`, held))).then(hold);
        hold();
      });
      mock.control.faults.push({ match: /GET .*\/events$/, status: 503, times: 9 });
      await chat.send("patience");
      await chat.page.waitForFunction(() => /Reconnecting in [34] seconds/.test(document.querySelector(".banner").textContent));
      mock.control.faults.length = 0;
      await chat.page.getByRole("button", { name: "Try now" }).click();
      await chat.idle();
    },
  },
  {
    name: "waits for a server that is away grow, where it keeps no conversations",
    mock: { storage: "browser" },
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.faults.push({ match: /POST \/v1\//, status: 503, times: 9 });
      await chat.send("patience");
      await chat.page.waitForFunction(() => /Reconnecting in [34] seconds/.test(document.querySelector(".banner").textContent));
      mock.control.faults.length = 0;
      await chat.page.getByRole("button", { name: "Try now" }).click();
      await chat.idle();
    },
  },
  {
    name: "a connection on which nothing comes any more is made anew",
    async run({ chat, mock }) {
      await chat.page.clock.install();
      mock.control.holdAfter = 40;
      await chat.send("words 60");
      // Until all forty tokens are here: one that comes after the jump would end the silence.
      await chat.page.waitForFunction(() => document.querySelector("article.live .text")?.textContent.includes("word19"));
      const listened = () => mock.control.requests.filter((line) => line.endsWith("/events")).length;
      assert.equal(listened(), 1);
      // The clock stands still after the jump, so that the countdown is there until it has been seen.
      await chat.page.clock.pauseAt(await chat.page.evaluate(() => Date.now() + 36_000));
      await chat.page.waitForFunction(() => /cannot be reached\. Reconnecting/.test(document.querySelector(".banner").textContent));
      mock.control.holdAfter = Infinity;
      await chat.page.getByRole("button", { name: "Try now" }).click();
      await chat.page.clock.resume();
      await chat.idle();
      assert.equal(listened(), 2);
      assert.match(await chat.lastAnswer(), /^word0 .* word59$/);
    },
  },
  {
    name: "more answers than a browser has connections: some are listened to, what is shown first, and the page goes on",
    mock: { holdAfter: 20 },
    async run({ chat, mock }) {
      const heard = () => [...mock.jobs.values()].filter((job) => job.listeners.size).length;
      // Where one is let go for another, that does not look like a wait for other tabs. The first place is the fourth's: what is
      // let go is then asked for too soon.
      await chat.page.evaluate(() => {
        window.told = "";
        navigator.locks.request("casallm.stream.1", () => new Promise((free) => (window.free = free)));
        new MutationObserver(() => (window.told += document.querySelector("article.live .waiting")?.textContent ?? "")).observe(document.body, { subtree: true, childList: true });
      });
      for (let n = 1; n <= 7; n += 1) {
        if (n === 4) await chat.page.evaluate(() => window.free());
        await chat.send(`words 10${n}`);
        await chat.streaming();
        if (n < 7) await chat.page.click("#new-chat");
        if (n < 7) await chat.page.waitForSelector(".empty-title");
      }
      assert.equal(mock.jobs.size, 7);
      assert.equal(heard(), 4);
      for (const n of [5, 1]) {
        await chat.page.locator("#conversations a", { hasText: `words 10${n}` }).click();
        await chat.page.waitForFunction((n) => document.querySelector("article.user > .text")?.textContent === `words 10${n}`, n);
        await chat.streaming();
      }
      assert.doesNotMatch(await chat.page.evaluate(() => window.told), /other tabs/);
      assert.equal(await chat.page.locator("#conversations .busy:visible").count(), 7);
      mock.control.holdAfter = Infinity;
      await chat.page.waitForFunction(() => ![...document.querySelectorAll("#conversations .busy")].some((busy) => busy.checkVisibility()));
      assert.equal(mock.jobs.size, 0);
      await chat.page.locator("#conversations a", { hasText: "words 105" }).click();
      await chat.page.waitForFunction(() => document.querySelector("article.assistant .text")?.textContent.includes("word104"));
    },
  },
  {
    name: "answers in many tabs leave connections free, say that they wait, and those that are looked at go first",
    mock: { holdAfter: 20 },
    async run({ chat, mock }) {
      const heard = () => [...mock.jobs.values()].filter((job) => job.listeners.size).length;
      const tabs = [chat];
      while (tabs.length < 7) tabs.push(await (await new chat.constructor(chat.context, chat.url).open()).ready());
      const waits = (tab) => tab.page.locator("article.live .waiting", { hasText: "Waiting for answers in other tabs" }).waitFor();
      for (const [n, tab] of tabs.entries()) {
        await tab.send(`words 10${n}`);
        await (n < 4 ? tab.streaming() : waits(tab));
      }
      assert.equal(heard(), 4);
      // A browser without a head takes all tabs to be looked at.
      const hide = (tab) => tab.page.evaluate(() => Object.defineProperty(document, "visibilityState", { value: "hidden" }));
      for (const tab of tabs.slice(0, 6)) await hide(tab);
      // Sooner than a stream that is held here is given up for silence.
      tabs[6].setPatience(12_000);
      await tabs[6].streaming();
      tabs[6].setPatience(chat.patience);
      mock.control.holdAfter = Infinity;
      for (const [n, tab] of tabs.entries()) {
        await tab.idle();
        assert.match(await tab.lastAnswer(), new RegExp(`^word0 .* word${99 + n}$`));
        tab.assertSound();
      }
    },
  },
  {
    name: "an answer that is cut in the middle for another tab says so when it is looked at again",
    mock: { holdAfter: 20 },
    async run({ chat, mock }) {
      const tabs = [chat];
      while (tabs.length < 5) tabs.push(await (await new chat.constructor(chat.context, chat.url).open()).ready());
      const see = (value) => chat.page.evaluate((value) => Object.defineProperty(document, "visibilityState", { value, configurable: true }), value);
      for (const [n, tab] of tabs.entries()) {
        if (n === 4) await see("hidden");
        await tab.send(`words 10${n}`);
        await tab.streaming();
      }
      await see("visible");
      await chat.page.locator("article.live .waiting", { hasText: "Waiting for answers in other tabs" }).waitFor();
      assert.match(await chat.lastAnswer(), /^word0 word1/);
      mock.control.holdAfter = Infinity;
      for (const [n, tab] of tabs.entries()) {
        await tab.idle();
        assert.match(await tab.lastAnswer(), new RegExp(`^word0 .* word${99 + n}$`));
        assert.equal(await tab.page.locator("article .waiting").count(), 0);
        tab.assertSound();
      }
    },
  },
  {
    name: "a server that is away: at the start, and between two messages",
    unready: true,
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      await chat.ready();
      await chat.ask("before");
      await mock.down();
      await chat.field.fill("meanwhile");
      await chat.field.press("Enter");
      await chat.page.waitForFunction(() => /cannot be reached/.test(document.querySelector(".banner").textContent));
      await mock.up();
      await chat.page.getByRole("button", { name: "Try now" }).click().catch(() => {});
      await chat.page.waitForFunction(() => document.querySelectorAll("article.assistant").length === 2);
      await chat.idle();
      assert.deepEqual((await chat.texts()).filter((_, i) => i % 2 === 0), ["before", "meanwhile"]);
      mock.control.faults.push({ match: /GET \/api\/config/, status: 503, code: "loading" });
      await chat.page.reload();
      await chat.page.waitForFunction(() => /^The model is being loaded\. Trying again/.test(document.querySelector(".banner.waiting")?.textContent));
      await chat.ready();
      await chat.answers.nth(1).waitFor();
    },
  },
  {
    name: "what went wrong is said until it is closed, something is sent, or another conversation is opened",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const refused = async () => {
        mock.control.faults.push({ match: /POST .*\/messages$/, status: 400, message: "Not this one." });
        await chat.field.fill("refused");
        await chat.field.press("Enter");
        await chat.page.locator(".banner.failure", { hasText: "Not this one." }).waitFor();
      };
      await chat.ask("before");
      const before = chat.page.url();
      await refused();
      await chat.page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
      await chat.ask("after");
      assert.ok(await chat.page.locator("#banner").isHidden());
      await refused();
      await chat.page.click("#new-chat");
      await chat.page.waitForSelector(".empty-title");
      assert.ok(await chat.page.locator("#banner").isHidden());
      await chat.page.goto(before);
      await refused();
      await chat.page.getByRole("button", { name: "Close", exact: true }).click();
      assert.ok(await chat.page.locator("#banner").isHidden());
    },
  },
  {
    name: "an answer that fails says why and can be asked for again",
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      mock.control.faults.push({ match: /GET .*\/events$/, status: 500, message: "The model fell over." });
      await chat.send("hello");
      const failure = chat.page.locator("article .failure");
      await failure.waitFor();
      assert.match(await failure.innerText(), /This answer failed\. The model fell over\./);
      assert.equal(await chat.announced(), "The answer failed. The model fell over.");
      await failure.getByRole("button", { name: "Try again" }).click();
      await chat.page.waitForSelector("article.assistant .branches");
      await chat.idle();
      assert.match(await chat.lastAnswer(), /Version 2/);
    },
  },
  {
    name: "a conversation that is gone is said to be gone",
    unready: true,
    hash: "#/c/nowhere",
    async run({ chat }) {
      chat.networkFaultsAllowed = true;
      await chat.page.waitForSelector(".empty-title");
      await chat.page.waitForFunction(() => /not here/.test(document.querySelector(".empty-title").textContent));
    },
  },
];
