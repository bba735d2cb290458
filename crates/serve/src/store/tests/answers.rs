//! Answers from their first piece to their end.

use super::{TOKENIZER, database, scratch};
use crate::overflow::Policy;
use crate::store::{Context, Database, Ending, NewConversation, Overflow, Status, StoreError, Timing, Usage};

fn ending() -> Ending {
    Ending {
        status: Status::Length,
        usage: Some(Usage { prompt_tokens: 9, completion_tokens: 3, cached_tokens: 7 }),
        timing: Some(Timing { first_token_ms: Some(12.5), tokens_per_second: Some(8.25) }),
        context: Some(Context {
            used: 12,
            limit: 64,
            overflow: Some(Overflow { policy: Policy::DropOldest, dropped_messages: 2, note_id: None }),
        }),
    }
}

/// A conversation with a running answer, whose id is returned.
fn begun(database: &mut Database) -> String {
    let id = database.create(NewConversation::default()).unwrap().id;
    database.ask(&id, None, "Question", TOKENIZER).unwrap().1.id
}

#[test]
fn pieces_are_seen_at_once_and_become_the_message() {
    let (_dir, mut database) = database();
    let id = begun(&mut database);
    for (text, ids) in [("Al", &[1][..]), ("", &[2]), ("pha 🦀\0", &[3, u32::MAX])] {
        database.append(&id, text, ids).unwrap();
    }
    assert_eq!(database.message(&id).unwrap().content, "Alpha 🦀\0");
    let synchronous: i64 = database.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 2, "only pieces go without a sync");
    database.set_paused(&id, true).unwrap();
    assert_eq!(database.message(&id).unwrap().status, Status::Paused);
    database.set_paused(&id, false).unwrap();
    database.append(&id, "!", &[4]).unwrap();
    let finished = database.finish(&id, &ending()).unwrap();
    assert_eq!((finished.content.as_str(), finished.status), ("Alpha 🦀\0!", Status::Length));
    assert_eq!((finished.usage, finished.timing), (ending().usage, ending().timing));
    assert_eq!(finished.context, ending().context);
    let path = database.path(&id).unwrap();
    assert_eq!(path[1].message, finished);
    assert_eq!(path[1].tokens.as_ref().unwrap().ids, [1, 2, 3, u32::MAX, 4]);
}

#[test]
fn what_has_ended_takes_no_more() {
    let (_dir, mut database) = database();
    let id = begun(&mut database);
    database.append(&id, "A", &[1]).unwrap();
    database.finish(&id, &ending()).unwrap();
    assert!(matches!(database.append(&id, "B", &[2]), Err(StoreError::Ended(_))));
    assert!(matches!(database.finish(&id, &ending()), Err(StoreError::Ended(_))));
    assert!(matches!(database.set_paused(&id, true), Err(StoreError::Ended(_))));
    assert!(matches!(database.append("x", "B", &[2]), Err(StoreError::UnknownMessage(_))));
    assert_eq!(database.message(&id).unwrap().content, "A");
}

#[test]
fn left_overs_are_stopped_with_what_they_have() {
    let dir = scratch();
    let path = dir.path().join("chat.db");
    let mut database = Database::open(&path).unwrap();
    let running = begun(&mut database);
    let paused = begun(&mut database);
    let empty = begun(&mut database);
    database.append(&running, "Half an ", &[1, 2]).unwrap();
    database.append(&paused, "Nearly", &[3]).unwrap();
    database.set_paused(&paused, true).unwrap();
    drop(database);
    let database = Database::open(&path).unwrap();
    for (id, content, ids) in [(running, "Half an ", &[1, 2][..]), (paused, "Nearly", &[3]), (empty, "", &[])] {
        let message = database.message(&id).unwrap();
        assert_eq!((message.content.as_str(), message.status), (content, Status::Stopped));
        assert_eq!(database.path(&id).unwrap()[1].tokens.as_ref().unwrap().ids, ids);
    }
}
