//! Notices that steps take longer than they did, and that the clock on the wall jumps. Asked after every step.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use crate::events::What;
use crate::machine::Machine;

/// Steps whose median is what a step usually takes.
const WINDOW: usize = 64;
/// Fewer steps have no median worth the name.
const ENOUGH: usize = 16;
/// Steps whose median is what steps take now.
const RECENT: usize = 8;
/// A step that takes so many times the usual is slow.
const SLOW: f64 = 2.0;
/// Steps that take so many times the usual have become slower.
const SLOWER: f64 = 1.3;
/// Less than this a step is nobody's trouble.
const WORTH_SAYING: f64 = 1.0;
/// Clocks are corrected a little all the time; this is more.
const CLOCK_JUMP: f64 = 5.0;

/// How long steps have taken.
pub(crate) struct Pace {
    /// Seconds, the last step's last.
    seconds: VecDeque<f64>,
    /// Steps until something may be said again: a machine that has become slow stays so.
    quiet: usize,
    clocks: (Instant, SystemTime),
}

impl Pace {
    pub(crate) fn new() -> Self {
        Pace { seconds: VecDeque::new(), quiet: 0, clocks: (Instant::now(), SystemTime::now()) }
    }

    /// A step took `seconds`: what there is to say about it.
    pub(crate) fn step(&mut self, seconds: f64) -> Option<What> {
        self.quiet = self.quiet.saturating_sub(1);
        let usual = median(self.seconds.iter());
        let enough = self.seconds.len() >= ENOUGH;
        self.seconds.push_back(seconds);
        if self.seconds.len() > WINDOW {
            self.seconds.pop_front();
        }
        if !enough || self.quiet > 0 {
            return None;
        }
        let before = self.seconds.len() - RECENT;
        let (then, now) = (median(self.seconds.iter().take(before)), median(self.seconds.iter().skip(before)));
        let what = if now > SLOWER * then && (now - then) * RECENT as f64 > WORTH_SAYING {
            What::Slower { seconds: now, usual: then, machine: Machine::read() }
        } else if seconds > SLOW * usual && seconds - usual > WORTH_SAYING {
            What::SlowStep { seconds, usual, machine: Machine::read() }
        } else {
            return None;
        };
        self.quiet = WINDOW;
        Some(what)
    }

    /// Whether the clock on the wall has gone another way than time.
    pub(crate) fn clock(&mut self) -> Option<What> {
        self.clock_at(Instant::now(), SystemTime::now())
    }

    fn clock_at(&mut self, now: Instant, wall: SystemTime) -> Option<What> {
        let (then, wall_then) = std::mem::replace(&mut self.clocks, (now, wall));
        let passed = match wall.duration_since(wall_then) {
            Ok(passed) => passed.as_secs_f64(),
            Err(error) => -error.duration().as_secs_f64(),
        };
        let seconds = passed - now.saturating_duration_since(then).max(Duration::ZERO).as_secs_f64();
        (seconds.abs() > CLOCK_JUMP).then_some(What::Clock { seconds })
    }
}

/// The upper median; 0 of none.
fn median<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let mut values: Vec<f64> = values.copied().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(seconds: impl IntoIterator<Item = f64>) -> Vec<(usize, What)> {
        let mut pace = Pace::new();
        seconds.into_iter().enumerate().filter_map(|(i, s)| pace.step(s).map(|what| (i, what))).collect()
    }

    #[test]
    fn a_step_of_twice_the_usual_is_said_once() {
        let steps = (0..60).map(|i| if i == 5 || i == 40 || i == 42 { 5.0 } else { 2.0 });
        let told = told(steps);
        assert!(
            matches!(&told[..], [(40, What::SlowStep { seconds, usual, .. })] if (*seconds, *usual) == (5.0, 2.0)),
            "{told:?}"
        );
    }

    #[test]
    fn steps_that_have_become_slower_are_said_when_half_of_the_last_few_are() {
        let told = told((0..90).map(|i| if i < 50 { 1.0 } else { 1.4 }));
        assert!(
            matches!(&told[..], [(53, What::Slower { seconds, usual, .. })] if (*seconds, *usual) == (1.4, 1.0)),
            "{told:?}"
        );
    }

    #[test]
    fn the_jitter_of_short_steps_is_nothing() {
        assert_eq!(told((0..200).map(|i| if i % 7 == 0 { 0.05 } else { 0.001 })), []);
        assert_eq!(told((0..200).map(|i| 1.0 + 0.2 * f64::from(i % 3))), []);
    }

    #[test]
    fn a_clock_that_is_set_back_is_told_from_time_that_passes() {
        let mut pace = Pace::new();
        let (now, wall) = pace.clocks;
        let hour = Duration::from_secs(3600);
        assert_eq!(pace.clock_at(now + hour, wall + hour), None);
        match pace.clock_at(now + 2 * hour, wall) {
            Some(What::Clock { seconds }) => assert!((seconds + 7200.0).abs() < 1e-6, "{seconds}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(pace.clock_at(now + 3 * hour, wall + hour), None);
    }
}
