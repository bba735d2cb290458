//! `casallm fetch`: data sets from the Hugging Face Hub.

pub(crate) mod flags;
mod lines;

use std::path::PathBuf;

use anyhow::{Result, bail};
use casallm_data::hub::{Event, Fetched, HubError, Request, RetryPolicy, Settings, eval_sets, fetch};
use casallm_train::interrupt::Interrupt;
use casallm_train::stages::StageObserver;
use serde_json::json;

use crate::Ended;
use crate::args::Fetch;
use crate::console::Console;

/// What `fetch` calls all tasks of `casallm eval`.
const EVAL: &str = "eval";

/// Fetches one data set after the other.
pub(crate) fn run(flags: &Fetch) -> Result<Ended> {
    let mut console = Console::new(&flags.output);
    let mut names: Vec<&str> = Vec::new();
    for name in &flags.names {
        match name.as_str() {
            EVAL => names.extend(eval_sets().map(|known| known.name)),
            name => names.push(name),
        }
    }
    if names.len() > 1 && flags.out.is_some() {
        bail!("--out is the folder of one data set; leave it out, and each gets a folder of its own below data");
    }
    let requests = names.iter().map(|name| request(flags, name)).collect::<Result<Vec<_>, _>>()?;
    let mut settings = Settings::from_environment(|name| std::env::var(name).ok())?;
    settings.parallel = usize::from(flags.parallel);
    settings.timeout = flags.timeout;
    settings.retry = RetryPolicy { tries: flags.tries, first_wait: flags.retry_wait, ..RetryPolicy::default() };
    let interrupt = Interrupt::on_signals()?;
    let mut failed = Vec::new();
    for (name, request) in names.iter().zip(&requests) {
        match one(name, request, &settings, &interrupt, &mut console) {
            Ok(fetched) => told(name, request, &fetched, flags, &mut console),
            Err(HubError::Interrupted) => {
                console.clear();
                console.say(&format!("{name}: {}", HubError::Interrupted));
                console.emit(&json!({ "event": "interrupted", "name": name }));
                return console.ended(Ended::Interrupted);
            }
            Err(error) if names.len() == 1 => {
                console.clear();
                return Err(error.into());
            }
            // The others may do without this one.
            Err(error) => {
                console.clear();
                console.say(&format!("{name}: {error}"));
                failed.push(format!("{name}: {error}"));
            }
        }
    }
    match failed.len() {
        0 => console.ended(Ended::Done),
        count => bail!("{count} of {} data sets did not arrive: {}", names.len(), failed.join("; ")),
    }
}

fn request(flags: &Fetch, name: &str) -> Result<Request, HubError> {
    let short = name.rsplit('/').next().unwrap_or(name);
    let folder = flags.out.clone().unwrap_or_else(|| PathBuf::from("data").join(short));
    Ok(Request {
        revision: flags.revision.clone(),
        config: flags.config.clone(),
        include: flags.include.clone(),
        tokens: flags.tokens,
        ..Request::new(name, folder)?
    })
}

fn one(
    name: &str,
    request: &Request,
    settings: &Settings,
    interrupt: &Interrupt,
    console: &mut Console,
) -> Result<Fetched, HubError> {
    // Bytes that were there before are no measure of the speed.
    let mut begun_at = 0;
    let mut last_emitted = u64::MAX;
    let fetched = fetch(request, settings, &|| interrupt.requested(), &mut |event| match event {
        Event::Listing(files) => console.progress("listing", "files", files as u64, None),
        Event::Hashing(bytes) => console.progress("verifying", "bytes", bytes, None),
        Event::Planned { commit, licence, files, bytes, in_place, estimate } => {
            begun_at = in_place;
            console.clear();
            let of = request.folder.display();
            console.say(&format!(
                "{name}: {files} files, {} of {} at commit {commit} into {of}{}",
                size(bytes),
                request.repository,
                licence.map(|licence| format!("; licence {licence}")).unwrap_or_default()
            ));
            if settings.offline {
                console.say("HF_HUB_OFFLINE is set: of what the Hub's cache and the folder know, which may be a part of the data set");
            }
            if in_place > 0 {
                console.say(&format!("{} of it are in place", size(in_place)));
            }
            if let Some(estimate) = estimate {
                let basis = if estimate.counted { "as counted on this data set" } else { "as is usual for such files" };
                console.say(&format!(
                    "for {} tokens: about {} in these files, at {:.2} tokens a byte, {basis}{}",
                    tokens(estimate.asked),
                    tokens(estimate.tokens),
                    estimate.per_byte,
                    if estimate.tokens < estimate.asked { "; there are no more" } else { "" }
                ));
            }
            console.emit(&json!({
                "event": "planned", "name": name, "repository": request.repository, "commit": commit, "licence": licence,
                "files": files, "bytes": bytes, "in_place": in_place,
                "estimated_tokens": estimate.map(|estimate| estimate.tokens),
            }));
        }
        Event::Progress { there, bytes, files } => {
            console.progress(name, "bytes", there.saturating_sub(begun_at), Some(bytes.saturating_sub(begun_at)));
            // A line for machines at each hundredth of the whole.
            let hundredth = there.saturating_mul(100) / bytes.max(1);
            if hundredth != last_emitted {
                last_emitted = hundredth;
                console.emit(
                    &json!({ "event": "progress", "name": name, "there": there, "bytes": bytes, "files": files }),
                );
            }
        }
        Event::Retry { path, reason, wait, failures } => {
            let wait = wait.as_secs_f64();
            console.say(&format!("{path}: {reason}; again in {wait:.1} s"));
            console.emit(&json!({
                "event": "retry", "name": name, "path": path, "reason": reason, "wait_s": wait, "failures": failures,
            }));
        }
        Event::Placed { path } => console.emit(&json!({ "event": "placed", "name": name, "path": path })),
    })?;
    console.clear();
    Ok(fetched)
}

fn told(name: &str, request: &Request, fetched: &Fetched, flags: &Fetch, console: &mut Console) {
    let manifest = &fetched.manifest;
    let bytes: u64 = manifest.files.iter().map(|file| file.size).sum();
    let cached = match fetched.cached {
        0 => String::new(),
        cached => format!(", {} taken from the Hub's cache", size(cached)),
    };
    console.say(&format!(
        "{name}: {} files, {}, complete and verified; {} fetched{cached}",
        manifest.files.len(),
        size(bytes),
        size(fetched.received)
    ));
    console.say(&lines::usage(request, manifest, flags.text_field.as_deref()));
    console.emit(&json!({
        "event": "complete", "name": name, "folder": request.folder.display().to_string(), "repository": manifest.repository,
        "commit": manifest.commit, "files": manifest.files.len(), "bytes": bytes, "received": fetched.received,
        "cached": fetched.cached,
    }));
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e3 => format!("{b:.0} bytes"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// Tokens as people say them.
fn tokens(count: u64) -> String {
    match count as f64 {
        c if c < 1e6 => format!("{c:.0}"),
        c if c < 1e9 => format!("{:.1} million", c / 1e6),
        c => format!("{:.2} billion", c / 1e9),
    }
}
