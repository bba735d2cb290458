//! The hash of a file that is there.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::HubError;
use super::files::{BlobId, Digests, Hashes};
use crate::error::Error;

/// Hashes a file of `size` bytes as the listing would; `done` hears of each piece.
///
/// # Errors
/// The disk; [`HubError::Interrupted`].
pub(super) fn hash_file(
    path: &Path,
    id: &BlobId,
    size: u64,
    stop: &AtomicBool,
    done: &mut dyn FnMut(u64),
) -> Result<Hashes, HubError> {
    let failed = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let mut digests = Digests::new(id, size);
    let mut buffer = vec![0; 1 << 20];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(HubError::Interrupted);
        }
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(digests.finish()),
            read => {
                digests.update(&buffer[..read]);
                done(read as u64);
            }
        }
    }
}
