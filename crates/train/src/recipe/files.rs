//! From a path, a folder or a pattern to the list of files it stands for, always in the same order.

use std::path::{Path, PathBuf};

use casallm_data::Error;
use casallm_data::source::{files_in, files_like};

/// Endings of the files that a folder stands for; each may be followed by one of [`COMPRESSIONS`].
const ENDINGS: &[&str] = &["txt", "text", "md", "jsonl", "ndjson", "json", "parquet"];
/// So many of them are of plain text: no conversations, but often what describes them.
const OF_TEXT: usize = 3;
const COMPRESSIONS: &[&str] = &["zst", "zstd", "gz", "gzip"];

/// The files that `path`, relative to `base`, stands for, sorted by name: the file itself; every data file in the
/// folder and the folders in it and behind its links, hidden ones and, where records are wanted, plain text excepted;
/// every file that the pattern matches, once whatever links lead to it. What the program wrote beside the others is no data.
///
/// # Errors
/// Why there is none, and the remedy.
pub(super) fn expand(base: &Path, path: &str, records: bool) -> Result<Vec<PathBuf>, String> {
    let whole = base.join(path);
    let endings = if records { &ENDINGS[OF_TEXT..] } else { ENDINGS };
    if whole.is_file() {
        return Ok(vec![whole]);
    }
    let mut files;
    if whole.is_dir() {
        files = files_in(&whole, |file| ends_in(file, endings)).map_err(told)?;
        if files.is_empty() {
            return Err(format!(
                "the folder holds no file ending in {} (or these with .zst or .gz)",
                endings.join(", ")
            ));
        }
    } else if path.contains(['*', '?', '[']) {
        // Only `path` is a pattern: a bracket in the name of the recipe's folder is a bracket.
        let pattern = pattern(base, path);
        glob::Pattern::new(&pattern).map_err(|error| format!("not a pattern: {error}"))?;
        // Of a link that leads nowhere the name alone can say whether it stood for data.
        files = files_like(&pattern, |file| file.exists() || ends_in(file, ENDINGS)).map_err(told)?;
        if files.is_empty() {
            return Err(format!("no file matches {pattern}; paths start at the recipe's folder"));
        }
    } else {
        return Err(format!("{} does not exist; paths start at the recipe's folder", whole.display()));
    }
    files.sort();
    Ok(files)
}

fn told(error: Error) -> String {
    match error {
        Error::Io { .. } => format!("{error}; check its permissions"),
        other => other.to_string(),
    }
}

/// A pattern that begins where it is, not at `base`.
fn pattern(base: &Path, path: &str) -> String {
    if Path::new(path).is_absolute() {
        return path.to_owned();
    }
    Path::new(&glob::Pattern::escape(&base.to_string_lossy())).join(path).to_string_lossy().into_owned()
}

/// The path, folder or pattern that means the same files from anywhere.
///
/// # Errors
/// The name of the current directory, or of `base`, is not Unicode, which a recipe is.
pub(super) fn absolute(base: &Path, path: &str) -> Result<String, String> {
    let remedy = |error: &dyn std::fmt::Display| format!("{error}; the names of folders must be valid Unicode");
    let base = std::path::absolute(Path::new(".").join(base)).map_err(|error| remedy(&error))?;
    let whole = base.join(path);
    if !whole.exists() && path.contains(['*', '?', '[']) {
        let base = base.to_str().ok_or_else(|| remedy(&base.display()))?;
        return Ok(pattern(Path::new(base), path));
    }
    let text = whole.to_str().ok_or_else(|| remedy(&whole.display()))?;
    Ok(text.to_owned())
}

