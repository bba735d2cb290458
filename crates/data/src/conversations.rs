//! Chat records in the three layouts of the field, read into [`Conversation`]s.
//!
//! - `messages`: `[{"role": "user", "content": "..."}, ...]` (UltraChat);
//! - `instruction` / `input` / `output` (Alpaca);
//! - `conversations`: `[{"from": "human", "value": "..."}, ...]` (ShareGPT).
//!
//! Instructions may stand beside any of them, as `system` or `system_prompt`, and earlier exchanges beside an `instruction`, as
//! `history`: `[["question", "answer"], ...]` (LLaMA-Factory has both).
//!
//! The layout is told by the keys of each row. Called by `train` (fine-tuning) with files, and by `corpus` with the
//! embedded chats. A row that has another shape is an error naming the file and the row; an empty answer is dropped
//! together with the question it should have answered, and counted.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::chat::{Conversation, Message, Role};
use crate::error::Error;
use crate::source::open_records;

/// A conversation and where it came from, so that every report can name the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationRecord {
    /// File or data set.
    pub source: String,
    /// Row in the source, from 1.
    pub row: usize,
    /// The turns.
    pub conversation: Conversation,
}

/// What was found in a source of chats.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReadReport {
    /// Rows read.
    pub rows: usize,
    /// Conversations kept.
    pub conversations: usize,
    /// Messages kept.
    pub messages: usize,
    /// Empty assistant turns dropped, each with the question before it.
    pub empty_answers: usize,
    /// Rows left out because no answer was left in them.
    pub without_answer: usize,
    /// Row numbers (from 1) that lost something.
    pub touched: Vec<usize>,
}

/// All conversations of a file (jsonl, JSON array or parquet, plain or compressed).
///
/// # Errors
/// What the reader reports of the file, and the errors of [`parse_conversation`].
pub fn read_conversations(path: &Path) -> Result<(Vec<ConversationRecord>, ReadReport), Error> {
    let source = path.display().to_string();
    let mut report = ReadReport::default();
    let mut out = Vec::new();
    for record in open_records(path)? {
        out.extend(take_row(&record?, &source, &mut report)?);
    }
    Ok((out, report))
}

/// One row of a source: counted in `report`, `None` when no answer is left in it.
///
/// # Errors
/// The errors of [`parse_conversation`].
pub fn take_row(record: &Value, source: &str, report: &mut ReadReport) -> Result<Option<ConversationRecord>, Error> {
    report.rows += 1;
    let row = report.rows;
    let (conversation, empty) = drop_empty_answers(parse_conversation(record, source, row)?);
    report.empty_answers += empty;
    let answered = conversation.messages.iter().any(|m| m.role == Role::Assistant);
    if empty > 0 || !answered {
        report.touched.push(row);
    }
    if !answered {
        report.without_answer += 1;
        return Ok(None);
    }
    report.conversations += 1;
    report.messages += conversation.messages.len();
    Ok(Some(ConversationRecord { source: source.to_owned(), row, conversation }))
}

/// The turns of one record, white space around each text removed, empty ones included.
///
/// # Errors
/// [`Error::ConversationLayout`] when no layout fits, [`Error::ConversationField`] when a field is missing or has
/// another type, [`Error::ConversationRole`] when a speaker is unknown; each names `source` and `row`.
pub fn parse_conversation(record: &Value, source: &str, row: usize) -> Result<Conversation, Error> {
    let at = At { source, row };
    let there = |key: &str| record.get(key).filter(|value| !value.is_null());
    let mut conversation = if let Some(messages) = there("messages") {
        at.turns(messages, "messages", "role", "content")?
    } else if let Some(conversations) = there("conversations") {
        at.turns(conversations, "conversations", "from", "value")?
    } else if record.get("instruction").is_some() {
        at.instruction(record)?
    } else {
        let found = match record {
            Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(", "),
            other => kind(other).to_owned(),
        };
        return Err(Error::ConversationLayout { path: source.to_owned(), row, found });
    };
    at.add_system(record, &mut conversation.messages)?;
    Ok(conversation)
}

/// A row of a source, for messages.
pub(crate) struct At<'a> {
    pub(crate) source: &'a str,
    pub(crate) row: usize,
}

