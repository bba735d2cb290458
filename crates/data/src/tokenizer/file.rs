//! `tokenizer.json`: writing, and reading with every check, because the `tokenizers` crate trusts what it reads.

use std::collections::{BTreeMap, HashMap};

use ahash::AHashMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use tokenizers::models::bpe::BPE;

use super::foreign::{Scheme, byte_level};
use super::{ControlToken, Digits, MAX_VOCAB_SIZE, Parts, SPECIAL_TOKENS, SpecialTokens, Tokenizer, byte_chars};
use crate::error::Error;

/// A tokenizer from its parts: `spellings` of the ids after the control tokens, and merges by priority.
pub(super) fn assemble(
    spellings: &[String],
    merges: &[(String, String)],
    digits: Digits,
    origin: &str,
) -> Result<Tokenizer, Error> {
    let fault = |message: String| Error::TokenizerFormat { path: origin.to_owned(), message };
    let first = SPECIAL_TOKENS.len();
    let mut vocab: HashMap<&str, u32> = HashMap::with_capacity(spellings.len());
    let mut token_bytes: Vec<Box<[u8]>> = vec![Box::default(); first];
    for (index, spelling) in spellings.iter().enumerate() {
        if SPECIAL_TOKENS.contains(&spelling.as_str()) {
            return Err(fault(format!("`{spelling}` stands twice in the vocabulary")));
        }
        let bytes = byte_chars::bytes_of(spelling).filter(|bytes| !bytes.is_empty());
        let Some(bytes) = bytes else {
            return Err(fault(format!("token {} `{spelling}` is not byte-level", first + index)));
        };
        token_bytes.push(bytes);
        vocab.insert(spelling, (first + index) as u32);
    }
    let missing =
        (0..=u8::MAX).find(|&byte| !vocab.contains_key(byte_chars::char_of(byte).encode_utf8(&mut [0; 4]) as &str));
    if let Some(byte) = missing {
        return Err(fault(format!("no token for byte {byte}: not a byte-level vocabulary")));
    }
    let json = {
        let added = SPECIAL_TOKENS.iter().enumerate().map(|(id, content)| AddedToken::new(id as u32, content, true));
        let all = SPECIAL_TOKENS.iter().copied().chain(spellings.iter().map(String::as_str));
        let merges = merges.iter().map(|(left, right)| (left.as_str(), right.as_str()));
        write(added.collect(), Scheme::Own(digits), all.zip(0..).collect(), merges.collect())
            .map_err(|e| fault(e.to_string()))?
    };
    let vocab = vocab.into_iter().map(|(spelling, id)| (spelling.to_owned(), id)).collect();
    let model = bpe(vocab, merges.to_vec(), false).map_err(fault)?;
    let control = |(id, content): (usize, &&str)| ControlToken::plain(content, id as u32);
    Ok(Tokenizer::new(Parts {
        model,
        scheme: Scheme::Own(digits),
        nfc: false,
        token_bytes,
        controls: SPECIAL_TOKENS.iter().enumerate().map(control).collect(),
        special: Some(SpecialTokens { bos: 0, eos: 1, pad: 2, system: 3, user: 4, assistant: 5 }),
        json,
    }))
}

/// The model of these tokens of text and merges by priority.
pub(super) fn bpe(
    vocab: AHashMap<String, u32>,
    merges: Vec<(String, String)>,
    ignore_merges: bool,
) -> Result<BPE, String> {
    for (rank, (left, right)) in merges.iter().enumerate() {
        let made = format!("{left}{right}");
        if let Some(part) = [left, right, &made].into_iter().find(|part| !vocab.contains_key(part.as_str())) {
            return Err(format!("merge {rank} uses `{part}`, which is no token of text"));
        }
    }
    // `word_cache` remembers more words, and for less, than the crate's own cache.
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(ignore_merges).cache_capacity(0);
    model.build().map_err(|e| e.to_string())
}

/// What a file says; `origin` names it in errors.
pub(super) fn parse(bytes: &[u8], origin: &str) -> Result<TokenizerFile, Error> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::TokenizerFormat { path: origin.to_owned(), message: e.to_string() })
}

