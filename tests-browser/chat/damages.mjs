// Ways to break the page, and the test that each must be caught by: by an assertion, or by waiting for what it `says` in vain.

export const damages = [
  {
    name: "answers are not sanitised", file: "js/markdown.js", caughtBy: "execute nothing",
    from: "DOMPurify.sanitize(marked.parser(tokens), PURE)",
    to: "document.createRange().createContextualFragment((globalThis.policy ??= globalThis.trustedTypes.createPolicy('dompurify', { createHTML: (x) => x })).createHTML(marked.parser(tokens)))",
  },
  {
    name: "links may lead anywhere", file: "js/markdown.js", caughtBy: "execute nothing",
    from: "const LINK = /^(?:https?:\\/\\/|mailto:)/i;", to: "const LINK = /^/;",
  },
  {
    name: "markup is not shown as text", file: "js/markdown.js", caughtBy: "execute nothing",
    from: "if (FORMATTING.test(raw.trim())) return raw;", to: "return raw;",
  },
  {
    name: "the reader's messages are markup", file: "js/view/message.js", caughtBy: "execute nothing",
    from: "this.markdown = user ? null :", to: "this.markdown =",
  },
  {
    name: "an edit replaces instead of branching", file: "js/app.js", caughtBy: "edit: the old version stays",
    from: "this.sending.post(this.session, message.parent_id, text)", to: "this.sending.post(this.session, this.session.leafId, text)",
  },
  {
    name: "the switcher does not save the branch", file: "js/app.js", caughtBy: "edit: the old version stays",
    from: "await this.store.update(session.id, { leaf_id: session.leafId });", to: "", says: /waitForResponse/,
  },
  {
    name: "a running answer is not picked up", file: "js/app.js", caughtBy: "continued in another tab",
    from: "this.answers.follow(message);\n    }", to: "message.status;\n    }", says: /article\.live/,
  },
  {
    name: "a snapshot is added to what is there", file: "js/answers.js", caughtBy: "a cut stream",
    from: "message.content = data.content;", to: "message.content += data.content;",
  },
  {
    name: "what the page says itself counts as the server's answer", file: "js/answers.js", caughtBy: "though each try waits for other tabs",
    from: "if (!event.local) worked();", to: "worked();", says: /waitForFunction: Timeout/,
  },
  {
    name: "tabs do not share their connections", file: "js/streams.js", caughtBy: "answers in many tabs",
    from: "if (!locks) return", to: "return", says: /Timeout/,
  },
  {
    name: "an answer that has begun waits for other tabs without a word", file: "js/view/message.js", caughtBy: "cut in the middle for another tab",
    from: "else if (queued)", to: "else if (queued && !content)", says: /waitFor: Timeout/,
  },
  {
    name: "what this tab itself lets go looks like a wait for others", file: "js/streams.js", caughtBy: "more answers than a browser",
    from: /free \?\?= await takeAny.*/, to: "",
  },
  {
    name: "a tab that nobody looks at keeps its connection", file: "js/streams.js", caughtBy: "answers in many tabs",
    from: "[...open][0]?.abort();", to: "", says: /waitForFunction: Timeout/,
  },
  {
    name: "a conversation that nobody was to see stays in the list", file: "js/app.js", caughtBy: "gone from a list that was read meanwhile",
    from: "this.store.remove(id).then(() => this.sidebar.refresh(), () => {})", to: "this.store.remove(id)", says: /waitForFunction: Timeout/,
  },
  {
    name: "a lost answer is asked for twice", file: "js/sending.js", caughtBy: "not made twice",
    from: "attempt > 0", to: "attempt > 9",
  },
  {
    name: "drafts are not kept", file: "js/view/composer.js", caughtBy: "drafts: one",
    from: "drafts.set(this.draftId, this.field.value);\n      this.#show();", to: "this.#show();",
  },
  {
    name: "always follows the end", file: "js/view/follow-end.js", caughtBy: "follows the end",
    from: "if (this.following) this.jump();", to: "if (true) this.jump();", says: /#to-end/,
  },
  {
    name: "Enter sends while composing", file: "js/keyboard.js", caughtBy: "input method",
    from: "event.isComposing || event.keyCode === 229;", to: "false;",
  },
  {
    name: "faint letters", file: "css/page.css", caughtBy: "looks: light, 1280",
    from: "--quiet: light-dark(#5c5f66", to: "--quiet: light-dark(#a0a0a0",
  },
  {
    name: "code widens the page", file: "css/page.css", caughtBy: "looks: light, 360",
    from: ".code pre { margin: 0; padding: .8rem 1rem; overflow-x: auto;", to: ".code { width: max-content } .code pre {",
  },
  {
    name: "a stopped answer is read before it is written", file: "js/store/browser.js", caughtBy: "keeps all that was shown",
    from: "await running?.ended;", to: "",
  },
  {
    name: "a second tab asks again", file: "js/store/browser.js", caughtBy: "second tab waits",
    from: "resolve(lock !== null);", to: "resolve(true);",
  },
  {
    name: "what was deleted is written back", file: "js/store/database.js", caughtBy: "another tab has deleted",
    from: "event.target.result && store.put(message)", to: "store.put(message)",
  },
  {
    name: "what streams settles too early", file: "js/streaming-markdown.js", caughtBy: "in one piece",
    from: "if (!referred && this.raws.every((raw, i) => blocks[i]?.raw === raw)) return;", to: "return;",
  },
];
