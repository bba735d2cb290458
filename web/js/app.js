// What can be done on the page, and what is shown when it is done. Knows the views and the store; neither knows the other.

import { announce } from "./announcer.js";
import { Answers } from "./answers.js";
import { ApiError } from "./api.js";
import { byId, h } from "./dom.js";
import { drafts } from "./drafts.js";
import { saveFile } from "./files.js";
import { bytesOf, fileName, firstWords, plural, size } from "./format.js";
import { untilItWorks } from "./retry.js";
import { Sending } from "./sending.js";
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

/** The answers that are being written, for the page after a reload. */
const LIVE = "casallm.live";

/** Browsers send no more than 64 KiB for a page that is left. */
const LAST_WORDS_BYTES = 60_000;

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
    this.opening = new AbortController();
    this.answers = new Answers(store, (live, change) => this.#answerChanged(live, change),
      (message) => message.conversation_id === this.session.id);
    this.sending = new Sending(this);
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
      limit: config.limits.message_bytes,
    });
    this.settings = new SettingsPanel(config, (session, changes) => this.#saveSettings(session, changes));
    this.sidebar = new Sidebar(byId("sidebar"), {
      list: (query) => store.list(query),
      open: (id) => this.#chosen(id),
      rename: (id, title) => this.rename(id, title),
      remove: (conversation) => this.remove(conversation),
      save: (conversation, format) => this.save(conversation, format),
      failed: (error) => this.#listFailed(error),
      listed: (conversations) => this.#listed(conversations),
    });
    drafts.full = () => this.banner.showError("This browser's storage is full: what is written here is lost when the page is left.");
    this.#followLeft();
  }

  /** Shows what the address names. */
  route() {
    this.opening.abort();
    const id = addressed();
    if (id !== null) return this.open(id);
    this.#enter(this.sending.session(null) ?? Session.unsaved());
    this.composer.focus();
  }

  /** @param {string} id */
  async open(id) {
    if (id === this.session.id) return;
    const sending = this.sending.session(id);
    if (sending) return this.#enter(sending);
    const opening = (this.opening = new AbortController());
    try {
      const stored = await this.patiently(() => this.store.get(id), opening.signal, "Trying again");
      if (!opening.signal.aborted) this.#enter(new Session(stored));
    } catch (error) {
      if (opening.signal.aborted) return;
      this.#enter(Session.unsaved());
      if (error.status !== 404) return this.failed(error);
      this.transcript.showEmpty("This conversation is not here", h("p", {}, "It may have been deleted, or belongs to another server."));
    }
  }

  /** A conversation was chosen in the list. One that the address names already is tried again when it could not be opened. */
  #chosen(id) {
    this.shell.showChat();
    if (id === addressed()) this.route();
  }

  newChat() {
    this.shell.showChat();
    if (location.hash.startsWith("#/c/")) location.hash = "#/";
    else this.route();
  }

  /** @param {Session} session */
  #enter(session) {
    // What went wrong there is nothing of this one's.
    if (session.id !== this.session.id) this.banner.clear("error");
    this.settings.flush(this.session).catch((error) => this.failed(error));
    this.session = session;
    const { tree } = session;
    for (const message of tree.messages.values()) {
      const live = this.answers.get(message.id);
      if (live) tree.put(Object.assign(live.message, { ...message, content: live.message.content || message.content }));
      else if (message.status === "running" || message.status === "paused") this.answers.follow(message);
    }
    this.answers.attend();
    this.settings.show(session);
    this.composer.open(session.draftId);
    this.transcript.followEnd.following = true;
    this.render();
    this.transcript.followEnd.jump();
  }

  /** Listens again to what was being answered when the page was left, shown or not. The browser's own answers ended with it. */
  #followLeft() {
    if (this.config.storage === "browser") return;
    try {
      for (const message of JSON.parse(sessionStorage.getItem(LIVE) ?? "[]")) this.answers.follow(message);
    } catch {
      // The browser keeps nothing.
    }
  }

  /** The page was hidden, perhaps for good. */
  hidden() {
    this.settings.flush(this.session).catch(() => {});
  }

  /** The page is looked at again: another tab or device may have changed the list, and the conversation. */
  returned() {
    this.sidebar.refresh();
    this.reread();
  }

  /** Shows what was said in the conversation elsewhere. */
  async reread() {
    const { session } = this;
    const busy = () => session !== this.session || this.sending.has(session) || this.answers.inConversation(session.id);
    if (session.id === null || busy()) return;
    try {
      const stored = await this.store.get(session.id);
      if (busy()) return;
      if (stored.messages.some(({ id, status }) => session.tree.get(id)?.status !== status)) return this.#enter(new Session(stored));
      // The panel saves all of its fields: with old ones in it, one change here would undo what was changed there.
      if (!session.changes && !session.saving && settingsOf(stored) !== settingsOf(session)) {
        session.conversation = stored.conversation;
        this.settings.show(session);
      }
    } catch {
      // It is read again with the next visit.
    }
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
    this.composer.setState(answering ? "answering" : this.sending.has(session) ? "sending" : "idle");
    this.#showTitle();
    this.#markList();
  }

  #markList() {
    this.sidebar.mark(this.session.id, new Set([...this.answers.live.values()].map(({ message }) => message.conversation_id)));
    try {
      sessionStorage.setItem(LIVE, JSON.stringify([...this.answers.live.values()].map(({ message: { id, conversation_id } }) => ({ id, conversation_id, content: "" }))));
    } catch {
      // The browser keeps nothing: after a reload only what is shown is listened to.
    }
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
    const sent = await this.sending.post(session, session.leafId, text, () => this.composer.sent(session.draftId, text));
    if (!sent || session !== this.session) return;
    this.transcript.followEnd.jump();
    this.composer.focus();
  }

  /** Sends a message in the place of another; both stay. */
  async edit(message, text) {
    const sent = await this.sending.post(this.session, message.parent_id, text);
    if (sent) this.composer.focus();
    return sent;
  }

  editLast() {
    const last = this.session.path.findLast((message) => message.role === "user");
    if (last && this.composer.state === "idle") this.transcript.view(last.id)?.edit();
  }

  /** Answers once more, as a branch. */
  async regenerate(message) {
    await this.sending.regenerate(this.session, message);
    this.composer.focus();
  }

  sendingChanged() {
    this.render();
    this.sidebar.refresh();
  }

  made(session) {
    this.#renamed(session, "new");
    // What is in this browser alone is not to be cleared when room is short.
    if (this.config.storage === "browser") navigator.storage?.persist?.().catch(() => {});
  }

  /** The session has another id than before. @param {string} from  the name of its draft until now */
  #renamed(session, from) {
    this.composer.rename(from, session.draftId);
    if (session !== this.session) return;
    this.opening.abort();
    history.replaceState(null, "", session.id === null ? "#/" : addressOf(session.id));
  }

  /** The first message was refused or given up: it is a new chat again. One that was left keeps the message as its draft. */
  unmade(session) {
    if (session !== this.session) return;
    const { id } = session;
    session.change({ id: null });
    this.#renamed(session, id);
    this.discard(id);
  }

  /** Removes a conversation that nobody was to see. The list may have been read while it was there. @returns {Promise<void>} */
  discard(id) {
    return this.store.remove(id).then(() => this.sidebar.refresh(), () => {});
  }

  /** Stops what is going on in the conversation that is shown. Whether something was. */
  stop() {
    if (this.sending.stop(this.session)) return true;
    const running = this.session.path.find((message) => this.answers.get(message.id));
    if (!running) return false;
    this.answers.stop(running.id).catch((error) => this.failed(error));
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
      this.sidebar.refresh();
    }
    if (change === "notice" && shown && live.notice.note_id) this.#readNotes();
  }

  #answerDone(message) {
    this.session.tree.put(message);
    this.render();
    const endings = { stopped: "Stopped.", failed: `The answer failed. ${message.error?.message ?? ""}` };
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

  #listed(conversations) {
    const title = conversations.find(({ id }) => id === this.session.id)?.title;
    if (!title || title === this.session.conversation.title) return;
    this.session.conversation.title = title;
    this.#showTitle();
  }

  // Conversations

  async showBranch(message) {
    const { session } = this;
    const pressed = document.activeElement?.getAttribute("aria-label") ?? "";
    session.leafId = session.tree.newestLeaf(message.id);
    this.render();
    const shown = this.transcript.view(message.id)?.element;
    shown?.scrollIntoView({ block: "nearest" });
    // The button was the other version's; the same one of this version takes its place.
    shown?.querySelector(`.branches [aria-label="${CSS.escape(pressed)}"]`)?.focus({ preventScroll: true });
    announce(`Version ${session.tree.siblings(message).indexOf(message) + 1} of ${session.tree.siblings(message).length}`);
    try {
      await this.store.update(session.id, { leaf_id: session.leafId });
    } catch (error) {
      if (!error.passing) this.failed(error);
    }
  }

  async rename(id, title) {
    try {
      const conversation = await this.store.update(id, { title });
      if (id === this.session.id) this.session.conversation = conversation;
      this.render();
      await this.sidebar.refresh();
    } catch (error) {
      this.failed(error);
    }
  }

  async remove({ id, title }) {
    if (!(await confirmed("Delete this conversation?", `“${title || "New chat"}” and its messages will be gone for good.`, "Delete"))) return;
    try {
      await this.store.remove(id);
    } catch (error) {
      if (error.status !== 404) return this.failed(error);
    }
    this.answers.forget(id);
    this.sending.stop(this.sending.session(id));
    this.#markList();
    announce("Deleted.");
    if (id === this.session.id) {
      this.session.changes = null;
      this.newChat();
    }
    drafts.forget(id);
    await this.sidebar.refresh();
  }

  /** @param {{id: string, title: string}|null} conversation  null: all of them @param {"json"|"markdown"} format */
  async save(conversation, format) {
    const name = conversation ? fileName(conversation.title) : "casallm-conversations";
    try {
      saveFile(await this.store.exported(conversation?.id ?? null, format), `${name}.${format === "json" ? "json" : "md"}`);
    } catch (error) {
      this.failed(error);
    }
  }

  /** @param {string} text  of an exported file */
  async import(text) {
    this.shell.showChat();
    try {
      const { imported, ids } = await this.store.imported(text);
      this.banner.showDone(`${plural(imported, "conversation")} imported.`);
      await this.sidebar.refresh();
      if (ids.length) location.hash = addressOf(ids[0]);
    } catch (error) {
      this.banner.showError(error.message);
    }
  }

  async #saveSettings(session, changes) {
    if (session.id === null) return session.change(changes);
    // A page that is hidden may be gone before the request is sent.
    const keepalive = document.visibilityState === "hidden" && bytesOf(JSON.stringify(changes)) < LAST_WORDS_BYTES;
    session.conversation = await this.store.update(session.id, changes, { keepalive });
  }

  // Faults

  /** Tries until it works, with the wait shown. */
  async patiently(operation, signal, again, cancel = null) {
    const owner = {};
    return untilItWorks(operation, {
      signal,
      onWait: (wait) => (wait ? this.banner.showWait(owner, wait, again, cancel) : this.banner.clear(owner)),
    });
  }

  failed(error) {
    if (!(error instanceof ApiError)) console.error(error);
    this.shell.showChat();
    this.banner.showError(error.message);
  }

  /** The list is not worth a message: it is read again. */
  #listFailed(error) {
    clearTimeout(this.listTimer);
    if (error.passing) this.listTimer = setTimeout(() => this.sidebar.refresh(), 1000 * (error.retryAfter ?? 3));
    else this.failed(error);
  }
}

/** The conversation that the address names, or null. */
function addressed() {
  const id = /^#\/c\/(.+)$/.exec(location.hash)?.[1] ?? null;
  try {
    return id && decodeURIComponent(id);
  } catch {
    return id;
  }
}

const settingsOf = ({ conversation: { system_prompt, settings } }) => JSON.stringify([system_prompt, settings]);

/** @param {string} id */
const addressOf = (id) => `#/c/${encodeURIComponent(id)}`;
