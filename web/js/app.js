// What can be done on the page, and what is shown when it is done. Knows the views and the store; neither knows the other.

import { announce } from "./announcer.js";
import { Answers } from "./answers.js";
import { ApiError } from "./api.js";
import { byId, h } from "./dom.js";
import { saveFile } from "./files.js";
import { fileName, firstWords, plural, size } from "./format.js";
import { untilItWorks } from "./retry.js";
import { Session } from "./session.js";
import { Composer } from "./view/composer.js";
import { Details } from "./view/details.js";
import { confirmed } from "./view/dialogs.js";
import { FollowEnd } from "./view/follow-end.js";
import { Gauge } from "./view/gauge.js";
import { SettingsPanel } from "./view/settings.js";
import { Shell } from "./view/shell.js";
import { Sidebar } from "./view/sidebar.js";
import { Transcript } from "./view/transcript.js";

/** A title that the server still makes is looked for after so many milliseconds. */
const TITLE_AFTER_MS = [0, 1000, 3000, 8000, 20_000];

export class App {
  /**
   * @param {import("./types.js").Config} config @param {import("./types.js").Store} store
   * @param {import("./view/banner.js").Banner} banner
   */
  constructor(config, store, banner) {
    this.config = config;
    this.store = store;
    this.banner = banner;
    this.session = Session.unsaved();
    /** What is being sent now. @type {{session: Session, controller: AbortController}|null} */
    this.sending = null;
    this.opening = new AbortController();
    this.answers = new Answers(store, (live, change) => this.#answerChanged(live, change),
      (message) => message.conversation_id === this.session.id);
    this.details = new Details();
    this.shell = new Shell(() => this.details.show(this.session.path, this.shell.panel === "details"));
    this.gauge = new Gauge(byId("gauge"), config);
    this.composer = new Composer(byId("composer"), {
      send: (text) => this.send(text), stop: () => this.stop(), editLast: () => this.editLast(), limit: config.limits.message_bytes,
    });
    this.transcript = new Transcript(byId("messages"), new FollowEnd(byId("transcript"), byId("to-end")), {
      regenerate: (message) => this.regenerate(message),
      edit: (message, text) => this.edit(message, text),
      branch: (message) => this.showBranch(message),
    });
    this.settings = new SettingsPanel(config, (changes) => this.#saveSettings(changes));
    this.sidebar = new Sidebar(byId("sidebar"), {
      list: (query) => store.list(query),
      open: () => this.shell.showChat(),
      rename: (id, title) => this.rename(id, title),
      remove: (conversation) => this.remove(conversation),
      save: (conversation, format) => this.save(conversation, format),
      failed: (error) => this.#listFailed(error),
      listed: (conversations) => this.#listed(conversations),
    });
  }

  /** Shows what the address names. */
  route() {
    const id = /^#\/c\/(.+)$/.exec(location.hash)?.[1];
    if (id) return this.open(decodeURIComponent(id));
    this.#enter(Session.unsaved());
    this.composer.focus();
  }

  /** @param {string} id */
  async open(id) {
    if (id === this.session.id && !this.opening.signal.aborted) return;
    this.opening.abort();
    const opening = (this.opening = new AbortController());
    try {
      const stored = await this.#patiently(() => this.store.get(id), opening.signal, "Trying again");
      if (!opening.signal.aborted) this.#enter(new Session(stored));
    } catch (error) {
      if (opening.signal.aborted) return;
      this.#enter(Session.unsaved());
      if (error.status !== 404) return this.#failed(error);
      this.transcript.showEmpty("This conversation is not here", h("p", {}, "It may have been deleted, or belongs to another server."));
    }
  }

  newChat() {
    this.shell.showChat();
    if (location.hash.startsWith("#/c/")) location.hash = "#/";
    else this.route();
  }

  /** @param {Session} session */
  #enter(session) {
    this.settings.flush();
    this.opening = new AbortController();
    this.session = session;
    for (const message of session.tree.messages.values()) {
      const live = this.answers.get(message.id);
      if (live) session.tree.put(live.message);
      else if (message.status === "running" || message.status === "paused") this.answers.follow(message);
    }
    this.answers.attend();
    this.settings.show(session.conversation);
    this.composer.open(session.draftId);
    this.transcript.followEnd.following = true;
    this.render();
    this.transcript.followEnd.jump();
  }

  /** Shows the session as it is now. */
  render() {
    const { session } = this;
    const { path } = session;
    if (path.length === 0) this.#renderEmpty();
    else this.transcript.show(session.tree, path, session.notes, (id) => this.answers.get(id));
    this.gauge.show(session.context);
    this.details.show(path, this.shell.panel === "details");
    const answering = path.some((message) => this.answers.get(message.id));
    this.composer.setState(answering ? "answering" : this.sending?.session === session ? "sending" : "idle");
    this.#showTitle();
    this.#markList();
  }

