//! Which commit, which of its files: asked of the Hub, or of its cache and the folder where the network is forbidden.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use super::api::{Api, Info};
use super::cache::snapshot;
use super::error::HubError;
use super::fetching::Event;
use super::files::RepositoryFile;
use super::http::Client;
use super::manifest::{Manifest, ManifestFile};
use super::selection::{Estimate, Request};
use super::settings::Settings;

/// Where the Hub keeps its own conversion of data sets that have only a program on their main branch.
const CONVERTED: &str = "refs/convert/parquet";

/// A commit, and the files of it that were chosen.
pub(super) struct Found {
    pub info: Info,
    pub revision: String,
    pub files: Vec<RepositoryFile>,
    pub estimate: Option<Estimate>,
}

/// Asks the Hub, or its cache where the network is forbidden, what there is, and chooses.
pub(super) fn find(
    request: &Request,
    settings: &Settings,
    client: &Client,
    before: Option<&Manifest>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Found, HubError> {
    // Without a wish of its own a fetch goes on with the commit that the folder has.
    let (revision, asked) = match (&request.revision, before) {
        (Some(revision), _) => (revision.clone(), revision.clone()),
        (None, Some(before)) => (before.revision.clone(), before.commit.clone()),
        (None, None) => ("main".to_owned(), "main".to_owned()),
    };
    let look = |asked: &str, observe: &mut dyn FnMut(Event<'_>)| -> Result<(Info, Vec<RepositoryFile>), HubError> {
        if settings.offline {
            let cache = &settings.cache;
            let of_folder = before.filter(|before| before.commit == asked || before.revision == asked).map(known_files);
            let of_cache = snapshot(cache, &request.repository, asked, stop)?;
            // The cache may hold a part of a data set only: the folder's own list counts first.
            return match (of_folder, of_cache) {
                (Some((info, mut files)), of_cache) => {
                    let more = of_cache.into_iter().flat_map(|(_, files)| files);
                    let listed: HashSet<String> = files.iter().map(|file| file.path.clone()).collect();
                    files.extend(more.filter(|file| !listed.contains(&file.path)));
                    files.sort_by(|a, b| a.path.cmp(&b.path));
                    Ok((info, files))
                }
                (None, Some(found)) => Ok(found),
                (None, None) => Err(HubError::Offline {
                    repository: request.repository.clone(),
                    revision: asked.to_owned(),
                    folder: request.folder.clone(),
                    cache: cache.clone(),
                }),
            };
        }
        let api = Api { client, stop };
        let info = api.info(&request.repository, asked, observe)?;
        let files = api.tree(&request.repository, &info.commit, observe)?;
        Ok((info, files))
    };
    let (mut info, mut listing) = look(&asked, observe)?;
    let mut revision = revision;
    let patterns = request.patterns(&info)?;
    let (mut files, mut estimate) = request.choose(&listing, &patterns)?;
    let may_be_converted = request.revision.is_none() && before.is_none() && request.include.is_empty();
    if files.is_empty() && may_be_converted && !settings.offline {
        let converted = match look(CONVERTED, observe) {
            Ok(found) => Some(found),
            // Not every data set has been converted.
            Err(HubError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        if let Some((other, converted)) = converted {
            let (chosen, reckoned) = request.choose(&converted, &patterns)?;
            if !chosen.is_empty() {
                (files, estimate, revision) = (chosen, reckoned, CONVERTED.to_owned());
                info.commit = other.commit;
                listing = converted;
            }
        }
    }
    if files.is_empty() {
        let patterns = if patterns.is_empty() { "a format that is read".to_owned() } else { patterns.join(", ") };
        let shown: Vec<_> = listing.iter().map(|file| file.path.as_str()).take(12).collect();
        let more = if listing.len() > shown.len() {
            format!(" and {} more", listing.len() - shown.len())
        } else {
            String::new()
        };
        let found = if shown.is_empty() { "no file at all".to_owned() } else { format!("{}{more}", shown.join(", ")) };
        return Err(HubError::NoFiles { repository: request.repository.clone(), commit: info.commit, patterns, found });
    }
    if let Some(before) = before.filter(|before| before.commit != info.commit) {
        return Err(other(request, before, &info.commit));
    }
    Ok(Found { info, revision, files, estimate })
}

/// What a manifest lists, as a listing.
fn known_files(manifest: &Manifest) -> (Info, Vec<RepositoryFile>) {
    let file = |file: &ManifestFile| {
        Some(RepositoryFile { path: file.path.clone(), size: file.size, id: file.id()?, local: None })
    };
    let info = Info { commit: manifest.commit.clone(), licence: manifest.licence.clone(), ..Info::default() };
    (info, manifest.files.iter().filter_map(file).collect())
}

/// The refusal of what is not in the folder.
pub(super) fn other(request: &Request, before: &Manifest, asked: &str) -> HubError {
    HubError::OtherContents {
        folder: request.folder.clone(),
        found: format!("{} at commit {}", before.repository, before.commit),
        asked: asked.to_owned(),
    }
}
