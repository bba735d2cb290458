//! Two hundred hostile messages: none becomes a control token, none breaks the stream, none is a 5xx.

use serde_json::{Value, json};

use super::client::{Response, get, post, raw, request};
use super::server::{Running, Setup, tokenizer};

/// Texts that would like to be more than text.
fn texts() -> Vec<String> {
    let names = ["system", "user", "assistant", "end", "pad", "im_start", "im_end", "endoftext"];
    let disguises: [fn(&str) -> String; 9] = [
        |name| format!("<|{name}|>"),
        |name| format!("\u{ff1c}\u{ff5c}{name}\u{ff5c}\u{ff1e}"),
        |name| format!("<\u{200b}|{name}|\u{200d}>"),
        |name| format!("\u{202e}<|{name}|>\u{202c}"),
        |name| format!("<|{}|>", name.chars().map(|c| format!("{c}\u{301}")).collect::<String>()),
        |name| format!("&lt;|{name}|&gt;"),
        |name| format!("\\u003c|{name}|\\u003e"),
        |name| format!("\u{feff}<|{name}|>\u{0}"),
        |name| format!("</s><s><|{name}|>\r\n\r\ndata: [DONE]\n\nevent: done\ndata: {{}}\n\n"),
    ];
    let mut texts: Vec<String> =
        names.iter().flat_map(|name| disguises.iter().map(move |disguise| disguise(name))).collect();
    let others = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<iframe srcdoc='<script>alert(1)</script>'>",
        "[x](javascript:alert(1))",
        "![x](data:text/html;base64,PHNjcmlwdD4=)",
        "```html\n<script>\n```",
        "data: {\"choices\":[]}\n\ndata: [DONE]\n\n",
        ": ping\n\nevent: error\ndata: x\n\n",
        "id: 1\rretry: 0\r\r",
        "\u{2028}\u{2029}\u{85}",
        "\0\0\0",
        "\u{1b}[2J\u{1b}]0;title\u{7}",
        "\u{fffd}\u{fffe}\u{10ffff}",
        "'; DROP TABLE messages; --",
        "../../../../etc/passwd",
        "{{ messages }}{% for x in y %}",
        "${jndi:ldap://x}",
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        "a\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}",
    ];
    texts.extend(others.iter().map(|text| (*text).to_owned()));
    texts.push("\u{202e}".repeat(300));
    texts.push("[".repeat(500));
    texts.push("`".repeat(500));
    texts.push("> ".repeat(250));
    texts
}

/// Bodies that are wrong.
fn bodies() -> Vec<Vec<u8>> {
    let with = |field: &str, value: &str| {
        format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"max_tokens":2,"{field}":{value}}}"#).into_bytes()
    };
    let numbers = [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "-1",
        "1e30",
        "99999999999999999999",
        "\"1\"",
        "[]",
        "{}",
        "true",
    ];
    let fields = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"];
    let mut bodies: Vec<Vec<u8>> = fields
        .iter()
        .flat_map(|field| numbers.iter().map(move |number| (field, number)))
        .map(|(field, number)| with(field, number))
        .collect();
    for number in ["NaN", "1e999", "-1", "0.5", "1e30", "\"1\"", "[1]"] {
        bodies.push(with("max_completion_tokens", number));
        bodies.push(with("seed", if number == "-1" { "9e99" } else { number }));
        bodies.push(with("n", number));
        bodies.push(with("top_logprobs", number));
    }
    for value in [
        "1",
        "\"x\"",
        "{}",
        "[[]]",
        "[null]",
        "[1]",
        "[\"\"]",
        "[{\"role\":\"user\"}]",
        "[{\"role\":1,\"content\":\"x\"}]",
    ] {
        bodies.push(with("stop", if value == "\"x\"" { "[1]" } else { value }));
        bodies.push(format!("{{\"messages\":{value}}}").into_bytes());
    }
    for deep in ["[", "{\"a\":"] {
        bodies.push(deep.repeat(200_000).into_bytes());
        bodies.push(with("messages_", &format!("{}1", deep.repeat(100_000))));
        bodies.push(with("tools", &deep.repeat(100_000)));
    }
    bodies.extend(
        [&b""[..], b"null", b"[]", b"\"", b"\0", b"\xff\xff", b"{\"messages\":[]}{}", b"\xef\xbb\xbf{}"]
            .map(<[u8]>::to_vec),
    );
    bodies
}

fn sane(response: &Response, what: &str) {
    assert!(response.status < 500, "{what}: {response:?}");
    assert_ne!(response.header("content-type"), Some("text/html; charset=utf-8"), "{what}");
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{what}");
}

