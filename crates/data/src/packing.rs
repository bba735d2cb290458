//! Conversations packed end to end into micro-batches for fine-tuning.
//!
//! Owns the fit to the context, the order of each epoch and the layout of a batch; `train` calls it. The order is a
//! function of (seed, epoch) alone, so a checkpoint needs only (epoch, batch) to go on exactly where it was. Which
//! conversations an optimizer step has follows from the order and the step's tokens; only then are they cut into
//! micro-batches, so that who takes smaller ones for want of memory learns the same.
//!
//! A batch without a supervised token cannot occur: a conversation enters the set only with at least one, whole
//! conversations are packed, and no batch is empty. (The 0/0 of such a batch is a classic way to a NaN.)

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::chat::{ChatTemplate, Conversation, Rendered};
use crate::error::Error;
use crate::seeded::{SplitMix64, text_hash};
use crate::tokenizer::Tokenizer;

/// What became of the conversations on their way into a set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FitReport {
    /// Kept whole.
    pub whole: usize,
    /// Cut after the last assistant message that fits the context.
    pub cut: usize,
    /// Left out because not even the first answer fits.
    pub too_long: usize,
    /// Left out because nothing in them is said by the assistant.
    pub unsupervised: usize,
    /// Left out because the model's chat template refuses them.
    pub refused: usize,
    /// In what words the first of those was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Token ids lost to cuts and drops.
    pub tokens_lost: usize,
    /// Index (in the order given) of each conversation that was cut or left out.
    pub touched: Vec<usize>,
}

/// Where training stands in the stream of batches: all that a checkpoint must keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchPosition {
    /// Passes over the set that are complete.
    pub epoch: u64,
    /// Batches of this pass that are complete.
    pub batch: usize,
}

/// Rendered conversations that fit the context, ready to be packed.
#[derive(Debug, Clone)]
pub struct ConversationSet {
    conversations: Vec<Rendered>,
    batch_tokens: usize,
    seed: u64,
}

impl ConversationSet {
    /// Fits each conversation to `context` positions, cutting only after an assistant's message.
    ///
    /// `batch_tokens` bounds the tokens of a micro-batch and must be at least `context`. A conversation of `n` ids
    /// takes `n - 1` positions, since its last id is only a target.
    ///
    /// # Errors
    /// [`Error::BatchBelowContext`]; [`Error::NoConversations`] when none is left.
    pub fn new(
        rendered: impl IntoIterator<Item = Rendered>,
        context: usize,
        batch_tokens: usize,
        seed: u64,
    ) -> Result<(Self, FitReport), Error> {
        Self::of(rendered.into_iter().map(Ok), context, batch_tokens, seed)
    }

