//! Whoever goes away is not computed for.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use casallm_serve::api::Connections;
use serde_json::{Value, json};

use super::client::{get, open, parse, post, request};
use super::server::{CONTEXT, Running, Setup};

/// What the engine may take to notice: the bar, with what a busy machine needs on top.
const IDLE: Duration = Duration::from_millis(300);

fn start(pace: Duration) -> Running {
    Setup { pace, ..Setup::default() }.start()
}

fn begin(server: &Running, body: &Value) -> TcpStream {
    let body = body.to_string();
    let headers = [("Content-Type", "application/json")];
    open(server.address, &request("POST", "/v1/chat/completions", &headers, body.as_bytes()))
}

fn long_answer(stream: bool) -> Value {
    // The fake may end an answer by a control token; these seeds are tried until one goes on.
    json!({"messages": [{"role": "user", "content": "go on"}], "stream": stream, "max_tokens": 1500, "temperature": 5, "top_k": 0, "top_p": 1})
}

/// A prompt of nearly the whole context.
fn long_prompt() -> Value {
    json!({"messages": [{"role": "user", "content": "x".repeat(CONTEXT - 200)}], "stream": true, "max_tokens": 4})
}

/// An answer that runs and does not end by itself in the next moment.
fn running(server: &Running, stream: bool) -> TcpStream {
    loop {
        let connection = begin(server, &long_answer(stream));
        let before = server.stats().completion_tokens;
        server.until("an answer runs", |stats| stats.running == 1 || stats.completion_tokens > before + 3);
        if server.stats().running == 1 {
            return connection;
        }
    }
}

#[test]
fn closing_a_stream_frees_its_slot() {
    let server = start(Duration::from_millis(10));
    for _ in 0..3 {
        let mut connection = running(&server, true);
        connection.read_exact(&mut [0; 16]).unwrap();
        drop(connection);
        let took = server.until("idle", |stats| stats.running == 0);
        assert!(took < IDLE, "{took:?}");
    }
}

#[test]
fn closing_a_request_without_a_stream_frees_its_slot() {
    let server = start(Duration::from_millis(10));
    let connection = running(&server, false);
    drop(connection);
    let took = server.until("idle", |stats| stats.running == 0);
    assert!(took < IDLE, "{took:?}");
}

#[test]
fn closing_during_prefill_of_a_full_context_frees_its_slot() {
    // Two seconds to read it all.
    let server = start(Duration::from_millis(1));
    let connection = begin(&server, &long_prompt());
    server.until("reading", |stats| stats.running == 1);
    drop(connection);
    let took = server.until("idle", |stats| stats.running == 0);
    assert!(took < IDLE, "{took:?}");
    assert_eq!(server.stats().cancelled, 1);
}

#[test]
fn a_client_that_closes_its_half_is_gone() {
    let server = start(Duration::from_millis(10));
    let connection = running(&server, true);
    connection.shutdown(Shutdown::Write).unwrap();
    let took = server.until("idle", |stats| stats.running == 0);
    assert!(took < IDLE, "{took:?}");
}

#[test]
fn a_reader_that_takes_nothing_is_left() {
    let limits = Connections { stalled: Duration::from_millis(500), ..Connections::default() };
    let server = Setup { limits, stored: true, context: 60_000, ..Setup::default() }.start();
    // More than sockets hold.
    for _ in 0..16 {
        let body = json!({"system_prompt": "x".repeat(900_000)});
        assert_eq!(post(server.address, "/api/conversations", &body).status, 201);
    }
    let connections: Vec<TcpStream> =
        (0..4).map(|_| open(server.address, &request("GET", "/api/export", &[], b""))).collect();
    let open_now = || {
        let metrics = get(server.address, "/metrics");
        let line = metrics.text().lines().find(|line| line.starts_with("casallm_connections ")).unwrap().to_owned();
        line.split(' ').nth(1).unwrap().parse::<u32>().unwrap()
    };
    let begun = Instant::now();
    // The one that asks is one of them.
    while open_now() < 5 {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    while open_now() > 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{}", open_now());
    }
    drop(connections);
}

#[test]
fn a_stop_lets_a_stream_end_and_takes_nothing_new() {
    let mut server = start(Duration::from_millis(5));
    let mut connection = begin(
        &server,
        &json!({"messages": [{"role": "user", "content": "go on"}], "stream": true, "max_tokens": 40, "temperature": 5, "top_k": 0, "top_p": 1}),
    );
    server.until("begun", |stats| stats.running == 1 || stats.finished == 1);
    server.stop();
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).unwrap();
    assert_eq!(parse(&bytes).events().last(), Some(&"[DONE]"));
    server.join();
    assert!(TcpStream::connect(server.address).is_err());
}

/// A client that hears nothing takes half an answer for a whole one.
#[test]
fn when_the_time_of_a_stop_is_up_whoever_waits_is_told() {
    for stream in [true, false] {
        // An answer that came to its end in the last moment is none that was cut.
        let cut_short = |_| {
            let mut server = start(Duration::from_millis(10));
            let mut connection = running(&server, stream);
            server.stop();
            server.enough();
            let mut bytes = Vec::new();
            connection.read_to_end(&mut bytes).unwrap();
            server.join();
            let response = parse(&bytes);
            let whole = if stream { response.events().last() == Some(&"[DONE]") } else { response.status == 200 };
            (!whole).then_some(response)
        };
        let response = (0..20).find_map(cut_short).expect("one that was cut");
        if !stream {
            assert_eq!(response.status, 503);
        }
        let error: Value = match stream {
            true => serde_json::from_str(response.events().last().expect("an event")).unwrap(),
            false => response.json(),
        };
        assert_eq!(error["error"]["code"], "shutting_down", "{error}");
    }
}

/// A server that is said to be ready is neither looked after nor started again.
#[test]
fn a_model_that_panics_is_told_of_by_every_answer_and_by_health() {
    for stream in [true, false] {
        let server = Setup { stored: true, panics_at: Some("z"), ..Setup::default() }.start();
        assert_eq!(get(server.address, "/health").json()["status"], "ready");
        let ask = |content: &str| {
            let messages = json!([{"role": "user", "content": content}]);
            post(server.address, "/v1/chat/completions", &json!({"messages": messages, "stream": stream}))
        };
        let cut_short = ask("z");
        let error = match stream {
            true => serde_json::from_str(cut_short.events().last().expect("an event")).unwrap(),
            false => cut_short.json(),
        };
        assert_eq!(error["error"]["code"], "model_broken", "{error}");
        let health = get(server.address, "/health");
        assert_eq!((health.status, &health.json()["status"]), (503, &json!("broken")));
        // Not 503: the page would try again for ever.
        let refused = ask("a");
        assert_eq!((refused.status, &refused.is_error()["code"]), (500, &json!("model_broken")));
        let conversation = post(server.address, "/api/conversations", &json!({})).json()["id"].clone();
        let path = format!("/api/conversations/{}/messages", conversation.as_str().unwrap());
        let refused = post(server.address, &path, &json!({"content": "a", "parent_id": null}));
        assert_eq!((refused.status, &refused.is_error()["code"]), (500, &json!("model_broken")));
        // What was said before can still be read and taken away.
        assert_eq!(get(server.address, "/api/export").status, 200);
    }
}
