//! How conversations become the batches of a stage, and what is validated on.

use casallm_data::Error as DataError;
use casallm_data::chat::{ChatTemplate, Conversation};
use casallm_data::packing::{ConversationSet, FitReport};
use casallm_data::tokenizer::Tokenizer;

use crate::error::TrainError;
use crate::feed::SftFeed;
use crate::recipe::{Recipe, Sft};
use crate::trainer::Observer;
use crate::validation::ValidationSet;

/// How conversations become ids and are packed.
#[derive(Clone, Copy)]
pub(super) struct Packing<'a> {
    /// The model's tokenizer.
    pub(super) tokenizer: &'a Tokenizer,
    /// Its chat template.
    pub(super) template: &'a ChatTemplate,
    /// Tokens of the longest.
    pub(super) context: usize,
    /// Tokens of a micro-batch.
    pub(super) micro_tokens: usize,
    /// Seed of the order.
    pub(super) seed: u64,
}

impl Packing<'_> {
    fn pack(self, conversations: &[Conversation]) -> Result<(ConversationSet, FitReport), TrainError> {
        let Packing { tokenizer, template, context, micro_tokens, seed } = self;
        Ok(ConversationSet::from_conversations(conversations, tokenizer, template, context, micro_tokens, seed)?)
    }

    /// The fixed validation of at least `eval_tokens`, where there are so many; `None` where nothing is held out, or nothing
    /// of it fits.
    pub(super) fn validation(
        self,
        held_out: &[Conversation],
        eval_tokens: u64,
        observer: &mut dyn Observer,
    ) -> Result<Option<ValidationSet>, TrainError> {
        if held_out.is_empty() {
            return Ok(None);
        }
        let held_out = match self.pack(held_out) {
            Err(TrainError::Data(DataError::NoConversations { given, context })) => {
                observer.note(&format!(
                    "none of the {given} held-out conversations fits the context of {context}: there is no validation on \
                     conversations"
                ));
                return Ok(None);
            }
            // That it can be learned by at all was seen of what is trained on.
            Err(TrainError::Data(DataError::ChatTemplate { message })) => {
                observer.note(&format!(
                    "the model's chat template refuses all {} held-out conversations ({message}): there is no validation on \
                     conversations",
                    held_out.len()
                ));
                return Ok(None);
            }
            packed => packed?.0,
        };
        let lengths = self.tokenizer.byte_lengths();
        let plan = held_out.plan(0);
        let rows = eval_tokens.div_ceil(self.micro_tokens as u64).max(1);
        let batches: Vec<_> =
            (0..plan.len().min(usize::try_from(rows).unwrap_or(usize::MAX))).filter_map(|i| plan.batch(i)).collect();
        let supervised = batches.iter().flat_map(|b| b.targets.iter().zip(&b.weights));
        let bytes = supervised
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(target, _)| u64::from(lengths.get(*target as usize).copied().unwrap_or(0)))
            .sum();
        Ok(Some(ValidationSet { source: "conversations".to_owned(), batches, bytes: Some(bytes), pairs: None }))
    }
}

impl<'a> Packing<'a> {
    /// That of a recipe's second stage.
    pub(super) fn of(recipe: &Recipe, stage: &Sft, tokenizer: &'a Tokenizer, template: &'a ChatTemplate) -> Self {
        let micro_tokens = stage.micro_rows() * stage.context;
        Packing { tokenizer, template, context: stage.context, micro_tokens, seed: recipe.data.seed }
    }

    /// The batches of a recipe's second stage, and what became of conversations longer than the context.
    pub(super) fn feed(self, stage: &Sft, train: &[Conversation]) -> Result<(SftFeed, FitReport), TrainError> {
        let (set, fit) = self.pack(train)?;
        Ok((SftFeed::new(set, stage.epochs, stage.accumulation()), fit))
    }
}

#[cfg(test)]
mod tests {
    use casallm_data::chat::Message;
    use casallm_data::tokenizer::TrainOptions;

    use super::*;
    use crate::metrics::MetricsRow;

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Observer for Notes {
        fn step(&mut self, _: &MetricsRow, _: u64) {}

        fn note(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
    }

    #[test]
    fn held_out_conversations_that_do_not_fit_are_no_error() {
        let texts = (0..40).map(|i| Ok(format!("Some words {i} to learn bytes and a few pairs of letters from.")));
        let options = TrainOptions { vocab_size: 270, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train(texts, &options, &mut |_| {}).unwrap();
        let template = ChatTemplate::own(&tokenizer).unwrap();
        let packing = Packing { tokenizer: &tokenizer, template: &template, context: 32, micro_tokens: 64, seed: 1 };
        let (short, long) = (Conversation::exchange("Hi", "Yes"), Conversation::exchange("Why? ".repeat(40), "So"));
        let mut notes = Notes::default();
        let mut sets = |held_out: &[Conversation]| {
            let set = packing.validation(held_out, 64, &mut notes).unwrap();
            set.map(|set| set.batches.len())
        };
        assert_eq!(sets(&[]), None);
        assert_eq!(sets(&[long.clone(), short]), Some(1));
        assert_eq!(sets(&[long]), None);
        let [note] = &notes.0[..] else { panic!("{:?}", notes.0) };
        assert!(note.contains("none of the 1 held-out conversations") && note.contains("32"), "{note}");
    }

    #[test]
    fn held_out_conversations_that_the_template_refuses_are_no_error() {
        let texts = (0..40).map(|i| Ok(format!("Some words {i} to learn bytes and a few pairs of letters from.")));
        let options = TrainOptions { vocab_size: 270, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train(texts, &options, &mut |_| {}).unwrap();
        let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}\
                      {% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '</s>' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
        let template = ChatTemplate::from_jinja(source, None, Some("</s>"), &tokenizer).unwrap();
        let packing = Packing { tokenizer: &tokenizer, template: &template, context: 64, micro_tokens: 64, seed: 1 };
        let plain = Conversation::exchange("Hi", "Yes");
        let mut told = plain.clone();
        told.messages.insert(0, Message::system("Be kind."));
        let mut notes = Notes::default();
        assert!(packing.validation(&[told.clone(), plain], 64, &mut notes).unwrap().is_some());
        assert!(packing.validation(&[told], 64, &mut notes).unwrap().is_none());
        let [note] = &notes.0[..] else { panic!("{:?}", notes.0) };
        assert!(note.contains("refuses all 1 held-out") && note.contains("no system, please"), "{note}");
    }
}
