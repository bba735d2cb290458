// The list of conversations: search, open, rename, export, delete.

import { byId, h, icon, iconButton } from "../dom.js";
import { dayOf } from "../format.js";
import { openMenu } from "./menu.js";

/**
 * @typedef {import("../types.js").Listed} Listed
 * @typedef {{list: (query: {q?: string, cursor?: string}) => Promise<{conversations: Listed[], next: string|null}>,
 *   open: (id: string) => void, rename: (id: string, title: string) => Promise<void>, remove: (conversation: Listed) => void,
 *   save: (conversation: Listed, format: "json"|"markdown") => void, failed: (error: Error) => void, listed: (conversations: Listed[]) => void}} Does
 */

const SEARCH_AFTER_MS = 150;

export class Sidebar {
  /** @param {HTMLElement} element @param {Does} does */
  constructor(element, does) {
    this.element = element;
    this.does = does;
    this.listing = byId("conversations");
    this.field = byId("search");
    this.found = byId("found");
    /** @type {Listed[]} */
    this.conversations = [];
    this.next = null;
    this.currentId = null;
    this.busyIds = new Set();
    this.query = 0;
    let timer = 0;
    this.field.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.refresh(), SEARCH_AFTER_MS);
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") {
        event.preventDefault();
        this.listing.querySelector("a")?.focus();
      } else if (event.key === "Enter" && !event.isComposing) {
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

  /** Reads the list again. */
  async refresh() {
    const query = (this.query += 1);
    const q = this.field.value.trim();
    try {
      const { conversations, next } = await this.does.list({ q });
      // An older search that comes back late does not replace a newer one.
      if (query !== this.query) return;
      this.conversations = conversations;
      this.next = next;
      this.#render();
      this.does.listed(conversations);
      this.found.textContent = q ? (conversations.length ? `${conversations.length}${next ? " or more" : ""} found` : "Nothing found") : "";
    } catch (error) {
      this.does.failed(error);
    }
  }

  async #more() {
    try {
      const { conversations, next } = await this.does.list({ q: this.field.value.trim(), cursor: this.next });
      const known = new Set(this.conversations.map(({ id }) => id));
      const fresh = conversations.filter(({ id }) => !known.has(id));
      this.conversations.push(...fresh);
      this.next = next;
      this.#render();
      if (fresh.length) this.listing.querySelector(`a[href="#/c/${CSS.escape(fresh[0].id)}"]`)?.focus();
    } catch (error) {
      this.does.failed(error);
    }
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
    const focused = document.activeElement?.closest?.("#conversations li")?.querySelector("a")?.dataset.id;
    const searching = this.field.value.trim();
    const nodes = [];
    let day = null;
    let list = null;
    for (const conversation of this.conversations) {
      const heading = searching ? "" : dayOf(conversation.updated_at);
      if (heading !== day) {
        day = heading;
        list = h("ul", {});
        if (heading) nodes.push(h("h2", {}, heading));
        nodes.push(list);
      }
      list.append(this.#item(conversation, searching));
    }
    if (nodes.length === 0) nodes.push(h("p", { class: "hint" }, searching ? "No conversation has these words." : "Conversations appear here."));
    if (this.next) nodes.push(h("button", { type: "button", class: "text-button more", on: { click: () => this.#more() } }, "Show older"));
    this.listing.replaceChildren(...nodes);
    if (focused) this.listing.querySelector(`a[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  #item(conversation, searching) {
    const title = conversation.title || "New chat";
    const link = h("a", { href: `#/c/${encodeURIComponent(conversation.id)}`, "data-id": conversation.id },
      h("span", { class: "title", dir: "auto" }, ...marked(title, searching)),
      searching && conversation.snippet && h("span", { class: "snippet", dir: "auto" }, ...marked(conversation.snippet, searching)),
      h("span", { class: "busy", hidden: true }, h("span", { class: "offscreen" }, " (being answered)")));
    link.addEventListener("click", () => this.does.open(conversation.id));
    this.#markLink(link);
    const item = h("li", {}, link);
    const more = iconButton("more", `More for ${title}`, () => openMenu(more, [
      ["Rename", () => this.#rename(item, conversation)],
      ["Export as JSON", () => this.does.save(conversation, "json")],
      ["Export as Markdown", () => this.does.save(conversation, "markdown")],
      ["Delete", () => this.does.remove(conversation), "danger"],
    ]), { "aria-haspopup": "menu", "aria-expanded": "false" });
    item.append(more);
    return item;
  }

  #rename(item, conversation) {
    const field = h("input", { class: "field", "aria-label": "Title", maxlength: 200, value: conversation.title ?? "", dir: "auto" });
    const shown = [...item.childNodes];
    let over = false;
    const end = async (save) => {
      if (over) return;
      over = true;
      const title = field.value.trim();
      item.replaceChildren(...shown);
      item.querySelector("a").focus();
      if (!save || title === "" || title === conversation.title) return;
      try {
        await this.does.rename(conversation.id, title);
      } catch (error) {
        this.does.failed(error);
      }
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        end(event.key === "Enter");
      }
    });
    field.addEventListener("blur", () => end(true));
    item.replaceChildren(field);
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
