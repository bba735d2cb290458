// Draws columns of any length into a chart: no more is drawn than there are pixels.

import { lastAt } from "./columns.js";

/** Buckets of a line, at most: there is at most one for each pixel of the screen. */
const MOST = 8192;
const low = new Float32Array(MOST);
const high = new Float32Array(MOST);

/** Rows to draw of a stage between two places, with one beyond each end, and how many of them make a bucket. */
export function windowOf(data, axis, [from, to], pixels) {
  const { array, length } = data.places[axis];
  const first = Math.max(0, lastAt(array, length, from));
  const end = Math.min(length, lastAt(array, length, to) + 2);
  let size = 1;
  // A power of two, so that buckets are the same rows while the view moves over them: nothing shimmers.
  while ((end - first) / size > Math.min(pixels, MOST - 2)) size *= 2;
  const begin = Math.floor(first / size) * size;
  return { begin, end, size, count: Math.ceil((end - begin) / size) };
}

/** Least and largest of what is drawn, outliers left out: below the first and above the 99th of a hundred. */
export function extent(column, view, robust) {
  column.buckets(view.begin, view.size, view.count, low, high);
  const pick = (values, share) => {
    const sorted = values.subarray(0, view.count).slice().sort();
    // Infinities of empty buckets are at the ends.
    let [from, to] = [0, sorted.length];
    while (from < to && !Number.isFinite(sorted[from])) from += 1;
    while (to > from && !Number.isFinite(sorted[to - 1])) to -= 1;
    if (from === to) return null;
    return sorted[from + Math.round((to - from - 1) * share)];
  };
  const aside = robust && view.count > 50 ? 0.01 : 0;
  const [least, most] = [pick(low, aside), pick(high, 1 - aside)];
  return least === null || most === null ? null : [least, most];
}

/** Of sparse columns; places `xs`. */
export function extentOfPoints(xs, values, [from, to]) {
  let least = Infinity;
  let most = -Infinity;
  for (let i = Math.max(0, lastAt(xs, xs.length, from)); i < xs.length; i += 1) {
    if (values[i] < least) least = values[i];
    if (values[i] > most) most = values[i];
    if (xs[i] > to) break;
  }
  return least > most ? null : [least, most];
}

/** Places and values to pixels of the canvas. */
export function projection(plot, logarithmic) {
  const { left, top, width, height } = plot.bbox;
  const { x, y } = plot.scales;
  const kx = width / (x.max - x.min || 1);
  const [least, most] = logarithmic ? [Math.log(y.min), Math.log(y.max)] : [y.min, y.max];
  const ky = height / (most - least || 1);
  // What lies far outside is drawn outside, not at coordinates that no canvas takes.
  const clamp = (at) => Math.max(top - height, Math.min(top + 2 * height, at));
  return {
    x: (value) => left + (value - x.min) * kx,
    y: logarithmic ? (value) => clamp(top + height - (Math.log(Math.max(value, 1e-30)) - least) * ky) : (value) => clamp(top + height - (value - least) * ky),
  };
}

/**
 * One line of all rows of a window. Where a bucket has many rows, the line goes through the middle of each; `band`: with a bar
 * from its least to its largest as well, and `bare`: the bars alone. A browser fills a thousand bars faster than it strokes
 * one path that goes up and down a thousand times.
 * @param {"line"|"band"|"bare"} how
 */
export function drawColumn(context, column, places, view, to, how) {
  const xs = places.array;
  if (view.size === 1) return drawRows(context, column, xs, view, to);
  column.buckets(view.begin, view.size, view.count, low, high);
  const last = places.length - 1;
  const at = (bucket) => to.x(xs[Math.min(last, view.begin + bucket * view.size + (view.size >> 1))]);
  if (how !== "line") {
    const least = context.lineWidth;
    let [bottom, top] = [-Infinity, Infinity];
    for (let bucket = 0; bucket < view.count; bucket += 1) {
      if (high[bucket] < low[bucket]) {
        [bottom, top] = [-Infinity, Infinity];
        continue;
      }
      const x = Math.floor(at(bucket));
      let [from, until] = [to.y(high[bucket]), to.y(low[bucket])];
      const [own, ownUntil] = [from, until];
      // Bars beside one another touch.
      if (from > bottom && bottom !== -Infinity) from = bottom;
      if (until < top && top !== Infinity) until = top;
      [top, bottom] = [own, ownUntil];
      if (how === "bare" || until - from > 2 * least) context.fillRect(x, Math.floor(from), Math.max(1, Math.ceil(at(bucket + 1)) - x), Math.max(least, until - from));
    }
    if (how === "bare") return;
  }
  context.beginPath();
  let pen = false;
  for (let bucket = 0; bucket < view.count; bucket += 1) {
    const given = high[bucket] >= low[bucket];
    if (given && pen) context.lineTo(at(bucket), to.y((low[bucket] + high[bucket]) / 2));
    else if (given) context.moveTo(at(bucket), to.y((low[bucket] + high[bucket]) / 2));
    pen = given;
  }
  context.stroke();
}

/** Every row. */
function drawRows(context, column, xs, view, to) {
  const values = column.values.array;
  const end = Math.min(view.end, column.length);
  const given = (i) => i >= view.begin && i < end && values[i] === values[i];
  context.beginPath();
  for (let i = view.begin; i < end; i += 1) {
    if (!given(i)) continue;
    const [x, y] = [to.x(xs[i]), to.y(values[i])];
    if (given(i - 1)) context.lineTo(x, y);
    else context.moveTo(x, y);
    // A single point between gaps is seen as a short stroke.
    if (!given(i - 1) && !given(i + 1)) context.lineTo(x + 1, y);
  }
  context.stroke();
}

/** Points joined by lines. */
export function drawPoints(context, xs, values, [from, until], to, radius) {
  const first = Math.max(0, lastAt(xs, xs.length, from));
  const dots = [];
  context.beginPath();
  let [apart, before, low, high] = [-Infinity, -Infinity, 0, 0];
  for (let i = first; i < xs.length; i += 1) {
    const [x, y] = [to.x(xs[i]), to.y(values[i])];
    // Of those at one pixel, what reaches beyond the others.
    if (i === first) context.moveTo(x, y);
    else if (x - before >= 1 || y < low || y > high) context.lineTo(x, y);
    if (x - before >= 1) [before, low, high] = [x, y, y];
    else [low, high] = [Math.min(low, y), Math.max(high, y)];
    if (x - apart > 4 * radius) {
      dots.push([x, y]);
      apart = x;
    }
    if (xs[i] > until) break;
  }
  context.stroke();
  context.setLineDash([]);
  context.beginPath();
  for (const [x, y] of dots) {
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
  }
  context.fill();
}
