//! Times listed work: every piece in turn, again and again, so that a disturbance of the machine meets all of them.

use std::time::{Duration, Instant};

use super::case::Case;
use super::tracer::Traced;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::ComputeError;

/// A timing lasts this many times as long as the wait at its end.
const WAITS: f64 = 20.0;
/// And at least this, in seconds: threads that have to be woken to begin should not count.
const SHORTEST: f64 = 1e-3;
/// Most calls of a timing.
const MOST_CALLS: usize = 10_000;
/// Where a timing has many calls they alternate between as many sets of operands as there are in a step, but not more
/// than reach this many bytes: more than a GPU's cache.
const OPERANDS: u64 = 128 << 20;
/// Rounds that are made whatever they take.
const ROUNDS: usize = 3;

/// Seconds of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// The middle one of all rounds.
    pub median: f64,
    /// The least.
    pub fastest: f64,
    /// The most.
    pub slowest: f64,
    /// Rounds.
    pub rounds: usize,
    /// Calls a round.
    pub calls: usize,
}

/// A piece of work with its operands.
struct Subject<D: Device> {
    cases: Vec<Case<D>>,
    calls: usize,
    seconds: Vec<f64>,
}

impl<D: Device> Subject<D> {
    /// Warms up, and finds out how many calls make a timing that the wait at its end does not distort.
    fn new(device: &D, mark: &D::Buffer, traced: &Traced, wait: f64) -> Result<Self, ComputeError> {
        let mut subject = Subject { cases: vec![Case::new(device, &traced.work)?], calls: 1, seconds: Vec::new() };
        // The first call may compile kernels and choose algorithms.
        subject.time(device, mark);
        let enough = SHORTEST.max(WAITS * wait);
        loop {
            let seconds = subject.time(device, mark) * subject.calls as f64;
            if seconds >= enough || subject.calls >= MOST_CALLS {
                break;
            }
            // Not further than ten times at once: the first call was slower than the others will be.
            let factor = (1.2 * enough / seconds.max(1e-9)).clamp(2.0, 10.0);
            subject.calls = ((subject.calls as f64 * factor) as usize).min(MOST_CALLS);
        }
        let fill = OPERANDS.div_ceil(traced.work.bytes().max(1)) as usize;
        for _ in 1..traced.calls.min(subject.calls).min(fill) {
            subject.cases.push(Case::new(device, &traced.work)?);
        }
        Ok(subject)
    }

    /// Seconds of a call, of one timing.
    fn time(&mut self, device: &D, mark: &D::Buffer) -> f64 {
        let start = Instant::now();
        let mut left = self.calls;
        while left > 0 {
            // As a step does: a device need not begin each of them by itself.
            let sets = left.min(self.cases.len());
            let now = &mut self.cases[..sets];
            left -= sets;
            match now {
                [case] => case.run(device),
                cases => device.together(|| cases.iter_mut().for_each(|case| case.run(device))),
            }
        }
        device.read_f32(mark, 0, &mut [0.0]);
        start.elapsed().as_secs_f64() / self.calls as f64
    }
}

/// Times every piece of work alone, in rounds until `budget` is spent (three at least). `wait` is
/// [`Ceilings::wait`](super::Ceilings); `progress` hears which share is done.
///
/// Operands have the usual sizes, and whatever the other pieces of a round have left in the caches is there. On a device
/// that waits long, calls are repeated until the wait does not count.
///
/// # Errors
/// The memory cannot be had, or the device has failed.
pub fn time<D: Device>(
    device: &D,
    work: &[Traced],
    wait: f64,
    budget: Duration,
    mut progress: impl FnMut(f64),
) -> Result<Vec<Timing>, ComputeError> {
    let mark = device.allocate("roofline mark", DType::F32, 1)?;
    let begun = Instant::now();
    let mut subjects = Vec::with_capacity(work.len());
    let mut told: f64 = 0.0;
    // Preparation costs about what two rounds do; beyond the rounds that must be, it is the budget that counts.
    let mut tell = |rounds: f64| {
        let elapsed = begun.elapsed().as_secs_f64();
        // Divided first: at the end the quotient is one, and so is the share.
        let total = (elapsed * ((ROUNDS + 2) as f64 / rounds)).max(budget.as_secs_f64());
        told = told.max(if rounds > (ROUNDS + 2) as f64 { elapsed / budget.as_secs_f64() } else { elapsed / total });
        progress(told.min(1.0));
    };
    for (i, traced) in work.iter().enumerate() {
        subjects.push(Subject::new(device, &mark, traced, wait)?);
        device.check()?;
        tell(2.0 * (i + 1) as f64 / work.len() as f64);
    }
    let mut rounds = 0;
    while rounds < ROUNDS || begun.elapsed() < budget {
        for (i, subject) in subjects.iter_mut().enumerate() {
            let seconds = subject.time(device, &mark);
            subject.seconds.push(seconds);
            tell((2 + rounds) as f64 + (i + 1) as f64 / work.len() as f64);
        }
        rounds += 1;
        device.check()?;
    }
    Ok(subjects.into_iter().map(|subject| Timing::of(subject.seconds, subject.calls)).collect())
}

impl Timing {
    /// Of all rounds' seconds a call.
    fn of(mut seconds: Vec<f64>, calls: usize) -> Self {
        seconds.sort_by(f64::total_cmp);
        let rounds = seconds.len();
        Timing { median: seconds[rounds / 2], fastest: seconds[0], slowest: seconds[rounds - 1], rounds, calls }
    }
}
