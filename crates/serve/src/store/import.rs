//! Reading an export file, which may have been written by anybody: everything is checked before anything is taken,
//! and all of it is taken in one transaction or nothing.
//!
//! Conversations, messages and notes get new ids. So the same file can be imported twice, and no id in the database was
//! chosen by a stranger.

use std::collections::HashMap;

use serde::Deserialize;

use super::error::StoreError;
use super::export::{ExportFile, FORMAT, VERSION};
use super::types::{Conversation, Message, Note, Role, Status, Tree, limits};
use super::{Database, conversations, ids, messages, notes};

/// The part of the file that says what it is.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// Conversations of an export file, checked.
#[derive(Debug)]
pub struct Import(Vec<Tree>);

/// Reads and checks the bytes of an export file. It may take a while, and needs no database.
///
/// # Errors
/// [`StoreError::Import`], which says where what is wrong.
pub fn parse(bytes: &[u8]) -> Result<Import, StoreError> {
    let refused = |reason: String| StoreError::import("the file", reason);
    if bytes.len() > limits::IMPORT {
        return Err(refused(format!("it has {} bytes; at most {} are taken", bytes.len(), limits::IMPORT)));
    }
    // The head alone first: a newer file may have other fields, and should be called newer and not broken.
    let head: Head = serde_json::from_slice(bytes).map_err(|error| {
        refused(format!("{error}. It has to be a JSON file that this program exported (format {FORMAT:?})"))
    })?;
    if head.format != FORMAT {
        let found = StoreError::shown(&head.format);
        return Err(refused(format!("its format is {found:?} and not {FORMAT:?}: another program wrote it")));
    }
    if head.version != VERSION {
        let found = head.version;
        return Err(refused(format!("its version is {found}; this program reads version {VERSION}. Update this one")));
    }
    let file: ExportFile = serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
    if file.conversations.len() > limits::CONVERSATIONS {
        let count = file.conversations.len();
        return Err(refused(format!("it has {count} conversations; at most {} are taken", limits::CONVERSATIONS)));
    }
    for (number, tree) in file.conversations.iter().enumerate() {
        check(tree)
            .map_err(|(place, reason)| StoreError::import(format!("conversation {}{place}", number + 1), reason))?;
    }
    Ok(Import(file.conversations))
}

/// Where in a conversation something is wrong, and what.
type Finding = (String, String);

fn check(tree: &Tree) -> Result<(), Finding> {
    let Tree { conversation, messages, notes } = tree;
    let here = |error: StoreError| (String::new(), error.to_string());
    super::check_length("the title", &conversation.title, limits::TITLE).map_err(here)?;
    super::check_length("the system prompt", &conversation.system_prompt, limits::SYSTEM_PROMPT).map_err(here)?;
    conversation.settings.check().map_err(here)?;
    check_time(conversation.created_at).map_err(|reason| (String::new(), reason))?;
    check_time(conversation.updated_at).map_err(|reason| (String::new(), reason))?;
    if messages.len() > limits::MESSAGES || notes.len() > limits::MESSAGES {
        let reason = format!("it has {} messages and {} notes", messages.len(), notes.len());
        return Err((String::new(), format!("{reason}; at most {} of each are taken", limits::MESSAGES)));
    }

    let mut places = HashMap::with_capacity(messages.len());
    for (place, message) in messages.iter().enumerate() {
        if places.insert(message.id.as_str(), place).is_some() {
            return Err((at(place), format!("its id {:?} is another's too", StoreError::shown(&message.id))));
        }
    }
    for (place, message) in messages.iter().enumerate() {
        check_message(message, messages, &places).map_err(|reason| (at(place), reason))?;
    }
    check_acyclic(messages, &places)?;

    if let Some(leaf) = conversation.leaf_id.as_deref().filter(|leaf| !places.contains_key(leaf)) {
        return Err((String::new(), format!("its leaf_id {:?} is none of its messages", StoreError::shown(leaf))));
    }
    let mut note_ids = std::collections::HashSet::with_capacity(notes.len());
    for (place, note) in notes.iter().enumerate() {
        let at = || format!(", note {}", place + 1);
        super::check_length("the text", &note.text, limits::CONTENT).map_err(|error| (at(), error.to_string()))?;
        check_time(note.created_at).map_err(|reason| (at(), reason))?;
        if !note_ids.insert(note.id.as_str()) {
            return Err((at(), format!("its id {:?} is another's too", StoreError::shown(&note.id))));
        }
        if !places.contains_key(note.through_id.as_str()) {
            let through = StoreError::shown(&note.through_id);
            return Err((at(), format!("its through_id {through:?} is none of the conversation's messages")));
        }
    }
    for (place, message) in messages.iter().enumerate() {
        let note = message.context.as_ref().and_then(|c| c.overflow.as_ref()).and_then(|o| o.note_id.as_deref());
        if let Some(note) = note.filter(|note| !note_ids.contains(note)) {
            return Err((at(place), format!("its note_id {:?} is none of the notes", StoreError::shown(note))));
        }
    }
    Ok(())
}

