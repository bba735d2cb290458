//! From a socket to the router: how many connections, how long each may be silent, and how they end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::guard::Peer;
use super::server::Server;
use super::stall::Unstalled;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// Open at once; more are told 503 and closed.
    pub most: usize,
    /// For a request's head, and for silence between requests.
    pub head: Duration,
    /// For a reader that takes nothing, and for a peer that is gone without a word.
    pub stalled: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Connections { most: 512, head: Duration::from_secs(15), stalled: Duration::from_secs(30) }
    }
}

/// Bytes of a request's head, and of what is held for a reader that is behind.
const BUFFER: usize = 64 << 10;
/// For what is on its way when the time is up.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// For whoever is turned away.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n\
    connection: close\r\ncontent-length: 120\r\n\r\n\
    {\"error\":{\"message\":\"too many connections: try again in 5 s\",\"type\":\"server_error\",\"param\":null,\"code\":\"connections\"}}  ";

/// Serves until `stop` is done; then takes no more connections, lets requests that have begun go on until `enough` is
/// done, tells those that still wait for an answer that there will be none, and closes what is left.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    server: Arc<Server>,
    limits: Connections,
    stop: impl Future<Output = ()>,
    enough: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(limits.most));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that was reset before it was taken is its own affair. Without file descriptors only
                // time helps.
                if !is_of_the_connection(&error) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            server.metrics.connections_refused.inc();
            connections.spawn(turn_away(stream));
            continue;
        };
        let (router, server, watcher) = (router.clone(), server.clone(), graceful.watcher());
        connections.spawn(async move {
            server.metrics.connections.inc();
            attend(stream, peer, router, limits, watcher).await;
            server.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    let all_ended = graceful.shutdown();
    tokio::pin!(all_ended);
    tokio::select! {
        () = &mut all_ended => {}
        () = enough => {
            // Half an answer whose connection just ends would pass for a whole one.
            if let Some(loaded) = server.model() {
                loaded.bot.engine().cut_off();
            }
            // What has just been ended is still on its way.
            let _ = tokio::time::timeout(LAST_WORDS, all_ended).await;
        }
    }
    connections.shutdown().await;
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// One connection to its end.
async fn attend(stream: TcpStream, peer: SocketAddr, router: Router, limits: Connections, watcher: Watcher) {
    // Without them the connection works too, only worse.
    let _ = tune(&stream, limits.stalled);
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        request
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(BUFFER).max_headers(64);
    let io = TokioIo::new(Unstalled::new(stream, limits.stalled));
    let connection = builder.serve_connection(io, TowerToHyperService::new(service));
    // Its errors are the client's: a broken line, a head that is none, too slow.
    let _ = watcher.watch(connection).await;
}

/// Small packets at once; a peer that has vanished is noticed although nothing is said to it.
fn tune(stream: &TcpStream, stalled: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(stalled / 2).with_interval(stalled / 4);
    #[cfg(not(windows))]
    let keepalive = keepalive.with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stalled))?;
    Ok(())
}

/// Says 503. The client may be one that does not listen.
async fn turn_away(mut stream: TcpStream) {
    let said = async {
        stream.write_all(BUSY).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_turned_away_gets_a_whole_response() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
