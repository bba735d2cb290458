// Where messages are written: one field, one button that sends or stops.

import { h, icon } from "../dom.js";
import { drafts } from "../drafts.js";
import { bytesOf, count } from "../format.js";

export class Composer {
  /**
   * @param {HTMLFormElement} form
   * @param {{send: (text: string) => void, stop: () => void, editLast: () => void, limit: number}} options  `limit`: bytes of a message
   */
  constructor(form, options) {
    this.options = options;
    this.field = form.querySelector("textarea");
    /** @type {HTMLButtonElement} */
    this.button = form.querySelector("button.send");
    /** @type {HTMLElement} */
    this.problem = form.querySelector(".problem");
    this.draftId = "new";
    this.state = "idle";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#press();
    });
    this.field.addEventListener("input", () => {
      drafts.set(this.draftId, this.field.value);
      this.#show();
    });
    this.field.addEventListener("keydown", (event) => this.#key(event));
    // Phones have no Shift+Enter: there Enter makes a line, and the button sends.
    this.touch = matchMedia("(pointer: coarse) and (hover: none)");
  }

  #key(event) {
    // While an input method composes, Enter takes its suggestion. Safari says so by the key code only.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey && !this.touch.matches) {
      event.preventDefault();
      if (this.state === "idle") this.#press();
    } else if (event.key === "ArrowUp" && this.field.value === "") {
      event.preventDefault();
      this.options.editLast();
    }
  }

  #press() {
    if (this.state === "answering" || this.state === "sending") return this.options.stop();
    const text = this.field.value;
    if (text.trim() === "" || this.#tooLong()) return this.field.focus();
    this.options.send(text);
  }

  #tooLong() {
    // A character is at most three bytes; short texts need no counting.
    return this.field.value.length * 3 > this.options.limit && bytesOf(this.field.value) > this.options.limit;
  }

  /** Shows the draft of a conversation. */
  open(draftId) {
    this.draftId = draftId;
    this.field.value = drafts.get(draftId);
    this.#show();
  }

  /** The draft now belongs to a conversation that was just made. */
  rename(draftId) {
    drafts.set(this.draftId, "");
    this.draftId = draftId;
    drafts.set(draftId, this.field.value);
  }

  /** The message is with the server: its draft goes, unless something else has been written since. */
  sent(draftId, text) {
    for (const id of [draftId, "new"]) if (drafts.get(id) === text) drafts.set(id, "");
    if (this.draftId === draftId && this.field.value === text) this.field.value = "";
    this.#show();
  }

  /** @param {"idle"|"sending"|"answering"} state */
  setState(state) {
    this.state = state;
    this.#show();
  }

  #show() {
    const stops = this.state !== "idle";
    if (this.button.dataset.stops !== String(stops)) {
      this.button.dataset.stops = String(stops);
      this.button.replaceChildren(icon(stops ? "stop" : "send"));
      this.button.setAttribute("aria-label", stops ? "Stop" : "Send");
      this.button.title = stops ? "Stop (Esc)" : "Send (Enter)";
    }
    const tooLong = this.#tooLong();
    this.button.disabled = !stops && (this.field.value.trim() === "" || tooLong);
    this.field.readOnly = this.state === "sending";
    this.field.setAttribute("aria-invalid", String(tooLong));
    this.problem.textContent = tooLong ? `This message is longer than ${count(this.options.limit)} bytes, the most that the server takes.` : "";
    this.problem.hidden = !tooLong;
    // Browsers without `field-sizing: content`.
    if (!CSS.supports("field-sizing", "content")) {
      this.field.style.height = "auto";
      this.field.style.height = `${Math.min(this.field.scrollHeight, innerHeight * 0.4)}px`;
    }
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }
}
