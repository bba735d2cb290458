//! Who computes an attention of regular sequences: cuDNN or our kernels. Found out once for each size and remembered.
//!
//! The library's result is not taken on trust. At first use both compute it on the operands at hand; the library's must
//! agree with ours within the rounding of bf16, and with itself to the bit, run after run. Then both are timed. Whoever is
//! chosen, its result is the one that stays. The choice is written to `CACHE/cuda/attention-GPU-LIBRARY-DRIVER.tsv` in the way
//! of [`super::algorithms`], and for the same reason: the two round differently.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cudnn::sys as nn;

use super::agreement::{Output, disagreement};
use super::algorithms::Choices;
use super::cudnn;
use super::error::CudaError;
use super::ffi::Cudnn;
use super::sdpa::{Plan, Problem, Target, most_workspace};
use super::session::{Event, Session};
use super::staging::Staging;
use crate::cuda::attention::{Backward, Forward};
use crate::cuda::driver::{Address, Attention, AttentionPass};
use crate::device::AttentionShape;
use crate::dtype::DType;

/// How often the library must come to the same bits.
const REPEATS: usize = 4;
/// Timed runs of each, of which the fastest counts.
const RUNS: usize = 3;
/// The library must take less than this share of our time: below, the difference is chance.
const CLEARLY_FASTER: f32 = 0.97;

/// Whether cuDNN's attention is used; [`super::NvidiaSettings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudnnUse {
    /// Where it is found and faster, on data center GPUs from Hopper on.
    #[default]
    Faster,
    /// Never.
    Never,
    /// Wherever it computes what our kernels compute, on any GPU; nothing is timed.
    Always,
}

struct State {
    /// Made at first use.
    handle: nn::cudnnHandle_t,
    /// `None` where our kernels are used.
    plans: HashMap<Problem, Option<Plan>>,
    choices: Choices,
    note: Option<String>,
}

/// The library with what has been chosen.
pub(super) struct Attentions {
    library: Option<Arc<Cudnn>>,
    /// Where choices are written.
    path: Option<PathBuf>,
    /// Whether the faster one is taken, else the library wherever it can.
    timed: bool,
    state: Mutex<State>,
}

// SAFETY: the handle is behind the lock, and may be used from any thread.
unsafe impl Send for Attentions {}
// SAFETY: as above.
unsafe impl Sync for Attentions {}

