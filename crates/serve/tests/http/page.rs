//! The page's routes: a conversation from its beginning to its end.

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{get, open, post, raw, request, send};
use super::server::{Running, Setup};

fn start() -> Running {
    Setup { stored: true, ..Setup::default() }.start()
}

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// The answer's last event.
fn heard(server: &Running, answer: &str) -> (Vec<String>, Value) {
    let response = get(server.address, &format!("/api/messages/{answer}/events"));
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"), "{response:?}");
    let names = response.text().lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect();
    (names, serde_json::from_str(response.events().last().unwrap()).unwrap())
}

#[test]
fn a_conversation_is_kept_listed_branched_and_deleted() {
    let server = start();
    let made = post(server.address, "/api/conversations", &json!({"settings": {"temperature": 0, "max_tokens": 9}}));
    assert_eq!(made.status, 201, "{made:?}");
    let conversation = id(&made.json());
    let path = format!("/api/conversations/{conversation}");
    let said = post(
        server.address,
        &format!("{path}/messages"),
        &json!({"parent_id": null, "content": "Where is the house?"}),
    );
    assert_eq!(said.status, 201, "{said:?}");
    let (user, answer) = (id(&said.json()["user"]), id(&said.json()["assistant"]));
    let (names, done) = heard(&server, &answer);
    assert_eq!((names[0].as_str(), names.last().unwrap().as_str()), ("snapshot", "done"));
    assert_eq!((id(&done), done["parent_id"].as_str()), (answer.clone(), Some(user.as_str())));
    assert!(done["usage"]["prompt_tokens"].as_u64().unwrap() > 0, "{done}");

    let again = post(server.address, &format!("/api/messages/{answer}/regenerate"), &json!({}));
    assert_eq!(again.status, 201, "{again:?}");
    let other = id(&again.json()["assistant"]);
    let (_, second) = heard(&server, &other);
    assert_eq!(second["content"], done["content"], "greedy answers repeat");
    let stopped = post(server.address, &format!("/api/messages/{other}/stop"), &json!({}));
    assert_eq!((stopped.status, stopped.json()), (200, second));

    let tree = get(server.address, &path).json();
    assert_eq!(tree["messages"].as_array().unwrap().len(), 3);
    assert_eq!(tree["conversation"]["leaf_id"], other);
    let patched = send(server.address, "PATCH", &path, &json!({"title": "House", "leaf_id": answer}));
    assert_eq!((&patched.json()["title"], &patched.json()["leaf_id"]), (&json!("House"), &json!(answer)));
    let list = get(server.address, "/api/conversations?q=house").json();
    assert_eq!(list["conversations"][0]["id"], conversation);
    assert_eq!(get(server.address, "/api/conversations?q=nowhere").json()["conversations"], json!([]));

    let file = get(server.address, &format!("{path}/export?format=json"));
    assert!(file.header("content-disposition").unwrap().starts_with("attachment"));
    let imported = post(server.address, "/api/import", &file.json());
    assert_eq!(imported.json()["imported"], 1, "{imported:?}");
    let markdown = get(server.address, &format!("{path}/export?format=markdown"));
    assert!(markdown.text().contains("Where is the house?"));
    assert_eq!(get(server.address, "/api/export").json()["conversations"].as_array().unwrap().len(), 2);

    let gone = raw(server.address, &request("DELETE", &path, &[], b""));
    assert_eq!(gone.status, 204);
    assert_eq!(get(server.address, &path).is_error()["code"], "not_found");
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let server = start();
    let conversation = id(&post(server.address, "/api/conversations", &json!({})).json());
    let path = format!("/api/conversations/{conversation}");
    let cases = [
        ("PATCH", path.clone(), json!({"settings": {"temperature": 9}}), 400),
        ("PATCH", path.clone(), json!({"settings": {"temperature": "hot"}}), 400),
        ("PATCH", path.clone(), json!({"title": ""}), 400),
        ("PATCH", path.clone(), json!({"leaf_id": "none"}), 404),
        ("POST", format!("{path}/messages"), json!({"content": ""}), 400),
        ("POST", format!("{path}/messages"), json!({"content": "x".repeat(2 << 20)}), 400),
        ("POST", format!("{path}/messages"), json!({"parent_id": "none", "content": "x"}), 404),
        ("POST", "/api/conversations/none/messages".to_owned(), json!({"content": "x"}), 404),
        ("POST", "/api/messages/none/regenerate".to_owned(), json!({}), 404),
        ("POST", "/api/messages/none/stop".to_owned(), json!({}), 404),
        ("POST", "/api/import".to_owned(), json!({"format": "other"}), 400),
        ("GET", "/api/messages/none/events".to_owned(), json!({}), 404),
        ("GET", "/api/conversations?cursor=wrong".to_owned(), json!({}), 400),
        ("GET", "/api/conversations?limit=many".to_owned(), json!({}), 400),
        ("GET", format!("{path}/export?format=pdf"), json!({}), 400),
    ];
    for (method, path, body, status) in cases {
        let response = send(server.address, method, &path, &body);
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        response.is_error();
    }
}

#[test]
fn the_page_is_told_what_it_has_to_know() {
    let config = get(start().address, "/api/config").json();
    assert_eq!(
        (&config["storage"], &config["auth"], &config["model"]["id"]),
        (&json!("server"), &json!(false), &json!("fake"))
    );
    assert_eq!(config["bounds"]["temperature"], json!([0.0, 5.0]));
    assert!(config["limits"]["message_bytes"].as_u64().unwrap() > 1000);
    let ephemeral = Setup::default().start();
    assert_eq!(get(ephemeral.address, "/api/config").json()["storage"], "browser");
}

#[test]
fn an_answer_that_nobody_hears_pauses_and_goes_on() {
    let server = Setup { stored: true, pace: Duration::from_millis(10), ..Setup::default() }.start();
    let settings = json!({"settings": {"temperature": 5, "top_k": 0, "top_p": 1, "max_tokens": 1500}});
    let conversation = id(&post(server.address, "/api/conversations", &settings).json());
    let path = format!("/api/conversations/{conversation}/messages");
    // The fake ends some answers at once.
    let answer = loop {
        let said = post(server.address, &path, &json!({"parent_id": null, "content": "go on"})).json();
        let answer = id(&said["assistant"]);
        let mut listener = open(server.address, &request("GET", &format!("/api/messages/{answer}/events"), &[], b""));
        listener.read_exact(&mut [0; 64]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        if server.stats().running == 1 {
            drop(listener);
            break answer;
        }
    };
    let took = server.until("idle", |stats| stats.running == 0);
    assert!(took < Duration::from_millis(300), "{took:?}");
    let mut listener = open(server.address, &request("GET", &format!("/api/messages/{answer}/events"), &[], b""));
    listener.read_exact(&mut [0; 64]).unwrap();
    let stopped = post(server.address, &format!("/api/messages/{answer}/stop"), &json!({})).json();
    assert!(["stopped", "complete"].contains(&stopped["status"].as_str().unwrap()), "{stopped}");
}
