// Conversations that stay in this browser, for servers that keep none (`--ephemeral`): the same shapes in IndexedDB, and
// answers from the OpenAI-compatible route.

import { ApiError } from "../api.js";
import { firstWords } from "../format.js";
import { Tree } from "../tree.js";
import * as database from "./database.js";
import { streamCompletion } from "./completion.js";
import { conversationsOf, markdownOf, withNewIds } from "./transfer.js";

/** Half an answer is written to the database this often, for a reload in the middle. */
const SAVE_EVERY_MS = 500;

let latest = 0;
/** Now, and always later than before: messages are ordered by it. */
const stamp = () => (latest = Math.max(Date.now(), latest + 1));
const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const json = (value) => new Blob([JSON.stringify(value, null, 2)], { type: "application/json" });

/** @typedef {import("../types.js").Store} Store */

/** @implements {Store} */
export class BrowserStore {
  /** @param {import("../api.js").Api} api @param {import("../types.js").Config} config */
  constructor(api, config) {
    this.api = api;
    this.config = config;
    /** Answers that this page is streaming. @type {Map<string, AbortController>} */
    this.running = new Map();
  }

  async list({ q = "" }) {
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (text) => words.every((word) => text.toLowerCase().includes(word));
    const conversations = await database.all("conversations");
    const messages = words.length ? await database.all("messages") : [];
    const found = [];
    for (const conversation of conversations) {
      const message = messages.find((m) => m.conversation_id === conversation.id && has(m.content));
      if (!message && !has(conversation.title)) continue;
      const { id, title, created_at, updated_at } = conversation;
      found.push({ id, title, created_at, updated_at, snippet: message ? around(message.content, words[0]) : null });
    }
    return { conversations: found.sort((a, b) => b.updated_at - a.updated_at), next: null };
  }

  async create(fields) {
    const now = stamp();
    const conversation = { id: newId(), title: "", system_prompt: "", settings: {}, leaf_id: null, ...fields, created_at: now, updated_at: now };
    await database.put({ conversations: [conversation] });
    return conversation;
  }

  async get(id) {
    const conversation = await database.find("conversations", id);
    if (!conversation) throw new ApiError(404, "This conversation is not in this browser.");
    const messages = await database.of("messages", id);
    for (const message of messages) await this.#endIfLeft(message);
    return { conversation, messages, notes: await database.of("notes", id) };
  }

  /** An answer whose page was closed cannot go on: it ends where it was. */
  async #endIfLeft(message) {
    if (message.status !== "running" || this.running.has(message.id)) return;
    const end = async (lock) => {
      if (lock === null) return;
      message.status = "stopped";
      await database.put({ messages: [message] });
    };
    // Another tab that still streams it holds its lock.
    if (navigator.locks) await navigator.locks.request(`casallm.answer.${message.id}`, { ifAvailable: true }, end);
    else await end(undefined);
  }

  async update(id, changes) {
    const conversation = await database.find("conversations", id);
    if (!conversation) throw new ApiError(404, "This conversation is not in this browser.");
    Object.assign(conversation, changes);
    if (!("leaf_id" in changes)) conversation.updated_at = stamp();
    await database.put({ conversations: [conversation] });
    return conversation;
  }

  async remove(id) {
    for (const message of await database.of("messages", id)) this.running.get(message.id)?.abort();
    await database.removeConversation(id);
  }

  async send(id, { parent_id, content }) {
    const conversation = await database.find("conversations", id);
    const user = this.#message(id, parent_id, "user", content, "complete");
    const assistant = this.#message(id, user.id, "assistant", "", "running");
    conversation.title ||= firstWords(content);
    Object.assign(conversation, { leaf_id: assistant.id, updated_at: stamp() });
    await database.put({ conversations: [conversation], messages: [user, assistant] });
    return { user, assistant };
  }

  async regenerate(messageId) {
    const answer = await database.find("messages", messageId);
    const conversation = await database.find("conversations", answer.conversation_id);
    const assistant = this.#message(answer.conversation_id, answer.parent_id, "assistant", "", "running");
    Object.assign(conversation, { leaf_id: assistant.id, updated_at: stamp() });
    await database.put({ conversations: [conversation], messages: [assistant] });
    return { assistant };
  }

  #message(conversation_id, parent_id, role, content, status) {
    return { id: newId(), conversation_id, parent_id, role, content, status, created_at: stamp(), usage: null, timing: null, context: null };
  }

  async stop(messageId) {
    this.running.get(messageId)?.abort();
    const message = await database.find("messages", messageId);
    if (message.status === "running") {
      message.status = "stopped";
      await database.put({ messages: [message] });
    }
    return message;
  }

  async *events(messageId, signal) {
    const stopped = new AbortController();
    this.running.set(messageId, stopped);
    let release = () => {};
    navigator.locks?.request(`casallm.answer.${messageId}`, () => new Promise((resolve) => (release = () => resolve(null))));
    const message = await database.find("messages", messageId);
    try {
      Object.assign(message, { content: "", status: "running" });
      yield { type: "snapshot", data: { content: "", status: "running", usage: null } };
      const conversation = await database.find("conversations", message.conversation_id);
      const path = new Tree(await database.of("messages", message.conversation_id)).path(message.parent_id);
      let saved = Date.now();
      const both = AbortSignal.any([signal, stopped.signal]);
      for await (const event of streamCompletion(this.api, this.config, conversation, path, both)) {
        if (event.type === "delta") message.content += event.data.text;
        if (event.type === "end") {
          Object.assign(message, event.data);
          continue;
        }
        yield event;
        if (Date.now() - saved > SAVE_EVERY_MS) {
          await database.put({ messages: [message] });
          saved = Date.now();
        }
      }
    } catch (error) {
      if (stopped.signal.aborted) message.status = "stopped";
      else if (signal.aborted || (error instanceof ApiError && error.passing && message.content === "")) throw error;
      else Object.assign(message, { status: "failed", error: { message: error.message } });
    } finally {
      // Of a conversation that was deleted meanwhile nothing is written back.
      if (await database.find("messages", messageId)) await database.put({ messages: [message] });
      this.running.delete(messageId);
      release();
    }
    yield message.status === "failed" ? { type: "error", data: { error: message.error } } : { type: "done", data: message };
  }

  async exported(id, format) {
    if (format === "markdown") return new Blob([markdownOf(await this.get(id))], { type: "text/markdown" });
    const ids = id === null ? (await database.all("conversations")).map((conversation) => conversation.id) : [id];
    return json({ format: "casallm-conversations", version: 1, exported_at: Date.now(), conversations: await Promise.all(ids.map((one) => this.get(one))) });
  }

  async imported(text) {
    const ids = [];
    for (const stored of conversationsOf(text)) {
      const { conversation, messages, notes } = withNewIds(stored, newId, stamp);
      await database.put({ conversations: [conversation], messages, notes });
      ids.push(conversation.id);
    }
    return { imported: ids.length, ids };
  }
}

/** The words around what was searched for. */
function around(text, wanted) {
  const at = text.toLowerCase().indexOf(wanted);
  const from = Math.max(0, at - 30);
  return `${from > 0 ? "…" : ""}${text.slice(from, at + wanted.length + 60).replace(/\s+/g, " ")}…`;
}
