// Sends messages and asks for answers: through busy servers and lost connections, never twice, and until it is given up.

import { ApiError } from "./api.js";

/** @typedef {import("./session.js").Session} Session */

export class Sending {
  /** @param {import("./app.js").App} app */
  constructor(app) {
    this.app = app;
    /** What is being sent now: one request a conversation. @type {Map<Session, AbortController>} */
    this.controllers = new Map();
  }

  has(session) {
    return this.controllers.has(session);
  }

  /** To whom something is being sent. @param {string|null} id  a conversation's, or null for the one that is being made */
  session(id) {
    return [...this.controllers.keys()].find((session) => session.id === id);
  }

  /** Gives up what is being sent. Whether something was. */
  stop(session) {
    const controller = this.controllers.get(session);
    controller?.abort(new Error("stopped"));
    return controller !== undefined;
  }

  /** Whether the message is with the server. `arrived` is called when it is, even if it was given up before. */
  post(session, parentId, text, arrived) {
    // As it comes back.
    const content = text.toWellFormed();
    return this.#begin(session, async (patiently, signal) => {
      if (session.id === null) await this.#create(session, patiently, signal);
      return this.#once(session, patiently, () => this.app.store.send(session.id, { parent_id: parentId, content }),
        (message) => message.role === "user" && message.parent_id === parentId && message.content === content);
    }, arrived);
  }

  /** Answers once more, as a branch. */
  regenerate(session, { id, parent_id }) {
    return this.#begin(session, (patiently) => this.#once(session, patiently, () => this.app.store.regenerate(id),
      (message) => message.role === "assistant" && message.parent_id === parent_id));
  }

  /** The messages that a request makes. One whose answer was lost may have arrived: then it is not made twice. */
  #once(session, patiently, request, made) {
    const known = new Set(session.tree.messages.keys());
    return patiently(async (_, attempt) => {
      if (attempt > 0) {
        const { messages } = await this.app.store.get(session.id);
        const found = messages.find((message) => !known.has(message.id) && made(message));
        if (found) return found.role === "user" ? [found, messages.find((message) => message.parent_id === found.id)] : [found];
      }
      const { user, assistant } = await request();
      return user ? [user, assistant] : [assistant];
    });
  }

  async #create(session, patiently, signal) {
    const conversation = await patiently(() => {
      const { system_prompt, settings } = session.conversation;
      return this.app.store.create({ system_prompt, settings });
    });
    if (signal.aborted) return this.app.discard(conversation.id);
    session.saved(conversation);
    this.app.made(session);
  }

  /** Runs a request that begins an answer, and follows the answer. @returns {Promise<boolean>} whether it began */
  async #begin(session, request, arrived = () => {}) {
    const { app } = this;
    if (this.has(session) || session.path.some((message) => app.answers.get(message.id))) {
      app.failed(new ApiError(409, "An answer is being written. Stop it first, or wait for its end."));
      return false;
    }
    // Tried again, or something else: what was wrong before is no longer.
    app.banner.clear("error");
    const controller = new AbortController();
    const { signal } = controller;
    const isNew = session.id === null;
    const patiently = (operation) => app.patiently(operation, signal, "Sending again", () => this.stop(session));
    this.controllers.set(session, controller);
    app.sendingChanged();
    const asked = patiently(() => app.settings.flush(session)).then(() => request(patiently, signal));
    try {
      // What is on its way cannot be called back, but nobody has to wait for it.
      const messages = await Promise.race([asked, new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))]);
      session.add(...messages);
      app.answers.follow(messages.at(-1));
      arrived();
      return true;
    } catch (error) {
      if (signal.aborted) this.#stopLate(session, asked, arrived);
      else app.failed(error);
      if (isNew && session.id !== null && session.leafId === null) app.unmade(session);
      return false;
    } finally {
      this.controllers.delete(session);
      app.sendingChanged();
    }
  }

  /** What was given up may arrive all the same: it is stopped. */
  async #stopLate(session, asked, arrived) {
    try {
      await this.app.store.stop((await asked).at(-1).id);
      arrived();
      if (session.id === this.app.session.id) this.app.reread();
    } catch {
      // It did not.
    }
  }
}
