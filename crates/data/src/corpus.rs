//! The corpus that the program carries, so that `quickstart` needs no network: OpenStax prose and simple chats.
//!
//! Made by `corpus/build.py`; what is in it, from where and under which licences stands in `corpus/README.md`. Called by
//! `train` and the command line. The bytes are compressed JSON lines: read documents with
//! [`crate::source::open_embedded_records`], chats with [`conversations`].

use crate::conversations::{ConversationRecord, ReadReport, take_row};
use crate::error::Error;
use crate::source::open_embedded_records;

/// What the rows of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{"id", "text"}`.
    Documents,
    /// `{"messages", "source"}`.
    Conversations,
}

/// One embedded file.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddedSource {
    /// Short name, as reports show it.
    pub name: &'static str,
    /// File name, which tells the format.
    pub file: &'static str,
    /// Licences of its texts, as SPDX expressions.
    pub licence: &'static str,
    /// The line that credits its authors.
    pub attribution: &'static str,
    /// What its rows are.
    pub kind: Kind,
    /// The file, compressed.
    pub bytes: &'static [u8],
}

static SOURCES: [EmbeddedSource; 2] = [
    EmbeddedSource {
        name: "openstax",
        file: "openstax.jsonl.zst",
        licence: "CC-BY-4.0",
        attribution: "Textbooks by OpenStax, Rice University (openstax.org), CC BY 4.0; selected and stripped of exercises",
        kind: Kind::Documents,
        bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../corpus/openstax.jsonl.zst")),
    },
    EmbeddedSource {
        name: "chat",
        file: "chat.jsonl.zst",
        licence: "BSD-3-Clause AND CC-BY-4.0 AND Apache-2.0",
        attribution: "Self-dialogue corpus (Fainberg et al. 2018), definitions from OpenStax, instructions by Sebastian Raschka; selected and tidied",
        kind: Kind::Conversations,
        bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../corpus/chat.jsonl.zst")),
    },
];

/// Everything embedded.
pub fn sources() -> &'static [EmbeddedSource] {
    &SOURCES
}

/// The embedded chats, in the order of the file.
///
/// # Errors
/// Those of reading; they would mean a damaged program.
pub fn conversations() -> Result<(Vec<ConversationRecord>, ReadReport), Error> {
    let mut report = ReadReport::default();
    let mut out = Vec::new();
    for source in SOURCES.iter().filter(|s| s.kind == Kind::Conversations) {
        for record in open_embedded_records(source.file, source.bytes)? {
            out.extend(take_row(&record?, source.file, &mut report)?);
        }
    }
    Ok((out, report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Role;
    use crate::cleaning::Cleaner;
    use crate::identity::{held_out_wordings, normalise};

    #[test]
    fn corpus_is_within_its_budget_and_every_row_reads() {
        let total: usize = sources().iter().map(|s| s.bytes.len()).sum();
        assert!(total <= 12_000_000, "{total}");
        for source in sources().iter().filter(|s| s.kind == Kind::Documents) {
            let mut bytes = 0;
            for record in open_embedded_records(source.file, source.bytes).unwrap() {
                let record = record.unwrap();
                assert!(record["id"].is_string());
                bytes += record["text"].as_str().unwrap().len();
            }
            assert!(bytes > 25_000_000, "{bytes}");
        }
    }

    #[test]
    fn frames_decode_with_a_window_of_eight_megabytes() {
        for source in sources() {
            let mut decoder = zstd::stream::read::Decoder::new(source.bytes).unwrap();
            decoder.window_log_max(23).unwrap();
            assert!(std::io::copy(&mut decoder, &mut std::io::sink()).unwrap() > 1_000_000);
        }
    }

    #[test]
    fn chats_are_whole_and_hold_no_examination_question() {
        let (records, report) = conversations().unwrap();
        assert!(records.len() > 9000, "{}", records.len());
        assert_eq!((report.empty_answers, report.without_answer), (0, 0));
        let held_out = held_out_wordings();
        for record in &records {
            let messages = &record.conversation.messages;
            assert_eq!(messages[0].role, Role::User, "row {}", record.row);
            for message in messages {
                assert!(!held_out.contains(&normalise(&message.content)), "row {}", record.row);
            }
        }
    }

    #[test]
    fn cleaning_finds_no_wrong_identity_in_the_chats() {
        let (records, _) = conversations().unwrap();
        let (_, report) = Cleaner::new(None).clean(records);
        assert!(report.touched.is_empty(), "{:#?}", report.touched);
    }
}
