//! OpenAI's shapes, whole and in pieces.

use std::collections::BTreeSet;
use std::sync::Arc;

use casallm_serve::api::Options;
use casallm_serve::runs::Runs;
use serde_json::{Value, json};

use super::client::{get, post, raw, request};
use super::server::Setup;

fn ask(text: &str) -> Value {
    json!({"model": "fake", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12})
}

#[test]
fn a_stream_says_what_a_whole_answer_says() {
    let server = Setup::default().start();
    // Long enough for a part of it not to be read again.
    let question = "Hello. How many of these words will be read again, please?";
    let whole = post(server.address, "/v1/chat/completions", &ask(question));
    assert_eq!(whole.status, 200, "{whole:?}");
    let whole = whole.json();
    let choice = &whole["choices"][0];
    assert_eq!((&whole["object"], &choice["message"]["role"]), (&json!("chat.completion"), &json!("assistant")));
    let usage = &whole["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );

    let mut body = ask(question);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let stream = post(server.address, "/v1/chat/completions", &body);
    assert_eq!(stream.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    assert!(
        stream.header("cache-control").unwrap().contains("no-store") && stream.header("content-encoding").is_none()
    );
    let events = stream.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let last = &chunks[chunks.len() - 1];
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
    // The same prompt was read a moment ago.
    assert!(last["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0, "{last}");
    assert_eq!(last["casallm"]["context"]["overflow"], Value::Null);
    assert!(last["casallm"]["timing"]["first_token_ms"].as_f64().unwrap() >= 0.0);
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], choice["finish_reason"]);
}

#[test]
fn seeds_stops_and_probabilities() {
    let server = Setup::default().start();
    let mut body = ask("Tell me");
    body["temperature"] = json!(1.5);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(3);
    // At such a temperature some answers end before they begin.
    let lasting = |seed: &u64| {
        let mut body = body.clone();
        body["seed"] = json!(seed);
        let answer = post(server.address, "/v1/chat/completions", &body).json();
        !answer["choices"][0]["logprobs"]["content"].as_array().unwrap().is_empty()
    };
    body["seed"] = json!((0..20).find(lasting).unwrap());
    let first = post(server.address, "/v1/chat/completions", &body).json();
    let again = post(server.address, "/v1/chat/completions", &body).json();
    let content = |answer: &Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(content(&first), content(&again));
    let tokens = first["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(!tokens.is_empty());
    for token in tokens {
        assert!(token["logprob"].as_f64().unwrap() <= 0.0 && token["bytes"].is_array(), "{token}");
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
    }
    let text = content(&first);
    let stop: String = text.chars().skip(3).take(2).collect();
    if !stop.is_empty() {
        body["stop"] = json!(stop);
        let stopped = post(server.address, "/v1/chat/completions", &body).json();
        assert_eq!(content(&stopped), text[..text.find(&stop).unwrap()]);
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    }
}

#[test]
fn an_answer_that_a_stop_text_ends_is_a_finished_one() {
    // Slow enough for the engine to be in the midst of it.
    let server = Setup { pace: std::time::Duration::from_millis(4), ..Setup::default() }.start();
    let mut body = ask("Tell me");
    body["max_tokens"] = json!(1000);
    body["stop"] = json!(["a", "e", "i", "o", "u", "t", "s", "r", "n", " "]);
    let answer = post(server.address, "/v1/chat/completions", &body).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    server.until("it is counted", |stats| stats.finished + stats.cancelled == 1);
    assert_eq!(server.stats().cancelled, 0, "nobody went away");
}

#[test]
fn texts_are_continued() {
    let server = Setup::default().start();
    let body = json!({"prompt": "Once", "max_tokens": 5, "temperature": 0, "logprobs": 2});
    let whole = post(server.address, "/v1/completions", &body).json();
    assert_eq!(whole["object"], "text_completion");
    let choice = &whole["choices"][0];
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), logprobs["text_offset"].as_array().unwrap().len());
    let mut body = body;
    body["stream"] = json!(true);
    let stream = post(server.address, "/v1/completions", &body);
    let text: String = stream
        .events()
        .iter()
        .filter(|event| **event != "[DONE]")
        .map(|event| serde_json::from_str::<Value>(event).unwrap()["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(text, choice["text"].as_str().unwrap());
}

#[test]
fn models_and_operation() {
    let server = Setup::default().start();
    let models = get(server.address, "/v1/models").json();
    assert_eq!(models["data"][0]["id"], "fake");
    assert_eq!(get(server.address, "/v1/models/fake").json(), models["data"][0]);
    assert_eq!(get(server.address, "/v1/models/gpt").is_error()["code"], "model_not_found");
    assert_eq!(get(server.address, "/health").json(), json!({"status": "ready"}));
    post(server.address, "/v1/chat/completions", &ask("Hi"));
    let metrics = get(server.address, "/metrics");
    for line in [
        "casallm_http_requests_total{method=\"POST\",route=\"/v1/chat/completions\",status=\"200\"} 1",
        "casallm_queue 0",
        "casallm_active 0",
        "casallm_answers_finished_total 1",
        "casallm_time_to_first_token_seconds_count 1",
    ] {
        assert!(metrics.text().contains(line), "{line} is not in {}", metrics.text());
    }
    assert!(metrics.text().ends_with("# EOF\n"));
}

#[test]
fn what_is_documented_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { runs: Some(Arc::new(Runs::new(folder.path()))), ..Options::default() };
    let server = Setup { stored: true, options, ..Setup::default() }.start();
    let document = get(server.address, "/openapi.json").json();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 14, "{:?}", paths.keys());
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{id}", "none").replace("{model}", "none").replace("{name}", "none");
            let kind = [("Content-Type", "application/json")];
            let response = raw(server.address, &request(&method.to_uppercase(), &path, &kind, b"{}"));
            assert!(response.status != 405 && response.status < 500, "{method} {path}: {response:?}");
            if response.status == 404 {
                assert!(path.contains("none"), "{method} {path}");
            }
        }
    }
    // What the standard wants of each operation: generators of clients refuse the document otherwise.
    let mut names = BTreeSet::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().unwrap() {
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{method} {path}: {operation}");
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert!(response["description"].is_string(), "{method} {path} {status}: {response}");
            }
            for parameter in operation["parameters"].as_array().unwrap_or(&Vec::new()) {
                let in_path = path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap()));
                assert_eq!(parameter["in"], if in_path { "path" } else { "query" }, "{method} {path}: {parameter}");
            }
        }
    }
    // Types of one name in different places are different schemas.
    let field = |schema: &str, field: &str| {
        let text = document["components"]["schemas"][schema]["properties"][field].to_string();
        let name = text.split("#/components/schemas/").nth(1).unwrap().split('"').next().unwrap().to_owned();
        document["components"]["schemas"][name]["properties"].clone()
    };
    assert!(field("ChatCompletion", "usage").get("prompt_tokens_details").is_some());
    assert!(field("Message", "usage").get("cached_tokens").is_some());
    assert!(field("Conversation", "settings").get("seed").is_some());
    // Every reference leads somewhere.
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

