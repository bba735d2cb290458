//! Work that comes again and again, started as one: CUDA graphs, without anything that could go stale.
//!
//! Between [`Recorder::begin`] and [`Recorder::end`] calls are not made but listed. At the end the list is compared, call
//! by call, with those that graphs were made of. If one has the same shape, the numbers and tables that differ are put in
//! their places and the graph is started: one launch in place of a thousand. A shape that is met for the first time is
//! worked through call by call, which also compiles its kernels and times its products; at the second time a graph is made.
//!
//! So a graph does exactly what the calls would have done, at every start, because the calls are there to compare with. No
//! key has to be right, nothing has to be invalidated when memory is freed or a batch has other boundaries, and whatever
//! no graph can hold (a result that is waited for, memory given back) simply ends the listing. The price is the host's work
//! of making the list, which is small beside that of the launches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::calls::{Call, Calls};
use super::driver::{
    Address, Argument, Attention, Driver, Fp8Matmul, Graph, GraphDriver, Kernel, Launch, Matmul, Post,
};
use crate::device::{AttentionShape, DeviceInfo, Sensors};
use crate::error::ComputeError;

/// Fewer calls than this are not worth a graph.
const FEW_CALLS: usize = 8;
/// Graphs that are kept; then the one that was started longest ago goes.
const MOST_PROGRAMS: usize = 32;
/// Shapes that are remembered without a graph.
const MOST_SEEN: usize = 256;

/// A graph and what it does.
struct Program {
    hash: u64,
    /// As it was started last.
    calls: Calls,
    graph: Graph,
    /// Memory that holds what the calls upload, and its length.
    staged: Option<(Address, usize)>,
    /// When it was started last, in starts.
    used: u64,
}

#[derive(Default)]
struct State {
    /// `begin`s without their `end`.
    depth: usize,
    listing: bool,
    calls: Calls,
    programs: Vec<Program>,
    /// Hashes of shapes that were met once, the oldest first.
    seen: VecDeque<u64>,
    starts: u64,
    /// Whether graphs are made.
    enabled: bool,
    /// Why not any more, until somebody has been told.
    note: Option<String>,
}

/// A [`Driver`] that lists the calls for another, where it is asked to.
pub struct Recorder {
    driver: Arc<dyn GraphDriver>,
    state: Mutex<State>,
}

impl Recorder {
    /// Over a driver; where graphs are not `enabled` every call is made at once.
    pub(super) fn new(driver: Arc<dyn GraphDriver>, enabled: bool) -> Self {
        Recorder { driver, state: Mutex::new(State { enabled, ..State::default() }) }
    }

    /// From here on calls are listed.
    pub(super) fn begin(&self) {
        let mut state = self.lock();
        state.depth += 1;
        if state.depth == 1 {
            state.listing = state.enabled;
        }
    }

    /// Starts what was listed since the first `begin` that has had no `end`.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.depth -= 1;
        if state.depth == 0 && std::mem::take(&mut state.listing) {
            self.start(&mut state);
            state.calls.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a call, or makes it.
    fn call(&self, call: Call<'_>) {
        let mut state = self.lock();
        if state.listing {
            state.calls.push(call);
        } else {
            drop(state);
            call.make(&*self.driver);
        }
    }

    /// What comes next cannot be listed, and must find everything before it started. What follows is not listed either.
    fn flush(&self) {
        let mut state = self.lock();
        if std::mem::take(&mut state.listing) {
            self.one_by_one(&state.calls);
            state.calls.clear();
        }
    }

    fn one_by_one(&self, calls: &Calls) {
        calls.iter().for_each(|call| call.make(&*self.driver));
    }

    /// Starts the list in the best way.
    fn start(&self, state: &mut State) {
        if self.driver.check().is_err() {
            return;
        }
        if state.calls.len() < FEW_CALLS {
            self.one_by_one(&state.calls);
            return;
        }
        let hash = state.calls.shape_hash();
        let known = |program: &Program| program.hash == hash && program.calls.has_shape_of(&state.calls);
        let found = match state.programs.iter().position(known) {
            Some(at) => self.refresh(state, at).map(|()| Some(at)),
            None if state.seen.contains(&hash) => self.make(state, hash),
            None => {
                state.seen.push_back(hash);
                if state.seen.len() > MOST_SEEN {
                    state.seen.pop_front();
                }
                Ok(None)
            }
        };
        match found {
            Ok(Some(at)) => {
                state.starts += 1;
                state.programs[at].used = state.starts;
                self.driver.start(&state.programs[at].graph);
            }
            Ok(None) => self.one_by_one(&state.calls),
            Err(reason) => {
                self.give_up(state, &reason);
                self.one_by_one(&state.calls);
            }
        }
    }

    /// Puts what differs from the last time into a graph. Starts that are under way are not affected: the driver promises
    /// it for arguments, and uploads follow in the order of the stream.
    fn refresh(&self, state: &mut State, at: usize) -> Result<(), String> {
        let State { calls, programs, .. } = state;
        let program = &mut programs[at];
        for (i, arguments) in calls.changed(&program.calls) {
            self.driver.change(&program.graph, i, arguments)?;
        }
        if let Some((staged, _)) = program.staged
            && calls.uploaded() != program.calls.uploaded()
        {
            self.driver.upload(staged, calls.uploaded());
        }
        std::mem::swap(calls, &mut program.calls);
        Ok(())
    }

    /// Makes a graph of the list; `None` where the driver cannot at this moment.
    fn make(&self, state: &mut State, hash: u64) -> Result<Option<usize>, String> {
        let bytes = state.calls.uploaded();
        let staged = match bytes.len() {
            0 => None,
            len => Some((self.driver.allocate(len).map_err(|error| error.to_string())?, len)),
        };
        if let Some((address, _)) = staged {
            self.driver.upload(address, bytes);
        }
        let of_graph = state.calls.with_staged_uploads(staged.map_or(Address::NULL, |(address, _)| address));
        let graph = match self.driver.build(&of_graph) {
            Ok(Some(graph)) => graph,
            not => {
                if let Some((address, len)) = staged {
                    self.driver.free(address, len);
                }
                return not.map(|_| None);
            }
        };
        if state.programs.len() >= MOST_PROGRAMS {
            let oldest = (0..state.programs.len()).min_by_key(|i| state.programs[*i].used);
            self.discard(state.programs.swap_remove(oldest.unwrap_or(0)));
        }
        let calls = state.calls.clone();
        state.programs.push(Program { hash, calls, graph, staged, used: 0 });
        Ok(Some(state.programs.len() - 1))
    }

    fn discard(&self, program: Program) {
        self.driver.discard(program.graph);
        if let Some((address, bytes)) = program.staged {
            self.driver.free(address, bytes);
        }
    }

    /// Makes no graph any more.
    fn give_up(&self, state: &mut State, reason: &str) {
        state.enabled = false;
        state.programs.drain(..).for_each(|program| self.discard(program));
        state.note = Some(format!(
            "no CUDA graphs from here on, work is started piece by piece: {reason} (results are the same)"
        ));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let programs = std::mem::take(&mut self.lock().programs);
        programs.into_iter().for_each(|program| self.discard(program));
    }
}

impl Driver for Recorder {
    fn info(&self) -> DeviceInfo {
        self.driver.info()
    }

