//! A run that is interrupted and resumed ends as one that never stopped: the same weights and the same metrics, to the
//! byte, whatever interrupts it, wherever, and on however many threads it goes on.
#![cfg(unix)]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use support::{Seeded, Tree, casallm, run, signal, trained, trained_folder, write_inputs};
use tempfile::TempDir;

const STDERR: &str = "stderr.txt";

/// A stage under way, heard line by line.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Goes on with a stage, or begins it.
    fn start(folder: &Path, stage: &str, threads: &str) -> Self {
        Self::spawn(folder, casallm(folder, &[stage, "tiny.toml", "--resume", "--json", "--threads", threads]))
    }

    fn spawn(folder: &Path, mut command: Command) -> Self {
        let errors = File::create(folder.join(STDERR)).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    /// Hears up to `count` steps and returns the number of the last.
    fn hear(&mut self, count: u64) -> Option<u64> {
        let mut heard = None;
        for _ in 0..count {
            // The first line of a stage tells of its memory.
            let step = self.lines.by_ref().find_map(|line| step_of(&line.unwrap()));
            if step.is_none() {
                break;
            }
            heard = step;
        }
        heard
    }

    fn signal(&self, signal: &str) {
        support::signal(&self.child, signal);
    }

    /// Waits for its end: the status, and the last step it told of from here on.
    fn end(mut self) -> (ExitStatus, Option<u64>) {
        let last = self.hear(u64::MAX);
        (self.child.wait().unwrap(), last)
    }
}

/// The step of a row; events have one too.
fn step_of(line: &str) -> Option<u64> {
    let row: serde_json::Value = serde_json::from_str(line).unwrap();
    row["step"].as_u64().filter(|_| row["event"].is_null())
}

fn stderr(folder: &Path) -> String {
    let mut text = String::new();
    File::open(folder.join(STDERR)).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// The rows of `metrics.jsonl` up to `timing`, which stands last in each.
fn reproducible(metrics: &[u8]) -> Vec<String> {
    let untimed = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["timing"].is_object() && row["loss"].is_f64(), "{line}");
        line.split(",\"timing\":").next().unwrap().to_owned()
    };
    let text = String::from_utf8(metrics.to_vec()).unwrap();
    // Events are of each process and its machine: these runs have no others.
    text.lines().filter(|line| !line.starts_with("{\"event\":")).map(untimed).collect()
}

/// The folder's run holds, to the byte, what the uninterrupted one does; of its stages after `stage`, nothing is asked.
fn assert_same_as_uninterrupted(folder: &Path, stage: &str) {
    let (expected, found) = (trained(), Tree::of(folder));
    let mut files = vec![
        "run/tokenizer.json",
        "run/data/stories/manifest.json",
        "run/data/stories/train-00000.bin",
        "run/data/stories/val-00000.bin",
        "run/base/model.safetensors",
        "run/base/checksums.json",
    ];
    if stage == "sft" {
        files.extend(["run/cleaning.json", "run/model/model.safetensors", "run/model/checksums.json"]);
    }
    for file in files {
        assert!(expected.file(file) == found.file(file), "{file} differs");
    }
    let (mut expected, found) = (reproducible(expected.file("run/metrics.jsonl")), found.file("run/metrics.jsonl"));
    expected.retain(|line| stage == "sft" || line.contains("\"stage\":\"pretrain\""));
    assert_eq!(reproducible(found), expected);
}

/// The mark of the best checkpoint, which only an orderly stop may move.
fn assert_same_best(folder: &Path, stage: &str) {
    let file = format!("run/checkpoints/{stage}/best.json");
    let found = fs::read_to_string(folder.join(&file)).unwrap();
    assert_eq!(found, String::from_utf8_lossy(trained().file(&file)));
}

/// A folder in which `stage` has yet to begin.
fn ahead_of(stage: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    match stage {
        "pretrain" => write_inputs(folder.path()),
        _ => {
            let begun = trained().without("run/model").without("run/checkpoints/sft").without("run/cleaning.json");
            begun.write_to(folder.path());
            let metrics = String::from_utf8(trained().file("run/metrics.jsonl").to_vec()).unwrap();
            let pretrain = metrics.lines().filter(|line| line.contains("\"stage\":\"pretrain\""));
            let pretrain: String = pretrain.map(|line| format!("{line}\n")).collect();
            fs::write(folder.path().join("run/metrics.jsonl"), pretrain).unwrap();
        }
    }
    folder
}

/// How long an uninterrupted run takes to its first step, and then for each: what random moments are drawn from.
fn pace(stage: &str) -> (Duration, Duration) {
    let folder = ahead_of(stage);
    let begun = Instant::now();
    let mut running = Running::start(folder.path(), stage, "2");
    running.hear(1).unwrap();
    let first = begun.elapsed();
    let (status, last) = running.end();
    assert!(status.success(), "{}", stderr(folder.path()));
    (first, (begun.elapsed() - first) / last.unwrap() as u32)
}

