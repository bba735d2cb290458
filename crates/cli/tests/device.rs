//! `--device`, by the real binary: what it takes, what it refuses, and what a person reads then.

use std::path::PathBuf;
use std::process::{Command, Output};

fn casallm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casallm")).args(arguments).output().expect("the binary runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn recipe() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../recipes/small-cpu.toml");
    path.to_str().expect("a plain path").to_owned()
}

const TINY: [&str; 14] = [
    "--n-layer",
    "1",
    "--n-embd",
    "32",
    "--n-head",
    "2",
    "--vocab-size",
    "64",
    "--prompt-tokens",
    "5",
    "--new-tokens",
    "2",
    "--json",
    "--device",
];

/// A GPU that no machine has: where there is no driver the message is about that, elsewhere about the number.
#[test]
fn every_command_that_computes_ends_with_two_and_the_remedy_without_its_gpu() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("run");
    let (recipe, dir) = (recipe(), dir.to_str().unwrap());
    let set = format!("run.dir={dir:?}");
    for command in [
        &["quickstart", "--dir", dir, "--minutes", "1", "--no-chat"][..],
        &["pretrain", &recipe, "--set", &set],
        &["sft", &recipe, "--set", &set],
        &["chat", "--model", dir, "--prompt", "x"],
        &["bench", "train", "--n-layer", "1", "--n-embd", "32", "--n-head", "2", "--vocab-size", "64"],
        &["bench", "generate", "--n-layer", "1", "--n-embd", "32", "--n-head", "2", "--vocab-size", "64"],
        &["bench", "roofline", "--n-layer", "1", "--n-embd", "32", "--n-head", "2", "--vocab-size", "64"],
        &["selftest"],
    ] {
        let output = casallm(&[command, &["--device", "cuda:4711"]].concat());
        let text = told(&output);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
        assert!(text.starts_with("casallm: ") && text.contains("--device cpu"), "{command:?}: {text}");
        assert!(text.contains("libcuda.so.1") || text.contains("cuda:4711") || text.contains("driver"), "{text}");
        assert!(output.stdout.is_empty() && !PathBuf::from(dir).exists(), "{command:?} left something");
    }
}

/// On a machine without NVIDIA's driver the message is the whole lesson.
#[test]
fn a_missing_driver_says_where_it_was_looked_for_and_how_to_get_it() {
    let output = casallm(&["selftest", "--device", "cuda"]);
    let text = told(&output);
    if !text.contains("libcuda.so.1") {
        eprintln!("not checked: this machine has NVIDIA's driver");
        return;
    }
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "(NVIDIA's driver) was not found",
        "looked in: the system's linker path",
        "to get it: ",
        "without it: --device cpu",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn the_processor_can_be_asked_for() {
    let output = casallm(&[&["bench", "generate"][..], &TINY, &["cpu"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["device"], "cpu");
    assert!(told(&output).is_empty(), "{}", told(&output));
}

/// With nothing asked for, something computes, whatever the machine has.
#[test]
fn auto_always_finds_a_device() {
    for arguments in [&[][..], &["--device", "auto"], &["--device", "auto", "--threads", "1"]] {
        let tiny = &TINY[..TINY.len() - 1];
        let output = casallm(&[&["bench", "generate"][..], tiny, arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if arguments.contains(&"--threads") {
            assert_eq!((&result["device"], &result["threads"]), (&"cpu".into(), &1.into()));
        }
    }
}

#[test]
fn what_is_no_device_is_refused_with_what_there_is() {
    for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "CUDA", "cpu:0", ""] {
        let output = casallm(&["selftest", "--device", name]);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(told(&output).contains("use auto, cpu, cuda, or cuda:N"), "{name}: {}", told(&output));
    }
}

#[test]
fn flags_of_the_processor_do_not_go_with_a_gpu() {
    for flag in [["--threads", "2"], ["--isa", "portable"]] {
        let output = casallm(&["selftest", "--device", "cuda", flag[0], flag[1]]);
        assert_eq!(output.status.code(), Some(2));
        assert!(told(&output).contains(&format!("{} is for the processor", flag[0])), "{}", told(&output));
    }
}

/// Nobody has given a flag: what is wrong stands in the environment.
#[test]
fn an_instruction_set_that_the_environment_names_is_not_blamed_on_a_flag() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casallm"));
    let output = command.args(["bench", "generate", "--device", "cpu"]).env("CASALLM_ISA", "sse9").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = told(&output);
    assert!(text.contains("CASALLM_ISA in the environment") && text.contains("sse9"), "{text}");
}
