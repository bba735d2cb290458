//! Names that a listing may not make us write.

use std::path::PathBuf;

use super::error::HubError;
use super::manifest::MANIFEST;
use super::partial::PARTIALS;

/// Names that Windows keeps for devices, whatever the ending.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// The path of a listed file below the folder that it goes to.
///
/// # Errors
/// [`HubError::UnsafePath`] for whatever would leave the folder, or be another name on another system.
pub(super) fn below(path: &str) -> Result<PathBuf, HubError> {
    let refuse = |reason| Err(HubError::UnsafePath { path: path.to_owned(), reason });
    if path.is_empty() || path.len() > 1024 {
        return refuse("has no length that a path can have");
    }
    for (i, part) in path.split('/').enumerate() {
        if part.is_empty() || part == "." || part == ".." {
            return refuse("would lead out of the folder");
        }
        if part.len() > 240 {
            return refuse("has a part that is too long for a file name");
        }
        if part.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '<' | '>' | '"' | '|' | '?' | '*')) {
            return refuse("has characters that a file name cannot have everywhere");
        }
        if part.ends_with(['.', ' ']) {
            return refuse("has a part that ends with a dot or a space, which some systems drop");
        }
        if is_device(part) {
            return refuse("has the name of a device");
        }
        if i == 0 && [MANIFEST, PARTIALS].iter().any(|own| part.eq_ignore_ascii_case(own)) {
            return refuse("is a name that this program uses itself");
        }
    }
    Ok(path.split('/').collect())
}

fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_lowercase();
    let numbered = |start: &str| {
        stem.strip_prefix(start).is_some_and(|rest| {
            let mut rest = rest.chars();
            matches!(rest.next(), Some('0'..='9' | '¹' | '²' | '³')) && rest.next().is_none()
        })
    };
    DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for path in
            ["a.parquet", "sample/10BT/000_00000.parquet", "data/train-00000-of-00001-a1b2.parquet", "é/ü.jsonl"]
        {
            let below = below(path).unwrap();
            assert_eq!(below, path.split('/').collect::<PathBuf>());
        }
        for path in ["console.txt", "com.txt", "com10.txt", "nullable.json", "data/fetched.json", "..a/b"] {
            assert!(below(path).is_ok(), "{path}");
        }
    }

    #[test]
    fn hostile_names_do_not() {
        let long = "a".repeat(241);
        for path in [
            "",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "/etc/passwd",
            "a//b",
            "./a",
            "a/.",
            "\\\\server\\x",
            "a\\..\\b",
            "C:/x",
            "c:x",
            "a\0b",
            "a\nb",
            "nul",
            "NUL.txt",
            "aux.parquet",
            "a/con",
            "COM1.json",
            "lpt9",
            "com¹",
            "a.",
            "b ",
            "x/y. /z",
            "fetched.json",
            "FETCHED.json",
            ".fetching/a",
            "a?b",
            &long,
        ] {
            assert!(matches!(below(path), Err(HubError::UnsafePath { .. })), "{path:?}");
        }
    }
}
