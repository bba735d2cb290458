//! The bar of `casallm fetch` at full size: 3 GB in 40 files from a Hub that cuts, redirects, is busy and sends wrong lengths,
//! one file that changes under way, and a program that is killed at random moments. It must end complete and verified but
//! for that one file, which it must name; what was durable must never be fetched twice.
//!
//!     cargo build --release && cargo run --release -p casallm-cli --example fetch_storm -- [GIGABYTES] [KILLS]

#[path = "../../data/tests/hub/server/mod.rs"]
mod server;
#[path = "../tests/fetch/storm.rs"]
mod storm;

use std::path::Path;
use std::time::Instant;

use casallm_data::durable::sha256_of_file;
use casallm_data::hub::sync_bytes;
use server::{Fault, File, Server, Setup, Weather};
use storm::Storm;

const FILES: u64 = 40;

fn main() {
    let arguments: Vec<f64> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let gigabytes = arguments.first().copied().unwrap_or(3.0);
    let kills = arguments.get(1).copied().unwrap_or(30.0) as u64;
    let size = (gigabytes * 1e9) as u64 / FILES;
    let file = |i: u64| File::made(&format!("data/train-{i:05}-of-00040.parquet"), i, size + i * 1000 + i);
    let mut files: Vec<File> = (0..FILES).map(file).collect();
    files[17] = file(17).with(Fault::Changes(1));
    let bytes: u64 = files.iter().map(|file| file.contents.size()).sum();
    let weather = Weather { cut: 500, busy: 100, broken: 100, wrong_length: 50, no_range: 0, corrupt: 5 };
    println!("{bytes} bytes in {FILES} files; hashing them for the listing");
    let server = Server::start(Setup { weather, page: 15, ..Setup::of(files.clone()) });
    let folder = tempfile::tempdir().expect("a folder");
    let program = Path::new("target/release/casallm").canonicalize().expect("cargo build --release comes first");
    let mut storm = Storm { program, server: &server, folder: folder.path(), runs: 0 };
    let begun = Instant::now();
    let weathered = storm.weather(kills, FILES, bytes);
    let ended = &weathered.ended;
    let seconds = begun.elapsed().as_secs_f64();
    let changed = &files[17].path;
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(&format!("{changed}: it has changed on the server: its SHA-256")),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("1 of 40 files did not arrive"), "{}", ended.stderr);
    for file in &files {
        let path = folder.path().join("out").join(&file.path);
        match file.path == *changed {
            true => assert!(!path.exists(), "a file that changed is visible"),
            false => assert_eq!(sha256_of_file(&path).expect("there"), server.id(&file.path), "{}", file.path),
        }
    }
    let bodies = server.bodies();
    let sent: u64 = bodies.iter().map(|body| body.sent).sum();
    let (size, sync) = (files[0].contents.size(), sync_bytes(files[0].contents.size()));
    println!(
        "killed {} times ({} amid a file) in {} runs; {} requests for bodies; {seconds:.1} s",
        weathered.kills,
        weathered.amid_a_file,
        storm.runs,
        bodies.len()
    );
    println!("39 files verified, the one that changed named; every request began at or behind what was durable");
    println!(
        "sent {sent} bytes for {bytes}: {:.1} % more; a kill may cost {sync} bytes of each of 4 files of {size}",
        100.0 * (sent as f64 / bytes as f64 - 1.0)
    );
    println!("(damaged bodies, which are fetched anew, and the one that changed are in it)");
}
