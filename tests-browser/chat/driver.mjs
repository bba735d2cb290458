// The page as a person uses it, for the tests.

import assert from "node:assert/strict";

/** Chromium's own line for a request that failed; the tests of faults make them fail on purpose. */
const NETWORK = /Failed to load resource|net::ERR/;

export class Chat {
  /** @param {import("playwright-core").BrowserContext} context @param {string} url */
  constructor(context, url) {
    this.context = context;
    this.url = url;
    /** What went wrong in the page. @type {string[]} */
    this.faults = [];
    this.networkFaultsAllowed = false;
    /** Milliseconds before something that does not happen is a fault. */
    this.patience = 30_000;
  }

  /** Opens a tab. */
  async open(hash = "") {
    this.page = await this.context.newPage();
    this.page.setDefaultTimeout(this.patience);
    this.page.on("console", (message) => {
      if (message.type() === "error" && !(this.networkFaultsAllowed && NETWORK.test(message.text()))) this.faults.push(`console: ${message.text()}`);
    });
    this.page.on("pageerror", (error) => this.faults.push(`script error: ${error.message}`));
    this.page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(this.url) && !url.startsWith("data:") && !url.startsWith("blob:")) this.faults.push(`request to elsewhere: ${url}`);
    });
    await this.page.goto(this.url + hash);
    return this;
  }

  /** @param {number} ms */
  setPatience(ms) {
    this.patience = ms;
    this.page.setDefaultTimeout(ms);
  }

  get field() {
    return this.page.locator("#message");
  }

  get messages() {
    return this.page.locator("article.message");
  }

  get answers() {
    return this.page.locator("article.assistant");
  }

  get users() {
    return this.page.locator("article.user");
  }

  /** Waits until the page is ready to write in. */
  async ready() {
    await this.page.waitForSelector("body:not([aria-busy])");
    return this;
  }

  /** Sends and does not wait for the answer. */
  async send(text) {
    await this.field.fill(text);
    await this.field.press("Enter");
    await this.page.waitForFunction(() => document.querySelector("#message").value === "");
  }

  /** Sends and waits for the whole answer. */
  async ask(text) {
    const before = await this.answers.count();
    await this.send(text);
    await this.page.waitForFunction((n) => document.querySelectorAll("article.assistant").length > n, before);
    await this.idle();
  }

  /** Waits until nothing is being answered or sent. */
  async idle(timeout = this.patience) {
    await this.page.waitForFunction(() => document.querySelector(".send").dataset.stops === "false" && !document.querySelector("article.live"), null, { timeout });
  }

  /** Waits until an answer has begun to show text. */
  async streaming() {
    await this.page.waitForFunction(() => document.querySelector("article.live .text")?.textContent.length > 3);
  }

  async lastAnswer() {
    return (await this.answers.last().locator(".text").innerText()).trim();
  }

  /** The texts of the branch that is shown. */
  async texts() {
    return this.page.$$eval("article.message > .text", (texts) => texts.map((text) => text.textContent.trim()));
  }

  /** What screen readers were told last. */
  async announced() {
    return this.page.evaluate(() => document.getElementById("announcer-a").textContent + document.getElementById("announcer-b").textContent);
  }

  /** Nothing was logged as an error, nothing was asked of other hosts. */
  assertSound() {
    assert.deepEqual(this.faults, []);
  }
}
