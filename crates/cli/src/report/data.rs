//! What a report shows, as plain values; whoever calls gathers them.

use super::chart::Scale;

/// Everything in a report. Empty lists leave their section out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReportData {
    /// Name of the model, the page's title.
    pub name: String,
    /// One sentence on what it is and who made it.
    pub description: String,
    /// When and by which version the page was made: "17 July 2026, casallm 0.1.0".
    pub made: String,
    /// The few numbers that matter most, shown large.
    pub headline: Vec<Fact>,
    /// The training stages, in order.
    pub stages: Vec<StageReport>,
    /// Bits per byte of held-out text, by source.
    pub compression: Vec<Compression>,
    /// How the run's models are judged.
    pub evaluations: Vec<Evaluation>,
    /// Text that the model wrote.
    pub samples: Vec<Sample>,
    /// Questions about itself and others, each answer marked.
    pub exams: Vec<Exam>,
    /// What it learned from.
    pub sources: Vec<SourceSummary>,
    /// What cleaning did to the conversations.
    pub cleaning: Vec<CleaningSummary>,
    /// Size and shape of the model.
    pub model: Vec<Fact>,
    /// What it was trained on.
    pub hardware: Vec<Fact>,
    /// What happened on the way.
    pub events: Vec<String>,
    /// The canonical recipe.
    pub recipe: String,
    /// SHA-256 of the canonical recipe, in hexadecimal.
    pub recipe_hash: String,
}

/// A name and its value, already formatted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fact {
    /// What it is: "Weights".
    pub label: String,
    /// How much: "13.0 M".
    pub value: String,
    /// A remark in small print, or nothing.
    pub note: String,
}

impl Fact {
    /// A fact without a remark.
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into(), note: String::new() }
    }

    /// The same with a remark.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// A training stage.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StageReport {
    /// "Pre-training", "Fine-tuning".
    pub name: String,
    /// A row for each optimizer step, in order.
    pub training: Vec<TrainingPoint>,
    /// Validation loss by source, the whole set included where it is one of them.
    pub validation: Vec<ValidationSeries>,
    /// Axis of tokens. A logarithm shows the beginning, where most is learned.
    pub tokens_scale: Scale,
    /// Axis of loss.
    pub loss_scale: Scale,
    /// Whether losses are means over pairs of answers, as those of DPO are, and not over tokens.
    pub pairs: bool,
    /// Steps, tokens, time and the like.
    pub facts: Vec<Fact>,
}

/// One optimizer step. What was not measured is NaN, and leaves a gap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingPoint {
    /// Tokens seen after the step.
    pub tokens: f64,
    /// Nats per supervised token, or per pair.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens a second.
    pub tokens_per_s: f64,
}

/// Validation loss of one source over the stage.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ValidationSeries {
    /// The source.
    pub name: String,
    /// Tokens seen, nats per supervised token or per pair.
    pub points: Vec<Point>,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
}

/// How well the model predicts a text, beside general compressors on the same bytes. All in bits per byte.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compression {
    /// The source of the text.
    pub source: String,
    /// Length of the text in bytes.
    pub bytes: u64,
    /// The model.
    pub model: f64,
    /// `xz -9e`, where measured.
    pub xz: Option<f64>,
    /// `gzip -9`, where measured.
    pub gzip: Option<f64>,
}

/// How one model is judged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// The model's folder.
    pub model: String,
    /// Task by task.
    pub judgements: Vec<Judgement>,
}

/// One number of a benchmark.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judgement {
    /// What was asked.
    pub task: String,
    /// What was counted: "acc_norm".
    pub metric: String,
    /// Its value, for most metrics in `[0, 1]`.
    pub value: f64,
    /// Its standard error, where known.
    pub stderr: Option<f64>,
    /// What guessing reaches, where that is known.
    pub chance: Option<f64>,
    /// Items asked.
    pub items: u64,
    /// Examples before each question.
    pub fewshot: u64,
}

/// A text that the model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// What it was given; may be empty.
    pub prompt: String,
    /// What it wrote; an answer, unlike a continuation, begins with a line break.
    pub text: String,
    /// How: "temperature 0.8, top-p 0.95, seed 1".
    pub settings: String,
}

/// A set of questions of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exam {
    /// "Identity", "Ordinary questions".
    pub name: String,
    /// What counts as right, in a sentence.
    pub rule: String,
    /// Every question with its answer.
    pub answers: Vec<Answer>,
}

/// An answer of the model and its mark.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The question.
    pub question: String,
    /// The whole answer.
    pub answer: String,
    /// Whether it is right by the exam's rule.
    pub right: bool,
}

/// A source of text or conversations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceSummary {
    /// Its name in the recipe.
    pub name: String,
    /// "pre-training" or "fine-tuning".
    pub stage: String,
    /// Documents or conversations.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens to train on.
    pub tokens: u64,
    /// Tokens held out.
    pub validation_tokens: u64,
}

/// What cleaning did to one source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CleaningSummary {
    /// The source.
    pub source: String,
    /// Conversations read.
    pub rows: u64,
    /// Conversations left out.
    pub dropped: u64,
    /// Conversations changed.
    pub rewritten: u64,
    /// Why, and how many for each reason.
    pub reasons: Vec<(String, u64)>,
}
