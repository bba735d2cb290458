// Conversations as files, for the browser's own store; the server has its own code for the same formats.

const ROLES = ["user", "assistant"];
const text = (value, what, longest = 10_000_000) => {
  if (typeof value !== "string" || value.length > longest) throw new Error(`This file is not an export: ${what} is not a text.`);
  return value;
};
const textOr = (value, what, absent) => (value === null || value === undefined ? absent : text(value, what));

/**
 * The conversations of an exported file, checked. Notes stay out: what is answered from here is never condensed.
 * @param {string} file @returns {import("../types.js").Stored[]}
 */
export function conversationsOf(file) {
  let read;
  try {
    read = JSON.parse(file);
  } catch {
    throw new Error("This file is not JSON. Choose one that was exported here.");
  }
  const list = Array.isArray(read?.conversations) ? read.conversations : [read];
  return list.map((stored) => {
    if (typeof stored?.conversation !== "object" || stored.conversation === null || !Array.isArray(stored.messages)) {
      throw new Error("This file is not an export: it holds no conversation.");
    }
    const seen = new Set();
    const messages = stored.messages.map((message) => {
      const id = text(message?.id, "a message's id", 200);
      const parent_id = textOr(message.parent_id, "a message's parent", null);
      if (seen.has(id) || (parent_id !== null && !seen.has(parent_id))) {
        throw new Error("This file is not an export: its messages are not in order.");
      }
      if (!ROLES.includes(message.role)) throw new Error("This file is not an export: a message is nobody's.");
      seen.add(id);
      const status = ["running", "paused"].includes(message.status) ? "stopped" : text(message.status ?? "complete", "a status", 20);
      return {
        id, parent_id, role: message.role, content: text(message.content, "a message"), status,
        usage: numbers(message.usage), timing: numbers(message.timing), context: numbers(message.context),
      };
    });
    const { title, system_prompt, settings, leaf_id } = stored.conversation;
    return {
      conversation: {
        title: textOr(title, "a title", ""), system_prompt: textOr(system_prompt, "a system prompt", ""),
        settings: numbers(settings) ?? {}, leaf_id: seen.has(leaf_id) ? leaf_id : null,
      },
      messages, notes: [],
    };
  });
}

/** An object's numbers and nulls; everything else in it is left out. */
function numbers(value) {
  if (typeof value !== "object" || value === null) return null;
  return Object.fromEntries(Object.entries(value).filter(([, number]) => number === null || Number.isFinite(number)));
}

/** A copy that can stand beside what it was made from. */
export function withNewIds({ conversation, messages }, newId, stamp) {
  const ids = new Map(messages.map((message) => [message.id, newId()]));
  const id = newId();
  const renamed = (old) => ids.get(old) ?? null;
  return {
    messages: messages.map((message) => ({
      ...message, id: renamed(message.id), parent_id: renamed(message.parent_id), conversation_id: id, created_at: stamp(),
    })),
    conversation: { ...conversation, id, leaf_id: renamed(conversation.leaf_id), created_at: stamp(), updated_at: stamp() },
  };
}

/**
 * The branch that is shown, as Markdown. As in the server's, no message can end itself and pass for another's words: what a person
 * typed stands in a fence longer than any run of backticks in it, an answer in a quote, which ends what the answer left open.
 * @param {import("../types.js").Stored} stored
 */
export function markdownOf({ conversation, messages }) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  for (let id = conversation.leaf_id; id; id = byId.get(id)?.parent_id) if (byId.has(id)) path.unshift(byId.get(id));
  const parts = path.map(({ role, content }) => (role === "user" ? section("User", fenced(content)) : section("Assistant", quoted(content))));
  if (conversation.system_prompt) parts.unshift(section("System prompt", fenced(conversation.system_prompt)));
  return `# ${heading(conversation.title)}\n${parts.join("")}`;
}

const section = (title, block) => `\n## ${title}\n\n${block}`;

/** A title on one line, without a meaning of its own. */
const heading = (title) => title.trim().replace(/[!-/:-@[-`{-~]/g, "\\$&").replace(/[\p{Cc}\u2028\u2029]/gu, " ") || "Conversation";

function fenced(text) {
  const longest = (text.match(/`+/g) ?? []).reduce((most, { length }) => Math.max(most, length), 2);
  const fence = "`".repeat(longest + 1);
  return `${fence}text\n${text.replace(/\n+$/, "")}\n${fence}\n`;
}

const quoted = (text) => text.replace(/\r\n?/g, "\n").replace(/\n+$/, "").split("\n").map((line) => `> ${line}\n`).join("");
