//! What befalls a run overnight: a disk that fills, folders that cannot be written, checkpoints that are damaged or half
//! gone, a clock that is set back, bad batches, a process that is killed. The run goes on from the newest good state, ends
//! with the same bytes as one that nothing befell, and says what it did.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::{Seeded, SmallDisk, Tree, casallm, documents, run, trained, trained_folder, write_inputs};

const CHECKPOINTS: &str = "run/checkpoints/pretrain";

/// A run under way, heard line by line.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: PathBuf,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let errors = folder.join("stderr.txt");
        let mut command = casallm(folder, &[&["pretrain", "tiny.toml", "--json", "--resume"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines, errors }
    }

    /// Hears lines until one that fits, or to the end.
    fn hear(&mut self, fits: impl Fn(&serde_json::Value) -> bool) -> Option<serde_json::Value> {
        self.lines.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).find(fits)
    }

    /// Hears until an event of this name.
    fn hear_event(&mut self, name: &str) -> Option<serde_json::Value> {
        self.hear(|line| line["event"] == name)
    }

    fn end(mut self) -> (Option<i32>, String) {
        self.hear(|_| false);
        let status = self.child.wait().unwrap();
        (status.code(), fs::read_to_string(self.errors).unwrap())
    }
}

/// The rows of `metrics.jsonl` and the events that come again, without the timing.
fn reproducible(metrics: &[u8]) -> Vec<String> {
    let again = ["spike", "not_finite", "new_level", "rolled_back", "not_rolled_back"];
    let text = String::from_utf8(metrics.to_vec()).unwrap();
    let untimed = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let own = line["event"].as_str().is_some_and(|event| !again.contains(&event));
        line.as_object_mut().unwrap().remove("timing");
        (!own).then(|| line.to_string())
    };
    text.lines().filter_map(untimed).collect()
}

fn assert_same(expected: &Tree, run_dir: &Path) {
    let found = Tree::of(run_dir);
    for file in ["base/model.safetensors", "checkpoints/pretrain/step-000040/tensors.safetensors"] {
        assert!(found.file(file) == expected.file(&format!("run/{file}")), "{file} differs");
    }
    let of_stage = |metrics: &[u8]| {
        let mut lines = reproducible(metrics);
        lines.retain(|line| line.contains("\"stage\":\"pretrain\""));
        lines
    };
    assert_eq!(of_stage(found.file("metrics.jsonl")), of_stage(expected.file("run/metrics.jsonl")));
    for path in found.0.keys() {
        assert!(!path.to_string_lossy().contains(".tmp"), "{} was left behind", path.display());
    }
}

/// A run on a disk that has been filled to the last byte while it was under way.
struct FullDisk {
    folder: tempfile::TempDir,
    run_dir: PathBuf,
    /// The run's folder, as `--set` takes it.
    set: String,
    running: Running,
    /// What fills the disk.
    ballast: PathBuf,
}

impl FullDisk {
    fn filled_after_step_7(disk: &SmallDisk) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_inputs(folder.path());
        let run_dir = disk.path().join("run");
        let set = format!("run.dir={}", run_dir.display());
        let mut running = Running::start(folder.path(), &["--set", &set]);
        running.hear(|line| line["step"] == 7 && line["event"].is_null()).unwrap();
        let ballast = disk.path().join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        while std::io::Write::write(&mut file, &[1; 4096]).is_ok_and(|written| written > 0) {}
        FullDisk { folder, run_dir, set, running, ballast }
    }
}

/// The disk fills while the run is under way, to the last byte: training goes on, lines of metrics wait in memory, and once
/// there is room everything is as if there always had been.
#[test]
fn disk_that_fills_and_is_emptied_again() {
    let Some(disk) = SmallDisk::new(8 << 10) else { return };
    let FullDisk { folder, run_dir, set, mut running, ballast } = FullDisk::filled_after_step_7(&disk);
    let event = running.hear_event("checkpoint_failed");
    fs::remove_file(&ballast).unwrap();
    let (code, errors) = running.end();
    let reason = event.unwrap_or_else(|| panic!("it was faster: {errors}"))["reason"].to_string();
    assert!(reason.contains("the disk is full") && reason.contains("free some space"), "{reason}");
    // It may have ended before there was room again; then it says so, and goes on once it is asked to.
    if code != Some(0) {
        assert!(code == Some(2) && errors.contains("the disk is full"), "{code:?} {errors}");
        run(folder.path(), &["pretrain", "tiny.toml", "--resume", "--set", &set]).succeeded();
    }
    assert_same(trained(), &run_dir);
}

