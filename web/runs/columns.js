// Rows as columns: read from the server's bytes, and grown as more come.

/** A typed array that grows. `array` is longer than `length` says. */
export class Grow {
  /** @param {Float32ArrayConstructor|Float64ArrayConstructor} Type */
  constructor(Type) {
    this.Type = Type;
    this.array = new Type(0);
    this.length = 0;
  }

  /** Makes room for so many in all; what is new has no value. */
  resize(length) {
    if (length > this.array.length) {
      const larger = new this.Type(Math.max(length, Math.ceil(this.length * 1.5)));
      larger.set(this.array.subarray(0, this.length));
      this.array = larger;
    }
    this.array.fill(NaN, Math.min(this.length, length), length);
    this.length = length;
  }

  /** @param {Float32Array|Float64Array} values */
  append(values) {
    if (this.length === 0) {
      // The first and largest part is taken as it came.
      this.array = values;
      this.length = values.length;
      return;
    }
    const from = this.length;
    this.resize(from + values.length);
    this.array.set(values, from);
  }
}

/** Blocks of one level are this many of the level below. */
const FACTOR = 8;

/** A dense column, with least and largest values of blocks of 8, 64, 512 ... rows. */
export class Column {
  constructor() {
    this.values = new Grow(Float32Array);
    /** @type {{low: Grow, high: Grow}[]} */
    this.levels = [];
    this.settled = 0;
  }

  get length() {
    return this.values.length;
  }

  /** Brings the levels up to the values. */
  settle() {
    if (this.settled === this.length) return;
    let from = this.settled;
    let low = this.values;
    let high = this.values;
    for (let level = 0; low.length > FACTOR; level += 1) {
      this.levels[level] ??= { low: new Grow(Float32Array), high: new Grow(Float32Array) };
      const of = this.levels[level];
      const blocks = Math.ceil(low.length / FACTOR);
      // The last block may have been part of one; those of a new level are all to be made.
      const first = Math.min(Math.floor(from / FACTOR), of.low.length);
      of.low.resize(blocks);
      of.high.resize(blocks);
      const [lows, highs, belowLow, belowHigh] = [of.low.array, of.high.array, low.array, high.array];
      for (let block = first; block < blocks; block += 1) {
        let least = Infinity;
        let most = -Infinity;
        const end = Math.min((block + 1) * FACTOR, low.length);
        for (let i = block * FACTOR; i < end; i += 1) {
          if (belowLow[i] < least) least = belowLow[i];
          if (belowHigh[i] > most) most = belowHigh[i];
        }
        lows[block] = least;
        highs[block] = most;
      }
      from = first;
      [low, high] = [of.low, of.high];
    }
    this.settled = this.length;
  }

  /**
   * Least and largest of each of `count` buckets of `size` rows (a power of two) from row `first` on, which is a multiple of
   * it: into `low` and `high`, Infinity and -Infinity where a bucket has none.
   */
  buckets(first, size, count, low, high) {
    this.settle();
    let block = 1;
    let lows = this.values;
    let highs = this.values;
    for (let level = 0; level < this.levels.length && block * FACTOR <= size; level += 1) {
      block *= FACTOR;
      lows = this.levels[level].low;
      highs = this.levels[level].high;
    }
    const [a, b, each, length] = [lows.array, highs.array, size / block, lows.length];
    let at = first / block;
    for (let bucket = 0; bucket < count; bucket += 1) {
      let least = Infinity;
      let most = -Infinity;
      const end = Math.min(at + each, length);
      for (let i = at; i < end; i += 1) {
        if (a[i] < least) least = a[i];
        if (b[i] > most) most = b[i];
      }
      low[bucket] = least;
      high[bucket] = most;
      at += each;
    }
  }
}

