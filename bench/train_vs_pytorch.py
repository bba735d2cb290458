#!/usr/bin/env python3
"""A training step of casallm beside PyTorch's, the same model on the same machine in the same run.

    cargo build --release && python3 bench/train_vs_pytorch.py
    python3 bench/train_vs_pytorch.py --n-layer 6 --n-embd 384 --n-head 6 --vocab-size 4096 --context 256 --batch 32 --compile
    python3 bench/train_vs_pytorch.py --device cuda --compile --best-batch --steps 10

Both sides take turns, `--rounds` times, each in a process of its own with the same number of threads, so that neither
has the machine to itself in a better minute. Printed are the medians, and the ratio of each round with its spread:
only ratios of one run mean something. Needs torch (`pip install torch`) for this Python, or for that of `--python`.

PyTorch's side (`--pytorch-side`) uses what its users would switch on: bf16 autocast, scaled_dot_product_attention
with `is_causal` (its flash path), fused AdamW, and torch.compile on request. Model: pre-LayerNorm with biases, RoPE
on the whole head, QKV without bias, exact GELU, tied embeddings: casallm's `classic` block, the same weights counted.
FLOPs a token on both sides: 6 N + 6 L d T, the tied embedding counted once.
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
    shape = dict(n_layer=24, n_embd=1024, n_head=16, vocab_size=40960, context=1024, batch=1)
    for name, default in shape.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of both sides")
    parser.add_argument("--best-batch", action="store_true",
                        help="each side at the --batch that is fastest for it, by doubling until memory ends")
    parser.add_argument("--steps", type=int, default=3, help="steps of a round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", help="instruction set of casallm's side; PyTorch's has the best it knows")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16", help="of both sides")
    parser.add_argument("--pytorch-precision", choices=["bf16", "f32"],
                        help="PyTorch's, where it differs: f32 on a processor that has no bf16 arithmetic")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--casallm", default="target/release/casallm", help="the binary")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    parser.add_argument("--pytorch-side", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def pytorch_side(args):
    """Times PyTorch's steps and prints one JSON line."""
    import resource

    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    on_gpu = args.device == "cuda"
    if on_gpu and args.precision == "f32":
        # As casallm without --tf32.
        torch.backends.cuda.matmul.allow_tf32 = False

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            d = args.n_embd
            self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
            self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x, cos, sin):
            rows, length, d = x.shape
            heads = self.qkv(self.norm1(x)).view(rows, length, 3, args.n_head, -1).permute(2, 0, 3, 1, 4)
            q, k, v = heads.unbind()

            def rotate(t):
                a, b = t.chunk(2, -1)
                return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(v.dtype)

            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(rows, length, d))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(args.vocab_size, args.n_embd)
            nn.init.normal_(self.embed.weight, std=0.02)
            self.blocks = nn.ModuleList(Block() for _ in range(args.n_layer))
            self.norm = nn.LayerNorm(args.n_embd)
            half = args.n_embd // args.n_head // 2
            angles = torch.outer(torch.arange(args.context).float(), 10000.0 ** (-torch.arange(half) / half))
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

        def forward(self, ids):
            x = self.embed(ids)
            if args.precision == "bf16":
                x = x.bfloat16()
            cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
            for block in self.blocks:
                x = block(x, cos, sin)
            return F.linear(self.norm(x), self.embed.weight)

    model = Model().to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if args.compile else model
    ids = torch.randint(0, args.vocab_size, (args.batch, args.context + 1), device=args.device)
    seconds = []
    for step in range(args.steps + 1):
        if on_gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            loss = F.cross_entropy(run(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()
        if step > 0:
            seconds.append(time.perf_counter() - begun)
    tokens_per_s = args.batch * args.context / statistics.median(seconds)
    params = sum(p.numel() for p in model.parameters())
    flops = 6 * params + 6 * args.n_layer * args.n_embd * args.context
    print(json.dumps({
        "tokens_per_s": tokens_per_s,
        "gflops_per_s": flops * tokens_per_s / 1e9,
        "params": params,
        # On a GPU, what the driver holds for the process' tensors: that is what decides whether a batch fits.
        "peak_bytes": torch.cuda.max_memory_reserved() if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "isa": f"torch {torch.__version__}{' compiled' if args.compile else ''}",
        "threads": torch.get_num_threads(),
    }))


def with_peak(result):
    """On a GPU casallm allocates once: what it holds is its peak."""
    if result.get("device", "cpu") != "cpu":
        result["peak_bytes"] = result["device_bytes"]
    return result


def best_batch(name, command):
    """The batch at which a side is fastest: doubled until it does not fit, or no longer gains."""
    best, speed = 0, 0.0
    batch = 1
    while batch <= 256:
        result = rounds.measured(name, command + ["--batch", str(batch)], may_fail=True)
        if result is None or result["tokens_per_s"] < 1.02 * speed:
            break
        best, speed = batch, result["tokens_per_s"]
        batch *= 2
    if best == 0:
        sys.exit(f"{name} does not fit with a single row: {' '.join(command)}")
    print(f"{name} is at its best with {best} rows", file=sys.stderr)
    return best


def main():
    args = arguments()
    if args.pytorch_side:
        return pytorch_side(args)
    if args.steps < 1:
        sys.exit("--steps must be at least 1")
    if not os.path.exists(args.casallm):
        sys.exit(f"{args.casallm} is not there: cargo build --release first, or name it with --casallm")
    shape = ["n_layer", "n_embd", "n_head", "vocab_size", "context", "steps", "precision"]
    flags = [part for name in shape for part in ("--" + name.replace("_", "-"), str(getattr(args, name)))]
    flags += ["--device", args.device]
    threads = ["--threads", str(args.threads)]
    # Threads and instruction set are the processor's; casallm refuses them on a GPU.
    ours = [args.casallm, "bench", "train", *flags, "--json"] + (threads if args.device == "cpu" else [])
    ours += ["--isa", args.isa] if args.isa else []
    theirs = [args.python, os.path.abspath(__file__), "--pytorch-side", *flags, *threads] + ["--compile"] * args.compile
    # The last one counts.
    theirs += ["--precision", args.pytorch_precision or args.precision]
    sides = {"casallm": ours, "pytorch": theirs}
    batches = {name: best_batch(name, sides[name]) if args.best_batch else args.batch for name in sides}
    sides = {name: command + ["--batch", str(batches[name])] for name, command in sides.items()}
    turns = rounds.take_turns(sides, args.rounds, lambda r: f"{r['tokens_per_s']:.1f} tokens/s", with_peak)
    if len({side["params"] for turn in turns for side in turn.values()}) != 1:
        sys.exit("the two sides do not train the same model: their parameters differ in number")
    fields = ("tokens_per_s", "gflops_per_s", "peak_bytes")
    result = {side: {field: rounds.median(turns, side, field) for field in fields} for side in sides}
    for side in sides:
        result[side].update(isa=turns[0][side]["isa"], threads=turns[0][side]["threads"], batch=batches[side])
    for name, field in (("speed_ratio", "tokens_per_s"), ("memory_ratio", "peak_bytes")):
        result[name] = rounds.ratio(turns, field, "casallm", "pytorch")
    result.update(params=turns[0]["casallm"]["params"], rounds=args.rounds)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.n_layer} x {args.n_embd}, {result['params'] / 1e6:.1f} M weights, vocabulary {args.vocab_size}, "
          f"context {args.context}, {args.precision}, PyTorch {args.pytorch_precision or args.precision}, {args.device}; medians of {args.rounds} rounds")
    print(f"{'':10} {'tokens/s':>10} {'GFLOP/s':>10} {'peak GB':>8}  by")
    for side in sides:
        r = result[side]
        print(f"{side:10} {r['tokens_per_s']:10.1f} {r['gflops_per_s']:10.1f} {r['peak_bytes'] / 1e9:8.2f}  "
              f"{r['isa']}, {r['threads']} threads, batch {r['batch']}")
    for label, name in (("speed", "speed_ratio"), ("memory", "memory_ratio")):
        print(f"{label:10} {rounds.in_words(result[name])} of PyTorch's")


if __name__ == "__main__":
    main()
