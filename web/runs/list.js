// The list of runs, and which of them are shown.

import { byId, h, place, setText } from "../js/dom.js";
import { COLOURS } from "./catalogue.js";
import { condition } from "./health.js";
import { count, fixed, span } from "./numbers.js";

const STATES = { running: "training", stalled: "stalled", preparing: "preparing", finished: "ended", stopped: "stopped", empty: "no steps yet" };

export class RunList {
  /** @param {import("./view.js").View} view */
  constructor(view) {
    this.view = view;
    this.element = byId("runs");
    /** @type {Map<string, any>} */
    this.items = new Map();
  }

  /** @param {import("./live.js").Live} live */
  update(live) {
    const runs = live.list?.runs ?? [];
    for (const name of this.items.keys()) if (!runs.some((run) => run.name === name)) this.items.delete(name);
    place(this.element, runs.map(({ name }) => {
      if (!this.items.has(name)) this.items.set(name, this.#made(name));
      const item = this.items.get(name);
      this.#show(item, live.runs.get(name));
      return item.element;
    }));
  }

  #made(name) {
    const box = h("input", { type: "checkbox", "aria-label": `Show ${name} with the others`, title: "Show with the others" });
    const title = h("span", { class: "title", dir: "auto" }, name);
    const state = h("span", { class: "run-state" });
    const figures = h("span", { class: "figures" });
    const button = h("button", { type: "button", class: "run", title: name }, title, h("span", { class: "run-line" }, state, figures));
    const element = h("li", {}, box, button);
    button.addEventListener("click", () => this.view.select([name]));
    box.addEventListener("change", () => {
      const { selected } = this.view;
      const names = box.checked ? [...selected, name].slice(-COLOURS) : selected.filter((other) => other !== name);
      this.view.select(names.length ? names : [name]);
      box.checked = this.view.selected.includes(name);
    });
    return { element, box, button, state, figures };
  }

  #show({ element, box, button, state, figures }, run) {
    const shown = this.view.selected.includes(run.name);
    box.checked = shown;
    element.className = shown ? `shown ${this.view.selected.length > 1 ? this.view.colourOf(run.name) : "series-0"}` : "";
    if (this.view.selected[0] === run.name) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    const word = condition(run, run.stage(run.info.latest?.stage ?? null));
    state.dataset.state = word;
    setText(state, STATES[word]);
    const { latest, quiet_seconds: quiet } = run.info;
    const share = latest?.planned ? ` of ${count(latest.planned)}` : "";
    const parts = latest ? [`${latest.stage} ${count(latest.step)}${share}`, latest.loss !== null && `loss ${fixed(latest.loss)}`, !run.info.running && `${span(quiet)} ago`] : [];
    setText(figures, parts.filter(Boolean).join(" · "));
  }
}