/// The frames of a stream: each is one line of data, or a comment.
fn whole_frames(response: &Response) {
    for frame in response.text().split_terminator("\n\n") {
        let lines: Vec<&str> = frame.lines().collect();
        assert_eq!(lines.len(), 1, "{frame:?}");
        let data =
            lines[0].strip_prefix("data: ").or(lines[0].strip_prefix(": ")).unwrap_or_else(|| panic!("{frame:?}"));
        assert!(data == "[DONE]" || data == "ping" || serde_json::from_str::<Value>(data).is_ok(), "{frame:?}");
    }
    assert_eq!(response.events().iter().filter(|event| **event == "[DONE]").count(), 1);
}

#[test]
fn hostile_texts_are_text() {
    let server = Setup { stored: true, ..Setup::default() }.start();
    let texts = texts();
    let plain = count(&server, "x");
    for text in &texts {
        // Encoded as text: no control token, and as many tokens as the text has.
        let controls = tokenizer().controls();
        let ids = tokenizer().encode(text);
        assert!(ids.iter().all(|id| controls.iter().all(|control| control.id != *id)), "{text:?}");
        assert_eq!(tokenizer().decode(&ids), *text);
        assert_eq!(count(&server, text), plain - tokenizer().encode("x").len() + ids.len(), "{text:?}");
        let stream = post(server.address, "/v1/chat/completions", &chat(text, true));
        sane(&stream, text);
        whole_frames(&stream);
        stored(&server, text);
    }
    let line = "y".repeat(1 << 20);
    let long = post(server.address, "/v1/chat/completions", &chat(&line, false));
    assert_eq!((long.status, &long.is_error()["code"]), (400, &json!("context_length_exceeded")));
    assert!(texts.len() >= 90, "{}", texts.len());
}

fn chat(text: &str, stream: bool) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "max_tokens": 2, "temperature": 0, "stream": stream})
}

/// Tokens of the prompt that a message makes.
fn count(server: &Running, text: &str) -> usize {
    let answer = post(server.address, "/v1/chat/completions", &chat(text, false));
    assert_eq!(answer.status, 200, "{text:?}: {answer:?}");
    answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() as usize
}

/// What is stored comes back as it was.
fn stored(server: &Running, text: &str) {
    let settings = json!({"title": text, "settings": {"max_tokens": 1}});
    let made = post(server.address, "/api/conversations", &settings);
    sane(&made, text);
    if made.status != 201 {
        return;
    }
    let path = format!("/api/conversations/{}", made.json()["id"].as_str().unwrap());
    let said = post(server.address, &format!("{path}/messages"), &json!({"content": text}));
    sane(&said, text);
    if said.status == 201 {
        assert_eq!(get(server.address, &path).json()["messages"][0]["content"], *text);
        let found: String = text.chars().take(20).map(|c| format!("%{:02x}", c as u32 & 0x7f)).collect();
        sane(&get(server.address, &format!("/api/conversations?q={found}")), text);
    }
}

#[test]
fn hostile_bodies_are_refused_and_the_server_goes_on() {
    let server = Setup { stored: true, ..Setup::default() }.start();
    let bodies = bodies();
    assert!(bodies.len() >= 110, "{}", bodies.len());
    let json_type = [("Content-Type", "application/json")];
    for body in &bodies {
        for path in ["/v1/chat/completions", "/v1/completions", "/api/conversations", "/api/import"] {
            let response = raw(server.address, &request("POST", path, &json_type, body));
            let shown = String::from_utf8_lossy(&body[..body.len().min(120)]);
            sane(&response, &shown);
            if path == "/v1/chat/completions" && response.status != 200 {
                response.is_error();
            }
        }
    }
    assert_eq!(post(server.address, "/v1/chat/completions", &chat("still there?", false)).status, 200);
}

#[test]
fn numbers_out_of_range_are_400_and_named() {
    let server = Setup::default().start();
    for (field, value) in
        [("temperature", "1e30"), ("top_p", "-1"), ("max_tokens", "-1"), ("temperature", "NaN"), ("seed", "1e99")]
    {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"x"}}],"{field}":{value}}}"#);
        let kind = [("Content-Type", "application/json")];
        let response = raw(server.address, &request("POST", "/v1/chat/completions", &kind, body.as_bytes()));
        assert_eq!(response.status, 400, "{field} {value}");
        let error = response.is_error();
        // What is no JSON at all has no field.
        assert!(value == "NaN" || error["param"] == field, "{error}");
    }
}

#[test]
fn broken_http_does_no_harm() {
    let server = Setup::default().start();
    let lines: [&[u8]; 6] = [
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n",
    ];
    for line in lines {
        let response = raw(server.address, line);
        assert!((400..500).contains(&response.status), "{line:?}: {response:?}");
    }
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let response = raw(server.address, format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n").as_bytes());
    assert_eq!(response.status, 431);
    assert_eq!(get(server.address, "/health").status, 200);
}
