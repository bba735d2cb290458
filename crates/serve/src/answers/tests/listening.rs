//! Listeners, pauses, ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Setting, config, hear};
use crate::answers::{AnswersConfig, AnswersError, ListenEvent, Listener};
use crate::chatbot::{AnswerEvent, AnswerRequest, Turn};
use crate::overflow::Policy;
use crate::store::{Database, Role, Status, StoreError};

/// What the model says to this when nothing comes in between.
async fn alone(setting: &Setting, texts: &[&str]) -> String {
    let mut turns: Vec<Turn> = vec![casallm_data::chat::Message::system("Spell.").into()];
    for (place, text) in texts.iter().enumerate() {
        let message = if place % 2 == 0 {
            casallm_data::chat::Message::user(*text)
        } else {
            casallm_data::chat::Message::assistant(*text)
        };
        turns.push(message.into());
    }
    let mut answer = setting.chatbot.answer(&AnswerRequest::new(turns, config().sampling)).unwrap();
    let mut said = String::new();
    while let Some(event) = answer.next().await {
        if let AnswerEvent::Text { text, .. } = event {
            said.push_str(&text);
        }
    }
    said
}

/// Listens until something new is said, and returns all there is then.
async fn some(listener: &mut Listener) -> String {
    let mut all = String::new();
    loop {
        match listener.next().await.unwrap() {
            ListenEvent::Snapshot { content, .. } => all = content,
            ListenEvent::Delta(text) => return all + &text,
            ListenEvent::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_speed_of_an_answer_is_that_of_its_tokens_however_late_it_is_heard() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    setting.behaviour.pace.store(1, Ordering::Relaxed);
    let turns = vec![casallm_data::chat::Message::user("20 letters, please").into()];
    let mut answer = setting.chatbot.answer(&AnswerRequest::new(turns, config().sampling)).unwrap();
    // All of it waits to be heard.
    setting.until_idle().await;
    let mut times = Vec::new();
    let timing = loop {
        match answer.next().await.unwrap() {
            AnswerEvent::Text { tokens, .. } => times.extend(tokens.into_iter().map(|token| token.at)),
            AnswerEvent::Done(done) => break done.timing,
            AnswerEvent::Failed(error) => panic!("{error}"),
            AnswerEvent::Started { .. } | AnswerEvent::Reading { .. } => {}
        }
    };
    assert_eq!(times.len(), 20);
    assert_eq!(timing.tokens_per_second, Some(19.0 / (times[19] - times[0]).as_secs_f64()));
}

#[tokio::test]
async fn the_first_token_is_timed_from_the_question_and_not_from_when_it_is_stored() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    setting.behaviour.pace.store(20, Ordering::Relaxed);
    let (first, _) = setting.ask(None, "1 letter").await;
    let again = setting.answers.regenerate(&first.id).await.unwrap();
    let again = hear(setting.answers.listen(&again.id).await.unwrap()).await.done.unwrap();
    for answer in [first, again] {
        // No token comes before the pass that reads the prompt.
        let first_token_ms = answer.timing.unwrap().first_token_ms.unwrap();
        assert!(first_token_ms >= 20.0, "{first_token_ms}");
    }
}

#[tokio::test]
async fn a_conversation_is_answered_stored_and_read_from_the_cache() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let mut texts: Vec<String> = Vec::new();
    let mut parent = None;
    for turn in 0..4 {
        let question = format!("{} letters, please", 20 + turn);
        let (user, answer) = setting.answers.post(&setting.conversation, parent.as_deref(), &question).await.unwrap();
        assert_eq!((user.role, answer.role, answer.status), (Role::User, Role::Assistant, Status::Running));
        let heard = hear(setting.answers.listen(&answer.id).await.unwrap()).await;
        let done = heard.done.unwrap();
        assert_eq!((done.status, &done.content), (Status::Complete, &heard.text));
        assert_eq!(done, setting.message(&answer.id).await);
        texts.push(question);
        assert_eq!(done.content.len(), 20 + turn);
        assert_eq!(done.content, alone(&setting, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await);
        let usage = done.usage.unwrap();
        assert_eq!(usage.completion_tokens as usize, 20 + turn);
        if turn > 0 {
            // All but the question and what stands around it.
            assert!(usage.cached_tokens + 30 > usage.prompt_tokens && usage.cached_tokens > 20, "{usage:?}");
        }
        let context = done.context.unwrap();
        assert_eq!((context.limit, context.used), (2000, usage.prompt_tokens + usage.completion_tokens));
        assert!(done.timing.unwrap().first_token_ms.is_some() && context.overflow.is_none());
        texts.push(done.content);
        parent = Some(answer.id);
    }
    assert_eq!(setting.answers.unfinished(), 0);
    let leaf = parent.unwrap();
    let path = setting.answers.store().run(move |database| database.path(&leaf)).await.unwrap();
    assert!(path.iter().all(|step| step.tokens.is_some() == (step.message.role == Role::Assistant)));
}

#[tokio::test]
async fn nobody_listening_pauses_and_somebody_listening_goes_on_with_the_same_text() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let expected = alone(&setting, &["150 letters"]).await;
    setting.behaviour.pace.store(4, Ordering::Relaxed);
    let (_, answer) = setting.answers.post(&setting.conversation, None, "150 letters").await.unwrap();
    let mut before = String::new();
    for _ in 0..3 {
        let mut listener = setting.answers.listen(&answer.id).await.unwrap();
        some(&mut listener).await;
        drop(listener);
        let paused = setting.until(&answer.id, Status::Paused).await;
        setting.until_idle().await;
        assert!(paused.content.len() > before.len() && paused.content.len() < 150, "{paused:?}");
        assert!(expected.starts_with(&paused.content) && paused.content.starts_with(&before));
        before = paused.content;
    }
    let heard = hear(setting.answers.listen(&answer.id).await.unwrap()).await;
    assert_eq!(heard.snapshot.0, before);
    assert_eq!(heard.text, expected);
    let done = heard.done.unwrap();
    assert_eq!((done.content.as_str(), done.status), (expected.as_str(), Status::Complete));
    let usage = done.usage.unwrap();
    assert_eq!(usage.completion_tokens, 150);
    assert!(usage.prompt_tokens < 40, "what was said is no part of the prompt: {usage:?}");
    let tokens = setting.answers.store().run(move |d| d.path(&answer.id)).await.unwrap()[1].tokens.clone().unwrap();
    assert_eq!(setting.chatbot.tokenizer().decode(&tokens.ids), expected);
}

