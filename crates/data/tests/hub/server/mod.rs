//! A Hub that misbehaves on purpose: the API on one port, the files of LFS on another, as on the real Hub's CDN.
//!
//! What it does wrong is a function of the seed, the file and the number of the request for that file, whatever the order
//! in which threads ask. Everything that was asked for stands in its log.

// Each test binary uses its part.
#![allow(dead_code, unused_imports)]

mod setup;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
pub use setup::{Contents, Fault, File, Setup, Weather, mix};

pub const REPOSITORY: &str = "ada/poems";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const CONVERTED: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// A request for a body, and what it got.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who asked, where that was said.
    pub token: Option<String>,
    pub path: String,
    pub from: u64,
    /// Bytes of the file that were sent.
    pub sent: u64,
}

#[derive(Default)]
struct Log {
    /// (Hub or CDN, path, Authorization) of each request.
    asked: Vec<(bool, String, Option<String>)>,
    bodies: Vec<Seen>,
    requests: HashMap<String, usize>,
    /// Who asked, by file and number of the request.
    tokens: HashMap<(usize, usize), Option<String>>,
}

/// What has to happen until something is done.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// So many more requests have come.
    Asked(u64),
    /// So many more bytes of files were sent.
    Sent(u64),
}

type Then = Box<dyn FnOnce() + Send>;

struct State {
    setup: Setup,
    hashes: Vec<(String, String)>,
    log: Mutex<Log>,
    awaited: Mutex<Option<(Until, Then)>>,
    closed: AtomicBool,
    home: u16,
    cdn: u16,
}

impl State {
    /// Counts what has happened.
    fn happened(&self, requests: u64, bytes: u64) {
        let mut awaited = self.awaited.lock().unwrap();
        let come = match &mut *awaited {
            Some((Until::Asked(left), _)) => {
                *left = left.saturating_sub(requests);
                *left == 0
            }
            Some((Until::Sent(left), _)) => {
                *left = left.saturating_sub(bytes);
                *left == 0
            }
            None => false,
        };
        if let Some((_, then)) = awaited.take_if(|_| come) {
            then();
        }
    }
}

/// It runs until it is dropped.
pub struct Server(Arc<State>);

impl Server {
    pub fn start(setup: Setup) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (home, cdn) = (listen(), listen());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            hashes: setup.files.iter().map(|file| file.contents.hashes()).collect(),
            home: port(&home),
            cdn: port(&cdn),
            setup,
            log: Mutex::default(),
            awaited: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        for (listener, at_home) in [(home, true), (cdn, false)] {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if state.closed.load(Ordering::Relaxed) {
                        return;
                    }
                    let (state, stream) = (Arc::clone(&state), stream.unwrap());
                    // Whatever the client does to a connection ends only that connection.
                    thread::spawn(move || serve(&state, stream, at_home));
                }
            });
        }
        Server(state)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.home)
    }

    pub fn file(&self, path: &str) -> &File {
        self.0.setup.files.iter().find(|file| file.path == path).unwrap()
    }

    /// The hash by which the listing names a file.
    pub fn id(&self, path: &str) -> &str {
        let at = self.0.setup.files.iter().position(|file| file.path == path).unwrap();
        if self.0.setup.files[at].lfs { &self.0.hashes[at].0 } else { &self.0.hashes[at].1 }
    }

    /// Requests for bodies, in the order in which they ended.
    pub fn bodies(&self) -> Vec<Seen> {
        self.0.log.lock().unwrap().bodies.clone()
    }

    /// (Hub or CDN, path, Authorization) of each request.
    pub fn asked(&self) -> Vec<(bool, String, Option<String>)> {
        self.0.log.lock().unwrap().asked.clone()
    }

    /// Does something once, while whoever asks waits for what comes next.
    pub fn when(&self, until: Until, then: impl FnOnce() + Send + 'static) {
        *self.0.awaited.lock().unwrap() = Some((until, Box::new(then)));
    }

    /// Takes back what [`Server::when`] was given, if it was not done.
    pub fn never(&self) {
        *self.0.awaited.lock().unwrap() = None;
    }

    /// Forgets what was asked, but not how often a file was.
    pub fn forget(&self) {
        let mut log = self.0.log.lock().unwrap();
        log.asked.clear();
        log.bodies.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        for port in [self.0.home, self.0.cdn] {
            let _ = TcpStream::connect(("127.0.0.1", port));
        }
    }
}

struct Asked {
    path: String,
    query: String,
    headers: HashMap<String, String>,
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Asked { path: path.to_owned(), query: query.to_owned(), headers })
}

