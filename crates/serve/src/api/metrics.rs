//! Counters for Prometheus. Labels are routes as they are written in the code, never as they were asked for: no client
//! can make them many.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::error::ApiError;
use super::server::Server;
use crate::chatbot::Timing;
use crate::engine::Stats;

/// Which requests.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    route: String,
    status: u16,
}

/// What the HTTP interface counts.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    header_seconds: Histogram,
    first_token_seconds: Histogram,
    tokens_per_second: Histogram,
    pub(super) connections: Gauge,
    pub(super) connections_refused: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("casallm");
        let metrics = Metrics {
            requests: Family::default(),
            header_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            first_token_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 14)),
            tokens_per_second: Histogram::new(exponential_buckets(0.5, 2.0, 13)),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests by route and status", metrics.requests.clone());
        let help = "Seconds until a response begins";
        registry.register("http_response_start_seconds", help, metrics.header_seconds.clone());
        let help = "Seconds from a request to the first token of its answer";
        registry.register("time_to_first_token_seconds", help, metrics.first_token_seconds.clone());
        let help = "Tokens a second of each answer, after its first";
        registry.register("answer_tokens_per_second", help, metrics.tokens_per_second.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        let help = "Connections turned away because there were as many as may be";
        registry.register("connections_refused", help, metrics.connections_refused.clone());
        Metrics { registry, ..metrics }
    }

    /// An answer has come to its end.
    pub(super) fn answered(&self, timing: &Timing) {
        if let Some(first) = timing.first_token {
            self.first_token_seconds.observe(first.as_secs_f64());
        }
        if let Some(speed) = timing.tokens_per_second {
            self.tokens_per_second.observe(speed);
        }
    }
}

/// The layer that counts.
pub(super) async fn count(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let begun = Instant::now();
    let response = next.run(request).await;
    let metrics = &server.metrics;
    metrics.header_seconds.observe(begun.elapsed().as_secs_f64());
    metrics.requests.get_or_create(&Labels { method, route, status: response.status().as_u16() }).inc();
    response
}

/// A method's name; a client may invent others.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// What the engine counts, as it is now.
fn of_the_engine(stats: Stats) -> Registry {
    let mut registry = Registry::with_prefix("casallm");
    let gauges = [
        ("slots", "Sequences that are answered at once", stats.slots),
        ("queue", "Requests that wait", stats.waiting),
        ("active", "Requests that are being answered", stats.running),
        ("cached_sequences", "Sequences kept for later prompts, in memory or on disk", stats.stored_sequences),
        ("cached_bytes", "Bytes of those in memory", stats.stored_bytes),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, ConstGauge::new(value as i64));
    }
    let counters = [
        ("prompt_tokens", "Tokens of prompts", stats.prompt_tokens),
        ("prompt_tokens_cached", "Of these, tokens that did not have to be read", stats.cached_tokens),
        ("completion_tokens", "Tokens given", stats.completion_tokens),
        ("answers_finished", "Answers that came to their end", stats.finished),
        ("answers_cancelled", "Answers whose asker went away", stats.cancelled),
        ("answers_failed", "Answers at which the model failed", stats.failed),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    registry
}

/// Counters and gauges as Prometheus reads them.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Result<Response, ApiError> {
    let mut text = String::new();
    let mut encode = || {
        encode_registry(&mut text, &server.metrics.registry)?;
        if let Some(loaded) = server.model() {
            encode_registry(&mut text, &of_the_engine(loaded.bot.engine().stats()))?;
        }
        encode_eof(&mut text)
    };
    encode().map_err(|_| ApiError::internal())?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
