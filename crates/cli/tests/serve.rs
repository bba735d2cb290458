//! `casallm serve`: the real binary, real sockets, real signals.
#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Finished, casallm, run, trained_folder};

/// A server that runs.
struct Serving {
    child: Child,
    out: BufReader<ChildStdout>,
    port: u16,
}

impl Serving {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut arguments = vec!["serve", "--model", "run/model", "--port", "0", "--json", "--device", "cpu"];
        arguments.extend(more);
        let mut command = casallm(folder, &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut serving = Serving { child, out, port: 0 };
        serving.port = serving.line("listening")["port"].as_u64().unwrap() as u16;
        serving.line("ready");
        serving
    }

    fn line(&mut self, event: &str) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(value["event"], event, "{value}");
        value
    }

    fn open(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let mut text = String::new();
        self.open(method, path, &body).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn signal(&self, signal: &str) {
        support::signal(&self.child, signal);
    }

    fn ended(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8})
}

#[test]
fn it_answers_and_ends_in_order() {
    let folder = trained_folder();
    for signal in ["TERM", "INT", "HUP"] {
        if signal == "HUP" && !support::hears_hangup() {
            println!("skipped: SIGHUP that is heard");
            continue;
        }
        let mut serving = Serving::start(folder.path(), &["--ephemeral"]);
        let (status, answer) = serving.ask("POST", "/v1/chat/completions", &chat("Who are you?"));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(serving.ask("GET", "/api/config", &Value::Null).1["storage"], "browser");
        assert_eq!(serving.ask("GET", "/api/conversations", &Value::Null).0, 404);
        serving.signal(signal);
        assert_eq!(serving.ended(), Some(0));
    }
}

/// Keys and values of 8 bits go to disk and come back as they were, and not to a server whose cache is another.
#[test]
fn a_cache_of_8_bits_outlives_the_server_and_serves_no_other() {
    let folder = trained_folder();
    // The model reads 56 tokens.
    let long = chat("Who are you, and where is the cat? Who are you?");
    let ask = |more: &[&str]| {
        let arguments = ["--ephemeral", "--cache-dir", "kv"];
        let mut serving = Serving::start(folder.path(), &[&arguments[..], more].concat());
        let (status, answer) = serving.ask("POST", "/v1/chat/completions", &long);
        assert_eq!(status, 200, "{answer}");
        serving.signal("TERM");
        assert_eq!(serving.ended(), Some(0));
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (answer["choices"][0]["message"]["content"].clone(), cached)
    };
    let small = ["--kv-cache", "q8"];
    let (first, nothing) = ask(&small);
    let (again, held) = ask(&small);
    assert!(nothing == 0 && held > 16, "{nothing} {held}");
    assert_eq!(first, again);
    assert_eq!(ask(&[]).1, 0, "rows of 8 bits are not rows of 16");
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = trained_folder();
    run(folder.path(), &["serve", "--model", "nothing", "--port", "0", "--ephemeral"]).refused(&["nothing"]);
    run(folder.path(), &["serve", "--model", "run/model", "--host", "0.0.0.0"]).refused(&[
        "--host",
        "--api-key-file",
        "--public",
    ]);
    let serving = Serving::start(folder.path(), &["--ephemeral"]);
    let port = serving.port.to_string();
    run(folder.path(), &["serve", "--model", "run/model", "--port", &port, "--ephemeral"]).refused(&["--port", &port]);
    std::fs::write(folder.path().join("key"), "short\n").unwrap();
    run(folder.path(), &["serve", "--model", "run/model", "--api-key-file", "key", "--port", "0"]).refused(&["key"]);
}

#[test]
fn a_context_that_the_model_does_not_have_is_said_not_to_be_there() {
    let folder = trained_folder();
    let arguments = ["serve", "--model", "run/model", "--port", "0", "--device", "cpu", "--ephemeral", "--context"];
    for (context, said) in [("64", false), ("65", true)] {
        let mut command = casallm(folder.path(), &[&arguments[..], &[context]].concat());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        while !told.contains("is ready") {
            assert!(lines.read_line(&mut told).unwrap() > 0, "{told}");
        }
        support::signal(&child, "TERM");
        child.wait().unwrap();
        assert_eq!(told.contains("--context 65: the model has learned to read 64"), said, "{told}");
    }
}