    fn of(
        rendered: impl Iterator<Item = Result<Rendered, Error>>,
        context: usize,
        batch_tokens: usize,
        seed: u64,
    ) -> Result<(Self, FitReport), Error> {
        if batch_tokens < context {
            return Err(Error::BatchBelowContext { batch_tokens, context });
        }
        let mut report = FitReport::default();
        let mut conversations = Vec::new();
        let mut given = 0;
        for (index, conversation) in rendered.enumerate() {
            given += 1;
            let conversation = match conversation {
                Ok(conversation) => conversation,
                Err(Error::ChatTemplate { message }) => {
                    report.refused += 1;
                    report.touched.push(index);
                    report.refusal.get_or_insert(message);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let before = conversation.ids.len();
            let fitted = fit(conversation, context, &mut report);
            let after = fitted.as_ref().map_or(0, |f| f.ids.len());
            if after < before {
                report.touched.push(index);
                report.tokens_lost += before - after;
            }
            conversations.extend(fitted);
        }
        if conversations.is_empty() {
            return Err(match report.refusal {
                Some(message) => Error::ChatTemplate { message },
                None => Error::NoConversations { given, context },
            });
        }
        let set = Self { conversations, batch_tokens, seed };
        Ok((set, report))
    }

    /// Renders by the model's `template` and fits in one call. What the template refuses is left out and counted.
    ///
    /// # Errors
    /// As [`ConversationSet::new`]; [`Error::ChatTemplate`] when the template refuses all; [`Error::TokenizerNotOwn`].
    pub fn from_conversations<'a>(
        conversations: impl IntoIterator<Item = &'a Conversation>,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        context: usize,
        batch_tokens: usize,
        seed: u64,
    ) -> Result<(Self, FitReport), Error> {
        Self::of(conversations.into_iter().map(|c| template.render(c, tokenizer)), context, batch_tokens, seed)
    }

    /// Conversations in the set.
    pub fn len(&self) -> usize {
        self.conversations.len()
    }

    /// Never true of a set that was built: construction refuses it.
    pub fn is_empty(&self) -> bool {
        self.conversations.is_empty()
    }

    /// Positions of one pass: the tokens that a forward sees in an epoch.
    pub fn tokens(&self) -> usize {
        self.conversations.iter().map(positions).sum()
    }

    /// Ids of each conversation, its last one included, and how many of them are learned.
    pub fn lengths(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.conversations.iter().map(|conversation| (conversation.ids.len(), supervised(conversation)))
    }

    /// Answers in the set.
    pub fn answers(&self) -> usize {
        self.conversations.iter().map(|conversation| conversation.cuts.len()).sum()
    }

    /// Targets of one pass that carry weight.
    pub fn supervised_tokens(&self) -> usize {
        self.conversations.iter().map(supervised).sum()
    }

    /// The steps of one pass, each of at most `step_tokens` (at least the context), and their batches: which conversations
    /// stand in each, in order.
    pub fn plan(&self, epoch: u64, step_tokens: usize) -> EpochPlan<'_> {
        let mut order: Vec<usize> = (0..self.conversations.len()).collect();
        SplitMix64::new(self.seed, epoch).shuffle(&mut order);
        let packed =
            Packed::new(order, (step_tokens, self.batch_tokens), |index| positions(&self.conversations[index]));
        EpochPlan { set: self, epoch, packed }
    }
}

/// The order of one pass. A batch is made when asked for, from its number alone.
#[derive(Debug, Clone)]
pub struct EpochPlan<'a> {
    set: &'a ConversationSet,
    epoch: u64,
    packed: Packed,
}

impl EpochPlan<'_> {
    /// The pass that this plan orders.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Batches in the pass, at least one.
    pub fn len(&self) -> usize {
        self.packed.batches.len()
    }

    /// Never true: a set has at least one conversation.
    pub fn is_empty(&self) -> bool {
        self.packed.batches.is_empty()
    }

    /// Steps in the pass, at least one.
    pub fn steps(&self) -> usize {
        self.packed.steps()
    }

    /// The numbers of the batches of step `step`; none past the end.
    pub fn step(&self, step: usize) -> Range<usize> {
        self.packed.step(step)
    }

    /// Batch number `index` of the pass; `None` past the end, where the next epoch begins.
    ///
    /// Target at position `t` is the id at `t + 1` of the same conversation; its weight is 1 where it is supervised.
    pub fn batch(&self, index: usize) -> Option<Batch> {
        let members = self.packed.batches.get(index)?;
        let mut batch = Batch { tokens: Vec::new(), targets: Vec::new(), weights: Vec::new(), cu_seqlens: vec![0] };
        for &member in members {
            let conversation = &self.set.conversations[member];
            let last = positions(conversation);
            batch.tokens.extend_from_slice(&conversation.ids[..last]);
            batch.targets.extend_from_slice(&conversation.ids[1..]);
            let weights = conversation.loss_mask[1..].iter().map(|&s| f32::from(u8::from(s)));
            batch.weights.extend(weights);
            batch.cu_seqlens.push(batch.tokens.len() as u32);
        }
        Some(batch)
    }
}