impl Attentions {
    /// With a library, or with the reason why there is none that a person should know. `path` is the file of choices.
    pub(super) fn new(library: Result<Option<Cudnn>, String>, path: Option<PathBuf>, timed: bool) -> Self {
        let (library, note) = match library {
            Ok(library) => (library.map(Arc::new), None),
            Err(note) => (None, Some(note)),
        };
        let path = path.filter(|_| timed && library.is_some());
        let choices = Choices::open(path.clone());
        let state = State { handle: std::ptr::null_mut(), plans: HashMap::new(), choices, note };
        Attentions { library, path, timed, state: Mutex::new(state) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`crate::cuda::driver::Driver::attention_scratch`].
    pub(super) fn scratch(&self, shape: AttentionShape, tokens: usize) -> usize {
        self.library.as_ref().map_or(0, |_| most_workspace(shape, tokens))
    }

    /// [`crate::cuda::driver::Driver::knows_attention`].
    pub(super) fn known(&self, attention: &Attention) -> Option<bool> {
        match self.library {
            Some(_) => self.lock().plans.get(&Problem::of(attention)).map(Option::is_some),
            None => Some(false),
        }
    }

    pub(super) fn take_note(&self) -> Option<String> {
        self.lock().note.take()
    }

    /// Starts the library's attention.
    ///
    /// # Errors
    /// The library refuses.
    pub(super) fn start(&self, attention: &Attention) -> Result<(), CudaError> {
        let state = self.lock();
        match (&self.library, state.plans.get(&Problem::of(attention))) {
            (Some(library), Some(Some(plan))) => plan.start(library, state.handle, attention),
            _ => panic!("no library computes {attention:?}"),
        }
    }

    /// Computes an attention that has not been met before, and decides who will from then on.
    ///
    /// # Errors
    /// Our kernels or the stream failed. What the library does wrong is no error: ours are used, and a note says why.
    pub(super) fn choose(
        &self,
        session: &Session,
        staging: &Staging,
        attention: &Attention,
        ours: &dyn Fn(),
    ) -> Result<(), CudaError> {
        let Some(library) = &self.library else {
            ours();
            return Ok(());
        };
        let mut state = self.lock();
        let problem = Problem::of(attention);
        let remembered = state.choices.get(&problem.to_string()).map(|choice| choice[0] != 0);
        let plan = match remembered {
            Some(false) => None,
            _ => match self.plan(&mut state, library, session, attention) {
                Ok(plan) => Some(plan),
                Err(error) => {
                    self.refuse(&mut state, &problem, &error.to_string());
                    None
                }
            },
        };
        let handle = state.handle;
        let (plan, better) = match plan {
            Some(plan) if remembered.is_none() => {
                let run = || plan.start(library, handle, attention);
                match self.compare(session, staging, attention, ours, &run)? {
                    Verdict::Library => (Some(plan), true),
                    Verdict::Ours => (Some(plan), false),
                    Verdict::Refused(reason) => {
                        self.refuse(&mut state, &problem, &reason);
                        (None, false)
                    }
                }
            }
            Some(plan) => (Some(plan), true),
            None => (None, false),
        };
        let better = match remembered {
            None if self.timed => {
                state.choices.settle(&problem.to_string(), [u64::from(better), 0, 0, 0, 0, 0, 0, 0])[0] != 0
            }
            _ => better,
        };
        let chosen = plan.filter(|_| better);
        // The result that stays is the chosen one's.
        match &chosen {
            Some(plan) => plan.start(library, handle, attention)?,
            None => ours(),
        }
        state.plans.insert(problem, chosen);
        Ok(())
    }

    /// Keeps a note of the first reason not to use the library.
    fn refuse(&self, state: &mut State, problem: &Problem, reason: &str) {
        let again = match &self.path {
            Some(path) => format!("; to try again, delete {}", path.display()),
            None => String::new(),
        };
        state.note.get_or_insert(format!("our kernels compute {problem}, for cuDNN's does not do: {reason}{again}"));
    }

    fn plan(
        &self,
        state: &mut State,
        library: &Arc<Cudnn>,
        session: &Session,
        attention: &Attention,
    ) -> Result<Plan, CudaError> {
        if state.handle.is_null() {
            let mut handle = std::ptr::null_mut();
            // SAFETY: writes the handle, in the current context; destroyed in `destroy`.
            cudnn::result(library, "cudnnCreate", unsafe { (library.cudnnCreate)(&raw mut handle) })?;
            state.handle = handle;
            // SAFETY: both are alive; the session's stream outlives the handle.
            let set = unsafe { (library.cudnnSetStream)(handle, session.stream.cast()) };
            cudnn::result(library, "cudnnSetStream", set)?;
        }
        Plan::new(library, Target::Handle(state.handle), Problem::of(attention), attention.scratch_bytes)
    }

    /// Runs both, compares what they leave, and times them.
    fn compare(
        &self,
        session: &Session,
        staging: &Staging,
        attention: &Attention,
        ours: &dyn Fn(),
        library: &dyn Fn() -> Result<(), CudaError>,
    ) -> Result<Verdict, CudaError> {
        let outputs = outputs(attention);
        let read = || -> Result<Vec<Vec<u8>>, CudaError> {
            let mut all = Vec::new();
            for (address, output) in &outputs {
                let mut bytes = vec![0; output.bytes()];
                staging.download(session, *address, &mut bytes)?;
                all.push(bytes);
            }
            Ok(all)
        };
        ours();
        session.check()?;
        let want = read()?;
        let mut first: Option<Vec<Vec<u8>>> = None;
        for _ in 0..REPEATS {
            // What is not written must not pass for ours.
            for (address, output) in &outputs {
                poison(session, *address, output.bytes())?;
            }
            if let Err(error) = library() {
                return Ok(Verdict::Refused(error.to_string()));
            }
            let got = read()?;
            if first.as_ref().is_some_and(|first| *first != got) {
                return Ok(Verdict::Refused("two runs of it differ".to_owned()));
            }
            first = Some(got);
        }
        let got = first.unwrap_or_default();
        for (((_, output), want), got) in outputs.iter().zip(&want).zip(&got) {
            if let Some(reason) = disagreement(output, want, got) {
                return Ok(Verdict::Refused(reason));
            }
        }
        if !self.timed {
            return Ok(Verdict::Library);
        }
        let our_time = time(session, &|| {
            ours();
            session.check()
        })?;
        Ok(match time(session, library) {
            Ok(their_time) if their_time < our_time * CLEARLY_FASTER => Verdict::Library,
            Ok(_) => Verdict::Ours,
            Err(error) => Verdict::Refused(error.to_string()),
        })
    }

    /// Ends the library; the stream is idle.
    pub(super) fn destroy(&self) {
        let mut state = self.lock();
        state.plans.clear();
        if let Some(library) = &self.library
            && !state.handle.is_null()
        {
            // SAFETY: created in `plan`; no attention runs any more.
            unsafe { (library.cudnnDestroy)(state.handle) };
            state.handle = std::ptr::null_mut();
        }
    }
}

enum Verdict {
    Library,
    Ours,
    /// Not because it is slow.
    Refused(String),
}

/// What an attention leaves.
fn outputs(attention: &Attention) -> Vec<(Address, Output)> {
    let Attention { shape: AttentionShape { n_head, n_kv_head, head_dim }, sequences, length, pass, .. } = *attention;
    let tokens = sequences * length;
    let heads = |name, heads| Output { name, dtype: DType::Bf16, rows: tokens * heads, width: head_dim };
    match pass {
        AttentionPass::Forward(Forward { out, lse, .. }) => {
            let of_lse = Output { name: "lse", dtype: DType::F32, rows: tokens * n_head, width: 1 };
            let lse = lse.map(|lse| (lse, of_lse));
            [Some((out, heads("out", n_head))), lse].into_iter().flatten().collect()
        }
        AttentionPass::Backward(Backward { dq, dk, dv, .. }) => {
            vec![(dq, heads("dq", n_head)), (dk, heads("dk", n_kv_head)), (dv, heads("dv", n_kv_head))]
        }
    }
}

/// Fills memory with NaN, of either type.
fn poison(session: &Session, at: Address, bytes: usize) -> Result<(), CudaError> {
    // SAFETY: an output of the attention, which its caller vouches for.
    let status = unsafe { (session.library.cuda.cuMemsetD8Async)(at.0, 0xff, bytes, session.stream) };
    session.result("cuMemsetD8Async", status)
}

/// Milliseconds.
fn time(session: &Session, run: &dyn Fn() -> Result<(), CudaError>) -> Result<f32, CudaError> {
    let (begin, end) = (Event::new(session, true)?, Event::new(session, true)?);
    let best = || -> Result<f32, CudaError> {
        let mut best = f32::INFINITY;
        for _ in 0..RUNS {
            begin.record(session)?;
            run()?;
            end.record(session)?;
            end.wait(session)?;
            best = best.min(begin.milliseconds_to(&end, session)?);
        }
        Ok(best)
    };
    let best = best();
    begin.destroy(session);
    end.destroy(session);
    best
}