  #markList() {
    const busy = new Set([...this.answers.live.values()].map((live) => live.message.conversation_id));
    this.sidebar.mark(this.session.id, busy);
  }

  #showTitle() {
    const { conversation, path } = this.session;
    const title = conversation.title || (path.length ? firstWords(path[0].content) : "New chat");
    byId("title").textContent = title;
    document.title = `${title} · ${this.config.name}`;
  }

  #renderEmpty() {
    const { model, storage } = this.config;
    this.transcript.showEmpty("What shall we talk about?",
      h("p", {}, `${model.id}, ${size(model.parameters)} parameters, on ${model.device}.`),
      h("p", {}, storage === "browser" ? "Conversations stay in this browser." : "Conversations are kept on this server."));
  }

  // Sending

  /** Sends what the composer holds, at the end of the branch that is shown. */
  async send(text) {
    const { session } = this;
    if (!(await this.#post(session, session.leafId, text))) return;
    this.composer.sent(session.draftId, text);
    if (session !== this.session) return;
    this.transcript.followEnd.jump();
    this.composer.focus();
  }

  /** Sends a message in the place of another; both stay. */
  async edit(message, text) {
    const sent = await this.#post(this.session, message.parent_id, text);
    if (sent) this.composer.focus();
    return sent;
  }

  editLast() {
    const last = this.session.path.findLast((message) => message.role === "user");
    if (last && this.composer.state === "idle") this.transcript.view(last.id)?.edit();
  }

  /** Whether the message is with the server. */
  async #post(session, parentId, content) {
    return this.#begin(session, async (signal) => {
      await this.settings.flush();
      if (session.id === null) await this.#create(session, signal);
      const known = new Set(session.tree.messages.keys());
      const { user, assistant } = await this.#patiently(async (_, attempt) => {
        const accepted = attempt > 0 && (await this.#accepted(session, known, (m) => m.role === "user" && m.parent_id === parentId && m.content === content));
        return accepted || this.store.send(session.id, { parent_id: parentId, content });
      }, signal, "Sending again", () => this.stop());
      return [user, assistant];
    });
  }

  /** Answers once more, as a branch. */
  async regenerate(message) {
    const { session } = this;
    await this.#begin(session, async (signal) => {
      await this.settings.flush();
      const known = new Set(session.tree.messages.keys());
      const { assistant } = await this.#patiently(async (_, attempt) => {
        const accepted = attempt > 0 && (await this.#accepted(session, known, (m) => m.role === "assistant" && m.parent_id === message.parent_id));
        return accepted || this.store.regenerate(message.id);
      }, signal, "Asking again", () => this.stop());
      return [assistant];
    });
    this.composer.focus();
  }

  /** A request whose answer was lost may have arrived: then it is not made twice. */
  async #accepted(session, known, wanted) {
    const { messages } = await this.store.get(session.id);
    const found = messages.find((message) => !known.has(message.id) && wanted(message));
    if (!found) return null;
    return found.role === "user" ? { user: found, assistant: messages.find((message) => message.parent_id === found.id) } : { assistant: found };
  }

  async #create(session, signal) {
    const { system_prompt, settings } = session.conversation;
    const conversation = await this.#patiently(() => this.store.create({ system_prompt, settings }), signal, "Sending again", () => this.stop());
    session.saved(conversation);
    if (session !== this.session) return;
    this.composer.rename(conversation.id);
    history.replaceState(null, "", `#/c/${encodeURIComponent(conversation.id)}`);
  }

  /** Runs a request that begins an answer, and follows the answer. @returns {Promise<boolean>} whether it began */
  async #begin(session, request) {
    if (this.sending || session.path.some((message) => this.answers.get(message.id))) {
      this.banner.showError("An answer is being written. Stop it first, or wait for its end.");
      return false;
    }
    const controller = new AbortController();
    this.sending = { session, controller };
    this.render();
    try {
      const messages = await request(controller.signal);
      session.add(...messages);
      this.answers.follow(messages[messages.length - 1]);
      return true;
    } catch (error) {
      if (!controller.signal.aborted) this.#failed(error);
      return false;
    } finally {
      this.sending = null;
      this.render();
      this.sidebar.refresh();
    }
  }

  /** Stops what is going on. Whether something was. */
  stop() {
    if (this.sending?.session === this.session) {
      this.sending.controller.abort(new Error("stopped"));
      return true;
    }
    const running = this.session.path.find((message) => this.answers.get(message.id));
    if (!running) return false;
    this.answers.stop(running.id).catch((error) => this.#failed(error));
    return true;
  }

  // Answers

  #answerChanged(live, change) {
    const { message } = live;
    const shown = message.conversation_id === this.session.id;
    if (change === "wait") {
      if (live.wait) this.banner.showWait(live, live.wait, "Reconnecting", null);
      else this.banner.clear(live);
    }
    if (change === "text") {
      if (shown) this.transcript.grow(message.id);
    } else if (shown) {
      if (change === "done") this.#answerDone(message);
      else this.transcript.view(message.id)?.update(message, this.session.tree.siblings(message), live);
    }
    if (change === "done") {
      this.banner.clear(live);
      this.#markList();
      this.#lookForTitle(message.conversation_id);
    }
    if (change === "notice" && shown && live.notice.note_id) this.#readNotes();
  }

  #answerDone(message) {
    this.session.tree.put(message);
    this.render();
    const endings = { stopped: "Stopped.", failed: "The answer failed." };
    if (this.session.path.includes(message)) announce(endings[message.status] ?? `Answer: ${firstWords(message.content, 600)}`);
    const note = message.context?.overflow?.note_id;
    if (note && !this.session.notes.some(({ id }) => id === note)) this.#readNotes();
  }

  async #readNotes() {
    const { session } = this;
    try {
      session.notes = (await this.store.get(session.id)).notes;
      if (session === this.session) this.render();
    } catch {
      // They are read again with the conversation.
    }
  }

  /** Reads the list again, and once more while the server still makes the title. */
  async #lookForTitle(id) {
    for (const wait of TITLE_AFTER_MS) {
      await new Promise((resolve) => setTimeout(resolve, wait));
      await this.sidebar.refresh();
      if (this.sidebar.conversations.find((conversation) => conversation.id === id)?.title !== "") return;
    }
  }

  #listed(conversations) {
    const title = conversations.find(({ id }) => id === this.session.id)?.title;
    if (!title || title === this.session.conversation.title) return;
    this.session.conversation.title = title;
    this.#showTitle();
  }

  // Conversations

  async showBranch(message) {
    const { session } = this;
    session.leafId = session.tree.newestLeaf(message.id);
    this.render();
    this.transcript.view(message.id)?.element.scrollIntoView({ block: "nearest" });
    announce(`Version ${session.tree.siblings(message).indexOf(message) + 1} of ${session.tree.siblings(message).length}`);
    try {
      await this.store.update(session.id, { leaf_id: session.leafId });
    } catch (error) {
      if (!error.passing) this.#failed(error);
    }
  }

  async rename(id, title) {
    const conversation = await this.store.update(id, { title });
    if (id === this.session.id) this.session.conversation = conversation;
    this.render();
    await this.sidebar.refresh();
  }

  async remove({ id, title }) {
    if (!(await confirmed("Delete this conversation?", `“${title || "New chat"}” and its messages will be gone for good.`, "Delete"))) return;
    try {
      this.answers.forget(id);
      await this.store.remove(id);
    } catch (error) {
      if (error.status !== 404) return this.#failed(error);
    }
    announce("Deleted.");
    if (id === this.session.id) this.newChat();
    await this.sidebar.refresh();
  }

  async save({ id, title }, format) {
    try {
      saveFile(await this.store.exported(id, format), `${fileName(title)}.${format === "json" ? "json" : "md"}`);
    } catch (error) {
      this.#failed(error);
    }
  }

  async saveAll() {
    try {
      saveFile(await this.store.exported(null, "json"), "casallm-conversations.json");
    } catch (error) {
      this.#failed(error);
    }
  }

  /** @param {string} text  of an exported file */
  async import(text) {
    try {
      const { imported, ids } = await this.store.imported(text);
      this.banner.showDone(`${plural(imported, "conversation")} imported.`);
      await this.sidebar.refresh();
      if (ids.length) location.hash = `#/c/${encodeURIComponent(ids[0])}`;
    } catch (error) {
      this.banner.showError(error.message);
    }
  }

  async #saveSettings(changes) {
    const { session } = this;
    if (session.id === null) return session.change(changes);
    session.conversation = await this.store.update(session.id, changes);
  }

  // Faults

  /** Tries until it works, with the wait shown. */
  async #patiently(operation, signal, again, cancel = null) {
    const owner = {};
    return untilItWorks(operation, {
      signal,
      onWait: (wait) => (wait ? this.banner.showWait(owner, wait, again, cancel) : this.banner.clear(owner)),
    });
  }

  #failed(error) {
    if (!(error instanceof ApiError)) console.error(error);
    this.banner.showError(error.message);
  }

  /** The list is not worth a message: it is read again. */
  #listFailed(error) {
    if (error.passing) setTimeout(() => this.sidebar.refresh(), 1000 * (error.retryAfter ?? 3));
    else this.#failed(error);
  }
}
