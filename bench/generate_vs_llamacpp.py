#!/usr/bin/env python3
"""Prefill and decoding of casallm beside llama.cpp's, the same model in the same run, in 16, 8 and 4 bits a weight.

    pip install llama-cpp-python gguf numpy
    cargo build --release && python3 bench/generate_vs_llamacpp.py

All sides take turns (see rounds.py). The model is casallm's `modern` block, which llama.cpp knows as `qwen3`: it gets a GGUF
file of that shape with random weights in F16, and what its own quantiser makes of it. Its side (`--llamacpp-side FILE`) calls the
library directly: all cores in both phases, prompt in one batch, logits of the last position only, flash attention.

Build llama-cpp-python from its source for this processor (`pip install --no-binary llama-cpp-python llama-cpp-python`). Where its AMX
path stops with an illegal instruction: `CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_BF16=ON -DGGML_AVX512_VNNI=ON
-DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON"`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import rounds

# Ours, and what it is held against.
PAIRS = [("bf16", "F16"), ("q8", "Q8_0"), ("q4", "Q4_0"), ("q4", "Q4_K_M")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shape = dict(n_layer=24, n_embd=1024, n_head=16, n_kv_head=16, vocab_size=40960, prompt_tokens=512, new_tokens=64)
    for name, default in shape.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--isa", help="instruction set of casallm's side; llama.cpp's was chosen when it was built")
    parser.add_argument("--casallm", default="target/release/casallm", help="the binary")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    parser.add_argument("--llamacpp-side", metavar="FILE", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_f16(args, path):
    """A GGUF file of the shape: matrices in F16, norms in F32, a vocabulary without words."""
    import gguf
    import numpy as np

    d, head_dim = args.n_embd, args.n_embd // args.n_head
    # As casallm's `modern` block: 8 d / 3, rounded up to a multiple of 64.
    d_ff = -(-(-(-8 * d // 3)) // 64) * 64
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(args.prompt_tokens + args.new_tokens)
    writer.add_embedding_length(d)
    writer.add_block_count(args.n_layer)
    writer.add_feed_forward_length(d_ff)
    writer.add_head_count(args.n_head)
    writer.add_head_count_kv(args.n_kv_head)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(args.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(1)

    def matrix(name, rows, columns):
        writer.add_tensor(name, (random.standard_normal((rows, columns), np.float32) * 0.02).astype(np.float16))

    def ones(name, n):
        writer.add_tensor(name, np.ones(n, np.float32))

    matrix("token_embd.weight", args.vocab_size, d)
    ones("output_norm.weight", d)
    for i in range(args.n_layer):
        ones(f"blk.{i}.attn_norm.weight", d)
        ones(f"blk.{i}.ffn_norm.weight", d)
        ones(f"blk.{i}.attn_q_norm.weight", head_dim)
        ones(f"blk.{i}.attn_k_norm.weight", head_dim)
        matrix(f"blk.{i}.attn_q.weight", d, d)
        matrix(f"blk.{i}.attn_k.weight", args.n_kv_head * head_dim, d)
        matrix(f"blk.{i}.attn_v.weight", args.n_kv_head * head_dim, d)
        matrix(f"blk.{i}.attn_output.weight", d, d)
        matrix(f"blk.{i}.ffn_gate.weight", d_ff, d)
        matrix(f"blk.{i}.ffn_up.weight", d_ff, d)
        matrix(f"blk.{i}.ffn_down.weight", d, d_ff)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, kind, path):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), params) != 0:
        sys.exit(f"llama.cpp cannot make a {kind} file")


def llamacpp_side(args):
    """Times llama.cpp and prints one JSON line."""
    import llama_cpp as ll

    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(args.llamacpp_side.encode(), ll.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp does not load {args.llamacpp_side}")
    params = ll.llama_context_default_params()
    params.n_ctx = args.prompt_tokens + args.new_tokens
    params.n_batch = params.n_ubatch = args.prompt_tokens
    params.n_threads = params.n_threads_batch = args.threads
    params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = ll.llama_init_from_model(model, params)
    batch = ll.llama_batch_init(args.prompt_tokens, 0, 1)

    def extend(ids, at):
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, at + i, 1, 0
            batch.logits[i] = i + 1 == len(ids)
        if ll.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")
        ll.llama_synchronize(context)

    ids = [(i * 7919 + 1) % args.vocab_size for i in range(args.prompt_tokens)]
    prefill = []
    for _ in range(4):
        ll.llama_memory_clear(ll.llama_get_memory(context), True)
        begun = time.perf_counter()
        extend(ids, 0)
        prefill.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    for i in range(args.new_tokens):
        extend([(i * 104729 + 5) % args.vocab_size], args.prompt_tokens + i)
    decode = time.perf_counter() - begun
    print(json.dumps({
        "prefill_tokens_per_s": args.prompt_tokens / statistics.median(prefill[1:]),
        "decode_tokens_per_s": args.new_tokens / decode,
        "params": ll.llama_model_n_params(model),
        "file_bytes": os.path.getsize(args.llamacpp_side),
        "isa": ll.llama_print_system_info().decode().strip(" |"),
        "version": ll.__version__,
    }))


def main():
    args = arguments()
    if args.llamacpp_side:
        return llamacpp_side(args)
    if not os.path.exists(args.casallm):
        sys.exit(f"{args.casallm} is not there: cargo build --release first, or name it with --casallm")
    shape = ["n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size", "prompt_tokens", "new_tokens", "threads"]
    flags = [part for name in shape for part in ("--" + name.replace("_", "-"), str(getattr(args, name)))]
    with tempfile.TemporaryDirectory() as folder:
        print("writing the model's files for llama.cpp ...", file=sys.stderr)
        files = {kind: os.path.join(folder, f"{kind}.gguf") for _, kind in PAIRS}
        write_f16(args, files["F16"])
        for kind, path in files.items():
            if kind != "F16":
                quantise(files["F16"], kind, path)
        sides = {}
        for weights, kind in PAIRS:
            ours = [args.casallm, "bench", "generate", "--block", "modern", *flags, "--weights", weights, "--json"]
            sides[weights] = ours + (["--isa", args.isa] if args.isa else [])
            sides[kind] = [sys.executable, os.path.abspath(__file__), "--llamacpp-side", files[kind], *flags]

        def shown(result):
            return f"{result['prefill_tokens_per_s']:.0f} and {result['decode_tokens_per_s']:.1f}"

        turns = rounds.take_turns(sides, args.rounds, shown)
    if turns[0]["bf16"]["params"] != turns[0]["F16"]["params"]:
        sys.exit("the two sides do not run the same model: their parameters differ in number")
    fields = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s"}
    result = {side: {field: rounds.median(turns, side, field) for field in fields.values()} for side in sides}
    result["ratios"] = {f"{ours}/{kind}": {name: rounds.ratio(turns, field, ours, kind) for name, field in fields.items()}
                        for ours, kind in PAIRS}
    result.update(isa=turns[0]["bf16"]["isa"], llamacpp=f"{turns[0]['F16']['version']}: {turns[0]['F16']['isa']}")
    if args.json:
        print(json.dumps(result))
        return None
    print(f"{args.n_layer} x {args.n_embd} modern, vocabulary {args.vocab_size}, {args.prompt_tokens} tokens read, {args.new_tokens} written, "
          f"{args.threads} threads; tokens/s, medians of {args.rounds} rounds")
    print(f"casallm {result['isa']}; llama-cpp-python {result['llamacpp']}")
    print(f"{'':8} {'prefill':>9} {'decode':>9}")
    for side in sides:
        print(f"{side:8} {result[side]['prefill_tokens_per_s']:9.1f} {result[side]['decode_tokens_per_s']:9.2f}")
    for pair, of in result["ratios"].items():
        print(f"{pair:12} prefill {rounds.in_words(of['prefill'])}, decode {rounds.in_words(of['decode'])}")
    return None


if __name__ == "__main__":
    main()