/// A tokenizer of this program from what its file says.
pub(super) fn own(file: TokenizerFile, origin: &str) -> Result<Tokenizer, Error> {
    let fault = |message: String| Error::TokenizerFormat { path: origin.to_owned(), message };
    let digits = Scheme::own_digits(&file.pre_tokenizer).unwrap_or_default();
    let pipeline = [
        ("normalizer", &file.normalizer, Value::Null),
        ("pre_tokenizer", &file.pre_tokenizer, Scheme::Own(digits).to_json()),
        ("decoder", &file.decoder, byte_level(false)),
    ];
    for (field, found, expected) in pipeline {
        if *found != expected {
            return Err(Error::TokenizerPipeline {
                path: origin.to_owned(),
                field,
                found: found.to_string().chars().take(120).collect(),
            });
        }
    }
    let model = file.model;
    if model.kind != "BPE" || model.altered() {
        return Err(Error::TokenizerPipeline {
            path: origin.to_owned(),
            field: "model",
            found: format!("type {}, or a dropout, prefix, suffix or fallback set", model.kind),
        });
    }
    for (expected, &token) in SPECIAL_TOKENS.iter().enumerate() {
        let expected = expected as u32;
        let declared = file.added_tokens.iter().find(|added| added.content == token);
        let wrong = |found: Option<u32>| Error::TokenizerSpecial { path: origin.to_owned(), token, expected, found };
        match (model.vocab.get(token), declared) {
            (Some(&id), Some(added)) if id == expected && added.id == expected && added.special => {}
            (Some(&id), _) if id != expected => return Err(wrong(Some(id))),
            (_, added) => return Err(wrong(added.map(|a| a.id).filter(|&id| id != expected))),
        }
    }
    if let Some(other) = file.added_tokens.iter().find(|a| !SPECIAL_TOKENS.contains(&a.content.as_str())) {
        return Err(fault(format!("unknown control token `{}`", other.content)));
    }
    let size = model.vocab.len();
    if size > MAX_VOCAB_SIZE {
        return Err(fault(format!("{size} tokens, at most {MAX_VOCAB_SIZE} are possible")));
    }
    let mut by_id: Vec<Option<String>> = vec![None; size];
    for (spelling, id) in model.vocab {
        match by_id.get_mut(id as usize) {
            Some(place @ None) => *place = Some(spelling),
            Some(Some(other)) => {
                return Err(fault(format!("id {id} is given to `{other}` and `{spelling}`")));
            }
            None => return Err(fault(format!("id {id} of `{spelling}` with only {size} tokens"))),
        }
    }
    // All places are taken: as many ids as places, each in range and none twice.
    let spellings: Vec<String> = by_id.into_iter().flatten().skip(SPECIAL_TOKENS.len()).collect();
    assemble(&spellings, &pairs(model.merges).map_err(fault)?, digits, origin)
}

/// The text of a file: control tokens, then tokens in the order of ids, so that one tokenizer has one text.
pub(super) fn write(
    added: Vec<AddedToken>,
    scheme: Scheme,
    vocab: Vec<(&str, u32)>,
    merges: Vec<(&str, &str)>,
) -> Result<String, serde_json::Error> {
    serde_json::to_string(&TokenizerOut {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added,
        normalizer: (),
        pre_tokenizer: scheme.to_json(),
        post_processor: (),
        decoder: byte_level(false),
        model: ModelOut {
            kind: "BPE",
            dropout: (),
            unk_token: (),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            // Llama 3 takes a word whole if it is a token.
            ignore_merges: scheme == Scheme::Llama3,
            vocab: VocabOut(vocab),
            merges,
        },
    })
}

#[derive(Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: ModelFile,
}

impl TokenizerFile {
    /// Whether it states the way of splitting that this program trains with.
    pub(super) fn is_own(&self) -> bool {
        Scheme::own_digits(&self.pre_tokenizer).is_some()
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

impl AddedToken {
    /// A control token; `special` ones are not shown.
    pub(super) fn new(id: u32, content: &str, special: bool) -> Self {
        let content = content.to_owned();
        Self { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }
    }
}

#[derive(Deserialize)]
pub(super) struct ModelFile {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) dropout: Value,
    #[serde(default)]
    pub(super) unk_token: Value,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: BTreeMap<String, u32>,
    pub(super) merges: Vec<Merge>,
}

impl ModelFile {
    /// Whether an option is set that would change the ids.
    fn altered(&self) -> bool {
        self.altered_words() || !self.unk_token.is_null() || self.ignore_merges
    }

    /// Whether an option is set that changes how a word is spelled or merged. An unknown token is none of these: no text
    /// is ever encoded as a control token.
    pub(super) fn altered_words(&self) -> bool {
        let set = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
        !self.dropout.is_null()
            || set(&self.continuing_subword_prefix)
            || set(&self.end_of_word_suffix)
            || self.byte_fallback
    }
}

/// A merge as a pair, or as the older `"left right"`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Pair(String, String),
    Line(String),
}

/// Merges as pairs, by priority.
pub(super) fn pairs(merges: Vec<Merge>) -> Result<Vec<(String, String)>, String> {
    let pair = |merge| match merge {
        Merge::Pair(left, right) => Ok((left, right)),
        Merge::Line(line) => match line.split_once(' ') {
            Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
            None => Err(format!("merge `{line}` is not a pair")),
        },
    };
    merges.into_iter().map(pair).collect()
}

#[derive(Serialize)]
struct TokenizerOut<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<AddedToken>,
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: ModelOut<'a>,
}

#[derive(Serialize)]
struct ModelOut<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: VocabOut<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

/// As a map in this order.
struct VocabOut<'a>(Vec<(&'a str, u32)>);

impl Serialize for VocabOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}
