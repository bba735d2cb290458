// What stands beside the charts: progress, the newest numbers, runs side by side, alarms, samples, events, the recipe.

import { byId, h, iconButton, relabel, setText } from "../js/dom.js";
import { plural } from "../js/format.js";
import { alarms, condition, pace, progress } from "./health.js";
import { bytes, celsius, clock, count, fixed, large, percent, rate, scientific, span, watts } from "./numbers.js";
import { isSample, told } from "./words.js";

const STATES = { running: "Training", stalled: "Stalled", preparing: "Preparing", finished: "Ended", stopped: "Stopped before its end", empty: "No steps yet" };

/** Replaces children only where what they say is another: focus and selection stay. */
function fill(element, key, make) {
  const text = JSON.stringify(key);
  if (element.dataset.key === text) return false;
  element.dataset.key = text;
  element.replaceChildren(...make());
  return true;
}

/** The newest numbers of a stage, as name, value and remark. */
function figures(run, data, smoothing) {
  const all = [];
  const add = (name, value, remark = "") => value !== "–" && all.push([name, value, remark]);
  const newest = (name) => data.newest(name);
  const steady = data.rows ? data.smoothed("loss", smoothing)?.values.array[data.rows - 1] : null;
  add("Training loss", fixed(steady ?? null), smoothing > 1 && data.rows > 1 ? `over ${count(smoothing)} steps` : "");
  const validations = data.sparse.get("val_loss");
  const best = validations ? validations.values.reduce((least, value) => (value < least ? value : least), Infinity) : Infinity;
  add("Validation loss", fixed(newest("val_loss")), validations && validations.values.length > 1 ? `best ${fixed(best)}` : "");
  add("Bits per byte", fixed(newest("bits_per_byte")));
  add("Pairs preferred", percent(newest("val_preference/accuracy")), "held out");
  add("Reward margin", fixed(newest("preference/margin")));
  add("Gradient norm", fixed(newest("grad_norm")));
  add("Learning rate", scientific(newest("lr")));
  add("Tokens per second", rate(newest("tokens_per_s")));
  add("FLOP utilisation", percent(newest("flop_utilisation")), "of the peak");
  add("Memory", bytes(newest("memory_bytes")));
  add("GPU", percent(newest("gpu_load")), [celsius(newest("gpu_temperature_c")), watts(newest("gpu_power_w"))].filter((text) => text !== "–").join(", "));
  const tokens = data.rows ? data.places.tokens.array[data.rows - 1] : 0;
  const seconds = data.rows ? data.places.seconds.array[data.rows - 1] : 0;
  if (tokens) add("Tokens", large(tokens), "trained on");
  if (seconds) add("Time", span(seconds), "of training");
  return all;
}

/** How far the first run is. */
export function showProgress(run, data, smoothing, many) {
  const element = byId("progress");
  const state = condition(run, data);
  const { done, of, share, left } = data ? progress(run, data) : { done: 0, of: null, share: null, left: null };
  const running = state === "running";
  const ends = running && left ? `${span(left)} left, until about ${clock(new Date(Date.now() + 1000 * left))}` : "";
  const each = data && running ? pace(data) : null;
  const line = [
    of ? `Step ${count(done)} of ${count(of)}` : `Step ${count(done)}`,
    each ? `${each < 1 ? `${(1000 * each).toFixed(0)} ms` : `${each.toFixed(1)} s`} a step` : "",
    ends || (running && of === null ? "how many there will be is not known" : ""),
    !running && state !== "preparing" ? `last written ${span(run.info.quiet_seconds)} ago` : "",
  ].filter(Boolean);
  const numbers = data ? figures(run, data, smoothing) : [];
  fill(element, [state, line, share, numbers, many && run.name], () => [
    h("div", { class: "progress-head" },
      h("p", { class: "progress-state", "data-state": state }, many && h("span", { class: "of", dir: "auto" }, run.name), STATES[state]),
      share !== null && h("p", { class: "progress-share" }, `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`)),
    share !== null && h("progress", { max: "1", value: String(share), "aria-label": "Steps done" }),
    h("p", { class: "progress-line" }, ...line.flatMap((part, i) => [i > 0 && h("span", { class: "dot", "aria-hidden": "true" }, " · "), h("span", {}, part)])),
    h("dl", { class: "tiles" }, ...numbers.map(([name, value, remark]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, remark && h("small", {}, remark))))),
  ].filter(Boolean));
}

