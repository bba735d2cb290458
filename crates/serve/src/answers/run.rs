//! The task of one answer: waits for somebody who listens, gets the prompt to fit, reads the model, stores what it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use casallm_model::sampler::SamplerConfig;

use super::error::AnswersError;
use super::job::{Job, Notice, Progress, Signal};
use super::prompt::Branch;
use super::summary::{Summary, summarise};
use super::{Shared, blocking};
use crate::chatbot::{Answer, AnswerEvent, AnswerRequest, ChatError, FinishReason, SpokenToken};
use crate::engine::{Priority, SubmitError};
use crate::overflow::{Decision, Plan, Policy};
use crate::store::{Context, Ending, Message, Overflow, Status, StoreError, Timing, Usage};

/// How long until a full queue is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// The most summaries before an answer: each condenses more, and a model that is this bad at it gets turns dropped.
const SUMMARIES: usize = 8;

/// How answers are drawn, and how long they may be.
#[derive(Debug, Clone)]
pub(super) struct Drawing {
    pub(super) sampling: SamplerConfig,
    pub(super) max_tokens: Option<usize>,
}

/// A prompt that fits.
pub(super) struct Prepared {
    pub(super) request: AnswerRequest,
    pub(super) overflow: Option<Overflow>,
}

impl Prepared {
    pub(super) fn new(shared: &Shared, branch: &Branch, plan: &Plan, drawing: &Drawing) -> Self {
        let turns = branch.turns(&shared.chatbot, plan.note, plan.first, branch.steps.len());
        let mut request = AnswerRequest::new(turns, drawing.sampling.clone());
        request.max_tokens = drawing.max_tokens;
        Self { request, overflow: branch.overflow(shared.config.policy, plan) }
    }
}

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) job: Arc<Job>,
    pub(super) drawing: Drawing,
    /// The message to answer.
    pub(super) question: String,
    /// As soon as the prompt is known.
    pub(super) prepared: Option<Prepared>,
    /// While the model is at it.
    pub(super) answer: Option<Answer>,
    pub(super) measures: Measures,
}

/// How a stretch of work ended.
enum Stretch {
    Finished(Status),
    Failed(String),
    Signal(Signal),
}

impl Task {
    /// Until the answer has ended, which its listeners then know.
    pub(super) async fn run(mut self) {
        let ending = self.work().await;
        let outcome = self.end(ending).await;
        let Self { shared, job, .. } = self;
        // Before anybody hears of the end: who deletes the conversation then stops this too.
        if outcome.is_ok() && shared.config.policy == Policy::Summarise {
            shared.condense_ahead(&job);
        }
        job.end(outcome);
        shared.jobs.send_modify(|jobs| drop(jobs.remove(&job.id)));
    }

    async fn work(&mut self) -> Result<Status, String> {
        loop {
            match self.stretch().await {
                Stretch::Finished(status) => return Ok(status),
                Stretch::Failed(reason) => return Err(reason),
                Stretch::Signal(Signal::Stop) => return Ok(Status::Stopped),
                Stretch::Signal(Signal::Unwanted) => {
                    self.measures.pause();
                    self.pause(true).await.map_err(|error| self.told(&error.into()))?;
                    // Stopped, or nobody came back.
                    if self.job.wanted(self.shared.config.patience).await.is_err() {
                        return Ok(Status::Stopped);
                    }
                    self.pause(false).await.map_err(|error| self.told(&error.into()))?;
                }
            }
        }
    }

    async fn pause(&self, paused: bool) -> Result<(), StoreError> {
        self.job.set_paused(paused);
        let id = self.job.id.clone();
        self.shared.store.run(move |database| database.set_paused(&id, paused)).await
    }

