//! Flags of `serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

use crate::args::{CacheKind, Compute, Output, WeightsKind, memory_size};

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// A model directory, such as runs/quickstart/model
    #[arg(long, short, required_unless_present = "runs")]
    pub model: Option<PathBuf>,
    /// Show training runs at /runs/: a folder of runs, or the folder of one; without --model nothing else is served
    #[arg(long, value_name = "FOLDER")]
    pub runs: Option<PathBuf>,
    /// Address to listen at; one that others can reach needs a key or --public
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen at; 0 for any that is free [default: PORT in the environment, else 7860]
    #[arg(long)]
    pub port: Option<u16>,
    /// The key that clients must send; better kept in a file, for others can see a command line. All who have it share one
    /// list of conversations [default: CASALLM_API_KEY in the environment]
    #[arg(long, conflicts_with = "api_key_file")]
    pub api_key: Option<String>,
    /// A file whose first line is the key; all who have it share one list of conversations
    #[arg(long)]
    pub api_key_file: Option<PathBuf>,
    /// Let anybody who reaches it use it, without a key. Needs --ephemeral, or --db FILE: all who are let in share one list of
    /// conversations
    #[arg(long)]
    pub public: bool,
    /// Name of this server beside localhost and addresses, like chat.example.org (may be given again)
    #[arg(long = "allowed-host", value_name = "NAME")]
    pub allowed_hosts: Vec<String>,
    /// Origin that may show the page in a frame, such as `https://example.org` (may be given again)
    #[arg(long = "frame-ancestor", value_name = "ORIGIN")]
    pub frame_ancestors: Vec<String>,
    /// Tell clients apart by the last entry of X-Forwarded-For: only behind a proxy that writes it; needs a key or --public
    #[arg(long)]
    pub trust_proxy: bool,
    /// Requests a minute that one client may make; 0 for no limit [default: 0 on loopback without --trust-proxy, else 120]
    #[arg(long)]
    pub rate_limit: Option<u32>,
    /// Connections open at once
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections: u32,
    /// Conversations answered at once; each takes a cache of a full context
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_sequences: u32,
    /// Requests that may wait
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub queue: u32,
    /// Longest answer that a request may ask for, in tokens [default: the context]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Tokens of a conversation and its answer, at most the model's context [default: the model's context]
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..))]
    pub context: Option<u32>,
    /// Memory for conversations that are not being answered, like 256MB
    #[arg(long, default_value = "256MB", value_parser = memory_size)]
    pub cache_memory: u64,
    /// Folder for those that have no room in memory; they survive a restart
    #[arg(long)]
    pub cache_dir: Option<PathBuf>,
    /// Disk that this folder may take
    #[arg(long, default_value = "1GB", value_parser = memory_size)]
    pub cache_disk: u64,
    /// What is done with a conversation longer than the context
    #[arg(long, value_enum, default_value_t = OverflowKind::Summarise)]
    pub overflow: OverflowKind,
    /// Store no conversations: they stay in the browser
    #[arg(long, conflicts_with = "db")]
    pub ephemeral: bool,
    /// The file of conversations [default: casallm/conversations.db in the user's data folder]
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// Seconds that answers have to come to their end when the server is told to stop
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub grace_seconds: u32,
    /// Open the page in the browser
    #[arg(long)]
    pub open: bool,
    /// Format of the weights in memory
    #[arg(long, value_enum, default_value_t = WeightsKind::Bf16)]
    pub weights: WeightsKind,
    /// Format of keys and values in memory
    #[arg(long, value_enum, default_value_t = CacheKind::Bf16)]
    pub kv_cache: CacheKind,
    /// Where to compute.
    #[command(flatten)]
    pub compute: Compute,
    /// What to print.
    #[command(flatten)]
    pub output: Output,
}

impl Serve {
    /// The flags of `casallm serve --model DIR`, whatever the environment says.
    pub(crate) fn of(model: PathBuf) -> Self {
        let defaults = DefaultsOnly::parse_from(["serve", "--model", "m"]);
        Serve { model: Some(model), ..defaults.serve }
    }
}

/// A command line of nothing but these flags.
#[derive(Parser)]
struct DefaultsOnly {
    #[command(flatten)]
    serve: Serve,
}

/// What is done with a conversation longer than the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OverflowKind {
    /// Condense older turns into a note
    Summarise,
    /// Leave the oldest exchanges out
    DropOldest,
    /// Say that it is too long
    Refuse,
}
