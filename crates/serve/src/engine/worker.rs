//! The engine's thread: takes requests in, gives them sequences, reads prompts, makes tokens, lets go.
//!
//! One round: hear what is new; forget who went away; fill free sequences; one pass that brings every answer a token
//! further; one chunk of one prompt. Passes over answers and over prompts are apart, so that an answer's bits do not
//! depend on who else is served: few rows and many may be different kernels on a device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use casallm_compute::ComputeError;
use casallm_model::error::ModelError;
use casallm_model::sampler::Sampler;
use casallm_model::sequences::Piece;
use tokio::sync::mpsc::UnboundedSender;

use super::handle::EngineConfig;
use super::model::SequenceModel;
use super::request::{Event, Finish, Priority, Request, Usage};
use super::sampling::logprobs;
use super::slots::{LEAST_READ, Slots};
use super::spill::Spill;
use super::stats::{Counters, add};

/// Tokens of a chunk before anything is known of the model's speed, and the fewest ever.
const FIRST_CHUNK: usize = 32;
const LEAST_CHUNK: usize = 16;

/// How many tokens of a prompt are read in about a given time.
struct Chunk {
    time: Duration,
    tokens: usize,
}

impl Chunk {
    fn new(time: Duration, most: usize) -> Self {
        Chunk { time, tokens: FIRST_CHUNK.min(most) }
    }

    /// So many took so long.
    fn learn(&mut self, tokens: usize, took: Duration, most: usize) {
        let wanted = tokens as f64 * self.time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        // Never more than twice as much as the last time: one lucky clock reading must not make others wait.
        let most = (2 * self.tokens).min(most.saturating_sub(LEAST_READ)).max(1);
        self.tokens = (wanted as usize).max(LEAST_CHUNK).min(most);
    }
}

/// What the thread is told.
pub(super) enum Command {
    Submit(Box<Task>),
    Shutdown,
}

/// A request on its way.
pub(super) struct Task {
    /// The prompt, then what has been made.
    ids: Vec<u32>,
    prompt: usize,
    cached: Option<usize>,
    sampler: Sampler,
    max_new_tokens: usize,
    stop_ids: Vec<u32>,
    top_logprobs: Option<usize>,
    priority: Priority,
    events: UnboundedSender<Event>,
    /// Who has gone away has had the answer to its end, which a text has set.
    had_enough: Arc<AtomicBool>,
    /// Why no token could be chosen.
    error: Option<ModelError>,
}

impl Task {
    pub(super) fn new(
        request: Request,
        sampler: Sampler,
        events: UnboundedSender<Event>,
        had_enough: Arc<AtomicBool>,
    ) -> Self {
        Task {
            prompt: request.prompt.len(),
            ids: request.prompt,
            cached: None,
            sampler,
            max_new_tokens: request.max_new_tokens,
            stop_ids: request.stop_ids,
            top_logprobs: request.top_logprobs,
            priority: request.priority,
            events,
            had_enough,
            error: None,
        }
    }

    fn made(&self) -> usize {
        self.ids.len() - self.prompt
    }

    fn tell(&self, event: Event) {
        // Who has gone away is noticed at the next round.
        let _ = self.events.send(event);
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt,
            cached_tokens: self.cached.unwrap_or_default(),
            completion_tokens: self.made(),
        }
    }
}

/// A task that has a sequence.
struct Running {
    task: Task,
    slot: usize,
    /// Tokens of `task.ids` that the sequence holds.
    read: usize,
}

impl Running {
    fn unread(&self) -> usize {
        self.task.ids.len() - self.read
    }

    /// Whether what is left to read is one token that was just made.
    fn decodes(&self) -> bool {
        self.unread() == 1 && self.task.made() > 0
    }
}

pub(super) struct Worker<M> {
    model: M,
    inbox: Receiver<Command>,
    counters: Arc<Counters>,
    slots: Slots,
    waiting: VecDeque<Task>,
    running: Vec<Running>,
    /// Of a prompt while there are other requests or it can wait, and while it is the only one.
    chunk: Chunk,
    chunk_alone: Chunk,
    ending: bool,
}

impl<M: SequenceModel> Worker<M> {
    pub(super) fn new(
        model: M,
        inbox: Receiver<Command>,
        counters: Arc<Counters>,
        config: &EngineConfig,
        spill: Option<Spill>,
    ) -> Self {
        let slots = Slots::new(&model, config.stored_bytes, spill);
        Worker {
            chunk: Chunk::new(config.chunk, model.pass_tokens()),
            chunk_alone: Chunk::new(config.chunk_alone, model.pass_tokens()),
            model,
            inbox,
            counters,
            slots,
            waiting: VecDeque::new(),
            running: Vec::new(),
            ending: false,
        }
    }