fn serve(state: &State, stream: TcpStream, home: bool) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(&mut reader) {
        let authorization = asked.headers.get("authorization").cloned();
        state.log.lock().unwrap().asked.push((home, asked.path.clone(), authorization));
        state.happened(1, 0);
        let api = format!("/api/datasets/{REPOSITORY}/");
        let resolve = format!("/datasets/{REPOSITORY}/resolve/");
        if let Some(rest) = asked.path.strip_prefix(&api).filter(|_| home) {
            api_answer(state, rest, &asked.query, &mut writer)?;
        } else if let Some(rest) = asked.path.strip_prefix(&resolve).filter(|_| home) {
            let (commit, path) = rest.split_once('/')?;
            let path = percent_encoding::percent_decode_str(path).decode_utf8().ok()?;
            let of = |file: &File| file.path == path && commit == if file.converted { CONVERTED } else { COMMIT };
            match state.setup.files.iter().position(of) {
                Some(at) => resolve_answer(state, at, &asked, &mut reader, &mut writer)?,
                None => error(&mut writer, 404, "X-Error-Message: Entry not found\r\n")?,
            }
        } else if let Some(at) = asked.path.strip_prefix("/blob/").and_then(|at| at.parse().ok()).filter(|_| !home) {
            let count = asked.query.split_once("n=").and_then(|(_, n)| n.parse().ok())?;
            body(state, at, count, &asked, &mut writer)?;
        } else {
            error(&mut writer, 404, "X-Error-Message: Repository not found\r\n")?;
        }
    }
    Some(())
}

