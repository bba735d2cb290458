//! `[dpo]`.

use casallm_model::workspace::Recompute;
use serde::Serialize;

use super::model::Model;
use super::optimization::{MAX_STEPS, Optimization};
use super::section::{Interval, Section};
use super::stages::{Batch, Choice, keep_every, samples, usual_micro_batch};
use crate::error::TrainError;
use crate::preference::Objective;
use crate::schedule::Schedule;

/// Rows of the smallest micro-batch: a pair's two sequences, each as long as the context, stand in one.
pub const PAIR_ROWS: usize = 2;

/// The third stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dpo {
    /// Passes over the pairs.
    pub epochs: u64,
    /// Tokens of an optimizer step, what packing leaves empty included; a multiple of `micro_batch * context`.
    pub batch_tokens: usize,
    /// Rows of a forward and backward pass, at least two.
    pub micro_batch: Choice<usize>,
    /// What the backward pass computes again. No number depends on it.
    pub recompute: Choice<Recompute>,
    /// Longest sequence: a prompt with one of its answers.
    pub context: usize,
    /// How dear it is to leave the model that the stage begins with.
    pub beta: f64,
    /// Probability that a pair is labelled the wrong way round.
    pub label_smoothing: f64,
    /// Whether an answer counts by the mean over its tokens in place of their sum.
    pub length_normalised: bool,
    /// Share of the prompts that is only ever validated on.
    pub validation_fraction: f64,
    /// Learning rate, schedule and optimizer.
    #[serde(flatten)]
    pub optimization: Optimization,
    /// Steps between validations.
    pub eval_every: u64,
    /// Tokens of a validation on text, rounded up to whole rows of each source.
    pub eval_tokens: u64,
    /// Most pairs of a validation.
    pub eval_pairs: usize,
    /// What the model goes on from at each validation; `None`: beginnings of held-out data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Vec<String>>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best.
    pub keep_last: usize,
    /// Checkpoints of every so many steps are kept besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
}

impl Dpo {
    pub(super) fn read(section: &Section<'_>, model: &Model, validation_fraction: f64) -> Result<Self, TrainError> {
        let context = section.size("context", 1, 1 << 24)?.unwrap_or(model.context);
        let batch = Batch::read(section, model, context.saturating_mul(32))?;
        let rows = batch.tokens / batch.context;
        if rows < PAIR_ROWS {
            let remedy = format!(
                "the two answers of a pair take up to two rows of context = {}: use {} or more",
                batch.context,
                PAIR_ROWS * batch.context
            );
            return Err(section.bad("batch_tokens", batch.tokens, remedy));
        }
        let micro_batch = match batch.micro_batch {
            Choice::Given(found) if found < PAIR_ROWS && section.has("micro_batch") => {
                let remedy = "the two answers of a pair take up to two rows: use 2 or more";
                return Err(section.bad("micro_batch", found, remedy));
            }
            // Where no usual one holds a pair, the smallest that does.
            Choice::Given(found) if found < PAIR_ROWS => {
                Choice::Given((PAIR_ROWS..=rows).find(|n| rows.is_multiple_of(*n)).unwrap_or(rows))
            }
            choice => choice,
        };
        let eval_every = section.integer("eval_every", 1, MAX_STEPS)?.unwrap_or(25);
        let checkpoint_every = section.integer("checkpoint_every", 1, MAX_STEPS)?.unwrap_or(eval_every);
        Ok(Self {
            epochs: section.integer("epochs", 1, 10_000)?.unwrap_or(1),
            batch_tokens: batch.tokens,
            micro_batch,
            recompute: batch.recompute,
            context: batch.context,
            beta: section.number("beta", Interval::POSITIVE.up_to(100.0))?.unwrap_or(0.1),
            label_smoothing: section.number("label_smoothing", Interval::BELOW_ONE.below(0.5))?.unwrap_or(0.0),
            length_normalised: section.boolean("length_normalised")?.unwrap_or(false),
            validation_fraction: section
                .number("validation_fraction", Interval::BELOW_ONE)?
                .unwrap_or(validation_fraction),
            optimization: Optimization::read(section, 5e-6, 5e-7)?,
            eval_every,
            eval_tokens: section.integer("eval_tokens", 1, 1 << 50)?.unwrap_or(1 << 16),
            eval_pairs: section.size("eval_pairs", 1, 1 << 40)?.unwrap_or(512),
            samples: samples(section)?,
            checkpoint_every,
            keep_last: section.size("keep_last", 1, 1 << 20)?.unwrap_or(2),
            keep_every: keep_every(section, checkpoint_every)?,
        })
    }