    /// Gets the model to answer, and reads it until it ends or a signal comes.
    async fn stretch(&mut self) -> Stretch {
        if self.answer.is_none() {
            let job = self.job.clone();
            // What is prepared is not stored anywhere: it may be dropped at any point.
            tokio::select! {
                biased;
                signal = job.signal() => return Stretch::Signal(signal),
                begun = self.begin() => if let Err(stretch) = begun { return stretch },
            }
        }
        let Some(mut answer) = self.answer.take() else { return Stretch::Failed("no answer was begun".to_owned()) };
        loop {
            let event = tokio::select! {
                biased;
                signal = self.job.signal() => return Stretch::Signal(signal),
                event = answer.next() => event,
            };
            match event {
                Some(AnswerEvent::Started { cached_tokens }) => self.measures.started(cached_tokens),
                Some(AnswerEvent::Reading { read, of }) => {
                    self.measures.reading(of);
                    self.job.progress(Progress { read, of, cached: self.measures.cached.unwrap_or(0) });
                }
                Some(AnswerEvent::Text { text, tokens }) => {
                    self.measures.spoke(&tokens);
                    let ids: Vec<u32> = tokens.into_iter().map(|token| token.id).collect();
                    self.job.push(&text);
                    let id = self.job.id.clone();
                    if let Err(error) = self.shared.store.run(move |database| database.append(&id, &text, &ids)).await {
                        return Stretch::Failed(self.told(&error.into()));
                    }
                }
                Some(AnswerEvent::Done(done)) => {
                    self.measures.reading(done.usage.prompt_tokens + self.measures.continued);
                    return Stretch::Finished(match done.finish {
                        FinishReason::Stop => Status::Complete,
                        FinishReason::Length => Status::Length,
                        FinishReason::Context => Status::Context,
                    });
                }
                Some(AnswerEvent::Failed(reason)) => return Stretch::Failed(reason),
                None => return Stretch::Failed("the model stopped in the middle of the answer".to_owned()),
            }
        }
    }

    /// Has the prompt fit, once, and submits it, with the ids that were made before.
    async fn begin(&mut self) -> Result<(), Stretch> {
        if self.prepared.is_none() {
            self.prepared = Some(self.prepare().await.map_err(|error| Stretch::Failed(self.told(&error)))?);
        }
        let ids = &self.measures.ids;
        if self.drawing.max_tokens.is_some_and(|most| ids.len() >= most) {
            return Err(Stretch::Finished(Status::Length));
        }
        loop {
            let Some(prepared) = &self.prepared else { return Err(Stretch::Failed("no prompt".to_owned())) };
            let mut request = prepared.request.clone();
            request.continue_ids.clone_from(ids);
            let shared = self.shared.clone();
            let submitted = blocking(move || Ok(shared.chatbot.answer(&request)?)).await;
            match submitted {
                Ok(answer) => {
                    self.measures.submitted();
                    self.answer = Some(answer);
                    return Ok(());
                }
                Err(AnswersError::Chat(ChatError::Submit(SubmitError::QueueFull { .. }))) => {
                    tokio::time::sleep(AGAIN).await;
                }
                // It was paused at its last token.
                Err(AnswersError::Chat(ChatError::Submit(SubmitError::TooLong { .. }))) if !ids.is_empty() => {
                    return Err(Stretch::Finished(Status::Context));
                }
                Err(error) => return Err(Stretch::Failed(self.told(&error))),
            }
        }
    }

    /// A failure as its listeners hear it. What is the owner's to mend goes to the log, and its words with it: they name files.
    fn told(&self, error: &AnswersError) -> String {
        let told = match error {
            AnswersError::Store(StoreError::DiskFull { .. }) => {
                "the server's disk is full; what was saved before is safe"
            }
            AnswersError::Store(StoreError::UnknownConversation(_) | StoreError::UnknownMessage(_))
            | AnswersError::Chat(_)
            | AnswersError::DoesNotFit(_)
            | AnswersError::Busy(_)
            | AnswersError::ShuttingDown => return error.to_string(),
            AnswersError::Store(_) | AnswersError::System(_) => "the server failed at this answer; its log says why",
        };
        self.shared.log(&format!("an answer failed: {error}"));
        told.to_owned()
    }

