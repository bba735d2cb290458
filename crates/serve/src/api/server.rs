//! What every handler shares: the settings, the model once it is loaded, and whether the server is about to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;

use super::app;
use super::error::ApiError;
use super::guard::{self, Hosts, Key, RateLimit};
use super::metrics::Metrics;
use super::openai::Defaults;
use crate::answers::Answers;
use crate::chatbot::Chatbot;
use crate::overflow::Policy;
use crate::runs::Runs;
use crate::store::{Database, StoreError};

/// Settings of the HTTP interface.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Who may use it; anybody if there is none.
    pub key: Option<Key>,
    /// Names of this server.
    pub hosts: Hosts,
    /// Origins that may show the page in a frame.
    pub frame_ancestors: Vec<String>,
    /// Whoever is on this machine may use it, and nobody else: what a proxy hands on from others is refused.
    pub this_machine_alone: bool,
    /// Whether `X-Forwarded-For` is the proxy's word.
    pub trust_proxy: bool,
    /// Requests a minute of one client; 0 for no limit.
    pub rate_limit: u32,
    /// Where a line for the owner goes. No line holds what people wrote.
    pub log: Option<fn(&str)>,
    /// Training runs to show.
    pub runs: Option<Arc<Runs>>,
    /// No model is to come: the server is the dashboard alone.
    pub dashboard_only: bool,
}

/// A model that can be asked.
pub struct Loaded {
    /// It.
    pub bot: Arc<Chatbot>,
    /// Settings of answers where a request has none.
    pub defaults: Defaults,
    /// For conversations that are too long.
    pub overflow: Policy,
    /// Answers of stored conversations; none where the browser keeps them.
    pub answers: Option<Answers>,
}

impl Loaded {
    /// Bytes of one message. A token of text is four bytes or so; what has sixteen a token fits no context.
    pub fn message_bytes(&self) -> usize {
        self.bot.context().saturating_mul(16).clamp(16 << 10, 1 << 20)
    }
}

/// The server.
pub struct Server {
    /// Settings.
    pub options: Options,
    pub(super) content_security_policy: HeaderValue,
    pub(super) rate: Option<RateLimit>,
    pub(super) metrics: Metrics,
    loaded: OnceLock<Loaded>,
    stopping: AtomicBool,
}

impl Server {
    /// A server whose model is still to come.
    pub fn new(options: Options) -> Self {
        Server {
            content_security_policy: guard::content_security_policy(&options.frame_ancestors),
            rate: (options.rate_limit > 0).then(|| RateLimit::new(options.rate_limit)),
            options,
            metrics: Metrics::new(),
            loaded: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The model is there. A second one is not taken.
    pub fn ready(&self, loaded: Loaded) {
        let _ = self.loaded.set(loaded);
    }

    /// A line for the owner.
    pub(super) fn log(&self, line: &str) {
        if let Some(log) = self.options.log {
            log(line);
        }
    }

    /// No new work from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The model, if there is one and the server goes on.
    pub(super) fn loaded(&self) -> Result<&Loaded, ApiError> {
        if self.is_stopping() {
            return Err(ApiError::stopping());
        }
        if self.options.dashboard_only {
            return Err(ApiError::not_found("this server has no model; start it with --model DIR to chat"));
        }
        self.loaded.get().ok_or_else(ApiError::loading)
    }

    /// The answers of stored conversations, where there is a store.
    pub(super) fn answers(&self) -> Result<&Answers, ApiError> {
        let stored = self.loaded()?.answers.as_ref();
        stored.ok_or_else(|| {
            ApiError::not_found("this server stores no conversations: the page keeps them in the browser")
        })
    }

    /// Work on the store.
    pub(super) async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.answers()?.store().run(work).await.map_err(|error| app::store_failure(self, &error))
    }

    /// The model, whatever else.
    pub fn model(&self) -> Option<&Loaded> {
        self.loaded.get()
    }
}

/// The time.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
