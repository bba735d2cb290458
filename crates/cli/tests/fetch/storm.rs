//! The real binary in bad weather, killed at random moments: nothing that was durable is fetched twice, and all of it
//! arrives. Shared by the tests and by the example that does it at full size.
//!
//! It is the server that kills, when so many bytes have left it or so many requests have come, or whoever reads what the
//! program prints: so every kill meets a program that has not ended, however fast it is.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use casallm_data::hub::{Manifest, PARTIALS};

use super::server::{REPOSITORY, Server, Until, mix};

/// A fetch that is begun again and again.
pub struct Storm<'a> {
    pub program: PathBuf,
    pub server: &'a Server,
    /// Its `out` is where the files go.
    pub folder: &'a Path,
    pub runs: usize,
}

/// When a run is killed.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So many lines were heard.
    Heard(usize),
    /// The server has done so much.
    Served(Until),
}

/// How a run ended.
pub struct Ended {
    /// `None` for one that was killed.
    pub code: Option<i32>,
    pub stderr: String,
}

/// How often it was killed, and how at last it ended.
pub struct Weathered {
    pub kills: u64,
    /// Kills that left something half fetched.
    pub amid_a_file: u64,
    pub ended: Ended,
}

/// What the disk promises before a run: files in place, and bytes of those under way.
struct Promised {
    placed: Vec<String>,
    durable: HashMap<String, u64>,
}

impl Storm<'_> {
    /// Runs and is killed `kills` times, spread over all that is to be fetched, `bytes` in `files`; then runs to the end.
    pub fn weather(&mut self, kills: u64, files: u64, bytes: u64) -> Weathered {
        let (mut killed, mut amid_a_file) = (0, 0);
        while killed < kills {
            let promised = self.promised();
            let held: u64 = promised.durable.values().sum::<u64>() + promised.placed.len() as u64 * (bytes / files);
            // So much at most that a run cannot end before it, and that something is left for every kill to come.
            let share = bytes.saturating_sub(held) * 9 / 10 * 2 / (kills - killed + 1);
            let draw = mix(killed ^ 0x5702);
            let many = files - promised.placed.len() as u64 > 12;
            let moment = match draw % 8 {
                // The listing, the first addresses.
                0 if many => Moment::Served(Until::Asked(1 + (draw >> 8) % 12)),
                // The plan, a file in place, something tried again.
                1 if many => Moment::Heard(1 + (draw >> 8) as usize % 3),
                _ => Moment::Served(Until::Sent(1 + (draw >> 8) % share.max(1))),
            };
            let ended = self.run(Some(moment));
            assert_eq!(ended.code, None, "it ended before {moment:?}: {}", ended.stderr);
            killed += 1;
            amid_a_file += u64::from(!self.promised().durable.is_empty());
        }
        Weathered { kills: killed, amid_a_file, ended: self.run(None) }
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn promised(&self) -> Promised {
        let manifest = Manifest::read(&self.out()).unwrap();
        let files = manifest.iter().flat_map(|manifest| &manifest.files);
        let mut promised = Promised { placed: Vec::new(), durable: HashMap::new() };
        for file in files {
            if self.out().join(&file.path).exists() {
                promised.placed.push(file.path.clone());
            }
            let state = self.out().join(PARTIALS).join(format!("{}.json", file.id().unwrap()));
            if let Ok(state) = fs::read(state) {
                let state: serde_json::Value = serde_json::from_slice(&state).expect("a state is whole or not there");
                promised.durable.insert(file.path.clone(), state["synced"].as_u64().unwrap());
            }
        }
        promised
    }

    /// Runs until the moment, and kills; or to the end. Then looks what was asked for twice.
    fn run(&mut self, moment: Option<Moment>) -> Ended {
        let promised = self.promised();
        self.runs += 1;
        // The token tells the server which run asks: what a killed process had asked for may be seen late.
        let token = format!("hf_run{}", self.runs);
        let errors = self.folder.join("stderr.txt");
        let mut child = Command::new(&self.program)
            .current_dir(self.folder)
            .args(["fetch", REPOSITORY, "--out", "out", "--json", "--retry-wait", "0.002", "--tries", "60"])
            .env("HF_ENDPOINT", self.server.url())
            .env("HF_HOME", self.folder.join("home"))
            .env("HF_TOKEN", &token)
            .env("NO_PROXY", "127.0.0.1")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let mut heard = BufReader::new(child.stdout.take().unwrap()).lines();
        let child = Arc::new(Mutex::new(child));
        if let Some(Moment::Heard(lines)) = moment
            && heard.by_ref().take(lines).count() == lines
        {
            child.lock().unwrap().kill().unwrap();
        }
        if let Some(Moment::Served(until)) = moment {
            let child = Arc::clone(&child);
            self.server.when(until, move || child.lock().unwrap().kill().unwrap());
        }
        // Until it is no more.
        heard.for_each(drop);
        let code = child.lock().unwrap().wait().unwrap().code();
        self.server.never();
        let mut read_to_the_end = HashSet::new();
        for body in self.server.bodies().iter().filter(|body| body.token.as_deref() == Some(&token)) {
            assert!(!promised.placed.contains(&body.path), "{} was in place and was fetched again", body.path);
            let durable = promised.durable.get(&body.path).copied().unwrap_or(0);
            // A whole file of the wrong hash is begun anew, and no other.
            assert!(
                body.from >= durable || read_to_the_end.contains(&body.path),
                "{}: {durable} bytes were durable, and it was asked from {}",
                body.path,
                body.from
            );
            if body.from + body.sent == self.server.file(&body.path).contents.size() {
                read_to_the_end.insert(body.path.clone());
            }
        }
        Ended { code, stderr: fs::read_to_string(errors).unwrap() }
    }
}
