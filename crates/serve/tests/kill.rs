//! A process that streams 50 answers into a database is killed, again and again: the database opens clean, what was
//! finished is there, and of what was being written nothing is missing that had been confirmed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use casallm_serve::store::{Database, Ending, NewConversation, Status, Store};

const STREAMS: usize = 50;
const ROUNDS: u64 = 12;
const PATH: &str = "CASALLM_TEST_KILL_DATABASE";

/// What an answer has at this place.
fn piece(place: usize) -> String {
    format!("{place} 🦀 ")
}

/// Says on standard output what has been confirmed: `begun ID`, `piece ID`, `finished ID`.
fn say(what: &str, id: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {id}").and_then(|()| out.flush()).expect("the parent reads");
}

/// The process that is killed: this test program, told by the environment to be it.
#[test]
fn streams_until_killed() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Store::new(Database::open(Path::new(&path)).unwrap()).unwrap();
        let streams: Vec<_> = (0..STREAMS).map(|stream| tokio::spawn(stream_for_ever(store.clone(), stream))).collect();
        for stream in streams {
            stream.await.unwrap();
        }
    });
}

async fn stream_for_ever(store: Store, stream: usize) {
    for round in 0.. {
        let (_, answer) = store
            .run(|database| {
                let conversation = database.create(NewConversation::default())?;
                database.ask(&conversation.id, None, "Question", "tokenizer")
            })
            .await
            .unwrap();
        say("begun", &answer.id);
        for place in 0..1 + (stream * 7 + round * 13) % 40 {
            let id = answer.id.clone();
            store.run(move |database| database.append(&id, &piece(place), &[place as u32])).await.unwrap();
            say("piece", &answer.id);
        }
        let id = answer.id.clone();
        store.run(move |database| database.finish(&id, &Ending::bare(Status::Complete))).await.unwrap();
        say("finished", &answer.id);
    }
}

#[test]
fn killed_processes_lose_at_most_the_token_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.db");
    let (mut finished, mut unfinished) = (0, 0);
    // All rounds use one database, so that it has been through many crashes in the end.
    let mut confirmed: HashMap<String, (usize, bool)> = HashMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "streams_until_killed", "--nocapture"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut read = |line: String| match line.split_once(' ') {
            Some(("begun", id)) => drop(confirmed.insert(id.to_owned(), (0, false))),
            Some(("piece", id)) => confirmed.get_mut(id).unwrap().0 += 1,
            Some(("finished", id)) => confirmed.get_mut(id).unwrap().1 = true,
            // The test harness's own lines.
            _ => {}
        };
        // From before the first answer has begun to after many have ended.
        for line in lines.by_ref().take((round * round * 37 % 3000) as usize) {
            read(line.unwrap());
        }
        child.kill().unwrap();
        // What was confirmed before the kill and not yet read; the last line may have been cut.
        lines.map_while(Result::ok).for_each(read);
        child.wait().unwrap();

        let database = Database::open(&path).unwrap();
        for (id, &(pieces, ended)) in &confirmed {
            let message = database.message(id).unwrap();
            let whole: String = (0..pieces).map(piece).collect();
            let one_more = whole.clone() + &piece(pieces);
            let ids = database.path(id).unwrap()[1].tokens.clone().unwrap().ids;
            assert_eq!(message.content, ids.iter().map(|&id| piece(id as usize)).collect::<String>());
            if ended {
                assert_eq!((message.content, message.status), (whole, Status::Complete));
                finished += 1;
            } else {
                assert!(message.content == whole || message.content == one_more, "{pieces}: {:?}", message.content);
                // The end may have been written and not yet confirmed.
                assert!(matches!(message.status, Status::Stopped | Status::Complete), "{:?}", message.status);
                unfinished += 1;
            }
        }
    }
    assert!(finished > 100 && unfinished > 100, "{finished} finished and {unfinished} unfinished answers were seen");
}
