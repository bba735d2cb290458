//! A body or query that is not what its route takes, in the words of whoever sent it: serde's name types of Rust, and a
//! column of a text that a program made.

use super::error::ApiError;

/// Characters of a wrong value that are said again; it may be a megabyte.
const QUOTED: usize = 80;

/// What serde_json says of the value at `path`, which is `.` for the whole.
pub(super) fn json(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    if !error.is_data() {
        // Here the place says something.
        let start = "the request's body is not valid JSON";
        return ApiError::invalid(if error.line() == 1 && error.column() == 0 {
            format!("{start}: it is empty; send an object")
        } else {
            format!("{start}: {text}")
        });
    }
    let said = text.rsplit_once(" at line ").map_or(text.as_str(), |(said, _)| said);
    let whole = path == ".";
    let within = |field: &str| if whole { field.to_owned() } else { format!("{path}.{field}") };
    if let Some(field) = field_of("missing field", said) {
        return ApiError::missing(within(field));
    }
    if let Some(field) = field_of("duplicate field", said) {
        let field = within(field);
        return ApiError::field(field.clone(), format!("{field} is there twice; send it once"));
    }
    let message = match said.rsplit_once(", expected ") {
        Some((found, expected)) => {
            let name = if whole { "the request's body" } else { path };
            format!("{name} is {}; use {}", value(found), wanted(expected))
        }
        None => format!("{}: {}", if whole { "the request's body" } else { path }, short(said)),
    };
    if whole { ApiError::invalid(message) } else { ApiError::field(path, message) }
}

/// What axum says of a query: its own words, then mostly `name: ` and what is wrong with it.
pub(super) fn query(text: &str) -> ApiError {
    let said = text.split_once(": ").map_or(text, |(_, said)| said);
    if let Some(field) = field_of("missing field", said) {
        return ApiError::missing(field);
    }
    match said.split_once(": ") {
        Some((field, said)) if said.contains("digit") => {
            ApiError::field(field, format!("{field} in the address is no whole number; use one from 0"))
        }
        Some((field, said)) => ApiError::field(field, format!("{field} in the address: {}", short(said))),
        None => ApiError::invalid(format!("the address after `?`: {}", short(said))),
    }
}

/// The name in "missing field `name`".
fn field_of<'a>(complaint: &str, said: &'a str) -> Option<&'a str> {
    said.strip_prefix(complaint)?.trim_start().strip_prefix('`')?.strip_suffix('`')
}

/// The value in serde's "invalid type: integer `3`", as JSON writes it.
fn value(found: &str) -> String {
    let found = found.split_once(": ").map_or(found, |(_, found)| found);
    if found.starts_with("invalid length") {
        return "a list".to_owned();
    }
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        _ => match (found.find('"'), found.find('`')) {
            (None, Some(at)) => short(found[at..].trim_matches('`')),
            (Some(at), None) => short(&found[at..]),
            (Some(quote), Some(at)) => short(if quote < at { &found[quote..] } else { found[at..].trim_matches('`') }),
            (None, None) => short(found),
        },
    }
}

/// What serde expected, as JSON calls it.
fn wanted(expected: &str) -> String {
    let told = match expected {
        "f32" | "f64" => "a number",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0",
        "i64" => "a whole number of 64 bits",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        _ if expected.starts_with("struct ") || expected == "a map" => "an object",
        _ => expected,
    };
    told.to_owned()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::extract::parse;
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Body {
        messages: Vec<Message>,
        temperature: Option<f64>,
        max_tokens: Option<u64>,
        stream: Option<bool>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Message {
        role: String,
    }

    #[test]
    fn a_wrong_body_is_told_by_field_value_and_remedy() {
        let with = |field: &str| format!(r#"{{"messages":[],{field}}}"#);
        let cases = [
            ("{}".to_owned(), Some("messages"), "messages is missing; send it"),
            (r#"{"messages":[{}]}"#.to_owned(), Some("messages[0].role"), "messages[0].role is missing; send it"),
            (r#"{"messages":"Hi"}"#.to_owned(), Some("messages"), r#"messages is "Hi"; use a list"#),
            (r#"{"messages":null}"#.to_owned(), Some("messages"), "messages is null; use a list"),
            (r#"{"messages":["Hi"]}"#.to_owned(), Some("messages[0]"), r#"messages[0] is "Hi"; use an object"#),
            (with(r#""temperature":"hot""#), Some("temperature"), r#"temperature is "hot"; use a number"#),
            (with(r#""temperature":{}"#), Some("temperature"), "temperature is an object; use a number"),
            (with(r#""max_tokens":-1"#), Some("max_tokens"), "max_tokens is -1; use a whole number from 0"),
            (with(r#""max_tokens":1.5"#), Some("max_tokens"), "max_tokens is 1.5; use a whole number from 0"),
            (with(r#""stream":"a`b""#), Some("stream"), r#"stream is "a`b"; use true or false"#),
            (with(r#""messages":[]"#), Some("messages"), "messages is there twice; send it once"),
            ("[]".to_owned(), None, "the request's body is a list; use an object"),
            ("3".to_owned(), None, "the request's body is 3; use an object"),
            (String::new(), None, "the request's body is not valid JSON: it is empty; send an object"),
            (with(""), None, "the request's body is not valid JSON: trailing comma at line 1 column 16"),
        ];
        for (body, param, message) in cases {
            let error = parse::<Body>(body.as_bytes()).unwrap_err().body().error;
            assert_eq!((error.param.as_deref(), error.message.as_str()), (param, message), "{body}");
        }
        let long = format!(r#"{{"messages":"{}, expected \" at line "}}"#, "é".repeat(100_000));
        let error = parse::<Body>(long.as_bytes()).unwrap_err().body().error;
        assert!(error.message.len() < 300 && error.message.ends_with("; use a list"), "{error:?}");
    }

    #[test]
    fn a_wrong_query_is_told_by_its_name() {
        let error = query("Failed to deserialize query string: limit: invalid digit found in string").body().error;
        assert_eq!(error.param.as_deref(), Some("limit"));
        assert_eq!(error.message, "limit in the address is no whole number; use one from 0");
        let error = query("Failed to deserialize query string: missing field `format`").body().error;
        assert_eq!((error.param.as_deref(), error.message.as_str()), (Some("format"), "format is missing; send it"));
    }
}
