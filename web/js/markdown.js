// Markdown to a document fragment. What a model writes is hostile: marked makes markup of it, DOMPurify sanitises that
// last, and what is added afterwards (copy buttons, wrappers) is made of elements, never of strings.

import { Marked } from "../vendor/marked.esm.js";
import "../vendor/purify.min.js";
import { h, icon, relabel } from "./dom.js";

const DOMPurify = globalThis.DOMPurify;

const escape = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** Bare formatting tags that models do write in Markdown; every other tag is shown as the text that it is. */
const FORMATTING = /^<\/?(?:br|sub|sup|kbd|mark|b|i|u|s|em|strong|small)\s*\/?>$/i;

/** Links lead to the web or to a mail, and nowhere into this page. */
const LINK = /^(?:https?:\/\/|mailto:)/i;

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // The page's own headings are h1 and h2.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    html({ raw, block }) {
      if (FORMATTING.test(raw.trim())) return raw;
      const text = escape(raw.replace(/\n+$/, ""));
      return block ? `<p>${text.replace(/\n/g, "<br>")}</p>` : text;
    },
    // What stands between <script> and </script> is text like all other.
    text(token) {
      return token.tokens ? this.parser.parseInline(token.tokens) : escape(token.text);
    },
    // Pictures are never loaded, only linked.
    image({ href, text }) {
      const label = `image: ${text || href}`;
      return LINK.test(href) ? `<a href="${escape(href)}">${escape(label)}</a>` : escape(label);
    },
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
  },
});

const PURE = {
  ALLOWED_TAGS: ["a", "b", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "i", "kbd", "li", "mark", "ol", "p",
    "pre", "s", "small", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul"],
  ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
  ALLOWED_URI_REGEXP: LINK,
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("uponSanitizeAttribute", (node, data) => {
  if (data.attrName === "href") data.keepAttr = LINK.test(data.attrValue);
  // The only class is a code block's language; the page's own classes are not for the model.
  if (data.attrName === "class") data.keepAttr = node.nodeName === "CODE" && /^language-[\w+#.-]{1,30}$/.test(data.attrValue);
});
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
});

/** The blocks of a text: marked's tokens, whose `raw` put together are the text. */
export const blocksOf = (text) => marked.lexer(text);

/**
 * Sanitised elements of some blocks.
 * @param {any[]} tokens
 * @returns {DocumentFragment}
 */
export function render(tokens) {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), PURE);
  fragment.querySelectorAll("pre").forEach(frameCode);
  fragment.querySelectorAll("table").forEach((table) => {
    const box = h("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" });
    table.replaceWith(box);
    box.append(table);
  });
  // Each block reads as its own first words do, and code from left to right, whatever is written around it.
  for (const block of fragment.children) block.setAttribute("dir", "auto");
  fragment.querySelectorAll(".code, code").forEach((code) => code.setAttribute("dir", "ltr"));
  return fragment;
}

/** A head over a code block, with its language and a button that copies. */
function frameCode(pre) {
  const code = pre.querySelector("code") ?? pre;
  const language = /language-(\S+)/.exec(code.className)?.[1] ?? "";
  pre.setAttribute("tabindex", "0");
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  const frame = h("div", { class: "code" });
  pre.replaceWith(frame);
  frame.append(
    h("div", { class: "code-head" }, h("span", {}, language || "code"), copyButton(() => code.textContent ?? "", "Copy code")),
    pre,
  );
}

/** A button that copies and says for a moment that it did. @param {() => string} text */
export function copyButton(text, label) {
  const button = h("button", { type: "button", class: "icon-button", "aria-label": label, title: label }, icon("copy"));
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    relabel(button, copied ? "check" : "close", copied ? "Copied" : "The browser did not let it be copied");
    setTimeout(() => relabel(button, "copy", label), 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain http from another machine there is no clipboard interface; the old way still works.
    const field = h("textarea", { class: "offscreen", "aria-hidden": "true", tabindex: -1 });
    field.value = text;
    const focused = /** @type {HTMLElement|null} */ (document.activeElement);
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}
