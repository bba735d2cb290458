// The page's files themselves: what is vendored is as published, and all of it is small.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const WEB = fileURLToPath(new URL("../../web/", import.meta.url));
const MOST_GZIPPED = 102_400;

export const tests = [
  {
    name: "vendored files have the checksums that are written down, and no other file is there",
    async run() {
      const lines = (await readFile(join(WEB, "vendor/CHECKSUMS"), "utf8")).split("\n").filter((line) => line && !line.startsWith("#"));
      const listed = lines.map((line) => line.split(/\s+/));
      for (const [name, , , checksum] of listed) {
        assert.equal(createHash("sha256").update(await readFile(join(WEB, "vendor", name))).digest("hex"), checksum, name);
      }
      assert.deepEqual((await readdir(join(WEB, "vendor"))).sort(), ["CHECKSUMS", ...listed.map(([name]) => name)].sort());
    },
  },
  {
    name: "everything that the page loads, the chart as well, is under 100 KiB gzipped",
    async run({ chat, mock, tell }) {
      await chat.ask("one");
      await chat.ask("two");
      await chat.page.click("#toggle-details");
      await chat.page.waitForSelector("#chart canvas");
      const files = new Set(mock.control.requests.filter((line) => /^GET \/(assets\/.*)?$/.test(line)).map((line) => line.slice(5)));
      assert.ok(files.size > 30, `only ${files.size} files were asked for`);
      let all = 0;
      for (const name of files) all += gzipSync(await readFile(join(WEB, name.replace(/^assets\//, "") || "index.html")), { level: 9 }).length;
      tell(`${files.size} files, ${all} bytes gzipped one by one`);
      assert.ok(all < MOST_GZIPPED, `${all} bytes`);
    },
  },
];
