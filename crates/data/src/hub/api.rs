//! What the Hub says of a data set: the commit that a revision means, its configurations, its files.

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use glob::Pattern;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::error::HubError;
use super::fetching::Event;
use super::files::{BlobId, RepositoryFile};
use super::http::{Client, Trouble, sleep};

/// Bytes of one answer.
const MAX_PAGE: u64 = 64 << 20;
const MAX_PAGES: usize = 20_000;
const MAX_FILES: usize = 2_000_000;

/// What stays as it is in one part of a path.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A data set's card and commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Info {
    /// 40 digits.
    pub commit: String,
    /// Name and file patterns of each configuration, where the card says them.
    pub configs: Vec<(String, Vec<String>)>,
    /// As the card says.
    pub licence: Option<String>,
}

type Observe<'a> = &'a mut dyn FnMut(Event<'_>);

/// Asks the API, patiently.
pub(super) struct Api<'a> {
    pub client: &'a Client,
    pub stop: &'a AtomicBool,
}

#[derive(Deserialize)]
struct RawInfo {
    sha: Option<String>,
    #[serde(rename = "cardData")]
    card: Option<Value>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    oid: String,
    size: u64,
}

impl Api<'_> {
    /// The commit that a branch, a tag or a commit means now, and the card.
    ///
    /// # Errors
    /// [`HubError::Refused`], [`HubError::Unreachable`], [`HubError::Listing`], [`HubError::Interrupted`].
    pub(super) fn info(&self, repository: &str, revision: &str, observe: Observe<'_>) -> Result<Info, HubError> {
        let endpoint = &self.client.settings().endpoint;
        let url = format!("{endpoint}/api/datasets/{}/revision/{}", encoded(repository), part(revision));
        let (body, _) = self.body(&url, &format!("{repository} at {revision}"), observe)?;
        let listing = |message: String| HubError::Listing { url: url.clone(), message };
        let raw: RawInfo =
            serde_json::from_slice(&body).map_err(|e| listing(format!("not the answer of a Hub: {e}")))?;
        let commit = raw.sha.unwrap_or_default();
        if !matches!(BlobId::parse(&commit), Some(BlobId::GitSha1(_))) {
            return Err(listing(format!("`sha` is {commit:?}, expected a commit")));
        }
        let card = raw.card.unwrap_or_default();
        let configs = card["configs"].as_array().into_iter().flatten();
        let configs = configs.filter_map(|c| Some((c["config_name"].as_str()?.to_owned(), files_of(c))));
        let licence = match &card["license"] {
            Value::String(name) => Some(name.clone()),
            Value::Array(names) => Some(names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
            _ => None,
        };
        Ok(Info { commit: commit.to_ascii_lowercase(), configs: configs.collect(), licence })
    }

    /// All files of a commit.
    ///
    /// # Errors
    /// As [`Api::info`].
    pub(super) fn tree(
        &self,
        repository: &str,
        commit: &str,
        observe: Observe<'_>,
    ) -> Result<Vec<RepositoryFile>, HubError> {
        let endpoint = &self.client.settings().endpoint;
        let mut url = format!("{endpoint}/api/datasets/{}/tree/{commit}?recursive=true", encoded(repository));
        let mut files = Vec::new();
        let mut names = HashSet::new();
        let mut pages = HashSet::new();
        loop {
            let listing = |message: String| HubError::Listing { url: url.clone(), message };
            if !pages.insert(url.clone()) || pages.len() > MAX_PAGES || files.len() > MAX_FILES {
                return Err(listing("the listing does not end".into()));
            }
            let (body, next) = self.body(&url, repository, observe)?;
            let entries: Vec<RawEntry> =
                serde_json::from_slice(&body).map_err(|e| listing(format!("not the listing of a Hub: {e}")))?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let (digits, size) = match &entry.lfs {
                    Some(lfs) => (lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid), lfs.size),
                    None => (entry.oid.as_str(), entry.size),
                };
                let id = BlobId::parse(digits)
                    .filter(|id| entry.lfs.is_some() == matches!(id, BlobId::Sha256(_)))
                    .ok_or_else(|| listing(format!("{:?} has no hash: {digits:?}", entry.path)))?;
                if !names.insert(entry.path.clone()) {
                    return Err(listing(format!("{:?} is listed twice", entry.path)));
                }
                files.push(RepositoryFile { path: entry.path, size, id, local: None });
            }
            observe(Event::Listing(files.len()));
            let Some(next) = next else { break };
            url = self.client.next_page(&url, &next).ok_or_else(|| listing(format!("the next page is {next:?}")))?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// A whole answer, and the address of the next page.
    fn body(&self, url: &str, what: &str, observe: Observe<'_>) -> Result<(Vec<u8>, Option<String>), HubError> {
        let policy = self.client.settings().retry;
        let mut failures = 0;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(HubError::Interrupted);
            }
            let trouble = match self.client.get(url, None, self.stop) {
                Ok(answer) => {
                    let mut body = Vec::new();
                    match answer.body.take(MAX_PAGE + 1).read_to_end(&mut body) {
                        Ok(_) if body.len() as u64 > MAX_PAGE => {
                            return Err(HubError::Listing {
                                url: url.to_owned(),
                                message: "the answer does not end".into(),
                            });
                        }
                        Ok(_) => return Ok((body, answer.next)),
                        Err(error) => Trouble::again(error.to_string()),
                    }
                }
                Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Never { status, message } => {
                    let remedy = match status {
                        401 | 403 | 404 => {
                            "check the name and --revision; a private or gated data set needs HF_TOKEN, and its terms accepted on its page"
                        }
                        _ => "check the name and --revision",
                    };
                    return Err(HubError::Refused { what: what.to_owned(), message, remedy });
                }
                Trouble::Again { reason, wish } => {
                    failures += 1;
                    if !policy.allows(failures, 0) {
                        return Err(HubError::Unreachable { url: url.to_owned(), tries: failures, reason });
                    }
                    let wait = policy.wait(url, failures, wish);
                    observe(Event::Retry { path: what, reason: &reason, wait, failures });
                    sleep(wait, self.stop);
                }
            }
        }
    }
}

