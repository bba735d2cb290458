// Keys that work everywhere on the page, and what fields have in common. Fields, menus and dialogs handle their own first.

/** While an input method composes, Enter takes its suggestion. Safari says so by the key code only. */
export const composing = (event) => event.isComposing || event.keyCode === 229;

// Phones have no Shift+Enter: there Enter makes a line, and the button sends.
const touch = matchMedia("(pointer: coarse) and (hover: none)");

/** Whether a key in the field of a message sends it. @param {KeyboardEvent} event */
export function sends(event) {
  return event.key === "Enter" && !(event.shiftKey || event.ctrlKey || event.altKey || event.metaKey || composing(event) || touch.matches);
}

/** @param {{search: () => void, newChat: () => void, stop: () => boolean, help: () => void}} does */
export function installKeyboard(does) {
  addEventListener("keydown", (event) => {
    if (composing(event) || event.defaultPrevented) return;
    // What a dialog asks comes first.
    if (document.querySelector("dialog[open]")) return;
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    const typing = /** @type {HTMLElement} */ (event.target).matches?.("input, textarea, select");
    if (command && !event.shiftKey && !event.altKey && key === "k") {
      event.preventDefault();
      does.search();
    } else if (command && event.shiftKey && key === "o") {
      event.preventDefault();
      does.newChat();
    } else if (event.key === "Escape") {
      if (does.stop()) event.preventDefault();
    } else if (event.key === "?" && !typing && !command) {
      event.preventDefault();
      does.help();
    }
  });
}
