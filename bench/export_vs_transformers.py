#!/usr/bin/env python3
"""An exported model beside `transformers`: logits, greedy continuations, ids of conversations.

    pip install torch transformers
    cargo build --release && cargo build --release -p casallm-cli --example greedy_ids
    python3 bench/export_vs_transformers.py runs/casallm-350m/model

The model directory is exported with `casallm export --to hf --dtype f32` and loaded with `transformers`. Then, each by its
own code and in f32:

1. for prompts of text the logits at every place, and the continuation by the likeliest token, `--tokens` times;
2. ids of random conversations by `apply_chat_template`, by our renderer, and by minijinja on the exported template. Their
   texts hold what people may type: markup, Jinja, control characters, other scripts, and names of control tokens. Where such a
   name stands whole, `transformers` reads it as the control token, which is what we never do: there the rendered *texts* are
   compared, and that none of our ids of a message is a control token;
3. the folder is imported again: the model directory must have the bits it had.

Exit code 1 when logits are more than `--tolerance` apart, or a continuation, ids or the imported model differ.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPTS = [
    "The cell membrane", "In economics, demand", "A force acts on", "Once upon a time", "The heart pumps blood", "Chemical bonds form when",
    "Psychologists study", "The derivative of a function", "During the nineteenth century", "Photosynthesis is", "Light travels",
    "The government of", "In a market, prices", "Energy is conserved", "The nervous system", "An atom consists of", "Culture shapes",
    "The law of supply", "Bacteria are", "To solve the equation",
]
PIECES = [
    "Hello", "what is", "the capital", " of France?", "\n", "\n\n", "  ", "\t", "\r\n", " ", "12", "3", "2026", "'s", "It's", "WE'LL", "é", "e\u0301",
    "漢字", "かな", "Привет", "مرحبا", "नमस्ते", "한국어", "\U0001F600", "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\u200b", "\ufeff", "\u00a0", "\u3000",
    "\u2028", "\0", "\x1b[31m", "\x7f", "<", ">", "|", "<|", "|>", "<s", "/s>", "< s>", "<|user", "|user|>", "<|im_start|>", "<|endoftext|>", "[INST]",
    "{{", "}}", "{{ bos_token }}", "{% for m in messages %}", "{% endfor %}", "{# note #}", "{{ 7 * 7 }}", "{{ raise_exception('x') }}",
    "<script>alert(1)</script>", "&amp;", "\"", "'", "\\", "\\n", "%s", "$(rm)", "`code`", "def f(x):\n    return x", "a" * 40, "…", "—", "\ud7ff",
    "\ufffd", "\U0010ffff", "ﬁ", "½", "Ⅷ", "٣",
]
CONTROLS = ["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model directory")
    parser.add_argument("--tokens", type=int, default=200, help="length of each continuation")
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--casallm", default=os.path.join(HERE, "../target/release/casallm"))
    parser.add_argument("--greedy-ids", default=os.path.join(HERE, "../target/release/examples/greedy_ids"))
    return parser.parse_args()


def ours(program, model, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([program, model], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare_logits(flags, model, tokenizer, work):
    prompts = [[0] + tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    told = ours(flags.greedy_ids, flags.model, [{"prompt": ids, "tokens": flags.tokens} for ids in prompts])
    files = [os.path.join(work, f"logits-{n}") for n in range(len(prompts))]
    # Every place of the prompt and of the continuation.
    whole = [ids + answer["ids"] for ids, answer in zip(prompts, told)]
    ours(flags.greedy_ids, flags.model, [{"ids": ids, "logits": file} for ids, file in zip(whole, files)])
    worst, same, largest = 0.0, 0, 0.0
    for ids, answer, all_ids, file in zip(prompts, told, whole, files):
        with torch.no_grad():
            theirs = model(torch.tensor([all_ids])).logits[0].numpy()
            more = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False, max_new_tokens=flags.tokens, min_new_tokens=flags.tokens, eos_token_id=-1)
        read = np.fromfile(file, dtype="<f4").reshape(theirs.shape)
        worst = max(worst, float(np.abs(read - theirs).max()))
        largest = max(largest, float(np.abs(theirs).max()))
        same += more[0, len(ids):].tolist() == answer["ids"]
    places = sum(map(len, whole))
    print(f"logits: {places} places of {len(prompts)} prompts, the largest {largest:.2f}; at most {worst:.2e} apart")
    print(f"greedy: {same} of {len(prompts)} continuations of {flags.tokens} tokens are the same")
    return worst <= flags.tolerance and same == len(prompts)


def conversations(count):
    generator = random.Random(5)

    def text():
        pieces = PIECES + (CONTROLS if generator.random() < 0.3 else [])
        return generator.choice(["", " ", ""]).join(generator.choice(pieces) for _ in range(generator.randint(0, 12)))

    for _ in range(count):
        messages = [{"role": "system", "content": text()}] if generator.random() < 0.4 else []
        for _ in range(generator.randint(0, 3)):
            messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        yield messages + [{"role": "user", "content": text()}]


def compare_conversations(flags, tokenizer):
    chats = list(conversations(flags.conversations))
    told = ours(flags.greedy_ids, flags.model, [{"messages": chat, "tokens": 0} for chat in chats])
    controls = [tokenizer.convert_tokens_to_ids(name) for name in CONTROLS]
    same = named = texts = ours_as_minijinja = 0
    for chat, answer in zip(chats, told):
        ours_as_minijinja += answer["prompt"] == answer["jinja"]
        theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        if any(name in message["content"] for message in chat for name in CONTROLS):
            named += 1
            placed = [id for id in answer["prompt"] if id in controls]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            whole = tokenizer.decode(answer["prompt"], skip_special_tokens=False)
            # <s>, a role and an end for each message, the assistant's role: no more.
            texts += len(placed) == 2 + 2 * len(chat) and whole == text
        else:
            same += theirs == answer["prompt"]
    print(f"conversations: {same} of {len(chats) - named} have the ids of apply_chat_template;")
    print(f"  of {named} in which a control token's name stands, {texts} have its text and no control token but the template's")
    print(f"  {ours_as_minijinja} of {len(chats)} have the ids of minijinja")
    return same == len(chats) - named and texts == named and ours_as_minijinja == len(chats)


def same_model(flags, folder, work):
    back = os.path.join(work, "back")
    subprocess.run([flags.casallm, "import", folder, "--out", back, "--quiet"], check=True)
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    read = lambda where, name: open(os.path.join(where, name), "rb").read()
    same = [read(back, name) == read(flags.model, name) for name in names]
    import safetensors.torch

    first, second = (safetensors.torch.load_file(os.path.join(where, "model.safetensors")) for where in (flags.model, back))
    weights = first.keys() == second.keys() and all(torch.equal(first[name].float(), second[name].float()) for name in first)
    print(f"imported again: texts the same {same}, {len(first)} tensors the same {weights}")
    return all(same) and weights


def main():
    flags = arguments()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as work:
        folder = os.path.join(work, "hf")
        subprocess.run([flags.casallm, "export", flags.model, "--to", "hf", "--dtype", "f32", "--out", folder, "--quiet"], check=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        print(type(model).__name__, type(tokenizer).__name__)
        good = [compare_logits(flags, model, tokenizer, work), compare_conversations(flags, tokenizer), same_model(flags, folder, work)]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
