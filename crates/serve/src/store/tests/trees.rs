//! Conversations and branches.

use super::{TOKENIZER, conversation_with, database};
use crate::store::{Change, Database, Ending, NewConversation, Role, Settings, Status, StoreError, limits};

#[test]
fn a_new_conversation_is_read_back_as_it_was_created() {
    let (_dir, mut database) = database();
    let settings = Settings { temperature: Some(0.3), seed: Some(u64::MAX), ..Default::default() };
    let new = NewConversation { title: "T\0\"';".into(), system_prompt: "Be\u{0}kind 🦀".into(), settings };
    let created = database.create(new).unwrap();
    assert_eq!(database.conversation(&created.id).unwrap(), created);
    assert_eq!(database.tree(&created.id).unwrap().messages, []);
}

#[test]
fn editing_and_answering_again_make_branches() {
    let (_dir, mut database) = database();
    let id = conversation_with(&mut database, &["One", "First", "Two", "Second"]).id;
    let tree = database.tree(&id).unwrap();
    let [one, first, two, second] = &tree.messages[..] else { panic!("{tree:?}") };

    let again = database.answer_again(&second.id, TOKENIZER).unwrap();
    assert_eq!((again.parent_id.as_ref(), again.status), (Some(&two.id), Status::Running));
    let (edited, answer) = database.ask(&id, Some(&first.id), "Two, edited", TOKENIZER).unwrap();
    let contents = |database: &Database, leaf: &str| -> Vec<String> {
        database.path(leaf).unwrap().into_iter().map(|step| step.message.content).collect()
    };
    assert_eq!(contents(&database, &second.id), ["One", "First", "Two", "Second"]);
    assert_eq!(contents(&database, &answer.id), ["One", "First", "Two, edited", ""]);
    assert_eq!(contents(&database, &one.id), ["One"]);
    assert_eq!(edited.role, Role::User);

    let tree = database.tree(&id).unwrap();
    assert_eq!(tree.messages.len(), 7);
    assert_eq!(tree.conversation.leaf_id.as_ref(), Some(&answer.id));
    assert_eq!(tree.conversation.title, "One");
    let change = Change { leaf_id: Some(second.id.clone()), ..Default::default() };
    assert_eq!(database.change(&id, change).unwrap().leaf_id.as_ref(), Some(&second.id));
}

#[test]
fn ids_of_answers_come_with_the_path() {
    let (_dir, mut database) = database();
    let leaf = conversation_with(&mut database, &["One", "First"]).leaf_id.unwrap();
    let path = database.path(&leaf).unwrap();
    assert_eq!(path[0].tokens, None);
    let tokens = path[1].tokens.as_ref().unwrap();
    assert_eq!((tokens.tokenizer.as_str(), &tokens.ids[..]), (TOKENIZER, &[1, 2, 3][..]));
}

#[test]
fn parents_that_cannot_be_are_refused() {
    let (_dir, mut database) = database();
    let id = conversation_with(&mut database, &["One", "First"]).id;
    let other = conversation_with(&mut database, &["Other", "Answer"]);
    let user = database.tree(&id).unwrap().messages[0].id.clone();
    let mut ask = |parent: &str| database.ask(&id, Some(parent), "Two", TOKENIZER).unwrap_err();
    assert!(matches!(ask(&user), StoreError::Parent { reason, .. } if reason.contains("follows an answer")));
    assert!(
        matches!(ask(other.leaf_id.as_deref().unwrap()), StoreError::Parent { reason, .. } if reason.contains("another"))
    );
    let long = "x".repeat(100_000);
    let error = ask(&long);
    assert!(matches!(error, StoreError::UnknownMessage(_)) && error.to_string().len() < 300, "{error}");

    let leaf = database.conversation(&id).unwrap().leaf_id.unwrap();
    let (_, running) = database.ask(&id, Some(&leaf), "Two", TOKENIZER).unwrap();
    let error = database.ask(&id, Some(&running.id), "Three", TOKENIZER).unwrap_err();
    assert!(matches!(error, StoreError::StillRunning(id) if id == running.id));
    let error = database.answer_again(&user, TOKENIZER).unwrap_err();
    assert!(matches!(error, StoreError::Parent { .. }));
    let change = Change { leaf_id: other.leaf_id, ..Default::default() };
    assert!(matches!(database.change(&id, change), Err(StoreError::UnknownMessage(_))));
    // What was refused left nothing.
    assert_eq!(database.tree(&id).unwrap().messages.len(), 4);
}