#[tokio::test]
async fn a_pause_without_end_becomes_a_stop() {
    let config = AnswersConfig { patience: Duration::from_millis(20), ..config() };
    let setting = Setting::with(2000, config).await;
    setting.behaviour.pace.store(4, Ordering::Relaxed);
    let (_, answer) = setting.answers.post(&setting.conversation, None, "1000 letters").await.unwrap();
    let mut listener = setting.answers.listen(&answer.id).await.unwrap();
    some(&mut listener).await;
    drop(listener);
    let stopped = setting.until(&answer.id, Status::Stopped).await;
    assert!(!stopped.content.is_empty());
    let heard = hear(setting.answers.listen(&answer.id).await.unwrap()).await;
    assert_eq!((heard.done.unwrap(), heard.text), (stopped.clone(), stopped.content));
}

#[tokio::test]
async fn stopping_keeps_what_there_is_and_frees_the_model() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let expected = alone(&setting, &["1000 letters"]).await;
    setting.behaviour.pace.store(4, Ordering::Relaxed);
    let (_, answer) = setting.answers.post(&setting.conversation, None, "1000 letters").await.unwrap();
    let mut listener = setting.answers.listen(&answer.id).await.unwrap();
    some(&mut listener).await;
    let stopped = setting.answers.stop(&answer.id).await.unwrap();
    setting.until_idle().await;
    assert_eq!(stopped.status, Status::Stopped);
    assert!(!stopped.content.is_empty() && expected.starts_with(&stopped.content));
    assert!(stopped.usage.is_some() && stopped.context.is_some());
    loop {
        if let Some(ListenEvent::Done(message)) = listener.next().await {
            break assert_eq!(*message, stopped);
        }
    }
    // Once more is no error and changes nothing; the conversation goes on below it.
    assert_eq!(setting.answers.stop(&answer.id).await.unwrap(), stopped);
    setting.behaviour.pace.store(0, Ordering::Relaxed);
    let (next, _) = setting.ask(Some(&answer.id), "5 more").await;
    assert_eq!(next.content, alone(&setting, &["1000 letters", &stopped.content, "5 more"]).await);
    let unknown = setting.answers.stop("nobody").await;
    assert!(matches!(unknown, Err(AnswersError::Store(StoreError::UnknownMessage(_)))));
}

