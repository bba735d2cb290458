// The list of keys.

import { byId, h } from "../js/dom.js";

const KEYS = [
  ["Drag", "Zoom into a part of the charts"], ["Shift + Drag", "Move along; or choose “Move”"], ["Ctrl + Wheel", "Zoom at the pointer"], ["Double click", "Show all"],
  ["← →", "In a chart: read it point by point"], ["Shift + ← →", "Move along"], ["+ −", "Zoom in and out"], ["0", "Show all"], ["?", "This list"],
];

export function showHelp() {
  if (byId("help-title")) return;
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "help-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "help-title" }, "Charts"),
      h("dl", { class: "keys" }, ...KEYS.flatMap(([key, what]) => [h("dt", {}, ...key.split(" + ").flatMap((name, i) => [i ? " + " : "", h("kbd", {}, name)])), h("dd", {}, what)])),
      h("div", { class: "row end" }, h("button", { class: "button primary", autofocus: true }, "Close"))));
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}
