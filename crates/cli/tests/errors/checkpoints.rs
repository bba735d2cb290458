//! Checkpoints that were damaged, or are of another run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Tree, run, trained, trained_folder};

const CHECKPOINTS: &str = "run/checkpoints/pretrain";

/// Checkpoints of the finished run, oldest first.
fn checkpoints() -> Vec<PathBuf> {
    let parent = |path: &PathBuf| path.parent().unwrap().to_owned();
    let mut found: Vec<PathBuf> = trained().0.keys().filter(|path| path.starts_with(CHECKPOINTS)).map(parent).collect();
    found.retain(|path| path != Path::new(CHECKPOINTS));
    found.dedup();
    assert!(found.len() >= 2, "{found:?}");
    found
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn flipped_byte_falls_back_to_the_one_before() {
    for file in ["tensors.safetensors", "state.json", "checksums.txt"] {
        let folder = trained_folder();
        let checkpoints = checkpoints();
        let [.., before, newest] = &checkpoints[..] else { unreachable!() };
        let damaged = newest.join(file);
        flip(&folder.path().join(&damaged));
        fs::remove_dir_all(folder.path().join("run/base")).unwrap();
        let resumed = run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
        let step = before.to_str().unwrap().rsplit_once('-').unwrap().1.trim_start_matches('0');
        let (skipped, from) = (format!("{}", damaged.display()), format!("resumed pretrain after step {step}"));
        for said in ["skipped a damaged checkpoint", &skipped, "checksum", &from] {
            assert!(resumed.stderr.contains(said), "{said:?} is not in {}", resumed.stderr);
        }
        // The steps after it were done again, with the same numbers, and the damaged one was replaced.
        for path in ["run/base/model.safetensors", newest.join("tensors.safetensors").to_str().unwrap()] {
            assert!(fs::read(folder.path().join(path)).unwrap() == trained().file(path), "{file}: {path} differs");
        }
    }
}

#[test]
fn truncated_and_missing_files_fall_back_too() {
    for damage in [|path: &Path| fs::write(path, b"short").unwrap(), |path: &Path| fs::remove_file(path).unwrap()] {
        let folder = trained_folder();
        let newest = checkpoints().pop().unwrap();
        damage(&folder.path().join(newest).join("tensors.safetensors"));
        fs::remove_dir_all(folder.path().join("run/base")).unwrap();
        let resumed = run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
        assert!(resumed.stderr.contains("skipped a damaged checkpoint"), "{}", resumed.stderr);
        trained().without("run/metrics.jsonl").without(CHECKPOINTS).assert_kept_in(folder.path());
    }
}

#[test]
fn flipped_byte_in_all_checkpoints() {
    for stage in ["pretrain", "sft"] {
        let folder = trained_folder();
        let all: Vec<PathBuf> =
            trained().0.keys().filter(|path| path.ends_with("tensors.safetensors")).cloned().collect();
        for path in all.iter().filter(|path| path.starts_with(format!("run/checkpoints/{stage}"))) {
            flip(&folder.path().join(path));
        }
        let before = Tree::of(folder.path());
        let checkpoints = format!("run/checkpoints/{stage}/step-");
        let named = [&checkpoints[..], "tensors.safetensors", "checksum", "damaged", "delete this checkpoint's folder"];
        run(folder.path(), &[stage, "tiny.toml", "--resume"]).refused(&named);
        before.assert_kept_in(folder.path());
    }
}

#[test]
fn checkpoint_of_another_recipe() {
    let folder = trained_folder();
    let resume = |change: &str| run(folder.path(), &["pretrain", "tiny.toml", "--resume", "--set", change]);
    resume("pretrain.lr=1e-3").refused(&[
        "step-000040",
        "other settings",
        "was `lr = 0.003`",
        "is `lr = 0.001`",
        "run.dir",
    ]);
    resume("pretrain.steps=80").refused(&["step-000040", "was `steps = 40`", "is `steps = 80`", "run.dir"]);
    resume("model.n_layer=3").refused(&["step-000040", "was `n_layer = 2`", "is `n_layer = 3`", "run.dir"]);
    trained().assert_kept_in(folder.path());
}

#[test]
fn metrics_with_a_broken_line() {
    let folder = trained_folder();
    let text = String::from_utf8(trained().file("run/metrics.jsonl").to_vec()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "{\"step\":3,";
    fs::write(folder.path().join("run/metrics.jsonl"), lines.join("\n") + "\n").unwrap();
    let before = Tree::of(folder.path());
    let named = ["run/metrics.jsonl", "line 3", "mend or delete that line"];
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).refused(&named);
    before.assert_kept_in(folder.path());
}

/// Allowed, for a run may have to move; said, for its numbers will no longer be those of one that did not.
#[test]
fn checkpoint_of_another_device() {
    let folder = trained_folder();
    fs::remove_dir_all(folder.path().join(checkpoints().pop().unwrap())).unwrap();
    fs::remove_dir_all(folder.path().join("run/base")).unwrap();
    let resume = |isa: &[&str]| run(folder.path(), &[&["pretrain", "tiny.toml", "--resume"], isa].concat()).succeeded();
    let own = casallm_compute::Isa::detect().unwrap().name();
    let said = |resumed: String, made: &str, now: &str| {
        let note = format!("the checkpoint was made on cpu ({made}); on cpu ({now}) the run goes on");
        assert_eq!(resumed.contains(&note), made != now, "{resumed}");
    };
    said(resume(&["--isa", "portable"]).stderr, own, "portable");
    said(resume(&[]).stderr, "portable", own);
}