/// Without a key whoever comes could read and delete what the owner has said to the model.
#[test]
fn the_owners_conversations_are_not_served_to_everybody() {
    let folder = trained_folder();
    // Refused before the model is looked for; nothing is written into the user's data folder.
    let arguments = ["serve", "--model", "nothing", "--port", "0", "--public"];
    let mut command = casallm(folder.path(), &arguments);
    let finished = Finished::of("serve --public", &command.env("XDG_DATA_HOME", folder.path()).output().unwrap());
    finished.refused(&["--public", "conversations", "add --ephemeral", "--db FILE"]);
    assert!(!folder.path().join("casallm").exists());
    let help = run(folder.path(), &["serve", "--help"]).succeeded().stdout;
    assert_eq!(help.matches("share one list of conversations").count(), 3, "{help}");
    let mut serving = Serving::start(folder.path(), &["--public", "--db", "everybodys.db"]);
    assert_eq!(serving.ask("GET", "/api/conversations", &Value::Null).0, 200);
    serving.signal("TERM");
    assert_eq!(serving.ended(), Some(0));
}

/// Kill -9 while fifty answers stream: the database opens clean, and what had been finished is there.
#[test]
fn killed_during_fifty_streams_it_keeps_every_finished_message() {
    let folder = trained_folder();
    let database = ["--db", "chats.db"];
    let serving = Serving::start(folder.path(), &database);
    let mut finished = Vec::new();
    for n in 0..5 {
        let (_, conversation) = serving.ask("POST", "/api/conversations", &json!({"settings": {"max_tokens": 4}}));
        let path = format!("/api/conversations/{}", conversation["id"].as_str().unwrap());
        let (status, said) =
            serving.ask("POST", &format!("{path}/messages"), &json!({"content": format!("number {n}")}));
        assert_eq!(status, 201, "{said}");
        let events = format!("/api/messages/{}/events", said["assistant"]["id"].as_str().unwrap());
        let mut text = String::new();
        serving.open("GET", &events, "").read_to_string(&mut text).unwrap();
        assert!(text.contains("event: done"), "{text}");
        finished.push((path.clone(), serving.ask("GET", &path, &Value::Null).1["messages"].clone()));
    }
    let settings = json!({"settings": {"temperature": 5, "top_k": 0, "top_p": 1}});
    let mut open = Vec::new();
    let mut begun = Vec::new();
    for _ in 0..50 {
        let (_, conversation) = serving.ask("POST", "/api/conversations", &settings);
        let path = format!("/api/conversations/{}", conversation["id"].as_str().unwrap());
        let (status, said) = serving.ask("POST", &format!("{path}/messages"), &json!({"content": "go on and on"}));
        assert_eq!(status, 201, "{said}");
        let events = format!("/api/messages/{}/events", said["assistant"]["id"].as_str().unwrap());
        open.push(serving.open("GET", &events, ""));
        begun.push((path, said["user"].clone()));
    }
    serving.signal("KILL");
    drop(serving);

    let serving = Serving::start(folder.path(), &database);
    for (path, messages) in finished {
        assert_eq!(serving.ask("GET", &path, &Value::Null).1["messages"], messages);
    }
    for (path, user) in begun {
        let messages = serving.ask("GET", &path, &Value::Null).1["messages"].clone();
        assert_eq!(messages[0], user);
        let status = messages[1]["status"].as_str().unwrap();
        assert!(status != "running", "{messages}");
    }
}

