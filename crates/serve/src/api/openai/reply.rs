//! What both endpoints do with a checked request: begin the answer, then give it piece by piece or wait for its end.

use std::sync::Arc;

use axum::response::Response;

use super::super::error::ApiError;
use super::super::server::{Loaded, Server, unix_seconds};
use super::answer::{self, Prompt, Whole};
use super::response::{Extension, Usage};
use super::{Ask, new_id, stream};

/// What a response begins with, and each chunk of a stream again.
pub(super) struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
}

/// A response.
pub(super) enum Reply {
    /// Server-sent events, finished.
    Stream(Response),
    /// To be put into the endpoint's shape.
    Whole(Box<WholeReply>),
}

/// An answer at its end, and what stands beside it in a response.
pub(super) struct WholeReply {
    pub head: Head,
    pub whole: Whole,
    pub usage: Usage,
    pub casallm: Extension,
}

/// Answers.
pub(super) async fn reply(server: &Arc<Server>, loaded: &Loaded, prompt: Prompt, ask: &Ask) -> Result<Reply, ApiError> {
    let shape = prompt.shape();
    let begun = answer::submit(loaded, prompt, ask).await?;
    let (id, model) = (new_id(shape.prefix()), loaded.bot.card().id.clone());
    let head = Head { id, created: unix_seconds(), model };
    if ask.stream {
        return Ok(Reply::Stream(stream::response(stream::Start {
            server: server.clone(),
            bot: loaded.bot.clone(),
            begun,
            shape,
            head,
            include_usage: ask.include_usage,
            with_logprobs: ask.top_logprobs.is_some(),
        })));
    }
    let whole = answer::whole(begun.answer, server).await?;
    let usage = Usage::from(&whole.done);
    let casallm = Extension::new(&whole.done, loaded.bot.context(), begun.overflow);
    Ok(Reply::Whole(Box::new(WholeReply { head, whole, usage, casallm })))
}