    /// Rows of a micro-batch; while that is open, those of about 8,192 tokens.
    pub fn micro_rows(&self) -> usize {
        let usual = || usual_micro_batch(self.batch_tokens, self.context).max(PAIR_ROWS);
        self.micro_batch.given().unwrap_or_else(usual)
    }

    /// The learning rate of every step; how many there are is known once the pairs are packed.
    pub fn schedule(&self, steps: u64) -> Schedule {
        self.optimization.schedule(steps)
    }

    /// What is minimised.
    pub fn objective(&self) -> Objective {
        Objective { beta: self.beta, label_smoothing: self.label_smoothing, length_normalised: self.length_normalised }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::recipe::{RawRecipe, Recipe, Stage};

    const SMALLEST: &str = "[[data.dpo]]\nname = \"pairs\"\npath = \"pairs.jsonl\"\n\
        [model]\npreset = \"gpt3-nano\"\ncontext = 256\n[run]\ndir = \"run\"\n[dpo]\n";

    fn parse(flags: &[&str]) -> Result<Recipe, TrainError> {
        let mut raw = RawRecipe::parse(SMALLEST, "my.toml", Path::new(""))?;
        flags.iter().try_for_each(|flag| raw.apply_override(flag))?;
        raw.validate()
    }

    #[test]
    fn defaults_are_those_of_the_paper_and_come_back() {
        let recipe = parse(&[]).unwrap();
        let dpo = recipe.dpo().unwrap();
        assert_eq!((dpo.beta, dpo.label_smoothing, dpo.length_normalised, dpo.epochs), (0.1, 0.0, false, 1));
        assert_eq!((dpo.context, dpo.batch_tokens, dpo.validation_fraction), (256, 8192, 0.015));
        assert!(dpo.batch_tokens.is_multiple_of(dpo.micro_rows() * dpo.context));
        let text = recipe.to_toml().unwrap();
        let again = RawRecipe::parse(&text, "my.toml", Path::new("")).unwrap().validate().unwrap();
        assert_eq!(again, recipe);
        assert!(recipe.sft().is_err() && recipe.stage_toml(Stage::Dpo).unwrap().contains("[dpo]"));
    }

    #[test]
    fn a_micro_batch_holds_a_pair() {
        for (flags, rows) in [
            (&["dpo.batch_tokens=1792"][..], 7),
            // Rows so long that one is the usual micro-batch.
            (&["model.context=16384", "dpo.context=16384", "dpo.batch_tokens=114688"], 7),
            (&["model.context=16384", "dpo.context=16384", "dpo.batch_tokens=65536"], 2),
        ] {
            let recipe = parse(flags).unwrap();
            assert_eq!(recipe.dpo().unwrap().micro_rows(), rows, "{flags:?}");
        }
        for (flag, named) in [
            ("dpo.micro_batch=1", "two rows"),
            ("dpo.batch_tokens=256", "use 512 or more"),
            ("dpo.label_smoothing=0.5", "below 0.5"),
            ("dpo.beta=0", "above 0"),
            ("dpo.eval_pairs=0", "from 1"),
            ("dpo.betta=1", "did you mean `beta`"),
            ("data.dpo.0.held_out=true", "[[data.dpo]]"),
            ("data.dpo.0.held_out=1", "true or false"),
        ] {
            let error = parse(&[flag]).expect_err(flag).to_string();
            assert!(error.contains(named), "{flag}: {error}");
        }
    }

    #[test]
    fn the_other_stages_may_change_and_their_data_may_not() {
        let more = ["data.sft=[{name=\"chat\",path=\"a\"}]", "sft.identity_rate=0"];
        let saved = parse(&more).unwrap().stage_toml(Stage::Dpo).unwrap();
        let keys = |flag: &str| -> Vec<String> {
            let recipe = parse(&[more[0], more[1], flag]).unwrap();
            recipe.differences(Stage::Dpo, &saved).unwrap().into_iter().map(|d| d.key).collect()
        };
        assert_eq!(keys("sft.epochs=9"), Vec::<String>::new());
        assert_eq!(keys("dpo.keep_last=9"), Vec::<String>::new());
        assert_eq!(keys("data.sft.0.path=b"), ["data.sft[0].path"]);
        assert_eq!(keys("dpo.beta=0.2"), ["dpo.beta"]);
    }
}
