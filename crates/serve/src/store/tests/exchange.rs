//! Export and import.

use serde_json::{Value, json};

use super::{TOKENIZER, conversation_with, database};
use crate::overflow::Policy;
use crate::store::{Context, Database, Ending, Overflow, Status, StoreError, limits};

/// A conversation with branches, a note and a message that was answered with it.
fn rich(database: &mut Database) -> String {
    let id = conversation_with(database, &["One <b>\0 \u{2028}", "Erste 🦀", "Two", "Second"]).id;
    let first = database.tree(&id).unwrap().messages[1].id.clone();
    let note = database.add_note(&first, "They greeted.", 4).unwrap();
    // Made twice at the same time, it is kept once.
    assert_eq!(database.add_note(&first, "They met.", 3).unwrap(), note);
    let (_, answer) = database.ask(&id, Some(&first), "Edited", TOKENIZER).unwrap();
    database.append(&answer.id, "Branch", &[5, 6]).unwrap();
    let overflow = Some(Overflow { policy: Policy::Summarise, dropped_messages: 2, note_id: Some(note.id) });
    let context = Some(Context { used: 60, limit: 64, overflow });
    database.finish(&answer.id, &Ending { context, ..Ending::bare(Status::Context) }).unwrap();
    database.answer_again(&answer.id, TOKENIZER).unwrap();
    id
}

fn exported(database: &Database, id: &str) -> Value {
    serde_json::to_value(database.export(&[id.to_owned()]).unwrap()).unwrap()
}

/// The file with ids replaced by their number of appearance, unfinished answers stopped and no time of exporting.
fn normal(mut file: Value) -> Value {
    file["exported_at"] = Value::Null;
    let mut ids: Vec<String> = Vec::new();
    fn walk(value: &mut Value, ids: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == "status" && value == "running" {
                        *value = "stopped".into();
                    }
                    match value {
                        Value::String(id) if name == "id" || name.ends_with("_id") => {
                            let place = ids.iter().position(|known| known == id).unwrap_or_else(|| {
                                ids.push(id.clone());
                                ids.len() - 1
                            });
                            *value = place.into();
                        }
                        _ => walk(value, ids),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| walk(value, ids)),
            _ => {}
        }
    }
    walk(&mut file, &mut ids);
    file
}

#[test]
fn an_import_of_an_export_is_the_same_conversation_under_new_ids() {
    let (_dir, mut database) = database();
    let id = rich(&mut database);
    let file = exported(&database, &id);
    assert!(!file.to_string().contains(TOKENIZER), "token ids stay behind");
    let bytes = serde_json::to_vec(&file).unwrap();
    let imported = [database.import(&bytes).unwrap(), database.import(&bytes).unwrap()].concat();
    assert_eq!(database.all().unwrap().len(), 3);
    for new in imported {
        assert_ne!(new, id);
        assert_eq!(normal(exported(&database, &new)), normal(file.clone()));
        let leaf = database.conversation(&new).unwrap().leaf_id.unwrap();
        assert!(database.path(&leaf).unwrap().iter().all(|step| step.tokens.is_none()));
    }
}

#[test]
fn order_in_the_file_does_not_matter() {
    let (_dir, mut database) = database();
    let id = rich(&mut database);
    let mut file = exported(&database, &id);
    file["conversations"][0]["messages"].as_array_mut().unwrap().reverse();
    database.import(&serde_json::to_vec(&file).unwrap()).unwrap();
}

/// Each entry changes a valid file; the import must name the place and take nothing.
#[test]
fn files_that_lie_are_refused_whole() {
    let (_dir, mut database) = database();
    let id = rich(&mut database);
    let valid = exported(&database, &id);
    let known = database.all().unwrap();
    let long = "x".repeat(limits::CONTENT + 1);
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/format", json!("other"), "another program"),
        ("/format", json!(7), "exported"),
        ("/version", json!(2), "version is 2"),
        ("/version", json!(-1), "exported"),
        ("/conversations", json!({}), "invalid type"),
        ("/conversations/0/conversation/title", json!("x".repeat(limits::TITLE + 1)), "conversation 1: the title"),
        ("/conversations/0/conversation/settings", json!({"temperature": 9}), "setting temperature is 9"),
        ("/conversations/0/conversation/settings", json!({"temperature": 1e99}), "out of range"),
        ("/conversations/0/conversation/settings", json!({"top_k": -1}), "invalid value"),
        ("/conversations/0/conversation/created_at", json!(-1), "the time -1"),
        ("/conversations/0/conversation/updated_at", json!(i64::MAX), "the time"),
        ("/conversations/0/conversation/updated_at", json!(1.5), "invalid type"),
        ("/conversations/0/conversation/leaf_id", json!("nobody"), "leaf_id \"nobody\""),
        ("/conversations/0/messages/0/role", json!("system"), "unknown variant"),
        ("/conversations/0/messages/0/role", json!("assistant"), "message 1: an answer begins"),
        ("/conversations/0/messages/1/role", json!("user"), "message 2: a person's message follows another"),
        ("/conversations/0/messages/0/status", json!("running"), "message 1: a person's message cannot be"),
        ("/conversations/0/messages/1/status", json!("done"), "unknown variant"),
        ("/conversations/0/messages/1/content", json!(long), "message 2: the content"),
        ("/conversations/0/messages/1/content", json!(null), "invalid type"),
        ("/conversations/0/messages/1/parent_id", json!("nobody"), "message 2: its parent_id \"nobody\""),
        ("/conversations/0/messages/1/timing", json!({"first_token_ms": -1.0, "tokens_per_second": 1.0}), "below 0"),
        ("/conversations/0/messages/1/usage", json!({"prompt_tokens": 5_000_000_000_u64}), "invalid value"),
        ("/conversations/0/notes/0/through_id", json!("nobody"), "note 1: its through_id"),
        ("/conversations/0/notes", json!([]), "note_id"),
    ];
    for (pointer, value, expected) in cases {
        let mut file = valid.clone();
        *file.pointer_mut(pointer).unwrap() = value;
        let error = database.import(&serde_json::to_vec(&file).unwrap()).unwrap_err();
        assert!(matches!(error, StoreError::Import { .. }), "{pointer}: {error}");
        let message = error.to_string();
        assert!(message.contains(expected) && message.len() < 500, "{pointer}: {message}");
        assert_eq!(database.all().unwrap(), known);
    }
}

