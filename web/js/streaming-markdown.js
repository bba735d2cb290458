// Markdown that grows: while an answer streams, only its last block is read and rendered again.

import { h } from "./dom.js";
import { blocksOf, render } from "./markdown.js";

const unify = (text) => text.replace(/\r\n?/g, "\n");

export class StreamingMarkdown {
  /** @param {HTMLElement} element  is filled with the text */
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    /** Where the first block begins that may still change. */
    this.settled = 0;
    /** The `raw` of the blocks before. @type {string[]} */
    this.raws = [];
    /** The nodes of the blocks that may still change. @type {Node[]} */
    this.tail = [];
    /** The code block that is being written, if one is. @type {{raw: string, text: Text}|null} */
    this.code = null;
  }

  /** Shows a text that begins with the one shown before. @param {string} text */
  grow(text) {
    this.#orPlain(text, () => this.#grow(text));
  }

  /** Shows the whole text for good, rendering again only what came out otherwise while it grew. @param {string} text */
  finish(text) {
    this.#orPlain(text, () => this.#finish(text));
  }

  /** What the parser cannot read, as lists a thousand deep, is shown as it was written. */
  #orPlain(text, show) {
    try {
      show();
    } catch {
      this.clear();
      this.tail = [h("p", { class: "plain" }, text)];
      this.element.append(...this.tail);
    }
  }

  #grow(text) {
    const source = unify(text);
    const blocks = blocksOf(source.slice(this.settled));
    // A block is settled when the one after it is sure to be another: its first line is complete.
    let open = blocks.length - 1;
    while (open > 0 && (blocks[open].type === "space" || !blocks[open].raw.includes("\n"))) open -= 1;
    const settled = blocks.slice(0, Math.max(open, 0));
    const rest = blocks.slice(settled.length);
    if (settled.length === 0 && this.#appendCode(rest)) return;
    for (const node of this.tail) node.parentNode?.removeChild(node);
    if (settled.length) this.element.append(render(settled));
    for (const { raw } of settled) {
      this.settled += raw.length;
      this.raws.push(raw);
    }
    const fragment = render(rest);
    this.tail = [...fragment.childNodes];
    this.element.append(fragment);
    const text_ = rest.length === 1 && rest[0].type === "code" ? this.#codeText() : null;
    this.code = text_ && { raw: rest[0].raw, text: text_ };
  }

  /** Long code is not rendered again for each token: its text node grows. */
  #appendCode(blocks) {
    const [block] = blocks;
    if (!this.code || blocks.length !== 1 || block.type !== "code" || !block.raw.startsWith(this.code.raw)) return false;
    // The parser ends a block's text with one line end.
    const text = `${block.text.replace(/\n$/, "")}\n`;
    const shown = this.code.text.data.replace(/\n$/, "");
    if (!text.startsWith(shown) || !this.code.raw.includes("\n")) return false;
    this.code.text.replaceData(shown.length, this.code.text.length, text.slice(shown.length));
    this.code.raw = block.raw;
    return true;
  }

  #codeText() {
    for (const node of this.tail) {
      const text = node instanceof Element && node.querySelector("pre code")?.firstChild;
      if (text instanceof Text) return text;
    }
    return null;
  }

  #finish(text) {
    this.#grow(text);
    const blocks = blocksOf(unify(text));
    // A link's address may be given in a later block than the link.
    const referred = Object.keys(blocks.links ?? {}).length > 0;
    if (!referred && this.raws.every((raw, i) => blocks[i]?.raw === raw)) return;
    this.clear();
    const fragment = render(blocks);
    this.tail = [...fragment.childNodes];
    this.element.append(fragment);
  }
}
