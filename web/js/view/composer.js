// Where messages are written: one field, one button that sends or stops.

import { h, icon, setText } from "../dom.js";
import { drafts } from "../drafts.js";
import { tooLong } from "../format.js";
import { composing, sends } from "../keyboard.js";

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
    this.draftId = null;
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
  }

  #key(event) {
    if (composing(event)) return;
    if (sends(event)) {
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
    return tooLong(this.field.value, this.options.limit);
  }

  /** Shows the draft of a conversation. */
  open(draftId) {
    if (draftId !== this.draftId) this.field.value = drafts.get(draftId);
    this.draftId = draftId;
    this.#show();
  }

  /** A draft goes from a new chat to the conversation that was just made of it, or back. */
  rename(from, to) {
    // All tabs have one draft of a new chat: what was written last, perhaps elsewhere, which stays there.
    const text = this.draftId === from ? this.field.value : drafts.get(from);
    drafts.set(to, text);
    if (drafts.get(from) === text) drafts.set(from, "");
    if (this.draftId === from) this.draftId = to;
  }

  /** The message is with the server: its draft goes, unless something else has been written since. */
  sent(draftId, text) {
    if (drafts.get(draftId) === text) drafts.set(draftId, "");
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
    const problem = this.#tooLong();
    this.button.disabled = !stops && (this.field.value.trim() === "" || problem !== "");
    this.field.readOnly = this.state === "sending";
    this.field.setAttribute("aria-invalid", String(problem !== ""));
    setText(this.problem, problem);
    this.problem.hidden = problem === "";
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
