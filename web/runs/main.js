// The dashboard: brings together what is known of the runs, what is to be seen of them, and the parts of the page.

import { announce } from "../js/announcer.js";
import { Api } from "../js/api.js";
import { byId, h, icon, setText } from "../js/dom.js";
import { installTheme } from "../js/theme.js";
import { Banner } from "../js/view/banner.js";
import { askKey } from "../js/view/dialogs.js";
import { CHARTS } from "./catalogue.js";
import { Chart } from "./chart.js";
import { noRuns, noSteps, noSuchRun, reading, unreadable } from "./empty.js";
import { condition, marksOf } from "./health.js";
import { showHelp } from "./help.js";
import { RunList } from "./list.js";
import { Live } from "./live.js";
import { EventsPanel, SamplesPanel, showAlarms, showCompared, showProgress, showRecipe } from "./panels.js";
import { onChartKey } from "./pointer.js";
import { Drawer } from "./drawer.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";
import { isMark } from "./words.js";

for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-icon]"))) button.prepend(icon(/** @type {any} */ (button.dataset.icon)));
installTheme(byId("theme"));
const banner = new Banner(byId("banner"));
const drawer = new Drawer();

/** Colours of the stylesheet, as a canvas takes them. @type {Map<string, string>} */
const paints = new Map();
const probe = h("span", { class: "offscreen" });
document.body.append(probe);
function paint(colour) {
  if (!paints.has(colour)) {
    probe.style.color = colour;
    paints.set(colour, getComputedStyle(probe).color);
  }
  return paints.get(colour);
}

const view = new View({ changed: () => frame(true), redrawn: () => frame(false), pointed: () => pointing() });
const live = new Live(new Api(askKey), {
  wanted: () => {
    // Whoever opens the page sees the newest run.
    if (view.selected.length === 0 && live.list.runs.length > 0) {
      view.select([(live.list.runs.find((run) => run.running) ?? live.list.runs[0]).name]);
    }
    return { names: view.selected.filter((name) => live.runs.has(name)), stage: stage() };
  },
  changed: () => frame(true),
  onWait: (wait) => {
    lost = wait !== null;
    if (wait) banner.showWait(live, wait, "Trying again", null);
    else banner.clear(live);
    frame(true);
  },
  failed: (error) => {
    // Told once: it is tried again every two seconds, and may have been closed.
    if (!error) banner.clear("error");
    else if (error.message !== failure) banner.showError(error.message);
    failure = error?.message ?? null;
  },
});
const list = new RunList(view);
const tools = new Tools(view);
const samples = new SamplesPanel();
const events = new EventsPanel();
let lost = false;
/** What does not work. @type {string|null} */
let failure = null;

/** Marks of a run, as long as it, its rows and the axis are the same. */
const marks = new Map();
function marksFor(run, data) {
  const key = `${run.generation} ${run.events.length} ${data.rows} ${data.name} ${view.axis}`;
  const known = marks.get(run.name);
  if (known?.key === key) return known.marks;
  const found = marksOf(run, data, view.axis, isMark);
  marks.set(run.name, { key, marks: found });
  return found;
}

const charts = CHARTS.map((definition) => new Chart(definition, view, { paint, marks: marksFor }));
byId("grid").append(...charts.map((chart) => chart.element));
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const chart = charts.find(({ element }) => element === target);
    if (chart) chart.seen = isIntersecting;
  }
  frame(false);
}, { root: byId("scroll"), rootMargin: "150px" });
charts.forEach((chart) => watcher.observe(chart.element));
byId("grid").addEventListener("keydown", (event) => {
  if (event.target.matches(".chart-card") && onChartKey(event, view)) event.preventDefault();
});

/** The stage that is shown: the chosen one, if any run has it, else the newest of the first run. */
function stage() {
  const known = view.selected.flatMap((name) => live.runs.get(name)?.known ?? []);
  const chosen = known.length === 0 || known.some(({ name }) => name === view.stage) ? view.stage : null;
  const first = live.runs.get(view.selected[0]);
  return chosen ?? first?.info.latest?.stage ?? first?.known.at(-1)?.name ?? null;
}

let asked = { frame: 0, all: false };
/** Once before the next picture, however often it is asked for. @param {boolean} all  not the charts alone */
function frame(all) {
  asked.all ||= all;
  asked.frame ||= requestAnimationFrame(() => {
    const { all: everything } = asked;
    asked = { frame: 0, all: false };
    if (everything) update();
    else charts.forEach((chart) => (chart.stale = true));
    tools.redrawn();
    charts.forEach((chart) => chart.draw());
    pointing();
  });
}

let pointed = 0;
function pointing() {
  pointed ||= requestAnimationFrame(() => {
    pointed = 0;
    charts.forEach((chart) => chart.seen && chart.hover(view.hover));
  });
}

