// Conversations that stay in this browser, for servers that keep none (`--ephemeral`): the same shapes in IndexedDB, and
// answers from the OpenAI-compatible route.

import { ApiError } from "../api.js";
import { firstWords } from "../format.js";
import { inTurn } from "../streams.js";
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
    // What the server's policy comes to where it has no notes to condense into.
    if (config.overflow === "summarise") config.overflow = "drop-oldest";
    this.resumes = false;
    /** Answers that this page streams, or waits for. @type {Map<string, {stopped: AbortController, ended: Promise<any>}>} */
    this.running = new Map();
    /** Names the answers that are stopped, to the page that streams them. */
    this.stops = new BroadcastChannel("casallm.stop");
    this.stops.onmessage = ({ data }) => this.running.get(data)?.stopped.abort();
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
    // Asked for, the browser does not clear them when its disk is full; there is none to ask over plain http.
    navigator.storage?.persist().catch(() => {});
    const now = stamp();
    const conversation = { id: newId(), title: "", system_prompt: "", settings: {}, leaf_id: null, ...fields, created_at: now, updated_at: now };
    await database.put({ conversations: [conversation] });
    return conversation;
  }

  async get(id) {
    return { conversation: await found("conversations", id), messages: await database.messagesOf(id), notes: [] };
  }

  async update(id, changes) {
    const conversation = await found("conversations", id);
    Object.assign(conversation, changes);
    if (!("leaf_id" in changes)) conversation.updated_at = stamp();
    await database.put({ conversations: [conversation] });
    return conversation;
  }

  async remove(id) {
    for (const message of await database.messagesOf(id)) this.running.get(message.id)?.stopped.abort();
    await database.removeConversation(id);
  }

  async send(id, { parent_id, content }) {
    const conversation = await found("conversations", id);
    const user = this.#message(id, parent_id, "user", content, "complete");
    const assistant = this.#message(id, user.id, "assistant", "", "running");
    conversation.title ||= firstWords(content);
    Object.assign(conversation, { leaf_id: assistant.id, updated_at: stamp() });
    await database.put({ conversations: [conversation], messages: [user, assistant] });
    return { user, assistant };
  }

  async regenerate(messageId) {
    const answer = await found("messages", messageId);
    const conversation = await found("conversations", answer.conversation_id);
    const assistant = this.#message(answer.conversation_id, answer.parent_id, "assistant", "", "running");
    Object.assign(conversation, { leaf_id: assistant.id, updated_at: stamp() });
    await database.put({ conversations: [conversation], messages: [assistant] });
    return { assistant };
  }

  #message(conversation_id, parent_id, role, content, status) {
    return { id: newId(), conversation_id, parent_id, role, content, status, created_at: stamp(), usage: null, timing: null, context: null };
  }

  async stop(messageId) {
    const running = this.running.get(messageId);
    running?.stopped.abort();
    this.stops.postMessage(messageId);
    // Who streams it writes down what has come.
    await running?.ended;
    const message = await found("messages", messageId);
    if (message.status === "running") await endStopped(message);
    return message;
  }

  /** Streams an answer from its begin. Only one page does: others show what there is, and the rest when it has ended. */
  async *events(messageId, signal) {
    const { promise: ended, resolve: end } = Promise.withResolvers();
    const stopped = new AbortController();
    this.running.set(messageId, { stopped, ended });
    try {
      if (!(await locked(messageId, ended, { ifAvailable: true }))) {
        yield { type: "snapshot", data: await found("messages", messageId), local: true };
        await locked(messageId, ended, { signal });
      }
      const message = await found("messages", messageId);
      if (message.status === "running") {
        if (message.content === "") yield* this.#answer(message, signal, stopped.signal);
        else await endStopped(message);
      }
      yield { type: "done", data: message };
    } finally {
      this.running.delete(messageId);
      end();
    }
  }

  async *#answer(message, signal, stopped) {
    try {
      yield { type: "snapshot", data: { content: "" }, local: true };
      const conversation = await found("conversations", message.conversation_id);
      const path = new Tree(await database.messagesOf(message.conversation_id)).path(message.parent_id);
      let saved = Date.now();
      const open = (open) => streamCompletion(this.api, this.config, conversation, path, open);
      for await (const event of inTurn(open, AbortSignal.any([signal, stopped]), false)) {
        if (event.type === "delta") message.content += event.data.text;
        if (event.type === "end") {
          Object.assign(message, event.data);
          continue;
        }
        yield event;
        if (Date.now() - saved > SAVE_EVERY_MS) {
          await database.rewrite(message);
          saved = Date.now();
        }
      }
    } catch (error) {
      if (stopped.aborted) message.status = "stopped";
      else if (signal.aborted || (error instanceof ApiError && error.passing && message.content === "")) throw error;
      else Object.assign(message, { status: "failed", error: { message: error.message } });
    } finally {
      await database.rewrite(message);
    }
  }

  async exported(id, format) {
    if (format === "markdown") return new Blob([markdownOf(await this.get(id))], { type: "text/markdown" });
    const ids = id === null ? (await database.all("conversations")).map((conversation) => conversation.id) : [id];
    return json({ format: "casallm-conversations", version: 1, exported_at: Date.now(), conversations: await Promise.all(ids.map((one) => this.get(one))) });
  }

  async imported(text) {
    const ids = [];
    for (const stored of conversationsOf(text)) {
      const { conversation, messages } = withNewIds(stored, newId, stamp);
      await database.put({ conversations: [conversation], messages });
      ids.push(conversation.id);
    }
    return { imported: ids.length, ids };
  }
}

async function found(kind, id) {
  const record = await database.find(kind, id);
  if (!record) throw new ApiError(404, "This conversation is not in this browser.");
  return record;
}

/** An answer that nobody streams any more ends where it was. */
function endStopped(message) {
  message.status = "stopped";
  return database.rewrite(message);
}

/** Holds an answer's lock until a promise settles. Whether it was free; over plain http there is none, and it is taken to be. */
const locked = (id, until, options) => new Promise((resolve, reject) => {
  if (!navigator.locks) return resolve(true);
  const held = (lock) => {
    resolve(lock !== null);
    return lock && until;
  };
  navigator.locks.request(`casallm.answer.${id}`, options, held).catch(reject);
});

/** The words around what was searched for. */
function around(text, wanted) {
  const at = text.toLowerCase().indexOf(wanted);
  const from = Math.max(0, at - 30);
  return `${from > 0 ? "…" : ""}${text.slice(from, at + wanted.length + 60).replace(/\s+/g, " ")}…`;
}