impl At<'_> {
    /// Messages of either layout of turns: a list, or one alone.
    pub(crate) fn messages(&self, value: &Value, name: &str) -> Result<Vec<Message>, Error> {
        let one;
        let list = match value {
            Value::Object(_) => {
                one = Value::Array(vec![value.clone()]);
                &one
            }
            list => list,
        };
        let sharegpt = list.get(0).is_some_and(|first| first.get("from").is_some());
        let (role, text) = if sharegpt { ("from", "value") } else { ("role", "content") };
        Ok(self.turns(list, name, role, text)?.messages)
    }

    fn turns(&self, list: &Value, list_name: &str, role_name: &str, text_name: &str) -> Result<Conversation, Error> {
        let Value::Array(turns) = list else {
            return Err(self.field(list_name, "a list of turns", list));
        };
        let mut messages = Vec::with_capacity(turns.len());
        for (index, turn) in turns.iter().enumerate() {
            let role = self.text(turn, role_name, &format!("{list_name}[{index}].{role_name}"))?;
            let content = self.text(turn, text_name, &format!("{list_name}[{index}].{text_name}"))?;
            messages.push(Message {
                role: self.role(role, &format!("{list_name}[{index}].{role_name}"))?,
                content: content.trim().to_owned(),
            });
        }
        Ok(Conversation { messages })
    }

    fn instruction(&self, record: &Value) -> Result<Conversation, Error> {
        let question = self.question(record)?;
        let output = self.text(record, "output", "output")?.trim();
        let mut messages = self.history(record)?;
        messages.extend(Conversation::exchange(question, output).messages);
        Ok(Conversation { messages })
    }

    /// An instruction and its input, either of which may be empty.
    pub(crate) fn question(&self, record: &Value) -> Result<String, Error> {
        let instruction = self.text(record, "instruction", "instruction")?.trim();
        let input = match record.get("input") {
            None | Some(Value::Null) => "",
            Some(_) => self.text(record, "input", "input")?.trim(),
        };
        let between = if instruction.is_empty() || input.is_empty() { "" } else { "\n\n" };
        Ok(format!("{instruction}{between}{input}"))
    }

    /// What was said before an instruction.
    fn history(&self, record: &Value) -> Result<Vec<Message>, Error> {
        let wrong = |value| self.field("history", "a list of questions with their answers", value);
        let exchanges = match record.get("history") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(value) => value.as_array().ok_or_else(|| wrong(value))?,
        };
        let mut messages = Vec::with_capacity(2 * exchanges.len());
        for exchange in exchanges {
            match exchange.as_array().map(Vec::as_slice) {
                Some([Value::String(question), Value::String(answer)]) => {
                    messages.extend(Conversation::exchange(question.trim(), answer.trim()).messages);
                }
                _ => return Err(wrong(exchange)),
            }
        }
        Ok(messages)
    }

    /// Puts the instructions that stand beside the messages before them, unless they begin with some.
    pub(crate) fn add_system(&self, record: &Value, messages: &mut Vec<Message>) -> Result<(), Error> {
        let there = |key: &&str| record.get(*key).is_some_and(|value| !value.is_null());
        let Some(key) = ["system", "system_prompt"].into_iter().find(|key| there(key)) else { return Ok(()) };
        let system = self.text(record, key, key)?.trim();
        if !system.is_empty() && messages.first().is_none_or(|first| first.role != Role::System) {
            messages.insert(0, Message::system(system));
        }
        Ok(())
    }

    pub(crate) fn text<'v>(&self, record: &'v Value, key: &str, field: &str) -> Result<&'v str, Error> {
        match record.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.field(field, "a string", other)),
            None => Err(self.field(field, "a string", &Value::Null)),
        }
    }

    fn role(&self, name: &str, field: &str) -> Result<Role, Error> {
        match name.to_lowercase().as_str() {
            "system" => Ok(Role::System),
            "user" | "human" | "prompter" => Ok(Role::User),
            "assistant" | "gpt" | "model" | "bot" | "chatgpt" => Ok(Role::Assistant),
            _ => Err(Error::ConversationRole {
                path: self.source.to_owned(),
                row: self.row,
                field: field.to_owned(),
                found: name.to_owned(),
            }),
        }
    }

    pub(crate) fn field(&self, field: &str, expected: &'static str, found: &Value) -> Error {
        Error::ConversationField {
            path: self.source.to_owned(),
            row: self.row,
            field: field.to_owned(),
            expected,
            found: kind(found),
        }
    }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An empty answer goes with the question before it: a question without an answer would teach nothing and would put
