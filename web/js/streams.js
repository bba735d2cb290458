// Which tab may listen: a browser opens six connections to a server over all its tabs, and the seventh request just waits.

const PLACES = ["1", "2", "3", "4"].map((n) => `casallm.stream.${n}`);
/** How often a tab that is looked at asks the others to let go. */
const ASK_MS = 1000;
/** A wait is told when it lasts: what this tab itself lets go is free in a moment. */
const MOMENT_MS = 300;

/** Plain http to another machine has no locks: there each tab knows of itself only. */
const { locks } = navigator;
const wanted = locks && new BroadcastChannel("casallm.stream");
const hidden = () => document.visibilityState === "hidden";
/** Streams that can go on later, and who waits for a place. @type {Set<AbortController>[]} */
const [open, queued] = [new Set(), new Set()];
if (wanted) wanted.onmessage = () => {
  if (!hidden()) return;
  for (const waiting of queued) waiting.abort();
  [...open][0]?.abort();
};

/** Takes a place; what it resolves to gives it back. Null: it is not free, and `options` do not say to wait. */
const take = (place, options) => new Promise((resolve, reject) => {
  locks.request(place, options, (lock) => lock ? new Promise((free) => resolve(free)) : resolve(null)).catch(reject);
});

async function takeFree() {
  for (const place of PLACES) {
    const free = await take(place, { ifAvailable: true });
    if (free) return free;
  }
  return null;
}

/** Waits for whichever is free first; a tab that nobody looks at goes to the end of the queue when one that is asks. */
async function takeAny(signal) {
  const ask = () => hidden() || wanted?.postMessage("");
  const asking = setInterval(ask, ASK_MS);
  ask();
  try {
    for (;;) {
      const place = new AbortController();
      queued.add(place);
      let first = null;
      await Promise.allSettled(PLACES.map(async (name) => {
        const free = await take(name, { signal: AbortSignal.any([signal, place.signal]) });
        first ? free() : (first = free);
        place.abort();
      }));
      queued.delete(place);
      if (first) return first;
      signal.throwIfAborted();
    }
  } finally {
    clearInterval(asking);
  }
}

/**
 * Yields what `stream` does, as soon as there is a place for its connection, and says `queue` while there is none.
 * @param {(signal: AbortSignal) => AsyncGenerator} stream @param {AbortSignal} signal
 * @param {boolean} resumes  whether it may be cut and begun again
 */
export async function* inTurn(stream, signal, resumes) {
  if (!locks) return yield* stream(signal);
  for (;;) {
    let free = await takeFree();
    free ??= await takeAny(AbortSignal.any([signal, AbortSignal.timeout(MOMENT_MS)])).catch(() => signal.throwIfAborted());
    const waits = !free;
    if (waits) {
      yield { type: "queue", data: true, local: true };
      free = await takeAny(signal);
    }
    const pause = new AbortController();
    if (resumes) open.add(pause);
    try {
      if (waits) yield { type: "queue", data: false, local: true };
      return yield* stream(AbortSignal.any([signal, pause.signal]));
    } catch (error) {
      if (signal.aborted || !pause.signal.aborted) throw error;
    } finally {
      open.delete(pause);
      free();
    }
  }
}
