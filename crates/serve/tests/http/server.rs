//! A server with a fake model: it says what a hash of all tokens before says.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use casallm_data::chat::ChatTemplate;
use casallm_data::tokenizer::{Tokenizer, TrainOptions};
use casallm_model::sampler::SamplerConfig;
use casallm_serve::answers::{Answers, AnswersConfig};
use casallm_serve::api::{self, Connections, Defaults, Loaded, Options, Server};
use casallm_serve::chatbot::{Chatbot, ModelCard};
use casallm_serve::engine::fake::FakeModel;
use casallm_serve::engine::{Engine, EngineConfig, Stats};
use casallm_serve::overflow::Policy;
use casallm_serve::store::{Database, Store};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Tokens of the fake's context.
pub const CONTEXT: usize = 2048;

/// How the server of a test differs from the usual.
pub struct Setup {
    pub options: Options,
    pub limits: Connections,
    pub policy: Policy,
    pub queue: usize,
    pub pace: Duration,
    /// A text at whose first token the model panics.
    pub panics_at: Option<&'static str>,
    pub stored: bool,
    pub loaded: bool,
    pub context: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            options: Options::default(),
            limits: Connections::default(),
            policy: Policy::Summarise,
            queue: 64,
            pace: Duration::ZERO,
            panics_at: None,
            stored: false,
            loaded: true,
            context: CONTEXT,
        }
    }
}

/// A server that runs.
pub struct Running {
    pub address: SocketAddr,
    pub bot: Arc<Chatbot>,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    enough: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let text = "the house in the garden sings under the old tree and the river walks to the stone ".repeat(40);
    let options = TrainOptions { vocab_size: 300, ..TrainOptions::default() };
    Arc::new(Tokenizer::train([Ok(text)].into_iter(), &options, &mut |_| {}).unwrap())
});

/// The tokenizer of all these servers.
pub fn tokenizer() -> &'static Tokenizer {
    &TOKENIZER
}

impl Setup {
    /// Starts it.
    pub fn start(self) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut model = FakeModel::new(4, self.context, TOKENIZER.vocab_size()).slow(self.pace);
        if let Some(text) = self.panics_at {
            model = model.panics_at(TOKENIZER.encode(text)[0]);
        }
        let config = EngineConfig { queue: self.queue, ..EngineConfig::default() };
        let engine = Engine::start(model, &config, None).unwrap();
        let card = ModelCard {
            id: "fake".to_owned(),
            parameters: 1,
            device: "none".to_owned(),
            created: 1,
            tokenizer: TOKENIZER.fingerprint(),
        };
        let bot = Chatbot::new(engine, TOKENIZER.clone(), ChatTemplate::own(&TOKENIZER).unwrap(), Some(0), card);
        let bot = Arc::new(bot);
        let folder = tempfile::tempdir().unwrap();
        let sampling = SamplerConfig { temperature: 0.7, ..SamplerConfig::default() };
        let limit = self.context;
        let defaults = Defaults { sampling: sampling.clone(), max_tokens: 64, max_tokens_limit: limit };
        let server = Arc::new(Server::new(self.options));
        let answers = self.stored.then(|| {
            let store = Store::new(Database::open(&folder.path().join("chat.db")).unwrap()).unwrap();
            let config = AnswersConfig { policy: self.policy, sampling, ..AnswersConfig::default() };
            Answers::new(bot.clone(), store, config)
        });
        if self.loaded {
            server.ready(Loaded { bot: bot.clone(), defaults, overflow: self.policy, answers });
        }
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (enough, had) = oneshot::channel::<()>();
        let limits = self.limits;
        let serving = runtime.spawn(async move {
            let stopping = server.clone();
            let stop = async move {
                let _ = stopped.await;
                stopping.stop();
            };
            let enough = async move {
                if had.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            api::serve(listener, api::router(server.clone()), server, limits, stop, enough).await;
        });
        Running {
            address,
            bot,
            runtime: Some(runtime),
            stop: Some(stop),
            enough: Some(enough),
            serving: Some(serving),
            _folder: folder,
        }
    }
}

impl Running {
    /// What the engine is at.
    pub fn stats(&self) -> Stats {
        self.bot.engine().stats()
    }

    /// Waits until something holds of the engine; says how long it took.
    pub fn until(&self, what: &str, holds: impl Fn(Stats) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self.stats()) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {:?}", self.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    /// Tells it to stop, without waiting.
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Tells it that its time is up, without waiting.
    pub fn enough(&mut self) {
        let _ = self.enough.take().unwrap().send(());
    }

    /// Waits until it has ended.
    pub fn join(&mut self) {
        let serving = self.serving.take().unwrap();
        self.runtime.as_ref().unwrap().block_on(serving).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
