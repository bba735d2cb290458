//! [`PairSet`]: pairs as token ids, fitted to the context and packed into batches.
//!
//! A pair stands in a batch as two sequences, the chosen answer's before the rejected one's, each with the whole prompt;
//! a pair is never divided between batches, because its two losses make its weight. The order is a function of (seed,
//! epoch) alone. Every sequence has a supervised token, the `</s>` of its answer at least. Of an imported model the control
//! tokens are those of its own chat template.

use std::ops::Range;

use super::{DropReason, PairRecord, PairReport, PreferencePair};
use crate::batch::Batch;
use crate::chat::{ChatTemplate, Conversation, Message, Rendered, Role};
use crate::error::Error;
use crate::packing::Packed;
use crate::seeded::SplitMix64;
use crate::tokenizer::Tokenizer;

/// A pair as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// What stands before the answers, but for its last id.
    pub prompt: Vec<u32>,
    /// The chosen and the rejected answer: the last id before it (of our own template the role token), text, and the control
    /// token that ends it.
    pub answers: [Vec<u32>; 2],
}

impl TokenPair {
    /// The whole prompt: what a model that is asked goes on from.
    pub fn asked(&self) -> Vec<u32> {
        self.prompt.iter().chain(&self.answers[0][..1]).copied().collect()
    }

    /// Positions of both sequences; the last id of each is only a target.
    pub fn positions(&self) -> usize {
        self.answers.iter().map(|answer| self.prompt.len() + answer.len() - 1).sum()
    }

    /// Targets of the chosen and the rejected answer: all of it but the first id, which the program writes.
    pub fn supervised(&self) -> [usize; 2] {
        [0, 1].map(|i| self.answers[i].len() - 1)
    }

    /// The pair's ids, if its last question and longer answer fit `context` positions, and whether it lost its oldest
    /// exchanges to do so. Instructions that precede the conversation stay.
    fn fit(
        record: &PairRecord,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        context: usize,
    ) -> Result<Option<(Self, bool)>, Error> {
        let messages = &record.pair.prompt;
        let system = messages.iter().take_while(|m| m.role == Role::System).count();
        let mut first = system;
        loop {
            let kept: Vec<&Message> = messages[..system].iter().chain(&messages[first..]).collect();
            let pair = Self::of(&kept, &record.pair, tokenizer, template)?;
            let longest = pair.answers.iter().map(Vec::len).max().unwrap_or(0);
            // The last id takes no position.
            if pair.prompt.len() + longest <= context + 1 {
                return Ok(Some((pair, first > system)));
            }
            let next = messages.iter().enumerate().skip(first + 1).find(|(_, m)| m.role == Role::User);
            let Some((next, _)) = next else { return Ok(None) };
            first = next;
        }
    }

    /// Both answers to `prompt`, as the template has a model learn them.
    fn of(
        prompt: &[&Message],
        pair: &PreferencePair,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
    ) -> Result<Self, Error> {
        let parts = |answer: &str| {
            let answer = Message::assistant(answer);
            let messages = prompt.iter().copied().chain([&answer]).cloned().collect();
            let Rendered { mut ids, loss_mask, .. } = template.render(&Conversation { messages }, tokenizer)?;
            let learned = loss_mask.iter().rev().take_while(|learned| **learned).count();
            let answer = ids.split_off(ids.len().saturating_sub(learned + 1));
            Ok::<_, Error>((ids, answer))
        };
        let ((prompt, chosen), (_, rejected)) = (parts(&pair.chosen)?, parts(&pair.rejected)?);
        Ok(TokenPair { prompt, answers: [chosen, rejected] })
    }
}

/// Pairs that fit the context, ready to be packed.
#[derive(Debug, Clone)]
pub struct PairSet {
    pairs: Vec<TokenPair>,
    batch_tokens: usize,
    seed: u64,
}