/// two turns of the person in a row.
fn drop_empty_answers(conversation: Conversation) -> (Conversation, usize) {
    let mut empty = 0;
    let mut messages: Vec<Message> = Vec::with_capacity(conversation.messages.len());
    for message in conversation.messages {
        if message.role == Role::Assistant && message.content.is_empty() {
            empty += 1;
            if messages.last().is_some_and(|m| m.role == Role::User) {
                messages.pop();
            }
        } else {
            messages.push(message);
        }
    }
    (Conversation { messages }, empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(record: Value) -> Result<Conversation, Error> {
        parse_conversation(&record, "chats.jsonl", 7)
    }

    #[test]
    fn ultrachat() {
        let record = json!({"prompt": "x", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": " Hi \n"},
            {"role": "assistant", "content": "Hello."}]});
        let expected = [Message::system("Be brief."), Message::user("Hi"), Message::assistant("Hello.")];
        assert_eq!(parse(record).unwrap().messages, expected);
    }

    #[test]
    fn alpaca_joins_instruction_and_input() {
        let record = json!({"instruction": "Add.", "input": "2 and 3", "output": "5"});
        assert_eq!(parse(record).unwrap(), Conversation::exchange("Add.\n\n2 and 3", "5"));
        for empty in [json!(""), Value::Null] {
            let record = json!({"instruction": "Sing.", "input": empty, "output": "La."});
            assert_eq!(parse(record).unwrap(), Conversation::exchange("Sing.", "La."));
        }
        // As other messages, it does not begin with blank lines.
        let record = json!({"instruction": "", "input": "Sing.", "output": "La."});
        assert_eq!(parse(record).unwrap(), Conversation::exchange("Sing.", "La."));
    }

    #[test]
    fn sharegpt_speakers() {
        let record = json!({"conversations": [
            {"from": "system", "value": "S"}, {"from": "human", "value": "U"},
            {"from": "gpt", "value": "A"}, {"from": "user", "value": "V"}, {"from": "assistant", "value": "B"}]});
        let roles: Vec<_> = parse(record).unwrap().messages.iter().map(|m| m.role).collect();
        assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User, Role::Assistant]);
    }

    #[test]
    fn instructions_and_exchanges_beside_a_conversation_are_part_of_it() {
        let turns = json!([{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]);
        let told = [Message::system("S"), Message::user("U"), Message::assistant("A")];
        assert_eq!(parse(json!({"messages": turns, "system": " S\n"})).unwrap().messages, told);
        let sharegpt = json!([{"from": "human", "value": "U"}, {"from": "gpt", "value": "A"}]);
        assert_eq!(parse(json!({"conversations": sharegpt, "system_prompt": "S"})).unwrap().messages, told);
        for none in [json!(""), Value::Null] {
            assert_eq!(parse(json!({"messages": turns, "system": none})).unwrap().messages, told[1..]);
        }
        // What stands in the list is nearer to the conversation.
        let with_its_own = json!([{"role": "system", "content": "own"}, {"role": "user", "content": "U"}]);
        let found = parse(json!({"messages": with_its_own, "system": "S"})).unwrap().messages;
        assert_eq!(found, [Message::system("own"), Message::user("U")]);

        let record = json!({"instruction": "U", "output": "A", "system": "S", "history": [["a ", " b"], ["c", ""]]});
        let before = [Message::user("a"), Message::assistant("b"), Message::user("c"), Message::assistant("")];
        assert_eq!(parse(record).unwrap().messages, [&told[..1], &before, &told[1..]].concat());
        for none in [json!([]), Value::Null] {
            let record = json!({"instruction": "U", "output": "A", "history": none});
            assert_eq!(parse(record).unwrap(), Conversation::exchange("U", "A"));
        }
    }

    #[test]
    fn each_wrong_shape_names_file_row_and_field() {
        let cases = [
            (json!({"messages": [], "system": 3}), "system"),
            (json!({"instruction": "x", "output": "y", "history": "z"}), "history"),
            (json!({"instruction": "x", "output": "y", "history": [["one"]]}), "history"),
            (json!({"text": "x", "id": 3}), "text"),
            (json!([1, 2]), "a list"),
            (json!({"messages": "x"}), "messages"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user", "content": 4}]}), "a number"),
            (json!({"conversations": [{"from": "narrator", "value": "x"}]}), "narrator"),
            (json!({"instruction": "x"}), "output"),
            (json!({"instruction": "x", "input": [], "output": "y"}), "input"),
        ];
        for (record, named) in cases {
            let message = parse(record.clone()).unwrap_err().to_string();
            assert!(message.contains("chats.jsonl") && message.contains('7'), "{message}");
            assert!(message.contains(named), "{record}: {message}");
        }
    }

    #[test]
    fn empty_answers_are_dropped_with_their_question_and_counted() {
        let mut report = ReadReport::default();
        let rows = [
            json!({"messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": "  "},
                {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}),
            json!({"instruction": "a", "output": ""}),
            json!({"messages": [{"role": "user", "content": "only me"}]}),
            json!({"messages": []}),
        ];
        let kept: Vec<_> = rows.iter().filter_map(|r| take_row(r, "s", &mut report).unwrap()).collect();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].row, &kept[0].conversation), (1, &Conversation::exchange("b", "c")));
        assert_eq!((report.rows, report.conversations, report.messages), (4, 1, 2));
        assert_eq!((report.empty_answers, report.without_answer), (2, 3));
        assert_eq!(report.touched, [1, 2, 3, 4]);
    }
}
