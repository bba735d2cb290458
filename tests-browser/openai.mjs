// OpenAI's own client for JavaScript, as it is on npm, against a running server.
//   node openai.mjs http://localhost:7860

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: process.env.CASALLM_API_KEY ?? "none", maxRetries: 0 });
const [{ id: model }] = (await client.models.list()).data;
assert.equal((await client.models.retrieve(model)).object, "model");

const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "Who are you?" }] }];
const settings = { model, messages, temperature: 0, max_completion_tokens: 12, seed: 1 };
const whole = await client.chat.completions.create({ ...settings, logprobs: true, top_logprobs: 2 });
assert.equal(whole.choices[0].message.role, "assistant");
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
assert.ok(whole.choices[0].logprobs.content.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
assert.ok(["stop", "length"].includes(whole.choices[0].finish_reason));

let text = "";
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...settings, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
assert.ok(usage.prompt_tokens_details.cached_tokens > 0);

const runner = client.chat.completions.stream(settings);
assert.equal((await runner.finalChatCompletion()).choices[0].message.content, text);

const completion = await client.completions.create({ model, prompt: "Once upon", max_tokens: 4, temperature: 0, logprobs: 1 });
assert.equal(completion.object, "text_completion");

await assert.rejects(client.chat.completions.create({ ...settings, model: "gpt-4o" }), OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ ...settings, temperature: 9 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
await assert.rejects(client.chat.completions.create({ ...settings, n: 2 }), (error) => error.param === "n");

// A stream that is left.
const left = await client.chat.completions.create({ ...settings, max_completion_tokens: 1000, stream: true });
for await (const _ of left) break;
console.log(`npm openai: ok (${model}: ${JSON.stringify(text)})`);
