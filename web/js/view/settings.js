// The system prompt and the sampling settings of a conversation, checked against the server's bounds.

import { byId, h, setText } from "../dom.js";
import { bytesOf, count } from "../format.js";

/** @typedef {import("../session.js").Session} Session */

/** Name, label, hint, whole numbers only. @type {[string, string, string, boolean][]} */
const FIELDS = [
  ["temperature", "Temperature", "Higher is more varied; 0 always takes the likeliest token.", false],
  ["top_p", "Top p", "Only the likeliest tokens that have this share of the probability together.", false],
  ["top_k", "Top k", "Only so many of the likeliest tokens; 0 for all.", true],
  ["min_p", "Min p", "Only tokens with at least this share of the likeliest one's probability.", false],
  ["repetition_penalty", "Repetition penalty", "Above 1 makes what was said already less likely.", false],
  ["max_tokens", "Longest answer", "In tokens.", true],
  ["seed", "Seed", "The same seed gives the same answer; empty for another each time.", true],
];

/** Where the server names no bounds: seeds are whole numbers that JavaScript holds exactly. */
const WIDEST = [0, Number.MAX_SAFE_INTEGER];

/** Changes are saved this long after the last letter. */
const SAVE_AFTER_MS = 400;

/** A number as JavaScript writes it: people put commas between thousands, as the page itself does, or for the decimal point. */
function plain(text, whole) {
  if (!whole) return text.replace(",", ".");
  return /^-?\d{1,3}(,\d{3})+$/.test(text) ? text.replaceAll(",", "") : text;
}

export class SettingsPanel {
  /**
   * @param {import("../types.js").Config} config
   * @param {(session: Session, changes: Session["changes"]) => Promise<void>} save
   */
  constructor(config, save) {
    this.config = config;
    this.save = save;
    this.state = byId("settings-state");
    this.prompt = byId("system-prompt");
    this.promptProblem = byId("system-prompt-problem");
    /** @type {Map<string, {field: HTMLInputElement, problem: HTMLElement, whole: boolean}>} */
    this.fields = new Map();
    const box = byId("sampling");
    for (const [name, label, hint, whole] of FIELDS) {
      if (!(name in config.bounds) && !(name in config.defaults)) continue;
      const field = h("input", {
        class: "field", id: `setting-${name}`, inputmode: whole ? "numeric" : "decimal", autocomplete: "off",
        placeholder: config.defaults[name] ?? "random", "aria-describedby": `hint-${name} problem-${name}`,
      });
      const problem = h("p", { class: "problem", id: `problem-${name}`, hidden: true });
      box.append(h("div", { class: "setting" },
        h("label", { for: field.id }, label), field, h("p", { class: "hint", id: `hint-${name}` }, hint), problem));
      this.fields.set(name, { field, problem, whole });
      field.addEventListener("input", () => this.#changed());
    }
    this.prompt.addEventListener("input", () => this.#changed());
    byId("settings-reset").addEventListener("click", () => {
      for (const { field } of this.fields.values()) field.value = "";
      this.#changed();
    });
    this.timer = 0;
  }

  /** @param {Session} session */
  show(session) {
    clearTimeout(this.timer);
    this.session = session;
    const { system_prompt, settings } = { ...session.conversation, ...session.changes };
    this.prompt.value = system_prompt;
    for (const [name, { field }] of this.fields) field.value = settings[name] ?? "";
    this.state.textContent = "";
    this.#check();
  }

  /** What is entered, or null when something is wrong. */
  #check() {
    /** @type {import("../types.js").Settings} */
    const settings = {};
    let sound = true;
    for (const [name, { field, problem, whole }] of this.fields) {
      const text = plain(field.value.trim(), whole);
      const [least, most] = this.config.bounds[name] ?? WIDEST;
      const value = Number(text);
      let wrong = "";
      if (text !== "") {
        if (!/^-?\d*\.?\d+$/.test(text) || !Number.isFinite(value)) wrong = "Enter a number.";
        else if (whole && (text.includes(".") || !Number.isSafeInteger(value))) wrong = "Enter a whole number.";
        else if (value < least || value > most) wrong = `Enter a number from ${least} to ${count(most)}.`;
        else settings[name] = value;
      }
      problem.textContent = wrong;
      problem.hidden = wrong === "";
      field.setAttribute("aria-invalid", String(wrong !== ""));
      sound &&= wrong === "";
    }
    const limit = this.config.limits.system_prompt_bytes;
    const tooLong = bytesOf(this.prompt.value) > limit;
    this.promptProblem.textContent = tooLong ? `The system prompt is longer than ${count(limit)} bytes.` : "";
    this.promptProblem.hidden = !tooLong;
    this.prompt.setAttribute("aria-invalid", String(tooLong));
    return sound && !tooLong ? { system_prompt: this.prompt.value.trim() === "" ? "" : this.prompt.value, settings } : null;
  }

  #changed() {
    clearTimeout(this.timer);
    const changes = this.#check();
    this.state.textContent = changes ? "" : "Not saved: see above.";
    this.session.changes = changes;
    // What went wrong is said in the panel.
    if (changes) this.timer = setTimeout(() => this.flush(this.session).catch(() => {}), SAVE_AFTER_MS);
  }

  /** Saves what has been changed and not saved, one change after the other. @param {Session} session */
  flush(session) {
    if (session === this.session) clearTimeout(this.timer);
    session.saving ??= this.#save(session).finally(() => (session.saving = null));
    return session.saving;
  }

  async #save(session) {
    const say = (text) => session === this.session && setText(this.state, text);
    while (session.changes) {
      const { changes } = session;
      session.changes = null;
      try {
        await this.save(session, changes);
        say("Saved for this conversation.");
      } catch (error) {
        // Tried again with the next change, before the next message, and when the conversation is left.
        session.changes ??= changes;
        say(`Not saved. ${error.message}`);
        throw error;
      }
    }
  }
}