#[test]
fn errors_have_openais_shape_everywhere() {
    let server = Setup::default().start();
    let json = [("Content-Type", "application/json")];
    let path = "/v1/chat/completions";
    let large = vec![b' '; 5 << 20];
    let cases = [
        (request("GET", "/nothing", &[], b""), 404),
        (request("GET", path, &[], b""), 405),
        (request("OPTIONS", path, &[], b""), 405),
        (request("POST", path, &json, &large), 413),
        (request("POST", path, &[("Content-Type", "text/plain")], b"{}"), 415),
        (request("POST", path, &[], b""), 415),
        (request("POST", path, &json, b"{"), 400),
        (request("POST", path, &json, b"\xff\xfe"), 400),
        (request("GET", "/v1/models/%ff", &[], b""), 400),
        (request("GET", "/api/conversations", &[], b""), 404),
        (request("GET", "/assets/../Cargo.toml", &[], b""), 404),
        (request("GET", "/assets/%2e%2e/%2e%2e/Cargo.toml", &[], b""), 404),
    ];
    for (bytes, status) in cases {
        let response = raw(server.address, &bytes);
        assert_eq!(response.status, status, "{response:?}");
        response.is_error();
    }
    assert_eq!(post(server.address, path, &json!({"messages": []})).is_error()["param"], "messages");
}

#[test]
fn a_compressed_body_is_told_from_one_that_is_no_json() {
    let server = Setup::default().start();
    let body = ask("Hi").to_string();
    let send = |encoding, body: &[u8]| {
        let headers = [("Content-Type", "application/json"), ("Content-Encoding", encoding)];
        raw(server.address, &request("POST", "/v1/chat/completions", &headers, body))
    };
    let refused = send("gzip", b"\x1f\x8b\x08\0\0\0\0\0");
    assert_eq!((refused.status, &refused.is_error()["code"]), (415, &json!("unsupported_content_encoding")));
    assert!(refused.is_error()["message"].as_str().unwrap().contains("gzip"), "{refused:?}");
    assert_eq!(send("identity", body.as_bytes()).status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let slow = std::time::Duration::from_millis(20);
    let server = Setup { queue: 1, pace: slow, ..Setup::default() }.start();
    let body = ask("Hello").to_string();
    let bytes = request("POST", "/v1/chat/completions", &[("Content-Type", "application/json")], body.as_bytes());
    let open: Vec<_> = (0..4).map(|_| super::client::open(server.address, &bytes)).collect();
    server.until("all slots taken", |stats| stats.running == 4);
    let _waiting = super::client::open(server.address, &bytes);
    server.until("one waits", |stats| stats.waiting == 1);
    let refused = raw(server.address, &bytes);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(refused.is_error()["code"], "queue_full");
    drop(open);
}

#[test]
fn old_exchanges_are_left_out_aloud_or_the_request_is_refused() {
    let turns = |count: usize| {
        let mut messages = vec![json!({"role": "system", "content": "be kind"})];
        for n in 0..count {
            messages.push(json!({"role": "user", "content": format!("question {n} {}", "the house ".repeat(8))}));
            messages.push(json!({"role": "assistant", "content": "the garden sings"}));
        }
        messages.push(json!({"role": "user", "content": "and now?"}));
        json!({"messages": messages, "max_tokens": 8, "temperature": 0})
    };
    let server = Setup { context: 256, ..Setup::default() }.start();
    let path = "/v1/chat/completions";
    assert_eq!(post(server.address, path, &turns(1)).json()["casallm"]["context"]["overflow"], Value::Null);
    let long = post(server.address, path, &turns(30)).json();
    let overflow = &long["casallm"]["context"]["overflow"];
    assert_eq!(overflow["policy"], "drop-oldest", "{long}");
    let dropped = overflow["dropped_messages"].as_u64().unwrap();
    assert!(dropped > 0 && dropped < 60 && dropped.is_multiple_of(2), "{long}");
    let alone = json!({"messages": [{"role": "user", "content": "x ".repeat(600)}]});
    assert_eq!(post(server.address, path, &alone).is_error()["code"], "context_length_exceeded");

    let policy = casallm_serve::overflow::Policy::Refuse;
    let server = Setup { context: 256, policy, ..Setup::default() }.start();
    let refused = post(server.address, path, &turns(30));
    assert_eq!((refused.status, &refused.is_error()["code"]), (400, &json!("context_length_exceeded")));
}