impl PairSet {
    /// Fits each pair to `context` positions a sequence. `batch_tokens` bounds the tokens of a micro-batch and must be at
    /// least twice `context`. What is shortened or left out is added to `report`.
    ///
    /// # Errors
    /// [`Error::BatchBelowPair`]; [`Error::NoPairs`] when none is left; [`Error::TokenizerNotOwn`] for our own template with
    /// another's tokenizer.
    pub fn new(
        records: &[PairRecord],
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        (context, batch_tokens): (usize, usize),
        seed: u64,
        report: &mut PairReport,
    ) -> Result<Self, Error> {
        if batch_tokens < context.saturating_mul(2) {
            return Err(Error::BatchBelowPair { batch_tokens, context });
        }
        let mut pairs = Vec::with_capacity(records.len());
        for record in records {
            match TokenPair::fit(record, tokenizer, template, context) {
                Ok(Some((pair, shortened))) => {
                    report.shortened += usize::from(shortened);
                    pairs.push(pair);
                }
                Ok(None) => report.drop(&record.source, record.row, DropReason::TooLong),
                Err(Error::ChatTemplate { .. }) => report.drop(&record.source, record.row, DropReason::Refused),
                Err(error) => return Err(error),
            }
        }
        if pairs.is_empty() {
            return Err(Error::NoPairs { given: report.rows, context, counts: report.counts.clone() });
        }
        Ok(Self { pairs, batch_tokens, seed })
    }

    /// The pairs; a reference log-probability belongs to an index here. Never empty.
    pub fn pairs(&self) -> &[TokenPair] {
        &self.pairs
    }

    /// At most `count` pairs, those that come first in a random order by the seed.
    #[must_use]
    pub fn sample(mut self, count: usize) -> Self {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        SplitMix64::new(self.seed, u64::MAX).shuffle(&mut order);
        order.truncate(count.max(1));
        order.sort_unstable();
        self.pairs = order.into_iter().map(|i| self.pairs[i].clone()).collect();
        self
    }

    /// The steps of one pass over the pairs, each of at most `step_tokens` (at least twice the context), in an order by the
    /// seed and `epoch`, and their batches. A step has the same pairs however large the batches are.
    pub fn plan(&self, epoch: u64, step_tokens: usize) -> PairPlan<'_> {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        SplitMix64::new(self.seed, epoch).shuffle(&mut order);
        self.planned(order, step_tokens)
    }

    /// The batches of the pairs as they stand, for passes that teach nothing.
    pub fn in_order(&self) -> PairPlan<'_> {
        self.planned((0..self.pairs.len()).collect(), usize::MAX)
    }

    fn planned(&self, order: Vec<usize>, step_tokens: usize) -> PairPlan<'_> {
        let packed = Packed::new(order, (step_tokens, self.batch_tokens), |index| self.pairs[index].positions());
        PairPlan { set: self, packed }
    }
}

/// The batches of one pass.
#[derive(Debug, Clone)]
pub struct PairPlan<'a> {
    set: &'a PairSet,
    packed: Packed,
}