/** What the plots were made for; for anything else they are made anew. */
let made = "";

function update() {
  if (!live.list) return;
  document.body.removeAttribute("aria-busy");
  byId("to-chat").hidden = !live.list.chat;
  setText(byId("folder"), live.list.folder);
  list.update(live);
  const shownStage = stage();
  view.shown = view.selected.filter((name) => live.runs.has(name)).map((name) => {
    const run = live.runs.get(name);
    return { run, data: run.stage(shownStage), colour: view.colourOf(name) };
  });
  const [first] = view.shown;
  const nothing = emptiness(first);
  byId("empty").hidden = nothing === null;
  byId("content").hidden = nothing !== null;
  if (nothing) {
    if (byId("empty").dataset.key !== nothing.key) byId("empty").replaceChildren(...nothing.make());
    byId("empty").dataset.key = nothing.key;
  }
  const title = view.shown.length > 1 ? `${view.shown.length} runs` : first?.run.name ?? "Training runs";
  setText(byId("title"), title);
  document.title = `${title} · CasaLLM`;
  showState(first);
  if (nothing || !first) return;
  if (view.shown.some(({ run }) => live.lacks(run, shownStage))) live.now();

  const key = `${view.axis} ${view.logarithmic}`;
  if (key !== made) charts.forEach((chart) => chart.remake());
  made = key;
  const stages = new Set(view.shown.flatMap(({ run }) => run.known.map(({ name }) => name)));
  tools.update([...stages], shownStage);
  charts.forEach((chart) => chart.update());
  const many = view.shown.length > 1;
  showProgress(first.run, first.data, view.smoothing, many);
  showCompared(view.shown);
  showNotes();
  const news = showAlarms(view.shown);
  if (news.length > 0) announce(news.join(" "));
  samples.update(first.run, first.data, many);
  events.update(first.run, many);
  showRecipe(first.run, many);
}

/** Why there is nothing to see, null where there is something. */
function emptiness(first) {
  const { runs } = live.list;
  if (runs.length === 0) return { key: "none", make: () => noRuns(live.list) };
  if (!first) return { key: `gone ${view.selected[0]}`, make: () => noSuchRun(view.selected[0]) };
  if (!first.run.info.latest && first.run.known.length === 0) return { key: `steps ${first.run.info.running}`, make: () => noSteps(first.run) };
  if (!view.shown.some(({ data }) => data?.rows)) {
    if (first.run.refused) return { key: `refused ${first.run.name}`, make: () => unreadable(first.run) };
    return first.run.upTo === null ? { key: "reading", make: reading } : null;
  }
  return null;
}

/** Whether what is seen goes on by itself. */
function showState(first) {
  const element = byId("state");
  const running = view.shown.some(({ run, data }) => ["running", "stalled", "preparing"].includes(condition(run, data)));
  const [state, words] = lost ? ["lost", "Connection lost"] : !first ? ["", ""] : running ? ["live", "Live"] : ["ended", "Not training"];
  element.dataset.state = state;
  setText(element, words);
}

/** What the marks mean, and what is not drawn as it is. */
function showNotes() {
  const notes = [];
  const all = view.shown.flatMap(({ run, data }) => (data ? marksFor(run, data) : []));
  const steps = (found) => found.slice(-8).map(({ step }) => step.toLocaleString("en")).join(", ");
  const [resumed, back] = [all.filter(({ grave }) => !grave), all.filter(({ grave }) => grave)];
  if (resumed.length) notes.push(h("span", { class: "mark" }, `resumed after step ${steps(resumed)}`));
  if (back.length) notes.push(h("span", { class: "mark grave" }, `rolled back to step ${steps(back)}`));
  for (const { run, data } of view.shown) {
    if (data && data.stride > 1) notes.push(h("span", {}, `${run.name}: of ${data.seen.toLocaleString("en")} rows every ${data.stride}th is drawn`));
  }
  const element = byId("marks");
  const key = notes.map((note) => note.textContent).join("|");
  element.hidden = notes.length === 0;
  if (element.dataset.key !== key) element.replaceChildren(...notes);
  element.dataset.key = key;
}

addEventListener("themechange", () => {
  paints.clear();
  charts.forEach((chart) => chart.remake());
  frame(true);
});
byId("help").addEventListener("click", showHelp);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("charts").focus();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") drawer.close();
  const writing = event.target instanceof HTMLElement && event.target.matches("input:not([type=radio], [type=checkbox], [type=range]), textarea");
  if (event.key === "?" && !writing && !event.ctrlKey && !event.metaKey) showHelp();
});
// A chosen run is asked for at once.
byId("runs").addEventListener("click", () => live.now());
byId("runs").addEventListener("change", () => live.now());
byId("tools").addEventListener("change", () => live.now());
live.start();
