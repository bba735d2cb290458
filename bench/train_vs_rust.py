#!/usr/bin/env python3
"""A training step of casallm beside the same model in candle or Burn, on the processor, in the same run.

    cargo build --release && python3 bench/train_vs_rust.py --rival candle
    python3 bench/train_vs_rust.py --rival burn

The rival (bench/rust/) is built for this processor (`-C target-cpu=native`; the first time takes minutes), in f32: neither multiplies
bf16 on a processor. casallm runs as it does for its users, in bf16, or in f32 with `--precision f32`. Both sides take turns; printed are
medians, and the ratio of each round with its spread. Shapes are small by default, because `T x T` probabilities of every layer and
head are kept by both rivals.
"""

import argparse
import json
import os
import subprocess
import sys

import rounds


def build(rival):
    """The rival's binary."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rust", rival)
    environment = dict(os.environ, RUSTFLAGS="-C target-cpu=native")
    done = subprocess.run(["cargo", "build", "--release", "--locked"], cwd=here, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"{rival} does not build: see above")
    return os.path.join(here, "target", "release", f"train-with-{rival}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", choices=["candle", "burn"], required=True)
    shape = dict(n_layer=6, n_embd=384, n_head=6, vocab_size=4096, context=256, batch=8)
    for name, default in shape.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--steps", type=int, default=3, help="steps of a round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16", help="of casallm's side")
    parser.add_argument("--casallm", default="target/release/casallm", help="the binary")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    args = parser.parse_args()
    if args.steps < 1:
        sys.exit("--steps must be at least 1")
    if not os.path.exists(args.casallm):
        sys.exit(f"{args.casallm} is not there: cargo build --release first, or name it with --casallm")
    flags = [part for name in [*shape, "steps"] for part in ("--" + name.replace("_", "-"), str(getattr(args, name)))]
    sides = {
        "casallm": [args.casallm, "bench", "train", *flags, "--precision", args.precision, "--threads", str(args.threads), "--json"],
        args.rival: ["env", f"RAYON_NUM_THREADS={args.threads}", build(args.rival), *flags],
    }
    turns = rounds.take_turns(sides, args.rounds, lambda r: f"{r['tokens_per_s']:.1f} tokens/s")
    if len({side["params"] for turn in turns for side in turn.values()}) != 1:
        sys.exit("the two sides do not train the same model: their parameters differ in number")
    result = {side: {field: rounds.median(turns, side, field) for field in ("tokens_per_s", "peak_bytes")} for side in sides}
    for name, field in (("speed_ratio", "tokens_per_s"), ("memory_ratio", "peak_bytes")):
        result[name] = rounds.ratio(turns, field, "casallm", args.rival)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.n_layer} x {args.n_embd}, {turns[0]['casallm']['params'] / 1e6:.1f} M weights, vocabulary {args.vocab_size}, "
          f"context {args.context}, batch {args.batch}; medians of {args.rounds} rounds")
    for side in sides:
        print(f"{side:10} {result[side]['tokens_per_s']:10.1f} tokens/s {result[side]['peak_bytes'] / 1e9:8.2f} GB  "
              f"{turns[0][side]['isa']}")
    print(f"speed {rounds.in_words(result['speed_ratio'])}, memory {rounds.in_words(result['memory_ratio'])}")


if __name__ == "__main__":
    main()
