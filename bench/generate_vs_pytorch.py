#!/usr/bin/env python3
"""Prefill and decoding of casallm beside PyTorch's, the same model on the same machine in the same run.

    cargo build --release && python3 bench/generate_vs_pytorch.py

Both sides take turns (see rounds.py). Needs torch (`pip install torch`) for this Python, or for that of `--python`.
PyTorch's side (`--pytorch-side`) is written as its users would for speed: bf16 weights, scaled_dot_product_attention, a
cache that is allocated once, inference mode, logits of the last position only. Model: casallm's `classic` block.
"""

import argparse
import json
import os
import statistics
import sys
import time

import rounds


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = dict(n_layer=24, n_embd=1024, n_head=16, vocab_size=40960, prompt_tokens=512, new_tokens=64)
    for name, default in shape.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", help="instruction set of casallm's side; PyTorch's has the best it knows")
    parser.add_argument("--casallm", default="target/release/casallm", help="the binary")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    parser.add_argument("--pytorch-side", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def pytorch_side(args):
    """Times PyTorch and prints one JSON line."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    d, heads, capacity = args.n_embd, args.n_head, args.prompt_tokens + args.new_tokens
    half = d // heads // 2

    def weight(*shape):
        return (torch.randn(*shape) * 0.02).bfloat16()

    embed = weight(args.vocab_size, d)
    norm = (torch.ones(d).bfloat16(), weight(d))
    blocks = [dict(norm1=norm, norm2=norm, qkv=weight(3 * d, d), out=(weight(d, d), weight(d)),
                   up=(weight(4 * d, d), weight(4 * d)), down=(weight(d, 4 * d), weight(d))) for _ in range(args.n_layer)]
    keys = torch.zeros(args.n_layer, heads, capacity, d // heads, dtype=torch.bfloat16)
    values = torch.zeros_like(keys)
    angles = torch.outer(torch.arange(capacity).float(), 10000.0 ** (-torch.arange(half) / half))
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()

    @torch.inference_mode()
    def extend(ids, at):
        x, n = embed[ids], len(ids)
        end = at + n

        def rotate(t):
            a, b = t[..., :half], t[..., half:]
            return torch.cat((a * cos[at:end] - b * sin[at:end], a * sin[at:end] + b * cos[at:end]), -1)

        for i, block in enumerate(blocks):
            q, k, v = F.linear(F.layer_norm(x, (d,), *block["norm1"]), block["qkv"]).view(n, 3, heads, -1).permute(1, 2, 0, 3)
            keys[i, :, at:end], values[i, :, at:end] = rotate(k), v
            y = F.scaled_dot_product_attention(rotate(q)[None], keys[i, :, :end][None], values[i, :, :end][None], is_causal=n > 1)
            x = x + F.linear(y[0].transpose(0, 1).reshape(n, d), *block["out"])
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (d,), *block["norm2"]), *block["up"])), *block["down"])
        return F.linear(F.layer_norm(x[-1:], (d,), *norm), embed)

    prompt = torch.randint(0, args.vocab_size, (args.prompt_tokens,))
    prefill = []
    for _ in range(4):
        begun = time.perf_counter()
        extend(prompt, 0)
        prefill.append(time.perf_counter() - begun)
    following = torch.randint(0, args.vocab_size, (args.new_tokens, 1))
    begun = time.perf_counter()
    for i, ids in enumerate(following):
        extend(ids, args.prompt_tokens + i)
    decode = time.perf_counter() - begun
    print(json.dumps({
        "prefill_tokens_per_s": args.prompt_tokens / statistics.median(prefill[1:]),
        "decode_tokens_per_s": args.new_tokens / decode,
        "isa": f"torch {torch.__version__}",
        "threads": torch.get_num_threads(),
    }))


def main():
    args = arguments()
    if args.pytorch_side:
        return pytorch_side(args)
    if not os.path.exists(args.casallm):
        sys.exit(f"{args.casallm} is not there: cargo build --release first, or name it with --casallm")
    shape = ["n_layer", "n_embd", "n_head", "vocab_size", "prompt_tokens", "new_tokens", "threads"]
    flags = [part for name in shape for part in ("--" + name.replace("_", "-"), str(getattr(args, name)))]
    sides = {
        "casallm": [args.casallm, "bench", "generate", *flags, "--json"] + (["--isa", args.isa] if args.isa else []),
        "pytorch": [args.python, os.path.abspath(__file__), "--pytorch-side", *flags],
    }

    def shown(result):
        return f"{result['prefill_tokens_per_s']:.0f} and {result['decode_tokens_per_s']:.1f} tokens/s"

    turns = rounds.take_turns(sides, args.rounds, shown)
    fields = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s"}
    result = {side: {field: rounds.median(turns, side, field) for field in fields.values()} for side in sides}
    for side in sides:
        result[side].update(isa=turns[0][side]["isa"], threads=turns[0][side]["threads"])
    for name, field in fields.items():
        result[f"{name}_ratio"] = rounds.ratio(turns, field, "casallm", "pytorch")
    if args.json:
        print(json.dumps(result))
        return None
    print(f"{args.n_layer} x {args.n_embd}, vocabulary {args.vocab_size}, bf16, {args.prompt_tokens} tokens read, "
          f"{args.new_tokens} written; tokens/s, medians of {args.rounds} rounds")
    print(f"{'':10} {'prefill':>9} {'decode':>9}  by")
    for side in sides:
        r = result[side]
        print(f"{side:10} {r['prefill_tokens_per_s']:9.1f} {r['decode_tokens_per_s']:9.2f}  {r['isa']}, {r['threads']} threads")
    for name in fields:
        print(f"{name:10} {rounds.in_words(result[f'{name}_ratio'])} of PyTorch's")
    return None


if __name__ == "__main__":
    main()