/// Beside weights and caches the process takes less than 50 MB.
#[cfg(target_os = "linux")]
#[test]
fn idle_it_takes_little_memory() {
    let folder = trained_folder();
    let serving = Serving::start(folder.path(), &["--db", "chats.db"]);
    assert_eq!(serving.ask("POST", "/v1/chat/completions", &chat("Hello")).0, 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    // This model's weights and caches are less than one of them.
    println!("idle: {kilobytes} kB");
    assert!(kilobytes < 51_000, "{line}");
}

#[test]
fn the_space_starts_with_arguments_that_exist() {
    let folder = trained_folder();
    let space = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for file in ["Dockerfile", "deploy/space/Dockerfile"] {
        let text = std::fs::read_to_string(space.join(file)).unwrap();
        let starts = |line: &&str| line.starts_with("CMD") || line.starts_with("ENTRYPOINT");
        let line = text.lines().find(|line| starts(line) && line.contains("--model")).unwrap();
        let flags: Vec<&str> =
            line.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(|word| word.starts_with("--")).collect();
        assert!(flags.contains(&"--model"), "{line}");
        let help = run(folder.path(), &["serve", "--help"]).succeeded().stdout;
        for flag in flags {
            assert!(help.contains(flag), "{file}: {flag}");
        }
        assert!(text.contains("USER 1000") || text.contains("USER casallm"), "{file}");
    }
}

/// A response's body over a connection of its own.
fn fetched(url: &str) -> Value {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap_or(Value::Null)
}

/// Lines of a training command up to the first event of a kind.
fn until(out: &mut impl BufRead, event: &str) -> Value {
    for line in out.lines() {
        let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if value["event"] == event {
            return value;
        }
    }
    panic!("it ended without the event {event}");
}

#[test]
fn a_run_is_watched_while_it_is_trained_and_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    support::write_inputs(folder.path());
    let long = ["pretrain", "tiny.toml", "--device", "cpu", "--set", "pretrain.steps=1000000", "--json", "--watch"];
    let mut child = casallm(folder.path(), &long).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let url = until(&mut out, "dashboard")["url"].as_str().unwrap().to_owned();
    // Its lines are taken, so that it does not wait for us.
    let reading = std::thread::spawn(move || out.lines().map_while(Result::ok).count());
    let begun = Instant::now();
    let api = url.replace("/runs/", "/api/runs");
    let run_of = || fetched(&api)["runs"][0].clone();
    while run_of()["latest"]["step"].as_u64().unwrap_or(0) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", run_of());
    }
    let seen = run_of();
    assert_eq!((&seen["running"], &seen["name"]), (&json!(true), &json!("run")), "{seen}");
    let watching = run(folder.path(), &["watch", "run", "--json"]).succeeded();
    let state: Value = serde_json::from_str(&watching.stdout).unwrap();
    assert_eq!((&state["state"], &state["stage"]), (&json!("training"), &json!("pretrain")), "{state}");
    support::signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(reading.join().unwrap() > 3);
    // Without a terminal, once, in words.
    let told = run(folder.path(), &["watch", "run"]).succeeded().stdout;
    assert!(told.contains("pretrain") && told.contains("step ") && !told.contains('\u{1b}'), "{told}");
    run(folder.path(), &["watch", "run", "--stage", "sft"]).refused(&["--stage sft", "pretrain"]);
    run(folder.path(), &["watch", "nothing"]).refused(&["nothing", "metrics.jsonl"]);
}

#[test]
fn a_dashboard_that_cannot_be_shown_stops_no_training() {
    let folder = tempfile::tempdir().unwrap();
    support::write_inputs(folder.path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let short = ["pretrain", "tiny.toml", "--device", "cpu", "--set", "pretrain.steps=2", "--watch-port", &port];
    let trained = run(folder.path(), &short).succeeded();
    assert!(trained.stderr.contains("goes on without it") && trained.stderr.contains(&port), "{trained:#?}");
}

#[test]
fn runs_are_served_without_a_model_and_beside_one() {
    let folder = trained_folder();
    let out = |arguments: &[&str]| {
        let mut child = casallm(folder.path(), arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let url = until(&mut out, "dashboard")["url"].as_str().unwrap().to_owned();
        until(&mut out, "ready");
        (Serving { child, out, port: 0 }, url.replace("/runs/", "/api/runs"))
    };
    let (mut alone, url) = out(&["serve", "--runs", ".", "--port", "0", "--json"]);
    let list = fetched(&url);
    assert_eq!(
        (&list["chat"], &list["runs"][0]["name"], &list["runs"][0]["running"]),
        (&json!(false), &json!("run"), &json!(false))
    );
    assert_eq!(list["runs"][0]["latest"]["stage"], "sft");
    alone.signal("TERM");
    assert_eq!(alone.ended(), Some(0));
    let both =
        ["serve", "--runs", "run", "--model", "run/model", "--port", "0", "--json", "--device", "cpu", "--ephemeral"];
    let (_both, url) = out(&both);
    assert_eq!(fetched(&url)["chat"], true);
    assert_eq!(run(folder.path(), &["serve"]).code, Some(2));
    run(folder.path(), &["serve", "--runs", "tiny.toml"]).refused(&["--runs tiny.toml", "a file"]);
}
