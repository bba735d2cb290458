//! One task of what a [`crate::console::Console`] shows: its bar, and how long it will still take. Both count from where
//! this process found the task, not from its beginning: most of it may be the work of a process before.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A task under way.
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) bar: ProgressBar,
    /// What was done when it was first seen here, and when that was.
    first: u64,
    since: Instant,
}

impl Task {
    /// Begins where `done` of `total` are done; the bar is drawn on `target`.
    pub(crate) fn new(name: &str, unit: &str, done: u64, total: Option<u64>, target: ProgressDrawTarget) -> Self {
        // Not drawn before it knows where it begins.
        let bar = match total {
            Some(total) => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()),
            None => {
                let bar = ProgressBar::new_spinner();
                bar.set_draw_target(ProgressDrawTarget::hidden());
                bar
            }
        };
        let counts = match unit {
            "bytes" => "{bytes}/{total_bytes}",
            _ => "{pos}/{len}",
        };
        let template = match total {
            Some(_) => format!("{{prefix:14}} {{bar:28}} {counts} {{elapsed}} left {{eta}}  {{msg}}"),
            None => "{prefix:14} {spinner} {bytes} {elapsed}  {msg}".to_owned(),
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.set_position(done);
        // The bar takes its first position for work of no time at all. This forgets the speed and keeps the position.
        bar.reset_eta();
        bar.set_draw_target(target);
        Task { name: name.to_owned(), bar, first: done, since: Instant::now() }
    }

    /// Moves the bar.
    pub(crate) fn show(&mut self, done: u64, message: &str) {
        if done < self.first {
            // Gone back to before this process: that is where it begins now.
            (self.first, self.since) = (done, Instant::now());
        }
        self.bar.set_position(done);
        self.bar.set_message(message.to_owned());
    }

    /// Seconds until all of `total` is done, at the speed of this process.
    pub(crate) fn left(&self, done: u64, total: u64) -> Option<f64> {
        left(self.since.elapsed().as_secs_f64(), self.first, done, total)
    }
}

/// Seconds until `total` where it took `seconds` from `first` to `done`; `None` where nothing was done in them.
fn left(seconds: f64, first: u64, done: u64, total: u64) -> Option<f64> {
    let here = done.checked_sub(first).filter(|here| *here > 0)?;
    Some(seconds / here as f64 * total.saturating_sub(done) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_from_the_steps_of_this_process() {
        // 10 steps in 20 seconds, 90 to go.
        assert_eq!(left(20.0, 0, 10, 100), Some(180.0));
        // Of 900 steps an earlier process did 890.
        assert_eq!(left(20.0, 890, 900, 1000), Some(200.0));
        assert_eq!(left(20.0, 890, 1000, 1000), Some(0.0));
        assert_eq!(left(20.0, 890, 1001, 1000), Some(0.0));
        assert_eq!(left(20.0, 890, 890, 1000), None);
        assert_eq!(left(20.0, 890, 880, 1000), None);
    }

    #[test]
    fn a_bar_that_begins_in_the_middle_has_no_speed_yet() {
        let mut task = Task::new("pretrain", "steps", 900, Some(1000), ProgressDrawTarget::hidden());
        assert_eq!(task.bar.position(), 900);
        assert_eq!(task.bar.per_sec(), 0.0);
        assert_eq!(task.left(900, 1000), None);
        task.show(900, "");
        assert_eq!(task.bar.per_sec(), 0.0);
        // Back to before it, and on.
        task.show(880, "");
        assert_eq!(task.left(880, 1000), None);
        assert!(task.left(881, 1000).is_some());
    }
}
