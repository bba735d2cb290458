//! From flags to settings that the rest may trust: who may use the server, and where its conversations are.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use casallm_serve::api::{Hosts, Key, Options};

use casallm_serve::overflow::Policy;
use casallm_serve::runs::Runs;

use super::flags::{OverflowKind, Serve};
use crate::streams::tell;

/// Requests a minute of one client, where others can reach the server.
const RATE_LIMIT: u32 = 120;

/// Settings that do not go together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SettingsError {
    /// Everybody is let in, and nothing is said of whose conversations they see.
    PublicConversations,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingsError::PublicConversations => out.write_str(
                "--public: everybody who is let in shares one list of conversations, so that strangers could read and \
                 delete those in your own data folder; add --ephemeral to leave conversations in each browser, or --db \
                 FILE for a file of those that everybody shares",
            ),
        }
    }
}

impl std::error::Error for SettingsError {}

/// A line for the owner.
pub(super) fn log(line: &str) {
    tell(&format!("casallm: {line}"));
}

/// What the HTTP interface obeys.
pub(super) fn options(flags: &Serve) -> Result<Options> {
    let key = key(flags)?;
    let loopback = flags.host.is_loopback();
    if !loopback && key.is_none() && !flags.public {
        bail!(
            "--host {}: others can reach this address; give a key with --api-key-file, or say --public, with --ephemeral or --db FILE, to let anybody use it",
            flags.host
        );
    }
    if flags.trust_proxy && key.is_none() && !flags.public {
        bail!(
            "--trust-proxy: whoever reaches the proxy reaches this server; give a key with --api-key-file, or say --public, with --ephemeral or --db FILE, to let anybody use it"
        );
    }
    if flags.public && key.is_some() {
        bail!(
            "--public says that no key is needed, and there is one (--api-key-file, --api-key, or CASALLM_API_KEY in the \
             environment): leave either out"
        );
    }
    for origin in &flags.frame_ancestors {
        check_origin(origin)?;
    }
    if let Some(runs) = flags.runs.as_ref().filter(|runs| runs.exists() && !runs.is_dir()) {
        bail!("--runs {}: that is a file; name a folder of runs, or the folder of one", runs.display());
    }
    Ok(Options {
        this_machine_alone: loopback && key.is_none() && !flags.public,
        key,
        hosts: Hosts::new(&flags.allowed_hosts).map_err(anyhow::Error::msg)?,
        frame_ancestors: flags.frame_ancestors.clone(),
        trust_proxy: flags.trust_proxy,
        rate_limit: flags.rate_limit.unwrap_or(if loopback && !flags.trust_proxy { 0 } else { RATE_LIMIT }),
        log: Some(log),
        runs: flags.runs.as_ref().map(|folder| Arc::new(Runs::new(folder))),
        dashboard_only: flags.model.is_none(),
    })
}

/// The flags, with what the environment says where they say nothing. Not by clap, which would blame a flag that nobody has given.
pub(super) fn completed(flags: &Serve, environment: impl Fn(&str) -> Option<OsString>) -> Result<Serve> {
    let mut flags = flags.clone();
    if let Some(text) = environment("PORT").filter(|text| flags.port.is_none() && !text.is_empty()) {
        flags.port = Some(text.to_str().and_then(|text| text.parse().ok()).with_context(|| {
            let text = text.display();
            format!(
                "PORT={text} in the environment: use a number from 0 to 65535, or give --port, which goes before it"
            )
        })?);
    }
    if let Some(key) =
        environment("CASALLM_API_KEY").filter(|_| flags.api_key.is_none() && flags.api_key_file.is_none())
    {
        let key = key.into_string().ok().context("CASALLM_API_KEY in the environment is not valid Unicode")?;
        flags.api_key = Some(key);
    }
    Ok(flags)
}

fn key(flags: &Serve) -> Result<Option<Key>> {
    let (text, origin) = match (&flags.api_key, &flags.api_key_file) {
        (Some(text), _) => (text.clone(), "--api-key, or CASALLM_API_KEY in the environment".to_owned()),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("--api-key-file {}", path.display()))?;
            (text.lines().next().unwrap_or_default().trim().to_owned(), format!("--api-key-file {}", path.display()))
        }
        (None, None) => return Ok(None),
    };
    Key::new(&text).map(Some).map_err(|error| anyhow::anyhow!("{origin}: {error}"))
}

/// `https://example.org`, as a content security policy takes it: nothing that could add to the policy.
fn check_origin(origin: &str) -> Result<()> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let good = rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:*".contains(&byte))
    });
    if good { Ok(()) } else { bail!("--frame-ancestor {origin:?}: use an origin like https://huggingface.co") }
}

/// The flag's policy.
pub(super) fn overflow(kind: OverflowKind) -> Policy {
    match kind {
        OverflowKind::Summarise => Policy::Summarise,
        OverflowKind::DropOldest => Policy::DropOldest,
        OverflowKind::Refuse => Policy::Refuse,
    }
}

