// One strip above the composer for what is wrong now: a wait that ends by itself, or a refusal with what to do about it.

import { h } from "../dom.js";
import { plural } from "../format.js";

/** Why something waits, by the server's word for it, else by its status. */
const REASONS = {
  loading: "The model is being loaded.", shutting_down: "The server is shutting down.",
  0: "The server cannot be reached.", 429: "Too many requests at once.", 503: "The server is busy.",
};

export class Banner {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    /** What there is to show, by who shows it; only they take it away. The newest is shown, the others after it. */
    this.entries = new Map();
  }

  #add(owner, kind, text, buttons, timer = 0) {
    this.#drop(owner);
    this.entries.set(owner, { kind, nodes: [text, h("span", { class: "row" }, ...buttons)], timer });
    this.#show();
  }

  /** Whether it was there. */
  #drop(owner) {
    // Of either kind, an interval or a timeout.
    clearTimeout(this.entries.get(owner)?.timer);
    return this.entries.delete(owner);
  }

  #show() {
    const entry = [...this.entries.values()].at(-1);
    this.element.hidden = !entry;
    this.element.className = `banner ${entry?.kind ?? ""}`;
    this.element.replaceChildren(...(entry?.nodes ?? []));
  }

  /**
   * A wait with its countdown.
   * @param {any} owner @param {import("../types.js").Wait} wait @param {string} again  "Trying again" @param {(() => void)|null} cancel
   */
  showWait(owner, wait, again, cancel) {
    const reason = REASONS[wait.error.code] ?? REASONS[wait.error.status] ?? wait.error.message;
    const rest = h("span", { class: "count", "aria-hidden": "true" });
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((wait.until - Date.now()) / 1000));
      rest.textContent = ` ${again} in ${plural(seconds, "second")}.`;
    };
    const button = (label, click) => h("button", { type: "button", class: "text-button", on: { click } }, label);
    const buttons = [button("Try now", wait.now)];
    if (cancel) buttons.push(button("Cancel", cancel));
    tick();
    this.#add(owner, "waiting", h("span", { role: "status" }, reason, rest), buttons, setInterval(tick, 250));
  }

  /** Something that did not work, until it is closed. */
  showError(text) {
    this.#add("error", "failure", h("span", { role: "alert" }, text),
      [h("button", { type: "button", class: "text-button", on: { click: () => this.clear("error") } }, "Close")]);
  }

  /** Something that was done. */
  showDone(text) {
    this.#add("done", "done", h("span", { role: "status" }, text), [], setTimeout(() => this.clear("done"), 4000));
  }

  clear(owner) {
    if (this.#drop(owner)) this.#show();
  }
}
