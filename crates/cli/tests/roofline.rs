//! `casallm bench roofline`, by the real binary: its rows, its sums, its widths, what it refuses.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{casallm, run};

const SMALL: &str = "bench roofline --n-layer 3 --n-embd 64 --n-head 2 --vocab-size 512 --context 32 --batch 2 \
                     --block modern --n-kv-head 1 --device cpu --seconds 1";

fn flags(more: &str) -> Vec<String> {
    SMALL.split_whitespace().chain(more.split_whitespace()).map(str::to_owned).collect()
}

/// Every operation of a step and of a token has its row, with numbers that fit together.
#[test]
fn each_kernel_is_an_object() {
    let folder = tempfile::tempdir().unwrap();
    let finished = run(folder.path(), &flags("--json")).succeeded();
    assert_eq!(finished.stderr, "");
    let rows: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| rows.iter().filter(|row| row["row"] == kind).collect::<Vec<_>>();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));

    let [machine] = of("machine")[..] else { panic!("one machine in {rows:#?}") };
    for ceiling in ["f32_flops_per_s", "bf16_flops_per_s", "read_bytes_per_s", "write_bytes_per_s", "copy_bytes_per_s"]
    {
        assert!(number(machine, ceiling) > 1e6, "{machine}");
    }
    let kernels = of("kernel");
    let has = |part: &str, operation: &str, label: &str| {
        kernels.iter().any(|row| row["part"] == part && row["operation"] == operation && row["label"] == label)
    };
    for weight in ["attn.qkv", "attn.out", "mlp.up", "mlp.down"] {
        for operation in ["linear", "linear_backward_input", "linear_backward_weight", "adamw_all"] {
            assert!(has("train", operation, weight), "{operation} {weight}");
        }
        assert!(has("decode", "linear", weight) && has("other_optimizer", "muon_all", weight), "{weight}");
    }
    let operations = |part: &str| -> BTreeSet<&str> {
        kernels.iter().filter(|row| row["part"] == part).filter_map(|row| row["operation"].as_str()).collect()
    };
    for operation in [
        "embedding",
        "embedding_backward",
        "norm",
        "norm_again",
        "norm_backward",
        "split_qkv",
        "split_qkv_backward",
        "attention",
        "attention_backward",
        "activation",
        "activation_backward",
        "branch_gradient",
        "head",
        "clip",
        "fill_zero",
    ] {
        assert!(operations("train").contains(operation), "{operation}");
    }
    let decode = BTreeSet::from(["activation", "attention", "embedding", "gather_rows", "linear", "norm", "split_qkv"]);
    assert_eq!(operations("decode"), decode);
    assert_eq!(operations("other_optimizer"), BTreeSet::from(["muon_all"]));

    for row in &kernels {
        let (seconds, calls) = (number(row, "seconds"), number(row, "calls"));
        assert!(seconds > 0.0 && calls >= 1.0 && number(row, "rounds") >= 3.0, "{row}");
        assert!(number(row, "seconds_fastest") <= seconds && seconds <= number(row, "seconds_slowest"), "{row}");
        let share = number(row, "share_of_ceiling");
        assert!(share > 0.0 && share < 100.0, "{row}");
        let part = number(row, "share_of_part");
        assert!(part > 0.0 && part <= 1.0, "{row}");
        assert!((number(row, "bytes_per_s") * seconds / number(row, "bytes") - 1.0).abs() < 1e-9, "{row}");
        assert!(row["bound"] == "compute" || row["bound"] == "memory", "{row}");
    }
    let lost: Vec<f64> = kernels.iter().map(|row| number(row, "lost_seconds")).collect();
    assert!(lost.windows(2).all(|pair| pair[0] >= pair[1]), "{lost:?}");

    // Forward and backward of three layers' linear layers and of the head: six FLOPs a weight and token, and what is
    // added to the stream and to the gradients besides.
    let linear: f64 = kernels
        .iter()
        .filter(|row| row["part"] == "train")
        .filter(|row| row["operation"].as_str().is_some_and(|name| name.starts_with("linear") || name == "head"))
        .map(|row| number(row, "flops") * number(row, "calls"))
        .sum();
    // qkv (64 + 2 x 32) x 64, out 64 x 64, up 2 x 192 x 64, down 64 x 192, and the head 512 x 64.
    let layer = 128 * 64 + 64 * 64 + 384 * 64 + 64 * 192;
    let products = 6 * 64 * (3 * layer + 512 * 64);
    let additions = 3 * (layer + 2 * 64 * 64);
    assert_eq!(linear, f64::from(products + additions));

    for total in of("total") {
        let part = kernels.iter().filter(|row| row["part"] == total["part"]);
        let sum: f64 = part.map(|row| number(row, "seconds") * number(row, "calls")).sum();
        assert!((sum / number(total, "kernel_seconds") - 1.0).abs() < 1e-9, "{total}");
        assert!(number(total, "measured_seconds") > 0.0 && number(total, "least_seconds") > 0.0, "{total}");
    }
    assert_eq!(of("total").len(), 2);
}

/// Weights are quantised for the token alone, and each kernel's bytes are those of their codes.
#[test]
fn a_token_is_decoded_with_the_weights_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (weights, block) in [("q8", 34), ("q4", 18)] {
        let finished = run(folder.path(), &flags(&format!("--json --weights {weights}"))).succeeded();
        let rows: Vec<Value> = finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0]["weights"], weights, "{}", rows[0]);
        let bytes = |part: &str| {
            let of = |row: &&Value| row["part"] == part && row["operation"] == "linear" && row["label"] == "mlp.down";
            rows.iter().find(of).unwrap_or_else(|| panic!("no mlp.down in {part}"))["bytes"].as_u64().unwrap()
        };
        // 64 rows of 192 weights; a token is read in bf16 and added to the stream, as are the step's 64.
        assert_eq!(bytes("decode"), 64 * 6 * block + 192 * 2 + 64 * 8);
        assert_eq!(bytes("train"), 64 * 192 * 2 + 64 * (192 * 2 + 64 * 8));
    }
}

#[test]
fn the_page_fits_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    for (columns, wide) in [("80", false), ("200", true)] {
        let output = casallm(folder.path(), &flags("--optimizer muon --precision f32"))
            .env("COLUMNS", columns)
            .output()
            .unwrap();
        let page = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{page}");
        let widest = page.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.parse().unwrap(), "{widest} columns:\n{page}");
        assert_eq!(page.contains("MFLOP"), wide, "{page}");
        for part in
            ["ceilings: ", "training step", "a token decoded", "other --optimizer", "muon mlp.up", "measured as"]
        {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
    }
}

#[test]
fn impossible_shapes_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for (line, named) in [
        ("--batch 0", "--batch"),
        ("--context 0", "--context"),
        ("--batch 4611686018427387904 --context 4", "tokens in all"),
        ("--n-embd 65 --n-head 2", "n_head"),
        ("--block classic --n-kv-head 1 --n-head 2", "--n-kv-head"),
        ("--n-kv-head 3 --block modern", "n_kv_head"),
        ("--vocab-size 0", "vocab_size"),
        ("--n-layer 1000 --n-embd 65536 --n-head 512 --block classic", "MiB"),
        ("--seconds 0", "--seconds 0"),
        ("--seconds -3", "--seconds -3"),
        ("--seconds inf", "--seconds inf"),
    ] {
        let line: Vec<&str> = ["bench", "roofline", "--device", "cpu"].into_iter().chain(line.split(' ')).collect();
        run(folder.path(), &line).refused(&[named]);
    }
}