/// The file of conversations; `None` where the browser keeps them.
pub(super) fn database(flags: &Serve) -> Result<Option<PathBuf>> {
    if flags.ephemeral || flags.model.is_none() {
        return Ok(None);
    }
    if let Some(path) = &flags.db {
        return Ok(Some(path.clone()));
    }
    // What lies in the user's data folder was said by the user, who did not mean it for everybody.
    if flags.public {
        bail!(SettingsError::PublicConversations);
    }
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    let Some(data) = data else {
        bail!(
            "there is no user's data folder for conversations: give --db FILE, or --ephemeral to leave them in the browser"
        );
    };
    Ok(Some(data.join("casallm/conversations.db")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Command};
    use clap::Parser;

    fn flags(line: &str) -> Serve {
        let arguments = format!("casallm serve --model m {line}");
        match Arguments::try_parse_from(arguments.split_whitespace()).unwrap().command {
            Command::Serve(flags) => *flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_that_others_reach_needs_a_key_or_a_word() {
        assert!(options(&flags("")).is_ok() && options(&flags("--host ::1")).is_ok());
        let refused = options(&flags("--host 0.0.0.0")).unwrap_err().to_string();
        assert!(refused.contains("--host 0.0.0.0") && refused.contains("--public"), "{refused}");
        assert!(options(&flags("--host 192.168.1.2")).is_err());
        assert!(options(&flags("--host 0.0.0.0 --api-key 0123456789")).unwrap().key.is_some());
        let short = options(&flags("--host 0.0.0.0 --api-key short")).unwrap_err().to_string();
        assert!(short.contains("--api-key") && short.contains("CASALLM_API_KEY"), "{short}");
        assert!(options(&flags("--host 0.0.0.0 --api-key 0123456789 --public")).is_err());
        assert_eq!(options(&flags("--host 0.0.0.0 --public")).unwrap().rate_limit, 120);
        assert_eq!(options(&flags("")).unwrap().rate_limit, 0);
        assert!(options(&flags("--api-key-file /nonexistent")).is_err());
    }

    #[test]
    fn what_the_environment_says_wrongly_is_not_blamed_on_a_flag() {
        let with = |line: &str, name: &'static str, text: &str| {
            completed(&flags(line), |asked| (asked == name).then(|| text.into()))
        };
        let port = |line: &str, text: &str| with(line, "PORT", text).unwrap().port;
        assert_eq!((port("", ""), port("", "0"), port("", "8080")), (None, Some(0), Some(8080)));
        assert_eq!((port("--port 1", "8080"), port("--port 1", "abc")), (Some(1), Some(1)));
        for wrong in ["abc", "65536", "-1", "80 "] {
            let refused = with("", "PORT", wrong).unwrap_err().to_string();
            assert!(refused.contains(&format!("PORT={wrong} in the environment")), "{refused}");
        }
        // What is said for this one start goes before what is said for all.
        let key = |line: &str| with(line, "CASALLM_API_KEY", "0123456789").unwrap();
        assert_eq!(key("").api_key.as_deref(), Some("0123456789"));
        assert_eq!(key("--api-key 9876543210").api_key.as_deref(), Some("9876543210"));
        assert_eq!(key("--api-key-file f").api_key, None);
        let refused = options(&key("--public")).unwrap_err().to_string();
        assert!(refused.contains("CASALLM_API_KEY in the environment"), "{refused}");
    }

    #[test]
    fn a_proxy_lets_in_whom_the_owner_has_let_in() {
        let refused = options(&flags("--trust-proxy")).unwrap_err().to_string();
        assert!(refused.contains("--trust-proxy") && refused.contains("--public"), "{refused}");
        let open = options(&flags("--trust-proxy --public")).unwrap();
        assert_eq!((open.this_machine_alone, open.rate_limit), (false, 120));
        assert!(options(&flags("--allowed-host chat.example.org")).unwrap().this_machine_alone);
        assert!(!options(&flags("--api-key 0123456789")).unwrap().this_machine_alone);
    }

    #[test]
    fn a_frame_ancestor_adds_nothing_to_the_policy() {
        assert!(options(&flags("--frame-ancestor https://huggingface.co")).is_ok());
        for wrong in ["huggingface.co", "https://a;script-src", "'self'", "*", "https://"] {
            assert!(options(&flags(&format!("--frame-ancestor {wrong}"))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn conversations_have_a_place_or_none() {
        assert_eq!(database(&flags("--ephemeral")).unwrap(), None);
        assert_eq!(database(&flags("--db x.db")).unwrap(), Some("x.db".into()));
    }

    #[test]
    fn strangers_are_given_no_conversations_but_those_meant_for_them() {
        let refused = database(&flags("--public")).unwrap_err();
        assert_eq!(refused.downcast_ref(), Some(&SettingsError::PublicConversations));
        assert_eq!(database(&flags("--public --ephemeral")).unwrap(), None);
        assert_eq!(database(&flags("--public --db x.db")).unwrap(), Some("x.db".into()));
        // With a key it is the owner who says who is let in.
        assert!(database(&flags("--host 0.0.0.0 --api-key 0123456789 --db x.db")).is_ok());
    }
}
