// How a run is: its pace, when it will be done, and what is wrong with it now.

import { lastAt } from "./columns.js";
import { plural } from "../js/format.js";
import { rate, span } from "./numbers.js";
import { told } from "./words.js";

/** Rows by which the pace is judged. */
const RECENT = 50;
/** Throughput below this share of what it was is an alarm. */
const FALLEN = 0.7;
/** A step that takes so many times as long as steps do, and at least so many seconds, is no slow step. */
const STALLED_STEPS = 20;
const STALLED_SECONDS = 120;
/** Alarms of this many steps back from the newest are told at the top. */
const ALARM_SHARE = 0.1;

/** Seconds a step of the newest rows. @param {import("./columns.js").StageData} data */
export function pace(data) {
  const { step, seconds } = data.places;
  const last = data.rows - 1;
  const first = Math.max(0, last - RECENT);
  const steps = step.array[last] - step.array[first];
  return last > first && steps > 0 ? (seconds.array[last] - seconds.array[first]) / steps : null;
}

/** Steps of the whole stage, where known. */
export function planned(run, data) {
  if (data?.planned) return data.planned;
  const { latest } = run.info;
  return latest && data && latest.stage === data.name ? latest.planned : null;
}

/** @returns {{done: number, of: number|null, share: number|null, left: number|null}}  steps, and seconds that are left */
export function progress(run, data) {
  const done = data.rows ? data.places.step.array[data.rows - 1] : 0;
  const of = planned(run, data);
  const each = pace(data);
  const share = of ? Math.min(1, done / of) : null;
  return { done, of, share, left: of && each !== null ? Math.max(0, of - done) * each : null };
}

/** In a word: "running", "stalled", "preparing", "finished", "stopped". */
export function condition(run, data) {
  const { running, quiet_seconds: quiet, latest } = run.info;
  if (running) {
    if (!latest) return "preparing";
    const each = data && data.name === latest.stage ? pace(data) : null;
    return quiet > Math.max(STALLED_SECONDS, STALLED_STEPS * (each ?? 0)) ? "stalled" : "running";
  }
  if (!latest) return "empty";
  const of = planned(run, data && data.name === latest.stage ? data : null) ?? latest.planned;
  return of && latest.step < of ? "stopped" : "finished";
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** How many times as fast the newest rows are as those before them, null where that is not known. */
function slowdown(data) {
  const column = data.dense.get("tokens_per_s");
  if (!column || column.length < 60) return null;
  const recent = [...column.values.array.subarray(column.length - 10, column.length)].filter(Number.isFinite);
  const before = [...column.values.array.subarray(Math.max(0, column.length - 500), column.length - 10)].filter(Number.isFinite);
  if (recent.length < 5 || before.length < 30) return null;
  const [now, usual] = [median(recent), median(before)];
  return { now, usual, share: now / usual };
}

/**
 * What is to be told at the top: the graver first, then the newer.
 * @returns {{key: string, grade: "wrong"|"warn", name: string, text: string}[]}
 */
export function alarms(run, data) {
  const found = [];
  const state = condition(run, data);
  if (state === "stalled") {
    found.push({ key: "stalled", grade: "wrong", name: "Stalled", text: `The run's process is alive, but it has written nothing for ${span(run.info.quiet_seconds)}.` });
  }
  if (run.damaged > 0) {
    found.push({ key: `damaged ${run.damaged}`, grade: "warn", name: "Damaged lines", text: `${plural(run.damaged, "line")} of metrics.jsonl cannot be read and ${run.damaged === 1 ? "is" : "are"} left out; the first is line ${run.firstDamaged}.` });
  }
  if (!data) return found;
  const fallen = run.info.running && slowdown(data);
  if (fallen && fallen.share < FALLEN) {
    found.push({ key: "fallen", grade: "warn", name: "Throughput fell", text: `${rate(fallen.now)} tokens a second instead of ${rate(fallen.usual)}.` });
  }
  const last = data.rows ? data.places.step.array[data.rows - 1] : 0;
  const whole = planned(run, data) ?? last;
  const since = last - Math.max(50, whole * ALARM_SHARE);
  const events = [];
  run.events.forEach((event, at) => {
    if (event.stage !== data.name || !(event.step >= since)) return;
    const said = told(event);
    if (said.grade) events.push({ key: `event ${run.generation} ${at}`, grade: said.grade, name: said.name, text: `Step ${event.step.toLocaleString("en")}. ${said.text}`, at });
  });
  // What happened often is said once, with how often.
  const kinds = new Map();
  for (const event of events.reverse()) {
    const same = kinds.get(event.name);
    if (same) same.more += 1;
    else kinds.set(event.name, { ...event, more: 0 });
  }
  for (const { more, ...event } of kinds.values()) found.push({ ...event, text: more ? `${event.text} ${plural(more, "more like it", "more like it")} before.` : event.text });
  return found.sort((a, b) => (a.grade === "wrong" ? 0 : 1) - (b.grade === "wrong" ? 0 : 1));
}

/** Places of marks on an axis. */
export function marksOf(run, data, axis, isMark) {
  const marks = [];
  for (const event of run.events) {
    if (event.stage !== data.name || !isMark(event)) continue;
    const back = event.event === "rolled_back" && typeof event.to === "number" ? event.to : event.step;
    const at = lastAt(data.places.step.array, data.rows, back);
    if (at < 0) continue;
    marks.push({ x: data.places[axis].array[at], step: back, grave: event.event === "rolled_back" });
  }
  return marks;
}