fn error(writer: &mut TcpStream, status: u16, headers: &str) -> Option<()> {
    let body = "{\"error\":\"as a test wants it\"}";
    write!(writer, "HTTP/1.1 {status} No\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).ok()
}

fn json_answer(writer: &mut TcpStream, headers: &str, value: &Value) -> Option<()> {
    let body = value.to_string();
    write!(writer, "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).ok()
}

fn api_answer(state: &State, rest: &str, query: &str, writer: &mut TcpStream) -> Option<()> {
    if let Some(revision) = rest.strip_prefix("revision/") {
        let commit = match revision {
            "main" | COMMIT => COMMIT,
            "refs%2Fconvert%2Fparquet" | CONVERTED if state.setup.files.iter().any(|file| file.converted) => CONVERTED,
            _ => return error(writer, 404, "X-Error-Message: Revision not found\r\n"),
        };
        let card = json!({ "license": "cc0-1.0", "configs": state.setup.configs });
        return json_answer(writer, "", &json!({ "id": REPOSITORY, "sha": commit, "cardData": card }));
    }
    let commit = rest.strip_prefix("tree/")?;
    let files: Vec<(usize, &File)> = state.setup.files.iter().enumerate().collect();
    let files: Vec<_> = files.into_iter().filter(|(_, file)| file.converted == (commit == CONVERTED)).collect();
    let from: usize = query.split('&').find_map(|part| part.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
    let entry = |(at, file): &(usize, &File)| {
        let size = match file.fault {
            Some(Fault::ListedSize(size)) => size,
            _ => file.contents.size(),
        };
        let (sha256, git) = &state.hashes[*at];
        match file.lfs {
            true => json!({
                "type": "file", "path": file.path, "size": size, "oid": "a".repeat(40),
                "lfs": { "oid": sha256, "size": size, "pointerSize": 130 },
            }),
            false => json!({ "type": "file", "path": file.path, "size": size, "oid": git }),
        }
    };
    let mut entries: Vec<Value> = files.iter().skip(from).take(state.setup.page).map(entry).collect();
    if from == 0 {
        entries.push(json!({ "type": "directory", "path": "data", "size": 0, "oid": "b".repeat(40) }));
    }
    let next = from + state.setup.page;
    let link = match next < files.len() {
        true => {
            let port = state.home;
            format!(
                "Link: <http://127.0.0.1:{port}/api/datasets/{REPOSITORY}/tree/{commit}?recursive=true&cursor={next}>; rel=\"next\"\r\n"
            )
        }
        false => String::new(),
    };
    json_answer(writer, &link, &Value::Array(entries))
}

fn resolve_answer(
    state: &State,
    at: usize,
    asked: &Asked,
    reader: &mut BufReader<TcpStream>,
    writer: &mut TcpStream,
) -> Option<()> {
    let file = &state.setup.files[at];
    let token = asked.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let count = {
        let mut log = state.log.lock().unwrap();
        let requests = log.requests.entry(file.path.clone()).or_default();
        *requests += 1;
        let count = *requests - 1;
        log.tokens.insert((at, count), token);
        count
    };
    let draw = draws(state, file, count, 1);
    let weather = state.setup.weather;
    match file.fault {
        Some(Fault::Status(status)) => return error(writer, status, "X-Error-Message: as a test wants it\r\n"),
        Some(Fault::StatusFirst(status, first, after)) if count < first => {
            return error(writer, status, &format!("Retry-After: {after}\r\n"));
        }
        Some(Fault::EndlessRedirect) => {
            let location = format!("Location: {}?again\r\n", asked.path);
            return error(writer, 302, &location);
        }
        Some(Fault::Silent) => {
            let _ = reader.read(&mut [0]);
            return None;
        }
        _ if draw[0] < weather.busy => return error(writer, 429, "Retry-After: 0\r\n"),
        _ if draw[1] < weather.broken => return error(writer, 500, ""),
        _ => {}
    }
    if !file.lfs {
        return body(state, at, count, asked, writer);
    }
    let (sha256, size) = match file.fault {
        Some(Fault::Changes(after)) if count >= after => ("c".repeat(64), file.contents.size()),
        _ => (state.hashes[at].0.clone(), file.contents.size()),
    };
    let commit = if file.converted { CONVERTED } else { COMMIT };
    write!(
        writer,
        "HTTP/1.1 302 Found\r\nX-Linked-Etag: \"{sha256}\"\r\nX-Linked-Size: {size}\r\nX-Repo-Commit: {commit}\r\n\
         Location: http://127.0.0.1:{}/blob/{at}?n={count}\r\nContent-Length: 0\r\n\r\n",
        state.cdn
    )
    .ok()
}

/// Numbers below 1000 for a request.
fn draws(state: &State, file: &File, count: usize, salt: u64) -> [u64; 4] {
    let name = file.path.bytes().fold(state.setup.seed, |hash, byte| mix(hash ^ u64::from(byte)));
    std::array::from_fn(|i| mix(name ^ mix(count as u64) ^ mix(salt * 100 + i as u64)) % 1000)
}

fn body(state: &State, at: usize, count: usize, asked: &Asked, writer: &mut TcpStream) -> Option<()> {
    let file = &state.setup.files[at];
    let (fault, weather) = (file.fault, state.setup.weather);
    let draw = draws(state, file, count, 2);
    let changed = matches!(fault, Some(Fault::Changes(after) | Fault::ChangesQuietly(after)) if count >= after);
    if matches!(fault, Some(Fault::Expired(first)) if count < first) {
        return error(writer, 403, "");
    }
    let contents = match (&file.contents, changed) {
        (Contents::Made { seed, size }, true) => Contents::Made { seed: seed + 1000, size: *size },
        (contents, _) => contents.clone(),
    };
    let etag = match file.lfs {
        true => format!("\"cdn-{at}-{changed}\""),
        false => format!("\"{}\"", state.hashes[at].1),
    };
    let size = contents.size();
    let range =
        asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let same = asked.headers.get("if-range").is_none_or(|condition| *condition == etag);
    let ranges = !matches!(fault, Some(Fault::NoRanges(_))) && draw[0] >= weather.no_range;
    let from: u64 = range.filter(|_| same && ranges).unwrap_or(0);
    let (mut until, mut length) = (size, Some(size - from));
    match fault {
        Some(Fault::Changes(_) | Fault::ChangesQuietly(_)) if !changed => until = from + (size - from) / 2,
        Some(Fault::CutAfter(bytes)) => until = size.min(from + bytes),
        Some(Fault::NoRanges(first)) if count < first => until = size / 2 + count as u64,
        Some(Fault::Length(bytes)) => length = Some(bytes),
        Some(Fault::TooLong | Fault::NoLength) => length = None,
        _ => {}
    }
    if draw[1] < weather.cut {
        until = from + mix(draws(state, file, count, 3)[0] + count as u64) % (size - from).max(1);
    } else if draw[2] < weather.wrong_length {
        length = length.map(|length| length.saturating_sub(7));
    }
    let wrong = match fault {
        Some(Fault::Corrupt(first)) => count < first,
        _ => draw[3] < weather.corrupt,
    };
    let partial = range.is_some() && same && ranges;
    let mut head = format!("HTTP/1.1 {}\r\nETag: {etag}\r\n", if partial { "206 Partial Content" } else { "200 OK" });
    if !file.lfs {
        head += &format!("X-Repo-Commit: {}\r\n", if file.converted { CONVERTED } else { COMMIT });
    }
    if partial {
        let said = if fault == Some(Fault::WrongRange) { from / 2 } else { from };
        head += &format!("Content-Range: bytes {said}-{}/{size}\r\n", size - 1);
    }
    match length {
        Some(length) => head += &format!("Content-Length: {length}\r\n\r\n"),
        None => head += "Connection: close\r\n\r\n",
    }
    writer.write_all(head.as_bytes()).ok()?;
    let mut sent = from;
    let mut buffer = vec![0; 1 << 16];
    let mut failed = false;
    while sent < until && !failed {
        let piece = &mut buffer[..(until - sent).min(1 << 16) as usize];
        contents.fill(sent, piece);
        if wrong && sent == from {
            piece[0] ^= 1;
        }
        failed = writer.write_all(piece).is_err();
        sent += piece.len() as u64;
        state.happened(0, piece.len() as u64);
    }
    {
        let mut log = state.log.lock().unwrap();
        let token = log.tokens.get(&(at, count)).cloned().flatten();
        log.bodies.push(Seen { token, path: file.path.clone(), from, sent: sent - from });
    }
    if fault == Some(Fault::TooLong) {
        writer.write_all(b"more").ok()?;
    }
    // What was not whole, or has no end by itself, ends with the connection.
    (!failed && length == Some(until - from)).then_some(())
}
