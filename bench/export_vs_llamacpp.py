#!/usr/bin/env python3
"""An exported GGUF file beside llama.cpp: its tokenizer, its greedy continuations, its perplexity, its quantiser.

    pip install llama-cpp-python gguf numpy
    cargo build --release && cargo build --release -p casallm-cli --example greedy_ids
    python3 bench/export_vs_llamacpp.py runs/casallm-350m/model texts.txt

1. The texts, in pieces of `--characters`, become ids by llama.cpp and by ours; and by llama.cpp under the other names of ways to
   cut text that might be ours.
2. Prompts are continued by the likeliest token in llama.cpp on the F32 and on the F16 file, and by ours on the same weights (the
   file imported again). A classic model is computed otherwise there: by the tanh approximation of GELU, from a table of halves; and
   products with F16 weights round the activations to halves. Where continuations part, the gap between our two likeliest logits says
   whether it was a near tie; `--tolerance` is how large a gap may be.
3. Perplexity of the texts by llama.cpp on every kind of file, and by ours.
4. Every tensor of the quantised files is compared with the bytes that llama.cpp's own `llama_model_quantize` makes of the F32 file.
5. Every file is imported again; the F32 file must give the bits of the model directory.

Exit code 1 when continuations part at a gap above the tolerance, the F16 perplexity is more than 0.5 % from ours, a tensor or the
imported model differs, or ids differ: of a text without a number of three digits where the tokenizer takes two digits at a time, of
any text where it takes one or three.
"""

import argparse
import ctypes
import json
import math
import os
import re
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from gguf import GGUFReader

