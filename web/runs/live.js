// What is known of the runs, kept up to date: the list every two seconds, and of the runs that are shown what is new.

import { ApiError } from "../js/api.js";
import { untilItWorks } from "../js/retry.js";
import { StageData, decode } from "./columns.js";

const EVERY_MS = 2000;
/** A list that takes longer is lost; a million rows may take longer. */
const PATIENCE_MS = 20_000;
const LONG_PATIENCE_MS = 180_000;

/** A run, as far as it was read. */
export class RunData {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** The entry in the list. @type {any} */
    this.info = null;
    this.reset(null);
  }

  /** Forgets what was read: it is another run under the same name, or was cut back. */
  reset(epoch) {
    this.epoch = epoch;
    /** @type {Map<string, StageData>} */
    this.stages = new Map();
    /** Names, rows and plans of all stages. @type {any[]} */
    this.known = [];
    /** @type {any[]} */
    this.events = [];
    this.eventsSeen = 0;
    this.damaged = 0;
    this.firstDamaged = null;
    /** What the list said when all was read. @type {string|null} */
    this.upTo = null;
    /** Why it could not be read. @type {ApiError|null} */
    this.refused = null;
    /** How many times a process has begun to train it. */
    this.begun = 0;
    this.recipe = null;
    /** Since when the recipe is what it is: every process that begins or ends may write another. @type {string|null} */
    this.recipeOf = null;
    this.generation = (this.generation ?? 0) + 1;
  }

  /** The stage by its name, else the newest. @param {string|null} name */
  stage(name) {
    return (name && this.stages.get(name)) || null;
  }
}

export class Live {
  /**
   * @param {import("../js/api.js").Api} api
   * @param {{wanted: () => {names: string[], stage: string|null}, changed: () => void, onWait: (wait: any) => void, failed: (error: Error|null) => void}} page
   *   `failed(null)`: what had failed works again
   */
  constructor(api, page) {
    this.api = api;
    this.page = page;
    /** @type {Map<string, RunData>} */
    this.runs = new Map();
    /** @type {any} */
    this.list = null;
    this.wake = () => {};
    /** When the server was last heard. */
    this.heard = 0;
    /** Runs that could not be read: they are asked for again after the next list. @type {Set<RunData>} */
    this.waiting = new Set();
  }

  /** Goes on for as long as the page is open. */
  async start() {
    for (;;) {
      await untilItWorks((worked) => this.#refresh(worked), { onWait: this.page.onWait }).catch((error) => this.page.failed(error));
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, EVERY_MS);
        this.wake = () => {
          clearTimeout(timer);
          resolve(null);
        };
      });
      while (document.visibilityState === "hidden") {
        await new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(null), { once: true }));
      }
    }
  }

  /** Asks at once, for something else is to be shown. */
  now() {
    this.wake();
  }

  async #ask(path, patience) {
    const signal = AbortSignal.timeout(patience);
    try {
      return await this.api.request("GET", path, { signal });
    } catch (error) {
      throw signal.aborted ? new ApiError(0, "The server does not answer.") : error;
    }
  }

  async #body(path, read, patience = PATIENCE_MS) {
    const response = await this.#ask(path, patience);
    try {
      return await read(response);
    } catch {
      throw new ApiError(0, "The connection was cut.");
    }
  }

  async #refresh(worked) {
    this.list = await this.#body("../api/runs", (response) => response.json());
    worked();
    this.heard = Date.now();
    this.waiting.clear();
    const names = new Set(this.list.runs.map((run) => run.name));
    for (const name of this.runs.keys()) if (!names.has(name)) this.runs.delete(name);
    for (const info of this.list.runs) {
      const run = this.runs.get(info.name) ?? new RunData(info.name);
      run.info = info;
      this.runs.set(info.name, run);
    }
    this.page.changed();
    // What is wanted may change while some of it is on its way.
    for (let again = true; again;) {
      again = false;
      const { names: shown, stage } = this.page.wanted();
      for (const name of shown) {
        const run = this.runs.get(name);
        if (!run || !this.lacks(run, stage)) continue;
        await this.#read(run, stage).catch((error) => {
          if (!(error instanceof ApiError) || error.passing) throw error;
          // The others can be read all the same. One that is gone is missing in the next list.
          run.refused = error;
          this.waiting.add(run);
        });
        this.page.changed();
        again = true;
        break;
      }
    }
    const failed = [...this.waiting].find(({ refused }) => refused.status !== 404);
    this.page.failed(failed ? new Error(`${failed.name}: ${failed.refused.message}`) : null);
  }

  /** Whether there is more of a run to be read. @param {RunData} run @param {string|null} stage */
  lacks(run, stage) {
    return !this.waiting.has(run) && run.upTo !== this.#state(run, stage);
  }

  #state(run, stage) {
    return `${run.info.bytes} ${run.info.running} ${stage ?? ""}`;
  }

  async #read(run, stage) {
    const upTo = this.#state(run, stage);
    const path = `../api/runs/${encodeURIComponent(run.name)}`;
    for (;;) {
      const held = stage ? run.stages.get(stage) : null;
      const query = new URLSearchParams({ ...(stage ? { stage } : {}), ...(run.epoch === null ? {} : { epoch: String(run.epoch), from: String(held?.rows ?? 0) }) });
      const part = decode(await this.#body(`${path}/columns?${query}`, (response) => response.arrayBuffer(), LONG_PATIENCE_MS));
      const { head } = part;
      if (run.epoch !== head.epoch) run.reset(head.epoch);
      run.known = head.stages;
      run.damaged = head.damaged;
      run.firstDamaged = head.first_damaged;
      run.eventsTotal = head.events;
      if (head.stage === null) break;
      const data = run.stages.get(head.stage) ?? new StageData(head.stage);
      // Of a stage that was named only now, what is known already came again.
      if (data.rows === head.from) data.append(head, part);
      run.stages.set(head.stage, data);
      if (data.rows >= head.total) break;
      stage = head.stage;
    }
    // The curves need not wait for what is beside them.
    this.page.changed();
    while (run.eventsSeen < run.eventsTotal) {
      const query = new URLSearchParams({ epoch: String(run.epoch), from: String(run.eventsSeen) });
      const found = await this.#body(`${path}/events?${query}`, (response) => response.json());
      if (found.epoch !== run.epoch) return;
      run.events.push(...found.events);
      run.eventsSeen = found.from + found.events.length;
      run.begun += found.events.filter(({ event }) => event === "began" || event === "resumed").length;
      if (found.events.length === 0) break;
    }
    const recipeOf = `${run.info.running} ${run.begun}`;
    if (run.recipeOf !== recipeOf) {
      run.recipe = await this.#body(`${path}/recipe`, (response) => response.json());
      run.recipeOf = recipeOf;
    }
    run.refused = null;
    run.upTo = upTo;
  }
}