/// It stays full: the run comes to its end, says that the last checkpoint could not be written, and loses none that was.
#[test]
fn disk_that_stays_full() {
    let Some(disk) = SmallDisk::new(8 << 10) else { return };
    let FullDisk { folder, run_dir, set, running, ballast } = FullDisk::filled_after_step_7(&disk);
    let (code, errors) = running.end();
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("the disk is full") && errors.contains("--resume"), "{errors}");
    let saved = fs::read_dir(run_dir.join("checkpoints/pretrain")).unwrap().count();
    assert!(saved > 0, "not one checkpoint is left");
    let refused = run(folder.path(), &["pretrain", "tiny.toml", "--resume", "--set", &set]);
    refused.refused(&["are free", "free some space"]);
    fs::remove_file(&ballast).unwrap();
    run(folder.path(), &["pretrain", "tiny.toml", "--resume", "--set", &set]).succeeded();
    assert_same(trained(), &run_dir);
}

#[test]
fn folder_that_cannot_be_written() {
    let Some(mut disk) = SmallDisk::new(8 << 10) else { return };
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let run_dir = disk.path().join("run");
    let set = format!("run.dir={}", run_dir.display());
    let resume = || run(folder.path(), &["pretrain", "tiny.toml", "--resume", "--set", &set]);
    disk.set_read_only(true);
    resume().refused(&["run", "Read-only file system", "permissions"]);
    disk.set_read_only(false);
    let mut running = Running::start(folder.path(), &["--set", &set]);
    running.hear(|line| line["step"] == 10 && line["event"].is_null()).unwrap();
    running.child.kill().unwrap();
    running.end();
    let before = Tree::of(&run_dir);
    disk.set_read_only(true);
    resume().refused(&["run.lock", "Read-only file system", "permissions"]);
    assert!(Tree::of(&run_dir) == before);
    disk.set_read_only(false);
    resume().succeeded();
    assert_same(trained(), &run_dir);
}

/// Checkpoints of the finished run, oldest first.
fn checkpoints() -> Vec<PathBuf> {
    let parents = trained().0.keys().filter(|path| path.starts_with(CHECKPOINTS)).filter_map(|path| path.parent());
    let mut found: Vec<PathBuf> = parents.filter(|path| !path.ends_with("pretrain")).map(Path::to_owned).collect();
    found.dedup();
    found
}

