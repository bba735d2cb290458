// One chart: uPlot has the axes, the painter the lines, and this the pointer, the keys and the words.

import { h } from "../js/dom.js";
import { lastAt } from "./columns.js";
import { place } from "./numbers.js";
import { drawColumn, drawPoints, extent, extentOfPoints, projection, windowOf } from "./painter.js";
import { followPointer } from "./pointer.js";
import { increments, placeTicks, valueTicks } from "./ticks.js";

const HEIGHT = 200;
const WIDE_HEIGHT = 300;

export class Chart {
  /** @param {import("./catalogue.js").Definition} definition @param {import("./view.js").View} view @param {{paint: (name: string) => string, marks: (run: any, data: any) => any[]}} page */
  constructor(definition, view, page) {
    this.definition = definition;
    this.view = view;
    this.page = page;
    this.readout = h("p", { class: "readout" });
    this.box = h("div", { class: "plot", "aria-hidden": "true" });
    this.element = h("figure", { class: `chart-card${definition.wide ? " wide" : ""}`, id: `chart-${definition.id}`, tabindex: "0", role: "group", "aria-roledescription": "chart" },
      h("figcaption", {}, h("h2", {}, definition.title), definition.unit && h("span", { class: "unit" }, definition.unit), this.readout), this.box);
    this.element.hidden = true;
    this.plot = null;
    this.seen = false;
    this.stale = true;
    this.crosshair = h("div", { class: "crosshair", hidden: true });
    this.selection = h("div", { class: "selection", hidden: true });
    new ResizeObserver(() => this.#resize()).observe(this.box);
  }

  /** Lines that there is something to draw of. @returns {{run: any, data: import("./columns.js").StageData, colour: string, line: any, at: number}[]} */
  #lines() {
    const { shown } = this.view;
    const found = [];
    for (const { run, data, colour } of shown) {
      if (!data) continue;
      const lines = [...this.definition.lines];
      if (this.definition.more && shown.length === 1) {
        const sources = [...data.sparse.keys()].map((name) => [name, this.definition.more.exec(name)]).filter(([, match]) => match);
        // One source is what the whole is.
        if (sources.length > 1) for (const [column, match] of sources) lines.push({ column, sparse: true, label: match[1], source: true });
      }
      lines.forEach((line, at) => {
        const column = line.sparse ? data.sparse.get(line.column) : data.dense.get(line.column);
        if (column) found.push({ run, data, line, at, colour: shown.length > 1 ? colour : `series-${at % 8}` });
      });
    }
    return found;
  }

  /** Says what there is now; drawn at the next frame, where it can be seen. */
  update() {
    this.lines = this.#lines();
    this.element.hidden = this.lines.length === 0;
    this.stale = true;
    if (this.lines.length === 0) return;
    const told = this.lines.filter(({ line }) => !line.source).map(({ run, data, line }) => {
      const name = [this.view.shown.length > 1 ? run.name : "", line.label ?? ""].filter(Boolean).join(", ");
      return `${name ? `${name}: ` : ""}${this.definition.format(data.newest(line.column))}`;
    });
    this.element.setAttribute("aria-label", `${this.definition.title}${this.definition.unit ? `, ${this.definition.unit}` : ""}. Newest: ${told.join("; ")}`);
    this.#read();
  }

  /** Draws, if it is seen and there is something new. */
  draw() {
    if (!this.stale || !this.seen || this.element.hidden || this.box.clientWidth === 0) return;
    this.stale = false;
    this.plot ??= this.#made();
    const [from, to] = this.view.window;
    const [least, most] = this.#extent([from, to]);
    // All three are drawn at once. The same scales are no reason for uPlot to draw again, but there may be more rows.
    this.plot.setScale("x", { min: from, max: to });
    this.plot.setScale("y", { min: least, max: most });
    this.plot.redraw(false, true);
  }

  /** Forgets the plot: colours or scales are others. */
  remake() {
    this.plot?.destroy();
    this.plot = null;
    this.stale = true;
  }

