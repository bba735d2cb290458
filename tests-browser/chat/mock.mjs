// A server of the page's HTTP contract without a model: what it answers, how fast, and how it fails is set by the tests.
// Keeps conversations in memory. Can be run by hand: node chat/mock.mjs [port]

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const WEB = fileURLToPath(new URL("../../web/", import.meta.url));
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml" };
export const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/** An answer computes on for so long after its last listener left. */
const GRACE_MS = 100;

/** Pieces of a text as a model would give them. */
const tokensOf = (text) => text.match(/\s*\S{1,4}|\s+/g) ?? [];
/** About as many tokens as a text has. */
const countTokens = (text) => tokensOf(text).length;

const DEFAULT_ANSWER = "A house is **warm**.\n\n```js\nconst casa = 1;\n```\n\nAnd that is *all*.";

/** What the pretended model says: what follows "say " in the message, so many words for "words N", or a standard answer. */
export function answerTo(content, version) {
  if (content.startsWith("say ")) return content.slice(4);
  const words = /^words (\d+)/.exec(content);
  if (words) return Array.from({ length: Number(words[1]) }, (_, i) => `word${i}`).join(" ");
  return version ? `Version ${version + 1}. ${DEFAULT_ANSWER}` : DEFAULT_ANSWER;
}

/**
 * Starts a server.
 * @param {object} [options]  `storage`, `key`, `overflow`, `context`, `tokenMs`, `prefillMs`, `messageBytes`, `port`;
 *   `damage`: a function (path, text) => text that changes a file of the page on its way, to see whether the tests notice
 */
