//! `casallm fetch`, the real binary, against a Hub that misbehaves on purpose.

#[path = "../../../data/tests/hub/server/mod.rs"]
mod server;
mod storm;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casallm_data::hub::{Manifest, sync_bytes};
use server::{Contents, Fault, File, REPOSITORY, Server, Setup, Weather};
use storm::Storm;
use support::{Finished, casallm, documents, run};

fn command(folder: &Path, server: &Server, arguments: &[&str]) -> Command {
    let mut command = casallm(folder, &[&["fetch", "--retry-wait", "0.001"], arguments].concat());
    command.env("HF_ENDPOINT", server.url()).env("HF_HOME", folder.join("home")).env("NO_PROXY", "127.0.0.1");
    for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"] {
        command.env_remove(name);
    }
    command
}

fn fetch(folder: &Path, server: &Server, arguments: &[&str]) -> Finished {
    Finished::of(&arguments.join(" "), &command(folder, server, arguments).output().unwrap())
}

#[test]
fn killed_at_random_moments_it_fetches_nothing_twice() {
    let files: Vec<File> = (0..40).map(|i| File::made(&format!("data/{i:02}.parquet"), i, 200_000 + i)).collect();
    let weather = Weather { cut: 500, busy: 50, broken: 50, wrong_length: 20, ..Weather::default() };
    let server = Server::start(Setup { weather, page: 15, ..Setup::of(files.clone()) });
    let folder = tempfile::tempdir().unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_casallm"));
    let mut storm = Storm { program, server: &server, folder: folder.path(), runs: 0 };
    let size: u64 = files.iter().map(|file| file.contents.size()).sum();
    let weathered = storm.weather(12, 40, size);
    assert_eq!(weathered.ended.code, Some(0), "{}", weathered.ended.stderr);
    assert!(weathered.amid_a_file > 0, "no kill met a file that was half there");
    for file in &files {
        assert!(fs::read(folder.path().join("out").join(&file.path)).unwrap() == file.contents.all(), "{}", file.path);
    }
    assert!(Manifest::read(&folder.path().join("out")).unwrap().unwrap().complete);
    // What may come twice: of each of the four files under way what was not synced when it was killed, and what a socket
    // still held then.
    let sent: u64 = server.bodies().iter().map(|body| body.sent).sum();
    let may = weathered.kills * 4 * (sync_bytes(200_000) + 200_000);
    assert!(sent - size <= may, "{sent} bytes were sent for {size}, at most {may} more may be");
}

