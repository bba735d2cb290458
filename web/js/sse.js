// Reads server-sent events from a fetch response. EventSource cannot send an API key, so it is not used.

/** The server says something every ten seconds, be it a comment; after so long without a word nobody is there. */
const SILENCE_MS = 35_000;

async function readUnlessSilent(reader) {
  let timer;
  const silence = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error("silence")), SILENCE_MS)));
  try {
    return await Promise.race([reader.read(), silence]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Yields every event of a body in the format of https://html.spec.whatwg.org/multipage/server-sent-events.html
 * (comments, `id` and `retry` are skipped). Ends with the body; an event that was cut off is not delivered. Throws when the
 * connection is cut, or silent for too long.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{type: string, data: string}>}
 */
export async function* readEvents(body) {
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let rest = "";
  let type = "";
  /** @type {string[]} */
  let data = [];
  try {
    for (;;) {
      const { done, value } = await readUnlessSilent(reader);
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
    // Whoever stops listening closes the connection, which is how the server knows.
    reader.cancel().catch(() => {});
  }
}
