#!/usr/bin/env python3
"""Load on a running `casallm serve`: many clients, random aborts, slow readers, half-open sockets.

    casallm serve --model DIR --ephemeral --port 7860 &
    python3 bench/serve_load.py --url http://localhost:7860 --pid $! --seconds 300

It holds that nothing but 200, 429 and 503 (these with Retry-After) is answered, that greedy answers are those that a lone client
got, that no slot stays taken, and that memory is flat. Only Python's own library is needed. Exit code 1 if it does not hold.
"""

import argparse
import asyncio
import collections
import json
import random
import re
import sys
import time
import urllib.parse

PROMPTS = [f"Tell me about number {n}." for n in range(8)]
FAILURES = []
COUNTS = collections.Counter()


def body(prompt, stream, tokens):
    return json.dumps({
        "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": tokens, "stream": stream,
    }).encode()


def head(method, path, length, host):
    return (f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {length}\r\n\r\n").encode()


def unchunked(data):
    out = b""
    while True:
        line, _, rest = data.partition(b"\r\n")
        size = int(line or b"0", 16)
        if size == 0:
            return out
        out, data = out + rest[:size], rest[size + 2:]


def parsed(raw):
    top, _, rest = raw.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        rest = unchunked(rest)
    return int(lines[0].split(" ")[1]), headers, rest


def text_of(status, headers, content):
    if status != 200:
        return None
    if headers["content-type"].startswith("text/event-stream"):
        events = [line[6:] for line in content.decode().split("\n") if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            FAILURES.append("a stream without its end: " + content.decode()[-200:])
        chunks = [json.loads(event) for event in events if event != "[DONE]"]
        return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    return json.loads(content)["choices"][0]["message"]["content"]


class Load:
    def __init__(self, options):
        url = urllib.parse.urlsplit(options.url)
        self.host, self.port, self.netloc = url.hostname, url.port, url.netloc
        self.tokens, self.expected = options.tokens, {}

    async def open(self, data):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer

    async def get(self, path):
        reader, writer = await self.open(head("GET", path, 0, self.netloc))
        raw = await reader.read()
        writer.close()
        return parsed(raw)

    def request(self, prompt, stream, tokens=None):
        content = body(prompt, stream, tokens or self.tokens)
        return head("POST", "/v1/chat/completions", len(content), self.netloc) + content

    async def whole(self, prompt, stream, slow=False):
        reader, writer = await self.open(self.request(prompt, stream))
        raw = b""
        while piece := await reader.read(64 if slow else 65536):
            raw += piece
            if slow:
                await asyncio.sleep(0.02)
        writer.close()
        status, headers, content = parsed(raw)
        COUNTS[status] += 1
        if status in (429, 503):
            if "retry-after" not in headers:
                FAILURES.append(f"{status} without Retry-After")
            await asyncio.sleep(0.2)
        elif status != 200:
            FAILURES.append(f"status {status}: {content[:300]}")
        return text_of(status, headers, content)

    async def client(self, seed, until):
        chance = random.Random(seed)
        while time.monotonic() < until:
            kind = chance.choice(["whole", "stream", "stream", "slow", "abort", "abort", "half", "vanish"])
            prompt = chance.choice(PROMPTS)
            try:
                if kind in ("whole", "stream", "slow"):
                    text = await self.whole(prompt, kind != "whole", kind == "slow")
                    if text is not None and text != self.expected[prompt]:
                        FAILURES.append(f"{prompt!r} was answered {text!r}, alone {self.expected[prompt]!r}")
                    continue
                COUNTS[kind] += 1
                if kind == "half":
                    # The head of a request, and then nothing.
                    _, writer = await self.open(self.request(prompt, True)[:chance.randrange(10, 60)])
                    await asyncio.sleep(chance.uniform(0, 2))
                elif kind == "vanish":
                    # A request whose answer nobody reads.
                    _, writer = await self.open(self.request(prompt, True, 500))
                    await asyncio.sleep(chance.uniform(0, 2))
                else:
                    reader, writer = await self.open(self.request(prompt, chance.random() < 0.8, 500))
                    try:
                        await asyncio.wait_for(reader.read(chance.randrange(1, 2000)), chance.uniform(0.01, 1))
                    except asyncio.TimeoutError:
                        pass
                writer.transport.abort()
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                FAILURES.append(f"{kind}: {error!r}")

    async def gauges(self):
        _, _, content = await self.get("/metrics")
        return {name: float(value) for name, value in re.findall(r"^casallm_(active|queue|connections) (\S+)$", content.decode(), re.M)}


def resident(pid):
    if pid is None:
        return 0
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])


async def run(options):
    load = Load(options)
    for prompt in PROMPTS:
        load.expected[prompt] = await load.whole(prompt, True)
    begun = time.monotonic()
    clients = [asyncio.create_task(load.client(seed, begun + options.seconds)) for seed in range(options.clients)]
    await asyncio.sleep(options.seconds / 3)
    early = resident(options.pid)
    await asyncio.gather(*clients)
    late = resident(options.pid)
    gauges, waited = await load.gauges(), time.monotonic()
    while (gauges["active"] or gauges["queue"]) and time.monotonic() - waited < 5:
        await asyncio.sleep(0.05)
        gauges = await load.gauges()
    if gauges["active"] or gauges["queue"]:
        FAILURES.append(f"still taken after 5 s: {gauges}")
    if late > early * 1.1 + 20_000:
        FAILURES.append(f"memory grew from {early} to {late} kB")
    again = await load.whole(PROMPTS[0], True)
    if again != load.expected[PROMPTS[0]]:
        FAILURES.append("after the load a lone client gets another answer")
    print(json.dumps({
        "seconds": round(time.monotonic() - begun, 1), "clients": options.clients,
        "counts": {str(key): value for key, value in sorted(COUNTS.items(), key=str)},
        "rss_kb": [early, late], "gauges": gauges, "failures": len(FAILURES),
    }))
    for failure in FAILURES[:10]:
        print(failure, file=sys.stderr)
    return 1 if FAILURES or not COUNTS[200] else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://localhost:7860")
    parser.add_argument("--pid", type=int, help="the server's process, to watch its memory")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16)
    sys.exit(asyncio.run(run(parser.parse_args())))


main()
