// The page's addresses: "#/" is a new chat, "#/c/ID" a conversation.

/** @param {string} id */
export const addressOf = (id) => `#/c/${encodeURIComponent(id)}`;

/** The conversation that the address names, or null. */
export function addressed() {
  const id = /^#\/c\/(.+)$/.exec(location.hash)?.[1] ?? null;
  try {
    return id && decodeURIComponent(id);
  } catch {
    // Typed by hand: no conversation has such a name, and the page says so.
    return id;
  }
}
