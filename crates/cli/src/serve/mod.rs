//! `casallm serve`: a model behind a page and OpenAI's interface, and the dashboard of training runs.

mod browser;
pub mod flags;
mod settings;
mod signals;
pub mod watching;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use casallm_model::sampler::SamplerConfig;
use casallm_serve::answers::{Answers, AnswersConfig};
use casallm_serve::api::{self, Connections, Defaults, Loaded, Server};
use casallm_serve::chatbot::{Chatbot, LoadOptions};
use casallm_serve::engine::EngineConfig;
use casallm_serve::store::{Database, Store, StoreError};
use serde_json::json;

use crate::Ended;
use crate::chat::{REPETITION_PENALTY, REPETITION_WINDOW};
use crate::console::Console;
use crate::devices::{self, on_device};
use flags::Serve;
use signals::Signals;

/// Longest answer where a request does not say.
const MAX_TOKENS: usize = 1024;
/// The port where nobody names one.
const PORT: u16 = 7860;
/// Threads that tokenize and write to disk; the model has its own.
const BLOCKING_THREADS: usize = 16;

/// Serves until a signal comes.
pub(crate) fn run(flags: &Serve) -> Result<Ended> {
    let flags = settings::completed(flags, |name| std::env::var_os(name))?;
    let listener = bind(&flags)?;
    run_on(&flags, listener)
}

/// The same at the usual port, or at another if that is taken.
pub(crate) fn run_anywhere(flags: &Serve) -> Result<Ended> {
    let listener = bind(flags).or_else(|_| bind(&Serve { port: Some(0), ..flags.clone() }))?;
    run_on(flags, listener)
}

fn bind(flags: &Serve) -> Result<TcpListener> {
    let address = SocketAddr::new(flags.host, flags.port.unwrap_or(PORT));
    TcpListener::bind(address).with_context(|| {
        format!("cannot listen at {address}; choose another --port (0 takes any that is free) or --host")
    })
}

