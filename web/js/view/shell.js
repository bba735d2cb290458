// The frame of the page: the list at the left, the panels at the right, which on narrow screens lie over the chat.

import { byId } from "../dom.js";

const SIDEBAR = "casallm.sidebar";
/** @type {("settings"|"details")[]} */
const PANELS = ["settings", "details"];

export class Shell {
  /** @param {() => void} onPanel  a panel was opened or closed */
  constructor(onPanel) {
    this.onPanel = onPanel;
    this.sidebar = byId("sidebar");
    this.main = byId("chat");
    this.narrow = matchMedia("(max-width: 52rem)");
    this.tight = matchMedia("(max-width: 75rem)");
    /** @type {string|null} */
    this.panel = null;
    this.sidebarOpen = !this.narrow.matches && localStorage.getItem(SIDEBAR) !== "closed";
    byId("toggle-sidebar").addEventListener("click", () => this.setSidebar(!this.sidebarOpen));
    byId("close-sidebar").addEventListener("click", () => this.setSidebar(false));
    byId("scrim").addEventListener("click", () => this.closeOverlay());
    for (const name of PANELS) {
      byId(`toggle-${name}`).addEventListener("click", () => this.setPanel(this.panel === name ? null : name));
      byId(`close-${name}`).addEventListener("click", () => this.setPanel(null));
    }
    this.narrow.addEventListener("change", () => {
      this.sidebarOpen = !this.narrow.matches && localStorage.getItem(SIDEBAR) !== "closed";
      this.#show();
    });
    this.tight.addEventListener("change", () => this.#show());
    this.#show();
  }

  get sidebarOver() {
    return this.sidebarOpen && this.narrow.matches;
  }

  get panelOver() {
    return this.panel !== null && this.tight.matches;
  }

  #show() {
    this.sidebar.hidden = !this.sidebarOpen;
    byId("toggle-sidebar").setAttribute("aria-expanded", String(this.sidebarOpen));
    for (const name of PANELS) {
      byId(name).hidden = this.panel !== name;
      byId(`toggle-${name}`).setAttribute("aria-expanded", String(this.panel === name));
    }
    // What lies under is out of reach, for the keyboard and for screen readers too.
    this.main.inert = this.sidebarOver || this.panelOver;
    this.sidebar.inert = this.panelOver;
    byId("scrim").hidden = !(this.sidebarOver || this.panelOver);
  }

  setSidebar(open) {
    this.sidebarOpen = open;
    if (!this.narrow.matches) localStorage.setItem(SIDEBAR, open ? "open" : "closed");
    if (open && this.narrow.matches) this.panel = null;
    this.#show();
    if (this.narrow.matches) byId(open ? "close-sidebar" : "toggle-sidebar").focus();
    else if (!open) byId("toggle-sidebar").focus();
  }

  /** @param {"settings"|"details"|null} name */
  setPanel(name) {
    const before = this.panel;
    this.panel = name;
    this.#show();
    if (name) byId(`close-${name}`).focus();
    else if (before) byId(`toggle-${before}`).focus();
    this.onPanel();
  }

  /** Closes what lies over the chat, or the panel with the focus. Whether there was something. */
  closeOverlay() {
    if (this.panelOver || (this.panel && byId(this.panel).contains(document.activeElement))) this.setPanel(null);
    else if (this.sidebarOver) this.setSidebar(false);
    else return false;
    return true;
  }

  /** Shows the chat itself, for one that was just chosen. */
  showChat() {
    if (this.sidebarOver) this.setSidebar(false);
  }

  search() {
    if (this.panelOver) this.setPanel(null);
    if (!this.sidebarOpen) this.setSidebar(true);
    byId("search").focus();
    byId("search").select();
  }
}
