//! What the OpenAPI document needs beyond what handlers say of themselves, for programs that make clients of it: each operation a
//! name that no other has, each response a description.

use axum::http::StatusCode;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, RefOr};

/// Completes the document.
pub(super) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("put", &mut item.put),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                // utoipa takes the handler's name, and several modules have a `list`.
                operation.operation_id = Some(name(method, path));
                describe(operation);
            }
        }
    }
}

/// `get_v1_models_model` of `GET /v1/models/{model}`.
fn name(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    [method].into_iter().chain(words).collect::<Vec<_>>().join("_")
}

fn describe(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let status = StatusCode::from_bytes(status.as_bytes()).ok();
            let words = status.and_then(|status| status.canonical_reason()).unwrap_or("Response");
            response.description = words.to_owned();
        }
    }
}
