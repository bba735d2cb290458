//! `--watch`: the dashboard of a run while it is trained, on this machine alone. Training waits for nothing in here.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use casallm_serve::api::{self, Connections, Options, Server};
use casallm_serve::runs::Runs;
use clap::Args;
use serde_json::json;
use tokio::sync::oneshot;

use crate::console::Console;

/// Threads that read files for the page.
const READERS: usize = 2;

/// Whether training is shown in a browser.
#[derive(Clone, Debug, Default, Args)]
pub struct Watch {
    /// Show this run in the browser while it goes on, at an address of this machine alone
    #[arg(long)]
    pub watch: bool,
    /// The port for that [default: one that is free]
    #[arg(long, value_name = "PORT")]
    pub watch_port: Option<u16>,
}

/// The dashboard, until dropped.
pub(crate) struct Watching {
    _stop: oneshot::Sender<()>,
}

/// Starts it where it was asked for. That it cannot be started is said, and no reason not to train.
pub(crate) fn watch(flags: &Watch, run: &Path, console: &mut Console) -> Option<Watching> {
    if !flags.watch && flags.watch_port.is_none() {
        return None;
    }
    match start(flags.watch_port.unwrap_or(0), run) {
        Ok((url, watching)) => {
            console.say(&format!("watch it at {url}"));
            console.emit(&json!({ "event": "dashboard", "url": url }));
            Some(watching)
        }
        Err(error) => {
            console.say(&format!("the dashboard cannot be shown: {error:#}; training goes on without it"));
            None
        }
    }
}

fn start(port: u16, run: &Path) -> Result<(String, Watching)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("cannot listen at 127.0.0.1:{port}; choose another --watch-port"))?;
    listener.set_nonblocking(true)?;
    let url = format!("http://localhost:{}/runs/", listener.local_addr()?.port());
    let runs = Some(Arc::new(Runs::new(run)));
    let options = Options { runs, dashboard_only: true, this_machine_alone: true, ..Options::default() };
    let server = Arc::new(Server::new(options));
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(READERS).enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = async move {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        let stop = async {
            let _ = stopped.await;
        };
        let router = api::router(server.clone());
        api::serve(listener, router, server, Connections::default(), stop, std::future::ready(())).await;
    };
    std::thread::Builder::new().name("dashboard".to_owned()).spawn(move || {
        runtime.block_on(serving);
        // Whatever still reads a file is not waited for.
        runtime.shutdown_background();
    })?;
    Ok((url, Watching { _stop: stop }))
}
