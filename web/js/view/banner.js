// One strip above the composer for what is wrong now: a wait that ends by itself, or a refusal with what to do about it.

import { h } from "../dom.js";
import { plural } from "../format.js";

export class Banner {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    this.timer = 0;
    /** Who shows it; only they take it away. */
    this.owner = null;
  }

  #fill(owner, kind, text, buttons) {
    clearInterval(this.timer);
    this.owner = owner;
    this.element.className = `banner ${kind}`;
    this.element.replaceChildren(text, h("span", { class: "row" }, ...buttons));
    this.element.hidden = false;
  }

  /**
   * A wait with its countdown.
   * @param {any} owner @param {import("../retry.js").Wait} wait @param {string} again  "Trying again" @param {(() => void)|null} cancel
   */
  showWait(owner, wait, again, cancel) {
    const reason = { 0: "The server cannot be reached.", 429: "Too many requests at once.", 503: "The server is busy." }[wait.error.status]
      ?? wait.error.message;
    const rest = h("span", { class: "count", "aria-hidden": "true" });
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((wait.until - Date.now()) / 1000));
      rest.textContent = ` ${again} in ${plural(seconds, "second")}.`;
    };
    const button = (label, click) => h("button", { type: "button", class: "text-button", on: { click } }, label);
    const buttons = [button("Try now", wait.now)];
    if (cancel) buttons.push(button("Cancel", cancel));
    this.#fill(owner, "waiting", h("span", { role: "status" }, reason, rest), buttons);
    tick();
    this.timer = setInterval(tick, 250);
  }

  /** Something that did not work, until it is closed. */
  showError(text) {
    const owner = {};
    this.#fill(owner, "failure", h("span", { role: "alert" }, text),
      [h("button", { type: "button", class: "text-button", on: { click: () => this.clear(owner) } }, "Close")]);
  }

  /** Something that was done. */
  showDone(text) {
    const owner = {};
    this.#fill(owner, "done", h("span", { role: "status" }, text), []);
    setTimeout(() => this.clear(owner), 4000);
  }

  clear(owner) {
    if (this.owner !== owner) return;
    clearInterval(this.timer);
    this.owner = null;
    this.element.hidden = true;
    this.element.replaceChildren();
  }
}
