//! An unfinished answer as its task and its listeners share it.
//!
//! Listeners are not sent anything: each knows how much of the text it has had and takes the rest when it comes round. So a slow
//! one gets longer pieces and costs no memory, a late one gets all there is, and the task never waits for any.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::{Message, Status, Usage};

/// How long an answer goes on after the last listener has gone: a reload of the page may be quicker.
const GRACE: Duration = Duration::from_millis(100);

/// How long it goes on before the first has come.
const FIRST_GRACE: Duration = Duration::from_secs(2);

/// Something that a reader should know about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Older turns are being condensed; the answer begins after that.
    Summarising {
        /// Messages to condense.
        messages: u32,
    },
    /// A note stands for older turns.
    Summarised {
        /// Messages that the model does not see as they were written.
        dropped_messages: u32,
        /// The note.
        note_id: String,
    },
    /// Older turns are left out.
    Dropped {
        /// Messages that the model does not see.
        dropped_messages: u32,
        /// The note that stands for a part of them.
        note_id: Option<String>,
    },
    /// The model made no summary that is of use; turns are dropped instead.
    SummaryFailed {
        /// Why.
        reason: String,
    },
}

/// How much of the prompt has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Tokens read, cached ones included.
    pub read: usize,
    /// Tokens of the prompt.
    pub of: usize,
    /// Tokens that the cache had.
    pub cached: usize,
}

/// What a listener hears: a snapshot first, then what follows it, at last `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum ListenEvent {
    /// What there is so far.
    Snapshot {
        /// The text.
        content: String,
        /// The state.
        status: Status,
        /// Of an ended answer.
        usage: Option<Usage>,
    },
    /// More text.
    Delta(String),
    /// The prompt is being read.
    Progress(Progress),
    /// Something to know.
    Notice(Notice),
    /// It has ended.
    Done(Box<Message>),
    /// It has ended by an error.
    Failed(String),
}

#[derive(Debug, Clone, Copy)]
struct Control {
    listeners: usize,
    /// Without listeners: when the answer is to pause.
    deadline: Instant,
    stop: bool,
}

/// Why the task is to let go of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Nobody listens.
    Unwanted,
    /// Somebody stopped it, or the server is stopping.
    Stop,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    paused: bool,
    progress: Option<Progress>,
    notices: Vec<Notice>,
    outcome: Option<Result<Message, String>>,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) conversation: String,
    state: Mutex<State>,
    changes: watch::Sender<()>,
    control: watch::Sender<Control>,
}

impl Job {
    pub(super) fn new(id: String, conversation: String) -> Arc<Self> {
        let control = Control { listeners: 0, deadline: Instant::now() + FIRST_GRACE, stop: false };
        Arc::new(Self {
            id,
            conversation,
            state: Mutex::default(),
            changes: watch::Sender::new(()),
            control: watch::Sender::new(control),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changes.send_replace(());
    }

    pub(super) fn push(&self, text: &str) {
        self.change(|state| state.text.push_str(text));
    }

    pub(super) fn progress(&self, progress: Progress) {
        self.change(|state| state.progress = Some(progress));
    }

    pub(super) fn notice(&self, notice: Notice) {
        self.change(|state| {
            if !state.notices.contains(&notice) {
                state.notices.push(notice);
            }
        });
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.change(|state| state.paused = paused);
    }

    pub(super) fn end(&self, outcome: Result<Message, String>) {
        self.change(|state| state.outcome = Some(outcome));
    }

    pub(super) fn stop(&self) {
        self.control.send_modify(|control| control.stop = true);
    }

    /// Comes back when the task is to let go of the model.
    pub(super) async fn signal(&self) -> Signal {
        let mut control = self.control.subscribe();
        loop {
            let Control { listeners, deadline, stop } = *control.borrow_and_update();
            if stop {
                return Signal::Stop;
            }
            if listeners > 0 {
                // Never an error: the sender is in `self`.
                let _ = control.changed().await;
            } else if tokio::time::timeout_at(deadline, control.changed()).await.is_err() {
                return Signal::Unwanted;
            }
        }
    }

    /// Comes back when somebody listens, or with the reason to end without.
    pub(super) async fn wanted(&self, patience: Duration) -> Result<(), Signal> {
        let mut control = self.control.subscribe();
        let somebody = control.wait_for(|control| control.stop || control.listeners > 0);
        match tokio::time::timeout(patience, somebody).await {
            Ok(Ok(control)) if !control.stop => Ok(()),
            Ok(_) => Err(Signal::Stop),
            Err(_) => Err(Signal::Unwanted),
        }
    }

    /// Comes back with the outcome when there is one.
    pub(super) async fn ended(&self) -> Result<Message, String> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(outcome) = self.state().outcome.clone() {
                return outcome;
            }
            let _ = changes.changed().await;
        }
    }