    /// Decides what of the branch goes to the model, condensing older turns first where that is needed.
    async fn prepare(&self) -> Result<Prepared, AnswersError> {
        let mut failed = None;
        for _ in 0..SUMMARIES {
            let (branch, decision) = self.decide().await?;
            let (condense, plan) = match decision {
                Decision::Answer(plan) => return Ok(self.prepared(&branch, &plan)),
                Decision::Condense(condense, plan) => (condense, plan),
            };
            // What is being condensed in the background is condensed here instead, at a reader's priority.
            self.shared.abort_summary(&self.job.conversation);
            let messages = u32::try_from(condense.end - condense.first).unwrap_or(u32::MAX);
            self.job.notice(Notice::Summarising { messages });
            let summary = loop {
                match summarise(&self.shared.chatbot, &branch, &condense, Priority::Interactive).await {
                    // As for the answer itself, which waits for the same queue.
                    Summary::Busy => tokio::time::sleep(AGAIN).await,
                    Summary::Text(text, tokens) => break Ok((text, tokens)),
                    Summary::Failed(reason) => break Err(reason),
                }
            };
            match summary {
                Ok((text, tokens)) => {
                    let through = branch.steps[condense.end - 1].message.id.clone();
                    self.shared.store.run(move |database| database.add_note(&through, &text, tokens)).await?;
                }
                Err(reason) => {
                    self.job.notice(Notice::SummaryFailed { reason });
                    return Ok(self.prepared(&branch, &plan));
                }
            }
            failed = Some((branch, plan));
        }
        let reason = "it took too many attempts".to_owned();
        self.job.notice(Notice::SummaryFailed { reason });
        match failed {
            Some((branch, plan)) => Ok(self.prepared(&branch, &plan)),
            None => Err(AnswersError::System("no prompt could be made".to_owned())),
        }
    }

    async fn decide(&self) -> Result<(Branch, Decision), AnswersError> {
        let (conversation, question) = (self.job.conversation.clone(), self.question.clone());
        let branch =
            self.shared.store.run(move |database| Branch::read(database, &conversation, Some(&question))).await?;
        let (shared, max_tokens) = (self.shared.clone(), self.drawing.max_tokens);
        blocking(move || {
            let decision = branch.decide(&shared.chatbot, shared.config.policy, max_tokens)?;
            Ok((branch, decision))
        })
        .await
    }

    fn prepared(&self, branch: &Branch, plan: &Plan) -> Prepared {
        let prepared = Prepared::new(&self.shared, branch, plan, &self.drawing);
        announce(&self.job, prepared.overflow.as_ref());
        prepared
    }

    /// Writes the end of the answer.
    async fn end(&mut self, ending: Result<Status, String>) -> Result<Message, String> {
        self.answer = None;
        let (status, reason) = match ending {
            Ok(status) => (status, None),
            Err(reason) => (Status::Failed, Some(reason)),
        };
        let overflow = self.prepared.as_ref().and_then(|prepared| prepared.overflow.clone());
        let limit = self.shared.chatbot.context();
        let ending = self.measures.ending(status, limit, overflow);
        let (id, written) = (self.job.id.clone(), ending.clone());
        let finished = self.shared.store.run(move |database| database.finish(&id, &written)).await;
        if let Err(error) = &finished
            && !matches!(error, StoreError::Ended(_) | StoreError::UnknownMessage(_))
        {
            self.shared.unwritten().insert(self.job.id.clone(), ending);
        }
        match reason {
            Some(reason) => Err(reason),
            None => finished.map_err(|error| self.told(&error.into())),
        }
    }
}

/// Tells listeners what the model does not see.
pub(super) fn announce(job: &Job, overflow: Option<&Overflow>) {
    let Some(overflow) = overflow else { return };
    let (dropped_messages, note_id) = (overflow.dropped_messages, overflow.note_id.clone());
    job.notice(match (overflow.policy, note_id) {
        (Policy::Summarise, Some(note_id)) => Notice::Summarised { dropped_messages, note_id },
        (_, note_id) => Notice::Dropped { dropped_messages, note_id },
    });
}