/** Runs side by side, where several are shown. */
export function showCompared(shown) {
  const element = byId("compared");
  element.hidden = shown.length < 2;
  if (element.hidden) return;
  const rows = shown.map(({ run, data, colour }) => {
    const at = data ? progress(run, data) : null;
    const of = (name, format) => (data ? format(data.newest(name)) : "–");
    return [colour, run.name, STATES[condition(run, data)], at ? `${count(at.done)}${at.of ? ` of ${count(at.of)}` : ""}` : "–",
      of("loss", fixed), of("val_loss", fixed), of("bits_per_byte", fixed), of("tokens_per_s", rate), data?.rows ? span(data.places.seconds.array[data.rows - 1]) : "–"];
  });
  fill(element, rows, () => [h("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": "The runs side by side" }, h("table", {},
    h("thead", {}, h("tr", {}, ...["Run", "State", "Step", "Loss", "Validation", "Bits/byte", "Tokens/s", "Time"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...rows.map(([colour, name, ...cells]) => h("tr", {}, h("th", { scope: "row", class: colour, dir: "auto" }, name), ...cells.map((cell) => h("td", {}, cell)))))))]);
}

/** Alarms that were closed, until the page is. */
const closed = new Set();
const MOST_ALARMS = 6;

/** What is wrong now with the runs that are shown. @returns {string[]} those that were not there before */
export function showAlarms(shown) {
  const element = byId("alerts");
  const many = shown.length > 1;
  const all = shown.flatMap(({ run, data }) => alarms(run, data).map((alarm) => ({ ...alarm, key: `${run.name} ${data?.name} ${alarm.key}`, run: run.name })));
  const open = all.filter(({ key }) => !closed.has(key));
  const before = new Set(JSON.parse(element.dataset.keys ?? "[]"));
  element.dataset.keys = JSON.stringify(open.map(({ key }) => key));
  element.hidden = open.length === 0;
  const top = open.slice(0, MOST_ALARMS);
  fill(element, [top, open.length, many], () => [
    ...top.map(({ key, grade, name, text, run }) => h("div", { class: `alert ${grade}` },
      h("p", {}, h("strong", {}, name), many && h("span", { class: "of", dir: "auto" }, run), h("span", { dir: "auto" }, text)),
      iconButton("close", `Hide: ${name}`, () => {
        closed.add(key);
        showAlarms(shown);
      }))),
    ...(open.length > top.length ? [h("p", { class: "hint" }, `${plural(open.length - top.length, "more alert")}: see the events below.`)] : []),
  ]);
  return open.filter(({ key }) => !before.has(key)).map(({ name, text }) => `${name}: ${text}`);
}

/** The head of a section that is about the first run alone, which it names where several are shown. */
const headOf = (id, title, of) => h("h2", { id }, title, " ", of);
const nameOf = () => h("span", { class: "of", dir: "auto" });

/** What the model wrote at its validations. */
export class SamplesPanel {
  constructor() {
    this.element = byId("samples");
    this.slider = h("input", { type: "range", min: "0", step: "1", "aria-label": "Step of the samples" });
    this.where = h("output", {});
    this.list = h("div", { class: "sample-list" });
    this.of = nameOf();
    const move = (by) => {
      this.slider.value = String(Number(this.slider.value) + by);
      this.#show(true);
    };
    this.slider.addEventListener("input", () => this.#show(true));
    this.element.append(
      h("div", { class: "section-head" }, headOf("samples-title", "Samples", this.of),
        h("div", { class: "sample-steps" }, iconButton("left", "Samples before", () => move(-1)), this.slider, iconButton("right", "Samples after", () => move(1)), this.where)),
      this.list);
    this.steps = [];
    this.chosen = null;
  }

  update(run, data, many) {
    setText(this.of, many ? run.name : "");
    const key = `${run.name} ${run.generation} ${data?.name}`;
    if (key !== this.key) this.chosen = null;
    this.key = key;
    const bySteps = new Map();
    for (const event of run.events) {
      if (!isSample(event) || event.stage !== data?.name) continue;
      if (!bySteps.has(event.step)) bySteps.set(event.step, []);
      bySteps.get(event.step).push(event);
    }
    this.steps = [...bySteps].sort(([a], [b]) => a - b);
    this.element.hidden = this.steps.length === 0;
    if (this.element.hidden) return;
    this.slider.max = String(this.steps.length - 1);
    this.#show(false);
  }

  #show(chosen) {
    if (chosen) {
      const at = Math.max(0, Math.min(this.steps.length - 1, Number(this.slider.value)));
      // Who looks at the newest follows it.
      this.chosen = at === this.steps.length - 1 ? null : this.steps[at][0];
    }
    let at = this.chosen === null ? -1 : this.steps.findIndex(([step]) => step === this.chosen);
    if (at < 0) at = this.steps.length - 1;
    this.slider.value = String(at);
    const [step, samples] = this.steps[at];
    const name = `step ${count(step)}${at === this.steps.length - 1 ? ", the newest" : ""}`;
    setText(this.where, name);
    this.slider.setAttribute("aria-valuetext", name);
    this.slider.hidden = this.steps.length < 2;
    fill(this.list, [this.key, step, samples.length], () => samples.map(({ prompt, text }) => h("blockquote", { class: "sample", dir: "auto" },
      typeof prompt === "string" && prompt !== "" && h("span", { class: "prompt" }, prompt), h("span", {}, typeof text === "string" ? text : ""))));
  }
}

const EVENTS_SHOWN = 50;

/** All that happened, the newest first. */
export class EventsPanel {
  constructor() {
    this.element = byId("events");
    this.body = h("tbody", {});
    this.of = nameOf();
    this.more = h("button", { type: "button", class: "button", on: { click: () => {
      this.most += 200;
      this.#show();
    } } });
    this.element.append(h("div", { class: "section-head" }, headOf("events-title", "Events", this.of)),
      h("table", { class: "event-table" }, h("thead", { class: "offscreen" }, h("tr", {}, ...["Stage and step", "What", "Details"].map((name) => h("th", { scope: "col" }, name)))), this.body), this.more);
    this.events = [];
  }

  update(run, many) {
    setText(this.of, many ? run.name : "");
    if (run.name !== this.name) this.most = EVENTS_SHOWN;
    this.name = run.name;
    this.events = run.events.filter((event) => !isSample(event));
    this.generation = run.generation;
    this.element.hidden = this.events.length === 0;
    this.#show();
  }

  #show() {
    const newest = this.events.slice(-this.most).reverse();
    fill(this.body, [this.name, this.generation, this.events.length, this.most], () => newest.map((event) => {
      const { name, grade, text } = told(event);
      return h("tr", { class: grade }, h("td", { class: "event-where" }, `${event.stage ?? ""} ${count(event.step ?? 0)}`), h("th", { scope: "row" }, name), h("td", { dir: "auto" }, text));
    }));
    this.more.hidden = this.events.length <= this.most;
    setText(this.more, `Show ${count(Math.min(200, this.events.length - this.most))} older`);
  }
}

/** The recipe and its hash. */
export function showRecipe(run, many) {
  const element = byId("recipe");
  element.hidden = !run.recipe;
  if (element.hidden) return;
  const { file, text, sha256 } = run.recipe;
  fill(element, [run.name, sha256, many], () => {
    const of = nameOf();
    setText(of, many ? run.name : "");
    const copy = iconButton("copy", "Copy the hash", async () => {
      try {
        await navigator.clipboard.writeText(sha256);
        relabel(copy, "check", "Copied");
      } catch {
        getSelection()?.selectAllChildren(hash);
      }
    });
    const hash = h("code", { class: "hash" }, sha256);
    return [
      h("div", { class: "section-head" }, headOf("recipe-title", "Recipe", of)),
      h("p", { class: "recipe-hash" }, h("span", { class: "hint" }, `SHA-256 of ${file}`), hash, copy),
      h("details", {}, h("summary", {}, file === "settings.toml" ? "All settings, defaults included" : "The recipe as it was written"), h("pre", { tabindex: "0" }, text)),
    ];
  });
}
