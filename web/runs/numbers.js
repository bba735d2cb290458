// Numbers as people read them.

import { count } from "../js/format.js";

export { count };

const NONE = "–";
const finite = (format) => (value) => (value === null || value === undefined || !Number.isFinite(value) ? NONE : format(value));

/** "2.314", "0.0123", "12.3". */
export const fixed = finite((value) => {
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-4)) return value.toExponential(2).replace("e+", "e");
  return size >= 1000 ? count(value) : size >= 100 ? value.toFixed(1) : size >= 10 ? value.toFixed(2) : size >= 0.1 || size === 0 ? value.toFixed(3) : String(Number(value.toPrecision(3)));
});

export const scientific = finite((value) => (value === 0 ? "0" : value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e")));
export const percent = finite((value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`);
export const celsius = finite((value) => `${value.toFixed(0)} °C`);
export const watts = finite((value) => `${count(value)} W`);
export const rate = finite((value) => (value < 100 ? value.toFixed(1) : value < 100_000 ? count(value) : large(value)));

/** "1.2 GB". */
export const bytes = finite((value) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; value >= 1000 && at < units.length - 1; at += 1) value /= 1000;
  return `${at === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[at]}`;
});

/** "12.3M". */
export const large = finite((value) => {
  const short = (x) => String(Number(x.toPrecision(3)));
  const size = Math.abs(value);
  return size >= 1e12 ? `${short(value / 1e12)}T` : size >= 1e9 ? `${short(value / 1e9)}B` : size >= 1e6 ? `${short(value / 1e6)}M` : size >= 1e4 ? `${short(value / 1e3)}k` : count(value);
});

/** Seconds as "45 s", "12 min", "3 h 20 min", "2 d 4 h". */
export const span = finite((seconds) => {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60 ? `${minutes % 60} min` : ""}`.trim();
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)} d ${hours % 24 ? `${hours % 24} h` : ""}`.trim();
});

/** A place on the x axis. */
export const place = (value, axis) => (axis === "seconds" ? span(value) : axis === "tokens" ? large(value) : count(value));

/** An hour of the day, with the day where it is another. @param {Date} date */
export function clock(date, now = new Date()) {
  const time = date.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });
  return date.toDateString() === now.toDateString() ? time : `${date.toLocaleDateString("en", { weekday: "short", day: "numeric", month: "short" })}, ${time}`;
}
