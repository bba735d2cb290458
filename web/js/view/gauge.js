// How much of the context the conversation uses, and what happens when it is full.

import { setText } from "../dom.js";
import { count } from "../format.js";

const NEARLY = 0.85;

const WHAT_THEN = {
  summarise: "Older messages will be condensed into a note.",
  "drop-oldest": "The oldest messages will be left out.",
  refuse: "Longer messages will be refused: begin a new chat soon.",
};

export class Gauge {
  /** @param {HTMLElement} element @param {import("../types.js").Config} config */
  constructor(element, config) {
    this.config = config;
    this.element = element;
    this.bar = element.querySelector("progress");
    this.label = element.querySelector(".gauge-label");
    /** @type {HTMLElement} */
    this.warning = element.querySelector(".gauge-warning");
  }

  /** @param {import("../types.js").Context|null} context */
  show(context) {
    const used = context?.used ?? 0;
    const limit = context?.limit ?? this.config.model.context;
    const nearly = used >= limit * NEARLY;
    Object.assign(this.bar, { max: limit, value: Math.min(used, limit) });
    this.label.textContent = `${count(used)} of ${count(limit)} tokens of context`;
    this.element.classList.toggle("nearly", nearly);
    setText(this.warning, nearly ? `Nearly full. ${WHAT_THEN[this.config.overflow]}` : "");
    this.warning.hidden = !nearly;
  }
}
