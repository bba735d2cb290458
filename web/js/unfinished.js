// Remembers over a reload which answers are being written, so that those that are not shown are listened to again as well.

const NAME = "casallm.unfinished";

/** @param {import("./answers.js").Answers} answers */
export function remember(answers) {
  const messages = [...answers.live.values()].map(({ message: { id, conversation_id } }) => ({ id, conversation_id }));
  try {
    sessionStorage.setItem(NAME, JSON.stringify(messages));
  } catch {
    // No storage: after a reload only the one that is shown is found.
  }
}

/** What is known of an answer before its events: the rest comes with the last of them, or with its conversation. */
const unread = (message) => ({
  parent_id: null, role: "assistant", content: "", status: "running", created_at: 0, usage: null, timing: null, context: null, ...message,
});

/** @param {import("./answers.js").Answers} answers */
export function followAgain(answers) {
  try {
    for (const message of JSON.parse(sessionStorage.getItem(NAME) ?? "[]")) answers.follow(unread(message));
  } catch {
    // No storage, or of another version of the page.
  }
}