    fn multiprocessors(&self) -> usize {
        self.driver.multiprocessors()
    }

    fn shared_memory_limit(&self) -> usize {
        self.driver.shared_memory_limit()
    }

    fn available_bytes(&self) -> Option<u64> {
        self.driver.available_bytes()
    }

    fn sensors(&self) -> Option<Sensors> {
        self.driver.sensors()
    }

    fn allocate(&self, bytes: usize) -> Result<Address, ComputeError> {
        // New memory is in no call that is listed: memory that was given back has ended the listing.
        self.driver.allocate(bytes)
    }

    fn free(&self, at: Address, bytes: usize) {
        self.flush();
        self.driver.free(at, bytes);
    }

    fn allocate_host(&self, bytes: usize) -> Result<Address, ComputeError> {
        self.driver.allocate_host(bytes)
    }

    fn free_host(&self, at: Address, bytes: usize) {
        self.flush();
        self.driver.free_host(at, bytes);
    }

    fn upload(&self, to: Address, bytes: &[u8]) {
        self.call(Call::Upload { to, bytes });
    }

    fn download(&self, from: Address, bytes: &mut [u8]) {
        self.flush();
        self.driver.download(from, bytes);
    }

    fn post(&self, from: Address, bytes: usize) -> Post {
        self.flush();
        self.driver.post(from, bytes)
    }

    fn collect(&self, post: Post, bytes: &mut [u8]) {
        self.driver.collect(post, bytes);
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) {
        if bytes > 0 {
            self.call(Call::Copy { from, to, bytes });
        }
    }

    fn zero(&self, at: Address, bytes: usize) {
        if bytes > 0 {
            self.call(Call::Zero { at, bytes });
        }
    }

    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[Argument]) {
        self.call(Call::Launch { kernel, launch, arguments });
    }

    fn matmul(&self, matmul: &Matmul) {
        self.call(Call::Matmul(matmul));
    }

    fn matmul_with_row_sums(&self, matmul: &Matmul, sums: Address) -> bool {
        match self.driver.knows_row_sums(matmul) {
            Some(true) => self.call(Call::RowSums { matmul, sums }),
            Some(false) => return false,
            // The answer comes from trying it, on operands that everything before has left.
            None => {
                self.flush();
                return self.driver.matmul_with_row_sums(matmul, sums);
            }
        }
        true
    }

    fn knows_row_sums(&self, matmul: &Matmul) -> Option<bool> {
        self.driver.knows_row_sums(matmul)
    }

    fn has_fp8(&self) -> bool {
        self.driver.has_fp8()
    }

    fn matmul_fp8(&self, matmul: &Fp8Matmul) {
        self.call(Call::Fp8Matmul(matmul));
    }

    fn attention_scratch(&self, shape: AttentionShape, tokens: usize) -> usize {
        self.driver.attention_scratch(shape, tokens)
    }

    fn knows_attention(&self, attention: &Attention) -> Option<bool> {
        self.driver.knows_attention(attention)
    }

    fn choose_attention(&self, attention: &Attention, ours: &dyn Fn()) {
        // On operands that everything before has left, and both ways at once: `ours` comes back to this recorder.
        self.flush();
        self.driver.choose_attention(attention, ours);
    }

    fn attention(&self, attention: &Attention) {
        self.call(Call::Attention(attention));
    }

    /// Why graphs are no longer made, or what the driver has to say.
    fn take_note(&self) -> Option<String> {
        let note = self.lock().note.take();
        note.or_else(|| self.driver.take_note())
    }

    fn synchronize(&self) {
        self.flush();
        self.driver.synchronize();
    }

    fn check(&self) -> Result<(), ComputeError> {
        self.driver.check()
    }
}