    /// Until the end.
    pub(super) fn run(&mut self) {
        loop {
            self.listen();
            if self.ending {
                // Whoever waits for an answer hears at once that there is none; a disk may take its time.
                self.waiting.clear();
                self.running.clear();
                self.slots.save_all(&self.model);
                return;
            }
            self.forget_the_gone();
            self.admit();
            self.count();
            let passes = self.decode().and_then(|()| self.read());
            if let Err(error) = passes {
                // A device that has failed does nothing more, whoever asks, and what it holds is not to be kept.
                let for_good = matches!(error, ModelError::Compute(ComputeError::Gpu { .. }));
                if for_good {
                    self.counters.broken.store(true, Ordering::Release);
                }
                self.fail(&error);
                if for_good {
                    self.break_off();
                    return;
                }
            }
            self.count();
        }
    }

    /// After a panic, or where the device has failed: whoever waits for an answer hears that there is none.
    pub(super) fn break_off(&mut self) {
        // First, so that nobody takes it for the end of the program.
        self.counters.broken.store(true, Ordering::Release);
        add(&self.counters.failed, self.running.len() + self.waiting.len());
        self.counters.running.store(0, Ordering::Relaxed);
        self.counters.present.store(0, Ordering::Release);
        self.waiting.clear();
        self.running.clear();
    }

    /// Takes in what has come; waits for something where there is nothing to do.
    fn listen(&mut self) {
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.inbox.recv() {
                Ok(command) => self.obey(command),
                Err(_) => self.ending = true,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.ending = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit(task) => {
                let task = *task;
                // Behind those of its own kind, ahead of those that can wait.
                let at = self.waiting.iter().position(|other| other.priority > task.priority);
                self.waiting.insert(at.unwrap_or(self.waiting.len()), task);
            }
            Command::Shutdown => self.ending = true,
        }
    }

    fn forget_the_gone(&mut self) {
        let (slots, counters) = (&mut self.slots, &self.counters);
        let gone = |task: &Task| {
            let closed = task.events.is_closed();
            if closed {
                let whole = task.had_enough.load(Ordering::Acquire);
                add(if whole { &counters.finished } else { &counters.cancelled }, 1);
                counters.present.fetch_sub(1, Ordering::AcqRel);
            }
            closed
        };
        self.waiting.retain(|task| !gone(task));
        self.running.retain(|running| {
            let gone = gone(&running.task);
            if gone {
                slots.release(running.slot);
            }
            !gone
        });
    }

    /// Gives free sequences to those who wait, and takes one from who can wait for who cannot.
    fn admit(&mut self) {
        while let Some(next) = self.waiting.front() {
            if !self.slots.any_free() {
                let yields = self.running.iter().rposition(|running| running.task.priority > next.priority);
                let Some(i) = yields else { return };
                let Running { task, slot, .. } = self.running.remove(i);
                self.slots.release(slot);
                self.waiting.push_back(task);
            }
            let Some(mut task) = self.waiting.pop_front() else { return };
            let Some((slot, held)) = self.slots.take(&mut self.model, &task.ids) else { return };
            if task.cached.is_none() {
                let cached_tokens = held.min(task.prompt);
                task.cached = Some(cached_tokens);
                add(&self.counters.prompt_tokens, task.prompt);
                add(&self.counters.cached_tokens, cached_tokens);
                task.tell(Event::Started { cached_tokens });
            }
            self.running.push(Running { task, slot, read: held });
        }
    }

    /// A token for everybody whose prompt is read.
    fn decode(&mut self) -> Result<(), ModelError> {
        let decoding: Vec<usize> = (0..self.running.len()).filter(|i| self.running[*i].decodes()).collect();
        // A pass has room for as many tokens as it has.
        for group in decoding.chunks(self.model.pass_tokens()) {
            let pieces: Vec<Piece<'_>> = group.iter().map(|i| piece(&self.running[*i], 1)).collect();
            let vocab_size = self.model.vocab_size();
            let logits = self.model.forward(&pieces)?;
            for (i, logits) in group.iter().zip(logits.chunks_exact(vocab_size)) {
                advance(&mut self.running[*i], &mut self.slots, 1);
                choose(&mut self.running[*i].task, logits, &self.counters);
            }
        }
        self.finish();
        Ok(())
    }

