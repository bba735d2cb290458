//! Answers of stored conversations: begun by a message, kept in the store token by token, listened to by any number of readers,
//! paused when nobody listens, gone on with when somebody does. Conversations that have become too long for the model are
//! made to fit here. Called by the HTTP interface.

mod error;
mod job;
mod prompt;
mod run;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casallm_model::sampler::SamplerConfig;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::error::AnswersError;
use self::job::Job;
pub use self::job::{ListenEvent, Listener, Notice, Progress};
use self::prompt::Branch;
use self::run::{Drawing, Measures, Prepared, Task};
use self::summary::{Summary, summarise};
use crate::chatbot::{Answer, Chatbot};
use crate::engine::Priority;
use crate::overflow::{Decision, Policy};
use crate::store::{Conversation, Database, Ending, Message, Role, Settings, Step, Store, StoreError};

/// The most answers that may be unfinished, those that are paused included.
const UNFINISHED: usize = 256;

/// Habits.
#[derive(Debug, Clone)]
pub struct AnswersConfig {
    /// What is done with a conversation that is too long.
    pub policy: Policy,
    /// How answers are drawn where the conversation's settings say nothing. The seed is not looked at.
    pub sampling: SamplerConfig,
    /// Most tokens of an answer where the settings say nothing.
    pub max_tokens: Option<usize>,
    /// Most tokens of an answer, whatever the settings say.
    pub max_tokens_limit: Option<usize>,
    /// How long an answer waits for a listener before it is stopped.
    pub patience: Duration,
    /// Where a line for the owner goes, when an answer fails. No line holds what people wrote.
    pub log: Option<fn(&str)>,
}

impl Default for AnswersConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            sampling: SamplerConfig::default(),
            max_tokens: None,
            max_tokens_limit: None,
            patience: Duration::from_secs(300),
            log: None,
        }
    }
}

/// The answers of a store by a model. Clones share them.
#[derive(Clone)]
pub struct Answers {
    shared: Arc<Shared>,
}

struct Shared {
    chatbot: Arc<Chatbot>,
    store: Store,
    config: AnswersConfig,
    /// Unfinished answers by their message's id.
    jobs: watch::Sender<HashMap<String, Arc<Job>>>,
    /// Ends that the store did not take, as on a full disk, by their message: written when somebody comes back to it.
    unwritten: Mutex<HashMap<String, Ending>>,
    /// Summaries that are made in the background, by conversation; none when no more are to begin.
    summaries: Mutex<Option<HashMap<String, AbortHandle>>>,
}