/// The address of a file's contents.
pub(super) fn resolve_url(endpoint: &str, repository: &str, commit: &str, path: &str) -> String {
    format!("{endpoint}/datasets/{}/resolve/{}/{}", encoded(repository), part(commit), encoded(path))
}

fn part(text: &str) -> String {
    utf8_percent_encode(text, KEPT).to_string()
}

fn encoded(path: &str) -> String {
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// The patterns of a configuration of a card: its `data_files`, below its `data_dir` where it has one, or all of that.
fn files_of(config: &Value) -> Vec<String> {
    let files = globs(&config["data_files"]);
    let Some(dir) = config["data_dir"].as_str().map(|dir| dir.trim_matches('/')).filter(|dir| !dir.is_empty()) else {
        return files;
    };
    let files = if files.is_empty() { vec!["**".to_owned()] } else { files };
    files.iter().map(|glob| format!("{}/{glob}", Pattern::escape(dir))).collect()
}

/// The patterns of a card's `data_files`, in any of the forms that the Hub knows.
fn globs(value: &Value) -> Vec<String> {
    match value {
        Value::String(glob) => vec![glob.clone()],
        Value::Array(items) => items.iter().flat_map(globs).collect(),
        Value::Object(fields) => match fields.get("path") {
            Some(path) => globs(path),
            None => fields.values().flat_map(globs).collect(),
        },
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_become_parts_of_addresses() {
        let url = resolve_url("https://h", "a/b", "refs/convert/parquet", "x y/50%?.json");
        assert_eq!(url, "https://h/datasets/a/b/resolve/refs%2Fconvert%2Fparquet/x%20y/50%25%3F.json");
    }

    #[test]
    fn data_files_have_many_forms() {
        assert_eq!(globs(&json!("data/*")), ["data/*"]);
        assert_eq!(globs(&json!(["a", "b"])), ["a", "b"]);
        assert_eq!(
            globs(&json!([{"split": "train", "path": "t/*"}, {"split": "test", "path": ["u", "v"]}])),
            ["t/*", "u", "v"]
        );
        assert_eq!(globs(&json!({"train": "t/*"})), ["t/*"]);
        assert_eq!(files_of(&json!({"data_files": "t/*"})), ["t/*"]);
        assert_eq!(files_of(&json!({"data_dir": "en/"})), ["en/**"]);
        assert_eq!(files_of(&json!({"data_dir": "en", "data_files": ["a", "b/*"]})), ["en/a", "en/b/*"]);
    }
}
