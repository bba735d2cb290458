#!/usr/bin/env python3
"""`casallm tokenize` beside Python's `tokenizers` on the same text, with the same tokenizer.json, and what longer texts cost.

    pip install tokenizers numpy zstandard
    cargo build --release
    python3 bench/tokenize_vs_tokenizers.py corpus/openstax.jsonl.zst
    python3 bench/tokenize_vs_tokenizers.py corpus/openstax.jsonl.zst --streams 1,4,16 --folder /some/disk

A tokenizer of `--vocab-size` is trained on the text by `casallm tokenizer train`. Then both sides take turns:

- casallm: the whole command on a jsonl.zst file, from its start to its end: decompressing, parsing, encoding, writing shards to the disk
  and their checksums;
- tokenizers: `Tokenizer.encode_batch` alone, on lists of strings that are in memory already, 1000 documents at a time; and
  `encode_batch_fast`, which leaves offsets out.

Both may use all cores of `--cores`. Speeds are bytes of UTF-8 a second. The ids of all documents are compared.

With `--streams` texts of so many gigabytes are made (see text_stream.py), each tokenised once: time, processor time and peak memory.
With `--training` a text of so many gigabytes is made and a tokenizer trained on all of it, twice, with all threads and with one: time,
peak memory, and whether the two files are the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import rounds


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", help="jsonl files with `text`, plain or .zst")
    parser.add_argument("--megabytes", type=float, default=64, help="of the text that both are measured on")
    parser.add_argument("--vocab-size", type=int, default=40_960)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", default=",".join(map(str, sorted(os.sched_getaffinity(0)))), help="of the processor, as 0,1")
    parser.add_argument("--casallm", default="target/release/casallm")
    parser.add_argument("--folder", help="where files go for the time being")
    parser.add_argument("--streams", default="", help="gigabytes of longer texts, as 1,4,16")
    parser.add_argument("--training", help="gigabytes of text to train a tokenizer on")
    parser.add_argument("--flags", default="", help="more flags of `casallm tokenize` for these, in one string")
    parser.add_argument("--side", choices=["casallm", "encode_batch", "encode_batch_fast"], help=argparse.SUPPRESS)
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    return parser.parse_args()


def taken(command, **environment):
    """Runs a command with --json: its last line, with what it took."""
    begun = time.perf_counter()
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as child:
        lines = child.stdout.read().splitlines()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    return {**json.loads(lines[-1]), "seconds": time.perf_counter() - begun, "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024}


def tokenized(casallm, text, tokenizer, folder, flags=()):
    """Runs `casallm tokenize`; what it says, and what it took."""
    took = taken([casallm, "tokenize", text, "-t", tokenizer, "-o", folder, "--validation-fraction", "0", *flags])
    size = took["report"]["read"]["bytes"]
    return {**took, "bytes": size, "mb_per_s": size / took["seconds"] / 1e6}


def our_ids(folder):
    """Ids of all shards, control tokens included."""
    import numpy

    names = sorted(name for name in os.listdir(folder) if name.startswith("train-"))
    read = lambda name: numpy.fromfile(os.path.join(folder, name), "<u2", offset=1024)
    return numpy.concatenate([read(name) for name in names])


def one_side(args):
    """One measurement, as a JSON line. `text` is the file and the tokenizer."""
    text, tokenizer = args.text
    if args.side == "casallm":
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            result = tokenized(args.casallm, text, tokenizer, os.path.join(folder, "shards"))
            if args.ids:
                our_ids(os.path.join(folder, "shards")).tofile(args.ids)
    else:
        import numpy
        from tokenizers import Tokenizer

        from text_stream import documents

        texts = list(documents([text]))
        encoder = Tokenizer.from_file(tokenizer)
        encode = getattr(encoder, args.side)
        encode(texts[:100])
        ids, seconds = [], 0.0
        for at in range(0, len(texts), 1000):
            batch = texts[at:at + 1000]
            begun = time.perf_counter()
            encoded = encode(batch, add_special_tokens=False)
            seconds += time.perf_counter() - begun
            if args.ids:
                ids.extend(numpy.array([0, *one.ids, 1], "<u2") for one in encoded)
        size = sum(len(one.encode()) for one in texts)
        result = {"bytes": size, "seconds": seconds, "mb_per_s": size / seconds / 1e6}
        if args.ids:
            numpy.concatenate(ids).tofile(args.ids)
    print(json.dumps(result))


def main():
    args = arguments()
    os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(len(args.cores.split(",")))
    if args.side:
        return one_side(args)
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = lambda name: os.path.join(folder, name)
        make = lambda gigabytes, name: subprocess.run(
            [sys.executable, os.path.join(here, "text_stream.py"), *args.text, "--gigabytes", str(gigabytes), "--out", file(name)],
            check=True, stdout=subprocess.DEVNULL)
        make(args.megabytes / 1e3, "text.jsonl.zst")
        train = ["tokenizer", "train", file("text.jsonl.zst"), "-o", file("tokenizer.json"), "--vocab-size", str(args.vocab_size), "--quiet"]
        subprocess.run([args.casallm, *train], check=True)
        side = lambda name, *more: [sys.executable, __file__, file("text.jsonl.zst"), file("tokenizer.json"), "--side", name, "--cores",
                                    args.cores, "--casallm", args.casallm, *(["--folder", args.folder] if args.folder else []), *more]
        names = ["casallm", "encode_batch", "encode_batch_fast"]
        for name in names:
            rounds.measured(name, side(name, "--ids", file(name)))
        ids = [open(file(name), "rb").read() for name in names]
        equal = ids[0] == ids[1] == ids[2]
        print(f"ids: {len(ids[0]) // 2} of casallm, {len(ids[1]) // 2} of tokenizers, {'identical' if equal else 'DIFFERENT'}")
        measured = rounds.take_turns({name: side(name) for name in names}, args.rounds, lambda r: f"{r['mb_per_s']:.1f} MB/s")
        for name in names:
            print(f"{name}: {rounds.median(measured, name, 'mb_per_s'):.1f} MB/s")
        for name in names[1:]:
            print(f"casallm over {name}: {rounds.in_words(rounds.ratio(measured, 'mb_per_s', 'casallm', name))}")
        peak = statistics.median(one["casallm"]["peak_mb"] for one in measured)
        print(f"casallm's peak memory: {peak:.0f} MB")
        for gigabytes in filter(None, args.streams.split(",")):
            make(gigabytes, "stream.jsonl.zst")
            took = tokenized(args.casallm, file("stream.jsonl.zst"), file("tokenizer.json"), file("shards"), args.flags.split())
            subprocess.run(["rm", "-r", file("shards"), file("stream.jsonl.zst")], check=True)
            each = took["cpu_s"] / took["bytes"] * 1e9
            print(f"{gigabytes} GB: {took['seconds']:.1f} s, {took['mb_per_s']:.1f} MB/s, {each:.2f} processor seconds a GB, "
                  f"peak {took['peak_mb']:.0f} MB, {took['tokens']} tokens, kept {took['report']['kept']['documents']} of "
                  f"{took['report']['read']['documents']} documents", flush=True)
        if args.training:
            make(args.training, "training.jsonl.zst")
            train = [args.casallm, "tokenizer", "train", file("training.jsonl.zst"), "--vocab-size", str(args.vocab_size),
                     "--sample-bytes", str(int(float(args.training) * 1e9))]
            for name, threads in [("all threads", os.environ["RAYON_NUM_THREADS"]), ("one thread", "1")]:
                took = taken([*train, "-o", file("trained.json")], RAYON_NUM_THREADS=threads)
                print(f"training on {took['bytes']} bytes, {name}: {took['seconds']:.1f} s, peak {took['peak_mb']:.0f} MB, "
                      f"fingerprint {took['fingerprint']}", flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
