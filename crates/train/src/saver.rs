//! Writes checkpoints beside the training: what a checkpoint holds is copied between two steps, and a thread checks,
//! writes, syncs and renames it while the next steps run.
//!
//! One is under way at a time; who comes while it is waits for it. A checkpoint that cannot be written is no end of the
//! run: the trainer says so and tries again at the next one. The run ends only when the last one is down.

use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::Instant;

use casallm_compute::Device;
use casallm_model::parameters::Parameters;

use crate::checkpoint::CheckpointStore;
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::snapshot::{self, Progress, Snapshot};

/// What stands beside the tensors.
pub(crate) struct Label {
    /// Steps done.
    pub(crate) step: u64,
    /// The numbers.
    pub(crate) progress: Progress,
    /// The metrics, which are synced first.
    pub(crate) metrics: File,
    /// The validation loss, if it is the lowest so far: then the checkpoint is marked.
    pub(crate) best: Option<f64>,
}

impl Label {
    /// Syncs the metrics, writes the checkpoint, marks it.
    fn write(
        &self,
        store: &CheckpointStore,
        tensors: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.metrics.sync_data().map_err(|source| TrainError::from_io(store.directory(), "sync", 0, source))?;
        tensors()?;
        self.best.map_or(Ok(()), |loss| store.mark_best(self.step, loss))
    }
}

/// How a checkpoint ended.
pub(crate) struct Saved {
    /// Steps done at it.
    pub(crate) step: u64,
    /// Whether it is down.
    pub(crate) result: Result<(), TrainError>,
}

/// The thread, as the trainer sees it.
struct Writer {
    jobs: Sender<(Label, Snapshot)>,
    done: Receiver<(Saved, Snapshot)>,
    busy: bool,
    /// The memory of the copy, while it is not being written.
    spare: Snapshot,
}

/// Where a run's checkpoints go.
pub(crate) struct Saver<'env> {
    store: &'env CheckpointStore,
    /// None where the steps wait for the disk.
    writer: Option<Writer>,
}

impl<'env> Saver<'env> {
    /// Checkpoints of a store, written by a thread of `scope`, which ends when this is dropped, or by whoever trains.
    pub(crate) fn new<'scope>(
        store: &'env CheckpointStore,
        background: bool,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Self {
        let thread = || {
            let (jobs, next) = channel::<(Label, Snapshot)>();
            let (tell, done) = channel();
            scope.spawn(move || {
                for (label, snapshot) in next {
                    let result = label.write(store, || snapshot.write(store, label.step, &label.progress));
                    // Nobody listens any more where the run has ended by an error.
                    let _ = tell.send((Saved { step: label.step, result }, snapshot));
                }
            });
            Writer { jobs, done, busy: false, spare: Snapshot::default() }
        };
        Saver { store, writer: background.then(thread) }
    }

    /// The checkpoints.
    pub(crate) fn store(&self) -> &'env CheckpointStore {
        self.store
    }

    /// Takes the memory of the copy before the first step, where it is the host's: the first checkpoint would otherwise wait for
    /// each of its pages to be made.
    ///
    /// # Errors
    /// The device has failed.
    pub(crate) fn reserve<D: Device>(
        &mut self,
        parameters: &Parameters<D>,
        optimizer: &Optimizer<D>,
    ) -> Result<(), TrainError> {
        match &mut self.writer {
            Some(writer) if parameters.device().is_host() => writer.spare.capture(parameters, optimizer),
            _ => Ok(()),
        }
    }

    /// Waits for the checkpoint that is under way, if any, and says how it ended.
    pub(crate) fn wait(&mut self) -> Option<Saved> {
        let writer = self.writer.as_mut().filter(|writer| writer.busy)?;
        writer.busy = false;
        // The thread ends by itself only when it panics, and then the scope does.
        let (saved, snapshot) = writer.done.recv().ok()?;
        writer.spare = snapshot;
        Some(saved)
    }

    /// How the checkpoint under way ended, if it has.
    pub(crate) fn poll(&mut self) -> Option<Saved> {
        let writer = self.writer.as_mut().filter(|writer| writer.busy)?;
        let (saved, snapshot) = writer.done.try_recv().ok()?;
        (writer.busy, writer.spare) = (false, snapshot);
        Some(saved)
    }

    /// Begins a checkpoint; called when none is under way. In the background this takes the time of a copy, and how it
    /// ended is known from [`Saver::wait`] or [`Saver::poll`]; otherwise it is said at once.
    ///
    /// # Errors
    /// The device has failed.
    pub(crate) fn begin<D: Device>(
        &mut self,
        label: Label,
        parameters: &Parameters<D>,
        optimizer: &Optimizer<D>,
    ) -> Result<Option<Saved>, TrainError> {
        let Some(writer) = &mut self.writer else {
            parameters.device().check()?;
            let write = || snapshot::save(self.store, label.step, &label.progress, parameters, optimizer);
            return Ok(Some(Saved { step: label.step, result: label.write(self.store, write) }));
        };
        let mut snapshot = std::mem::take(&mut writer.spare);
        snapshot.capture(parameters, optimizer)?;
        writer.busy = writer.jobs.send((label, snapshot)).is_ok();
        Ok(None)
    }
}

/// What `what` gives, and the seconds that it takes.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let begun = Instant::now();
    let result = what();
    (result, begun.elapsed().as_secs_f64())
}
