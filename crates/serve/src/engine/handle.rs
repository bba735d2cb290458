//! The engine as others see it: submit a request, hear what becomes of it, let go of it.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use casallm_model::sampler::Sampler;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::model::SequenceModel;
use super::request::{Event, Request, SubmitError};
use super::spill::Spill;
use super::stats::{Counters, Stats};
use super::worker::{Command, Task, Worker};

/// Sizes and habits.
#[derive(Debug)]
pub struct EngineConfig {
    /// Most requests that may wait.
    pub queue: usize,
    /// Bytes for sequences that are kept outside the model's own cache.
    pub stored_bytes: usize,
    /// About how long a part of a prompt may take to be read while there are other requests, or where it can wait.
    pub chunk: Duration,
    /// And while it is the only one: larger parts are read faster, and whoever comes meanwhile waits for the end of one.
    pub chunk_alone: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            queue: 64,
            stored_bytes: 256 << 20,
            chunk: Duration::from_millis(100),
            chunk_alone: Duration::from_secs(1),
        }
    }
}

/// What a prompt and its settings must agree with.
#[derive(Clone, Copy)]
struct Limits {
    slots: usize,
    capacity: usize,
    vocab_size: usize,
    queue: usize,
}

/// A running engine. Dropping it ends its thread as [`Engine::shutdown`] does.
pub struct Engine {
    commands: Mutex<Sender<Command>>,
    counters: Arc<Counters>,
    limits: Limits,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What becomes of one request. Dropping it takes the request back: the engine computes nothing more for it after
/// the pass that it is at, and breaks that off if it reads a prompt.
#[derive(Debug)]
pub struct Generation {
    events: UnboundedReceiver<Event>,
    counters: Arc<Counters>,
    had_enough: Arc<AtomicBool>,
}

impl Generation {
    /// The next event; `None` after the last one, or when the engine is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The same where nothing is asynchronous.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// Takes the rest of the request back, because the answer is whole: it counts among those that came to their end, where
    /// dropping it is going away.
    pub fn enough(self) {
        self.had_enough.store(true, Ordering::Release);
    }

    /// Why there is no next event after one that is not the last.
    pub fn cut_short(&self) -> SubmitError {
        if self.counters.is_broken() { SubmitError::Broken } else { SubmitError::ShuttingDown }
    }
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be had.
    pub fn start<M: SequenceModel + Send + 'static>(
        model: M,
        config: &EngineConfig,
        spill: Option<Spill>,
    ) -> std::io::Result<Self> {
        let limits = Limits {
            slots: model.sequences(),
            capacity: model.capacity(),
            vocab_size: model.vocab_size(),
            queue: config.queue,
        };
        let (commands, inbox) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let mut worker = Worker::new(model, inbox, counters.clone(), config, spill);
        let thread = thread::Builder::new().name("inference".into()).spawn(move || {
            // Nothing of the worker is used after a panic but what ends it.
            if panic::catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                worker.break_off();
            }
        })?;
        Ok(Engine { commands: Mutex::new(commands), counters, limits, thread: Mutex::new(Some(thread)) })
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// See [`SubmitError`]: nothing is queued then.
    pub fn submit(&self, request: Request) -> Result<Generation, SubmitError> {
        if self.is_broken() {
            return Err(SubmitError::Broken);
        }
        let Limits { slots, capacity, vocab_size, queue } = self.limits;
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(SubmitError::Prompt("the prompt is empty; say something".into()));
        }
        if let Some(id) = request.prompt.iter().find(|id| **id as usize >= vocab_size) {
            return Err(SubmitError::Prompt(format!("token id {id}; the vocabulary has {vocab_size}")));
        }
        if tokens >= capacity {
            return Err(SubmitError::TooLong { tokens, context: capacity });
        }
        // A template writes them behind and before every message of a prompt, which is no repetition.
        let sampler = Sampler::resume(request.sampling.clone(), request.draws)?.sparing(&request.stop_ids);
        // Whoever comes while a sequence is free need not wait, but the thread may not have taken notice of it yet.
        let most = queue.saturating_add(slots);
        let counted = self
            .counters
            .present
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |present| (present < most).then_some(present + 1));
        if counted.is_err() {
            return Err(SubmitError::QueueFull { waiting: queue });
        }
        let (sender, events) = unbounded_channel();
        let had_enough = Arc::<AtomicBool>::default();
        let sent = self.send(Command::Submit(Box::new(Task::new(request, sampler, sender, had_enough.clone()))));
        if !sent {
            if self.is_broken() {
                return Err(SubmitError::Broken);
            }
            self.counters.present.fetch_sub(1, Ordering::AcqRel);
            return Err(SubmitError::ShuttingDown);
        }
        Ok(Generation { events, counters: self.counters.clone(), had_enough })
    }

    /// Tokens that a prompt and its answer have together.
    pub fn context(&self) -> usize {
        self.limits.capacity
    }

    /// Whether its thread has panicked: it answers nothing any more.
    pub fn is_broken(&self) -> bool {
        self.counters.is_broken()
    }

    /// What it has done and is at.
    pub fn stats(&self) -> Stats {
        self.counters.read(self.limits.slots)
    }

    /// Has what is running and waiting end without an answer, soon, and does not wait for it.
    pub fn cut_off(&self) {
        self.send(Command::Shutdown);
    }

    /// Ends what is running, writes what is to outlive the process to disk, and ends the thread. Requests get no
    /// `Finished`: whoever wants them to finish waits before.
    pub fn shutdown(&self) {
        self.send(Command::Shutdown);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Its panic has been printed, and every generation has ended with it.
            let _ = thread.join();
        }
    }

    fn send(&self, command: Command) -> bool {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(command).is_ok()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
