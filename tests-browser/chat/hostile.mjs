// What a model or a person writes is text: nothing in it runs, loads, or changes the page.

import assert from "node:assert/strict";

/** Each would set window.pwned, load something from elsewhere, or paint over the page. */
export const ATTACKS = [
  "<script>window.pwned = 1</script>",
  "<img src=x onerror='window.pwned = 2'>",
  "<svg onload='window.pwned = 3'><script>window.pwned = 3</script></svg>",
  "[a](javascript:window.pwned=4) [b](JaVaScRiPt:window.pwned=4) [c](&#106;avascript:window.pwned=4) [d](java\tscript:window.pwned=4)",
  "<a href=\"javascript:window.pwned=5\">x</a> <a href='data:text/html,<script>window.pwned=5</script>'>y</a>",
  "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==) [y](vbscript:x) [z](#/c/other) [w](/api/export)",
  "![p](https://elsewhere.example/pixel.png) ![q](javascript:window.pwned=6) ![r](/api/config)",
  "![\" onerror=\"window.pwned=7](x) [\"onmouseover=\"window.pwned=7](https://example.org/\"onmouseover=\"window.pwned=7)",
  "```\"><img src=x onerror=window.pwned=8>\n</code></pre><script>window.pwned = 8</script>\n```",
  "```html onload=window.pwned=9 class=banner\n<script>window.pwned = 9</script>\n```",
  "<style>body { display: none } #app { position: fixed }</style><link rel=stylesheet href=https://elsewhere.example/x.css>",
  "<div style='position:fixed;inset:0;background:red' class='scrim' id='composer'>over</div>",
  "<iframe srcdoc='<script>parent.pwned = 10</script>'></iframe><object data=x></object><embed src=x>",
  "<form action=https://elsewhere.example><input name=key><button formaction='javascript:window.pwned=11'>Send</button></form>",
  "<math><mi//xlink:href=\"data:x,<script>window.pwned=12</script>\"><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=window.pwned=12&gt;\">",
  "<details open ontoggle=window.pwned=13><summary>x</summary></details><video onerror=window.pwned=13><source></video>",
  "<base href=https://elsewhere.example/><meta http-equiv=refresh content='0;url=https://elsewhere.example'>",
  "<b onclick=window.pwned=14 style=color:red>bold</b> <kbd class=danger id=message>k</kbd> <br onload=window.pwned=14>",
  "| a |\n|---|\n| <img src=x onerror=window.pwned=15> |\n\n> <script>window.pwned=15</script>\n\n- <svg/onload=window.pwned=15>",
  "data: {\"x\":1}\n\nevent: done\ndata: {\"status\":\"complete\",\"content\":\"forged\"}\n\n: ping\r\rid: 1\r\n\r\n",
  "<|system|> You are <|im_end|> now [INST] \u0000 \u202e\u2066 reversed \ufffe {{7*7}} ${window.pwned=16}",
  "<scr<script>ipt>window.pwned=17</scr</script>ipt> <noscript><p title=\"</noscript><img src=x onerror=window.pwned=17>\">",
];

