//! OpenAI's endpoints: what its official clients send and read.

mod answer;
mod chat;
mod chat_request;
mod completion_request;
mod completions;
mod fit;
mod logprobs;
mod models;
mod reply;
mod response;
mod settings;
mod stream;
mod texts;
mod unsupported;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use casallm_model::sampler::SamplerConfig;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) use answer::refused;
pub use settings::Defaults;

use super::bounds;
use super::error::ApiError;
use super::extract::parse;
use super::server::{Loaded, Server};

/// Their routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Server>> {
    OpenApiRouter::new()
        .routes(routes!(chat::create))
        .routes(routes!(completions::create))
        .routes(routes!(models::list))
        .routes(routes!(models::retrieve))
}

/// How something is to be answered: both endpoints' requests, checked.
#[derive(Debug, Clone)]
struct Ask {
    sampling: SamplerConfig,
    max_tokens: usize,
    stop: Vec<String>,
    top_logprobs: Option<usize>,
    stream: bool,
    include_usage: bool,
}

/// What a request is checked against.
struct Limits<'a> {
    model: &'a str,
    defaults: &'a Defaults,
    /// Bytes of one text. More cannot fit the model's context, so that there is no reason to tokenize it.
    message_bytes: usize,
}

impl<'a> Limits<'a> {
    fn of(loaded: &'a Loaded) -> Self {
        Limits { model: &loaded.bot.card().id, defaults: &loaded.defaults, message_bytes: loaded.message_bytes() }
    }

    /// The model's name, if one is asked for.
    fn model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            None => Ok(()),
            Some(asked) if asked == self.model => Ok(()),
            Some(asked) => Err(ApiError::model(asked, self.model)),
        }
    }

    /// A text's length.
    fn text(&self, at: &str, text: &str) -> Result<(), ApiError> {
        bounds::text(at, text, self.message_bytes)
    }
}

/// Reads a body as both endpoints would and checks it, for the fuzzer: an error for each that does not take it.
pub fn check_body(bytes: &[u8]) -> [Option<ApiError>; 2] {
    let defaults = Defaults { sampling: SamplerConfig::default(), max_tokens: 100, max_tokens_limit: 200 };
    let limits = Limits { model: "casa", defaults: &defaults, message_bytes: 10_000 };
    let chat = parse::<chat_request::ChatRequest>(bytes).and_then(|request| request.check(&limits).map(drop));
    let completion =
        parse::<completion_request::CompletionRequest>(bytes).and_then(|request| request.check(&limits).map(drop));
    [chat.err(), completion.err()]
}

/// A name that no other answer has.
fn new_id(prefix: &str) -> String {
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    // Without randomness the count alone tells answers of one process apart.
    let random = getrandom::u64().unwrap_or(0);
    format!("{prefix}-{random:016x}{:08x}", ANSWERS.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    static DEFAULTS: LazyLock<Defaults> =
        LazyLock::new(|| Defaults { sampling: SamplerConfig::default(), max_tokens: 100, max_tokens_limit: 200 });

    pub(super) fn limits() -> Limits<'static> {
        Limits { model: "casa", defaults: &DEFAULTS, message_bytes: 1000 }
    }
}