    /// A chunk of the prompt that was begun first; those for which nobody waits come last. It is broken off when whoever
    /// asked goes away.
    fn read(&mut self) -> Result<(), ModelError> {
        let reading = self.running.iter().enumerate().filter(|(_, running)| !running.decodes());
        let Some((i, _)) = reading.min_by_key(|(i, running)| (running.task.priority, *i)) else { return Ok(()) };
        let pass_tokens = self.model.pass_tokens();
        let (running, unread) = (&self.running[i], self.running[i].unread());
        // What can wait is read in short chunks always: who cannot may come at any time.
        let alone =
            self.running.len() == 1 && self.waiting.is_empty() && running.task.priority == Priority::Interactive;
        let chunk = if alone { &mut self.chunk_alone } else { &mut self.chunk };
        // What is left for the last chunk is not so little that another kernel would read it.
        let tokens = if unread < chunk.tokens + LEAST_READ { unread } else { chunk.tokens };
        let tokens = tokens.min(pass_tokens);
        let begun = Instant::now();
        let go_on = || !running.task.events.is_closed();
        let Some(logits) = self.model.forward_while(&[piece(running, tokens)], &go_on)? else { return Ok(()) };
        chunk.learn(tokens, begun.elapsed(), pass_tokens);
        let running = &mut self.running[i];
        advance(running, &mut self.slots, tokens);
        running.task.tell(Event::Reading { read: running.read.min(running.task.prompt), of: running.task.prompt });
        if running.unread() == 0 {
            choose(&mut running.task, logits, &self.counters);
        }
        self.finish();
        Ok(())
    }

    /// Ends the answers that are at their end.
    fn finish(&mut self) {
        let capacity = self.model.capacity();
        let (slots, counters) = (&mut self.slots, &self.counters);
        self.running.retain(|running| {
            let task = &running.task;
            if let Some(error) = &task.error {
                // What it has read is no good, and nobody else's affair.
                failed(running, &error.to_string(), slots, counters);
                return false;
            }
            let stopped = task.made() > 0 && task.stop_ids.contains(&task.ids[task.ids.len() - 1]);
            let asked_for_none = task.max_new_tokens == 0 && running.unread() == 0;
            let finish = match () {
                () if stopped => Finish::Stop,
                () if !running.decodes() && !asked_for_none => return true,
                () if task.made() >= task.max_new_tokens => Finish::Length,
                () if task.ids.len() >= capacity => Finish::Context,
                () => return true,
            };
            let mut usage = task.usage();
            usage.completion_tokens -= usize::from(stopped);
            slots.release(running.slot);
            // Counted first: who hears of the end may look at the counters.
            add(&counters.finished, 1);
            counters.running.fetch_sub(1, Ordering::Relaxed);
            counters.present.fetch_sub(1, Ordering::AcqRel);
            task.tell(Event::Finished { finish, usage });
            false
        });
    }

    /// The model has failed: so have all that it was at.
    fn fail(&mut self, error: &ModelError) {
        for running in self.running.drain(..) {
            failed(&running, &error.to_string(), &mut self.slots, &self.counters);
        }
    }

    fn count(&self) {
        self.counters.running.store(self.running.len(), Ordering::Relaxed);
        self.counters.stored_sequences.store(self.slots.stored().len(), Ordering::Relaxed);
        self.counters.stored_bytes.store(self.slots.stored().bytes(), Ordering::Relaxed);
    }
}

/// The next tokens of a sequence. The logits are asked for always: getting them is what waits for the pass.
fn piece(running: &Running, tokens: usize) -> Piece<'_> {
    let ids = &running.task.ids[running.read..][..tokens];
    Piece { sequence: running.slot, at: running.read, ids, logits: true }
}

fn advance(running: &mut Running, slots: &mut Slots, tokens: usize) {
    slots.hold(running.slot, &running.task.ids[running.read..][..tokens]);
    running.read += tokens;
}

/// Ends a task without an answer, and forgets what it has read.
fn failed(running: &Running, error: &str, slots: &mut Slots, counters: &Counters) {
    slots.forget(running.slot);
    add(&counters.failed, 1);
    counters.running.fetch_sub(1, Ordering::Relaxed);
    counters.present.fetch_sub(1, Ordering::AcqRel);
    running.task.tell(Event::Failed(error.to_owned()));
}

/// Chooses the next token, and tells of it unless it ends the answer.
fn choose(task: &mut Task, logits: &[f32], counters: &Counters) {
    if task.made() >= task.max_new_tokens {
        return;
    }
    let id = match task.sampler.sample(logits, &task.ids) {
        Ok(id) => id,
        Err(error) => {
            task.error = Some(error);
            return;
        }
    };
    task.ids.push(id);
    if !task.stop_ids.contains(&id) {
        add(&counters.completion_tokens, 1);
        let logprobs = task.top_logprobs.map(|top| logprobs(logits, id, top));
        task.tell(Event::Token { id, logprobs, at: Instant::now() });
    }
}
