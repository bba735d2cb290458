//! Errors as the routes tell them: OpenAI's shape, with a status, and where waiting helps a `Retry-After`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What went wrong, in OpenAI's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What, with the value and the remedy.
    pub message: String,
    /// The kind: `invalid_request_error`, `rate_limit_error`, `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field that it is about, as a path into the request.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorResponse {
    /// What went wrong.
    pub error: ErrorBody,
}

/// A request that is not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<u64>,
}

const INVALID: &str = "invalid_request_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        ApiError { status, body: ErrorBody { message: message.into(), kind, param: None, code }, retry_after: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, Some("invalid_value"), message)
    }

    /// A field of the request is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).about(param)
    }

    /// A field is not there.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param} is missing; send it");
        Self::new(StatusCode::BAD_REQUEST, INVALID, Some("missing_required_parameter"), message).about(param)
    }

    /// A field asks for what this server does not do.
    pub fn unsupported(param: &str, remedy: &str) -> Self {
        let message = format!("{param} is not supported by this server: {remedy}");
        Self::new(StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter"), message).about(param)
    }

    /// The conversation does not fit the model's context.
    pub fn context_length(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"), message).about(param)
    }

    /// The key is missing or wrong.
    pub fn key() -> Self {
        let message = "this server wants its key: send the header `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, INVALID, Some("invalid_api_key"), message)
    }

    /// Host, Origin or Sec-Fetch-Site say that another site asks.
    pub fn foreign(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, INVALID, Some("forbidden_origin"), message)
    }

    /// A proxy asks for somebody on another machine, whom the owner has not let in.
    pub fn forwarded(client: &str) -> Self {
        let message = format!(
            "a proxy handed this on from {client:?}, and this server was started for its own machine alone: start it with \
             --api-key-file FILE, or with --public and --ephemeral or --db FILE"
        );
        Self::new(StatusCode::FORBIDDEN, INVALID, Some("forbidden_proxy"), message)
    }

    /// There is no such route or thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, Some("not_found"), message)
    }

    /// There is no such model.
    pub fn model(asked: &str, served: &str) -> Self {
        let asked: String = asked.chars().take(80).collect();
        let message = format!("the model {asked:?} is not here; this server has {served:?} (GET /v1/models)");
        Self::new(StatusCode::NOT_FOUND, INVALID, Some("model_not_found"), message).about("model")
    }

    /// The route exists, the method does not.
    pub fn method() -> Self {
        let message = "this route does not know this method; the header Allow lists those that it knows";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, Some("method_not_allowed"), message)
    }

    /// It contradicts what is there, such as an answer that is still running.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, INVALID, Some("conflict"), message)
    }

    /// The body is too large.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the request's body is larger than the {limit} bytes that this route takes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("request_too_large"), message)
    }

    /// The body is not JSON by its type.
    pub fn media_type() -> Self {
        let message = "send JSON, with the header `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Some("unsupported_media_type"), message)
    }

    /// The body is compressed.
    pub fn encoded(encoding: &str) -> Self {
        let encoding: String = encoding.chars().take(40).collect();
        let message = format!(
            "the request's body has the Content-Encoding {encoding:?}, which this server does not undo; send it as it is"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Some("unsupported_content_encoding"), message)
    }

    /// The body did not come in time.
    pub fn timeout(seconds: u64) -> Self {
        let message = format!("the request's body did not arrive within {seconds} seconds");
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, Some("request_timeout"), message)
    }

    /// This client asks too often.
    pub fn rate(retry_after: u64) -> Self {
        let message = format!("too many requests from this address: wait {retry_after} s");
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"), message);
        error.after(retry_after)
    }

    /// Everybody together asks too much.
    pub fn busy(retry_after: u64) -> Self {
        let message = format!("the queue is full: try again in {retry_after} s");
        Self::unavailable("queue_full", message).after(retry_after)
    }

    /// The model is not loaded yet.
    pub fn loading() -> Self {
        Self::unavailable("loading", "the model is being loaded: try again in 2 s").after(2)
    }

    /// The server ends.
    pub fn stopping() -> Self {
        Self::unavailable("shutting_down", "the server is shutting down").after(5)
    }

    /// The model broke off for good. Not 503, which is tried again: only a new start helps.
    pub fn broken(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("model_broken"), reason)
    }

    fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message)
    }

    /// The disk is full.
    pub fn full_disk() -> Self {
        let message = "the server's disk is full; what was saved before is safe";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "server_error", Some("disk_full"), message)
    }

    /// An answer that had begun came to nothing.
    pub fn answer_failed(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("answer_failed"), reason)
    }

    /// Something broke that is not the client's fault. The cause is for the log, not for the client.
    pub fn internal() -> Self {
        let message = "the server failed at this request; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal"), message)
    }

    /// Names the field.
    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.body.param = Some(param.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body, for an error that is told within a stream.
    pub fn body(&self) -> ErrorResponse {
        ErrorResponse { error: self.body.clone() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
