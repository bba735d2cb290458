#!/usr/bin/env bash
# Everything that this project wants to know of a GPU, for a person who has one, in a quarter of an hour on a recent card:
#
#     bench/gpu/run.sh                 all of it
#     bench/gpu/run.sh selftest        one part: selftest, sanitizer, training, throughput, variants, generation, roofline
#
#   selftest     every kernel against its reference, and twice, to the bit
#   sanitizer    compute-sanitizer's memcheck and racecheck around the selftest     (CUDA toolkit; left out without it)
#   training     a real pre-training of a few hundred steps: its loss curve beside the processor's, resumed and repeated
#   throughput   a training step beside PyTorch compiled, three sizes, two contexts (a Python with torch; PYTHON=NAME names another)
#   variants     a training step without graphs, without and with cuDNN, in 8 bits, with small moments, with the optimizer on the host
#   generation   prefill and decode
#   roofline     what the card can do, and the kernels that are furthest from it
#
# A row for each result goes to the end of docs/GPU.md, failures too. Please send it as it is. Needs a Rust toolchain, an
# NVIDIA driver, cuBLASLt and NVRTC; where one is missing, casallm says how to get it. GPU=1 takes the second GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

gpu=${GPU:-0}
device=cuda:$gpu
python=${PYTHON:-python3}
casallm=target/release/casallm
page=docs/GPU.md
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

# A row of the page: what, command, result.
row() {
    printf '| %s | %s | %s | %s | `%s` | %s |\n' "$(date +%F)" "$card" "$driver" "$1" "$2" "$3" | tee -a "$page"
}

# Runs a command; its output goes to a file, its last words to a row where it fails.
attempt() {
    local what=$1 output=$2
    shift 2
    printf '\n=== %s: %s\n' "$what" "$*" >&2
    if "$@" >"$output" 2>"$output.err"; then
        return 0
    fi
    local status=$?
    failures=$((failures + 1))
    tail -n 20 "$output.err" >&2
    row "$what" "$*" "**failed** ($status): $(tail -n 3 "$output.err" | tr '\n|' '  ' | cut -c1-300)"
    return 1
}

read_result() {
    "$python" bench/gpu/read.py "$@"
}

selftest() {
    local run
    for run in 1 2; do
        attempt "selftest" "$scratch/selftest$run" "$casallm" selftest --device "$device" --json || return
    done
    local checks
    checks=$(wc -l <"$scratch/selftest1")
    if cmp -s "$scratch/selftest1" "$scratch/selftest2"; then
        row "selftest" "casallm selftest --device $device" "$checks checks passed, twice with the same errors to the last digit"
    else
        failures=$((failures + 1))
        row "selftest" "casallm selftest --device $device" "**differs** between two runs: $(diff "$scratch/selftest1" "$scratch/selftest2" | grep -c '^<') of $checks checks"
    fi
}

sanitizer() {
    local tool=compute-sanitizer kind
    command -v $tool >/dev/null || tool=/usr/local/cuda/bin/compute-sanitizer
    if ! command -v "$tool" >/dev/null; then
        row "compute-sanitizer" "compute-sanitizer" "left out: not on this machine (it comes with the CUDA toolkit)"
        return
    fi
    for kind in memcheck racecheck initcheck synccheck; do
        # Untimed: the sanitizer slows products down, and the choice would outlive it.
        CASALLM_CUDA_UNTIMED=1 CASALLM_CACHE=$scratch/cache-$kind attempt "compute-sanitizer $kind" "$scratch/$kind" \
            timeout 600 "$tool" --tool $kind --error-exitcode 9 "$casallm" selftest --device "$device" &&
            row "compute-sanitizer $kind" "compute-sanitizer --tool $kind casallm selftest" "$(tail -n 1 "$scratch/$kind" | tr '|' ' ')"
    done
}

# Pre-trains into a folder until it has so many steps, and then interrupts it as Ctrl-C would: it saves and ends.
train_until() {
    local on=$1 dir=$2 steps=$3 process
    printf '\n=== pre-training on %s, interrupted after %d steps\n' "$on" "$steps" >&2
    "$casallm" pretrain $recipe --device "$on" --quiet --set "run.dir=\"$dir\"" "${settings[@]}" &
    process=$!
    while kill -0 $process 2>/dev/null && [[ ! -e $dir/metrics.jsonl || $(wc -l <"$dir/metrics.jsonl") -lt $steps ]]; do sleep 0.2; done
    kill -INT $process 2>/dev/null
    wait $process
}

# Whether two runs have the same curve, in words.
compared() {
    if cmp -s <(read_result curve "$1") <(read_result curve "$2"); then
        echo "equal to the bit"
    else
        echo "**different**"
    fi
}

training() {
    local recipe=recipes/small-cpu.toml steps=200 few=30 kind same
    local settings=(--set "pretrain.tokens=$((steps * 8192))" --set pretrain.eval_every=100 --set pretrain.checkpoint_every=100)
    for kind in first again; do
        attempt "pre-training, $steps steps" "$scratch/$kind.log" \
            "$casallm" pretrain $recipe --device "$device" --quiet --set "run.dir=\"$scratch/$kind\"" "${settings[@]}" || return
    done
    same=$(compared "$scratch/first" "$scratch/again")
    [[ $same == equal* ]] || failures=$((failures + 1))
    row "pre-training $recipe, $steps steps, twice" "casallm pretrain $recipe --device $device" "$(read_result summary "$scratch/first"); the two curves: $same"

    train_until "$device" "$scratch/halves" $((steps / 4))
    attempt "resuming" "$scratch/halves.log" \
        "$casallm" pretrain $recipe --resume --device "$device" --quiet --set "run.dir=\"$scratch/halves\"" "${settings[@]}" || return
    same=$(compared "$scratch/first" "$scratch/halves")
    [[ $same == equal* ]] || failures=$((failures + 1))
    row "the same, interrupted and resumed" "casallm pretrain --resume" "the curve of the run that was not: $same"

    # Other rounding, the same curve.
    train_until cpu "$scratch/cpu" $few
    row "loss beside the processor's, the first $few steps" "casallm pretrain, both devices" "$(read_result apart "$scratch/first" "$scratch/cpu")"
}

