//! The HTTP interface, and the only place that knows wire types.
//!
//! [`router`] is every route behind two layers: one that counts, one that guards. [`serve`] brings connections to it
//! and bounds what a connection may take.

mod app;
mod bounds;
mod document;
mod error;
mod extract;
mod guard;
mod listener;
mod metrics;
mod misread;
mod openai;
mod operation;
mod pages;
mod runs;
mod server;
mod sse;
mod stall;

use std::sync::Arc;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, middleware};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use error::ApiError;
pub use guard::{Hosts, Key};
pub use listener::{Connections, serve};
pub use openai::{Defaults, check_body};
pub use server::{Loaded, Options, Server};

/// The document's head; its routes come from the handlers that serve them.
#[derive(OpenApi)]
#[openapi(info(title = "CasaLLM", description = "A language model of your own: OpenAI's endpoints, and the page's."))]
struct Document;

/// Every route.
pub fn router(server: Arc<Server>) -> Router {
    let documented = OpenApiRouter::with_openapi(Document::openapi())
        .merge(openai::routes())
        .merge(app::routes())
        .merge(runs::routes())
        .routes(routes!(operation::health))
        .routes(routes!(metrics::metrics));
    let (router, mut document) = documented.split_for_parts();
    document::complete(&mut document);
    let document = document.to_json().unwrap_or_default();
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    router
        .route("/openapi.json", get(async move || (kind, document).into_response()))
        .merge(pages::routes())
        .fallback(async || ApiError::not_found("there is no such route; GET /openapi.json lists them"))
        .method_not_allowed_fallback(async || ApiError::method())
        .layer(middleware::from_fn_with_state(server.clone(), guard::guard))
        .layer(middleware::from_fn_with_state(server.clone(), metrics::count))
        .with_state(server)
}