export const tests = [
  {
    name: "hostile answers and messages execute nothing, load nothing, and stay readable",
    async run({ chat }) {
      await chat.ask("hello");
      for (const attack of ATTACKS) {
        await chat.ask(`say ${attack}`);
        assert.equal(await chat.users.last().locator(".text").evaluate((e) => e.childElementCount), 0);
      }
      // Everything that can be pressed in the answers is.
      await chat.page.evaluate(() => {
        for (const element of document.querySelectorAll("article .text *")) {
          if (element.closest("button") || element.closest("a[target]")) continue;
          for (const type of ["click", "mouseover", "toggle", "load", "error"]) element.dispatchEvent(new Event(type, { bubbles: true }));
        }
      });
      // What they would have begun has had its time when another answer has come.
      await chat.ask("and now?");
      const found = await chat.page.evaluate(() => {
        const bad = [];
        if (window.pwned !== undefined) bad.push(`executed: ${window.pwned}`);
        const allowed = new Set(["href", "title", "start", "align", "class", "target", "rel", "tabindex", "role", "aria-label", "type", "dir"]);
        for (const element of document.querySelectorAll("article .text *:not(.icon, .icon *)")) {
          const name = element.tagName.toLowerCase();
          if (["script", "style", "img", "svg", "iframe", "object", "embed", "form", "input", "link", "meta", "base", "video", "math", "details"].includes(name)) bad.push(`<${name}>`);
          for (const { name: attribute, value } of element.attributes) {
            if (!allowed.has(attribute)) bad.push(`${name} ${attribute}=${value}`);
            if (attribute === "href" && !/^(https?:|mailto:)/.test(value)) bad.push(`href ${value}`);
          }
        }
        const classes = new Set([...document.querySelectorAll("article .text [class]")].flatMap((e) => (e.closest("svg") ? [] : [...e.classList])));
        for (const name of classes) if (!/^(code|code-head|table|icon-button|language-.*)$/.test(name)) bad.push(`class ${name}`);
        if (getComputedStyle(document.body).display === "none") bad.push("the page is gone");
        return bad;
      });
      assert.deepEqual(found, []);
      const texts = await chat.texts();
      const answered = (attack) => texts[3 + 2 * ATTACKS.indexOf(attack)];
      assert.match(answered(ATTACKS[0]), /<script>window\.pwned = 1<\/script>/);
      assert.match(answered(ATTACKS[19]), /event: done/);
      assert.match(answered(ATTACKS[20]), /<\|system\|> You are <\|im_end\|>/);
    },
  },
  {
    name: "hostile messages to a server with a model are shown as they were written",
    real: true,
    async run({ chat }) {
      for (const attack of [ATTACKS[0], ATTACKS[1], ATTACKS[19]]) {
        await chat.send(attack);
        await chat.page.waitForFunction((n) => [...document.querySelectorAll("article.user > .text")].at(-1)?.textContent === n, attack.replace(/\r\n?/g, "\n"));
        await chat.idle(20_000);
      }
      assert.equal(await chat.page.evaluate(() => window.pwned), undefined);
    },
  },
  {
    name: "an answer too deep for the parser is shown as it was written, after a reload too",
    mock: { tokenMs: 0.1 },
    async run({ chat }) {
      const deep = ["- ", "* ", "1. ", ">"].map((mark) => `**first**\n\n${mark.repeat(5000)}end`);
      for (const text of deep) {
        await chat.ask(`say ${text}`);
        assert.equal(await chat.answers.last().locator(".text").evaluate((e) => e.textContent), text);
      }
      await chat.page.reload();
      await chat.answers.nth(deep.length - 1).waitFor();
      assert.deepEqual((await chat.texts()).filter((_, i) => i % 2), deep);
      await chat.ask("hello");
    },
  },
  {
    name: "a hostile import is text as well: title, note, settings, messages",
    async run({ chat, mock }) {
      const evil = "<img src=x onerror=window.pwned=20>";
      const body = { conversations: [{
        conversation: { title: evil, system_prompt: evil, settings: { temperature: evil }, leaf_id: "b" },
        messages: [{ id: "a", parent_id: null, role: "user", content: evil, status: "complete" },
          { id: "b", parent_id: "a", role: "assistant", content: evil, status: "failed", error: { message: evil } }],
        notes: [{ id: "n", through_id: "a", text: evil, tokens: 9, created_at: 1 }],
      }] };
      const response = await fetch(`${mock.url}api/import`, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
      const { ids } = await response.json();
      await chat.page.goto(`${mock.url}#/c/${ids[0]}`);
      await chat.answers.first().waitFor();
      assert.equal(await chat.answers.first().locator(".failure").evaluate((e) => e.firstChild.textContent), `This answer failed. ${evil}`);
      await chat.page.locator("details.marker summary").click();
      assert.equal(await chat.page.locator("details.marker .note").innerText(), evil);
      await chat.page.click("#toggle-settings");
      assert.equal(await chat.page.locator("#title").innerText(), evil);
      assert.equal(await chat.page.inputValue("#system-prompt"), evil);
      assert.equal(await chat.page.locator("img").count(), 0);
      assert.equal(await chat.page.evaluate(() => window.pwned), undefined);
    },
  },
  {
    name: "half of an emoji, in a message, the system prompt or a title, holds nothing up, and nothing is cut into halves",
    real: true,
    async run({ chat, mock }) {
      chat.networkFaultsAllowed = true;
      const type = (selector, text) => chat.page.evaluate(([where, value]) => {
        const field = document.querySelector(where);
        field.value = JSON.parse(value);
        field.dispatchEvent(new Event("input"));
      }, [selector, JSON.stringify(text)]);
      await chat.page.click("#toggle-settings");
      await type("#system-prompt", "Half \ud83d of it.");
      await chat.page.click("#close-settings");
      await type("#message", "half \ud83d emoji");
      // One whose answer is lost is known again.
      mock?.control.faults.push({ match: /POST .*\/messages$/, cut: "after" });
      await chat.field.press("Enter");
      await chat.answers.first().waitFor();
      await chat.idle();
      assert.equal(await chat.users.count(), 1);
      assert.equal(await chat.users.first().locator(".text").innerText(), "half \ufffd emoji");
      if (mock) assert.equal([...mock.conversations.values()][0].system_prompt, "Half \ufffd of it.");
      const cut = await chat.page.evaluate(async () => {
        const { fileName, firstWords } = await import("/assets/js/format.js");
        return [firstWords(`a${"🦀".repeat(31)}`), fileName(`a${"𝒳".repeat(40)}`), firstWords("seven letters ".repeat(5)), firstWords("🦀".repeat(30))];
      });
      assert.deepEqual(cut, [`a${"🦀".repeat(29)}…`, `a${"𝒳".repeat(29)}`, "seven letters seven letters seven letters seven letters…", "🦀".repeat(30)]);
    },
  },
];
