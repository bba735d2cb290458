//! The page's own routes: thin, over `store` and `answers`.

mod config;
mod conversations;
mod events;
mod failure;
mod messages;
mod transfer;

use std::sync::Arc;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::server::Server;

pub(in crate::api) use failure::store as store_failure;

/// Their routes.
pub(super) fn routes() -> OpenApiRouter<Arc<Server>> {
    OpenApiRouter::new()
        .routes(routes!(config::config))
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::read, conversations::change, conversations::delete))
        .routes(routes!(messages::post))
        .routes(routes!(messages::regenerate))
        .routes(routes!(messages::stop))
        .routes(routes!(events::events))
        .routes(routes!(transfer::export))
        .routes(routes!(transfer::export_all))
        .routes(routes!(transfer::import))
}
