//! What a token of a running answer costs the store, and what a question and a finished answer cost:
//! `cargo run --release -p casallm-serve --example append_cost [FOLDER]`. A folder on a disk says what a user will see.

use std::path::PathBuf;
use std::time::Instant;

use casallm_serve::store::{Database, Ending, NewConversation, Status, StoreError};

const ANSWERS: usize = 20;
const TOKENS: u32 = 1000;

fn main() -> Result<(), StoreError> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = folder.join(format!("append-cost-{}.db", std::process::id()));
    let mut database = Database::open(&path)?;
    let (mut asking, mut finishing, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    let conversation = database.create(NewConversation::default())?.id;
    for _ in 0..ANSWERS {
        let begun = Instant::now();
        let (_, answer) = database.ask(&conversation, None, "How much does a token cost?", "tokenizer")?;
        asking.push(begun.elapsed());
        for token in 0..TOKENS {
            let begun = Instant::now();
            database.append(&answer.id, "token ", &[token])?;
            tokens.push(begun.elapsed());
        }
        let begun = Instant::now();
        database.finish(&answer.id, &Ending::bare(Status::Complete))?;
        finishing.push(begun.elapsed());
    }
    for (what, times) in [("append", &mut tokens), ("ask", &mut asking), ("finish", &mut finishing)] {
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        println!("{what:>7}: median {:6.0} us, 99 % {:6.0} us, longest {:6.0} us", at(0.5), at(0.99), at(1.0));
    }
    drop(database);
    for end in ["", ".lock"] {
        let name = PathBuf::from(format!("{}{end}", path.display()));
        std::fs::remove_file(&name).map_err(|source| StoreError::Io { path: name, doing: "remove", source })?;
    }
    Ok(())
}