fn part_of(whole: Duration, seeded: &mut Seeded) -> Duration {
    whole * seeded.below(1000) as u32 / 1000
}

/// Kills a stage `kills` times at random moments: after a random number of steps and a random part of the next ones,
/// or, where no step is waited for, anywhere on the way to the first.
fn kill_and_resume(stage: &str, kills: usize, seeded: &mut Seeded) {
    let (first, step) = pace(stage);
    let mut folder = ahead_of(stage);
    let mut hits = 0;
    while hits < kills {
        let threads = if hits % 2 == 0 { "1" } else { "2" };
        let mut running = Running::start(folder.path(), stage, threads);
        let steps = seeded.below(8);
        running.hear(steps);
        let delay = if steps == 0 { part_of(first, seeded) } else { part_of(step * 3, seeded) };
        let heard = Instant::now();
        while heard.elapsed() < delay {
            std::hint::spin_loop();
        }
        // A process that has ended and was not waited for can still be sent a signal; its status tells whether it came.
        running.child.kill().unwrap();
        let (status, _) = running.end();
        if status.signal() == Some(signal_hook::consts::SIGKILL) {
            hits += 1;
        } else {
            // It was faster. So it must be done, and another one takes its place.
            assert!(status.success(), "{}", stderr(folder.path()));
            assert_same_as_uninterrupted(folder.path(), stage);
            folder = ahead_of(stage);
        }
    }
    let (status, _) = Running::start(folder.path(), stage, "2").end();
    assert!(status.success(), "{}", stderr(folder.path()));
    assert_same_as_uninterrupted(folder.path(), stage);
    assert_same_best(folder.path(), stage);
}

#[test]
fn twelve_kills_of_pretraining_change_nothing() {
    kill_and_resume("pretrain", 12, &mut Seeded(12));
}

#[test]
fn eight_kills_of_fine_tuning_change_nothing() {
    kill_and_resume("sft", 8, &mut Seeded(8));
}

#[test]
fn one_thread_and_two_agree() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    for stage in ["pretrain", "sft"] {
        run(folder.path(), &[stage, "tiny.toml", "--threads", "1"]).succeeded();
    }
    assert_same_as_uninterrupted(folder.path(), "sft");
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    for stage in ["pretrain", "sft"] {
        run(folder.path(), &[stage, "tiny.toml", "--set", "run.threads=2"]).succeeded();
    }
    assert_same_as_uninterrupted(folder.path(), "sft");
}

#[test]
fn interrupt_and_terminate_save_and_exit_130() {
    let mut cases = vec![("pretrain", "INT"), ("pretrain", "TERM"), ("sft", "INT")];
    while let Some(&(stage, signal)) = cases.last() {
        let folder = ahead_of(stage);
        let mut running = Running::start(folder.path(), stage, "2");
        let heard = running.hear(5).unwrap();
        running.signal(signal);
        let (status, last) = running.end();
        if status.success() {
            // It was done before the signal reached it: another try.
            continue;
        }
        cases.pop();
        assert_eq!(status.code(), Some(130), "{}", stderr(folder.path()));
        let last = last.unwrap_or(heard);
        let saved = format!("run/checkpoints/{stage}/step-{last:06}");
        assert!(folder.path().join(&saved).is_dir(), "stopped after step {last}, which was not saved");
        let resumed = run(folder.path(), &[stage, "tiny.toml", "--resume"]).succeeded();
        assert!(resumed.stderr.contains(&format!("resumed {stage} after step {last}")), "{}", resumed.stderr);
        assert_same_as_uninterrupted(folder.path(), stage);
    }
}

#[test]
fn a_signal_while_data_is_prepared_ends_it_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    // Enough to be read for a while.
    let text = fs::read_to_string(folder.path().join("text.jsonl")).unwrap();
    fs::write(folder.path().join("text.jsonl"), text.repeat(400)).unwrap();
    let arguments = ["pretrain", "tiny.toml", "--threads", "1", "--set", "pretrain.steps=4", "--json"];
    let mut child = casallm(folder.path(), &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The plan is told before anything is read.
    assert!(lines.next().is_some_and(|line| line.contains("\"plan\"")));
    signal(&child, "TERM");
    assert_eq!(lines.next(), None, "nothing was trained");
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &ended.stderr[..]), (Some(130), &b""[..]), "{ended:?}");
    assert!(!folder.path().join("run/tokenizer.json").exists() && !folder.path().join("run/metrics.jsonl").exists());
    run(folder.path(), &arguments).succeeded();
}

