//! [`Manifest`]: `fetched.json`, which says what a folder holds and of which commit.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::HubError;
use super::files::BlobId;
use crate::durable::write_file;
use crate::error::Error;

/// Name of the manifest in the folder. Sources pass it over (`source::find_files`).
pub const MANIFEST: &str = "fetched.json";

/// Where files came from. Written before the first of them, so that whoever goes on goes on with the same commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// As on the Hub: `owner/name`.
    pub repository: String,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// What that meant.
    pub commit: String,
    /// As the data set's card names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Whether all files are there and verified.
    pub complete: bool,
    /// In order of their paths.
    pub files: Vec<ManifestFile>,
}

/// A file of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Below the folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of its bytes, hexadecimal; unknown for a file of git that has not arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Git's hash of a file that is not in LFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_sha1: Option<String>,
}

impl ManifestFile {
    /// The hash that the Hub knows it by.
    pub fn id(&self) -> Option<BlobId> {
        BlobId::parse(self.git_sha1.as_deref().or(self.sha256.as_deref())?)
    }
}

impl Manifest {
    /// That of a folder, if it has one.
    ///
    /// # Errors
    /// [`HubError::Manifest`] and the disk.
    pub fn read(folder: &Path) -> Result<Option<Self>, HubError> {
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error).into()),
        };
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| HubError::Manifest { path: path.clone(), message: error.to_string() })?;
        if let Some(file) = manifest.files.iter().find(|file| file.id().is_none()) {
            return Err(HubError::Manifest { path, message: format!("{:?} has no hash", file.path) });
        }
        Ok(Some(manifest))
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn write(&self, folder: &Path) -> Result<(), HubError> {
        let path = folder.join(MANIFEST);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| Error::io("write", &path, e.into()))?;
        text.push(b'\n');
        Ok(write_file(&path, &text)?)
    }
}