#[test]
fn ancestors_of_themselves_and_shared_ids_are_found() {
    let (_dir, mut database) = database();
    let id = rich(&mut database);
    let valid = exported(&database, &id);
    let message_id = |place: usize| valid["conversations"][0]["messages"][place]["id"].clone();
    // The first message below the last of its own branch: user and assistant still alternate.
    let mut file = valid.clone();
    file["conversations"][0]["messages"][0]["parent_id"] = message_id(3);
    let error = database.import(&serde_json::to_vec(&file).unwrap()).unwrap_err();
    assert!(error.to_string().contains("its own ancestor"), "{error}");
    let mut file = valid.clone();
    file["conversations"][0]["messages"][2]["id"] = message_id(0);
    let error = database.import(&serde_json::to_vec(&file).unwrap()).unwrap_err();
    assert!(error.to_string().contains("message 3: its id"), "{error}");
    let mut file = valid.clone();
    let note = file["conversations"][0]["notes"][0].clone();
    file["conversations"][0]["notes"].as_array_mut().unwrap().push(note);
    let error = database.import(&serde_json::to_vec(&file).unwrap()).unwrap_err();
    assert!(error.to_string().contains("note 2: its id"), "{error}");
}

#[test]
fn what_is_no_export_is_refused_by_what_it_is() {
    let (_dir, mut database) = database();
    let deep = "[".repeat(1_000_000);
    let deep_field = format!("{{\"format\":\"casallm-conversations\",\"version\":1,\"x\":{deep}");
    let twice = "{\"format\":\"casallm-conversations\",\"format\":\"x\",\"version\":1}";
    for text in ["", "null", "[]", "{}", "\u{feff}{}", "NaN", "{\"format\":NaN}", &deep, &deep_field, twice] {
        let error = database.import(text.as_bytes()).unwrap_err();
        assert!(matches!(error, StoreError::Import { .. }) && error.to_string().len() < 500, "{error}");
    }
    assert!(database.import(&[0xff, 0xfe, 0x00]).is_err());
    assert!(database.all().unwrap().is_empty());
}

/// A branch as deep as a conversation may be is checked without recursion and in linear time, and deleted: SQLite's
/// cascades stop at a depth of 1000.
#[test]
fn the_deepest_branch_is_taken() {
    let (_dir, mut database) = database();
    let messages: Vec<Value> = (0..limits::MESSAGES)
        .map(|n| {
            let parent = n.checked_sub(1).map(|parent| parent.to_string());
            let role = if n % 2 == 0 { "user" } else { "assistant" };
            json!({"id": n.to_string(), "conversation_id": "c", "parent_id": parent, "role": role, "content": "x",
                   "status": "complete", "created_at": 0, "usage": null, "timing": null, "context": null})
        })
        .collect();
    let conversation = json!({"id": "c", "title": "", "system_prompt": "", "settings": {}, "leaf_id": (limits::MESSAGES - 1).to_string(),
                              "created_at": 0, "updated_at": 0});
    let file = json!({"format": "casallm-conversations", "version": 1, "exported_at": 0,
                      "conversations": [{"conversation": conversation, "messages": messages, "notes": []}]});
    let ids = database.import(&serde_json::to_vec(&file).unwrap()).unwrap();
    let leaf = database.conversation(&ids[0]).unwrap().leaf_id.unwrap();
    assert_eq!(database.path(&leaf).unwrap().len(), limits::MESSAGES);
    let error = database.ask(&ids[0], Some(&leaf), "One more", TOKENIZER).unwrap_err();
    assert!(matches!(error, StoreError::TooManyMessages(_)));
    database.delete(&ids[0]).unwrap();
    assert!(database.all().unwrap().is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    #[test]
    fn any_texts_survive_the_round_trip(texts in proptest::collection::vec(".*[^\\s].*", 1..6)) {
        let (_dir, mut database) = database();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let id = conversation_with(&mut database, &texts).id;
        let contents: Vec<String> = database.tree(&id).unwrap().messages.into_iter().map(|m| m.content).collect();
        proptest::prop_assert_eq!(&contents[..texts.len()], &texts[..]);
        database.markdown(&id).unwrap();
        let bytes = serde_json::to_vec(&database.export(&[id]).unwrap()).unwrap();
        let new = database.import(&bytes).unwrap().remove(0);
        let again: Vec<String> = database.tree(&new).unwrap().messages.into_iter().map(|m| m.content).collect();
        proptest::prop_assert_eq!(again, contents);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = crate::store::parse_import(&bytes);
    }
}
