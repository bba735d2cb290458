// What is shown of the runs and how: which, of which stage, along which axis, from where to where. The address keeps it.

import { AXES } from "./columns.js";
import { COLOURS } from "./catalogue.js";

/** Rows over which is smoothed, by the notches of the slider. */
export const SMOOTHING = [1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];
/** Where nobody has chosen, this part of all rows: more would lag behind where curves are steep. */
const USUAL_PART = 1 / 60;

export class View {
  /** @param {{changed: () => void, redrawn: () => void, pointed: () => void}} page */
  constructor(page) {
    this.page = page;
    /** Names of the runs that are shown; the first is the one that is told of at length. @type {string[]} */
    this.selected = [];
    /** The stage that was chosen, null for the newest. @type {string|null} */
    this.stage = null;
    this.axis = "step";
    /** Rows over which is smoothed, as chosen; null for what is usual. @type {number|null} */
    this.smooth = null;
    this.logarithmic = false;
    this.robust = true;
    /** @type {"zoom"|"pan"} */
    this.tool = "zoom";
    /** Part of the axis; null for all. @type {[number, number]|null} */
    this.range = null;
    /** @type {number|null} */
    this.hover = null;
    /** What there is to draw. @type {{run: any, data: import("./columns.js").StageData|null, colour: string}[]} */
    this.shown = [];
    /** Colours stay with their runs. @type {Map<string, number>} */
    this.colours = new Map();
    this.#fromAddress();
    addEventListener("hashchange", () => {
      this.#fromAddress();
      this.page.changed();
    });
  }

  #fromAddress() {
    const said = new URLSearchParams(location.hash.slice(1));
    this.selected = [...new Set(said.getAll("run"))].slice(0, COLOURS);
    this.stage = said.get("stage");
    const axis = said.get("x") ?? "step";
    this.axis = AXES.includes(axis) ? axis : "step";
    this.range = null;
  }

  #toAddress() {
    const said = new URLSearchParams(this.selected.map((name) => ["run", name]));
    if (this.stage) said.set("stage", this.stage);
    if (this.axis !== "step") said.set("x", this.axis);
    history.replaceState(null, "", `#${said}`);
  }

  /** Rows over which is smoothed; 1 for not at all. */
  get smoothing() {
    if (this.smooth !== null) return this.smooth;
    const rows = Math.max(0, ...this.shown.map(({ data }) => data?.rows ?? 0));
    return SMOOTHING.findLast((notch) => notch <= rows * USUAL_PART) ?? 1;
  }

  /** A number of the page's colours, the first that nobody shown has. */
  colourOf(name) {
    if (!this.colours.has(name)) {
      const taken = new Set(this.selected.map((other) => this.colours.get(other)));
      const free = Array.from({ length: COLOURS }, (_, i) => i).find((i) => !taken.has(i)) ?? 0;
      this.colours.set(name, free);
    }
    return `series-${this.colours.get(name)}`;
  }

  /** Shows these runs. @param {string[]} names */
  select(names) {
    for (const name of this.colours.keys()) if (!names.includes(name)) this.colours.delete(name);
    this.selected = names;
    names.forEach((name) => this.colourOf(name));
    this.range = null;
    this.#toAddress();
    this.page.changed();
  }

  /** @param {{stage?: string|null, axis?: string, smooth?: number, logarithmic?: boolean, robust?: boolean, tool?: "zoom"|"pan"}} what */
  set(what) {
    if ("stage" in what || "axis" in what) {
      this.range = null;
      this.hover = null;
    }
    Object.assign(this, what);
    this.#toAddress();
    this.page.changed();
  }

  /** All that there is, on the axis. @returns {[number, number]} */
  get whole() {
    let [from, to] = [Infinity, -Infinity];
    for (const { data } of this.shown) {
      if (!data?.rows) continue;
      const { array, length } = data.places[this.axis];
      from = Math.min(from, array[0]);
      to = Math.max(to, array[length - 1]);
    }
    if (from > to) return [0, 1];
    return from === to ? [from - 0.5, to + 0.5] : [from, to];
  }

  /** What is seen of the axis. @returns {[number, number]} */
  get window() {
    return this.range ?? this.whole;
  }

  /** Shows a part; `keep`: as wide as it is, at the ends too. @param {[number, number]|null} range */
  zoom(range, keep = false) {
    if (range) {
      const [first, last] = this.whole;
      let [from, to] = range;
      // Ten rows fill a chart.
      const least = Math.min(last - first, this.axis === "step" ? 4 : (last - first) * 1e-6);
      if (to - from < least) [from, to] = [(from + to - least) / 2, (from + to + least) / 2];
      if (keep) {
        const wide = to - from;
        from = Math.max(first, Math.min(from, last - wide));
        to = from + wide;
      }
      from = Math.max(first, from);
      to = Math.min(last, to);
      range = to <= from || (from <= first && to >= last) ? null : [from, to];
    }
    this.range = range;
    this.page.redrawn();
  }

  /** @param {number|null} x */
  point(x) {
    this.hover = x;
    this.page.pointed();
  }

  redraw() {
    this.page.redrawn();
  }
}
