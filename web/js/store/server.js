// Conversations that the server keeps.

import { ApiError } from "../api.js";
import { readEvents } from "../sse.js";
import { inTurn } from "../streams.js";

/** @typedef {import("../types.js").Store} Store */

/** @implements {Store} */
export class ServerStore {
  /** @param {import("../api.js").Api} api */
  constructor(api) {
    this.api = api;
    this.resumes = true;
  }

  list({ q = "", cursor = "" }) {
    const query = new URLSearchParams({ limit: "50" });
    if (q) query.set("q", q);
    if (cursor) query.set("cursor", cursor);
    return this.api.json("GET", `api/conversations?${query}`);
  }

  create(fields) {
    return this.api.json("POST", "api/conversations", { body: fields });
  }

  get(id) {
    return this.api.json("GET", `api/conversations/${encodeURIComponent(id)}`);
  }

  update(id, changes, { keepalive = false } = {}) {
    return this.api.json("PATCH", `api/conversations/${encodeURIComponent(id)}`, { body: changes, keepalive });
  }

  async remove(id) {
    await this.api.json("DELETE", `api/conversations/${encodeURIComponent(id)}`);
  }

  send(id, message) {
    return this.api.json("POST", `api/conversations/${encodeURIComponent(id)}/messages`, { body: message });
  }

  regenerate(messageId) {
    return this.api.json("POST", `api/messages/${encodeURIComponent(messageId)}/regenerate`, { body: {} });
  }

  stop(messageId) {
    return this.api.json("POST", `api/messages/${encodeURIComponent(messageId)}/stop`, { body: {} });
  }

  events(messageId, signal) {
    return inTurn((open) => this.#events(messageId, open), signal, true);
  }

  async *#events(messageId, signal) {
    const response = await this.api.request("GET", `api/messages/${encodeURIComponent(messageId)}/events`, { signal });
    try {
      for await (const { type, data } of readEvents(response.body)) yield { type, data: JSON.parse(data) };
    } catch (error) {
      if (signal.aborted) throw error;
      throw new ApiError(0, "The connection was cut.");
    }
  }

  async exported(id, format) {
    const path = id === null ? "api/export" : `api/conversations/${encodeURIComponent(id)}/export?format=${format}`;
    return (await this.api.request("GET", path)).blob();
  }

  imported(text) {
    return this.api.json("POST", "api/import", { body: text });
  }
}
