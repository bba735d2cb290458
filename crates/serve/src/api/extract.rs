//! What handlers take from a request, with errors in OpenAI's shape instead of the framework's plain text.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::misread;

/// Seconds within which a body of ordinary size must be here.
const BODY_SECONDS: u64 = 30;
/// Seconds for the one body that may be large.
const LARGE_BODY_SECONDS: u64 = 300;

/// Most bytes of an ordinary body.
const BODY: usize = 4 << 20;

/// A JSON body of ordinary size, here within a time limit, its depth bounded by serde_json's 128.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse(&json_bytes(request, BODY).await?).map(JsonBody)
    }
}

/// What a body may be compressed by.
const COMPRESSIONS: [&[u8]; 6] = [b"gzip", b"x-gzip", b"deflate", b"br", b"zstd", b"compress"];

/// A body that says that it is JSON, unread.
pub(super) async fn json_bytes(request: Request, limit: usize) -> Result<Vec<u8>, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::media_type());
    }
    // Some clients write `utf-8` there, over JSON that is as it should be.
    let compressed = |value: &HeaderValue| {
        let mut codings = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        codings.any(|coding| COMPRESSIONS.iter().any(|name| coding.eq_ignore_ascii_case(name)))
    };
    if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING).filter(|value| compressed(value)) {
        return Err(ApiError::encoded(&String::from_utf8_lossy(encoding.as_bytes())));
    }
    read(request.into_body(), limit).await
}

/// Bytes beyond the limit that are read and thrown away. Whoever is cut off while sending may never see why.
const DISCARDED: u64 = 32 << 20;

/// The whole body.
async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let most = limit as u64 + DISCARDED;
    if body.size_hint().lower() > most {
        return Err(ApiError::too_large(limit));
    }
    let seconds = if limit > 16 << 20 { LARGE_BODY_SECONDS } else { BODY_SECONDS };
    let reading = async {
        let (mut bytes, mut length) = (Vec::new(), 0_u64);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::invalid("the request's body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len() as u64;
            if length <= limit as u64 {
                bytes.extend_from_slice(&data);
            } else if length > most {
                break;
            }
        }
        if length <= limit as u64 { Ok(bytes) } else { Err(ApiError::too_large(limit)) }
    };
    match tokio::time::timeout(Duration::from_secs(seconds), reading).await {
        Err(_) => Err(ApiError::timeout(seconds)),
        Ok(read) => read,
    }
}

/// JSON to a value; the error names the field. A byte order mark, which some editors and shells put before a text, is passed over.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| misread::json(&error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| ApiError::invalid(format!("there is more than one JSON value in the body: {error}")))?;
    Ok(value)
}

/// `application/json`, with or without parameters, or a type that is built on JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let kind = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The one variable segment of a path.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_: PathRejection| ApiError::invalid("the address is not valid UTF-8"))?;
        Ok(Segment(text))
    }
}

/// The query's parameters.
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|error: QueryRejection| misread::query(&error.body_text()))?;
        Ok(Parameters(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Thing {
        #[allow(dead_code)]
        list: Vec<u8>,
    }

    #[test]
    fn errors_name_the_field() {
        let error = parse::<Thing>(br#"{"list":[1,"x"]}"#).unwrap_err().body().error;
        assert_eq!(error.param.as_deref(), Some("list[1]"));
        assert!(parse::<Thing>(br#"{"list":[1]} {"#).is_err());
        assert!(parse::<Thing>(br#"{"list":[NaN]}"#).is_err());
        assert!(parse::<Thing>(b"\xff").is_err());
        assert!(parse::<Thing>(b"\xef\xbb\xbf{\"list\":[1]}").is_ok());
        assert!(parse::<Thing>(b"\xef\xbb\xbf").is_err());
        let deep = "[".repeat(100_000);
        assert!(parse::<serde_json::Value>(deep.as_bytes()).is_err());
    }

    #[test]
    fn types_of_json() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, text.parse().unwrap());
            is_json(&headers)
        };
        assert!(of("application/json") && of("Application/JSON; charset=utf-8") && of("application/vnd.x+json"));
        assert!(!of("text/plain") && !of("application/x-www-form-urlencoded") && !is_json(&HeaderMap::new()));
    }
}