fn at(place: usize) -> String {
    format!(", message {}", place + 1)
}

fn check_time(time: i64) -> Result<(), String> {
    if (0..=limits::TIME).contains(&time) {
        return Ok(());
    }
    Err(format!("the time {time} is not in unix milliseconds between 1970 and 9999"))
}

/// What can be said of a message and its parent.
fn check_message(message: &Message, all: &[Message], places: &HashMap<&str, usize>) -> Result<(), String> {
    super::check_length("the content", &message.content, limits::CONTENT).map_err(|error| error.to_string())?;
    check_time(message.created_at)?;
    if message.role == Role::User && message.status != Status::Complete {
        return Err(format!("a person's message cannot be {:?}", message.status.name()));
    }
    if let Some(timing) = &message.timing {
        let numbers = [timing.first_token_ms, timing.tokens_per_second];
        if !numbers.iter().flatten().all(|number| number.is_finite() && *number >= 0.0) {
            return Err("a number of its timing is below 0".to_owned());
        }
    }
    let parent = match &message.parent_id {
        None => None,
        Some(id) => match places.get(id.as_str()) {
            Some(&place) => Some(&all[place]),
            None => return Err(format!("its parent_id {:?} is none of the messages", StoreError::shown(id))),
        },
    };
    match (message.role, parent.map(|parent| parent.role)) {
        (Role::User, None | Some(Role::Assistant)) | (Role::Assistant, Some(Role::User)) => Ok(()),
        (Role::User, Some(Role::User)) => Err("a person's message follows another without an answer".to_owned()),
        (Role::Assistant, Some(Role::Assistant)) => Err("an answer follows an answer".to_owned()),
        (Role::Assistant, None) => Err("an answer begins the conversation".to_owned()),
    }
}

/// Every way up ends at a message without a parent. Linear: what has been followed once is not followed again.
fn check_acyclic(all: &[Message], places: &HashMap<&str, usize>) -> Result<(), Finding> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnThisWay,
        Ends,
    }
    let mut seen = vec![Seen::No; all.len()];
    for start in 0..all.len() {
        let mut way = Vec::new();
        let mut next = Some(start);
        while let Some(place) = next {
            match seen[place] {
                Seen::Ends => break,
                Seen::OnThisWay => return Err((at(place), "it is its own ancestor".to_owned())),
                Seen::No => {}
            }
            seen[place] = Seen::OnThisWay;
            way.push(place);
            next = all[place].parent_id.as_deref().map(|id| places[id]);
        }
        way.into_iter().for_each(|place| seen[place] = Seen::Ends);
    }
    Ok(())
}

impl Database {
    /// Takes all conversations of an export file and returns their new ids, in the file's order. Unfinished answers
    /// become stopped.
    ///
    /// # Errors
    /// [`StoreError::Import`]; then nothing was taken.
    pub fn import(&mut self, bytes: &[u8]) -> Result<Vec<String>, StoreError> {
        self.take(parse(bytes)?)
    }

    /// The same of what has been checked before.
    ///
    /// # Errors
    /// The database's; then nothing was taken.
    pub fn take(&mut self, Import(trees): Import) -> Result<Vec<String>, StoreError> {
        let transaction = self.transaction()?;
        let imported = trees.into_iter().map(|tree| insert(&transaction, tree)).collect::<Result<_, _>>()?;
        transaction.commit()?;
        Ok(imported)
    }
}

/// Writes a checked conversation under new ids. Foreign keys are checked at the commit, so that order does not matter.
fn insert(connection: &rusqlite::Connection, tree: Tree) -> Result<String, StoreError> {
    let id = ids::fresh()?;
    let message_ids = renamed(tree.messages.iter().map(|message| &message.id))?;
    let note_ids = renamed(tree.notes.iter().map(|note| &note.id))?;
    let leaf_id = tree.conversation.leaf_id.map(|leaf| message_ids[&leaf].clone());
    conversations::insert(connection, &Conversation { id: id.clone(), leaf_id, ..tree.conversation })?;
    for message in tree.messages {
        let mut context = message.context;
        if let Some(overflow) = context.as_mut().and_then(|context| context.overflow.as_mut()) {
            overflow.note_id = overflow.note_id.take().map(|note| note_ids[&note].clone());
        }
        let message = Message {
            id: message_ids[&message.id].clone(),
            conversation_id: id.clone(),
            parent_id: message.parent_id.map(|parent| message_ids[&parent].clone()),
            status: if message.status.has_ended() { message.status } else { Status::Stopped },
            context,
            ..message
        };
        messages::insert(connection, &message)?;
    }
    for note in tree.notes {
        let through_id = message_ids[&note.through_id].clone();
        notes::insert(connection, &id, &Note { id: note_ids[&note.id].clone(), through_id, ..note })?;
    }
    Ok(id)
}

fn renamed<'a>(old: impl Iterator<Item = &'a String>) -> Result<HashMap<String, String>, StoreError> {
    old.map(|old| Ok((old.clone(), ids::fresh()?))).collect()
}
