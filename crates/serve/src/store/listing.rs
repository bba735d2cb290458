//! The list of conversations: newest first, page by page, all of them or those in which something is found.
//!
//! A query is words; a conversation is found when its title, or one of its messages, contains all of them, each
//! anywhere in a word. Words of three characters and more are looked up in the trigram index, shorter ones are compared with
//! `LIKE`. No character of a query is an operator.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, ToSql, params_from_iter};

use super::error::StoreError;
use super::types::{Conversation, limits};
use super::{Database, conversations};

/// Of a query that is longer the rest is not looked at.
const QUERY_CHARS: usize = 256;
const QUERY_WORDS: usize = 16;

/// Trigrams of a snippet, hence about as many characters; 64 is FTS5's limit.
const SNIPPET: usize = 64;

/// Which conversations to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Words to find; blank for all conversations.
    pub search: String,
    /// Conversations of a page, from 1 to [`limits::PAGE`]; what is outside is brought inside.
    pub limit: usize,
    /// [`Page::next`] of the page before.
    pub cursor: Option<String>,
}

/// A conversation that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The conversation.
    pub conversation: Conversation,
    /// Where the words stand in a message, with what surrounds them; none without words, or if only the title has them.
    pub snippet: Option<String>,
}

/// A part of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The last changed first.
    pub entries: Vec<Entry>,
    /// The cursor of the next page; none on the last.
    pub next: Option<String>,
}

/// What a query asks for.
struct Words {
    /// An expression of FTS5; none if all words are short.
    expression: Option<String>,
    /// Patterns of `LIKE`, with `\` as the escape.
    patterns: Vec<String>,
}

impl Words {
    /// None if there is nothing to look for.
    fn parse(query: &str) -> Option<Self> {
        let query: String = query.chars().take(QUERY_CHARS).collect();
        // SQLite's patterns and expressions end at a NUL.
        let words: Vec<&str> =
            query.split(|c: char| c.is_whitespace() || c == '\0').filter(|word| !word.is_empty()).collect();
        let mut expression = Vec::new();
        let mut patterns = Vec::new();
        for word in words.into_iter().take(QUERY_WORDS) {
            if word.chars().count() >= 3 {
                // A string of FTS5, in which only the quotation mark means anything.
                expression.push(format!("\"{}\"", word.replace('"', "\"\"")));
            } else {
                let escaped = word.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
                patterns.push(format!("%{escaped}%"));
            }
        }
        if expression.is_empty() && patterns.is_empty() {
            return None;
        }
        Some(Self { expression: (!expression.is_empty()).then(|| expression.join(" ")), patterns })
    }

    /// A condition that holds for rows of `table` (with its index and its column of text) that have all words. Its
    /// parameters are pushed onto `values`.
    fn condition(&self, table: &str, index: &str, column: &str, values: &mut Vec<Value>) -> String {
        let mut conditions = Vec::new();
        if let Some(expression) = &self.expression {
            values.push(Value::Text(expression.clone()));
            conditions
                .push(format!("{table}.number IN (SELECT rowid FROM {index} WHERE {index} MATCH ?{})", values.len()));
        }
        for pattern in &self.patterns {
            values.push(Value::Text(pattern.clone()));
            conditions.push(format!("{table}.{column} LIKE ?{} ESCAPE '\\'", values.len()));
        }
        conditions.join(" AND ")
    }