fn ends_in(path: &Path, endings: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let bare = COMPRESSIONS.iter().find_map(|end| name.strip_suffix(&format!(".{end}"))).unwrap_or(&name);
    endings.iter().any(|end| bare.ends_with(&format!(".{end}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    fn names(base: &Path, path: &str) -> Result<Vec<String>, String> {
        let files = expand(base, path, false)?;
        Ok(files.iter().map(|f| f.strip_prefix(base).unwrap().to_string_lossy().replace('\\', "/")).collect())
    }

    #[test]
    fn a_file_a_folder_and_a_pattern() {
        let dir = tree(&[
            "books/b.txt",
            "books/a.TXT.gz",
            "books/deep/c.jsonl.zst",
            "books/deep/d.jsonl.zstd",
            "books/deep/e.jsonl.gzip",
            "books/.hidden.txt",
            "books/cover.png",
            "books/fetched.json",
        ]);
        assert_eq!(names(dir.path(), "books/cover.png").unwrap(), ["books/cover.png"]);
        let deep = ["books/deep/c.jsonl.zst", "books/deep/d.jsonl.zstd", "books/deep/e.jsonl.gzip"];
        let all = [&["books/a.TXT.gz", "books/b.txt"][..], &deep].concat();
        assert_eq!(names(dir.path(), "books").unwrap(), all);
        assert_eq!(names(dir.path(), "books/*.txt").unwrap(), ["books/b.txt"]);
        assert_eq!(names(dir.path(), "**/*.zst").unwrap(), ["books/deep/c.jsonl.zst"]);
        assert!(names(dir.path(), "books/*.json").unwrap_err().contains("no file matches"));
        // What a run and `casallm tokenize` leave where the text is.
        let made = tree(&[
            "a.txt",
            "tokenizer.json",
            "run/run.lock",
            "run/pairs.json",
            "run/metrics.jsonl",
            "run/checkpoints/sft/step-1/checksums.txt",
            "x/s/tokenize.lock",
            "x/s/manifest.json",
        ]);
        for path in [".", "**/*.[jt]*", "*.*"] {
            assert_eq!(names(made.path(), path).unwrap(), ["a.txt"], "{path}");
        }
        // Who keeps text there has it read.
        let both = tree(&["run/run.lock", "run/deep/b.txt", "s/tokenize.lock", "s/a.txt", "s/manifest.json"]);
        for path in [".", "**/*.[jt]*"] {
            assert_eq!(names(both.path(), path).unwrap(), ["run/deep/b.txt", "s/a.txt"], "{path}");
        }
    }

    #[test]
    fn what_describes_conversations_is_none_of_them() {
        let dir = tree(&["README.md", "LICENSE.txt.gz", "data/train.parquet", "data/a.jsonl"]);
        let found = expand(dir.path(), ".", true).unwrap();
        assert_eq!(found, ["./data/a.jsonl", "./data/train.parquet"].map(|name| dir.path().join(name)));
        assert_eq!(expand(dir.path(), ".", false).unwrap().len(), 4);
        // What is named is meant.
        assert_eq!(expand(dir.path(), "README.md", true).unwrap().len(), 1);
        let none = tree(&["README.md"]);
        let told = expand(none.path(), ".", true).unwrap_err();
        assert!(told.contains("jsonl") && !told.contains("md"), "{told}");
    }

    #[test]
    fn a_bracket_in_the_recipes_folder_is_no_pattern() {
        let dir = tree(&["run [1]/a.txt"]);
        assert_eq!(names(&dir.path().join("run [1]"), "*.txt").unwrap(), ["a.txt"]);
    }

    #[test]
    fn what_is_absolute_means_the_same_files_from_anywhere() {
        let dir = tree(&["run [1]/a.txt", "run [1]/[b].txt", "run [1]/deep/c.txt"]);
        let base = dir.path().join("run [1]");
        for path in ["a.txt", "[b].txt", "deep", "*.txt", "**/*.txt", "./deep/../a.txt"] {
            let whole = absolute(&base, path).unwrap();
            assert!(Path::new(&whole).is_absolute(), "{whole}");
            let canonical = |files: Vec<PathBuf>| -> Vec<PathBuf> {
                files.into_iter().map(|file| file.canonicalize().unwrap()).collect()
            };
            let (here, anywhere) =
                (expand(&base, path, false).unwrap(), expand(Path::new("elsewhere"), &whole, false).unwrap());
            assert_eq!(canonical(anywhere), canonical(here), "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_are_followed_and_no_text_comes_twice() {
        use std::os::unix::fs::symlink;

        let dir = tree(&["data/a.txt", "data/deep/b.txt", "elsewhere/c.txt", "elsewhere/more/d.jsonl"]);
        let at = |name: &str| dir.path().join(name);
        symlink(at("data"), at("data/again")).unwrap();
        symlink(at("data/deep"), at("data/beside")).unwrap();
        symlink(at("nowhere"), at("data/broken")).unwrap();
        assert_eq!(names(dir.path(), "data").unwrap(), ["data/a.txt", "data/deep/b.txt"]);
        symlink("../elsewhere", at("data/link")).unwrap();
        symlink(at("data"), at("elsewhere/more/back")).unwrap();
        symlink(at("elsewhere"), at("data/zz")).unwrap();
        let all = ["data/a.txt", "data/deep/b.txt", "data/link/c.txt", "data/link/more/d.jsonl"];
        assert_eq!(names(dir.path(), "data").unwrap(), all);
        // A link as the path itself.
        assert_eq!(names(dir.path(), "data/zz").unwrap()[0], "data/zz/c.txt");
        // The same by patterns; of names of one length the first stays.
        let all = ["data/a.txt", "data/beside/b.txt", "data/link/c.txt", "data/link/more/d.jsonl"];
        for pattern in ["data/**/*.*", "data/**/*.[tj]*", "./data/**/?.*"] {
            assert_eq!(names(dir.path(), pattern).unwrap(), all, "{pattern}");
        }
        assert_eq!(names(dir.path(), "data/*/*.txt").unwrap(), ["data/again/a.txt", all[1], all[2]]);
        assert_eq!(names(dir.path(), "data/**/deep/b.txt").unwrap(), ["data/deep/b.txt"]);
    }

    #[test]
    fn nothing_found_says_why() {
        let dir = tree(&["pictures/a.png"]);
        assert!(names(dir.path(), "missing.txt").unwrap_err().contains("does not exist"));
        assert!(names(dir.path(), "pictures").unwrap_err().contains("jsonl"));
        assert!(names(dir.path(), "*.txt").unwrap_err().contains("no file matches"));
        assert!(names(dir.path(), "***").unwrap_err().contains("not a pattern"));
    }
}
