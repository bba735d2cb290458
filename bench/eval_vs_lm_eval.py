#!/usr/bin/env python3
"""`casallm eval` beside lm-evaluation-harness with transformers: the same model, the same data, item by item.

    pip install torch transformers accelerate "lm_eval==0.4.13"
    cargo build --release
    python3 bench/eval_vs_lm_eval.py MODEL --data FOLDER --limit 200

MODEL is a folder of Hugging Face that `casallm import` reads (Llama or Qwen3: config.json, tokenizer.json, safetensors).
FOLDER holds hellaswag_validation.jsonl[.zst], arc-easy_test, arc-challenge_test, piqa_validation and lambada_openai_test, as the
Hub has them or as OLMo's evaluation data does. Each is written out once in the Hub's form, and both sides read that file.

Both compute in f32 on the processor (`--bf16` takes bf16 on both sides, where only speed is compared). Told for each task: the
largest difference of a log-probability, items whose `acc` or `acc_norm` differ, and items a second. Of the harness' batch sizes
(`--batch-sizes`) the fastest counts, and its time is without loading the model, as ours is. `--every N` takes each N-th item:
those of a benchmark are not alike from its beginning to its end.

Where a task's largest difference is more than 1e-3, that answer is computed in float64 too, which says whose it is: with AVX2 PyTorch adds
up the exponentials of a vocabulary in 8 numbers of f32, where a large one swallows the small ones that come after it (16 with AVX-512).

Exit code 1 when a log-probability differs by more than 1e-3 and ours is further from float64 than the harness', or an item is
judged differently.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Name, split, how files are called, the harness' own description.
TASKS = {
    "hellaswag": ("validation", "hellaswag_validation", "hellaswag/hellaswag.yaml"),
    "arc_easy": ("test", "arc-easy_test", "arc/arc_easy.yaml"),
    "arc_challenge": ("test", "arc-challenge_test", "arc/arc_challenge.yaml"),
    "piqa": ("validation", "piqa_validation", "piqa/piqa.yaml"),
    "lambada_openai": ("test", "lambada_openai_test", "lambada/lambada_openai.yaml"),
}
TOLERANCE = 1e-3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of Hugging Face")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=200, help="items of each task")
    parser.add_argument("--every", type=int, default=1, help="take each N-th item")
    parser.add_argument("--batch-sizes", default="1,8,32", help="of the harness; the fastest counts")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--casallm", default="target/release/casallm")
    return parser.parse_args()


def records(folder, stem):
    path = os.path.join(folder, stem + ".jsonl")
    if os.path.exists(path):
        text = open(path, encoding="utf-8").read()
    else:
        text = subprocess.run(["zstd", "-dc", path + ".zst"], check=True, capture_output=True).stdout.decode()
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def as_the_hub_has_it(task, row):
    if task.startswith("arc") and "gold" in row:
        question = row["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        labels = [str(i + 1) for i in range(len(row["choices"]))]
        choices = {"text": row["choices"], "label": labels}
        return {"question": question, "choices": choices, "answerKey": labels[row["gold"]]}
    if task == "lambada_openai" and "query" in row:
        return {"text": row["query"] + " " + row["choices"][0]}
    return row


def prepared(options, folder):
    """The files both sides read."""
    paths = {}
    for task in options.tasks.split(","):
        split, stem, _ = TASKS[task]
        rows = [as_the_hub_has_it(task, row) for row in records(options.data, stem)[:: options.every][: options.limit]]
        paths[task] = os.path.join(folder, f"{task}_{split}.jsonl")
        with open(paths[task], "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return paths


def ours(options, folder, data):
    """Items of each task in order, and items a second."""
    model = os.path.join(folder, "model")
    if not os.path.exists(model):
        subprocess.run([options.casallm, "import", options.model, "--out", model, "--quiet"], check=True)
    out = tempfile.mkdtemp(dir=folder)
    command = [options.casallm, "eval", "--model", model, "--data", data, "--tasks", options.tasks, "--out", out, "--json"]
    command += ["--weights", "bf16" if options.bf16 else "f32", "--device", "cpu", "--threads", str(options.threads)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = {}
    for task, told in result["tasks"].items():
        lines = [json.loads(line) for line in open(told["journal"], encoding="utf-8")][1:]
        lines.sort(key=lambda line: line["item"])
        found[task] = (lines, told["timing"]["items_per_s"], told["metrics"])
    return found


def description(task, path):
    """The harness' task, with the data of a local file."""
    import lm_eval.tasks

    split, _, own = TASKS[task]
    config = {"include": os.path.join(os.path.dirname(lm_eval.tasks.__file__), own), "task": task}
    config.update({"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {split: path}}})
    # What is not in the folder is not needed without examples.
    config.update({f"{other}_split": None for other in ("training", "validation", "test") if other != split})
    described = os.path.join(os.path.dirname(path), f"{task}.yaml")
    with open(described, "w", encoding="utf-8") as file:
        # JSON is YAML.
        json.dump(config, file)
    return described


def theirs(options, paths):
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(options.threads)
    found = {}
    for size in options.batch_sizes.split(","):
        dtype = "bfloat16" if options.bf16 else "float32"
        model = HFLM(pretrained=options.model, device="cpu", dtype=dtype, batch_size=int(size))
        for task, path in paths.items():
            config = description(task, path)
            begun = time.perf_counter()
            result = simple_evaluate(model=model, tasks=[config], log_samples=True, bootstrap_iters=0)
            seconds = time.perf_counter() - begun
            samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
            items_per_s = len(samples) / seconds
            print(f"  harness, batches of {size}, {task}: {items_per_s:.2f} items/s", file=sys.stderr, flush=True)
            if task not in found or items_per_s > found[task][1]:
                found[task] = (samples, items_per_s, size)
    return found


def in_float64(options, context, continuation):
    """The log-probability of a continuation, by the harness with a model in float64."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=options.model, device="cpu", dtype="float64", batch_size=1)
    request = Instance(request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=0)
    return model.loglikelihood([request])[0][0]


def logprobs(sample):
    # One continuation or several: [(log-probability, whether it leads)].
    return [float(answer[0]) for answer in sample["filtered_resps"]]


def main():
    options = arguments()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        os.mkdir(data)
        paths = prepared(options, data)
        # Before and after the other, to see what the machine's load did meanwhile.
        first = ours(options, folder, data)
        other = theirs(options, paths)
        last = ours(options, folder, data)
        print(f"{'task':<15} {'items':>6} {'largest difference':>19} {'differently judged':>19} {'ours, items/s':>16} {'harness':>9} {'ratio':>6}")
        for task, (samples, items_per_s, size) in other.items():
            lines = last[task][0]
            assert len(lines) == len(samples), (task, len(lines), len(samples))
            assert [line["logprobs"] for line in lines] == [line["logprobs"] for line in first[task][0]], "not the same twice"
            pairs = [(line["logprobs"], logprobs(sample)) for line, sample in zip(lines, samples)]
            assert all(len(a) == len(b) for a, b in pairs), task
            largest, item, answer = max((abs(x - y), i, j) for i, (a, b) in enumerate(pairs) for j, (x, y) in enumerate(zip(a, b)))
            from_float64 = None
            if largest > TOLERANCE and not options.bf16:
                exact = in_float64(options, *samples[item]["arguments"][answer])
                from_float64 = [abs(side[answer] - exact) for side in pairs[item]]
            keys = [key for key in ("acc", "acc_norm") if key in samples[0]]
            differ = sum(any(bool(line[key]) != bool(sample[key]) for key in keys) for line, sample in zip(lines, samples))
            speeds = (first[task][1], last[task][1])
            ratio = min(speeds) / items_per_s
            print(f"{task:<15} {len(samples):>6} {largest:>19.2e} {differ:>19} {speeds[0]:>7.2f}, {speeds[1]:>7.2f} {items_per_s:>9.2f} {ratio:>6.2f}")
            if from_float64:
                print("  from float64 there: ours {:.2e}, the harness' {:.2e}".format(*from_float64))
            print(json.dumps({
                "task": task, "items": len(samples), "largest_difference": largest, "differently_judged": differ, "from_float64": from_float64,
                "items_per_s": speeds, "harness_items_per_s": items_per_s, "harness_batch_size": size, "ratio": ratio,
                "metrics": {name: metric["value"] for name, metric in last[task][2].items()}, "bf16": options.bf16,
            }), file=sys.stderr)
            failed |= not options.bf16 and (from_float64 is not None and from_float64[0] > from_float64[1] or differ > 0)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