    /// Where a message of the conversation has the words.
    fn snippet(&self, connection: &Connection, conversation: &str) -> Result<Option<String>, StoreError> {
        let mut values = vec![Value::Text(conversation.to_owned())];
        let condition = self.condition("messages", "search_messages", "content", &mut values);
        let number: Option<(i64, String)> = connection
            .prepare_cached(&format!(
                "SELECT number, content FROM messages WHERE conversation_id = ?1 AND {condition} \
                 ORDER BY number DESC LIMIT 1"
            ))?
            .query_row(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((number, content)) = number else { return Ok(None) };
        let Some(expression) = &self.expression else {
            return Ok(Some(self.around_first(&content)));
        };
        let text: Option<String> = connection
            .prepare_cached(&format!(
                "SELECT snippet(search_messages, 0, '', '', '…', {SNIPPET}) FROM search_messages \
                 WHERE search_messages MATCH ?1 AND rowid = ?2"
            ))?
            .query_row([expression as &dyn ToSql, &number], |row| row.get(0))
            .optional()?;
        Ok(text)
    }

    /// The surroundings of the first short word in `content`.
    fn around_first(&self, content: &str) -> String {
        let word = self.patterns[0].trim_matches('%').replace('\\', "").to_ascii_lowercase();
        let place = content.to_ascii_lowercase().find(&word).unwrap_or(0);
        let start = content[..place].char_indices().rev().nth(SNIPPET / 2).map_or(0, |(place, _)| place);
        let end = content[place..].char_indices().nth(SNIPPET / 2).map_or(content.len(), |(after, _)| place + after);
        let ellipsis = |cut: bool| if cut { "…" } else { "" };
        format!("{}{}{}", ellipsis(start > 0), &content[start..end], ellipsis(end < content.len()))
    }
}

impl Database {
    /// A page of the list.
    ///
    /// # Errors
    /// [`StoreError::Cursor`].
    pub fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let limit = query.limit.clamp(1, limits::PAGE);
        let words = Words::parse(&query.search);
        let mut values = Vec::new();
        let mut conditions = Vec::new();
        if let Some(cursor) = &query.cursor {
            let (updated_at, id) = parse_cursor(cursor)?;
            values.push(Value::Integer(updated_at));
            values.push(Value::Text(id.to_owned()));
            conditions.push("(c.updated_at, c.id) < (?1, ?2)".to_owned());
        }
        if let Some(words) = &words {
            let title = words.condition("c", "search_titles", "title", &mut values);
            let message = words.condition("m", "search_messages", "content", &mut values);
            conditions.push(format!(
                "(({title}) OR EXISTS (SELECT 1 FROM messages m WHERE m.conversation_id = c.id AND {message}))"
            ));
        }
        let filter = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
        let sql = format!(
            "SELECT {} FROM conversations c {filter} ORDER BY updated_at DESC, id DESC LIMIT {}",
            conversations::COLUMNS,
            limit + 1
        );
        let mut found: Vec<Conversation> = self
            .connection
            .prepare_cached(&sql)?
            .query_map(params_from_iter(values), conversations::from_row)?
            .collect::<Result<_, _>>()?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| format!("{}.{}", last.updated_at, last.id));
        let entries = found
            .into_iter()
            .map(|conversation| {
                let snippet = match &words {
                    Some(words) => words.snippet(&self.connection, &conversation.id)?,
                    None => None,
                };
                Ok(Entry { conversation, snippet })
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Page { entries, next })
    }