#[test]
fn a_second_process_on_the_same_folder_is_refused() {
    let folder = ahead_of("pretrain");
    // More steps than can be done before it is stopped.
    let steps = ["pretrain", "tiny.toml", "--json", "--set", "pretrain.steps=1000000"];
    let mut first = Running::spawn(folder.path(), casallm(folder.path(), &steps));
    first.hear(3).unwrap();
    // Held still, so that it is there for as long as the other one looks.
    first.signal("STOP");
    let process = format!("process {}", first.child.id());
    for arguments in [&["pretrain", "tiny.toml", "--resume"][..], &["pretrain", "tiny.toml"], &["sft", "tiny.toml"]] {
        run(folder.path(), arguments).refused(&["run.lock", &process, "wait for it", "run.dir"]);
    }
    first.signal("CONT");
    first.hear(3).unwrap();
    first.signal("INT");
    let (status, _) = first.end();
    assert_eq!(status.code(), Some(130), "{}", stderr(folder.path()));
}

#[test]
fn what_is_finished_can_be_resumed_and_stays_the_same() {
    let folder = support::trained_folder();
    for stage in ["pretrain", "sft"] {
        run(folder.path(), &[stage, "tiny.toml", "--resume"]).succeeded();
    }
    assert_same_as_uninterrupted(folder.path(), "sft");
    trained().assert_kept_in(folder.path());
}

#[test]
fn a_kill_between_a_checkpoint_and_its_mark_loses_no_mark() {
    for stage in ["pretrain", "sft"] {
        let folder = support::trained_folder();
        let file = format!("run/checkpoints/{stage}/best.json");
        // Both stages are best at their last step, from which this resumes.
        fs::remove_file(folder.path().join(&file)).unwrap();
        run(folder.path(), &[stage, "tiny.toml", "--resume"]).succeeded();
        assert_same_best(folder.path(), stage);
    }
}

#[test]
fn what_has_nothing_to_go_on_from_says_where_it_looked() {
    let folder = trained_folder();
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let resumed = run(&elsewhere, &["pretrain", "../tiny.toml", "--resume", "--set", "pretrain.steps=2"]).succeeded();
    let looked = format!(
        "{}: there is no checkpoint",
        elsewhere.canonicalize().unwrap().join("run/checkpoints/pretrain").display()
    );
    assert!(resumed.stderr.contains(&looked) && resumed.stderr.contains("where the command is run"), "{resumed:#?}");
    let resumed = run(&elsewhere, &["pretrain", "../tiny.toml", "--resume", "--set", "pretrain.steps=2"]).succeeded();
    assert!(!resumed.stderr.contains("there is no checkpoint"), "{resumed:#?}");
}

#[test]
fn a_run_is_not_begun_over_its_checkpoints() {
    let folder = support::trained_folder();
    for stage in ["pretrain", "sft"] {
        let checkpoints = format!("run/checkpoints/{stage}");
        run(folder.path(), &[stage, "tiny.toml"]).refused(&[&checkpoints, "--resume", "run.dir"]);
    }
    trained().assert_kept_in(folder.path());
}

#[test]
fn fine_tuning_does_not_go_on_from_another_base() {
    let folder = trained_folder();
    let path = folder.path();
    let another = ["run.dir=another", "run.seed=5", "pretrain.steps=2"].map(|set| ["--set", set]).concat();
    run(path, &[&["pretrain", "tiny.toml"][..], &another].concat()).succeeded();
    fs::rename(path.join("run/base"), path.join("before")).unwrap();
    fs::rename(path.join("another/base"), path.join("run/base")).unwrap();
    run(path, &["sft", "tiny.toml", "--resume"]).refused(&["checkpoints/sft", "was `base_model", "is `base_model"]);
    fs::remove_dir_all(path.join("run/base")).unwrap();
    fs::rename(path.join("before"), path.join("run/base")).unwrap();
    run(path, &["sft", "tiny.toml", "--resume"]).succeeded();
}

#[test]
fn steps_of_fine_tuning_have_the_same_conversations_whatever_the_micro_batch() {
    let folder = trained_folder();
    let path = folder.path();
    let steps = |rows: &str| {
        for name in ["run/checkpoints/sft", "run/model"] {
            fs::remove_dir_all(path.join(name)).unwrap();
        }
        let sets = [rows, "model.dropout=0", "sft.batch_tokens=512"].map(|set| ["--set", set]).concat();
        run(path, &[&["sft", "tiny.toml"][..], &sets].concat()).succeeded();
        let text = fs::read_to_string(path.join("run/metrics.jsonl")).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let rows = rows.filter(|row| row["stage"] == "sft" && row["event"].is_null());
        let numbers = |row: serde_json::Value| (row["tokens"].as_u64(), row["loss"].as_f64(), row["val_loss"].as_f64());
        rows.map(numbers).collect::<Vec<_>>()
    };
    let (small, large) = (steps("sft.micro_batch=1"), steps("sft.micro_batch=8"));
    assert_eq!(small.len(), large.len());
    for (small, large) in small.iter().zip(&large) {
        assert_eq!(small.0, large.0);
        // The same mean, in another order of sums.
        let near = |a: Option<f64>, b: Option<f64>| a.zip(b).map_or(a == b, |(a, b)| (a - b).abs() < 0.01);
        assert!(near(small.1, large.1) && near(small.2, large.2), "{small:?} {large:?}");
    }
}
