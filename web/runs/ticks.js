// What stands at an axis: places between round numbers, with as many digits as tell them apart.

import { percent, scientific, span } from "./numbers.js";

const SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000, 4_320_000];
const COUNTS = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((n) => n * 10 ** power)).flat();

/** Distances between ticks of the x axis; none that added to a place is that place again, for ticks are added up to the end. */
export const increments = (axis) => (plot, at, least, most) => {
  const lost = 2 ** -50 * Math.max(Math.abs(least), Math.abs(most));
  return (axis === "seconds" ? SECONDS : COUNTS).filter((increment) => increment > lost);
};

/** Digits after the point that multiples of a distance have: 1 of 2.5. */
function decimals(increment) {
  let digits = 0;
  while (digits < 8 && Math.abs(increment * 10 ** digits - Math.round(increment * 10 ** digits)) > 1e-6 * increment * 10 ** digits) digits += 1;
  return digits;
}

/** With a letter for its thousands, the same for all ticks. */
function scaled(ticks, increment, names, base = 1000) {
  const most = Math.max(...ticks.map(Math.abs));
  let power = 0;
  while (power < names.length - 1 && most >= base ** (power + 1)) power += 1;
  const unit = base ** power;
  return ticks.map((value) => (value === 0 ? "0" : `${(value / unit).toFixed(decimals(increment / unit))}${names[power]}`));
}

/** Of the x axis. */
export const placeTicks = (axis) => (plot, ticks, at, space, increment) => {
  if (axis !== "seconds") return scaled(ticks, increment, Math.max(...ticks) < 10_000 ? [""] : ["", "k", "M", "B", "T"]);
  if (increment >= 60) return ticks.map((value) => (value === 0 ? "0" : span(value)));
  return ticks.map((value) => `${value.toFixed(decimals(increment))} s`);
};

/** Of the y axis. @param {import("./catalogue.js").Definition} definition */
export const valueTicks = ({ format, id }) => (plot, ticks, at, space, increment) => {
  // Between the powers of ten of a logarithmic scale uPlot leaves gaps.
  const told = ticks.filter((value) => value !== null);
  if (told.length === 0) return [];
  let texts;
  if (format === percent) texts = told.map((value) => `${(100 * value).toFixed(decimals(100 * increment))} %`);
  else if (format === scientific) texts = told.map(scientific);
  else if (/memory/.test(id)) texts = scaled(told, increment, [" B", " kB", " MB", " GB", " TB"]);
  else if (plot.scales.y.distr === 3) texts = told.map((value) => String(Number(value.toPrecision(3))));
  else texts = scaled(told, increment, Math.max(...told.map(Math.abs)) < 10_000 ? [""] : ["", "k", "M", "B"]);
  let next = 0;
  return ticks.map((value) => (value === null ? null : texts[next++]));
};
