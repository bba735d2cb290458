//! Data sets from the Hugging Face Hub, into a folder that a recipe can name.
//!
//! [`fetch`] asks which commit a revision means, lists its files, chooses among them (by pattern, or as many
//! shards as a number of tokens needs), and brings each to its place: from the Hub's own cache where that has it, otherwise
//! over HTTP. Called by the command line. Nothing here reads what is in the files.
//!
//! # What is promised
//!
//! - **One version.** The commit is fixed before the first file and stands in the manifest; whoever goes on uses the same.
//! - **A file is visible only when its size and hash are those of the listing** (SHA-256 for LFS files, git's SHA-1 of a blob
//!   for the others). Until then its bytes stand in `.fetching/`, under the hash that they are to have.
//! - **What is durable is not fetched again.** Within one process a cut connection is continued at the next byte. Over a
//!   kill or a power cut it is continued at the last sync: at most [`sync_bytes`] of each file under way come twice (1/16
//!   of the file, between 64 kB and 16 MB). An exception is a server that does not know ranges, or bytes that turn out
//!   not to have the hash.
//! - **Nothing is written outside the folder**, whatever a listing says, and the token goes to the Hub's address only.
//! - **Memory** holds the listing and one buffer a connection.

mod api;
mod cache;
mod download;
mod error;
mod fetching;
mod files;
mod finding;
mod http;
mod known;
mod manifest;
mod partial;
mod paths;
mod plan;
mod retry;
mod selection;
mod settings;
mod verify;
mod workers;

pub use error::{FileFault, HubError};
pub use fetching::{Event, Fetched, fetch};
pub use files::{BlobId, RepositoryFile};
pub use known::{KNOWN, Known, Use, eval_sets};
pub use manifest::{MANIFEST, Manifest, ManifestFile};
pub use partial::{PARTIALS, sync_bytes};
pub use retry::RetryPolicy;
pub use selection::{Estimate, Request};
pub use settings::{Settings, Token};