#[tokio::test]
async fn an_answer_that_a_full_disk_broke_off_ends_when_there_is_room_and_the_conversation_goes_on() {
    for come_back in ["listen", "stop", "post"] {
        let setting = Setting::new(12_000, Policy::Refuse).await;
        let fill = async |full| {
            let filled = move |database: &mut Database| {
                database.fill_disk(full);
                Ok(())
            };
            setting.answers.store().run(filled).await.unwrap();
        };
        let (_, answer) = setting.answers.post(&setting.conversation, None, "9000 letters").await.unwrap();
        let mut listener = setting.answers.listen(&answer.id).await.unwrap();
        // More than a page of the file, so that the message has no room where it is.
        let mut heard = String::new();
        while heard.len() < 5000 {
            heard += &some(&mut listener).await;
        }
        fill(true).await;
        let heard = hear(setting.answers.listen(&answer.id).await.unwrap()).await;
        // What the database is called is the owner's affair.
        assert_eq!(heard.done, Err("the server's disk is full; what was saved before is safe".to_owned()));
        assert_eq!(setting.message(&answer.id).await.status, Status::Running, "its end is not written either");
        drop(listener);
        fill(false).await;
        match come_back {
            "listen" => {
                let heard = hear(setting.answers.listen(&answer.id).await.unwrap()).await;
                assert_eq!(heard.done.unwrap(), setting.message(&answer.id).await);
            }
            "stop" => drop(setting.answers.stop(&answer.id).await.unwrap()),
            _ => drop(setting.ask(Some(&answer.id), "5 more").await),
        }
        let ended = setting.message(&answer.id).await;
        assert_eq!(ended.status, Status::Failed, "{come_back}");
        assert!(ended.content.len() >= 5000 && ended.usage.is_some(), "{come_back}");
    }
}

#[tokio::test]
async fn late_and_slow_listeners_miss_nothing() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    setting.behaviour.pace.store(1, Ordering::Relaxed);
    let (_, answer) = setting.answers.post(&setting.conversation, None, "300 letters").await.unwrap();
    let mut early = setting.answers.listen(&answer.id).await.unwrap();
    // One that takes nothing until all is over.
    let slow = setting.answers.listen(&answer.id).await.unwrap();
    let mut text = some(&mut early).await;
    let late = tokio::spawn(hear(setting.answers.listen(&answer.id).await.unwrap()));
    let done = loop {
        match early.next().await.unwrap() {
            ListenEvent::Delta(piece) => text.push_str(&piece),
            ListenEvent::Done(message) => break message,
            other => assert!(matches!(other, ListenEvent::Progress(_)), "{other:?}"),
        }
    };
    let late = late.await.unwrap();
    assert!(!late.snapshot.0.is_empty());
    let slow = hear(slow).await;
    let after = hear(setting.answers.listen(&answer.id).await.unwrap()).await;
    for heard in [&text, &late.text, &slow.text, &after.text] {
        assert_eq!(heard, &done.content);
    }
    assert_eq!(done.content.len(), 300);
}

#[tokio::test]
async fn regenerating_and_editing_make_branches_that_do_not_know_of_each_other() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let (first, _) = setting.ask(None, "10 letters").await;
    let (second, _) = setting.ask(Some(&first.id), "12 letters").await;
    let (edited, _) = setting.ask(Some(&first.id), "14 others").await;
    assert_eq!(edited.content, alone(&setting, &["10 letters", &first.content, "14 others"]).await);
    let again = setting.answers.regenerate(&second.id).await.unwrap();
    assert_eq!(again.parent_id, second.parent_id);
    let heard = hear(setting.answers.listen(&again.id).await.unwrap()).await;
    assert_eq!(heard.text, second.content, "greedy");
    assert_eq!(setting.tree().await.messages.len(), 7);
    let question = first.parent_id.unwrap();
    let refused = setting.answers.regenerate(&question).await;
    assert!(matches!(refused, Err(AnswersError::Store(StoreError::Parent { .. }))));
}

#[tokio::test]
async fn settings_of_the_conversation_count() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let id = setting.conversation.clone();
    let settings = crate::store::Settings { max_tokens: Some(7), ..Default::default() };
    let change = crate::store::Change { settings: Some(settings), ..Default::default() };
    setting.answers.store().run(move |database| database.change(&id, change)).await.unwrap();
    let (answer, _) = setting.ask(None, "100 letters").await;
    assert_eq!((answer.content.len(), answer.status), (7, Status::Length));
}

