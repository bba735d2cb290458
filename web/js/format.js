// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en");

/** @param {number} n */
export const count = (n) => whole.format(Math.round(n));

/** "1 message", "2 messages". */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Milliseconds as "84 ms", "1.2 s" or "2 min 5 s". */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** Tokens a second: "7.4", "128". */
export const rate = (n) => (n < 100 ? n.toFixed(1) : count(n));

/** A model's size: "22.3M", "135M", "1.2B". */
export function size(n) {
  const short = (x) => String(Number(x.toPrecision(3)));
  return n >= 1e9 ? `${short(n / 1e9)}B` : n >= 1e6 ? `${short(n / 1e6)}M` : n >= 1e3 ? `${short(n / 1e3)}k` : String(n);
}

/** The heading of the list under which a time falls. */
export function dayOf(ms, now = Date.now()) {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const day = 86_400_000;
  if (ms >= midnight) return "Today";
  if (ms >= midnight - day) return "Yesterday";
  if (ms >= midnight - 7 * day) return "Last seven days";
  return new Date(ms).toLocaleDateString("en", { month: "long", year: "numeric" });
}

/** The beginning of a text, so long at most, and no half of a character at its end. */
const beginning = (text, longest) => text.slice(0, longest).replace(/[\ud800-\udbff]$/, "");

/** The first words of a text, for a title. */
export function firstWords(text, longest = 60) {
  const line = text.replace(/\s+/g, " ").trim();
  if (line.length <= longest) return line;
  const cut = beginning(line, longest).replace(/\s\S*$/, "");
  return `${cut}…`;
}

/** A name for a file made of a title. */
export const fileName = (title) => beginning((title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, ""), 60) || "conversation";

/** Bytes of a text as it is sent. */
export const bytesOf = (text) => new TextEncoder().encode(text).length;

/** What is wrong with the length of a message, "" for nothing. @param {string} text @param {number} limit  in bytes */
export function tooLong(text, limit) {
  // A character is at most three bytes; short texts need no counting.
  if (text.length * 3 <= limit || bytesOf(text) <= limit) return "";
  return `This message is longer than ${count(limit)} bytes, the most that the server takes.`;
}
