// IndexedDB with promises: the two kinds of records that the browser keeps in `--ephemeral` mode.

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("casallm", 1);
    request.onupgradeneeded = () => {
      const database = request.result;
      database.createObjectStore("conversations", { keyPath: "id" });
      database.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation_id", "conversation_id");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

const settled = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** @param {"conversations"|"messages"} kind */
export async function find(kind, id) {
  return settled((await open()).transaction(kind).objectStore(kind).get(id));
}

export async function all(kind) {
  return settled((await open()).transaction(kind).objectStore(kind).getAll());
}

/** The messages of a conversation, oldest first. */
export async function messagesOf(conversationId) {
  const found = await settled((await open()).transaction("messages").objectStore("messages").index("conversation_id").getAll(conversationId));
  return found.sort((a, b) => a.created_at - b.created_at);
}

/** Writes all of it or nothing. @param {Partial<Record<"conversations"|"messages", any[]>>} records */
export async function put(records) {
  const kinds = Object.keys(records);
  const transaction = (await open()).transaction(kinds, "readwrite");
  for (const kind of kinds) for (const record of records[kind]) transaction.objectStore(kind).put(record);
  return finished(transaction);
}

/** Writes a message again, unless it was deleted meanwhile. */
export async function rewrite(message) {
  const transaction = (await open()).transaction("messages", "readwrite");
  const store = transaction.objectStore("messages");
  store.getKey(message.id).onsuccess = (event) => event.target.result && store.put(message);
  return finished(transaction);
}

/** Deletes a conversation and what belongs to it. */
export async function removeConversation(id) {
  const transaction = (await open()).transaction(["conversations", "messages"], "readwrite");
  transaction.objectStore("conversations").delete(id);
  const store = transaction.objectStore("messages");
  store.index("conversation_id").getAllKeys(id).onsuccess = (event) => event.target.result.forEach((key) => store.delete(key));
  return finished(transaction);
}

const finished = (transaction) => new Promise((resolve, reject) => {
  transaction.oncomplete = () => resolve(undefined);
  transaction.onabort = transaction.onerror = () => reject(transaction.error);
});