  #logarithmic() {
    return Boolean(this.definition.log && this.view.logarithmic);
  }

  #made() {
    const colour = this.page.paint;
    const axis = { font: "12px system-ui, sans-serif", stroke: colour("var(--quiet)"), ticks: { show: false } };
    const grid = { stroke: colour("var(--rule)"), width: 1 };
    const plot = new uPlot({
      width: this.box.clientWidth, height: this.#height(), legend: { show: false }, cursor: { show: false }, padding: [8, 12, 0, 0],
      scales: { x: { time: false, auto: false, range: (_, min, max) => [min, max] }, y: { auto: false, distr: this.#logarithmic() ? 3 : 1, range: (_, min, max) => [min, max] } },
      axes: [
        { ...axis, size: 26, grid: { show: false }, space: 72, incrs: increments(this.view.axis), values: placeTicks(this.view.axis) },
        { ...axis, size: 58, space: 36, grid, values: valueTicks(this.definition) },
      ],
      series: [{}, { show: true, points: { show: false } }],
      hooks: { draw: [(made) => this.#paint(made)] },
    }, [[0, 1], [null, null]], this.box);
    plot.over.append(this.crosshair, this.selection);
    followPointer(plot, this.view, this.selection);
    return plot;
  }

  #height() {
    const narrow = innerWidth < 520;
    return this.definition.wide ? (narrow ? 240 : WIDE_HEIGHT) : HEIGHT;
  }

  #resize() {
    if (!this.plot || this.box.clientWidth === 0) return;
    this.plot.setSize({ width: this.box.clientWidth, height: this.#height() });
    this.stale = true;
    this.view.redraw();
  }

  #pixels() {
    return Math.max(50, this.box.clientWidth - 70) * devicePixelRatio;
  }

  /** What the y axis shows. */
  #extent(window) {
    const { axis, robust, smoothing } = this.view;
    let [least, most] = [Infinity, -Infinity];
    for (const { data, line } of this.lines) {
      const sparse = line.sparse ? data.sparse.get(line.column) : null;
      const found = sparse ? extentOfPoints(sparse[axis], sparse.values, window)
        : extent(data.dense.get(line.column), windowOf(data, axis, window, this.#pixels()), robust && line.smooth);
      const steady = !sparse && line.smooth && smoothing > 1 ? extent(data.smoothed(line.column, smoothing), windowOf(data, axis, window, this.#pixels()), robust) : null;
      for (const of of [found, steady]) {
        if (!of) continue;
        least = Math.min(least, of[0]);
        most = Math.max(most, of[1]);
      }
    }
    if (least > most) return this.#logarithmic() ? [0.1, 1] : [0, 1];
    if (this.#logarithmic()) {
      least = Math.max(least, 1e-12);
      return [least / 1.04, Math.max(most, least) * 1.04];
    }
    if (this.definition.zero) least = Math.min(0, least);
    const room = (most - least || Math.abs(most) || 1) * 0.06;
    const [from, to] = [this.definition.zero && least === 0 ? 0 : least - room, most + room];
    const [bottom, top] = this.definition.within ?? [-Infinity, Infinity];
    return [Math.max(bottom, from), Math.min(Math.max(top, most), to)];
  }

  #paint(plot) {
    const { ctx: context, bbox } = plot;
    const { axis, window, smoothing } = this.view;
    const ratio = devicePixelRatio;
    const to = projection(plot, this.#logarithmic());
    context.save();
    context.beginPath();
    context.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    context.clip();
    // Round joins of a thousand points take longer than all the rest.
    context.lineJoin = "bevel";
    this.#paintMarks(context, bbox, to, ratio);
    // What is smoothed lies over what is not, of all runs.
    for (const over of [false, true]) {
      for (const { data, line, colour } of this.lines) {
        const paint = this.page.paint(`var(--${colour})`);
        context.strokeStyle = context.fillStyle = paint;
        context.setLineDash(line.dashed ? [5 * ratio, 4 * ratio] : []);
        if (line.sparse) {
          if (!over) continue;
          context.lineWidth = (line.source ? 1.25 : 2) * ratio;
          const column = data.sparse.get(line.column);
          drawPoints(context, column[axis], column.values, window, to, (line.source ? 2 : 3) * ratio);
          continue;
        }
        const smooth = line.smooth && smoothing > 1;
        if (over && !smooth) continue;
        const view = windowOf(data, axis, window, this.#pixels());
        const column = over ? data.smoothed(line.column, smoothing) : data.dense.get(line.column);
        const under = smooth && !over;
        if (under) {
          // Mixed and not transparent: where bars meet nothing is darker.
          context.strokeStyle = context.fillStyle = this.page.paint(`color-mix(in srgb, var(--${colour}) 30%, var(--raised))`);
          context.setLineDash([]);
        }
        context.lineWidth = (under ? 1 : over ? 2 : 1.5) * ratio;
        drawColumn(context, column, data.places[axis], view, to, under ? "bare" : over ? "line" : "band");
      }
    }
    context.restore();
    this.drawn = (this.drawn ?? 0) + 1;
  }

  #paintMarks(context, bbox, to, ratio) {
    const [from, until] = this.view.window;
    let count = 0;
    for (const { run, data } of this.view.shown) {
      if (!data) continue;
      for (const mark of this.page.marks(run, data)) {
        if (mark.x < from || mark.x > until) continue;
        count += 1;
        context.strokeStyle = this.page.paint(mark.grave ? "var(--wrong)" : "var(--quiet)");
        context.lineWidth = ratio;
        context.setLineDash(mark.grave ? [2 * ratio, 3 * ratio] : [6 * ratio, 4 * ratio]);
        const x = Math.round(to.x(mark.x)) + 0.5;
        context.beginPath();
        context.moveTo(x, bbox.top);
        context.lineTo(x, bbox.top + bbox.height);
        context.stroke();
        context.setLineDash([]);
        context.fillStyle = context.strokeStyle;
        context.beginPath();
        context.moveTo(x - 4 * ratio, bbox.top);
        context.lineTo(x + 4 * ratio, bbox.top);
        context.lineTo(x, bbox.top + 6 * ratio);
        context.fill();
      }
    }
    this.element.dataset.marks = String(count);
  }

  /** The pointer is at this place, in this chart or another; null: nowhere. */
  hover(x) {
    this.crosshair.hidden = x === null || !this.plot;
    if (!this.crosshair.hidden) {
      const { min, max } = this.plot.scales.x;
      const share = (x - min) / (max - min);
      this.crosshair.hidden = !(share >= 0 && share <= 1);
      this.crosshair.style.transform = `translateX(${share * this.plot.over.clientWidth}px)`;
    }
    this.#read();
  }

  /** Writes what the lines are at the pointer, or at their ends. */
  #read() {
    if (!this.lines?.length || !this.seen) return;
    const { axis, hover, smoothing, shown } = this.view;
    const many = shown.length > 1;
    const entries = this.lines.map(({ run, data, line, colour }) => {
      const value = hover === null ? data.newest(line.column) : valueAt(data, line, axis, hover);
      const steady = line.smooth && smoothing > 1 ? data.smoothed(line.column, smoothing) : null;
      const at = hover === null ? data.rows - 1 : lastAt(data.places[axis].array, data.rows, hover);
      const smooth = steady && at >= 0 ? steady.values.array[at] : null;
      const label = [many ? run.name : "", line.label ?? ""].filter(Boolean).join(" · ");
      const told = this.definition.format(smooth ?? value);
      return { colour, label, told, raw: smooth === null ? "" : this.definition.format(value), dashed: line.dashed };
    });
    const where = hover === null ? "" : `at ${axis === "seconds" ? "" : `${axis} `}${place(hover, axis)}`;
    const key = JSON.stringify([where, entries]);
    if (key === this.lastRead) return;
    this.lastRead = key;
    this.readout.replaceChildren(
      where && h("span", { class: "where" }, where),
      ...entries.map(({ colour, label, told, raw, dashed }) => h("span", { class: `entry ${colour}${dashed ? " dashed" : ""}` },
        label && h("span", { class: "label", dir: "auto" }, label), h("strong", {}, told), raw && h("span", { class: "raw" }, raw))));
  }
}

/** A line's value at a place: that of the last row up to it. */
function valueAt(data, line, axis, x) {
  if (line.sparse) {
    const column = data.sparse.get(line.column);
    return column.values[lastAt(column[axis], column.values.length, x)] ?? null;
  }
  return data.dense.get(line.column).values.array[lastAt(data.places[axis].array, data.rows, x)] ?? null;
}

