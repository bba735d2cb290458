// What is typed and not yet sent, kept over reloads: one draft a conversation, one for each message being edited.

const name = (id) => `casallm.draft.${id}`;
let told = false;

export const drafts = {
  /** Called once, when the browser has no room for a draft. */
  full() {},
  /** @param {string} id  a conversation's, "new", or a conversation's and a message's with ".edit." between them */
  get: (id) => localStorage.getItem(name(id)) ?? "",
  set(id, text) {
    try {
      if (text) localStorage.setItem(name(id), text);
      else localStorage.removeItem(name(id));
    } catch {
      if (!told) drafts.full();
      told = true;
    }
  },
  /** Removes all of a conversation that is gone. @param {string} id */
  forget(id) {
    for (const key of Object.keys(localStorage)) if (key === name(id) || key.startsWith(name(`${id}.`))) localStorage.removeItem(key);
  },
};