/** The last index of ascending `array` whose value is at most `x`; -1 if none. */
export function lastAt(array, length, x) {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (array[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

export const AXES = ["step", "tokens", "seconds"];

/** One stage of a run. */
export class StageData {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** Ascending places of the rows, by what they are counted in. @type {Record<string, Grow>} */
    this.places = Object.fromEntries(AXES.map((axis) => [axis, new Grow(Float64Array)]));
    /** @type {Map<string, Column>} */
    this.dense = new Map();
    /** What few rows have, with places of their own. @type {Map<string, {step: number[], tokens: number[], seconds: number[], values: number[]}>} */
    this.sparse = new Map();
    /** @type {Map<string, {column: Column, rate: number, at: number, sum: number, weight: number}>} */
    this.smooth = new Map();
    this.planned = null;
    this.stride = 1;
    this.seen = 0;
  }

  get rows() {
    return this.places.step.length;
  }

  /** @param {any} head @param {ReturnType<typeof decode>} part */
  append(head, part) {
    const before = this.rows;
    for (const axis of AXES) {
      const place = this.places[axis];
      // Clocks and counts that run backwards would lead every search astray.
      let last = place.length ? place.array[place.length - 1] : -Infinity;
      const values = part[axis];
      for (let i = 0; i < values.length; i += 1) {
        if (values[i] < last) values[i] = last;
        else last = values[i];
      }
      place.append(values);
    }
    for (const [name, values] of part.dense) {
      let column = this.dense.get(name);
      if (!column) {
        this.dense.set(name, (column = new Column()));
        // A column begins with the first row that has it.
        if (before > 0) column.values.resize(before);
      }
      column.values.append(values);
    }
    for (const [name, found] of part.sparse) {
      const column = this.sparse.get(name) ?? { step: [], tokens: [], seconds: [], values: [] };
      this.sparse.set(name, column);
      for (let i = 0; i < found.step.length; i += 1) {
        if (found.step[i] <= (column.step.at(-1) ?? -1)) continue;
        column.step.push(found.step[i]);
        column.tokens.push(Math.max(found.tokens[i], column.tokens.at(-1) ?? 0));
        column.seconds.push(Math.max(found.seconds[i], column.seconds.at(-1) ?? 0));
        column.values.push(found.values[i]);
      }
    }
    this.planned = head.planned;
    this.stride = head.stride;
    this.seen = head.seen;
  }

  /**
   * The exponential moving average of a column over about `rows` rows, begun without bias (Kingma and Ba 2015, section 3).
   * @param {string} name @param {number} rows
   */
  smoothed(name, rows) {
    const source = this.dense.get(name);
    if (!source || rows <= 1) return source;
    const rate = 1 - 1 / rows;
    let of = this.smooth.get(name);
    if (!of || of.rate !== rate) this.smooth.set(name, (of = { column: new Column(), rate, at: 0, sum: 0, weight: 0 }));
    if (of.at < source.length) {
      const raw = source.values.array;
      const out = new Float32Array(source.length - of.at);
      let { sum, weight } = of;
      for (let i = of.at; i < source.length; i += 1) {
        if (raw[i] === raw[i]) {
          sum = sum * rate + raw[i];
          weight = weight * rate + 1;
        }
        out[i - of.at] = weight > 0 ? sum / weight : NaN;
      }
      Object.assign(of, { sum, weight, at: source.length });
      of.column.values.append(out);
    }
    return of.column;
  }

  /** The newest value of a column, wherever it stands. */
  newest(name) {
    const dense = this.dense.get(name);
    if (dense) {
      for (let i = dense.length - 1; i >= Math.max(0, dense.length - 1000); i -= 1) if (!Number.isNaN(dense.values.array[i])) return dense.values.array[i];
    }
    return this.sparse.get(name)?.values.at(-1) ?? null;
  }

  /** Where a step is on an axis: that of the last row up to it. */
  placeOf(step, axis) {
    const { array, length } = this.places.step;
    if (length === 0) return null;
    return this.places[axis].array[Math.max(0, lastAt(array, length, step))];
  }
}

/** @param {ArrayBuffer} buffer  as `GET /api/runs/{name}/columns` sends it */
export function decode(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 8 || view.getUint32(0, false) !== 0x43524331) throw new Error("The server sent no columns.");
  const length = view.getUint32(4, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  let at = Math.ceil((8 + length) / 8) * 8;
  const take = (Type, count) => {
    const values = new Type(buffer, at, count);
    at += values.byteLength;
    return values;
  };
  const doubles = (count) => take(Float64Array, count);
  const [step, tokens, seconds] = [doubles(head.rows), doubles(head.rows), doubles(head.rows)];
  const dense = head.dense.map((name) => [name, take(Float32Array, head.rows)]);
  at = Math.ceil(at / 8) * 8;
  const sparse = head.sparse.map(([name, count]) => [name, { step: doubles(count), tokens: doubles(count), seconds: doubles(count), values: doubles(count) }]);
  return { head, step, tokens, seconds, dense, sparse };
}
