// The one way to the server: adds the key, turns refusals into ApiError, asks for a key when one is wanted.

const KEY = "casallm.key";

/** A refusal. Status 0: no answer at all (offline, server down, connection cut). */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {{retryAfter?: number|null, code?: string|null}} [more] */
  constructor(status, message, { retryAfter = null, code = null } = {}) {
    super(message);
    this.status = status;
    /** The server's word for it. */
    this.code = code;
    /** Seconds that the server asks to wait. */
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get passing() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

/** JSON that every reader takes: half of an emoji, which fields and clipboards can hold, is no text to most. */
const json = (value) => JSON.stringify(value, (_, part) => (typeof part === "string" ? part.toWellFormed() : part));

/** Retry-After in seconds, from either of its two forms. */
function retryAfter(response) {
  const value = response.headers.get("Retry-After");
  if (!value) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.min(seconds, 3600)) : null;
}

async function refusal(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // Not from this server (a proxy's page): the status says enough.
  }
  const message = typeof error?.message === "string" ? error.message : `The server answered ${response.status}.`;
  return new ApiError(response.status, message, { retryAfter: retryAfter(response), code: error?.code });
}

export class Api {
  /** @param {(rejected: boolean) => Promise<string>} askKey  asks the person; `rejected` when a key was tried in vain */
  constructor(askKey) {
    this.askKey = askKey;
    /** @type {Promise<void>|null} */
    this.asking = null;
  }

  get key() {
    return localStorage.getItem(KEY);
  }

  forgetKey() {
    localStorage.removeItem(KEY);
  }

  /** Sends a request and waits for the head of the answer. */
  async request(method, path, { body = undefined, signal = undefined, keepalive = false } = {}) {
    for (;;) {
      const key = this.key;
      const headers = new Headers();
      // No server has a key of other characters, and no header carries them: the refusal asks for another.
      if (key && /^[\x21-\x7e]+$/.test(key)) headers.set("Authorization", `Bearer ${key}`);
      if (body !== undefined) headers.set("Content-Type", "application/json");
      let response;
      try {
        response = await fetch(path, {
          method, headers, signal, keepalive, credentials: "omit", cache: "no-store",
          body: body === undefined || typeof body === "string" ? body : json(body),
        });
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new ApiError(0, "The server cannot be reached.");
      }
      if (response.ok) return response;
      if (response.status !== 401) throw await refusal(response);
      if (key === this.key) await this.#newKey(key !== null);
      signal?.throwIfAborted();
    }
  }

  /** However many requests are refused at once, one question is asked. */
  #newKey(rejected) {
    this.asking ??= this.askKey(rejected)
      .then((key) => localStorage.setItem(KEY, key))
      .finally(() => (this.asking = null));
    return this.asking;
  }

  async json(method, path, options) {
    const response = await this.request(method, path, options);
    if (response.status === 204) return null;
    try {
      return await response.json();
    } catch (error) {
      if (options?.signal?.aborted) throw error;
      throw new ApiError(0, "The connection was cut.");
    }
  }
}
