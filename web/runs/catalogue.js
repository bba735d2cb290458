// Which charts there are, and what each draws.

import { bytes, celsius, fixed, percent, rate, scientific, watts } from "./numbers.js";

/**
 * @typedef {object} Line
 * @property {string} column  its name in the columns
 * @property {boolean} [sparse]  few rows have it: points, joined by lines
 * @property {boolean} [smooth]  drawn twice, as it is and smoothed
 * @property {string} [label]  where a chart has several
 * @property {boolean} [dashed]
 *
 * @typedef {object} Definition
 * @property {string} id
 * @property {string} title
 * @property {string} [unit]
 * @property {Line[]} lines
 * @property {RegExp} [more]  sparse columns that are drawn as well, where one run is shown; the first group is their name
 * @property {(value: number) => string} format
 * @property {boolean} [log]  may be drawn on a logarithmic scale
 * @property {boolean} [wide]
 * @property {boolean} [zero]  the scale begins at 0
 * @property {[number, number]} [within]  the scale does not go beyond
 */

/** @type {Definition[]} */
export const CHARTS = [
  { id: "loss", title: "Training loss", unit: "nats", wide: true, log: true, format: fixed, lines: [{ column: "loss", smooth: true }] },
  { id: "val_loss", title: "Validation loss", unit: "nats", log: true, format: fixed, lines: [{ column: "val_loss", sparse: true }], more: /^val\/(.*)\/loss$/ },
  { id: "bits_per_byte", title: "Bits per byte", unit: "of validation text", format: fixed, lines: [{ column: "bits_per_byte", sparse: true }], more: /^val\/(.*)\/bits_per_byte$/ },
  { id: "margin", title: "Reward margin", unit: "chosen above rejected", format: fixed, lines: [{ column: "preference/margin", smooth: true, label: "training" }, { column: "val_preference/margin", sparse: true, label: "held out", dashed: true }] },
  { id: "preferred", title: "Pairs preferred", unit: "share with a positive margin", format: percent, within: [0, 1], lines: [{ column: "preference/accuracy", smooth: true, label: "training" }, { column: "val_preference/accuracy", sparse: true, label: "held out", dashed: true }, { column: "val_preference/ranking", sparse: true, label: "held out, by likelihood alone" }] },
  { id: "rewards", title: "Rewards", unit: "of chosen and rejected answers", format: fixed, lines: [{ column: "preference/chosen_reward", smooth: true, label: "chosen" }, { column: "preference/rejected_reward", smooth: true, label: "rejected", dashed: true }] },
  { id: "lr", title: "Learning rate", format: scientific, zero: true, lines: [{ column: "lr" }] },
  { id: "grad_norm", title: "Gradient norm", unit: "before clipping", log: true, format: fixed, lines: [{ column: "grad_norm", smooth: true }] },
  { id: "tokens_per_s", title: "Tokens per second", format: rate, zero: true, lines: [{ column: "tokens_per_s", smooth: true }] },
  { id: "flop_utilisation", title: "FLOP utilisation", unit: "share of the machine's peak", format: percent, zero: true, lines: [{ column: "flop_utilisation", smooth: true }] },
  { id: "memory", title: "Memory", unit: "held by the run", format: bytes, zero: true, lines: [{ column: "memory_bytes" }] },
  { id: "gpu_load", title: "GPU load", format: percent, within: [0, 1], zero: true, lines: [{ column: "gpu_load", smooth: true }] },
  { id: "gpu_temperature", title: "GPU temperature", format: celsius, lines: [{ column: "gpu_temperature_c", smooth: true }] },
  { id: "gpu_power", title: "GPU power", format: watts, zero: true, lines: [{ column: "gpu_power_w", smooth: true }] },
  { id: "gpu_memory", title: "GPU memory", unit: "of all programs", format: bytes, zero: true, lines: [{ column: "gpu_memory_bytes" }] },
  { id: "accuracy", title: "Validation accuracy", unit: "tokens put first", format: percent, lines: [{ column: "accuracy", sparse: true }] },
];

/** Colours of the runs, in order; the page's stylesheet has them. */
export const COLOURS = 8;