impl PairPlan<'_> {
    /// Batches of the pass, at least one.
    pub fn len(&self) -> usize {
        self.packed.batches.len()
    }

    /// Never true: a set has at least one pair.
    pub fn is_empty(&self) -> bool {
        self.packed.batches.is_empty()
    }

    /// Steps of the pass, at least one.
    pub fn steps(&self) -> usize {
        self.packed.steps()
    }

    /// The numbers of the batches of step `step`; none past the end.
    pub fn step(&self, step: usize) -> Range<usize> {
        self.packed.step(step)
    }

    /// Indices of the pairs in batch number `index`; none past the end.
    pub fn members(&self, index: usize) -> &[usize] {
        self.packed.batches.get(index).map_or(&[], Vec::as_slice)
    }

    /// Batch number `index`; `None` past the end. Sequences 2 i and 2 i + 1 are the chosen and the rejected answer of
    /// member i; a weight is 1 where the target is of the answer.
    pub fn batch(&self, index: usize) -> Option<Batch> {
        let members = self.packed.batches.get(index)?;
        let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
        for &member in members {
            let pair = &self.set.pairs[member];
            for answer in &pair.answers {
                let ids: Vec<u32> = pair.prompt.iter().chain(answer).copied().collect();
                batch.tokens.extend_from_slice(&ids[..ids.len() - 1]);
                batch.targets.extend_from_slice(&ids[1..]);
                // The target of the prompt's last id is what the program writes before an answer.
                batch.weights.resize(batch.weights.len() + pair.prompt.len(), 0.0);
                batch.weights.resize(batch.tokens.len(), 1.0);
                batch.cu_seqlens.push(batch.tokens.len() as u32);
            }
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Turn, render};
    use crate::tokenizer::tests::{byte_tokenizer, foreign_tokenizer};
    use proptest::prelude::*;

    fn record(prompt: Vec<Message>, chosen: &str, rejected: &str) -> PairRecord {
        let pair = PreferencePair { prompt, chosen: chosen.into(), rejected: rejected.into() };
        PairRecord { source: "s".into(), row: 1, pair }
    }

    fn own() -> ChatTemplate {
        ChatTemplate::own(&byte_tokenizer()).unwrap()
    }

    fn set(records: &[PairRecord], context: usize) -> Result<(PairSet, PairReport), Error> {
        let mut report = PairReport { rows: records.len(), ..PairReport::default() };
        let set = PairSet::new(records, &byte_tokenizer(), &own(), (context, 2 * context), 1, &mut report)?;
        Ok((set, report))
    }

    #[test]
    fn a_pair_is_two_conversations_of_which_the_last_answer_is_learned() {
        let prompt = vec![
            Message::system("Be kind."),
            Message::user("Hi"),
            Message::assistant("Yes?"),
            Message::user("How are you?"),
        ];
        let (set, report) = set(&[record(prompt.clone(), "Well.", "None of your business.")], 128).unwrap();
        assert_eq!((report.shortened, report.dropped.len()), (0, 0));
        let batch = set.plan(3, 256).batch(0).unwrap();
        assert_eq!(batch.cu_seqlens.len(), 3);
        let tokenizer = byte_tokenizer();
        for (i, answer) in ["Well.", "None of your business."].into_iter().enumerate() {
            let messages = prompt.iter().cloned().chain([Message::assistant(answer)]).collect();
            let whole = render(&Conversation { messages }, &tokenizer).unwrap().ids;
            let (from, to) = (batch.cu_seqlens[i] as usize, batch.cu_seqlens[i + 1] as usize);
            assert_eq!(batch.tokens[from..to], whole[..whole.len() - 1]);
            assert_eq!(batch.targets[from..to], whole[1..]);
            let learned: Vec<u32> = (from..to).filter(|t| batch.weights[*t] == 1.0).map(|t| batch.targets[t]).collect();
            let mut expected = tokenizer.encode(answer);
            expected.push(tokenizer.special().unwrap().eos);
            assert_eq!(learned, expected);
            assert_eq!(set.pairs()[0].supervised()[i], expected.len());
        }
        Batch::new(batch.tokens, batch.targets, batch.weights, batch.cu_seqlens).unwrap();
    }

    #[test]
    fn a_pair_of_an_imported_model_stands_behind_the_prompt_of_its_template() {
        let source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ '<|im_start|>' + \
                      m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
                      '<|im_start|>assistant\n' }}{% endif %}";
        let tokenizer = foreign_tokenizer();
        let template = ChatTemplate::from_jinja(source, None, Some("<|im_end|>"), &tokenizer).unwrap();
        let long = vec![Message::user("a".repeat(200)), Message::assistant("b"), Message::user("the question")];
        let records = [
            record(vec![Message::user("the <|im_end|> question")], "Well.", "No."),
            record(vec![Message::system("S"), Message::user("Hi")], "Well.", "No."),
            record(long, "Well.", "No."),
        ];
        let mut report = PairReport::default();
        let set = PairSet::new(&records, &tokenizer, &template, (128, 256), 1, &mut report).unwrap();
        assert_eq!((set.pairs().len(), report.shortened, report.counts[&DropReason::Refused]), (2, 1, 1));
        let end = tokenizer.control_id("<|im_end|>").unwrap();
        for (pair, question) in set.pairs().iter().zip(["the <|im_end|> question", "the question"]) {
            let asked = template.render_prompt(&[Turn::of(&Message::user(question))], &tokenizer).unwrap();
            for (answer, text) in pair.answers.iter().zip(["Well.", "No."]) {
                assert_eq!((pair.asked(), answer[0]), (asked.clone(), asked[asked.len() - 1]));
                assert_eq!(answer[1..], [tokenizer.encode(text), vec![end]].concat());
            }
        }
    }

    #[test]
    fn the_oldest_exchanges_go_first_and_instructions_stay() {
        let prompt = vec![
            Message::system("S"),
            Message::user("a".repeat(40)),
            Message::assistant("b"),
            Message::user("c"),
            Message::assistant("d"),
            Message::user("e"),
        ];
        let (set, report) = set(&[record(prompt, "f", &"g".repeat(30))], 64).unwrap();
        assert_eq!(report.shortened, 1);
        let tokenizer = byte_tokenizer();
        let kept = [Message::system("S"), Message::user("c"), Message::assistant("d"), Message::user("e")];
        let expected = render(&Conversation { messages: kept.to_vec() }, &tokenizer).unwrap().ids;
        assert_eq!(set.pairs()[0].prompt, expected);
    }

    #[test]
    fn the_last_question_and_answer_fit_exactly_or_not_at_all() {
        // <s> <|user|> q </s> <|assistant|>, 59 bytes, </s>: 65 ids, of which the last takes no position.
        let fits = record(vec![Message::user("q")], &"x".repeat(59), "y");
        assert_eq!(set(std::slice::from_ref(&fits), 64).unwrap().0.pairs()[0].answers[0].len(), 61);
        let error = set(&[record(vec![Message::user("q")], "y", &"x".repeat(60))], 64).unwrap_err();
        let Error::NoPairs { given: 1, context: 64, counts } = &error else { panic!("{error}") };
        assert_eq!(counts[&DropReason::TooLong], 1);
        assert!(error.to_string().contains("1: too long"), "{error}");
        let mut report = PairReport::default();
        let small = PairSet::new(&[fits], &byte_tokenizer(), &own(), (64, 127), 1, &mut report);
        assert!(matches!(small, Err(Error::BatchBelowPair { batch_tokens: 127, context: 64 })));
    }

    #[test]
    fn a_sample_is_a_part_and_the_same_each_time() {
        let records: Vec<_> =
            (0..50).map(|i| record(vec![Message::user(format!("{i}"))], "yes", &"n".repeat(i + 1))).collect();
        let all = set(&records, 64).unwrap().0;
        let sampled = all.clone().sample(7);
        assert_eq!(sampled.pairs().len(), 7);
        assert_eq!(sampled.pairs(), all.clone().sample(7).pairs());
        assert!(sampled.pairs().iter().all(|pair| all.pairs().contains(pair)));
        assert_eq!(all.clone().sample(1000).pairs(), all.pairs());
    }

    proptest! {
        #[test]
        fn every_pair_that_is_kept_is_learned_once_a_pass(
            context in 64usize..300,
            extra in 0usize..300,
            seed: u64,
            lengths in prop::collection::vec(
                (prop::collection::vec(0usize..90, 1..6), 0usize..200, 0usize..200), 1..25),
        ) {
            let records: Vec<PairRecord> = lengths.iter().map(|(prompt, chosen, rejected)| {
                // The last message of a prompt is the person's.
                let role = |i: usize| if (prompt.len() - i) % 2 == 1 { Role::User } else { Role::Assistant };
                let message = |(i, n): (usize, &usize)| Message { role: role(i), content: "p".repeat(*n) };
                let prompt = prompt.iter().enumerate().map(message).collect();
                record(prompt, &"c".repeat(*chosen), &"r".repeat(*rejected))
            }).collect();
            let mut report = PairReport { rows: records.len(), ..PairReport::default() };
            let batch_tokens = 2 * context + extra;
            let made = PairSet::new(&records, &byte_tokenizer(), &own(), (context, batch_tokens), seed, &mut report);
            let kept = made.as_ref().map_or(0, |set| set.pairs().len());
            prop_assert_eq!(kept + report.dropped.len(), records.len());
            let Ok(set) = made else { return Ok(()) };
            let wanted: usize = set.pairs().iter().flat_map(TokenPair::supervised).sum();
            for epoch in 0..2 {
                let plan = set.plan(epoch, 4 * context);
                let (mut members, mut supervised) = (Vec::new(), 0.0);
                for i in 0..plan.len() {
                    let batch = plan.batch(i).unwrap();
                    prop_assert!(batch.len() <= batch_tokens);
                    prop_assert_eq!(batch.cu_seqlens.len(), 2 * plan.members(i).len() + 1);
                    for bounds in batch.cu_seqlens.windows(2) {
                        let (from, to) = (bounds[0] as usize, bounds[1] as usize);
                        prop_assert!(to - from <= context);
                        prop_assert!(batch.weights[from..to].contains(&1.0));
                    }
                    supervised += batch.supervised();
                    members.extend_from_slice(plan.members(i));
                    prop_assert!(
                        Batch::new(batch.tokens, batch.targets, batch.weights, batch.cu_seqlens).is_ok()
                    );
                }
                members.sort_unstable();
                prop_assert_eq!(members, (0..kept).collect::<Vec<_>>());
                prop_assert_eq!(supervised as usize, wanted);
                prop_assert!(plan.batch(plan.len()).is_none());
            }
        }
    }
}
