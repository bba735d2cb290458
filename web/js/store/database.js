// IndexedDB with promises: the three kinds of records that the browser keeps in `--ephemeral` mode.

let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("casallm", 1);
    request.onupgradeneeded = () => {
      const database = request.result;
      database.createObjectStore("conversations", { keyPath: "id" });
      for (const name of ["messages", "notes"]) {
        database.createObjectStore(name, { keyPath: "id" }).createIndex("conversation_id", "conversation_id");
      }
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

/** @param {"conversations"|"messages"|"notes"} kind */
export async function find(kind, id) {
  return settled((await open()).transaction(kind).objectStore(kind).get(id));
}

export async function all(kind) {
  return settled((await open()).transaction(kind).objectStore(kind).getAll());
}

/** What belongs to a conversation, oldest first. */
export async function of(kind, conversationId) {
  const found = await settled((await open()).transaction(kind).objectStore(kind).index("conversation_id").getAll(conversationId));
  return found.sort((a, b) => a.created_at - b.created_at);
}

/** Writes all of it or nothing. @param {Partial<Record<"conversations"|"messages"|"notes", any[]>>} records */
export async function put(records) {
  const kinds = Object.keys(records);
  const transaction = (await open()).transaction(kinds, "readwrite");
  for (const kind of kinds) for (const record of records[kind]) transaction.objectStore(kind).put(record);
  return finished(transaction);
}

/** Deletes a conversation and what belongs to it. */
export async function removeConversation(id) {
  const transaction = (await open()).transaction(["conversations", "messages", "notes"], "readwrite");
  transaction.objectStore("conversations").delete(id);
  for (const kind of ["messages", "notes"]) {
    const store = transaction.objectStore(kind);
    store.index("conversation_id").getAllKeys(id).onsuccess = (event) => event.target.result.forEach((key) => store.delete(key));
  }
  return finished(transaction);
}

const finished = (transaction) => new Promise((resolve, reject) => {
  transaction.oncomplete = () => resolve(undefined);
  transaction.onabort = transaction.onerror = () => reject(transaction.error);
});