/// The items of a pass in their order, by steps and micro-batches.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    /// The items of each micro-batch.
    pub(crate) batches: Vec<Vec<usize>>,
    /// The first micro-batch of each step, and the end of the last.
    starts: Vec<usize>,
}

impl Packed {
    /// Steps and batches of at most so many tokens; each holds the longest item.
    pub(crate) fn new(
        order: Vec<usize>,
        (step_tokens, batch_tokens): (usize, usize),
        length: impl Fn(usize) -> usize,
    ) -> Self {
        let mut packed = Packed { batches: Vec::new(), starts: vec![0] };
        for members in pack(order, step_tokens, &length) {
            packed.batches.extend(pack(members, batch_tokens, &length));
            packed.starts.push(packed.batches.len());
        }
        packed
    }

    pub(crate) fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    /// The numbers of the micro-batches of step `step`; none past the end.
    pub(crate) fn step(&self, step: usize) -> Range<usize> {
        match (self.starts.get(step), self.starts.get(step + 1)) {
            (Some(first), Some(end)) => *first..*end,
            _ => self.batches.len()..self.batches.len(),
        }
    }
}

/// Puts the items of `order` one after the other into batches of at most `batch_tokens`, which holds the longest item.
fn pack(order: Vec<usize>, batch_tokens: usize, length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for index in order {
        let length = length(index);
        match batches.last_mut() {
            Some(batch) if length <= room => batch.push(index),
            _ => {
                batches.push(vec![index]);
                room = batch_tokens;
            }
        }
        room -= length;
    }
    batches
}

/// Splits into (train, validation) by a hash of each conversation's text and `seed`: where one falls depends on
/// neither its place nor on what else is there. `fraction` in `0.0..1.0` is the expected share of validation.
pub fn split(conversations: Vec<Conversation>, fraction: f64, seed: u64) -> (Vec<Conversation>, Vec<Conversation>) {
    let threshold = (fraction.clamp(0.0, 1.0) * 2f64.powi(53)) as u64;
    conversations.into_iter().partition(|conversation| {
        let parts = conversation.messages.iter().flat_map(|m| [m.role.name(), m.content.as_str()]);
        text_hash(parts, seed) >> 11 >= threshold
    })
}

fn positions(conversation: &Rendered) -> usize {
    conversation.ids.len() - 1
}

fn supervised(conversation: &Rendered) -> usize {
    conversation.loss_mask[1..].iter().filter(|&&s| s).count()
}

fn fit(mut conversation: Rendered, context: usize, report: &mut FitReport) -> Option<Rendered> {
    let Some(&answered) = conversation.cuts.last() else {
        report.unsupervised += 1;
        return None;
    };
    // What a person says after the last answer supervises nothing, so it never costs a position.
    if answered <= context + 1 {
        if answered < conversation.ids.len() {
            report.cut += 1;
        } else {
            report.whole += 1;
        }
        truncate(&mut conversation, answered);
        return Some(conversation);
    }
    let last = conversation.cuts.iter().rev().find(|&&end| end <= context + 1);
    let Some(&last) = last else {
        report.too_long += 1;
        return None;
    };
    report.cut += 1;
    truncate(&mut conversation, last);
    Some(conversation)
}

