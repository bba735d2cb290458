"""What bench/gpu/run.sh reads from results and metrics.

    read.py field FILE NAME     a value of the last JSON line, as in casallm.tokens_per_s
    read.py curve RUN           a run's metrics without what the clock says
    read.py summary RUN         losses along the way, validation, speed
    read.py ceilings FILE       what `bench roofline --json` measured of the card
    read.py furthest FILE       its five kernels that lose most against it
    read.py apart RUN RUN       how far the losses of two runs are apart, over the steps that both have
"""

import json
import sys


def rows(run):
    """The steps. Events stand between them: samples have no loss, and a run that was resumed tells of that."""
    with open(run + "/metrics.jsonl", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if "event" not in row]


def field(path, name):
    with open(path, encoding="utf-8") as lines:
        value = json.loads(lines.read().splitlines()[-1])
    for part in name.split("."):
        value = value[part]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return "nothing" if value is None else str(value)


def curve(run):
    return "\n".join(json.dumps({k: v for k, v in row.items() if k != "timing"}, sort_keys=True) for row in rows(run))


def summary(run):
    found = rows(run)
    shown = [row for row in found if row["step"] in (1, 50, 100)] + [found[-1]]
    losses = ", ".join(f"{row['loss']:.3f} at {row['step']}" for row in shown)
    return f"loss {losses}; validation {found[-1]['val_loss']:.3f}; {found[-1]['timing']['tokens_per_s']:,.0f} tokens/s"


def lines(path):
    with open(path, encoding="utf-8") as text:
        return [json.loads(line) for line in text]


def ceilings(path):
    card = next(line for line in lines(path) if line["row"] == "machine")
    tera = {name: card[f"{name}_flops_per_s"] / 1e12 for name in ("bf16", "f32")}
    return f"bf16 {tera['bf16']:.1f} and f32 {tera['f32']:.1f} TFLOP/s, copies {card['copy_bytes_per_s'] / 1e9:.0f} GB/s"


def furthest(path):
    kernels = [line for line in lines(path) if line["row"] == "kernel" and line["part"] == "train"]
    kernels.sort(key=lambda kernel: -kernel["lost_seconds"])
    one = lambda k: f"{k['operation']} {k['label']} {100 * k['share_of_ceiling']:.0f} % of {k['bound']}".replace("  ", " ")
    whole = next(line for line in lines(path) if line["row"] == "total" and line["part"] == "train")
    share = 100 * whole["least_seconds"] / whole["measured_seconds"]
    return f"{'; '.join(map(one, kernels[:5]))}; the step {share:.0f} %"


def apart(one, other):
    both = list(zip((row["loss"] for row in rows(one)), (row["loss"] for row in rows(other))))
    most = max(abs(a - b) / b for a, b in both)
    return f"{len(both)} steps, at most {100 * most:.3f} % apart (wanted: 0.5 %)"


if __name__ == "__main__":
    print({"field": field, "curve": curve, "summary": summary, "ceilings": ceilings, "furthest": furthest, "apart": apart}[sys.argv[1]](*sys.argv[2:]))
