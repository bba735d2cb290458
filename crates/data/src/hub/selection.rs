//! [`Request`]: which data set and which of its files; and how many of them a number of tokens needs.

use std::path::PathBuf;

use glob::{MatchOptions, Pattern};

use super::api::Info;
use super::error::HubError;
use super::files::RepositoryFile;
use super::known::{KNOWN, Known};
use crate::source::is_data_file;

/// As in a shell: `*` stays within a folder, `**` does not.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// On the Hub: `owner/name`.
    pub repository: String,
    /// Where it has a short name.
    pub known: Option<&'static Known>,
    /// A branch, a tag or a commit; `None` for that of the folder, or `main`.
    pub revision: Option<String>,
    /// A configuration of the card.
    pub config: Option<String>,
    /// Patterns of paths, instead of a configuration's. One without a `/` is of names in any folder.
    pub include: Vec<String>,
    /// Take as many files as this number of tokens needs.
    pub tokens: Option<u64>,
    /// Where the files go.
    pub folder: PathBuf,
}

/// How many tokens were reckoned to be in the files that were chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Asked for.
    pub asked: u64,
    /// In the files that were taken.
    pub tokens: u64,
    /// Tokens of a byte.
    pub per_byte: f64,
    /// Whether that was counted on this very data set, or is what files of its kind usually have.
    pub counted: bool,
}

impl Request {
    /// All of what a name means, into `folder`.
    ///
    /// # Errors
    /// [`HubError::UnknownName`].
    pub fn new(name: &str, folder: PathBuf) -> Result<Self, HubError> {
        let known = Known::find(name);
        let repository = match known {
            Some(known) => known.repository.to_owned(),
            None if is_repository(name) => name.to_owned(),
            None => {
                let known = KNOWN.iter().map(|known| known.name).collect::<Vec<_>>().join(", ");
                return Err(HubError::UnknownName { name: name.to_owned(), known });
            }
        };
        Ok(Self { repository, known, revision: None, config: None, include: Vec::new(), tokens: None, folder })
    }

