// Questions that must be answered first: the key, "really?", and the list of keys.

import { byId, h } from "../dom.js";

/** Opens a dialog and waits for its close; the result is the value of the button, "" for Esc. */
function opened(dialog) {
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue);
  }));
}

/** Asks for the API key until one is given. @param {boolean} rejected */
export async function askKey(rejected) {
  const field = h("input", { class: "field", type: "password", id: "key", autocomplete: "current-password", required: true, "aria-describedby": "key-hint" });
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "key-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "key-title" }, "This server asks for a key"),
      rejected && h("p", { class: "failure", role: "alert" }, "The key was not accepted."),
      h("label", { for: "key" }, "API key"), field,
      h("p", { class: "hint", id: "key-hint" }, "The one that the server was started with. It is kept in this browser."),
      h("div", { class: "row end" }, h("button", { class: "button primary", value: "ok" }, "Continue"))));
  // Without the key nothing works: Esc does not close.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  await opened(dialog);
  return field.value.trim() || askKey(rejected);
}

/** @param {string} title @param {string} text @param {string} yes  the button's name */
export async function confirmed(title, text, yes) {
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" },
    h("form", { method: "dialog" },
      h("h2", { id: "confirm-title" }, title), h("p", { id: "confirm-text" }, text),
      h("div", { class: "row end" },
        h("button", { class: "button", value: "", autofocus: true }, "Cancel"), h("button", { class: "button danger", value: "yes" }, yes))));
  return (await opened(dialog)) === "yes";
}

const KEYS = [
  ["Enter", "Send the message"], ["Shift + Enter", "New line"], ["Esc", "Stop the answer"], ["↑", "Edit the last message, when nothing is written"],
  ["Ctrl + K", "Search conversations"], ["Ctrl + Shift + O", "New chat"], ["?", "This list"],
];

export function showHelp() {
  if (byId("help-title")) return;
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "help-title" },
    h("form", { method: "dialog" },
      h("h2", { id: "help-title" }, "Keys"),
      h("dl", { class: "keys" }, ...KEYS.flatMap(([key, what]) =>
        [h("dt", {}, ...key.split(" + ").flatMap((name, i) => [i ? " + " : "", h("kbd", {}, name)])), h("dd", {}, what)])),
      h("div", { class: "row end" }, h("button", { class: "button primary", autofocus: true }, "Close"))));
  opened(dialog);
}
