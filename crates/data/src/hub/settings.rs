//! [`Settings`]: what the Hub's own variables say, and how patient to be.
//!
//! The variables are those of `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN` (or `HUGGING_FACE_HUB_TOKEN`, or the file
//! `HF_TOKEN_PATH`, by default `HF_HOME/token`), `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HOME` (by default
//! `XDG_CACHE_HOME/huggingface`, or `~/.cache/huggingface`), `HF_HUB_CACHE` and `HF_HUB_OFFLINE`.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::error::HubError;
use super::retry::RetryPolicy;

const HUB: &str = "https://huggingface.co";

/// A secret. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// From its text; `None` for an empty one, or one that cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Token(text.to_owned()))
    }

    /// For the one header that it belongs into.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where the Hub is, and how to treat it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address without a `/` at its end.
    pub endpoint: String,
    /// Sent to that address only.
    pub token: Option<Token>,
    /// The Hub's own cache.
    pub cache: PathBuf,
    /// Whether the network is forbidden.
    pub offline: bool,
    /// Files fetched at a time.
    pub parallel: usize,
    /// How often, and how long in between.
    pub retry: RetryPolicy,
    /// Longest silence of a server.
    pub timeout: Duration,
}

impl Settings {
    /// From the environment, which `variable` reads; `parallel`, `retry` and `timeout` have their defaults.
    ///
    /// # Errors
    /// [`HubError::Setting`] for an address that is none, or a token that cannot be one.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let caches = set("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
                let own = set("HOME").or_else(|| set("USERPROFILE")).unwrap_or_else(|| ".".to_owned());
                PathBuf::from(own).join(".cache")
            });
            caches.join("huggingface")
        });
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
        let truth = |name: &str| {
            set(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()).trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let expected = "it must begin with https:// or http://, like https://huggingface.co";
            return Err(HubError::Setting { name: "HF_ENDPOINT", found: endpoint, expected });
        }
        let given = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        let token = match given {
            Some(text) => {
                let expected =
                    "it must be letters, digits and signs without spaces; copy it anew from the Hub's settings";
                let found = "no token".to_owned();
                Some(Token::new(&text).ok_or(HubError::Setting { name: "HF_TOKEN", found, expected })?)
            }
            None if truth("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            None => {
                let file = set("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or_else(|| home.join("token"));
                // Most people have none, and public data sets need none.
                fs::read_to_string(file).ok().and_then(|text| Token::new(&text))
            }
        };
        Ok(Self {
            endpoint,
            token,
            cache: cache.map(PathBuf::from).unwrap_or_else(|| home.join("hub")),
            offline: truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE"),
            parallel: 4,
            retry: RetryPolicy::default(),
            timeout: Duration::from_secs(30),
        })
    }

    /// The address of the real Hub, which links of mirrors may name.
    pub(super) fn real_hub() -> &'static str {
        HUB
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let variables: HashMap<_, _> = variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Settings::from_environment(|name| variables.get(name).cloned())
    }

    #[test]
    fn defaults_are_the_hubs() {
        let settings = of(&[("HOME", "/home/ada")]).unwrap();
        assert_eq!(settings.endpoint, "https://huggingface.co");
        assert_eq!(settings.cache, Path::new("/home/ada/.cache/huggingface/hub"));
        assert!(settings.token.is_none() && !settings.offline);
        let settings = of(&[("XDG_CACHE_HOME", "/c"), ("HF_HUB_OFFLINE", "yes")]).unwrap();
        assert_eq!((settings.cache.as_path(), settings.offline), (Path::new("/c/huggingface/hub"), true));
        let settings =
            of(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/k"), ("HF_ENDPOINT", "http://mirror:8080/")]).unwrap();
        assert_eq!((settings.cache.as_path(), settings.endpoint.as_str()), (Path::new("/k"), "http://mirror:8080"));
    }

    #[test]
    fn a_token_is_found_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let path = home.path().to_str().unwrap();
        let token = |more: &[(&str, &str)]| of(&[&[("HF_HOME", path)], more].concat()).unwrap().token;
        assert_eq!(token(&[]), Token::new("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", "hf_given")]), Token::new("hf_given"));
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert!(!format!("{:?}", token(&[])).contains("hf_file"));
        let refused = of(&[("HF_TOKEN", "two words")]).unwrap_err().to_string();
        assert!(refused.contains("HF_TOKEN") && !refused.contains("two words"), "{refused}");
    }

    #[test]
    fn an_address_without_a_scheme_is_refused() {
        let refused = of(&[("HF_ENDPOINT", "huggingface.co")]).unwrap_err().to_string();
        assert!(refused.contains("HF_ENDPOINT") && refused.contains("https://"), "{refused}");
    }
}