#[test]
fn what_is_too_long_or_empty_is_named() {
    let (_dir, mut database) = database();
    let id = database.create(NewConversation::default()).unwrap().id;
    let title = |title: String| Change { title: Some(title), ..Default::default() };
    let long = "x".repeat(limits::CONTENT + 1);
    assert!(matches!(database.ask(&id, None, &long, TOKENIZER), Err(StoreError::TooLong { what: "the message", .. })));
    assert!(matches!(database.ask(&id, None, " \n", TOKENIZER), Err(StoreError::Empty("the message"))));
    assert!(matches!(database.change(&id, title(long)), Err(StoreError::TooLong { what: "the title", .. })));
    assert!(matches!(database.change(&id, title(" ".into())), Err(StoreError::Empty("the title"))));
    let settings = Some(Settings { temperature: Some(-1.0), ..Default::default() });
    let change = Change { settings, ..Default::default() };
    assert!(matches!(database.change(&id, change), Err(StoreError::Setting { name: "temperature", .. })));
}

#[test]
fn unknown_conversations_are_named() {
    let (_dir, mut database) = database();
    let unknown = |error| matches!(error, StoreError::UnknownConversation(id) if id == "x");
    assert!(unknown(database.conversation("x").unwrap_err()));
    assert!(unknown(database.tree("x").unwrap_err()));
    assert!(unknown(database.change("x", Change::default()).unwrap_err()));
    assert!(unknown(database.delete("x").unwrap_err()));
    assert!(unknown(database.ask("x", None, "Hi", TOKENIZER).unwrap_err()));
    assert!(unknown(database.markdown("x").unwrap_err()));
    assert!(unknown(database.export(&["x".into()]).unwrap_err()));
}

#[test]
fn deleting_takes_everything_along_and_leaves_no_text_in_the_file() {
    let (dir, mut database) = database();
    let kept = conversation_with(&mut database, &["Kept question", "Kept answer"]);
    let secret = "Xylophonkonzert";
    let id = conversation_with(&mut database, &[secret, &secret.repeat(2000), secret, secret]).id;
    let leaf = database.conversation(&id).unwrap().leaf_id.unwrap();
    database.add_note(&leaf, secret, 3).unwrap();
    let (_, running) = database.ask(&id, Some(&leaf), "More", TOKENIZER).unwrap();
    database.append(&running.id, secret, &[7]).unwrap();
    let files = || {
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            bytes.extend(std::fs::read(entry.unwrap().path()).unwrap());
        }
        bytes
    };
    let stands = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(stands(&files(), secret));
    database.delete(&id).unwrap();
    for table in ["messages", "pieces", "notes"] {
        let count: i64 =
            database.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(count, if table == "messages" { 2 } else { 0 }, "{table}");
    }
    let bytes = files();
    assert!(!stands(&bytes, secret) && !stands(&bytes, "xylophon"));
    assert!(stands(&bytes, "Kept answer"));
    assert_eq!(database.tree(&kept.id).unwrap().messages.len(), 2);
    assert!(matches!(database.append(&running.id, "x", &[]), Err(StoreError::UnknownMessage(_))));
    let finish = database.finish(&running.id, &Ending::bare(Status::Complete));
    assert!(matches!(finish, Err(StoreError::UnknownMessage(_))));
}