export async function startMock(options = {}) {
  const control = { storage: "server", key: null, overflow: "summarise", context: 4096, tokenMs: 2, prefillMs: 0, messageBytes: 20_000, holdAfter: Infinity, holdReading: false, damage: null, port: 0, ...options };
  /** Faults to come: {match: RegExp on "METHOD path", status, retryAfter, message, code, cut (closes the socket, after the work is done with cut: "after"), until (a promise that is waited for first), times}. */
  control.faults = [];
  // `holdAfter`: answers wait after so many tokens until it is raised; `holdReading`: in the middle of the prompt.
  /** Every request as "METHOD path". */
  control.requests = [];
  const conversations = new Map();
  const messages = new Map();
  const notes = [];
  const jobs = new Map();
  let clock = Date.now();
  let serial = 0;
  const stamp = () => (clock = Math.max(clock + 1, Date.now()));
  const newId = (kind) => `${kind}${(serial += 1)}`;

  const config = () => ({
    name: "CasaLLM", version: "0", model: { id: "mock-22m", parameters: 22_300_000, context: control.context, device: "cpu" },
    storage: control.storage, auth: control.key !== null, overflow: control.overflow,
    defaults: { temperature: 0.8, top_k: 50, top_p: 0.95, min_p: 0, repetition_penalty: 1.1, max_tokens: 512, seed: null },
    bounds: { temperature: [0, 5], top_k: [0, 1000], top_p: [0, 1], min_p: [0, 1], repetition_penalty: [0.5, 2], max_tokens: [1, control.context], seed: [0, 2 ** 53 - 1] },
    limits: { message_bytes: control.messageBytes, system_prompt_bytes: 2000 },
  });

  const pathTo = (id) => {
    const path = [];
    for (let at = id; at; at = messages.get(at)?.parent_id) path.unshift(messages.get(at));
    return path;
  };
  const ofConversation = (id) => [...messages.values()].filter((message) => message.conversation_id === id);
  const makeMessage = (conversation_id, parent_id, role, content, status) => {
    const message = { id: newId("m"), conversation_id, parent_id, role, content, status, created_at: stamp(), usage: null, timing: null, context: null };
    messages.set(message.id, message);
    return message;
  };

  /** Begins an answer: a job that gives a token after another while somebody listens. */
  function beginAnswer(conversation, user) {
    const version = ofConversation(conversation.id).filter((message) => message.parent_id === user.id).length;
    const assistant = makeMessage(conversation.id, user.id, "assistant", "", "running");
    Object.assign(conversation, { leaf_id: assistant.id, updated_at: stamp() });
    const path = pathTo(user.id);
    const prompt = path.reduce((sum, message) => sum + countTokens(message.content) + 4, countTokens(conversation.system_prompt));
    const job = {
      message: assistant, conversation, tokens: tokensOf(answerTo(user.content, version)), at: 0, read: 0, prompt, begun: Date.now(),
      listeners: new Set(), timer: null, last: Date.now(), left: Date.now(), overflow: null,
    };
    if (prompt > control.context * 0.9) {
      const dropped = path.slice(0, Math.max(0, path.length - 3));
      if (control.overflow === "drop-oldest") job.overflow = { policy: "drop-oldest", dropped_messages: dropped.length, note_id: null };
      else if (dropped.length) {
        const note = { id: newId("n"), through_id: dropped.at(-1).id, text: "They spoke of a house.", created_at: stamp(), conversation_id: conversation.id };
        notes.push(note);
        job.overflow = { policy: "summarise", dropped_messages: dropped.length, note_id: note.id };
      }
    }
    jobs.set(assistant.id, job);
    step(job);
    return assistant;
  }

  const tell = (job, event, data) => job.listeners.forEach((listener) => listener(event, data));

  function finish(job, status) {
    clearTimeout(job.timer);
    const { message, prompt } = job;
    message.status = status;
    message.usage = { prompt_tokens: prompt, completion_tokens: job.at, cached_tokens: Math.max(0, prompt - 12) };
    message.timing = { first_token_ms: 40 + prompt / 10, tokens_per_second: 1000 / (control.tokenMs + 1) };
    message.context = { used: Math.min(prompt + job.at, control.context), limit: control.context, overflow: job.overflow };
    jobs.delete(message.id);
    tell(job, "done", message);
  }

  function step(job) {
    job.timer = setTimeout(() => {
      // With nobody there it pauses, and looks again.
      if (job.listeners.size === 0 && Date.now() - job.left > GRACE_MS) return step(job);
      // Held until the test has seen what it wants to see, however slow the machine.
      if (job.at >= control.holdAfter) return step(job);
      if (job.read > job.prompt / 2 && job.read < job.prompt && control.holdReading) {
        // Told again, as a server does with every piece of a prompt: who comes late has not heard the last one.
        tell(job, "progress", { read: job.read, of: job.prompt, cached: 0 });
        return step(job);
      }
      if (control.prefillMs && job.read < job.prompt) {
        job.read = Math.min(job.prompt, job.read + Math.ceil(job.prompt / 8));
        tell(job, "progress", { read: job.read, of: job.prompt, cached: 0 });
        return step(job);
      }
      if (job.at === job.tokens.length) return finish(job, "complete");
      // Timers are no finer than a millisecond, and late on a busy machine, which then gets a few tokens at once.
      const due = Math.min(4, Math.floor((Date.now() - job.last) / control.tokenMs));
      const some = control.tokenMs < 1 ? Math.round(1 / control.tokenMs) : Math.max(1, due);
      job.last = Date.now();
      const text = job.tokens.slice(job.at, job.at + some).join("");
      job.at = Math.min(job.tokens.length, job.at + some);
      job.message.content += text;
      tell(job, "delta", { text });
      step(job);
    }, control.prefillMs && job.read < job.prompt ? control.prefillMs : control.tokenMs);
  }

  const refuse = (status, message, headers = {}, code = null) => ({ status, headers, body: { error: { message, type: "invalid_request_error", param: null, code } } });
  const gone = refuse(404, "There is no such thing here.");

  /** Routes: [method, pattern, handler(params, body, query)]. */
  const routes = [
    ["GET", /^\/api\/config$/, () => ({ body: config() })],
    ["GET", /^\/api\/conversations$/, (_, __, query) => {
      const q = (query.get("q") ?? "").toLowerCase();
      const limit = Number(query.get("limit") ?? 50);
      const from = Number(query.get("cursor") ?? 0);
      const found = [...conversations.values()].sort((a, b) => b.updated_at - a.updated_at).flatMap(({ id, title, created_at, updated_at }) => {
        const hit = q && ofConversation(id).find((message) => message.content.toLowerCase().includes(q));
        if (q && !hit && !title.toLowerCase().includes(q)) return [];
        return [{ id, title, created_at, updated_at, snippet: hit ? hit.content.slice(0, 80) : null }];
      });
      return { body: { conversations: found.slice(from, from + limit), next: found.length > from + limit ? String(from + limit) : null } };
    }],
    ["POST", /^\/api\/conversations$/, (_, body) => {
      const now = stamp();
      const conversation = { id: newId("c"), title: "", system_prompt: "", settings: {}, leaf_id: null, ...body, created_at: now, updated_at: now };
      conversations.set(conversation.id, conversation);
      return { status: 201, body: conversation };
    }],
    ["GET", /^\/api\/conversations\/(\w+)$/, ([id]) => {
      const conversation = conversations.get(id);
      if (!conversation) return gone;
      return { body: { conversation, messages: ofConversation(id), notes: notes.filter((note) => note.conversation_id === id) } };
    }],
    ["PATCH", /^\/api\/conversations\/(\w+)$/, ([id], body) => (conversations.has(id) ? { body: Object.assign(conversations.get(id), body) } : gone)],
    ["DELETE", /^\/api\/conversations\/(\w+)$/, ([id]) => {
      ofConversation(id).forEach((message) => messages.delete(message.id));
      return conversations.delete(id) ? { status: 204 } : gone;
    }],
    ["POST", /^\/api\/conversations\/(\w+)\/messages$/, ([id], { parent_id, content }) => {
      const conversation = conversations.get(id);
      if (!conversation) return gone;
      if (control.overflow === "refuse" && countTokens(content) > control.context) {
        return refuse(400, "The conversation is longer than the model's context.", {}, "context_length_exceeded");
      }
      const user = makeMessage(id, parent_id, "user", content, "complete");
      conversation.title ||= content.slice(0, 40);
      return { status: 201, body: { user, assistant: beginAnswer(conversation, user) } };
    }],
    ["POST", /^\/api\/messages\/(\w+)\/regenerate$/, ([id]) => {
      const message = messages.get(id);
      if (!message) return gone;
      return { status: 201, body: { assistant: beginAnswer(conversations.get(message.conversation_id), messages.get(message.parent_id)) } };
    }],
    ["POST", /^\/api\/messages\/(\w+)\/stop$/, ([id]) => {
      if (!messages.has(id)) return gone;
      if (jobs.has(id)) finish(jobs.get(id), "stopped");
      return { body: messages.get(id) };
    }],
    ["GET", /^\/api\/conversations\/(\w+)\/export$/, ([id], _, query) => {
      const conversation = conversations.get(id);
      if (!conversation) return gone;
      if (query.get("format") === "markdown") {
        return { body: `# ${conversation.title}\n\n${pathTo(conversation.leaf_id).map((m) => `## ${m.role}\n\n${m.content}\n`).join("\n")}`, type: "text/markdown" };
      }
      return { body: { format: "casallm", conversations: [{ conversation, messages: ofConversation(id), notes: [] }] } };
    }],
    ["GET", /^\/api\/export$/, () => ({
      body: { format: "casallm", conversations: [...conversations.values()].map((conversation) => ({ conversation, messages: ofConversation(conversation.id), notes: [] })) },
    })],
    ["POST", /^\/api\/import$/, (_, body) => {
      if (!Array.isArray(body?.conversations)) return refuse(400, "This is not an exported file.");
      const ids = body.conversations.map((stored) => {
        const renamed = new Map();
        const now = stamp();
        const conversation = { ...stored.conversation, id: newId("c"), created_at: now, updated_at: now };
        for (const message of stored.messages) {
          const { id } = makeMessage(conversation.id, renamed.get(message.parent_id) ?? null, message.role, message.content, message.status);
          Object.assign(messages.get(id), { usage: message.usage, timing: message.timing, context: message.context, error: message.error });
          renamed.set(message.id, id);
        }
        for (const note of stored.notes) notes.push({ ...note, id: newId("n"), through_id: renamed.get(note.through_id), conversation_id: conversation.id });
        conversation.leaf_id = renamed.get(conversation.leaf_id) ?? null;
        conversations.set(conversation.id, conversation);
        return conversation.id;
      });
      return { body: { imported: ids.length, ids } };
    }],
  ];

  /** The stream of an answer: what there is, then what comes. */
  function stream(response, id) {
    const message = messages.get(id);
    if (!message) return send(response, gone);
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no" });
    const write = (event, data) => response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    response.write(": ping\n\n");
    write("snapshot", { content: message.content, status: message.status, usage: message.usage });
    const job = jobs.get(id);
    if (!job) {
      write("done", message);
      return response.end();
    }
    const listener = (event, data) => {
      write(event, data);
      if (event === "done") response.end();
    };
    job.listeners.add(listener);
    response.on("close", () => {
      job.listeners.delete(listener);
      job.left = Date.now();
    });
  }

  /** OpenAI's streaming route, for the store in the browser. */
  function complete(response, body) {
    const prompt = body.messages.reduce((sum, message) => sum + countTokens(message.content) + 4, 0);
    const whole = tokensOf(answerTo(body.messages.at(-1).content, 0));
    const tokens = whole.slice(0, Math.max(1, control.context - prompt));
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    const write = (more) => response.write(`data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", created: 0, model: "mock-22m", choices: [], ...more })}\n\n`);
    let at = 0;
    const next = () => {
      if (response.destroyed) return;
      if (at >= control.holdAfter) return setTimeout(next, control.tokenMs);
      if (at < tokens.length) {
        write({ choices: [{ index: 0, delta: { content: tokens[at] }, finish_reason: null }] });
        at += 1;
        return setTimeout(next, control.tokenMs);
      }
      write({ choices: [{ index: 0, delta: {}, finish_reason: tokens.length < whole.length ? "length" : "stop" }] });
      write({
        usage: { prompt_tokens: prompt, completion_tokens: at, total_tokens: prompt + at, prompt_tokens_details: { cached_tokens: 3 } },
        casallm: { timing: { first_token_ms: 42, tokens_per_second: 100 }, context: { used: prompt + at, limit: control.context, overflow: null } },
      });
      response.end("data: [DONE]\n\n");
    };
    next();
  }

  function send(response, { status = 200, headers = {}, body, type = "application/json" }) {
    response.writeHead(status, { ...headers, ...(body === undefined ? {} : { "Content-Type": type }) });
    response.end(body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body));
  }

  async function file(response, path) {
    const name = normalize(path === "/" ? "index.html" : path.replace(/^\/assets\//, ""));
    try {
      const bytes = await readFile(join(WEB, name));
      const text = control.damage?.(name, bytes.toString()) ?? bytes;
      response.writeHead(200, { "Content-Type": TYPES[extname(name)] ?? "text/plain", "Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff" });
      response.end(text);
    } catch {
      send(response, gone);
    }
  }

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://mock");
    const line = `${request.method} ${url.pathname}`;
    control.requests.push(line + url.search);
    if (request.method === "GET" && (url.pathname === "/" || url.pathname.startsWith("/assets/"))) return file(response, url.pathname);
    const fault = control.faults.find(({ match }) => match.test(line));
    if (fault && (fault.times = (fault.times ?? 1) - 1) <= 0) control.faults.splice(control.faults.indexOf(fault), 1);
    await fault?.until;
    if (fault?.cut === true) return request.socket.destroy();
    if (fault?.status) return send(response, refuse(fault.status, fault.message ?? "Not now.", fault.retryAfter === undefined ? {} : { "Retry-After": String(fault.retryAfter) }, fault.code));
    if (control.key !== null && request.headers.authorization !== `Bearer ${control.key}`) return send(response, refuse(401, "A key is needed."));
    let body;
    if (request.method !== "GET") {
      let text = "";
      for await (const chunk of request) text += chunk;
      if (text && request.headers["content-type"] !== "application/json") return send(response, refuse(415, "JSON is wanted."));
      // As serde_json: what is no Unicode is no JSON.
      let sound = true;
      body = text ? JSON.parse(text, (_, part) => ((sound &&= typeof part !== "string" || part.isWellFormed()), part)) : undefined;
      if (!sound) return send(response, refuse(400, "The body is not JSON."));
    }
    const events = /^GET \/api\/messages\/(\w+)\/events$/.exec(line);
    if (control.storage === "browser" && /^\w+ \/api\/(conversations|messages)/.test(line)) return send(response, gone);
    if (events) return stream(response, events[1]);
    if (line === "POST /v1/chat/completions") return complete(response, body);
    for (const [method, pattern, handle] of routes) {
      const found = method === request.method && pattern.exec(url.pathname);
      if (!found) continue;
      const answer = handle(found.slice(1), body, url.searchParams);
      if (fault?.cut === "after") {
        // Browsers repeat by themselves a request to which not a byte was answered.
        response.writeHead(answer.status ?? 200, { "Content-Type": "application/json", "Content-Length": "1000" });
        return response.write(" ", () => request.socket.destroy());
      }
      return send(response, answer);
    }
    send(response, gone);
  });
  const listen = (port) => new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  await listen(control.port);
  const { port } = server.address();

  return {
    url: `http://127.0.0.1:${port}/`, control, conversations, messages, jobs,
    /** Cuts all connections and takes no new ones until `up`. */
    async down() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
    up: () => listen(port),
    /** Cuts the streams that are open. */
    cut: () => server.closeAllConnections(),
    async close() {
      jobs.forEach((job) => clearTimeout(job.timer));
      if (!server.listening) return;
      await this.down();
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await startMock({ port: Number(process.argv[2] ?? 7861), tokenMs: 20, prefillMs: 40 });
  console.log(url);
}