fn run_on(flags: &Serve, listener: TcpListener) -> Result<Ended> {
    let server = Arc::new(Server::new(settings::options(flags)?));
    let database = settings::database(flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    let mut console = Console::new(&flags.output);
    let ended = runtime.block_on(async {
        // Before the model, which takes longer: a database that cannot be used should be known at once.
        let store = database.map(|path| open_store(&path)).transpose()?;
        let ended = serve(flags, listener, &server, store.clone(), &mut console).await;
        if let Some(store) = store {
            store.close().await;
        }
        ended
    });
    // What still blocks is a model that was being loaded.
    runtime.shutdown_background();
    if let Some(loaded) = server.model() {
        loaded.bot.engine().shutdown();
    }
    ended?;
    console.ended(Ended::Done)
}

fn open_store(path: &Path) -> Result<Store> {
    // Of a file that nobody may have named: a system's user often has no home to write to.
    let database = Database::open(path).map_err(|error| match error {
        StoreError::Io { .. } => {
            anyhow!("{error}; give another file with --db, or leave conversations in the browser with --ephemeral")
        }
        other => other.into(),
    })?;
    Ok(Store::new(database)?)
}

async fn serve(
    flags: &Serve,
    listener: TcpListener,
    server: &Arc<Server>,
    store: Option<Store>,
    console: &mut Console,
) -> Result<()> {
    let signals = Signals::listen().context("the system does not let signals be heard")?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let url = url(address);
    console.emit(&json!({ "event": "listening", "url": url, "port": address.port() }));
    if let Some(runs) = &flags.runs {
        let dashboard = format!("{url}/runs/");
        console.say(&format!("the runs of {} are shown at {dashboard}", runs.display()));
        console.emit(&json!({ "event": "dashboard", "url": dashboard }));
    }
    if let Some(runs) = server.options.runs.clone() {
        tokio::task::spawn_blocking(move || runs.read_newest());
    }

    let limits = Connections { most: flags.max_connections as usize, ..Connections::default() };
    let stop = async {
        signals.first().await;
        server.stop();
    };
    let grace = Duration::from_secs(u64::from(flags.grace_seconds));
    // Stored answers are stopped, with what they have, before their listeners' connections are closed.
    let save = async || {
        if let Some(answers) = server.model().and_then(|loaded| loaded.answers.as_ref()) {
            answers.shutdown(Duration::ZERO).await;
        }
    };
    let enough = async {
        let _ = tokio::time::timeout(grace, signals.second()).await;
        save().await;
    };
    let serving = api::serve(listener, api::router(server.clone()), server.clone(), limits, stop, enough);
    tokio::pin!(serving);
    if let Some(model) = flags.model.clone() {
        console.say(&format!("listening at {url}; loading {} ...", model.display()));
        let of_thread = flags.clone();
        let runtime = tokio::runtime::Handle::current();
        let loading = tokio::task::spawn_blocking(move || {
            let _within = runtime.enter();
            load(&of_thread, &model, store)
        });
        tokio::select! {
            () = &mut serving => return Ok(()),
            loaded = loading => {
                let loaded = loaded.context("the thread that loads the model broke off")??;
                let (card, context) = (loaded.bot.card().clone(), loaded.bot.context());
                server.ready(loaded);
                if let Some(asked) = flags.context.filter(|asked| *asked as usize > context) {
                    console.say(&format!("--context {asked}: the model has learned to read {context}, which is what it gets"));
                }
                console.say(&format!("{} is ready: open {url} (Ctrl-C ends it)", card.id));
                console.emit(&json!({ "event": "ready", "url": url, "model": card.id }));
            }
        }
    } else {
        console.say("Ctrl-C ends it");
        console.emit(&json!({ "event": "ready", "url": url }));
    }
    if flags.open
        && let Err(reason) = browser::open(&url)
    {
        console.say(&format!("no browser opens here ({reason}): open {url} yourself"));
    }
    serving.await;
    // Those to which nobody listened.
    save().await;
    console.say("stopped");
    Ok(())
}

/// What a person opens. An address that means all of this machine's has a name here.
fn url(address: SocketAddr) -> String {
    match address.ip() {
        ip if ip.is_unspecified() => format!("http://localhost:{}", address.port()),
        IpAddr::V4(Ipv4Addr::LOCALHOST) => format!("http://localhost:{}", address.port()),
        _ => format!("http://{address}"),
    }
}

fn load(flags: &Serve, model: &Path, store: Option<Store>) -> Result<Loaded> {
    let format = devices::format(flags.weights);
    let options = LoadOptions {
        format,
        kv_cache: devices::cache(flags.kv_cache, format),
        sequences: flags.max_sequences as usize,
        context: flags.context.map(|context| context as usize),
        engine: EngineConfig {
            queue: flags.queue as usize,
            stored_bytes: usize::try_from(flags.cache_memory).unwrap_or(usize::MAX),
            ..EngineConfig::default()
        },
        spill: flags.cache_dir.clone().map(|folder| (folder, flags.cache_disk)),
    };
    let bot = on_device!(devices::open(&flags.compute, 0)?, device => Chatbot::load(model, &device, options)?);
    let context = bot.context();
    let max_tokens_limit = flags.max_tokens.map_or(context, |tokens| tokens as usize).min(context);
    let sampling = SamplerConfig {
        temperature: 0.7,
        top_p: 0.9,
        repetition_penalty: REPETITION_PENALTY,
        repetition_window: REPETITION_WINDOW,
        ..SamplerConfig::default()
    };
    let (bot, overflow) = (Arc::new(bot), settings::overflow(flags.overflow));
    let max_tokens = MAX_TOKENS.min(max_tokens_limit);
    let answers = store.map(|store| {
        let config = AnswersConfig {
            policy: overflow,
            sampling: sampling.clone(),
            max_tokens: Some(max_tokens),
            max_tokens_limit: Some(max_tokens_limit),
            log: Some(settings::log),
            ..AnswersConfig::default()
        };
        Answers::new(bot.clone(), store, config)
    });
    Ok(Loaded { bot, defaults: Defaults { sampling, max_tokens, max_tokens_limit }, overflow, answers })
}
