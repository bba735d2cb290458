// Tries again what failed for a passing reason, and says so while it waits.

import { ApiError } from "./api.js";

/** Waits; ends early when called to, when the browser is online again, or with the signal (which throws). */
function pause(seconds, signal, onWait, error) {
  return new Promise((resolve, reject) => {
    const finish = (settle) => {
      clearTimeout(timer);
      removeEventListener("online", now);
      signal?.removeEventListener("abort", aborted);
      settle();
    };
    const now = () => finish(resolve);
    const aborted = () => finish(() => reject(signal.reason));
    const timer = setTimeout(now, seconds * 1000);
    addEventListener("online", now);
    signal?.addEventListener("abort", aborted);
    onWait({ error, until: Date.now() + seconds * 1000, now });
  });
}

/**
 * Runs an operation until it succeeds or fails for good. Waits what the server asks, or 1, 2, 4, ... up to 15 seconds.
 * The operation is given `worked`, which it calls when the server answered, so that waits begin small again.
 * @template T
 * @param {(worked: () => void, attempt: number) => Promise<T>} operation
 * @param {{signal?: AbortSignal, onWait: (wait: import("./types.js").Wait|null) => void}} options  `onWait(null)`: no longer waiting
 * @returns {Promise<T>}
 */
export async function untilItWorks(operation, { signal, onWait }) {
  let failures = 0;
  for (let attempt = 0; ; attempt += 1) {
    signal?.throwIfAborted();
    try {
      return await operation(() => {
        failures = 0;
        onWait(null);
      }, attempt);
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passing) throw error;
      signal?.throwIfAborted();
      await pause(error.retryAfter ?? Math.min(15, 2 ** failures), signal, onWait, error);
      failures += 1;
    } finally {
      onWait(null);
    }
  }
}