HERE = os.path.dirname(os.path.abspath(__file__))
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"]
FTYPES = {"q8_0": 7, "q4_0": 2, "q4_k_m": 15}
OTHER_NAMES = ["smaug-bpe", "qwen2", "gpt-2", "llama-bpe"]
HOSTILE = [
    "Hello, world!", " leading and trailing  ", "a\n\n\nb\n \n\tc\r\nd", "3.14 0x1F ½ ٣ Ⅷ", "It's WE'LL they're I'd don't 'S",
    "naïve café Ångström ﬁ e\u0301", "日本語のテキスト、漢字とかな。", "Привет, мир! Γειά σου", "\U0001F600\U0001F468\u200d\U0001F469\u200d\U0001F467",
    "مرحبا بالعالم", "नमस्ते दुनिया", "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\nif __name__ == '__main__':\n\tprint(f(12))\n",
    "<s> </s> <pad> <|system|> <|user|> <|assistant|>", "        eight\u00a0nbsp\u2003em\u3000ideographic", "...!!!???---___***", " ", "\n", "   \n   ",
    "\t\t", "a" * 300, " " * 70 + "x", "$10.00 + 5% = ?", "zero\u200bwidth\ufeffmarks", "\u2028\u2029\x0b\x0c\x85", "{{ x }} {% if %}", "\\n \"q\" `c`",
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model directory")
    parser.add_argument("texts", help="a file of text")
    parser.add_argument("--count", type=int, default=1000, help="how many texts")
    parser.add_argument("--characters", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=100, help="length of each continuation")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--places", type=int, default=8192, help="tokens of perplexity")
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--casallm", default=os.path.join(HERE, "../target/release/casallm"))
    parser.add_argument("--greedy-ids", default=os.path.join(HERE, "../target/release/examples/greedy_ids"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def ours(program, model, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([program, model], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def load(flags, path, context, **more):
    return llama_cpp.Llama(model_path=path, n_ctx=context, n_batch=context, n_threads=flags.threads, n_threads_batch=flags.threads,
                           logits_all=True, verbose=False, **more)


def compare_tokenizers(flags, path, texts):
    expected = [answer["ids"] for answer in ours(flags.greedy_ids, flags.model, [{"text": text} for text in texts])]
    # Digits two at a time are the one thing that llama.cpp has no name for.
    pairs = "{1,2}" in open(os.path.join(flags.model, "tokenizer.json"), encoding="utf-8").read()
    stated = GGUFReader(path).fields["tokenizer.ggml.pre"].contents()
    plain = [re.search(r"\d{3}", text) is None for text in texts]
    good = True
    for name in [stated] + [name for name in OTHER_NAMES if name != stated]:
        vocabulary = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False, kv_overrides={"tokenizer.ggml.pre": name})
        found = [vocabulary.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
        same = [a == b for a, b in zip(found, expected)]
        off = sum(len(b) for a, b, equal in zip(found, expected, same) if not equal)
        back = sum(b"".join(vocabulary.detokenize([id]) for id in ids) == text.encode() for ids, text in zip(found, texts))
        few = sum(equal for equal, is_plain in zip(same, plain) if is_plain)
        print(f"  {name}{' (stated)' if name == stated else ''}: {sum(same)} of {len(texts)} texts have our ids ({few} of {sum(plain)} without a "
              f"number of three digits); {back} come back")
        if name == stated:
            good = few == sum(plain) and (pairs or all(same))
            for text, a, b, equal, is_plain in zip(texts, found, expected, same, plain):
                if is_plain and not equal:
                    print(f"    {text[:80]!r}: {a[:12]} {b[:12]}")
    return good


def greedy(llama, prompt, tokens):
    """The likeliest ids after `prompt`, one after the other."""
    llama.reset()
    llama.eval(prompt)
    ids = []
    while len(ids) < tokens:
        ids.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(ids[-1:])
    return ids


def compare_greedy(flags, kind, llama, folder, prompts):
    told = ours(flags.greedy_ids, folder, [{"prompt": ids, "tokens": flags.tokens} for ids in prompts])
    parted = []
    for ids, answer in zip(prompts, told):
        theirs = greedy(llama, ids, flags.tokens)
        at = next((i for i, (a, b) in enumerate(zip(theirs, answer["ids"])) if a != b), None)
        if at is not None:
            parted.append(answer["gaps"][at])
    print(f"  {kind}: {len(prompts) - len(parted)} of {len(prompts)} continuations of {flags.tokens} tokens are ours; "
          f"the others part at gaps {[round(gap, 4) for gap in parted]}")
    return all(gap <= flags.tolerance for gap in parted)


def surprise(logits, ids):
    """Sum of -log p of each id after the first."""
    logits = logits[:-1].astype(np.float64)
    most = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - most).sum(axis=1)) + most[:, 0]
    return float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).sum())


def compare_bytes(path, f32, kind, work):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FTYPES[kind]
    other = os.path.join(work, "theirs.gguf")
    if llama_cpp.llama_model_quantize(f32.encode(), other.encode(), ctypes.byref(parameters)):
        sys.exit("llama_model_quantize failed")
    mine = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    theirs = {tensor.name: tensor for tensor in GGUFReader(other).tensors}
    same = [name for name, tensor in theirs.items()
            if tensor.tensor_type == mine[name].tensor_type and np.array_equal(np.asarray(tensor.data), np.asarray(mine[name].data))]
    print(f"  {kind}: {len(same)} of {len(theirs)} tensors have the type and the bytes of llama_model_quantize")
    return len(same) == len(theirs) == len(mine)


def main():
    flags = arguments()
    print(f"llama-cpp-python {llama_cpp.__version__}")
    with open(flags.texts, encoding="utf-8") as file:
        whole = file.read()
    count = flags.count - len(HOSTILE)
    step = max(len(whole) // count, 1)
    texts = HOSTILE + [whole[at * step:][:flags.characters] for at in range(count)]
    config = json.load(open(os.path.join(flags.model, "config.json")))
    context = min(config["context"], 512)
    good = []
    with tempfile.TemporaryDirectory() as work:
        paths = {kind: os.path.join(work, f"{kind}.gguf") for kind in TYPES}
        for kind, path in paths.items():
            subprocess.run([flags.casallm, "export", flags.model, "--to", "gguf", "--type", kind, "--out", path, "--quiet"], check=True)
        backs = {kind: os.path.join(work, kind) for kind in TYPES}
        for kind, path in paths.items():
            subprocess.run([flags.casallm, "import", path, "--out", backs[kind], "--quiet"], check=True)
        read = lambda where, name: open(os.path.join(where, name), "rb").read()

        names = ["config.json", "tokenizer.json"]
        same = {name: all(read(back, name) == read(flags.model, name) for back in backs.values()) for name in names}
        print(f"imported again: {same}")
        good.append(all(same.values()))

        print("ids of texts:")
        good.append(compare_tokenizers(flags, paths["f16"], texts))

        encoded = [answer["ids"] for answer in ours(flags.greedy_ids, flags.model, [{"text": text} for text in texts[len(HOSTILE):]])]
        prompts = [[0] + ids[:8] for ids in encoded[:: max(len(encoded) // flags.prompts, 1)][: flags.prompts]]
        stream = [id for ids in encoded for id in ids][: flags.places]
        rows = [[0] + stream[at : at + context - 1] for at in range(0, len(stream) - context, context - 1)]
        places = sum(len(row) - 1 for row in rows)
        files = [os.path.join(work, f"logits-{n}") for n in range(len(rows))]

        def our_perplexity(folder):
            ours(flags.greedy_ids, folder, [{"ids": row, "logits": file} for row, file in zip(rows, files)])
            return math.exp(sum(surprise(np.fromfile(file, "<f4").reshape(len(row), -1), row) for row, file in zip(rows, files)) / places)

        exact = our_perplexity(flags.model)
        print(f"perplexity of {places} tokens: ours {exact:.4f}")
        print("greedy and perplexity:")
        for kind in TYPES:
            # Type 0 is F32: keys and values are otherwise rounded to 16 bits.
            llama = load(flags, paths[kind], context, type_k=0, type_v=0)
            if kind in ("f32", "f16"):
                good.append(compare_greedy(flags, kind, llama, backs[kind], prompts))
            total, apart = 0.0, 0.0
            for n, row in enumerate(rows):
                llama.reset()
                llama.eval(row)
                scores = np.array(llama.scores[: len(row)])
                total += surprise(scores, row)
                if kind == "f32":
                    apart = max(apart, float(np.abs(scores - np.fromfile(files[n], "<f4").reshape(scores.shape)).max()))
            perplexity = math.exp(total / places)
            away = 100 * (perplexity / exact - 1)
            print(f"  {kind}: perplexity {perplexity:.4f}, {away:+.3f} % from ours" + (f"; logits at most {apart:.2e} apart" if apart else ""))
            good.append(kind not in ("f32", "f16") or abs(away) <= 0.5)
            del llama
        print("quantised by both:")
        good += [compare_bytes(paths[kind], paths["f32"], kind, work) for kind in FTYPES]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