/// What an answer has taken so far, over all its stretches.
#[derive(Debug, Default)]
pub(super) struct Measures {
    ids: Vec<u32>,
    /// Ids that the present stretch began with.
    continued: usize,
    prompt_tokens: Option<usize>,
    cached: Option<usize>,
    asked: Option<Instant>,
    first_token: Option<Duration>,
    /// Of the present stretch: when its first and its last token were chosen.
    speaking: Option<(Instant, Instant)>,
    /// Of this stretch's tokens, those after the first.
    after_first: usize,
    /// Of the stretches before: time of speaking, and tokens that came in it.
    spoken: (Duration, usize),
}

impl Measures {
    /// The answer was asked for then.
    pub(super) fn since(asked: Instant) -> Self {
        Self { asked: Some(asked), ..Self::default() }
    }

    fn submitted(&mut self) {
        self.continued = self.ids.len();
    }

    fn started(&mut self, cached: usize) {
        self.cached.get_or_insert(cached);
    }

    fn reading(&mut self, of: usize) {
        self.prompt_tokens.get_or_insert(of.saturating_sub(self.continued));
    }

    fn spoke(&mut self, tokens: &[SpokenToken]) {
        // A text that was held back may come without a token.
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return };
        if let Some(asked) = self.asked {
            self.first_token.get_or_insert(first.at.saturating_duration_since(asked));
        }
        match &mut self.speaking {
            Some((_, end)) => {
                *end = last.at;
                self.after_first += tokens.len();
            }
            None => {
                self.speaking = Some((first.at, last.at));
                self.after_first = tokens.len() - 1;
            }
        }
        self.ids.extend(tokens.iter().map(|token| token.id));
    }

    fn pause(&mut self) {
        if let Some((first, last)) = self.speaking.take() {
            self.spoken.0 += last - first;
            self.spoken.1 += self.after_first;
        }
    }

    fn ending(&mut self, status: Status, limit: usize, overflow: Option<Overflow>) -> Ending {
        self.pause();
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let prompt = self.prompt_tokens.unwrap_or(0);
        let usage = Usage {
            prompt_tokens: count(prompt),
            completion_tokens: count(self.ids.len()),
            cached_tokens: count(self.cached.unwrap_or(0).min(prompt)),
        };
        let (time, tokens) = self.spoken;
        let timing = Timing {
            first_token_ms: self.first_token.map(|time| time.as_secs_f64() * 1e3),
            tokens_per_second: (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64()),
        };
        let context = Context { used: count(prompt + self.ids.len()), limit: count(limit), overflow };
        // Nothing is known of an answer that was stopped before the model came to it.
        let known = self.prompt_tokens.is_some();
        Ending {
            status,
            usage: known.then_some(usage),
            timing: self.first_token.map(|_| timing),
            context: known.then_some(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens that the engine has chosen these seconds after the beginning, all heard at once.
    fn tokens(begun: Instant, seconds: &[u64]) -> Vec<SpokenToken> {
        let chosen = |second: &u64| SpokenToken { id: 7, logprobs: None, at: begun + Duration::from_secs(*second) };
        seconds.iter().map(chosen).collect()
    }

    #[test]
    fn speed_is_the_engines_whenever_its_tokens_are_heard() {
        let begun = Instant::now();
        let mut measures = Measures { asked: Some(begun), ..Measures::default() };
        measures.spoke(&tokens(begun, &[3, 5]));
        measures.spoke(&tokens(begun, &[]));
        measures.spoke(&tokens(begun, &[7]));
        // Nobody wanted it for a while, which is no time of speaking.
        measures.pause();
        measures.spoke(&tokens(begun, &[100, 102]));
        let timing = measures.ending(Status::Complete, 50, None).timing.unwrap();
        assert_eq!((timing.first_token_ms, timing.tokens_per_second), (Some(3000.0), Some(0.5)));
        assert_eq!(measures.ids, [7; 5]);
    }
}