fn truncate(conversation: &mut Rendered, end: usize) {
    conversation.ids.truncate(end);
    conversation.loss_mask.truncate(end);
    conversation.cuts.retain(|&cut| cut <= end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Message;
    use proptest::prelude::*;

    /// A conversation of the given text lengths (user, assistant, user, ...) whose ids tell where they stand.
    fn rendered(lengths: &[usize], tag: u32) -> Rendered {
        let mut out = Rendered { ids: vec![0], loss_mask: vec![false], cuts: Vec::new() };
        for (turn, &length) in lengths.iter().enumerate() {
            let assistant = turn % 2 == 1;
            out.ids.push(if assistant { 5 } else { 4 });
            out.loss_mask.push(false);
            for i in 0..length {
                out.ids.push(100 + tag * 1000 + i as u32);
                out.loss_mask.push(assistant);
            }
            out.ids.push(1);
            out.loss_mask.push(assistant);
            if assistant {
                out.cuts.push(out.ids.len());
            }
        }
        out
    }

    #[test]
    fn long_conversation_is_cut_after_an_answer() {
        // 1 + (10 + 2) + (20 + 2) = 35 ids for the first exchange, 69 for both.
        let conversation = rendered(&[10, 20, 10, 20], 0);
        assert_eq!(conversation.cuts, [35, 69]);
        let (set, report) = ConversationSet::new([conversation.clone()], 67, 128, 0).unwrap();
        assert_eq!((report.cut, report.whole, report.tokens_lost), (1, 0, 34));
        assert_eq!(report.touched, [0]);
        assert_eq!(set.conversations[0].ids, conversation.ids[..35]);
        let (set, report) = ConversationSet::new([conversation], 68, 128, 0).unwrap();
        assert_eq!((report.whole, set.tokens()), (1, 68));
    }

    #[test]
    fn conversation_without_a_fitting_answer_is_dropped() {
        let long = rendered(&[10, 200], 0);
        let silent = rendered(&[10], 1);
        let good = rendered(&[3, 3], 2);
        let (set, report) = ConversationSet::new([long, silent, good], 64, 64, 0).unwrap();
        assert_eq!((report.too_long, report.unsupervised, set.len()), (1, 1, 1));
        assert_eq!(report.touched, [0, 1]);
    }

    #[test]
    fn unanswered_last_turn_is_left_out() {
        let (set, report) = ConversationSet::new([rendered(&[3, 3, 9], 0)], 64, 64, 0).unwrap();
        assert_eq!((report.cut, set.conversations[0].ids.len()), (1, 11));
    }

    #[test]
    fn empty_set_and_small_batch_are_errors() {
        let none = ConversationSet::new([rendered(&[1, 500], 0)], 64, 64, 0);
        assert!(matches!(none, Err(Error::NoConversations { given: 1, context: 64 })));
        let small = ConversationSet::new([rendered(&[1, 1], 0)], 64, 63, 0);
        assert!(matches!(small, Err(Error::BatchBelowContext { batch_tokens: 63, context: 64 })));
    }

    #[test]
    fn targets_stay_inside_their_conversation() {
        let (set, _) = ConversationSet::new((0..5).map(|i| rendered(&[2, 3], i)), 64, 64, 9).unwrap();
        let plan = set.plan(0, 64);
        let batch = plan.batch(0).unwrap();
        assert_eq!(batch.tokens.len(), batch.targets.len());
        for (bounds, &member) in batch.cu_seqlens.windows(2).zip(&plan.packed.batches[0]) {
            let (from, to) = (bounds[0] as usize, bounds[1] as usize);
            let source = &set.conversations[member];
            assert_eq!(batch.tokens[from..to], source.ids[..source.ids.len() - 1]);
            assert_eq!(batch.targets[from..to], source.ids[1..]);
            // The assistant's role token (id 5) is the last input before its text: it is never a target with weight.
            for position in from..to {
                let expected = f32::from(u8::from(source.loss_mask[position - from + 1]));
                assert_eq!(batch.weights[position], expected);
                assert!(batch.targets[position] != 5 || batch.weights[position] == 0.0);
            }
        }
    }

    #[test]
    fn split_ignores_order_and_company() {
        let all: Vec<_> = (0..400).map(|i| Conversation::exchange(format!("question {i}"), "answer")).collect();
        let (train, val) = split(all.clone(), 0.1, 3);
        assert_eq!(train.len() + val.len(), 400);
        assert!((20..=60).contains(&val.len()), "{}", val.len());
        let (_, half) = split(all.into_iter().rev().step_by(2).collect(), 0.1, 3);
        assert!(half.iter().all(|c| val.contains(c)));
        let (train, val) = split(vec![Conversation { messages: vec![Message::user("x")] }], 0.0, 3);
        assert_eq!((train.len(), val.len()), (1, 0));
    }

    proptest! {
        #[test]
        fn every_batch_has_a_supervised_token(
            context in 64usize..300,
            extra in 0usize..300,
            seed: u64,
            lengths in prop::collection::vec(prop::collection::vec(0usize..120, 0..7), 1..40),
        ) {
            let rendered: Vec<_> =
                lengths.iter().enumerate().map(|(i, l)| rendered(l, i as u32)).collect();
            let batch_tokens = context + extra;
            let Ok((set, report)) = ConversationSet::new(rendered, context, batch_tokens, seed) else {
                return Ok(());
            };
            prop_assert_eq!(report.whole + report.cut, set.len());
            prop_assert_eq!(set.len() + report.too_long + report.unsupervised, lengths.len());
            for epoch in 0..2 {
                let mut seen = 0;
                let mut weight = 0.0;
                let plan = set.plan(epoch, 3 * batch_tokens);
                for batch in (0..plan.len()).filter_map(|index| plan.batch(index)) {
                    prop_assert!(batch.weights.contains(&1.0));
                    prop_assert!(batch.tokens.len() <= batch_tokens);
                    prop_assert!(
                        batch.cu_seqlens.windows(2).all(|b| b[0] < b[1] && (b[1] - b[0]) as usize <= context)
                    );
                    seen += batch.cu_seqlens.len() - 1;
                    weight += batch.weights.iter().sum::<f32>();
                }
                prop_assert_eq!(seen, set.len());
                prop_assert_eq!(weight as usize, set.supervised_tokens());
            }
        }

        #[test]
        fn a_step_has_the_same_conversations_whatever_the_micro_batch(
            seed: u64,
            rows in 1usize..6,
            lengths in prop::collection::vec(prop::collection::vec(1usize..40, 2..4), 1..60),
        ) {
            let (context, step_tokens) = (96, 96 * 6);
            let rendered: Vec<_> = lengths.iter().enumerate().map(|(i, l)| rendered(l, i as u32)).collect();
            let steps = |micro: usize| {
                let Ok((set, _)) = ConversationSet::new(rendered.clone(), context, micro, seed) else { return Vec::new() };
                let plan = set.plan(3, step_tokens);
                assert_eq!((plan.step(plan.steps()), plan.step(0).start), (plan.len()..plan.len(), 0));
                let tokens = |step: usize| -> Vec<Vec<u32>> {
                    let batches: Vec<Batch> = plan.step(step).filter_map(|index| plan.batch(index)).collect();
                    assert!(batches.iter().all(|batch| batch.tokens.len() <= micro));
                    let sequences = |b: &Batch| -> Vec<Vec<u32>> {
                        b.cu_seqlens.windows(2).map(|s| b.tokens[s[0] as usize..s[1] as usize].to_vec()).collect()
                    };
                    batches.iter().flat_map(sequences).collect()
                };
                let steps: Vec<_> = (0..plan.steps()).map(tokens).collect();
                assert!(steps.iter().all(|step| (1..=step_tokens).contains(&step.iter().map(Vec::len).sum::<usize>())));
                steps
            };
            prop_assert_eq!(steps(rows * context), steps(step_tokens));
        }

        #[test]
        fn resume_needs_only_the_position(seed: u64, epoch in 0u64..4) {
            let rendered: Vec<_> = (0..30).map(|i| rendered(&[5, 5 + i % 7], i as u32)).collect();
            let (set, _) = ConversationSet::new(rendered, 64, 64, seed).unwrap();
            let whole = set.plan(epoch, 128);
            let straight: Vec<_> = (0..whole.len()).filter_map(|index| whole.batch(index)).map(|b| b.tokens).collect();
            let plan = set.plan(epoch, 128);
            for (index, tokens) in straight.iter().enumerate() {
                prop_assert_eq!(&plan.batch(index).unwrap().tokens, tokens);
            }
            prop_assert!(plan.batch(straight.len()).is_none());
        }
    }
}
