// The list of runs lies beside the charts; on narrow screens over them, when it is called.

import { byId } from "../js/dom.js";

export class Drawer {
  constructor() {
    this.narrow = matchMedia("(max-width: 52rem)");
    this.sidebar = byId("sidebar");
    this.toggle = byId("toggle-sidebar");
    this.toggle.addEventListener("click", () => this.#set(this.sidebar.hidden));
    byId("close-sidebar").addEventListener("click", () => this.close());
    byId("scrim").addEventListener("click", () => this.close());
    byId("runs").addEventListener("click", (event) => event.target.closest("button.run") && this.close());
    this.narrow.addEventListener("change", () => this.#set(!this.narrow.matches));
    this.#set(!this.narrow.matches);
  }

  close() {
    if (this.narrow.matches && !this.sidebar.hidden) {
      this.#set(false);
      this.toggle.focus();
    }
  }

  #set(open) {
    this.sidebar.hidden = !open;
    byId("scrim").hidden = !(open && this.narrow.matches);
    this.toggle.hidden = !this.narrow.matches;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (open && this.narrow.matches) byId("close-sidebar").focus();
  }
}
