// Listens to answers that are being written, whichever conversation is shown, through lost connections and restarts.

import { ApiError } from "./api.js";
import { untilItWorks } from "./retry.js";

/** Each is listened to over a connection of its own, and a browser opens six to a host, over all tabs: some stay free. */
const AT_ONCE = 4;

/**
 * @typedef {import("./types.js").Message} Message
 * @typedef {{message: Message, progress: {read: number, of: number, cached?: number}|null, notice: any,
 *   queued: boolean, wait: import("./retry.js").Wait|null, controller: AbortController|null}} Live  `controller`: null while it is not listened to
 */

export class Answers {
  /**
   * @param {import("./types.js").Store} store
   * @param {(live: Live, change: "text"|"progress"|"notice"|"queue"|"wait"|"done") => void} onChange
   * @param {(message: Message) => boolean} isShown  whether the reader looks at its conversation
   */
  constructor(store, onChange, isShown) {
    this.store = store;
    this.onChange = onChange;
    this.isShown = isShown;
    /** @type {Map<string, Live>} */
    this.live = new Map();
  }

  /** @param {string} id */
  get(id) {
    return this.live.get(id);
  }

  /** Whether a conversation is being answered. */
  inConversation(id) {
    return [...this.live.values()].some((live) => live.message.conversation_id === id);
  }

  /** Begins to listen, if it does not already. @param {Message} message */
  follow(message) {
    const known = this.live.get(message.id);
    if (known) return known;
    const live = { message, progress: null, notice: null, queued: false, wait: null, controller: null };
    this.live.set(message.id, live);
    this.attend();
    return live;
  }

  /** Listens to as many as may be, what is shown first; the others pause on the server until there is room. */
  attend() {
    const listened = this.store.resumes ? 1 : 4;
    const rank = (live) => (live.controller ? listened : 0) + (this.isShown(live.message) ? 2 : 0);
    const ranked = [...this.live.values()].sort((a, b) => rank(b) - rank(a));
    for (const live of ranked.slice(AT_ONCE)) {
      live.controller?.abort();
      Object.assign(live, { controller: null, queued: false });
    }
    for (const live of ranked.slice(0, AT_ONCE)) if (!live.controller) this.#listen(live);
  }

  async #listen(live) {
    const { message } = live;
    const controller = (live.controller = new AbortController());
    try {
      await untilItWorks(
        async (worked) => {
          for await (const event of this.store.events(message.id, controller.signal)) {
            if (!event.local) worked();
            if (controller.signal.aborted || this.#apply(live, event)) return;
          }
          throw new ApiError(0, "The connection was cut.");
        },
        {
          signal: controller.signal,
          onWait: (wait) => {
            if (live.wait === wait) return;
            live.wait = wait;
            this.onChange(live, "wait");
          },
        },
      );
    } catch (error) {
      if (controller.signal.aborted) return;
      this.#end(live, { status: "failed", error: { message: error.message } });
    }
  }

  /** Whether the answer is over. */
  #apply(live, { type, data }) {
    const { message } = live;
    if (type === "snapshot") {
      message.content = data.content;
      this.onChange(live, "text");
    } else if (type === "delta") {
      live.progress = null;
      message.content += data.text;
      this.onChange(live, "text");
    } else if (type === "progress") {
      live.progress = data;
      this.onChange(live, "progress");
    } else if (type === "notice") {
      live.notice = data;
      this.onChange(live, "notice");
    } else if (type === "queue") {
      live.queued = data;
      this.onChange(live, "queue");
    } else if (type === "done") {
      this.#end(live, data);
      return true;
    } else if (type === "error") {
      this.#end(live, { status: "failed", error: data.error ?? data });
      return true;
    }
    return false;
  }

  /** @param {Partial<Message>} last */
  #end(live, last) {
    Object.assign(live.message, last);
    Object.assign(live, { progress: null, wait: null });
    this.live.delete(live.message.id);
    this.attend();
    this.onChange(live, "done");
  }

  /** Ends an answer where it is. @param {string} id */
  async stop(id) {
    const live = this.live.get(id);
    if (!live) return;
    const last = await this.store.stop(id);
    if (!this.live.has(id)) return;
    live.controller?.abort();
    this.#end(live, last);
  }

  /** Stops listening without a word, for a conversation that is deleted. */
  forget(conversationId) {
    for (const [id, live] of this.live) {
      if (live.message.conversation_id !== conversationId) continue;
      this.live.delete(id);
      live.controller?.abort();
    }
    this.attend();
  }
}
