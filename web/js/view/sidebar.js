// The list of conversations: search, open, rename, export, delete.

import { byId, h, iconButton, place, setText } from "../dom.js";
import { dayOf } from "../format.js";
import { composing } from "../keyboard.js";
import { openMenu } from "./menu.js";

const SEARCH_AFTER_MS = 150;

export class Sidebar {
  /** @param {HTMLElement} element @param {import("../types.js").ListDoes} does */
  constructor(element, does) {
    this.element = element;
    this.does = does;
    this.listing = byId("conversations");
    this.field = byId("search");
    this.found = byId("found");
    this.conversations = [];
    this.next = null;
    this.currentId = null;
    this.busyIds = new Set();
    this.query = 0;
    /** What the list was read for, and how many it is to have at least. */
    this.searched = "";
    this.wanted = 0;
    /** Lines and days stay the same elements when the list is read again, for the hands that are on them. */
    this.items = new Map();
    this.days = new Map();
    this.older = h("button", { type: "button", class: "text-button more", on: { click: () => this.#more() } }, "Show older");
    this.renaming = false;
    let timer = 0;
    this.field.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.refresh(), SEARCH_AFTER_MS);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") {
        event.preventDefault();
        this.listing.querySelector("a")?.focus();
      } else if (event.key === "Enter" && !composing(event)) {
        event.preventDefault();
        this.listing.querySelector("a")?.click();
      } else if (event.key === "Escape" && this.field.value) {
        event.stopPropagation();
        this.field.value = "";
        this.refresh();
      }
    });
    this.listing.addEventListener("keydown", (event) => {
      if (event.target.tagName !== "A" || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
      event.preventDefault();
      const links = [...this.listing.querySelectorAll("a")];
      const to = links.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1);
      (links[to] ?? (to < 0 ? this.field : null))?.focus();
    });
  }

  /** Reads the list again, as much of it as is shown. */
  async refresh() {
    const query = (this.query += 1);
    const q = this.field.value.trim();
    if (q !== this.searched) this.wanted = 0;
    this.searched = q;
    const found = new Map();
    try {
      let next = "";
      do {
        const page = await this.does.list({ q, cursor: next });
        // An older search that comes back late does not replace a newer one.
        if (query !== this.query) return;
        for (const conversation of page.conversations) found.set(conversation.id, conversation);
        next = page.next;
      } while (next && found.size < this.wanted);
      this.conversations = [...found.values()];
      this.wanted = found.size;
      this.next = next;
      this.#render();
      this.does.listed(this.conversations);
      setText(this.found, q ? (found.size ? `${found.size}${next ? " or more" : ""} found` : "Nothing found") : "");
    } catch (error) {
      this.does.failed(error);
    }
  }

  async #more() {
    const known = this.conversations.length;
    this.wanted = known + 1;
    await this.refresh();
    this.listing.querySelectorAll("a")[known]?.focus();
  }

  /** @param {string|null} currentId @param {Set<string>} busyIds  conversations that are being answered */
  mark(currentId, busyIds) {
    this.currentId = currentId;
    this.busyIds = busyIds;
    for (const link of this.listing.querySelectorAll("a")) this.#markLink(link);
  }

  #markLink(link) {
    const { id } = link.dataset;
    if (id === this.currentId) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    link.querySelector(".busy").hidden = !this.busyIds.has(id);
  }

  #render() {
    // While a title is being written nothing moves; what has come is shown after it.
    if (this.renaming) return;
    const focused = this.listing.contains(document.activeElement) ? document.activeElement : null;
    const searching = this.searched;
    const days = new Map();
    for (const conversation of this.conversations) {
      const day = searching ? "" : dayOf(conversation.updated_at);
      if (!days.has(day)) days.set(day, []);
      days.get(day).push(this.#item(conversation, searching));
    }
    const nodes = [];
    for (const [day, items] of days) {
      if (!this.days.has(day)) this.days.set(day, { heading: h("h2", {}, day), list: h("ul", {}) });
      const { heading, list } = this.days.get(day);
      place(list, items);
      nodes.push(...(day ? [heading, list] : [list]));
    }
    if (nodes.length === 0) nodes.push(h("p", { class: "hint" }, searching ? "No conversation has these words." : "Conversations appear here."));
    if (this.next) nodes.push(this.older);
    place(this.listing, nodes);
    for (const [id, item] of this.items) if (!item.element.isConnected) this.items.delete(id);
    // What was moved has lost the focus, and what is gone has it no more.
    if (focused && focused !== document.activeElement) (focused.isConnected ? focused : this.listing.querySelector("a"))?.focus({ preventScroll: true });
  }

  #item(conversation, searching) {
    const { id } = conversation;
    let item = this.items.get(id);
    if (!item) this.items.set(id, (item = this.#newItem(id)));
    item.conversation = conversation;
    const title = conversation.title || "New chat";
    const snippet = searching && conversation.snippet;
    const shown = JSON.stringify([title, searching, snippet]);
    if (item.shown !== shown) {
      item.shown = shown;
      item.text.replaceChildren(h("span", { class: "title", dir: "auto" }, ...marked(title, searching)));
      if (snippet) item.text.append(h("span", { class: "snippet", dir: "auto" }, ...marked(snippet, searching)));
      item.more.title = `More for ${title}`;
      item.more.setAttribute("aria-label", item.more.title);
    }
    this.#markLink(item.link);
    return item.element;
  }

  #newItem(id) {
    const text = h("span", {});
    const link = h("a", { href: `#/c/${encodeURIComponent(id)}`, "data-id": id, on: { click: () => this.does.open(id) } },
      text, h("span", { class: "busy", hidden: true }, h("span", { class: "offscreen" }, " (being answered)")));
    const more = iconButton("more", "", () => openMenu(more, [
      ["Rename", () => this.#rename(item)],
      ["Export as JSON", () => this.does.save(item.conversation, "json")],
      ["Export as Markdown", () => this.does.save(item.conversation, "markdown")],
      ["Delete", () => this.does.remove(item.conversation), "danger"],
    ]), { "aria-haspopup": "menu", "aria-expanded": "false" });
    const item = { element: h("li", {}, link, more), link, text, more, conversation: null, shown: "" };
    return item;
  }

  #rename({ element, link, more, conversation }) {
    // Another tab has deleted it.
    if (!element.isConnected) return;
    const field = h("input", { class: "field", "aria-label": "Title", maxlength: 200, value: conversation.title ?? "", dir: "auto" });
    this.renaming = true;
    const end = (save) => {
      if (!this.renaming) return;
      this.renaming = false;
      element.replaceChildren(link, more);
      link.focus();
      this.#render();
      const title = field.value.trim();
      if (save && title !== "" && title !== conversation.title) this.does.rename(conversation.id, title);
    };
    field.addEventListener("keydown", (event) => {
      if (composing(event)) return;
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        end(event.key === "Enter");
      }
    });
    field.addEventListener("blur", () => end(true));
    element.replaceChildren(field);
    field.focus();
    field.select();
  }
}

/** A text with the words that were searched for marked. */
function marked(text, searching) {
  const words = searching.split(/\s+/).filter(Boolean).map((word) => word.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
  if (words.length === 0) return [text];
  // With a group in the pattern, every second part is what was found.
  return text.split(new RegExp(`(${words.join("|")})`, "giu")).map((part, i) => (i % 2 ? h("mark", {}, part) : part));
}
