// Reads server-sent events from a fetch response. EventSource cannot send an API key, so it is not used.

/** The server says something every ten seconds, be it a comment; after so long without a word nobody is there. */
const SILENCE_MS = 35_000;

/**
 * Yields every event of a body in the format of https://html.spec.whatwg.org/multipage/server-sent-events.html
 * (comments, `id` and `retry` are skipped). Ends with the body, or when it is silent for too long; an event that was cut
 * off is not delivered.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{type: string, data: string}>}
 */
export async function* readEvents(body) {
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let silence = 0;
  let rest = "";
  let type = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      silence = setTimeout(() => reader.cancel(), SILENCE_MS);
      const { done, value } = await reader.read();
      clearTimeout(silence);
      if (done) return;
      rest += value;
      // A carriage return at the end may be the first half of a CRLF; it waits for what follows.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { type: type || "message", data: data.join("\n") };
          type = "";
          data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "data") data.push(text);
        else if (field === "event") type = text;
      }
    }
  } finally {
    clearTimeout(silence);
    // Whoever stops listening closes the connection, which is how the server knows.
    reader.cancel().catch(() => {});
  }
}