#[tokio::test]
async fn no_setting_makes_an_answer_longer_than_the_server_lets_it_be() {
    let setting = Setting::with(2000, AnswersConfig { max_tokens_limit: Some(20), ..config() }).await;
    for (asked, had) in [(None, 20), (Some(7), 7), (Some(50), 20)] {
        let id = setting.conversation.clone();
        let settings = crate::store::Settings { max_tokens: asked, ..Default::default() };
        let change = crate::store::Change { settings: Some(settings), ..Default::default() };
        setting.answers.store().run(move |database| database.change(&id, change)).await.unwrap();
        let (answer, _) = setting.ask(None, "100 letters").await;
        assert_eq!((answer.content.len(), answer.status), (had, Status::Length));
    }
}

/// Ids and text that differ show which of them the model is given.
#[tokio::test]
async fn ids_of_this_tokenizer_are_given_and_those_of_others_are_not() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let own = setting.chatbot.card().tokenizer.clone();
    for (tokenizer, expected) in [(own.as_str(), "Spell.Hias ids3 then"), ("another", "Spell.Hias text3 then")] {
        let ids = setting.chatbot.tokenizer().encode("as ids");
        let (id, tokenizer) = (setting.conversation.clone(), tokenizer.to_owned());
        let begun = move |database: &mut Database| {
            let (_, answer) = database.ask(&id, None, "Hi", &tokenizer)?;
            database.append(&answer.id, "as text", &ids)?;
            database.finish(&answer.id, &crate::store::Ending::bare(Status::Complete))
        };
        let answer = setting.answers.store().run(begun).await.unwrap();
        setting.ask(Some(&answer.id), "3 then").await;
        assert_eq!(setting.behaviour.last_prompt(), expected);
    }
}

#[tokio::test]
async fn an_empty_answer_is_left_out_of_the_prompt() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    let (empty, _) = setting.ask(None, "0 letters").await;
    assert_eq!((empty.content.as_str(), empty.status), ("", Status::Complete));
    setting.ask(Some(&empty.id), "3 then").await;
    assert_eq!(setting.behaviour.last_prompt(), "Spell.0 letters\n\n3 then");
}

#[tokio::test]
async fn shutting_down_saves_what_is_running_and_takes_nothing_more() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    setting.behaviour.pace.store(4, Ordering::Relaxed);
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let (_, answer) = setting.answers.post(&setting.conversation, None, "1500 letters").await.unwrap();
        let mut listener = setting.answers.listen(&answer.id).await.unwrap();
        some(&mut listener).await;
        listeners.push(listener);
    }
    setting.answers.shutdown(Duration::from_millis(10)).await;
    assert_eq!(setting.answers.unfinished(), 0);
    let refused = setting.answers.post(&setting.conversation, None, "More").await;
    assert!(matches!(refused, Err(AnswersError::ShuttingDown)));
    let answers: Vec<_> = setting.tree().await.messages.into_iter().filter(|m| m.role == Role::Assistant).collect();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| answer.status == Status::Stopped && !answer.content.is_empty()));
    setting.answers.store().close().await;
    Database::open(&setting.dir.path().join("chat.db")).unwrap();
}

#[tokio::test]
async fn deleting_stops_what_is_written_in_it() {
    let setting = Setting::new(2000, Policy::Refuse).await;
    setting.behaviour.pace.store(4, Ordering::Relaxed);
    let (_, answer) = setting.answers.post(&setting.conversation, None, "1500 letters").await.unwrap();
    let listener = tokio::spawn(hear(setting.answers.listen(&answer.id).await.unwrap()));
    setting.answers.delete(&setting.conversation).await.unwrap();
    setting.until_idle().await;
    assert_eq!(listener.await.unwrap().done.unwrap().status, Status::Stopped);
    let gone = setting.answers.listen(&answer.id).await;
    assert!(matches!(gone, Err(AnswersError::Store(StoreError::UnknownMessage(_)))));
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let setting = Setting::new(200, Policy::DropOldest).await;
    for (conversation, parent, text) in [
        (setting.conversation.as_str(), None, "x".repeat(400)),
        (setting.conversation.as_str(), None, " ".to_owned()),
        (setting.conversation.as_str(), Some("nobody"), "Hi".to_owned()),
        ("nobody", None, "Hi".to_owned()),
    ] {
        assert!(setting.answers.post(conversation, parent, &text).await.is_err());
    }
    setting.until_idle().await;
    assert!(setting.tree().await.messages.is_empty());
    assert_eq!(setting.answers.unfinished(), 0);
}
