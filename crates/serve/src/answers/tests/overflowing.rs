//! Conversations that are too long for the model.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{PATIENCE, Setting};
use crate::answers::{AnswersError, Notice};
use crate::overflow::Policy;
use crate::store::{Message, Note, Overflow};

const CONTEXT: usize = 1000;

/// Exchanges of about 135 tokens, until something is noticed of one or `most` have been made.
async fn until_noticed(setting: &Setting, parent: &mut Option<String>, most: usize) -> Option<(Message, Vec<Notice>)> {
    for turn in 0..most {
        let (answer, notices) =
            setting.ask(parent.as_deref(), &format!("50 letters, turn {turn}, {}", "x".repeat(60))).await;
        *parent = Some(answer.id.clone());
        if !notices.is_empty() {
            return Some((answer, notices));
        }
        assert_eq!(answer.context.unwrap().overflow, None);
    }
    None
}

async fn notes(setting: &Setting, count: usize) -> Vec<Note> {
    let reached = async {
        loop {
            let notes = setting.tree().await.notes;
            if notes.len() >= count {
                return notes;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("the note is made")
}

#[tokio::test]
async fn refusing_stores_nothing_and_says_the_numbers() {
    let setting = Setting::new(CONTEXT, Policy::Refuse).await;
    let mut parent = None;
    let refused = loop {
        match setting.answers.post(&setting.conversation, parent.as_deref(), &"40 letters ".repeat(8)).await {
            Ok((_, answer)) => {
                super::hear(setting.answers.listen(&answer.id).await.unwrap()).await.done.unwrap();
                parent = Some(answer.id);
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AnswersError::DoesNotFit(d) if d.tokens > d.room && d.room < CONTEXT), "{refused}");
    let tree = setting.tree().await;
    assert!(tree.messages.len() >= 6 && tree.conversation.leaf_id == parent);
}

#[tokio::test]
async fn dropping_leaves_out_whole_exchanges_and_says_so() {
    let setting = Setting::new(CONTEXT, Policy::DropOldest).await;
    let mut parent = None;
    let (answer, notices) = until_noticed(&setting, &mut parent, 9).await.expect("nine exchanges do not fit");
    let Some(Overflow { policy: Policy::DropOldest, dropped_messages, note_id: None }) =
        answer.context.unwrap().overflow
    else {
        panic!("what was done is recorded")
    };
    assert_eq!(notices, [Notice::Dropped { dropped_messages, note_id: None }]);
    assert!(dropped_messages >= 2 && dropped_messages % 2 == 0);
    let prompt = setting.behaviour.last_prompt();
    assert!(
        prompt.starts_with("Spell.50 letters") && !prompt.contains("turn 0") && prompt.contains("turn 6"),
        "{prompt}"
    );
    // The next ones begin where this one began: the cache has it.
    let (next, _) = setting.ask(parent.as_deref(), "20 more").await;
    let (usage, overflow) = (next.usage.unwrap(), next.context.unwrap().overflow.unwrap());
    assert_eq!(overflow.dropped_messages, dropped_messages);
    assert!(usage.cached_tokens + 20 > usage.prompt_tokens, "{usage:?}");
    assert!(setting.tree().await.notes.is_empty());
}

#[tokio::test]
async fn a_note_is_made_before_it_is_needed_and_used_when_it_is() {
    let setting = Setting::new(CONTEXT, Policy::Summarise).await;
    setting.behaviour.summary.store(30, Ordering::Relaxed);
    let mut parent = None;
    // The sixth exchange takes the conversation past 70 %, the seventh past the whole.
    assert!(until_noticed(&setting, &mut parent, 6).await.is_none());
    let note = notes(&setting, 1).await.remove(0);
    assert_eq!(note.text.len(), 30);
    let before = setting.tree().await.messages;
    let (answer, notices) = until_noticed(&setting, &mut parent, 3).await.expect("nine exchanges do not fit");
    let overflow = answer.context.unwrap().overflow.unwrap();
    assert_eq!((overflow.policy, overflow.note_id.as_ref()), (Policy::Summarise, Some(&note.id)));
    let dropped_messages = overflow.dropped_messages;
    assert_eq!(
        notices,
        [Notice::Summarised { dropped_messages, note_id: note.id.clone() }],
        "nothing had to be waited for"
    );
    let place = before.iter().position(|message| message.id == note.through_id).unwrap();
    assert_eq!(dropped_messages as usize, place + 1);
    let prompts = setting.behaviour.prompts.lock().unwrap().clone();
    let with_note = format!("Spell.\n\nSummary of the conversation so far:\n{}50 letters", note.text);
    assert!(prompts.iter().any(|prompt| prompt.starts_with(&with_note)), "{prompts:#?}");
    // The originals are untouched.
    assert_eq!(setting.tree().await.messages[..before.len()], before);
}

#[tokio::test]
async fn notes_continue_each_other() {
    let setting = Setting::new(CONTEXT, Policy::Summarise).await;
    setting.behaviour.summary.store(30, Ordering::Relaxed);
    let mut parent = None;
    for turn in 0..14 {
        let text = format!("50 letters, turn {turn}, {}", "x".repeat(60));
        let (answer, _) = setting.ask(parent.as_deref(), &text).await;
        parent = Some(answer.id);
        setting.until_idle().await;
    }
    let tree = setting.tree().await;
    assert!(tree.notes.len() >= 2, "{:?}", tree.notes);
    let prompts = setting.behaviour.prompts.lock().unwrap().clone();
    let continued = prompts.iter().any(|prompt| {
        prompt.contains(&format!("so far:\n{}", tree.notes[0].text)) && prompt.contains("Summarise our conversation")
    });
    assert!(continued, "{prompts:#?}");
    let places: Vec<_> =
        tree.notes.iter().map(|note| tree.messages.iter().position(|m| m.id == note.through_id).unwrap()).collect();
    assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{places:?}");
}

#[tokio::test]
async fn a_note_that_is_missing_is_made_before_the_answer() {
    let setting = Setting::new(CONTEXT, Policy::Summarise).await;
    setting.behaviour.summary.store(30, Ordering::Relaxed);
    let mut parent = None;
    assert!(until_noticed(&setting, &mut parent, 2).await.is_none());
    // One message takes it from below 70 % to above the whole.
    let (answer, notices) = setting.ask(parent.as_deref(), &format!("10 letters {}", "y".repeat(620))).await;
    let note = setting.tree().await.notes.remove(0);
    let overflow = answer.context.unwrap().overflow.unwrap();
    let dropped_messages = overflow.dropped_messages;
    let summarised = Notice::Summarised { dropped_messages, note_id: note.id };
    assert_eq!(notices, [Notice::Summarising { messages: dropped_messages }, summarised]);
    assert_eq!(answer.content.len(), 10);
    assert!(setting.behaviour.last_prompt().contains(&note.text));
}

#[tokio::test]
async fn an_empty_summary_falls_back_to_dropping_and_says_so() {
    let setting = Setting::new(CONTEXT, Policy::Summarise).await;
    setting.behaviour.summary.store(0, Ordering::Relaxed);
    let mut parent = None;
    let (answer, notices) = until_noticed(&setting, &mut parent, 9).await.expect("nine exchanges do not fit");
    let overflow = answer.context.unwrap().overflow.unwrap();
    assert_eq!((overflow.policy, &overflow.note_id), (Policy::DropOldest, &None));
    assert!(
        matches!(&notices[..], [
        Notice::Summarising { .. },
        Notice::SummaryFailed { reason },
        Notice::Dropped { note_id: None, .. },
    ] if reason.contains("nothing")),
        "{notices:?}"
    );
    assert!(setting.tree().await.notes.is_empty());
}
