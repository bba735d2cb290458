//! A folder as a value: every file with its bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files by their paths, which are relative to the folder.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Vec<u8>>);

impl Tree {
    /// Reads a folder.
    pub fn of(folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for entry in fs::read_dir(&inner).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
                }
            }
        }
        Tree(files)
    }

    /// Writes every file into a folder.
    pub fn write_to(&self, folder: &Path) {
        for (path, bytes) in &self.0 {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// The bytes of a file.
    pub fn file(&self, path: &str) -> &[u8] {
        self.0.get(Path::new(path)).unwrap_or_else(|| panic!("{path} is not there"))
    }

    /// Without the files below `path`, or `path` itself.
    pub fn without(&self, path: &str) -> Self {
        Tree(self.0.iter().filter(|(p, _)| !p.starts_with(path)).map(|(p, b)| (p.clone(), b.clone())).collect())
    }

    /// Nothing is lost: every file is in `folder` with the same bytes, but for reports, which are made anew. Others may have
    /// come, but no unfinished ones.
    pub fn assert_kept_in(&self, folder: &Path) {
        let now = Tree::of(folder);
        let report = |path: &Path| path.ends_with("report.html") || path.ends_with("model-card.md");
        for (path, bytes) in self.0.iter().filter(|(path, _)| !report(path)) {
            let found = now.0.get(path);
            assert!(found.is_some(), "{} was lost", path.display());
            assert!(found == Some(bytes), "{} was changed", path.display());
        }
        for path in now.0.keys().filter(|path| !self.0.contains_key(*path)) {
            let unfinished = path.components().any(|part| {
                let name = part.as_os_str().to_string_lossy();
                name.starts_with(".tmp-") || name.ends_with(".tmp")
            });
            assert!(!unfinished, "{} was left behind", path.display());
        }
    }
}
