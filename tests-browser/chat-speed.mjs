// Measures the page at the end of a conversation of 10,000 tokens: what a streamed token costs, and how scrolling runs.
//
//     node chat-speed.mjs

import { chromium } from "playwright-core";
import { Chat } from "./chat/driver.mjs";
import { startMock } from "./chat/mock.mjs";

const TURNS = 85;
/** About 110 tokens by the pretended model's count, as a model would write. */
const ANSWER = `Here is **what to do**, in order:

1. Measure the ground, and mark the corners with a string.
2. Dig to the depth that the frost reaches, then \`level\` it.
   - by hand, where the machine does not reach

| Part | Metres |
|---|---:|
| Wall | 12.5 |

\`\`\`python
def area(width, depth):
    return width * depth
\`\`\`

A house stands as long as its roof is whole, so that one looks after the roof first.`;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const mock = await startMock({ context: 50_000, tokenMs: 8, messageBytes: 200_000 });
const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
const chat = await new Chat(context, mock.url).open();
chat.setPatience(120_000);
await chat.ready();

const messages = [];
for (let i = 0; i < TURNS; i += 1) {
  messages.push({ id: `u${i}`, parent_id: i ? `a${i - 1}` : null, role: "user", content: `Question ${i}: how do I build a house?`, status: "complete" });
  messages.push({ id: `a${i}`, parent_id: `u${i}`, role: "assistant", content: ANSWER, status: "complete" });
}
const body = JSON.stringify({ conversations: [{ conversation: { title: "Long", system_prompt: "", settings: {}, leaf_id: `a${TURNS - 1}` }, messages, notes: [] }] });
const { ids } = await (await fetch(`${mock.url}api/import`, { method: "POST", body, headers: { "Content-Type": "application/json" } })).json();
const tokens = messages.reduce((sum, message) => sum + message.content.match(/\s*\S{1,4}|\s+/g).length, 0);

const client = await context.newCDPSession(chat.page);
await client.send("Performance.enable");
const metrics = async () => Object.fromEntries((await client.send("Performance.getMetrics")).metrics.map(({ name, value }) => [name, value]));
/** Milliseconds of the page's main thread during some work. */
async function cost(work) {
  const before = await metrics();
  const result = await work();
  const after = await metrics();
  const ms = (name) => (after[name] - before[name]) * 1000;
  return { result, task: ms("TaskDuration"), script: ms("ScriptDuration"), layout: ms("LayoutDuration"), style: ms("RecalcStyleDuration") };
}
const line = ({ task, script, layout, style }, by = 1) =>
  `${(task / by).toFixed(2)} ms (script ${(script / by).toFixed(2)}, layout ${(layout / by).toFixed(2)}, style ${(style / by).toFixed(2)})`;

const opened = await cost(async () => {
  await chat.page.goto(`${mock.url}#/c/${ids[0]}`);
  await chat.messages.nth(2 * TURNS - 1).waitFor();
  await chat.page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
});
console.log(`opening ${tokens} tokens in ${messages.length} messages: ${line(opened)}`);

async function streamed(what, text) {
  const before = [...mock.messages.values()].length;
  const spent = await cost(() => chat.ask(`say ${text}`));
  const answer = [...mock.messages.values()].at(-1);
  if ([...mock.messages.values()].length <= before) throw new Error("nothing was answered");
  console.log(`streaming ${what}, ${answer.usage.completion_tokens} tokens at the end of it, each: ${line(spent, answer.usage.completion_tokens)}`);
}
await streamed("Markdown", ANSWER.repeat(2));
await streamed("one block of code", `\`\`\`\n${"let x = some_function(argument, other);\n".repeat(60)}\`\`\``);
await streamed("one long list", Array.from({ length: 60 }, (_, i) => `- point ${i} with **words**`).join("\n"));
mock.control.tokenMs = 0.1;
await streamed("one answer of 10,000 tokens, 10 a millisecond", ANSWER.concat("\n\n").repeat(92));

const scrolled = await cost(() => chat.page.evaluate(async () => {
  const scroller = document.getElementById("transcript");
  const frames = [];
  scroller.scrollTop = 0;
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < 240; i += 1) {
    scroller.scrollTop += 120;
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - last);
    last = now;
  }
  return frames.sort((a, b) => a - b);
}));
const frames = scrolled.result;
console.log(`scrolling, 240 steps of 120 px: ${line(scrolled, frames.length)} a frame; frames of ${frames[120].toFixed(1)} ms in the middle, ${frames[Math.floor(frames.length * 0.95)].toFixed(1)} at 95 %, ${frames.at(-1).toFixed(1)} the longest`);
await browser.close();
await mock.close();
