//! Who may use the server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use casallm_serve::api::{Connections, Key, Options};
use serde_json::json;

use super::client::{get, parse, raw, request};
use super::server::Setup;

#[test]
fn every_route_but_the_page_wants_the_key() {
    let options = Options { key: Some(Key::new("0123456789").unwrap()), ..Options::default() };
    let server = Setup { options, ..Setup::default() }.start();
    for path in ["/v1/models", "/v1/chat/completions", "/api/config", "/metrics", "/openapi.json", "/nothing"] {
        let refused = get(server.address, path);
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.is_error()["code"], "invalid_api_key");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    for path in ["/", "/health"] {
        assert_eq!(get(server.address, path).status, 200, "{path}");
    }
    let with = |key: &str| {
        let value = format!("Bearer {key}");
        raw(server.address, &request("GET", "/v1/models", &[("Authorization", &value)], b"")).status
    };
    assert_eq!((with("0123456789"), with("0123456788"), with("")), (200, 401, 401));
}

#[test]
fn other_sites_and_rebound_names_are_refused() {
    let server = Setup::default().start();
    let ask = |headers: &[(&str, &str)]| raw(server.address, &request("GET", "/v1/models", headers, b"")).status;
    assert_eq!(ask(&[("Host", "evil.example")]), 403);
    assert_eq!(ask(&[("Origin", "http://evil.example")]), 403);
    assert_eq!(ask(&[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(ask(&[("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-origin")]), 200);
    let response = get(server.address, "/v1/models");
    assert!(!response.head.to_lowercase().contains("access-control"), "{}", response.head);
}

/// A proxy on this machine connects from this machine, for whomever.
#[test]
fn whom_a_proxy_speaks_for_is_not_taken_for_the_owner() {
    let start = |this_machine_alone| {
        Setup { options: Options { this_machine_alone, ..Options::default() }, ..Setup::default() }.start()
    };
    let ask = |server: &super::server::Running, headers: &[(&str, &str)]| {
        raw(server.address, &request("GET", "/api/config", headers, b""))
    };
    let server = start(true);
    let refused = ask(&server, &[("X-Forwarded-For", "203.0.113.9")]);
    let error = refused.is_error();
    assert_eq!((refused.status, &error["code"]), (403, &json!("forbidden_proxy")));
    assert!(error["message"].as_str().unwrap().contains("203.0.113.9"), "{error}");
    assert_eq!(ask(&server, &[]).status, 200);
    assert_eq!(ask(&server, &[("X-Forwarded-For", "127.0.0.1")]).status, 200);
    assert_eq!(ask(&start(false), &[("X-Forwarded-For", "203.0.113.9")]).status, 200);
}

#[test]
fn every_response_is_protected() {
    let server = Setup::default().start();
    for path in ["/", "/v1/models", "/nothing", "/health"] {
        let response = get(server.address, path);
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
        assert!(response.header("cache-control").is_some(), "{path}");
    }
}

#[test]
fn the_page_is_kept_by_its_etag_and_compressed_only_if_wanted() {
    let server = Setup::default().start();
    let page = get(server.address, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-encoding").is_none());
    let etag = page.header("etag").unwrap();
    let again = raw(server.address, &request("GET", "/", &[("If-None-Match", etag)], b""));
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(raw(server.address, &request("GET", "/", &[("If-None-Match", "\"other\"")], b"")).status, 200);
    let head = raw(server.address, &request("HEAD", "/", &[], b""));
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn a_client_that_asks_too_often_is_told_to_wait() {
    let options = Options { rate_limit: 5, ..Options::default() };
    let server = Setup { options, ..Setup::default() }.start();
    let statuses: Vec<u16> = (0..6).map(|_| get(server.address, "/v1/models").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    let refused = get(server.address, "/v1/models");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(refused.is_error()["code"], "rate_limit_exceeded");
    assert_eq!(get(server.address, "/health").status, 200);
}

#[test]
fn slow_heads_are_cut_off_and_connections_are_counted() {
    let limits = Connections { most: 2, head: Duration::from_millis(1500), stalled: Duration::from_secs(30) };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: loc").unwrap();
    let silent = TcpStream::connect(server.address).unwrap();
    // Both places are taken as soon as the server has seen the two.
    let begun = Instant::now();
    let refused = loop {
        let response = get(server.address, "/health");
        if response.status == 503 || begun.elapsed() > Duration::from_millis(1200) {
            break response;
        }
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(refused.is_error()["code"], "connections");
    // Nobody speaks, so both are closed, and there is room again.
    let mut rest = Vec::new();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() || parse(&rest).status == 408, "{rest:?}");
    drop(silent);
    while get(server.address, "/health").status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn a_server_without_its_model_says_so() {
    let server = Setup { loaded: false, ..Setup::default() }.start();
    let health = get(server.address, "/health");
    assert_eq!((health.status, health.json()), (503, json!({"status": "loading"})));
    let models = get(server.address, "/v1/models");
    assert_eq!((models.status, models.header("retry-after")), (503, Some("2")));
    assert_eq!(models.is_error()["code"], "loading");
    assert_eq!(get(server.address, "/").status, 200);
}