    pub(super) fn listen(self: &Arc<Self>) -> Listener {
        self.control.send_modify(|control| control.listeners += 1);
        let live = Live {
            changes: self.changes.subscribe(),
            job: self.clone(),
            text: None,
            notices: 0,
            progress: None,
            ended: false,
        };
        Listener(Source::Live(live))
    }
}

/// What somebody hears of one answer. Dropping it is going away.
#[derive(Debug)]
pub struct Listener(Source);

#[derive(Debug)]
enum Source {
    Live(Live),
    /// An answer that had ended before.
    Ended(std::vec::IntoIter<ListenEvent>),
}

#[derive(Debug)]
struct Live {
    job: Arc<Job>,
    changes: watch::Receiver<()>,
    /// Bytes of the text that were given out; none before the snapshot.
    text: Option<usize>,
    notices: usize,
    progress: Option<Progress>,
    ended: bool,
}

impl Listener {
    /// Of a message that has ended.
    pub(super) fn of_ended(message: Message) -> Self {
        let snapshot =
            ListenEvent::Snapshot { content: message.content.clone(), status: message.status, usage: message.usage };
        Self(Source::Ended(vec![snapshot, ListenEvent::Done(Box::new(message))].into_iter()))
    }

    /// The next event; `None` after the last. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<ListenEvent> {
        let live = match &mut self.0 {
            Source::Ended(events) => return events.next(),
            Source::Live(live) => live,
        };
        loop {
            live.changes.borrow_and_update();
            if let Some(event) = live.take() {
                return Some(event);
            }
            if live.ended {
                return None;
            }
            // Never an error: the sender is in the job.
            let _ = live.changes.changed().await;
        }
    }
}

impl Live {
    /// What there is that was not given out yet.
    fn take(&mut self) -> Option<ListenEvent> {
        let state = self.job.state();
        let Some(given) = self.text else {
            self.text = Some(state.text.len());
            let status = match &state.outcome {
                Some(Ok(message)) => message.status,
                Some(Err(_)) => Status::Failed,
                None if state.paused => Status::Paused,
                None => Status::Running,
            };
            return Some(ListenEvent::Snapshot { content: state.text.clone(), status, usage: None });
        };
        if let Some(notice) = state.notices.get(self.notices) {
            self.notices += 1;
            return Some(ListenEvent::Notice(notice.clone()));
        }
        if given < state.text.len() {
            self.text = Some(state.text.len());
            return Some(ListenEvent::Delta(state.text[given..].to_owned()));
        }
        if let Some(progress) = state.progress.filter(|progress| self.progress != Some(*progress)) {
            self.progress = Some(progress);
            return Some(ListenEvent::Progress(progress));
        }
        if self.ended {
            return None;
        }
        let outcome = state.outcome.clone()?;
        self.ended = true;
        Some(match outcome {
            Ok(message) => ListenEvent::Done(Box::new(message)),
            Err(error) => ListenEvent::Failed(error),
        })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.job.control.send_modify(|control| {
            control.listeners -= 1;
            if control.listeners == 0 {
                control.deadline = Instant::now() + GRACE;
            }
        });
    }
}
