// One message of the transcript: what was said, how it went, and what can be done with it.

import { h, icon, iconButton, setText } from "../dom.js";
import { drafts } from "../drafts.js";
import { count, duration, plural, rate, tooLong } from "../format.js";
import { composing, sends } from "../keyboard.js";
import { copyButton } from "../markdown.js";
import { StreamingMarkdown } from "../streaming-markdown.js";

/** @typedef {import("../types.js").Message} Message */

const ENDINGS = {
  stopped: "Stopped",
  length: "Ended at the longest answer that the settings allow",
  context: "Ended because the context is full",
};

export class MessageView {
  /** @param {Message} message @param {import("../types.js").MessageActions} actions */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const user = message.role === "user";
    this.body = h("div", { class: user ? "text" : "text markdown", dir: "auto" });
    this.head = h("div", { class: "message-head" });
    this.state = h("div", { class: "message-state", hidden: true });
    this.foot = h("footer", { class: "message-foot" });
    this.element = h("article", { class: `message ${message.role}`, "data-id": message.id },
      h("h2", { class: "offscreen" }, user ? "You" : "Answer"), this.head, this.body, this.state, this.foot);
    this.markdown = user ? null : new StreamingMarkdown(this.body);
    this.shown = null;
    this.frame = 0;
  }

  /**
   * Shows the message as it is.
   * @param {Message} message @param {Message[]} siblings @param {import("../answers.js").Live|undefined} live
   */
  update(message, siblings, live) {
    this.message = message;
    this.element.classList.toggle("live", live !== undefined);
    this.element.setAttribute("aria-busy", String(live !== undefined));
    if (this.markdown === null) {
      if (this.body.textContent !== message.content) this.body.textContent = message.content;
    } else if (live === undefined) {
      cancelAnimationFrame(this.frame);
      this.frame = 0;
      if (this.shown !== message.content || !this.finished) {
        if (this.shown === null || !message.content.startsWith(this.shown)) this.markdown.clear();
        this.markdown.finish(message.content);
        this.shown = message.content;
        this.finished = true;
      }
    } else {
      this.finished = false;
      this.#renderLive();
    }
    this.#showState(live);
    this.#showFoot(siblings, live);
  }

  /**
   * Shows text that has come, at most once a frame, and less often where rendering is slow.
   * @param {() => void} rendered  called after the text is in the page
   */
  grow(rendered) {
    if (this.frame) return;
    const render = () => {
      this.frame = 0;
      const begun = performance.now();
      this.#renderLive();
      this.state.hidden = this.message.content !== "" && !this.waits;
      rendered();
      this.pace = (performance.now() - begun) * 3;
      this.next = performance.now() + this.pace;
    };
    const wait = (this.next ?? 0) - performance.now();
    // A hidden page draws no frames; what it missed is shown when it is looked at again.
    if (wait <= 16) this.frame = requestAnimationFrame(render);
    else this.frame = requestAnimationFrame(() => { this.frame = 0; this.grow(rendered); });
  }

  #renderLive() {
    const { content } = this.message;
    if (this.shown === content) return;
    if (this.shown !== null && !content.startsWith(this.shown)) this.markdown.clear();
    this.markdown.grow(content);
    this.shown = content;
  }

  #showState(live) {
    const { status, content, error } = this.message;
    const parts = [];
    if (live) {
      const { progress, notice, queued, wait } = live;
      const waiting = (text) => parts.push(h("p", { class: "waiting" }, h("span", { class: "pulse", "aria-hidden": "true" }), text));
      this.waits = wait || queued;
      if (wait) parts.push(h("p", { class: "waiting" }, "Reconnecting…"));
      else if (queued) waiting("Waiting for answers in other tabs");
      else if (progress && progress.of > 0 && content === "") {
        const bar = h("progress", { max: progress.of, "aria-label": "Reading the conversation" });
        bar.value = progress.read;
        parts.push(h("p", { class: "waiting" }, bar, `Reading ${count(progress.read)} of ${plural(progress.of, "token")}`));
      } else if (content === "") waiting(NOTICES[notice?.kind] ?? "Thinking");
    } else if (status === "failed") {
      parts.push(h("p", { class: "failure" }, `This answer failed. ${error?.message ?? ""}`.trim(), " ",
        h("button", { type: "button", class: "text-button", on: { click: () => this.actions.regenerate(this.message) } }, "Try again")));
    } else if (ENDINGS[status]) {
      parts.push(h("p", { class: "ending" }, ENDINGS[status]));
    } else if (status === "complete" && content === "" && this.message.role === "assistant") {
      parts.push(h("p", { class: "ending" }, "The model had nothing to say"));
    }
    this.state.replaceChildren(...parts);
    this.state.hidden = parts.length === 0;
  }

  #showFoot(siblings, live) {
    const { message, actions } = this;
    const parts = [];
    if (siblings.length > 1) parts.push(branches(message, siblings, actions));
    if (!live) {
      if (message.content !== "") parts.push(copyButton(() => this.message.content, message.role === "user" ? "Copy message" : "Copy answer"));
      if (message.role === "user") parts.push(iconButton("edit", "Edit message", () => this.edit(), { "data-do": "edit" }));
      else parts.push(iconButton("again", "Answer again", () => actions.regenerate(this.message), { "data-do": "regenerate" }));
      const numbers = figures(message);
      if (numbers) parts.push(h("p", { class: "figures" }, numbers));
    }
    // Focus stays where it is when the same button is made again.
    const focused = this.foot.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.foot.replaceChildren(...parts);
    if (focused) /** @type {any} */ (this.foot.querySelector(`[aria-label="${CSS.escape(focused)}"]`) ?? this.foot.querySelector("button"))?.focus();
  }

  /** Opens the message for editing in its place. */
  edit() {
    if (this.editor) return this.editor.querySelector("textarea").focus();
    const key = `${this.message.conversation_id}.edit.${this.message.id}`;
    const field = h("textarea", { class: "field", rows: 3, "aria-label": "Edit message", dir: "auto" });
    field.value = drafts.get(key) || this.message.content;
    const close = () => {
      drafts.set(key, "");
      this.editor?.remove();
      this.editor = null;
      this.body.hidden = this.foot.hidden = false;
    };
    const cancel = () => {
      close();
      /** @type {any} */ (this.foot.querySelector("[data-do=edit]"))?.focus();
    };
    const problem = h("p", { class: "problem", role: "alert", hidden: true });
    const check = () => {
      setText(problem, tooLong(field.value, this.actions.limit));
      problem.hidden = problem.textContent === "";
      return problem.hidden;
    };
    const submit = async () => {
      if (field.value.trim() === "" || !check()) return field.focus();
      if (field.value === this.message.content) return cancel();
      if (await this.actions.edit(this.message, field.value)) close();
    };
    field.addEventListener("input", () => {
      drafts.set(key, field.value);
      check();
    });
    field.addEventListener("keydown", (event) => {
      if (composing(event)) return;
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      } else if (sends(event)) {
        event.preventDefault();
        submit();
      }
    });
    this.editor = h("form", { class: "editor", on: { submit: (event) => { event.preventDefault(); submit(); } } }, field, problem,
      h("div", { class: "row end" },
        h("p", { class: "hint" }, "The old version stays, as a branch."),
        h("button", { type: "button", class: "button", on: { click: cancel } }, "Cancel"),
        h("button", { type: "submit", class: "button primary" }, "Send")));
    this.body.hidden = this.foot.hidden = true;
    this.body.after(this.editor);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}