#[test]
fn an_interrupt_leaves_what_is_there_and_says_how_to_go_on() {
    let files = vec![File::made("a.parquet", 1, 100_000), File::made("b.parquet", 2, 1000).with(Fault::Silent)];
    let server = Server::start(Setup::of(files));
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &server, &[REPOSITORY, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut placed = false;
    while !placed {
        placed = lines.next().unwrap().unwrap().contains("\"placed\"");
    }
    support::signal(&child, "INT");
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(rest.iter().any(|line| line.contains("\"interrupted\"")), "{rest:?}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(folder.path().join("data/poems/a.parquet").exists());

    // People are told.
    let mut child = command(folder.path(), &server, &[REPOSITORY]).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("are in place") {
        std::io::BufRead::read_line(&mut errors, &mut said).unwrap();
    }
    support::signal(&child, "INT");
    std::io::Read::read_to_string(&mut errors, &mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("run the same command again"), "{said}");
}

#[test]
fn what_did_not_arrive_is_named_with_its_reason() {
    let files =
        vec![File::made("data/a.parquet", 1, 1000).with(Fault::Status(500)), File::made("data/b.parquet", 2, 1000)];
    let server = Server::start(Setup::of(files));
    let folder = tempfile::tempdir().unwrap();
    fetch(folder.path(), &server, &[REPOSITORY, "--tries", "2"]).refused(&[
        "1 of 2 files did not arrive",
        "data/a.parquet: given up after 2 tries",
        "500",
        "same command again",
    ]);
    assert!(folder.path().join("data/poems/data/b.parquet").exists());
    fetch(folder.path(), &server, &["finewebb"]).refused(&["finewebb", "fineweb-edu", "owner/name"]);
    fetch(folder.path(), &server, &["ada/novels"]).refused(&["ada/novels", "404", "HF_TOKEN"]);
    let many = fetch(folder.path(), &server, &[REPOSITORY, "--tokens", "many"]);
    assert!(many.code == Some(2) && many.stderr.contains("like 500M"), "{many:?}");
    // Of several one may fail, and the others are tried.
    fetch(folder.path(), &server, &["ada/novels", REPOSITORY, "--tries", "1"]).refused(&[
        "2 of 2 data sets did not arrive",
        "ada/novels",
        "data/a.parquet",
    ]);
    fetch(folder.path(), &server, &["eval", "--out", "x"]).refused(&["--out"]);
    let mut offline = command(folder.path(), &server, &["ada/essays"]);
    let offline = Finished::of("offline", &offline.env("HF_HUB_OFFLINE", "1").output().unwrap());
    offline.refused(&["ada/essays", "HF_HUB_OFFLINE"]);
}

#[test]
fn the_folder_goes_into_a_recipe_by_the_lines_that_are_printed() {
    let rows: String =
        documents(240, 1).iter().map(|text| format!("{}\n", serde_json::json!({ "poem": text }))).collect();
    let pairs = "{\"question\":\"?\",\"chosen\":\"yes\",\"rejected\":\"no\"}\n";
    let files = vec![
        File::git("poems.jsonl", Contents::text(&rows)),
        File::git("pairs/p.jsonl", Contents::text(pairs)),
        File::git("chats/c.jsonl", Contents::text(&support::conversations(3, 1))),
    ];
    let server = Server::start(Setup::of(files));
    let folder = tempfile::tempdir().unwrap();
    let include = |pattern: &'static str, out: &'static str| [REPOSITORY, "--include", pattern, "--out", out];
    let said = fetch(folder.path(), &server, &include("poems.jsonl", "data/poems")).succeeded().stderr;
    assert!(said.contains("its rows have poem") && said.contains("--text-field"), "{said}");
    let said = fetch(folder.path(), &server, &include("pairs/*", "pairs")).succeeded().stderr;
    assert!(said.contains("[[data.dpo]]\nname = \"pairs\""), "{said}");
    let said = fetch(folder.path(), &server, &include("chats/*", "chats")).succeeded().stderr;
    assert!(said.contains("[[data.sft]]\nname = \"chats\""), "{said}");

    let again = [&include("poems.jsonl", "data/poems")[..], &["--text-field", "poem"]].concat();
    let said = fetch(folder.path(), &server, &again).succeeded().stderr;
    let lines = &said[said.find("[[data.pretrain]]").unwrap()..];
    let recipe = support::RECIPE.replace("[[data.pretrain]]\nname = \"stories\"\npath = \"text.jsonl\"\n", lines);
    assert!(recipe.contains("text_field = \"poem\""), "{recipe}");
    // The recipe stands in another folder.
    fs::create_dir(folder.path().join("recipes")).unwrap();
    fs::write(folder.path().join("recipes/my.toml"), recipe).unwrap();
    run(&folder.path().join("recipes"), &["pretrain", "my.toml", "--set", "pretrain.steps=2"]).succeeded();
}

#[test]
fn machines_are_told_too() {
    let files = vec![
        File::made("0.parquet", 1, 10_000),
        File::made("1.parquet", 2, 10_000).with(Fault::StatusFirst(503, 1, 0)),
    ];
    let server = Server::start(Setup::of(files));
    let folder = tempfile::tempdir().unwrap();
    let finished = fetch(folder.path(), &server, &[REPOSITORY, "--json", "--tokens", "4k"]).succeeded();
    let lines: Vec<serde_json::Value> =
        finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    assert_eq!((&of("planned")[0]["files"], &of("planned")[0]["estimated_tokens"]), (&2.into(), &7000.into()));
    assert_eq!((of("placed").len(), of("retry").len()), (2, 1));
    assert_eq!(of("complete")[0]["received"], 20_000);
    assert_eq!(lines.last(), Some(of("complete")[0]));
    assert!(finished.stderr.is_empty(), "{}", finished.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_is_known_before_the_first_byte() {
    let Some(disk) = support::SmallDisk::new(1024) else { return };
    let server = Server::start(Setup::of(vec![File::made("a.parquet", 1, 3_000_000)]));
    let folder = tempfile::tempdir().unwrap();
    let out = disk.path().join("out");
    fetch(folder.path(), &server, &[REPOSITORY, "--out", out.to_str().unwrap()]).refused(&["bytes free", "--tokens"]);
    assert!(server.bodies().is_empty());
}