    /// The patterns that choose; empty for all files of data.
    pub(super) fn patterns(&self, info: &Info) -> Result<Vec<String>, HubError> {
        if !self.include.is_empty() {
            return Ok(self.include.clone());
        }
        let Some(config) = self.config.as_deref() else {
            return Ok(self
                .known
                .map(|known| known.include.iter().map(|s| (*s).to_owned()).collect())
                .unwrap_or_default());
        };
        if let Some(patterns) = self.known.and_then(|known| known.include_of(config)) {
            return Ok(patterns);
        }
        match info.configs.iter().find(|(name, patterns)| name == config && !patterns.is_empty()) {
            Some((_, patterns)) => Ok(patterns.clone()),
            // Without a list in the card each configuration has a folder of its name.
            None if info.configs.is_empty() => Ok(vec![format!("{}/**", Pattern::escape(config))]),
            None => Err(HubError::Config {
                repository: self.repository.clone(),
                config: config.to_owned(),
                known: info.configs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The files of a listing that fit, in order; with `tokens` the first of them, as many as needed.
    pub(super) fn choose(
        &self,
        files: &[RepositoryFile],
        patterns: &[String],
    ) -> Result<(Vec<RepositoryFile>, Option<Estimate>), HubError> {
        // In a card a pattern without a `/` is of the topmost folder: the same name below may be of another configuration.
        let anywhere = !self.include.is_empty();
        let compiled = patterns.iter().map(|text| compile(text, anywhere)).collect::<Result<Vec<_>, _>>()?;
        let fits = |file: &&RepositoryFile| {
            let chosen = compiled.is_empty() || compiled.iter().any(|pattern| pattern.matches(&file.path));
            // What somebody names is taken, whatever it is.
            chosen && (!self.include.is_empty() || is_data(&file.path))
        };
        let mut chosen: Vec<RepositoryFile> = files.iter().filter(fits).cloned().collect();
        let Some(asked) = self.tokens else { return Ok((chosen, None)) };
        let counted = self.known.and_then(|known| known.tokens_per_byte);
        let mut tokens = 0.0;
        let mut taken = 0;
        let mut bytes = 0;
        for file in &chosen {
            if tokens >= asked as f64 {
                break;
            }
            tokens += file.size as f64 * counted.unwrap_or_else(|| usual(&file.path));
            bytes = file.size.saturating_add(bytes);
            taken += 1;
        }
        chosen.truncate(taken);
        let per_byte = if bytes > 0 { tokens / bytes as f64 } else { 0.0 };
        Ok((chosen, Some(Estimate { asked, tokens: tokens as u64, per_byte, counted: counted.is_some() })))
    }
}

/// Tokens of a byte, by what files of this kind usually hold: 4.5 bytes of text a token, compressed by about a third
/// (parquet with snappy, beside other columns) or to a third (gzip, zstd).
fn usual(path: &str) -> f64 {
    match path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase().as_str() {
        "parquet" => 0.35,
        "gz" | "gzip" | "zst" | "zstd" => 0.6,
        _ => 0.2,
    }
}

/// Whether a file looks like rows of a data set, and not like its description.
fn is_data(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let described = ["readme", "license", "dataset_info", "dataset_dict", "state.json", "."];
    is_data_file(std::path::Path::new(path)) && !name.ends_with(".md") && !described.iter().any(|d| name.starts_with(d))
}

fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(allowed)
            && !part.starts_with('.')
            && !part.contains("..")
    };
    name.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

enum Glob {
    Name(Pattern),
    Path(Pattern),
}

impl Glob {
    fn matches(&self, path: &str) -> bool {
        match self {
            Glob::Name(pattern) => pattern.matches_with(path.rsplit('/').next().unwrap_or(path), OPTIONS),
            Glob::Path(pattern) => pattern.matches_with(path, OPTIONS),
        }
    }
}

/// A pattern; with `anywhere` one without a `/` is of names in any folder.
fn compile(text: &str, anywhere: bool) -> Result<Glob, HubError> {
    let pattern = Pattern::new(text)
        .map_err(|error| HubError::Pattern { pattern: text.to_owned(), message: error.msg.to_owned() })?;
    Ok(if text.contains('/') || !anywhere { Glob::Path(pattern) } else { Glob::Name(pattern) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::files::BlobId;

    fn listing(paths: &[(&str, u64)]) -> Vec<RepositoryFile> {
        let id = BlobId::Sha256("0".repeat(64));
        paths
            .iter()
            .map(|(path, size)| RepositoryFile { path: (*path).into(), size: *size, id: id.clone(), local: None })
            .collect()
    }

    fn chosen(request: &Request, info: &Info, files: &[RepositoryFile]) -> Vec<String> {
        let patterns = request.patterns(info).unwrap();
        request.choose(files, &patterns).unwrap().0.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn names_are_known_or_repositories() {
        assert_eq!(Request::new("fineweb-edu", "x".into()).unwrap().repository, "HuggingFaceFW/fineweb-edu");
        assert_eq!(Request::new("a/b", "x".into()).unwrap().repository, "a/b");
        for name in
            ["finewebb", "a/b/c", "a/..", "../b", "a/", "/b", "a/b?x", "", "a/b\n", "https://huggingface.co/a/b"]
        {
            let refused = Request::new(name, "x".into()).unwrap_err().to_string();
            assert!(refused.contains("fineweb-edu") && refused.contains("owner/name"), "{refused}");
        }
    }

    #[test]
    fn configurations_and_patterns_choose() {
        let files = listing(&[
            (".gitattributes", 1),
            ("README.md", 1),
            ("data/CC-MAIN-2024-10/a.parquet", 1),
            ("dataset_infos.json", 1),
            ("sample/100BT/000_00000.parquet", 1),
            ("sample/10BT/000_00000.parquet", 1),
            ("sample/10BT/x/y.parquet", 1),
            ("tool.py", 1),
        ]);
        let none = Info::default();
        let mut edu = Request::new("fineweb-edu", "x".into()).unwrap();
        assert_eq!(chosen(&edu, &none, &files), ["sample/10BT/000_00000.parquet"]);
        edu.config = Some("sample-100BT".into());
        assert_eq!(chosen(&edu, &none, &files), ["sample/100BT/000_00000.parquet"]);
        edu.config = Some("CC-MAIN-2024-10".into());
        assert_eq!(chosen(&edu, &none, &files), ["data/CC-MAIN-2024-10/a.parquet"]);

        let mut other = Request::new("a/b", "x".into()).unwrap();
        assert_eq!(chosen(&other, &none, &files).len(), 4, "all data, no description");
        other.config = Some("sample".into());
        assert_eq!(chosen(&other, &none, &files).len(), 3, "a folder of that name");
        let card = Info { configs: vec![("big".into(), vec!["data/*/*".into()])], ..Info::default() };
        let refused = other.patterns(&card).unwrap_err().to_string();
        assert!(refused.contains("sample") && refused.contains("big"), "{refused}");
        other.config = Some("big".into());
        assert_eq!(chosen(&other, &card, &files), ["data/CC-MAIN-2024-10/a.parquet"]);
        let top = listing(&[("extra/train.jsonl", 1), ("train.jsonl", 1)]);
        let card = Info { configs: vec![("big".into(), vec!["train.jsonl".into()])], ..Info::default() };
        assert_eq!(chosen(&other, &card, &top), ["train.jsonl"], "not the file of that name of another configuration");
        other.include = vec!["train.jsonl".into()];
        assert_eq!(chosen(&other, &card, &top).len(), 2);
        other.include = vec!["*.md".into(), "sample/*/*.parquet".into()];
        assert_eq!(
            chosen(&other, &card, &files),
            ["README.md", "sample/100BT/000_00000.parquet", "sample/10BT/000_00000.parquet"]
        );
        other.include = vec!["a[".into()];
        assert!(other.choose(&files, &other.include).unwrap_err().to_string().contains("a["));
    }

    #[test]
    fn tokens_take_as_many_files_as_they_need() {
        let files = listing(&[
            ("sample/10BT/0.parquet", 1000),
            ("sample/10BT/1.parquet", 1000),
            ("sample/10BT/2.parquet", 1000),
        ]);
        let mut request = Request::new("fineweb-edu", "x".into()).unwrap();
        for (tokens, taken) in [(1, 1), (350, 1), (351, 2), (700, 2), (1050, 3), (1 << 40, 3)] {
            request.tokens = Some(tokens);
            let patterns = request.patterns(&Info::default()).unwrap();
            let (chosen, estimate) = request.choose(&files, &patterns).unwrap();
            let estimate = estimate.unwrap();
            assert_eq!(chosen.len(), taken, "{tokens}");
            assert_eq!((estimate.tokens, estimate.counted), (350 * taken as u64, true));
        }
        request.known = None;
        let (_, estimate) = request.choose(&files, &[]).unwrap();
        assert!(!estimate.unwrap().counted);
    }
}
