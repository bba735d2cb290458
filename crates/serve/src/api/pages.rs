//! The page's files, embedded in the program. No path of a request is ever opened: it is looked up among the names that
//! were there when the program was built.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use rust_embed::RustEmbed;

use super::error::ApiError;
use super::extract::Segment;
use super::server::Server;

/// The files of `web/`.
#[derive(RustEmbed)]
#[folder = "../../web"]
struct Web;

/// A file as it is sent.
struct Asset {
    bytes: Bytes,
    /// Compressed once, where that helps.
    gzip: Option<Bytes>,
    kind: HeaderValue,
    etag: HeaderValue,
}

static ASSETS: LazyLock<HashMap<String, Asset>> =
    LazyLock::new(|| Web::iter().filter_map(|name| Some((name.to_string(), load(&name)?))).collect());

fn load(name: &str) -> Option<Asset> {
    let file = Web::get(name)?;
    let hash: String = file.metadata.sha256_hash()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let bytes = Bytes::from(file.data.into_owned());
    Some(Asset {
        gzip: compress(&bytes).filter(|gzip| gzip.len() < bytes.len() * 9 / 10),
        kind: HeaderValue::from_static(kind(name)),
        etag: HeaderValue::try_from(format!("\"{hash}\"")).ok()?,
        bytes,
    })
}

fn compress(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    Some(encoder.finish().ok()?.into())
}

/// The type by the name's ending.
fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or("") {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" | "md" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Their routes.
pub(super) fn routes() -> Router<Arc<Server>> {
    Router::new()
        .route("/", get(chat))
        .route("/runs/", get(runs))
        // The page names its files by where they lie from here.
        .route("/runs", get(async || to("runs/")))
        .route("/assets/{*name}", get(async |Segment(name): Segment, headers: HeaderMap| send(&name, &headers)))
}

/// The chat; the dashboard where that is all there is.
async fn chat(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if server.options.dashboard_only { to("runs/") } else { send("index.html", &headers) }
}

/// The dashboard.
async fn runs(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    match server.options.runs {
        Some(_) => send("runs/index.html", &headers),
        None => ApiError::not_found("this server shows no training runs; start it with --runs FOLDER").into_response(),
    }
}

/// Elsewhere on this server, from where the request was; a proxy may have put all of it under a path of its own.
fn to(place: &'static str) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, HeaderValue::from_static(place))]).into_response()
}

fn send(name: &str, asked: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.get(name) else {
        return ApiError::not_found("the page has no such file").into_response();
    };
    let asks = |name, word: &str| {
        let mut texts = asked.get_all(name).iter().filter_map(|value| value.to_str().ok());
        texts.any(|text| text.split(',').any(|part| says(part, word)))
    };
    // Checked each time: a new program has new files under the old names.
    let cache = HeaderValue::from_static("no-cache");
    let fixed = [(header::ETAG, asset.etag.clone()), (header::CACHE_CONTROL, cache)];
    let vary = (header::VARY, HeaderValue::from_static("accept-encoding"));
    let etag = asset.etag.to_str().unwrap_or_default();
    if asks(header::IF_NONE_MATCH, etag) || asks(header::IF_NONE_MATCH, &format!("W/{etag}")) {
        return (StatusCode::NOT_MODIFIED, fixed).into_response();
    }
    let kind = (header::CONTENT_TYPE, asset.kind.clone());
    match &asset.gzip {
        Some(gzip) if asks(header::ACCEPT_ENCODING, "gzip") => {
            let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            (fixed, [kind, vary, encoding], gzip.clone()).into_response()
        }
        _ => (fixed, [kind, vary], asset.bytes.clone()).into_response(),
    }
}

/// Whether a part of a list is this word, and not one that is ruled out by its weight: `gzip;q=0`.
fn says(part: &str, word: &str) -> bool {
    let (name, weight) = part.split_once(';').unwrap_or((part, ""));
    let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
    name.trim() == word && weight != Some(0.0)
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn what_is_ruled_out_is_not_asked_for() {
        for part in ["gzip", " gzip ", "gzip;q=1", "gzip; q=0.1"] {
            assert!(says(part, "gzip"), "{part}");
        }
        for part in ["gzip;q=0", "gzip; q=0.000", "x-gzip", "", ";q=1"] {
            assert!(!says(part, "gzip"), "{part}");
        }
    }
}
