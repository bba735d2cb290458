// Sends messages and asks for answers: through busy servers and lost connections, never twice, and until it is given up.

import { ApiError } from "./api.js";

/**
 * @typedef {import("./session.js").Session} Session
 * @typedef {<T>(operation: (worked: () => void, attempt: number) => Promise<T>, again: string) => Promise<T>} Patiently
 * @typedef {{flush: (session: Session) => Promise<void>, made: (session: Session) => void, unmade: (session: Session) => void,
 *   patiently: (operation: any, signal: AbortSignal, again: string, cancel: () => void) => Promise<any>,
 *   changed: () => void, late: (session: Session) => void, failed: (error: Error) => void}} Does  `flush` saves the session's
 *   settings; `made` and `unmade`: it became a conversation, or is none after all; `late`: what was given up had arrived
 */

export class Sending {
  /**
   * @param {import("./types.js").Store} store @param {import("./answers.js").Answers} answers @param {Does} does
   */
  constructor(store, answers, does) {
    this.store = store;
    this.answers = answers;
    this.does = does;
    /** What is being sent now: one request a conversation. @type {Map<Session, AbortController>} */
    this.controllers = new Map();
  }

  /** @param {Session} session */
  has(session) {
    return this.controllers.has(session);
  }

  /** To whom something is being sent. @param {string|null} id  a conversation's, or null for the one that is being made */
  session(id) {
    return [...this.controllers.keys()].find((session) => session.id === id);
  }

  /** Gives up what is being sent. Whether something was. @param {Session|undefined} session */
  stop(session) {
    const controller = this.controllers.get(session);
    controller?.abort(new Error("stopped"));
    return controller !== undefined;
  }

  /**
   * Whether the message is with the server.
   * @param {Session} session @param {string|null} parentId @param {string} content
   * @param {() => void} [arrived]  called when it is, even when it was given up before
   */
  post(session, parentId, content, arrived) {
    return this.#begin(session, async (patiently, signal) => {
      await patiently(() => this.does.flush(session), "Sending again");
      if (session.id === null) await this.#create(session, patiently, signal);
      const known = new Set(session.tree.messages.keys());
      const { user, assistant } = await patiently(async (_, attempt) => {
        const accepted = attempt > 0 && (await this.#accepted(session, known, (m) => m.role === "user" && m.parent_id === parentId && m.content === content));
        return accepted || this.store.send(session.id, { parent_id: parentId, content });
      }, "Sending again");
      return [user, assistant];
    }, arrived);
  }

  /** Answers once more, as a branch. @param {Session} session @param {import("./types.js").Message} message */
  regenerate(session, message) {
    return this.#begin(session, async (patiently) => {
      await patiently(() => this.does.flush(session), "Asking again");
      const known = new Set(session.tree.messages.keys());
      const { assistant } = await patiently(async (_, attempt) => {
        const accepted = attempt > 0 && (await this.#accepted(session, known, (m) => m.role === "assistant" && m.parent_id === message.parent_id));
        return accepted || this.store.regenerate(message.id);
      }, "Asking again");
      return [assistant];
    });
  }

  /** A request whose answer was lost may have arrived: then it is not made twice. */
  async #accepted(session, known, wanted) {
    const { messages } = await this.store.get(session.id);
    const found = messages.find((message) => !known.has(message.id) && wanted(message));
    if (!found) return null;
    return found.role === "user" ? { user: found, assistant: messages.find((message) => message.parent_id === found.id) } : { assistant: found };
  }

  async #create(session, patiently, signal) {
    const conversation = await patiently(() => {
      const { system_prompt, settings } = session.conversation;
      return this.store.create({ system_prompt, settings });
    }, "Sending again");
    if (signal.aborted) return this.store.remove(conversation.id);
    session.saved(conversation);
    this.does.made(session);
  }

  /**
   * Runs a request that begins an answer, and follows the answer.
   * @param {Session} session @param {(patiently: Patiently, signal: AbortSignal) => Promise<import("./types.js").Message[]>} request
   * @returns {Promise<boolean>} whether it began
   */
  async #begin(session, request, arrived = () => {}) {
    if (this.has(session) || session.path.some((message) => this.answers.get(message.id))) {
      this.does.failed(new ApiError(409, "An answer is being written. Stop it first, or wait for its end."));
      return false;
    }
    const controller = new AbortController();
    const { signal } = controller;
    const isNew = session.id === null;
    this.controllers.set(session, controller);
    this.does.changed();
    const asked = request((operation, again) => this.does.patiently(operation, signal, again, () => this.stop(session)), signal);
    try {
      // A request that is on its way cannot be called back, but nobody has to wait for it.
      const messages = await Promise.race([asked, new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)))]);
      session.add(...messages);
      this.answers.follow(messages[messages.length - 1]);
      arrived();
      return true;
    } catch (error) {
      if (signal.aborted) this.#stopLate(session, asked, arrived);
      else this.does.failed(error);
      if (isNew && session.id !== null) this.does.unmade(session);
      return false;
    } finally {
      this.controllers.delete(session);
      this.does.changed();
    }
  }

  /** Stops the answer to what was given up on its way and arrived all the same. */
  async #stopLate(session, asked, arrived) {
    try {
      const messages = await asked;
      await this.store.stop(messages[messages.length - 1].id);
      arrived();
      this.does.late(session);
    } catch {
      // It did not arrive.
    }
  }
}
