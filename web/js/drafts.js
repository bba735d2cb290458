// What is typed and not yet sent, kept over reloads: one draft a conversation, one for each message being edited.

const name = (id) => `casallm.draft.${id}`;

export const drafts = {
  /** @param {string} id  a conversation's, "new", or "edit." and a message's */
  get: (id) => localStorage.getItem(name(id)) ?? "",
  set(id, text) {
    try {
      if (text) localStorage.setItem(name(id), text);
      else localStorage.removeItem(name(id));
    } catch {
      // The browser's storage is full: the text is still in its field.
    }
  },
};
