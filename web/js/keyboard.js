// Keys that work everywhere on the page. Fields, menus and dialogs handle their own first.

/** @param {{search: () => void, newChat: () => void, stop: () => boolean, help: () => void}} does */
export function installKeyboard(does) {
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return;
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
