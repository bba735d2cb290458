// How the charts are drawn: which stage, along what, how smooth, and what dragging does.

import { byId, h, setText } from "../js/dom.js";
import { count } from "./numbers.js";
import { SMOOTHING } from "./view.js";

const AXIS_NAMES = [["step", "Steps"], ["tokens", "Tokens"], ["seconds", "Time"]];
const STAGE_NAMES = { pretrain: "Pre-training", sft: "Fine-tuning", dpo: "DPO" };
const ORDER = ["pretrain", "sft", "dpo"];

/** Buttons of which one is pressed. */
class Choice {
  constructor(name, label, choose) {
    this.name = name;
    this.choose = choose;
    this.buttons = h("span", { class: "choice-buttons" });
    this.element = h("fieldset", { class: "choice" }, h("legend", {}, label), this.buttons);
    this.key = "";
  }

  /** @param {[string, string][]} options @param {string} chosen */
  update(options, chosen) {
    const key = JSON.stringify(options);
    if (key !== this.key) {
      this.key = key;
      this.buttons.replaceChildren(...options.map(([value, label]) => h("label", {},
        h("input", { type: "radio", name: this.name, value, on: { change: () => this.choose(value) } }), h("span", {}, label))));
    }
    for (const input of this.buttons.querySelectorAll("input")) input.checked = input.value === chosen;
  }
}

export class Tools {
  /** @param {import("./view.js").View} view */
  constructor(view) {
    this.view = view;
    this.stage = new Choice("stage", "Stage", (stage) => view.set({ stage }));
    this.axis = new Choice("axis", "Along", (axis) => view.set({ axis }));
    this.tool = new Choice("tool", "Drag to", (tool) => view.set({ tool: /** @type {any} */ (tool) }));
    this.slider = h("input", { type: "range", id: "smoothing", min: "0", max: String(SMOOTHING.length - 1), step: "1" });
    this.smooth = h("output", { for: "smoothing" });
    this.slider.addEventListener("input", () => view.set({ smooth: SMOOTHING[Number(this.slider.value)] }));
    const toggle = (label, change, title) => {
      const input = h("input", { type: "checkbox", on: { change: () => change(input.checked) } });
      return { input, element: h("label", { class: "toggle", title }, input, h("span", {}, label)) };
    };
    this.log = toggle("Log scale", (logarithmic) => view.set({ logarithmic }), "Losses and the gradient norm on a logarithmic scale");
    this.robust = toggle("Leave out outliers", (robust) => view.set({ robust }), "The scale leaves out the least and the largest hundredth of what is seen");
    this.reset = h("button", { type: "button", class: "button", on: { click: () => view.zoom(null) } }, "Show all");
    const form = byId("tools");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.append(this.stage.element, this.axis.element, this.tool.element,
      h("div", { class: "smoothing" }, h("label", { for: "smoothing" }, "Smoothing"), this.slider, this.smooth),
      h("div", { class: "toggles" }, this.log.element, this.robust.element), this.reset);
  }

  /** @param {string[]} stages @param {string|null} stage */
  update(stages, stage) {
    const place = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
    const known = [...stages].sort((a, b) => place(a) - place(b));
    this.stage.element.hidden = known.length < 2;
    this.stage.update(known.map((name) => [name, STAGE_NAMES[name] ?? name]), stage ?? "");
    this.axis.update(/** @type {any} */ (AXIS_NAMES), this.view.axis);
    this.tool.update([["zoom", "Zoom"], ["pan", "Move"]], this.view.tool);
    const { smoothing } = this.view;
    this.slider.value = String(SMOOTHING.indexOf(smoothing));
    const name = smoothing > 1 ? `over ${count(smoothing)} rows` : "off";
    setText(this.smooth, name);
    this.slider.setAttribute("aria-valuetext", name);
    this.log.input.checked = this.view.logarithmic;
    this.robust.input.checked = this.view.robust;
    this.redrawn();
  }

  /** Whether there is anything to go back from. */
  redrawn() {
    this.reset.disabled = this.view.range === null;
  }
}
