//! `hub::fetch` against a Hub that misbehaves on purpose (`server`), over sockets.

mod arriving;
mod failing;
mod folders;
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use casallm_data::hub::{
    Event, Fetched, FileFault, HubError, MANIFEST, Manifest, PARTIALS, Request, RetryPolicy, Settings, Token, fetch,
};
use casallm_data::source::find_files;
use server::{COMMIT, CONVERTED, Contents, Fault, File, REPOSITORY, Server, Setup, Weather};
use tempfile::TempDir;

/// A server, a folder, and what is said to the one about the other.
struct Trial {
    server: Server,
    settings: Settings,
    request: Request,
    root: TempDir,
    retries: Vec<(String, String, Duration)>,
}

impl Trial {
    fn new(setup: Setup) -> Self {
        let root = tempfile::tempdir().unwrap();
        let server = Server::start(setup);
        let home = root.path().join("home").display().to_string();
        let mut settings = Settings::from_environment(|name| match name {
            "HF_ENDPOINT" => Some(server.url()),
            "HF_HOME" => Some(home.clone()),
            _ => None,
        })
        .unwrap();
        let (first_wait, longest_wait) = (Duration::from_millis(1), Duration::from_millis(4));
        settings.retry = RetryPolicy { tries: 8, first_wait, longest_wait };
        settings.token = Token::new("hf_secret");
        let request = Request::new(REPOSITORY, root.path().join("out")).unwrap();
        Trial { server, settings, request, root, retries: Vec::new() }
    }

    fn of(files: Vec<File>) -> Self {
        Self::new(Setup::of(files))
    }

    fn out(&self) -> PathBuf {
        self.request.folder.clone()
    }

    fn fetch(&mut self) -> Result<Fetched, HubError> {
        self.fetch_until(&|| false)
    }

    fn fetch_until(&mut self, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<Fetched, HubError> {
        let retries = &mut self.retries;
        fetch(&self.request, &self.settings, interrupted, &mut |event| {
            if let Event::Retry { path, reason, wait, .. } = event {
                retries.push((path.to_owned(), reason.to_owned(), wait));
            }
        })
    }

    /// Each file of the setup that has data is visible with its bytes.
    fn assert_whole(&self, files: &[File]) {
        for file in files {
            let path = self.out().join(&file.path);
            let found = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(found == file.contents.all(), "{} has other bytes", file.path);
        }
    }

    /// The fault of the one file that did not arrive.
    fn failed(&mut self) -> (String, FileFault) {
        match self.fetch() {
            Err(HubError::Files { mut failed, .. }) if failed.len() == 1 => failed.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn visible(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Puts the beginning of a file where an earlier fetch would have left it.
fn begin(trial: &Trial, path: &str, bytes: usize, etag: &str) {
    let partials = trial.out().join(PARTIALS);
    fs::create_dir_all(&partials).unwrap();
    let id = trial.server.id(path);
    fs::write(partials.join(format!("{id}.part")), &trial.server.file(path).contents.all()[..bytes]).unwrap();
    let state = serde_json::json!({ "synced": bytes, "etag": etag });
    fs::write(partials.join(format!("{id}.json")), state.to_string()).unwrap();
}
