// The conversation that is shown, saved or not yet.

import { drafts } from "./drafts.js";
import { Tree } from "./tree.js";

const NEW = "new.fields";

export class Session {
  /** @param {import("./types.js").Stored} stored */
  constructor({ conversation, messages, notes }) {
    this.conversation = conversation;
    this.tree = new Tree(messages);
    this.notes = notes;
    const leaf = conversation.leaf_id;
    this.leafId = leaf !== null && this.tree.get(leaf) ? leaf : this.tree.newestLeaf();
    /** Settings that were changed and are not saved. @type {Partial<import("./types.js").Conversation>|null} */
    this.changes = null;
    /** The saving that goes on. @type {Promise<void>|null} */
    this.saving = null;
  }

  /** One that becomes a conversation with its first message. */
  static unsaved() {
    let fields = {};
    try {
      fields = JSON.parse(drafts.get(NEW) || "{}");
    } catch {
      // Of another version of the page.
    }
    const conversation = { id: null, title: "", system_prompt: "", settings: {}, leaf_id: null, ...fields };
    return new Session({ conversation: /** @type {any} */ (conversation), messages: [], notes: [] });
  }

  get id() {
    return this.conversation.id;
  }

  get draftId() {
    return this.id ?? "new";
  }

  get path() {
    return this.tree.path(this.leafId);
  }

  /** Adds messages and shows the branch that ends with the last. @param {...import("./types.js").Message} messages */
  add(...messages) {
    messages.forEach((message) => this.tree.put(message));
    this.leafId = messages[messages.length - 1].id;
  }

  /** How full the context was at the last answer that says so. */
  get context() {
    return this.path.findLast((message) => message.context)?.context ?? null;
  }

  /** Changes that are kept until the first message. */
  change(fields) {
    Object.assign(this.conversation, fields);
    const { system_prompt, settings } = this.conversation;
    drafts.set(NEW, JSON.stringify({ system_prompt, settings }));
  }

  /** Once it is saved, the next new chat begins from the defaults. */
  saved(conversation) {
    this.conversation = conversation;
    drafts.set(NEW, "");
  }
}
