// Light, dark, or as the system has it.

import { relabel } from "./dom.js";

const KEY = "casallm.theme";
const ORDER = ["auto", "light", "dark"];
const LOOKS = { auto: ["auto", "Theme: as the system"], light: ["sun", "Theme: light"], dark: ["moon", "Theme: dark"] };

/** @param {HTMLButtonElement} button  goes through the three */
export function installTheme(button) {
  const current = () => (ORDER.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "auto");
  const show = () => {
    const theme = current();
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    relabel(button, LOOKS[theme][0], LOOKS[theme][1]);
    dispatchEvent(new Event("themechange"));
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, ORDER[(ORDER.indexOf(current()) + 1) % ORDER.length]);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
  show();
}