/// Each file of the newest checkpoint, all of it, a half, or its folder left empty: the one before serves.
#[test]
fn checkpoint_damaged_anywhere_or_half_deleted() {
    let mut seeded = Seeded(6);
    let newest = checkpoints().pop().unwrap();
    let files = ["checksums.txt", "state.json", "tensors.safetensors"];
    type Damage<'a> = &'a dyn Fn(&Path, &mut Seeded);
    let damages: [(&str, Damage<'_>); 5] = [
        ("flipped", &|folder, seeded| {
            let path = folder.join(seeded.pick(&files));
            let mut bytes = fs::read(&path).unwrap();
            for _ in 0..1 + seeded.below(4) {
                let at = seeded.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 + seeded.below(255) as u8;
            }
            fs::write(path, bytes).unwrap();
        }),
        ("one file gone", &|folder, seeded| fs::remove_file(folder.join(seeded.pick(&files))).unwrap()),
        ("two files gone", &|folder, seeded| {
            let kept = seeded.pick(&files);
            files.iter().filter(|file| **file != kept).for_each(|file| fs::remove_file(folder.join(file)).unwrap());
        }),
        ("empty", &|folder, _| files.iter().for_each(|file| fs::remove_file(folder.join(file)).unwrap())),
        ("a folder in the place of a file", &|folder, _| {
            fs::remove_file(folder.join("tensors.safetensors")).unwrap();
            fs::create_dir(folder.join("tensors.safetensors")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let folder = trained_folder();
        damage(&folder.path().join(&newest), &mut seeded);
        fs::remove_dir_all(folder.path().join("run/base")).unwrap();
        let resumed = run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
        let said = ["skipped a damaged checkpoint", newest.to_str().unwrap(), "resumed pretrain after step 39"];
        for said in said {
            assert!(resumed.stderr.contains(said), "{what}: {said:?} is not in {}", resumed.stderr);
        }
        let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
        assert!(metrics.contains("\"event\":\"damaged_checkpoint\""), "{what}: {metrics}");
        assert_same(trained(), &folder.path().join("run"));
    }
}

/// The order of checkpoints is that of their steps, whatever the clock says; nothing else asks it.
#[test]
fn clock_set_back() {
    let folder = trained_folder();
    let mut age = Duration::ZERO;
    for checkpoint in checkpoints() {
        age += Duration::from_secs(400 * 86_400);
        for file in ["checksums.txt", "state.json", "tensors.safetensors"] {
            let file = fs::OpenOptions::new().write(true).open(folder.path().join(&checkpoint).join(file)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        fs::File::open(folder.path().join(&checkpoint)).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
    let metrics = fs::OpenOptions::new().append(true).open(folder.path().join("run/metrics.jsonl")).unwrap();
    metrics.set_modified(SystemTime::now() + age).unwrap();
    fs::remove_dir_all(folder.path().join("run/base")).unwrap();
    let resumed = run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
    assert!(resumed.stderr.contains("resumed pretrain after step 40"), "{}", resumed.stderr);
    assert_same(trained(), &folder.path().join("run"));
}

/// A page of random letters in the middle of the text, of which each row is a step of its own.
fn write_inputs_with_a_bad_page(folder: &Path) {
    write_inputs(folder);
    let mut seeded = Seeded(77);
    let mut texts = documents(240, 1);
    let page = (0..200).map(|_| char::from(33 + seeded.below(94) as u8)).collect();
    texts.insert(120, page);
    let lines: String = texts.iter().map(|text| format!("{}\n", serde_json::json!({ "text": text }))).collect();
    fs::write(folder.join("text.jsonl"), lines).unwrap();
    let recipe = support::RECIPE.replace("[run]", GUARDED).replace("steps = 40", "steps = 160");
    let recipe = recipe.replacen("batch_tokens = 256\nmicro_batch = 2", "batch_tokens = 64\nmicro_batch = 1", 1);
    fs::write(folder.join("tiny.toml"), recipe.replacen("checkpoint_every = 3", "checkpoint_every = 8", 1)).unwrap();
}

const GUARDED: &str = "[run.guard]\nspike = \"rollback\"\nwindow = 24\nbefore = 2\n\n[run]";

/// The program itself meets a bad page, goes back past it, and does the same however often it is killed.
#[test]
fn bad_page_and_kills() {
    let whole = tempfile::tempdir().unwrap();
    write_inputs_with_a_bad_page(whole.path());
    let told = run(whole.path(), &["pretrain", "tiny.toml"]).succeeded();
    assert!(told.stderr.contains("deviations above the mean") && told.stderr.contains("back to step"), "{told:#?}");
    let expected = Tree::of(whole.path());
    let metrics = String::from_utf8(expected.file("run/metrics.jsonl").to_vec()).unwrap();
    assert!(metrics.contains("\"event\":\"rolled_back\"") && !metrics.contains("null"), "{metrics}");

    let folder = tempfile::tempdir().unwrap();
    write_inputs_with_a_bad_page(folder.path());
    let mut seeded = Seeded(5);
    for _ in 0..6 {
        let mut running = Running::start(folder.path(), &[]);
        for _ in 0..10 + seeded.below(40) {
            running.hear(|line| line["event"].is_null());
        }
        // Whether it was still there or not.
        running.child.kill().unwrap();
        running.end();
    }
    run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
    let found = Tree::of(folder.path());
    assert!(found.file("run/base/model.safetensors") == expected.file("run/base/model.safetensors"));
    let (found, expected) = (found.file("run/metrics.jsonl"), expected.file("run/metrics.jsonl"));
    assert_eq!(reproducible(found), reproducible(expected));
}

/// A pseudo-terminal: the side that a window or ssh holds, and the side of the program.
fn terminal() -> (fs::File, fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    // A program that held the other side, too, could not lose it.
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    // The test may have no terminal itself, and is not to get this one.
    let noctty = rustix::fs::OFlags::NOCTTY.bits() as i32;
    let program = fs::OpenOptions::new().read(true).write(true).custom_flags(noctty).open(name).unwrap();
    (master.into(), program)
}

/// The program on a terminal of this kind, which alone holds the program's side, and the other side.
fn on_terminal(kind: &str, folder: &Path, arguments: &[&str]) -> (fs::File, Child) {
    let (master, program) = terminal();
    let mut command = casallm(folder, arguments);
    let end = || program.try_clone().unwrap();
    command.env("TERM", kind).stdin(end()).stdout(end()).stderr(end());
    (master, command.spawn().unwrap())
}

/// Ctrl-C stops an answer also before anything of it is there, and never the conversation.
#[test]
fn ctrl_c_ahead_of_an_answer_stops_it_and_not_the_chat() {
    use rustix::termios::{LocalModes, tcgetattr};

    let folder = trained_folder();
    let (mut master, mut child) = on_terminal("xterm", folder.path(), &["chat", "--model", "run/model"]);
    let mut shown = Vec::new();
    let mut until = |master: &mut fs::File, text: &str| {
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&shown).contains(text) {
            let count = master.read(&mut piece).unwrap();
            shown.extend_from_slice(&piece[..count]);
        }
        shown.clear();
    };
    until(&mut master, "you> ");
    master.write_all(b"hello\r").unwrap();
    // The line has been read: from now on the key is a signal. So small a model may have answered before anybody looked.
    let patience = Instant::now() + Duration::from_secs(10);
    while !tcgetattr(&master).unwrap().local_modes.contains(LocalModes::ISIG) && Instant::now() < patience {
        thread::sleep(Duration::from_micros(50));
    }
    support::signal(&child, "INT");
    // The model is so small that it may have been faster.
    until(&mut master, "you> ");
    master.write_all(b"/quit\r").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// An editor's window shows what is written to it as it is.
#[test]
fn a_terminal_that_obeys_nothing_gets_nothing_to_obey() {
    let folder = trained_folder();
    for (arguments, wanted) in [(&["watch", "run"][..], "step"), (&["data", "inspect", "tiny.toml"], "⟦learned⟧")] {
        let (mut master, mut child) = on_terminal("dumb", folder.path(), arguments);
        let mut shown = Vec::new();
        // Ends with an error when the other side is closed.
        let _ = master.read_to_end(&mut shown);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.contains(wanted) && !shown.contains('\u{1b}'), "{shown:?}");
    }
}

/// The window is closed, or ssh breaks off: whatever the run prints from then on fails, which neither ends it nor spoils its
/// end; SIGHUP has it save and stop, and a second one does no more.
#[test]
fn terminal_that_is_lost() {
    if !support::hears_hangup() {
        println!("skipped: SIGHUP is ignored here");
        return;
    }
    let mut cases = vec![&["--json"][..], &[]];
    while let Some(flags) = cases.last() {
        let folder = tempfile::tempdir().unwrap();
        write_inputs(folder.path());
        let (master, program) = terminal();
        let mut command = casallm(folder.path(), &[&["pretrain", "tiny.toml"], *flags].concat());
        command.stdin(program.try_clone().unwrap()).stdout(program.try_clone().unwrap()).stderr(program);
        let mut child = command.spawn().unwrap();
        // It holds the program's side as well.
        drop(command);
        let mut reader = BufReader::new(master);
        let (mut shown, under_way) = (Vec::new(), if flags.is_empty() { "/40 " } else { "\"step\":7," });
        while !String::from_utf8_lossy(&shown).contains(under_way) {
            let piece = reader.fill_buf().unwrap();
            let count = piece.len();
            shown.extend_from_slice(piece);
            reader.consume(count);
        }
        support::signal(&child, "STOP");
        drop(reader);
        support::signal(&child, "HUP");
        support::signal(&child, "CONT");
        let _ =
            std::process::Command::new("kill").args(["-HUP", &child.id().to_string()]).stderr(Stdio::null()).status();
        let status = child.wait().unwrap();
        if status.success() {
            // It was done before the signal reached it: another try.
            continue;
        }
        cases.pop();
        assert_eq!(status.code(), Some(130), "{status}");
        let newest =
            fs::read_dir(folder.path().join(CHECKPOINTS)).unwrap().map(|entry| entry.unwrap().file_name()).max();
        let newest = newest.unwrap().into_string().unwrap();
        let metrics = fs::read(folder.path().join("run/metrics.jsonl")).unwrap();
        let last: serde_json::Value = serde_json::from_str(reproducible(&metrics).last().unwrap()).unwrap();
        assert_eq!(newest, format!("step-{:06}", last["step"].as_u64().unwrap()));
        run(folder.path(), &["pretrain", "tiny.toml", "--resume"]).succeeded();
        assert_same(trained(), &folder.path().join("run"));
    }
}

/// Those of every so many steps are kept for good, beside the last and the best.
#[test]
fn checkpoints_that_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let set = ["pretrain.keep_last=1", "pretrain.keep_every=12", "run.checkpoint=between_steps"];
    let flags: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
    run(folder.path(), &[&["pretrain", "tiny.toml"], &flags[..]].concat()).succeeded();
    let kept: Vec<String> = Tree::of(&folder.path().join(CHECKPOINTS))
        .0
        .into_keys()
        .filter(|path| path.ends_with("state.json"))
        .map(|path| path.parent().unwrap().display().to_string())
        .collect();
    assert_eq!(kept, ["step-000012", "step-000024", "step-000036", "step-000040"]);
    assert!(Tree::of(folder.path()).file("run/base/model.safetensors") == trained().file("run/base/model.safetensors"));
}
