// The shapes that the page shares with the server, for editors and readers. Times are unix milliseconds.

/**
 * @typedef {{temperature?: number, top_k?: number, top_p?: number, min_p?: number, repetition_penalty?: number,
 *   max_tokens?: number, seed?: number|null}} Settings  what a conversation sets itself; the rest is the server's default
 * @typedef {{id: string, title: string, system_prompt: string, settings: Settings, leaf_id: string|null,
 *   created_at: number, updated_at: number}} Conversation
 * @typedef {{prompt_tokens: number, completion_tokens: number, cached_tokens: number}} Usage
 * @typedef {{first_token_ms: number|null, tokens_per_second: number|null}} Timing  no rate for an answer of one token
 * @typedef {{policy: string, dropped_messages: number, note_id: string|null}} Overflow
 * @typedef {{used: number, limit: number, overflow: Overflow|null}} Context
 * @typedef {"running"|"paused"|"complete"|"stopped"|"length"|"context"|"failed"} Status
 * @typedef {{id: string, conversation_id: string, parent_id: string|null, role: "user"|"assistant", content: string,
 *   status: Status, created_at: number, usage: Usage|null, timing: Timing|null, context: Context|null,
 *   error?: {message: string}|null}} Message
 * @typedef {{id: string, through_id: string, text: string, created_at: number}} Note
 * @typedef {{conversation: Conversation, messages: Message[], notes: Note[]}} Stored
 * @typedef {{id: string, title: string, created_at: number, updated_at: number, snippet: string|null}} Listed
 * @typedef {{name: string, version: string, model: {id: string, parameters: number, context: number, device: string},
 *   storage: "server"|"browser", auth: boolean, runs: boolean, overflow: "summarise"|"drop-oldest"|"refuse",
 *   defaults: Settings, bounds: Record<string, [number, number]>,
 *   limits: {message_bytes: number, system_prompt_bytes: number}}} Config
 */

/**
 * Something that happens to an answer: `snapshot` {content, status, usage}, `delta` {text}, `progress` {read, of, cached},
 * `notice` {kind}, `queue` (whether it waits for other tabs), and at last `done` (the message) or `error` {error}.
 * `local`: the page says so, not the server.
 * @typedef {{type: string, data: any, local?: boolean}} AnswerEvent
 */

/**
 * A wait until something is tried again, at `until`; `now` does it at once.
 * @typedef {{error: import("./api.js").ApiError, until: number, now: () => void}} Wait
 */

/**
 * What the views ask of the app. `limit`: bytes of a message.
 * @typedef {{regenerate: (message: Message) => void, edit: (message: Message, text: string) => Promise<boolean>,
 *   branch: (message: Message) => void, limit: number}} MessageActions
 * @typedef {{list: (query: {q?: string, cursor?: string}) => Promise<{conversations: Listed[], next: string|null}>,
 *   open: (id: string) => void, rename: (id: string, title: string) => Promise<void>, remove: (conversation: Listed) => void,
 *   save: (conversation: Listed, format: "json"|"markdown") => void, failed: (error: Error) => void,
 *   listed: (conversations: Listed[]) => void}} ListDoes
 */

/**
 * Where conversations live: on the server (store/server.js) or in this browser (store/browser.js).
 * @typedef {object} Store
 * @property {boolean} resumes  whether an answer that nobody listens to waits, and goes on where it was
 * @property {(query: {q?: string, cursor?: string}) => Promise<{conversations: Listed[], next: string|null}>} list
 * @property {(fields: Partial<Conversation>) => Promise<Conversation>} create
 * @property {(id: string) => Promise<Stored>} get
 * @property {(id: string, changes: Partial<Conversation>, options?: {keepalive?: boolean}) => Promise<Conversation>} update
 *   `keepalive`: even when the page is left meanwhile
 * @property {(id: string) => Promise<void>} remove
 * @property {(id: string, message: {parent_id: string|null, content: string}) =>
 *   Promise<{user: Message, assistant: Message}>} send
 * @property {(messageId: string) => Promise<{assistant: Message}>} regenerate
 * @property {(messageId: string) => Promise<Message>} stop
 * @property {(messageId: string, signal: AbortSignal) => AsyncIterable<AnswerEvent>} events
 * @property {(id: string|null, format: "json"|"markdown") => Promise<Blob>} exported  one conversation, or all with null
 * @property {(text: string) => Promise<{imported: number, ids: string[]}>} imported
 */

export {};
