//! The real binary in bad weather, killed at random moments: nothing that was durable is fetched twice, and all of it
//! arrives. Shared by the tests and by the example that does it at full size.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casallm_data::hub::{Manifest, PARTIALS};

use super::server::{REPOSITORY, Server};

/// A fetch that is begun again and again.
pub struct Storm<'a> {
    pub program: PathBuf,
    pub server: &'a Server,
    /// Its `out` is where the files go.
    pub folder: &'a Path,
    pub runs: usize,
}

/// How a run ended.
pub struct Ended {
    /// `None` for one that was killed.
    pub code: Option<i32>,
    pub stderr: String,
}

/// What the disk promises before a run: files in place, and bytes of those under way.
struct Promised {
    placed: Vec<String>,
    durable: HashMap<String, u64>,
}

impl Storm<'_> {
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

    /// Runs until `lines` lines were heard, and kills; or to the end. Then looks what was asked for twice.
    pub fn run(&mut self, lines: Option<usize>) -> Ended {
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
        let mut code = None;
        match lines {
            Some(lines) if heard.by_ref().take(lines).count() == lines => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            // It ended before.
            _ => {
                heard.for_each(drop);
                code = child.wait().unwrap().code();
            }
        }
        for body in self.server.bodies().iter().filter(|body| body.token.as_deref() == Some(&token)) {
            assert!(!promised.placed.contains(&body.path), "{} was in place and was fetched again", body.path);
            let durable = promised.durable.get(&body.path).copied().unwrap_or(0);
            assert!(
                body.from >= durable,
                "{}: {durable} bytes were durable, and it was asked from {}",
                body.path,
                body.from
            );
        }
        Ended { code, stderr: fs::read_to_string(errors).unwrap() }
    }
}
