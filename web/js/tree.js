// The messages of a conversation as a tree: editing and regenerating make branches, nothing is overwritten.

/** @typedef {import("./types.js").Message} Message */

export class Tree {
  /** @param {Message[]} messages  in order of creation */
  constructor(messages = []) {
    /** @type {Map<string, Message>} */
    this.messages = new Map();
    /** @type {Map<string|null, string[]>} */
    this.childIds = new Map();
    messages.forEach((message) => this.put(message));
  }

  /** Adds a message, or puts its newer state in the place of the older one. */
  put(message) {
    if (!this.messages.has(message.id)) {
      const parent = message.parent_id ?? null;
      this.childIds.set(parent, [...(this.childIds.get(parent) ?? []), message.id]);
    }
    this.messages.set(message.id, message);
  }

  get(id) {
    return this.messages.get(id);
  }

  /** @returns {Message[]} all messages that answer the same one, this one among them */
  siblings(message) {
    return (this.childIds.get(message.parent_id ?? null) ?? []).map((id) => this.messages.get(id));
  }

  /** The end of the newest branch below a message (or of all). */
  newestLeaf(id = null) {
    for (;;) {
      const children = this.childIds.get(id);
      if (!children) return id;
      id = children[children.length - 1];
    }
  }

  /** From the first message to this one. @returns {Message[]} */
  path(leafId) {
    const path = [];
    const seen = new Set();
    for (let id = leafId; id !== null && !seen.has(id); ) {
      const message = this.messages.get(id);
      if (!message) break;
      seen.add(id);
      path.push(message);
      id = message.parent_id ?? null;
    }
    return path.reverse();
  }
}
