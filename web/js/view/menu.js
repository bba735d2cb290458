// A menu that opens at a button: arrows move, Enter takes, Esc closes.

import { h } from "../dom.js";

let close = () => {};

/** @param {HTMLElement} button @param {[string, () => void, string?][]} entries  label, action, class */
export function openMenu(button, entries) {
  close();
  const items = entries.map(([label, action, kind]) =>
    h("button", { type: "button", role: "menuitem", tabindex: -1, class: kind ?? "", on: { click: () => { close(); button.focus(); action(); } } }, label));
  const menu = h("div", { class: "menu", role: "menu", "aria-label": button.getAttribute("aria-label") ?? "" }, ...items);
  menu.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      items.at(to % items.length).focus();
    } else if (event.key === "Escape" || event.key === "Tab") {
      event.preventDefault();
      event.stopPropagation();
      close();
      button.focus();
    }
  });
  const outside = (event) => menu.contains(event.target) || close();
  close = () => {
    menu.remove();
    button.setAttribute("aria-expanded", "false");
    removeEventListener("pointerdown", outside, true);
    removeEventListener("resize", close);
    close = () => {};
  };
  document.body.append(menu);
  const at = button.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  menu.style.top = `${at.bottom + height + 8 < innerHeight ? at.bottom + 4 : Math.max(8, at.top - height - 4)}px`;
  button.setAttribute("aria-expanded", "true");
  addEventListener("pointerdown", outside, true);
  addEventListener("resize", close);
  items[0].focus();
}
