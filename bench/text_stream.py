#!/usr/bin/env python3
"""A stream of text of any size, as jsonl.zst: real documents again and again, each time in another order and with other letters.

    pip install numpy zstandard
    python3 bench/text_stream.py corpus/openstax.jsonl.zst --gigabytes 4 --out stream.jsonl.zst

Every pass over the documents is shuffled, and one letter in `--every` becomes another, at places that the seed and the pass choose:
about one word in fifty is then one that nobody has seen, so that whoever remembers words gains no more than on new text (in ten times as
much real text there are about three times as many different words; here there are many times as many).
"""

import argparse
import json
import os

import numpy
import zstandard


def documents(paths, field="text"):
    """The texts of jsonl files, plain or .zst."""
    for path in paths:
        with open(path, "rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file) if path.endswith(".zst") else file
            rest = b""
            while block := stream.read(1 << 22):
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                yield from (json.loads(line)[field] for line in lines if line.strip())
            if rest.strip():
                yield json.loads(rest)[field]


def altered(body, every, random):
    """The same line with some of its small letters replaced; a letter after anything but a small letter stays, as it may be an escape."""
    line = numpy.frombuffer(body, numpy.uint8).copy()
    at = random.integers(1, max(2, len(line)), len(line) // every)
    at = at[at < len(line)]
    small = lambda bytes: (bytes >= 97) & (bytes <= 122)
    at = at[small(line[at]) & small(line[at - 1])]
    line[at] = random.integers(97, 123, len(at))
    return line.tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", help="jsonl files with `text`, plain or .zst")
    parser.add_argument("--gigabytes", type=float, required=True, help="of text, 10^9 bytes each")
    parser.add_argument("--out", required=True)
    parser.add_argument("--every", type=int, default=300, help="letters of which one is replaced")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    bodies = [json.dumps(text, ensure_ascii=False).encode() for text in documents(args.text)]
    sizes = [len(json.loads(body).encode()) for body in bodies]
    wanted, made, count, number = args.gigabytes * 1e9, 0, 0, 0
    with open(args.out, "wb") as file, zstandard.ZstdCompressor(level=1).stream_writer(file) as out:
        while made < wanted:
            random = numpy.random.default_rng([args.seed, number])
            for i in random.permutation(len(bodies)):
                out.write(b'{"text": ' + (altered(bodies[i], args.every, random) if number else bodies[i]) + b"}\n")
                made += sizes[i]
                count += 1
                if made >= wanted:
                    break
            number += 1
    print(json.dumps({"documents": count, "bytes": made, "passes": number, "file_bytes": os.path.getsize(args.out)}))


if __name__ == "__main__":
    main()
