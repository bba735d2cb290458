// The few words that the page keeps in the browser. Where it may keep nothing (blocked site data, a full disk), they last
// until the page is closed.

/** @type {Map<string, string>} */
const unkept = new Map();

export const storage = {
  /** @param {string} name @returns {string|null} */
  get(name) {
    try {
      return unkept.get(name) ?? localStorage.getItem(name);
    } catch {
      return null;
    }
  },
  /** @param {string} name @param {string} text */
  set(name, text) {
    unkept.delete(name);
    try {
      localStorage.setItem(name, text);
    } catch {
      unkept.set(name, text);
    }
  },
};
