//! The model that spells.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casallm_data::chat::ChatTemplate;
use casallm_data::tokenizer::{Tokenizer, TrainOptions};
use casallm_model::error::ModelError;
use casallm_model::sequences::Piece;

use crate::chatbot::{Chatbot, ModelCard};
use crate::engine::{Engine, EngineConfig, SequenceModel};

/// What a test sets and sees.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    /// Milliseconds of each pass.
    pub(super) pace: AtomicU64,
    /// Letters of a summary.
    pub(super) summary: AtomicUsize,
    /// Texts of the prompts that were answered.
    pub(super) prompts: Mutex<Vec<String>>,
}

impl Behaviour {
    pub(super) fn last_prompt(&self) -> String {
        self.prompts.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

struct Speller {
    rows: Vec<Vec<u32>>,
    tokenizer: Arc<Tokenizer>,
    letters: Vec<u32>,
    logits: Vec<f32>,
    behaviour: Arc<Behaviour>,
}

/// A chatbot of this context, whose messages "17 ..." are answered with 17 letters.
pub(super) fn chatbot(context: usize, behaviour: &Arc<Behaviour>) -> Chatbot {
    let options = TrainOptions { vocab_size: 262, ..TrainOptions::default() };
    let documents = std::iter::once(Ok("No pair comes twice".to_owned()));
    let tokenizer = Arc::new(Tokenizer::train(documents, &options, &mut |_| {}).unwrap());
    let template = ChatTemplate::own(&tokenizer).unwrap();
    let card = ModelCard {
        id: "speller".into(),
        parameters: 0,
        device: "none".into(),
        created: 0,
        tokenizer: tokenizer.fingerprint(),
    };
    let model = Speller {
        rows: vec![vec![u32::MAX; context]; 4],
        letters: ('a'..='z').map(|letter| tokenizer.encode(&letter.to_string())[0]).collect(),
        tokenizer: tokenizer.clone(),
        logits: Vec::new(),
        behaviour: behaviour.clone(),
    };
    let engine = Engine::start(model, &EngineConfig::default(), None).unwrap();
    let opening = tokenizer.special().unwrap().bos;
    Chatbot::new(engine, tokenizer, template, Some(opening), card)
}

impl Speller {
    fn next(&self, ids: &[u32]) -> u32 {
        let special = self.tokenizer.special().unwrap();
        // A part of a prompt may have neither; nobody looks at what follows it.
        let last = |control: u32, ids: &[u32]| ids.iter().rposition(|id| *id == control).map_or(0, |place| place + 1);
        let answer = last(special.assistant, ids);
        let question = last(special.user, &ids[..answer]);
        let question = self.tokenizer.decode(&ids[question..answer]);
        if answer == ids.len() {
            self.behaviour.prompts.lock().unwrap().push(self.tokenizer.decode(ids));
        }
        let letters = if question.starts_with("Summarise our conversation") {
            self.behaviour.summary.load(Ordering::Relaxed)
        } else {
            question.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(10)
        };
        if ids.len() - answer >= letters {
            return special.eos;
        }
        // FNV-1a of all there is.
        let hash = ids
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, id| (hash ^ u64::from(*id)).wrapping_mul(0x100_0000_01b3));
        self.letters[(hash >> 20) as usize % self.letters.len()]
    }
}

impl SequenceModel for Speller {
    fn sequences(&self) -> usize {
        self.rows.len()
    }

    fn capacity(&self) -> usize {
        self.rows[0].len()
    }

    fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    fn pass_tokens(&self) -> usize {
        512
    }

    fn bytes_a_token(&self) -> usize {
        4
    }

    fn forward_while(
        &mut self,
        pieces: &[Piece<'_>],
        _: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<&[f32]>, ModelError> {
        self.logits.clear();
        for piece in pieces {
            let end = piece.at + piece.ids.len();
            self.rows[piece.sequence][piece.at..end].copy_from_slice(piece.ids);
            if piece.logits {
                let next = self.next(&self.rows[piece.sequence][..end]);
                let vocab_size = self.tokenizer.vocab_size() as u32;
                self.logits.extend((0..vocab_size).map(|id| if id == next { 50.0 } else { 0.0 }));
            }
        }
        // It stands for the time that a model computes.
        std::thread::sleep(Duration::from_millis(self.behaviour.pace.load(Ordering::Relaxed)));
        Ok(Some(&self.logits))
    }

    fn save(&self, sequence: usize, tokens: Range<usize>) -> Option<Vec<u8>> {
        Some(self.rows[sequence][tokens].iter().flat_map(|id| id.to_le_bytes()).collect())
    }

    fn restore(&mut self, sequence: usize, at: usize, tokens: usize, bytes: &[u8]) {
        for (row, bytes) in self.rows[sequence][at..at + tokens].iter_mut().zip(bytes.as_chunks::<4>().0) {
            *row = u32::from_le_bytes(*bytes);
        }
    }
}
