//! Answers by a model that spells: its letters are a function of all it has read, their number is asked for by the message.

mod listening;
mod model;
mod overflowing;

use std::sync::Arc;
use std::time::Duration;

use casallm_model::sampler::SamplerConfig;
use tempfile::TempDir;

use self::model::{Behaviour, chatbot};
use super::{Answers, AnswersConfig, ListenEvent, Listener, Notice};
use crate::chatbot::Chatbot;
use crate::overflow::Policy;
use crate::store::{Database, Message, NewConversation, Status, Store, Tree};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that an answer needs.
struct Setting {
    dir: TempDir,
    chatbot: Arc<Chatbot>,
    behaviour: Arc<Behaviour>,
    answers: Answers,
    conversation: String,
}

impl Setting {
    async fn new(context: usize, policy: Policy) -> Self {
        Self::with(context, AnswersConfig { policy, ..config() }).await
    }

    async fn with(context: usize, config: AnswersConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(Database::open(&dir.path().join("chat.db")).unwrap()).unwrap();
        let behaviour = Arc::new(Behaviour::default());
        let chatbot = Arc::new(chatbot(context, &behaviour));
        let answers = Answers::new(chatbot.clone(), store.clone(), config);
        let new = NewConversation { system_prompt: "Spell.".into(), ..Default::default() };
        let conversation = store.run(|database| database.create(new)).await.unwrap().id;
        Self { dir, chatbot, behaviour, answers, conversation }
    }

    /// Posts below `parent`, hears the answer to its end and returns it with the notices on the way.
    async fn ask(&self, parent: Option<&str>, text: &str) -> (Message, Vec<Notice>) {
        let (_, answer) = self.answers.post(&self.conversation, parent, text).await.unwrap();
        let heard = hear(self.answers.listen(&answer.id).await.unwrap()).await;
        (heard.done.unwrap(), heard.notices)
    }

    async fn tree(&self) -> Tree {
        let id = self.conversation.clone();
        self.answers.store().run(move |database| database.tree(&id)).await.unwrap()
    }

    async fn message(&self, id: &str) -> Message {
        let id = id.to_owned();
        self.answers.store().run(move |database| database.message(&id)).await.unwrap()
    }

    /// Waits until the message is as it should be.
    async fn until(&self, id: &str, status: Status) -> Message {
        let reached = async {
            loop {
                let message = self.message(id).await;
                if message.status == status {
                    return message;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the status is reached")
    }

    /// Waits until the model has nothing to do.
    async fn until_idle(&self) {
        let idle = async {
            while self.chatbot.engine().stats().running + self.chatbot.engine().stats().waiting > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.expect("the model becomes idle");
    }
}

fn config() -> AnswersConfig {
    AnswersConfig { sampling: SamplerConfig::greedy(), ..AnswersConfig::default() }
}

/// What a listener has heard.
#[derive(Debug)]
struct Heard {
    snapshot: (String, Status),
    text: String,
    notices: Vec<Notice>,
    done: Result<Message, String>,
}

async fn hear(mut listener: Listener) -> Heard {
    let Some(ListenEvent::Snapshot { content, status, .. }) = listener.next().await else {
        panic!("a snapshot comes first")
    };
    let mut heard =
        Heard { text: content.clone(), snapshot: (content, status), notices: Vec::new(), done: Err(String::new()) };
    loop {
        let event = tokio::time::timeout(PATIENCE, listener.next()).await.expect("something is heard");
        match event.expect("an answer ends with its end") {
            ListenEvent::Snapshot { .. } => panic!("a second snapshot"),
            ListenEvent::Delta(text) => heard.text.push_str(&text),
            ListenEvent::Progress(progress) => assert!(progress.read <= progress.of && progress.cached <= progress.of),
            ListenEvent::Notice(notice) => heard.notices.push(notice),
            ListenEvent::Done(message) => heard.done = Ok(*message),
            ListenEvent::Failed(error) => heard.done = Err(error),
        }
        if heard.done != Err(String::new()) {
            assert_eq!(listener.next().await, None);
            return heard;
        }
    }
}
