// How fast the answers of a conversation came: a table, and a chart that is loaded when it is first looked at.

import { byId, h } from "../dom.js";
import { count, duration, rate } from "../format.js";

/** Trusted Types: the one script that is loaded by its address. */
const policy = globalThis.trustedTypes?.createPolicy("casallm-chart", { createScriptURL: (url) => url });

let loading = null;

/** uPlot is made for a plain script element: it defines one global name. */
function loadPlot() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const url = new URL("../../vendor/uPlot.iife.min.js", import.meta.url).href;
    script.src = /** @type {any} */ (policy ? policy.createScriptURL(url) : url);
    script.onload = () => resolve(globalThis.uPlot);
    script.onerror = () => {
      loading = null;
      reject(new Error("The chart could not be loaded."));
    };
    document.head.append(script);
  });
  return loading;
}

export class Details {
  constructor() {
    this.table = byId("figures");
    this.chart = byId("chart");
    this.plot = null;
    this.path = [];
    this.visible = false;
    addEventListener("themechange", () => this.visible && this.#draw());
    new ResizeObserver(() => this.plot?.setSize({ width: this.chart.clientWidth, height: 190 })).observe(this.chart);
  }

  /** @param {import("../types.js").Message[]} path @param {boolean} visible */
  show(path, visible) {
    this.path = path.filter((message) => message.role === "assistant" && message.timing);
    this.visible = visible;
    if (!visible) return;
    this.table.replaceChildren(...this.path.map(({ timing, usage }, i) => h("tr", {},
      h("th", { scope: "row" }, String(i + 1)),
      h("td", {}, timing.tokens_per_second === null ? "–" : rate(timing.tokens_per_second)),
      h("td", {}, timing.first_token_ms === null ? "–" : duration(timing.first_token_ms)),
      h("td", {}, usage ? `${count(usage.cached_tokens)} / ${count(usage.prompt_tokens)}` : "–"))));
    byId("figures-none").hidden = this.path.length > 0;
    byId("figures-box").hidden = this.path.length === 0;
    this.#draw();
  }

  async #draw() {
    this.plot?.destroy();
    this.plot = null;
    this.chart.hidden = this.path.length < 2;
    if (this.chart.hidden) return;
    try {
      const Plot = await loadPlot();
      this.plot?.destroy();
      this.plot = new Plot(this.#options(), [
        this.path.map((_, i) => i + 1),
        this.path.map(({ timing }) => timing.tokens_per_second),
        this.path.map(({ timing }) => timing.first_token_ms === null ? null : timing.first_token_ms / 1000),
      ], this.chart);
    } catch (error) {
      this.chart.textContent = error.message;
    }
  }

  #options() {
    const probe = h("span", { class: "probe" });
    document.body.append(probe);
    const style = getComputedStyle(probe);
    const [accent, quiet, rule] = [style.color, style.borderTopColor, style.borderBottomColor];
    probe.remove();
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: quiet, font, ticks: { show: false }, size: 42, grid: { stroke: rule, width: 1 } };
    const whole = (plot, splits) => splits.map((n) => (Number.isInteger(n) ? String(n) : ""));
    return {
      width: this.chart.clientWidth, height: 190, legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false }, s: { range: (plot, least, most) => [0, most || 1] }, y: { range: (plot, least, most) => [0, most || 1] } },
      axes: [
        { ...axis, size: 26, values: whole, grid: { show: false } },
        { ...axis, scale: "y", values: (plot, splits) => splits.map((n) => String(n)) },
        { ...axis, scale: "s", side: 1, grid: { show: false }, values: (plot, splits) => splits.map((n) => `${n} s`) },
      ],
      series: [
        {},
        { scale: "y", stroke: accent, width: 2, points: { size: 5, fill: accent } },
        { scale: "s", stroke: quiet, width: 1.5, dash: [4, 4], points: { size: 4, fill: quiet } },
      ],
    };
  }
}