    /// The ids of all conversations, oldest first.
    ///
    /// # Errors
    /// SQLite's.
    pub fn all(&self) -> Result<Vec<String>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT id FROM conversations ORDER BY number")?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}

fn parse_cursor(cursor: &str) -> Result<(i64, &str), StoreError> {
    let parsed = cursor.split_once('.').and_then(|(updated_at, id)| Some((updated_at.parse().ok()?, id)));
    parsed.ok_or_else(|| StoreError::Cursor(StoreError::shown(cursor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{conversation_with, database};
    use crate::store::{Change, StoreError};

    fn titles(database: &Database, search: &str) -> Vec<String> {
        let query = ListQuery { search: search.to_owned(), limit: 100, cursor: None };
        let page = database.list(&query).unwrap();
        page.entries.into_iter().map(|entry| entry.conversation.title).collect()
    }

    #[test]
    fn pages_join_to_the_whole_list_newest_first() {
        let (_dir, mut database) = database();
        let mut expected: Vec<String> =
            (0..23).map(|n| conversation_with(&mut database, &[&format!("Talk {n}")]).id).collect();
        // Equal times happen: the id decides.
        database.connection.execute("UPDATE conversations SET updated_at = updated_at / 1000", []).unwrap();
        let mut seen = Vec::new();
        let mut query = ListQuery { limit: 5, ..Default::default() };
        loop {
            let page = database.list(&query).unwrap();
            assert!(page.entries.len() == 5 || page.next.is_none());
            let times: Vec<_> =
                page.entries.iter().map(|e| (e.conversation.updated_at, e.conversation.id.clone())).collect();
            assert!(times.windows(2).all(|pair| pair[0] > pair[1]));
            seen.extend(page.entries.into_iter().map(|entry| entry.conversation.id));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        expected.sort();
        seen.sort();
        assert_eq!(seen, expected);
    }

    #[test]
    fn words_are_found_in_titles_and_messages_of_any_language() {
        let (_dir, mut database) = database();
        conversation_with(
            &mut database,
            &["Why is the sky blue?", "Rayleigh scattering, 100 % of it.", "Und im Süden?"],
        );
        conversation_with(&mut database, &["今日は雨が降っています"]);
        conversation_with(&mut database, &["Tell me about a_b and ab\"c"]);
        let sky = vec!["Why is the sky blue?".to_owned()];
        assert_eq!(titles(&database, "SKY"), sky);
        assert_eq!(titles(&database, "cattering"), sky, "a part of a word");
        assert_eq!(titles(&database, "scattering rayleigh"), sky, "order does not matter");
        assert_eq!(titles(&database, "suden"), sky, "without the diacritic");
        assert_eq!(titles(&database, "0 %"), sky, "a percent sign is a character");
        assert_eq!(titles(&database, "sky scattering"), Vec::<String>::new(), "all words in one message");
        assert_eq!(titles(&database, "雨が"), ["今日は雨が降っています"]);
        assert_eq!(titles(&database, "が降っ"), ["今日は雨が降っています"]);
        assert_eq!(titles(&database, "a_b"), ["Tell me about a_b and ab\"c"]);
        assert_eq!(titles(&database, "b\"c"), ["Tell me about a_b and ab\"c"]);
        assert_eq!(titles(&database, "_").len(), 1, "an underscore is a character");
        assert_eq!(titles(&database, " \n\t\0 ").len(), 3);
    }

    #[test]
    fn snippets_show_the_place() {
        let (_dir, mut database) = database();
        let filler = "Lorem ipsum dolor sit amet. ".repeat(100);
        conversation_with(&mut database, &[&format!("{filler} the needle ÄÖ {filler}")]);
        for (search, word) in [("needle", "needle"), ("needle ÄÖ", "needle"), ("ÄÖ", "ÄÖ")] {
            let page = database.list(&ListQuery { search: search.into(), limit: 1, cursor: None }).unwrap();
            let snippet = page.entries[0].snippet.clone().unwrap();
            assert!(snippet.contains(word) && snippet.starts_with('…') && snippet.ends_with('…'), "{snippet}");
            assert!(snippet.chars().count() < 100, "{snippet}");
        }
        let id = conversation_with(&mut database, &["x"]).id;
        database.change(&id, Change { title: Some("Holidays".into()), ..Default::default() }).unwrap();
        let page = database.list(&ListQuery { search: "holi".into(), limit: 1, cursor: None }).unwrap();
        assert_eq!((page.entries[0].conversation.id.as_str(), &page.entries[0].snippet), (id.as_str(), &None));
    }

    #[test]
    fn the_index_follows_renaming_and_deleting() {
        let (_dir, mut database) = database();
        let id = conversation_with(&mut database, &["First words", "Answered words"]).id;
        database.change(&id, Change { title: Some("Renamed".into()), ..Default::default() }).unwrap();
        assert_eq!(titles(&database, "renamed"), ["Renamed"]);
        assert_eq!(titles(&database, "first"), ["Renamed"], "the message still has it");
        database.delete(&id).unwrap();
        for search in ["renamed", "first", "answered", ""] {
            assert!(titles(&database, search).is_empty(), "{search}");
        }
        for table in ["search_titles", "search_messages"] {
            let sql = format!("INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)");
            database.connection.execute(&sql, []).unwrap();
        }
    }

    #[test]
    fn no_query_is_an_error() {
        let (_dir, mut database) = database();
        conversation_with(&mut database, &["AND OR NOT NEAR", "title: * ^ - + { } ( ) \" ' ; --"]);
        let hostile = [
            "\"",
            "\"\"",
            "\"\"\"",
            "'",
            "*",
            "AND",
            "OR",
            "NOT",
            "NEAR(",
            "NEAR(a b, 2)",
            "title:x",
            "a*",
            "^a",
            "-a",
            "(",
            ")",
            "{}",
            "a AND",
            "OR b",
            "\0",
            "abc\0def",
            "\"abc",
            "abc\"",
            "\u{301}\u{301}\u{301}",
            "ab\u{301}",
            "%",
            "_",
            "\\",
            "\\\\%",
            "; DROP TABLE messages",
            "🦀🦀🦀",
            "\u{200b}\u{200b}\u{200b}",
            "\u{feff}ab",
            "İİİ",
        ];
        for query in hostile {
            database
                .list(&ListQuery { search: query.into(), limit: 10, cursor: None })
                .unwrap_or_else(|e| panic!("{query:?}: {e}"));
        }
        assert_eq!(titles(&database, "NEAR").len(), 1);
        assert_eq!(titles(&database, "title: *").len(), 1);
        let long = "word ".repeat(100_000) + &"x".repeat(1_000_000);
        assert!(titles(&database, &long).is_empty());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

        #[test]
        fn any_string_is_a_query_and_finds_itself(text in "\\PC{3,40}", noise in proptest::prelude::any::<String>()) {
            let (_dir, mut database) = database();
            conversation_with(&mut database, &["Something", &text]);
            let query = |search: &str| database.list(&ListQuery { search: search.into(), limit: 10, cursor: None }).unwrap();
            query(&noise);
            query(&text);
            // What is only letters and digits is found by any part of a word.
            let word: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
            if text == word && word.len() >= 4 {
                proptest::prop_assert_eq!(query(&word[1..]).entries.len(), 1);
            }
        }
    }

    #[test]
    fn cursors_that_were_not_given_out_are_refused() {
        let (_dir, database) = database();
        for cursor in ["", ".", "x.y", "99999999999999999999.a", &"9".repeat(100_000)] {
            let query = ListQuery { search: String::new(), limit: 5, cursor: Some(cursor.into()) };
            let error = database.list(&query).unwrap_err();
            assert!(matches!(error, StoreError::Cursor(_)) && error.to_string().len() < 300, "{error}");
        }
    }
}