/** "‹ 2 / 3 ›" */
function branches(message, siblings, actions) {
  const at = siblings.findIndex((sibling) => sibling.id === message.id);
  const step = (name, label, to) => iconButton(name, label, () => actions.branch(siblings[to]), { "aria-disabled": siblings[to] ? null : "true" });
  const left = step("left", "Previous version", at - 1);
  const right = step("right", "Next version", at + 1);
  for (const button of [left, right]) {
    if (button.getAttribute("aria-disabled")) button.addEventListener("click", (event) => event.stopImmediatePropagation(), { capture: true });
  }
  return h("div", { class: "branches", role: "group", "aria-label": `Version ${at + 1} of ${siblings.length}` },
    left, h("span", {}, `${at + 1} / ${siblings.length}`), right);
}

/** "7.4 tokens/s · first token after 0.4 s · 120 of 180 tokens reused" */
function figures({ timing, usage, context }) {
  const parts = [];
  if (timing && timing.tokens_per_second !== null) parts.push(`${rate(timing.tokens_per_second)} tokens/s`);
  if (timing && timing.first_token_ms !== null) parts.push(`first token after ${duration(timing.first_token_ms)}`);
  if (usage) parts.push(`${count(usage.cached_tokens)} of ${plural(usage.prompt_tokens, "token")} reused`);
  const overflow = context?.overflow;
  if (overflow?.note_id) parts.push("read a note in place of older messages");
  return parts.join(" · ");
}

const NOTICES = {
  summarising: "Condensing earlier messages",
  summarised: "Reading a note in place of earlier messages",
  dropped: "Leaving out the oldest messages",
  "summary-failed": "Earlier messages could not be condensed",
};

/** Stands in the transcript where older messages are no longer read word by word. */
export function noteMarker(note) {
  return h("details", { class: "marker", "data-note": note.id },
    h("summary", {}, icon("fold"), "Earlier messages were condensed"),
    h("p", { class: "hint" }, "The model reads this note in their place. The messages themselves are kept."),
    h("div", { class: "note", dir: "auto" }, note.text));
}

/** Stands before an answer for which messages were left out. */
export function droppedMarker(n) {
  return h("p", { class: "marker" }, icon("fold"), `The ${n === 1 ? "oldest message was" : `${count(n)} oldest messages were`} left out of this answer`);
}