throughput() {
    if ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        row "training beside PyTorch" "bench/train_vs_pytorch.py" "left out: $python has no torch that sees a GPU (PYTHON=... names another)"
        return
    fi
    local name context
    for name in "124M 12 768 12" "350M 24 1024 16" "1.3B 24 2048 16"; do
        # shellcheck disable=SC2086
        set -- $name
        for context in 1024 2048; do
            attempt "training $1, context $context" "$scratch/throughput" env CUDA_VISIBLE_DEVICES="$gpu" \
                "$python" bench/train_vs_pytorch.py --python "$python" --device cuda --compile --best-batch --steps 10 --rounds 3 --json \
                --n-layer "$2" --n-embd "$3" --n-head "$4" --vocab-size 50304 --context "$context" || continue
            row "training $1, context $context, bf16" "bench/train_vs_pytorch.py --device cuda --compile --best-batch" \
                "$(read_result field "$scratch/throughput" casallm.tokens_per_s) tokens/s, $(read_result field "$scratch/throughput" casallm.gflops_per_s) GFLOP/s, batch $(read_result field "$scratch/throughput" casallm.batch); PyTorch $(read_result field "$scratch/throughput" pytorch.tokens_per_s), batch $(read_result field "$scratch/throughput" pytorch.batch); **$(read_result field "$scratch/throughput" speed_ratio.median)x** ($(read_result field "$scratch/throughput" speed_ratio.least) to $(read_result field "$scratch/throughput" speed_ratio.most)), memory $(read_result field "$scratch/throughput" memory_ratio.median)x"
        done
    done
}

# One shape, one thing changed at a time. What a card cannot do (fp8 before compute capability 8.9) is a row that says so.
variants() {
    local name set flags
    while IFS='|' read -r name set flags; do
        # shellcheck disable=SC2086
        attempt "training 350M, $name" "$scratch/variant" env $set "$casallm" bench train --device "$device" --json \
            --n-layer 24 --n-embd 1024 --n-head 16 --context 1024 --batch 8 --steps 10 $flags || continue
        row "training 350M, 8 x 1024, $name" "${set:+$set }casallm bench train --batch 8 $flags" \
            "$(read_result field "$scratch/variant" tokens_per_s) tokens/s, $(read_result field "$scratch/variant" device_bytes) bytes on the card, $(read_result field "$scratch/variant" host_bytes) pinned; said: $(read_result field "$scratch/variant" note)"
    done <<'EOF'
plain||
without graphs|CASALLM_CUDA_GRAPHS=0|
without cuDNN|CASALLM_CUDNN=0|
with cuDNN|CASALLM_CUDNN=1|
fp8||--precision fp8
8-bit moments||--moments 8bit
optimizer on the host||--offload optimizer
recomputed blocks||--recompute block
EOF
}

roofline() {
    attempt "roofline" "$scratch/roofline" "$casallm" bench roofline --device "$device" --json || return
    row "ceilings" "casallm bench roofline --device $device" "$(read_result ceilings "$scratch/roofline")"
    row "furthest from them, training 350M, 1 x 1024" "the same" "$(read_result furthest "$scratch/roofline")"
}

generation() {
    local name
    for name in "124M 12 768 12" "350M 24 1024 16" "1.3B 24 2048 16"; do
        # shellcheck disable=SC2086
        set -- $name
        for weights in bf16 q8 q4; do
            attempt "generation $1, $weights" "$scratch/generation" "$casallm" bench generate --device "$device" --json \
                --n-layer "$2" --n-embd "$3" --n-head "$4" --prompt-tokens 1024 --new-tokens 256 \
                --weights "$weights" || continue
            row "generation $1, $weights, one sequence" "casallm bench generate --device $device --weights $weights" \
                "prefill $(read_result field "$scratch/generation" prefill_tokens_per_s) tokens/s, decode $(read_result field "$scratch/generation" decode_tokens_per_s) tokens/s, $(read_result field "$scratch/generation" decode_bytes_per_s) B/s read"
        done
    done
}

cargo build --locked --release || exit 1
query() { nvidia-smi --id="$gpu" --query-gpu="$1" --format=csv,noheader; }
if ! card=$(query name); then
    "$casallm" selftest --device "$device"
    exit 2
fi
driver=$(query driver_version)
printf '%s, driver %s, commit %s\n' "$card" "$driver" "$(git describe --always --dirty)"
query memory.total,power.limit,clocks.max.sm

parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(selftest sanitizer training throughput variants generation roofline)
for part in "${parts[@]}"; do
    case $part in
        selftest | sanitizer | training | throughput | variants | generation | roofline) $part ;;
        *) echo "no part '$part': selftest, sanitizer, training, throughput, variants, generation, roofline" >&2; exit 2 ;;
    esac
done
printf '\n%d problems; the rows are in %s\n' "$failures" "$page"
[[ $failures == 0 ]]
