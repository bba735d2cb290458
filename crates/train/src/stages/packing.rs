//! How conversations become the batches of a stage, and what is validated on.

use casallm_data::Error as DataError;
use casallm_data::chat::{ChatTemplate, Conversation};
use casallm_data::packing::{ConversationSet, FitReport};
use casallm_data::tokenizer::Tokenizer;

use crate::checkpoint::CheckpointStore;
use crate::error::TrainError;
use crate::feed::SftFeed;
use crate::recipe::{Recipe, Sft};
use crate::snapshot::Progress;
use crate::trainer::{Observer, TrainerConfig};
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

    /// The fixed validation of `eval_tokens`, rounded up to whole rows, where there are so many; `None` where nothing is held out, or nothing
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
        // Whatever the micro-batch, the same conversations.
        let tokens = usize::try_from(eval_tokens).unwrap_or(usize::MAX).max(1);
        let plan = held_out.plan(0, tokens.checked_next_multiple_of(self.context).unwrap_or(usize::MAX));
        let batches: Vec<_> = plan.step(0).filter_map(|i| plan.batch(i)).collect();
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
        Ok((SftFeed::new(set, stage.epochs, stage.batch_tokens), fit))
    }
}

/// A line of the settings: by what conversations and pairs are packed.
const BY_STEPS: &str = "packed_by = \"steps\"\n";

/// Adds to a stage's settings what it is about that no recipe says: `lines`, and how its data is packed.
///
/// Checkpoints of a program that packed micro-batch after micro-batch do not say so, nor have those of fine-tuning any of
/// `lines`. Where a step is one micro-batch both ways make the same steps, and such a run goes on; what it is validated on may be
/// other conversations, as these were packed by micro-batch too.
///
/// # Errors
/// The stage's checkpoints are of such a program, and its steps were others.
pub(super) fn settle(
    config: &mut TrainerConfig,
    (fixed, lines): (&str, &str),
    store: &CheckpointStore,
) -> Result<(), TrainError> {
    config.settings += fixed;
    let begun = store.newest_meta::<Progress>()?.filter(|begun| !begun.settings.contains(BY_STEPS));
    let Some(begun) = begun else {
        config.settings += lines;
        config.settings += BY_STEPS;
        return Ok(());
    };
    // With other micro-batches than it began with, it is those that the trainer refuses.
    let micro_batches = |settings: &str| {
        settings.lines().filter(|l| l.starts_with("micro_batch")).map(str::to_owned).collect::<Vec<_>>()
    };
    if config.micro_tokens < config.step_tokens && micro_batches(&begun.settings) == micro_batches(&config.settings) {
        return Err(TrainError::RunState {
            path: store.directory().to_owned(),
            reason: format!(
                "was begun by an older casallm, which packed each micro-batch by itself where now it is each step: from here on \
                 the steps of {} tokens would be others; finish the run with that program, or train in another run.dir",
                config.step_tokens
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use casallm_data::chat::Message;
    use casallm_data::tokenizer::TrainOptions;

    use super::super::sft::sft_config;
    use super::*;
    use crate::metrics::MetricsRow;
    use crate::recipe::RawRecipe;

    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Observer for Notes {
        fn step(&mut self, _: &MetricsRow, _: u64) {}

        fn note(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
    }

    #[test]
    fn what_an_older_program_began_goes_on_where_the_steps_are_the_same() {
        let text = "[tokenizer]\nvocab_size = 300\n[[data.sft]]\nname = \"a\"\npath = \"a\"\n[model]\nn_layer = 2\n\
                    n_embd = 32\nn_head = 2\ncontext = 64\n[run]\ndir = \"r\"\n[sft]\nbatch_tokens = 128\nidentity_rate = 0\n";
        let settings = |rows: u8, saved: Option<&str>| {
            let mut raw = RawRecipe::parse(text, "test.toml", Path::new("")).unwrap();
            raw.apply_override(&format!("sft.micro_batch={rows}")).unwrap();
            let mut config = sft_config(&raw.validate().unwrap(), 5).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let store = CheckpointStore::new(folder.path(), 2).unwrap();
            if let Some(saved) = saved {
                let progress = Progress { settings: saved.to_owned(), ..Default::default() };
                store.save(3, &progress, std::iter::empty()).unwrap();
            }
            settle(&mut config, ("fixed = 1\n", "base = 2\n"), &store).map(|()| config.settings)
        };
        let of_new = "fixed = 1\nbase = 2\npacked_by = \"steps\"\n";
        for rows in [1, 2] {
            assert!(settings(rows, None).unwrap().ends_with(of_new));
            assert!(settings(rows, Some(of_new)).unwrap().ends_with(of_new));
        }
        let of_old = |rows| settings(rows, None).unwrap().replace(of_new, "fixed = 1\n");
        assert_eq!(settings(2, Some(&of_old(2))).unwrap(), of_old(2));
        let error = settings(1, Some(&of_old(1))).unwrap_err().to_string();
        assert!(error.contains("older casallm") && error.contains("another run.dir"), "{error}");
        // The trainer sees that these are other micro-batches, and says so.
        assert_eq!(settings(1, Some(&of_old(2))).unwrap(), of_old(1));
    }

    #[test]
    fn what_is_validated_on_does_not_depend_on_the_micro_batch() {
        let texts = (0..40).map(|i| Ok(format!("Some words {i} to learn bytes and a few pairs of letters from.")));
        let options = TrainOptions { vocab_size: 270, ..TrainOptions::default() };
        let tokenizer = Tokenizer::train(texts, &options, &mut |_| {}).unwrap();
        let template = ChatTemplate::own(&tokenizer).unwrap();
        let held_out: Vec<_> =
            (0..50).map(|i| Conversation::exchange("Hi ".repeat(1 + i % 7), "Yes ".repeat(1 + i % 5))).collect();
        let set = |micro_tokens| {
            let packing = Packing { tokenizer: &tokenizer, template: &template, context: 64, micro_tokens, seed: 1 };
            packing.validation(&held_out, 500, &mut Notes::default()).unwrap().unwrap()
        };
        let ids = |set: &ValidationSet| set.batches.iter().flat_map(|batch| batch.tokens.clone()).collect::<Vec<_>>();
        let (small, large) = (set(64), set(512));
        assert!(small.batches.len() > large.batches.len());
        assert_eq!((ids(&small), small.bytes), (ids(&large), large.bytes));
        assert!((400..=512).contains(&ids(&large).len()));
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
