// What events say, and which of them are alarms.

import { bytes, fixed, span } from "./numbers.js";
import { plural } from "../js/format.js";

/** @typedef {"wrong"|"warn"|""} Grade */

const text = (value) => (typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value));
const number = (value) => (typeof value === "number" ? fixed(value) : text(value) || "–");
const seconds = (value) => (typeof value === "number" ? (value < 10 ? `${value.toFixed(2)} s` : span(value)) : "–");
const quantity = (event) => ({ loss: "the loss", grad_norm: "the gradient norm" })[event.quantity] ?? "a quantity";
const action = (event) => ({ warn: "nothing was done about it", skip: "the update was left out", rollback: "the run goes back", stop: "the run ends" })[event.action] ?? "";
const sentence = (...parts) => `${parts.filter(Boolean).join("; ")}.`;

/** Of each kind: a short name, how grave it is, and what it says. @type {Record<string, [string, Grade, (event: any) => string]>} */
const KINDS = {
  began: ["Began", "", (event) => sentence(`${typeof event.steps === "number" ? plural(event.steps, "step") : "steps"} in all`, text(event.device) && `on ${text(event.device)}`)],
  resumed: ["Resumed", "", () => "A process went on with the run from its checkpoint."],
  spike: ["Spike", "warn", (event) => sentence(`${quantity(event)} was ${number(event.value)}, ${number(event.z)} deviations above the mean of ${number(event.mean)}`, text(event.batch) && `the batch is ${text(event.batch)}`, action(event))],
  not_finite: ["Not finite", "wrong", (event) => sentence(`${quantity(event)} is ${text(event.value)}`, text(event.batch) && `the batch is ${text(event.batch)}`, action(event))],
  new_level: ["New level", "warn", (event) => `${number(event.outliers)} outliers in a row are a new level, which the guard learns.`],
  rolled_back: ["Rolled back", "wrong", (event) => `Back to step ${text(event.to)}${Array.isArray(event.passed_over) ? `; ${plural(event.passed_over.length, "batch", "batches")} passed over` : ""}.`],
  not_rolled_back: ["Not rolled back", "wrong", () => "There was no checkpoint to go back to; the update was left out."],
  other_device: ["Other device", "warn", (event) => `The checkpoint was made on ${text(event.made_on)}; on ${text(event.now_on)} the run goes on, but not to the same bits.`],
  damaged_checkpoint: ["Damaged checkpoint", "wrong", (event) => `A checkpoint was passed over: ${text(event.reason)}`],
  checkpoint_failed: ["Checkpoint failed", "wrong", (event) => `${text(event.reason)}; training goes on, and tries again at the next one.`],
  checkpoint_waited: ["Waited for the disk", "warn", (event) => `Steps waited ${seconds(event.seconds)} for the checkpoint before.`],
  metrics_wait: ["Metrics wait", "wrong", (event) => `${text(event.reason)}; what metrics.jsonl lacks is kept in memory.`],
  slow_step: ["Slow step", "warn", (event) => sentence(`a step took ${seconds(event.seconds)}, steps take ${seconds(event.usual)}`, machine(event.machine))],
  slower: ["Slower", "warn", (event) => sentence(`steps take ${seconds(event.seconds)} instead of ${seconds(event.usual)}`, machine(event.machine))],
  clock: ["Clock", "", (event) => `The clock was set ${number(event.seconds)} s forward or back, or the machine has slept; nothing depends on it.`],
  note: ["Note", "", (event) => text(event.text)],
};

function machine(of) {
  if (!of || typeof of !== "object") return "";
  const parts = [];
  if (typeof of.cpu_mhz === "number") parts.push(`the processor ran at ${of.cpu_mhz.toFixed(0)} MHz`);
  if (typeof of.hottest_celsius === "number") parts.push(`its hottest sensor showed ${of.hottest_celsius.toFixed(0)} °C`);
  if (typeof of.free_bytes === "number") parts.push(`${bytes(of.free_bytes)} were free`);
  return parts.join(", ");
}

const large = (said) => said.charAt(0).toUpperCase() + said.slice(1);

/** @returns {{name: string, grade: Grade, text: string}} */
export function told(event) {
  const known = Object.hasOwn(KINDS, event.event) ? KINDS[event.event] : null;
  if (known) return { name: known[0], grade: known[1], text: large(known[2](event)) };
  // One of a newer version: as it stands.
  const { event: kind, stage, step, ...rest } = event;
  return { name: String(kind), grade: "", text: Object.keys(rest).length ? JSON.stringify(rest).slice(0, 500) : "" };
}

export const isSample = (event) => event.event === "sample";
/** Where a run was taken up again, or set back: marked in the charts. */
export const isMark = (event) => event.event === "resumed" || event.event === "rolled_back";