impl Answers {
    /// Answers of nothing yet.
    pub fn new(chatbot: Arc<Chatbot>, store: Store, config: AnswersConfig) -> Self {
        let jobs = watch::Sender::new(HashMap::new());
        let summaries = Mutex::new(Some(HashMap::new()));
        let unwritten = Mutex::default();
        Self { shared: Arc::new(Shared { chatbot, store, config, jobs, unwritten, summaries }) }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Unfinished answers, those that are paused included.
    pub fn unfinished(&self) -> usize {
        self.shared.jobs.borrow().len()
    }

    /// Puts a person's message below `parent` (an ended answer, or none to begin) and begins to answer it.
    ///
    /// # Errors
    /// See [`AnswersError`]; nothing is stored then.
    pub async fn post(
        &self,
        conversation: &str,
        parent: Option<&str>,
        content: &str,
    ) -> Result<(Message, Message), AnswersError> {
        // The model may be at it before the disk has the question.
        let asked = Instant::now();
        self.check_room()?;
        if let Some(parent) = parent {
            self.write_end(parent).await?;
        }
        let (id, above, text) = (conversation.to_owned(), parent.map(str::to_owned), content.to_owned());
        let (found, branch) = self
            .shared
            .store
            .run(move |database| {
                let mut branch = Branch::read(database, &id, above.as_deref())?;
                branch.steps.push(Step { message: not_yet(&id, text), tokens: None });
                Ok((database.conversation(&id)?, branch))
            })
            .await?;
        let drawing = self.drawing(&found)?;
        let (prepared, answer) = self.try_begin(branch, &drawing).await?;
        let (id, above, text) = (conversation.to_owned(), parent.map(str::to_owned), content.to_owned());
        let answers = self.clone();
        whatever_happens(async move {
            let tokenizer = answers.shared.chatbot.card().tokenizer.clone();
            let stored = move |database: &mut Database| database.ask(&id, above.as_deref(), &text, &tokenizer);
            let (user, message) = answers.shared.store.run(stored).await?;
            answers.spawn(&message, user.id.clone(), drawing, (prepared, answer), asked);
            Ok((user, message))
        })
        .await
    }

    /// Begins another answer to the message that `answer` answers.
    ///
    /// # Errors
    /// See [`AnswersError`]; nothing is stored then.
    pub async fn regenerate(&self, answer: &str) -> Result<Message, AnswersError> {
        let asked = Instant::now();
        self.check_room()?;
        let id = answer.to_owned();
        let (found, branch, question) = self
            .shared
            .store
            .run(move |database| {
                let old = database.message(&id)?;
                let Some(question) = old.parent_id.filter(|_| old.role == Role::Assistant) else {
                    return Err(StoreError::Parent { parent: old.id, reason: "only an answer can be generated again" });
                };
                let branch = Branch::read(database, &old.conversation_id, Some(&question))?;
                Ok((database.conversation(&old.conversation_id)?, branch, question))
            })
            .await?;
        let drawing = self.drawing(&found)?;
        let (prepared, begun) = self.try_begin(branch, &drawing).await?;
        let (id, answers) = (answer.to_owned(), self.clone());
        whatever_happens(async move {
            let tokenizer = answers.shared.chatbot.card().tokenizer.clone();
            let message = answers.shared.store.run(move |database| database.answer_again(&id, &tokenizer)).await?;
            answers.spawn(&message, question, drawing, (prepared, begun), asked);
            Ok(message)
        })
        .await
    }

    /// Stops the answer `id`, which keeps what it has. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`].
    pub async fn stop(&self, id: &str) -> Result<Message, AnswersError> {
        if let Some(job) = self.job(id) {
            job.stop();
            // An answer that failed has ended too.
            let _ = job.ended().await;
        }
        self.write_end(id).await?;
        let id = id.to_owned();
        Ok(self.shared.store.run(move |database| database.message(&id)).await?)
    }

    /// Listens to the answer `id`. As long as anybody does, it goes on.
    ///
    /// # Errors
    /// [`StoreError::UnknownMessage`].
    pub async fn listen(&self, id: &str) -> Result<Listener, AnswersError> {
        if let Some(job) = self.job(id) {
            return Ok(job.listen());
        }
        self.write_end(id).await?;
        let message_id = id.to_owned();
        let message = self.shared.store.run(move |database| database.message(&message_id)).await?;
        // It may have been begun by somebody else in between.
        Ok(self.job(id).map_or_else(|| Listener::of_ended(message), |job| job.listen()))
    }

    /// Deletes a conversation, after stopping what is written in it.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`].
    pub async fn delete(&self, conversation: &str) -> Result<(), AnswersError> {
        self.shared.abort_summary(conversation);
        let jobs: Vec<Arc<Job>> =
            self.shared.jobs.borrow().values().filter(|job| job.conversation == conversation).cloned().collect();
        for job in jobs {
            job.stop();
            let _ = job.ended().await;
        }
        self.shared.abort_summary(conversation);
        let id = conversation.to_owned();
        Ok(self.shared.store.run(move |database| database.delete(&id)).await?)
    }

    /// Begins nothing more, lets answers end by themselves for `patience`, then stops them with what they have.
    /// The store stays open.
    pub async fn shutdown(&self, patience: Duration) {
        let summaries = self.shared.summaries().take();
        summaries.into_iter().flatten().for_each(|(_, summary)| summary.abort());
        let mut jobs = self.shared.jobs.subscribe();
        let idle = tokio::time::timeout(patience, jobs.wait_for(HashMap::is_empty)).await.is_ok();
        if !idle {
            self.shared.jobs.borrow().values().for_each(|job| job.stop());
            // Never an error: the sender is in `self`.
            let _ = jobs.wait_for(HashMap::is_empty).await;
        }
    }

    fn job(&self, id: &str) -> Option<Arc<Job>> {
        self.shared.jobs.borrow().get(id).cloned()
    }

    /// Writes the end of an answer, if the store did not take it when it came.
    async fn write_end(&self, id: &str) -> Result<(), AnswersError> {
        let ending = self.shared.unwritten().get(id).cloned();
        let Some(ending) = ending else { return Ok(()) };
        let message = id.to_owned();
        match self.shared.store.run(move |database| database.finish(&message, &ending)).await {
            // Written at the same time by somebody else, or deleted.
            Ok(_) | Err(StoreError::Ended(_) | StoreError::UnknownMessage(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.shared.unwritten().remove(id);
        Ok(())
    }

    fn check_room(&self) -> Result<(), AnswersError> {
        if self.shared.summaries().is_none() {
            return Err(AnswersError::ShuttingDown);
        }
        let unfinished = self.unfinished();
        if unfinished >= UNFINISHED { Err(AnswersError::Busy(unfinished)) } else { Ok(()) }
    }

    /// The conversation's settings over the server's.
    fn drawing(&self, conversation: &Conversation) -> Result<Drawing, AnswersError> {
        let config = &self.shared.config;
        let Settings { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, seed } = conversation.settings;
        let seed = match seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|error| AnswersError::System(error.to_string()))?,
        };
        let default = &config.sampling;
        let sampling = SamplerConfig {
            temperature: temperature.unwrap_or(default.temperature),
            top_k: top_k.map_or(default.top_k, |k| k as usize),
            top_p: top_p.unwrap_or(default.top_p),
            min_p: min_p.unwrap_or(default.min_p),
            seed,
            ..default.clone()
        };
        let sampling = sampling.penalised(repetition_penalty);
        let asked = max_tokens.map(|most| most as usize).or(config.max_tokens);
        Ok(Drawing { sampling, max_tokens: asked.into_iter().chain(config.max_tokens_limit).min() })
    }

    /// Submits the branch to the model, so that what it refuses is refused before anything is stored. If older turns have to
    /// be condensed first there is nothing yet: the answer's task does it.
    async fn try_begin(
        &self,
        branch: Branch,
        drawing: &Drawing,
    ) -> Result<(Option<Prepared>, Option<Answer>), AnswersError> {
        let (shared, drawing) = (self.shared.clone(), drawing.clone());
        blocking(move || {
            let plan = match branch.decide(&shared.chatbot, shared.config.policy, drawing.max_tokens)? {
                Decision::Answer(plan) => plan,
                Decision::Condense(..) => return Ok((None, None)),
            };
            let prepared = Prepared::new(&shared, &branch, &plan, &drawing);
            let answer = shared.chatbot.answer(&prepared.request)?;
            Ok((Some(prepared), Some(answer)))
        })
        .await
    }

    fn spawn(
        &self,
        message: &Message,
        question: String,
        drawing: Drawing,
        (prepared, answer): (Option<Prepared>, Option<Answer>),
        asked: Instant,
    ) {
        let job = Job::new(message.id.clone(), message.conversation_id.clone());
        run::announce(&job, prepared.as_ref().and_then(|prepared| prepared.overflow.as_ref()));
        self.shared.jobs.send_modify(|jobs| drop(jobs.insert(message.id.clone(), job.clone())));
        // A shutdown that began in the meantime has not seen it.
        if self.shared.summaries().is_none() {
            job.stop();
        }
        let measures = Measures::since(asked);
        let task = Task { shared: self.shared.clone(), job, drawing, question, prepared, answer, measures };
        tokio::spawn(task.run());
    }
}

impl Shared {
    fn unwritten(&self) -> std::sync::MutexGuard<'_, HashMap<String, Ending>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, line: &str) {
        if let Some(log) = self.config.log {
            log(line);
        }
    }

    fn summaries(&self) -> std::sync::MutexGuard<'_, Option<HashMap<String, AbortHandle>>> {
        self.summaries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abort_summary(&self, conversation: &str) {
        let summary = self.summaries().as_mut().and_then(|summaries| summaries.remove(conversation));
        if let Some(summary) = summary {
            summary.abort();
        }
    }

    /// Condenses older turns in the background after an answer, if the conversation nears the end of the context.
    fn condense_ahead(self: &Arc<Self>, job: &Arc<Job>) {
        let (shared, conversation, leaf) = (self.clone(), job.conversation.clone(), job.id.clone());
        let mut summaries = self.summaries();
        let Some(summaries) = summaries.as_mut() else { return };
        let task = tokio::spawn(async move {
            // Nobody waits for it: what fails here is tried again before it is needed, and reported then.
            let _ = shared.make_note(&conversation, &leaf).await;
        });
        summaries.retain(|_, summary| !summary.is_finished());
        if let Some(former) = summaries.insert(job.conversation.clone(), task.abort_handle()) {
            former.abort();
        }
    }

    async fn make_note(self: Arc<Self>, conversation: &str, leaf: &str) -> Result<(), AnswersError> {
        let (id, leaf) = (conversation.to_owned(), leaf.to_owned());
        let branch = self.store.run(move |database| Branch::read(database, &id, Some(&leaf))).await?;
        let shared = self.clone();
        let (branch, condense) = blocking(move || {
            let condense = branch.condense_ahead(&shared.chatbot)?;
            Ok((branch, condense))
        })
        .await?;
        let Some(condense) = condense else { return Ok(()) };
        if let Summary::Text(text, tokens) = summarise(&self.chatbot, &branch, &condense, Priority::Background).await {
            let through = branch.steps[condense.end - 1].message.id.clone();
            self.store.run(move |database| database.add_note(&through, &text, tokens)).await?;
        }
        Ok(())
    }
}

/// A message as it is before it is stored.
fn not_yet(conversation: &str, content: String) -> Message {
    Message {
        id: String::new(),
        conversation_id: conversation.to_owned(),
        parent_id: None,
        role: Role::User,
        content,
        status: crate::store::Status::Complete,
        created_at: 0,
        usage: None,
        timing: None,
        context: None,
    }
}

/// Runs in a task of its own: whoever asked may go away in the middle, and that must not leave an answer in the store that
/// nobody writes.
async fn whatever_happens<T: Send + 'static>(
    work: impl Future<Output = Result<T, AnswersError>> + Send + 'static,
) -> Result<T, AnswersError> {
    tokio::spawn(work).await.map_err(|error| AnswersError::System(error.to_string()))?
}

/// Runs what computes for a while, such as encoding a long conversation, away from the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AnswersError> + Send + 'static,
) -> Result<T, AnswersError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| AnswersError::System(error.to_string()))?
}
