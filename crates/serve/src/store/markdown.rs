//! A conversation as Markdown to read: the branch that is shown, oldest first.
//!
//! Nothing in a message can end it and pass for another's words. What a person typed stands in a fence that is longer than any
//! run of backticks in it; an answer is Markdown itself and stands in a block quote, which ends every fence, list and HTML block
//! that the answer left open.

use std::fmt::Write;

use super::Database;
use super::error::StoreError;
use super::types::{Message, Role};

impl Database {
    /// The conversation `id` as a Markdown document.
    ///
    /// # Errors
    /// [`StoreError::UnknownConversation`].
    pub fn markdown(&self, id: &str) -> Result<String, StoreError> {
        let conversation = self.conversation(id)?;
        let steps = match &conversation.leaf_id {
            Some(leaf) => self.path(leaf)?,
            None => Vec::new(),
        };
        let mut document = format!("# {}\n", heading(&conversation.title));
        if !conversation.system_prompt.is_empty() {
            section(&mut document, "System prompt", &fenced(&conversation.system_prompt));
        }
        for step in steps {
            let Message { role, content, .. } = &step.message;
            match role {
                Role::User => section(&mut document, "User", &fenced(content)),
                Role::Assistant => section(&mut document, "Assistant", &quoted(content)),
            }
        }
        Ok(document)
    }
}

fn section(document: &mut String, title: &str, block: &str) {
    // Writing to a string cannot fail.
    let _ = write!(document, "\n## {title}\n\n{block}");
}

/// The title on one line, without a meaning of its own.
fn heading(title: &str) -> String {
    let mut line = String::new();
    for c in title.trim().chars() {
        if c.is_ascii_punctuation() {
            line.push('\\');
        }
        line.push(if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    }
    if line.is_empty() { "Conversation".to_owned() } else { line }
}

fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

fn quoted(text: &str) -> String {
    // A lone carriage return ends a line of Markdown too.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.trim_end_matches('\n').split('\n').map(|line| format!("> {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{conversation_with, database};

    #[test]
    fn the_branch_that_is_shown_is_told_in_order() {
        let (_dir, mut database) = database();
        let id = conversation_with(&mut database, &["Hi *there*", "**Hello**\n\nyou", "Bye"]).id;
        let expected = "# Hi \\*there\\*\n\n## User\n\n```text\nHi *there*\n```\n\n## Assistant\n\n> **Hello**\n> \n> you\n\
                        \n## User\n\n```text\nBye\n```\n\n## Assistant\n\n> \n";
        assert_eq!(database.markdown(&id).unwrap(), expected);
    }

    #[test]
    fn no_message_can_speak_for_another() {
        let forged = "## User\n\nI owe you nothing.";
        let hostile = [
            format!("```\n{forged}"),
            format!("`````\n```text\n{forged}\n"),
            format!("~~~\n{forged}"),
            format!("x\r{forged}"),
            format!("x\r\n\r\n{forged}"),
            format!("<!-- \n\n{forged}"),
            format!("<script>\n{forged}\n</script>"),
            format!("- a\n\n{forged}"),
            format!("    code\n\n{forged}"),
        ];
        for text in hostile {
            let (_dir, mut database) = database();
            let id = conversation_with(&mut database, &[&text, &text, "Real"]).id;
            let document = database.markdown(&id).unwrap();
            // Lines by the rules of CommonMark, outside of fences of ours and outside of quotes.
            let normal = document.replace("\r\n", "\n").replace('\r', "\n");
            let mut fence: Option<String> = None;
            let mut headings = Vec::new();
            for line in normal.split('\n') {
                let ticks: String = line.chars().take_while(|c| *c == '`').collect();
                match &fence {
                    Some(open) if ticks.len() >= open.len() && line.trim_end() == ticks => fence = None,
                    Some(_) => {}
                    None if ticks.len() >= 3 => fence = Some(ticks),
                    None if line.starts_with("> ") || line.is_empty() => {}
                    None => headings.push(line.to_owned()),
                }
            }
            assert_eq!(headings[1..], ["## User", "## Assistant", "## User", "## Assistant"], "{document}");
            assert!(fence.is_none() && headings[0].starts_with("# "), "{document}");
        }
    }

    #[test]
    fn a_title_is_one_line_of_plain_text() {
        assert_eq!(heading("a\nb <b> [x](y) `c` #"), "a b \\<b\\> \\[x\\]\\(y\\) \\`c\\` \\#");
        assert_eq!(heading(" \n "), "Conversation");
    }
}
