//! A client that sends what it is told, byte by byte, and reads what comes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The data of each server-sent event.
    pub fn events(&self) -> Vec<&str> {
        self.text().lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// Expects an error in OpenAI's shape.
    pub fn is_error(&self) -> Value {
        let json = self.json();
        let error = &json["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{json}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{json}");
        error.clone()
    }
}

/// A connection on which a request was sent.
pub fn open(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that has refused already may not read to the end.
    let _ = stream.write_all(request);
    stream
}

/// Sends bytes and reads to the end of the connection.
pub fn raw(address: SocketAddr, request: &[u8]) -> Response {
    let mut stream = open(address, request);
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(!bytes.is_empty(), "{error} at {:?}", String::from_utf8_lossy(&request[..request.len().min(200)]));
    }
    parse(&bytes)
}

/// Head and body of a response.
pub fn parse(bytes: &[u8]) -> Response {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut response = Response { status, head, body: bytes[end + 4..].to_vec() };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunked(&response.body);
    }
    response
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        let from = end + 2;
        body.extend_from_slice(&bytes[from..(from + size).min(bytes.len())]);
        if size == 0 || from + size + 2 > bytes.len() {
            break;
        }
        bytes = &bytes[from + size + 2..];
    }
    body
}

/// A request's bytes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    [text.as_bytes(), body].concat()
}

/// `GET`.
pub fn get(address: SocketAddr, path: &str) -> Response {
    raw(address, &request("GET", path, &[], b""))
}

/// JSON with any method.
pub fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> Response {
    let body = body.to_string();
    raw(address, &request(method, path, &[("Content-Type", "application/json")], body.as_bytes()))
}

/// `POST` of JSON.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Response {
    send(address, "POST", path, body)
}
