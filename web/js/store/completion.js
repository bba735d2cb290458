// An answer from the OpenAI-compatible route, as the events that the server's own store sends.

import { ApiError } from "../api.js";
import { readEvents } from "../sse.js";

const STATUS = { stop: "complete", length: "length" };

/**
 * Yields `delta` events, then `end` with what belongs into the message.
 * @param {import("../api.js").Api} api @param {import("../types.js").Config} config
 * @param {import("../types.js").Conversation} conversation @param {import("../types.js").Message[]} path  the messages to answer
 * @param {AbortSignal} signal
 */
export async function* streamCompletion(api, config, conversation, path, signal) {
  /** @type {{role: string, content: string}[]} */
  const messages = path.map(({ role, content }) => ({ role, content }));
  if (conversation.system_prompt) messages.unshift({ role: "system", content: conversation.system_prompt });
  const settings = Object.fromEntries(Object.entries(conversation.settings).filter(([, value]) => value !== null));
  const body = { model: config.model.id, messages, stream: true, stream_options: { include_usage: true }, ...settings };
  const response = await api.request("POST", "v1/chat/completions", { body, signal });
  const end = { status: null, usage: null, timing: null, context: null };
  try {
    for await (const { data } of readEvents(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(400, chunk.error.message);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { type: "delta", data: { text: choice.delta.content } };
      if (choice?.finish_reason) end.status = STATUS[choice.finish_reason] ?? "complete";
      if (chunk.casallm?.timing) end.timing = chunk.casallm.timing;
      if (chunk.casallm?.context) end.context = chunk.casallm.context;
      if (chunk.usage) {
        const { prompt_tokens, completion_tokens, prompt_tokens_details } = chunk.usage;
        end.usage = { prompt_tokens, completion_tokens, cached_tokens: prompt_tokens_details?.cached_tokens ?? 0 };
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "The connection was cut.");
  }
  if (end.status === null) throw new ApiError(0, "The connection was cut.");
  // OpenAI has one word for both limits.
  if (end.status === "length" && end.context?.used >= end.context?.limit) end.status = "context";
  yield { type: "end", data: end };
}
