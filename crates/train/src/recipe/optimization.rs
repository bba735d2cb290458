//! The keys that all stages share: learning rate, schedule, optimizer.

use serde::{Deserialize, Serialize, Serializer};
use toml::Value;

use super::section::{Interval, Section};
use crate::error::TrainError;
use crate::schedule::{Schedule, Shape};

/// A number of optimizer steps, absolute or as a share of the run.
///
/// In a recipe a number with a point is a share (`0.03`), a whole number counts steps (`500`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// Share of all steps, in `[0, 1)`.
    Share(f64),
    /// Steps.
    Steps(u64),
}

impl Span {
    /// Steps out of `total`: a share is rounded to the nearest step, never above `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Share(share) => ((total as f64 * share).round() as u64).min(total),
            Self::Steps(steps) => steps.min(total),
        }
    }

    fn read(section: &Section<'_>, key: &str) -> Result<Option<Self>, TrainError> {
        match section.value(key) {
            Some(Value::Float(_)) => Ok(section.number(key, Interval::BELOW_ONE)?.map(Self::Share)),
            Some(Value::Integer(_)) => Ok(section.integer(key, 0, MAX_STEPS)?.map(Self::Steps)),
            Some(other) => {
                Err(section.wrong_type(key, other, "a share of the run like 0.03, or a number of steps like 500"))
            }
            None => Ok(None),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Share(share) => serializer.serialize_f64(*share),
            Self::Steps(steps) => serializer.serialize_u64(*steps),
        }
    }
}

/// A tenth in decimal: 3e-5 of 3e-4, where dividing gives 2.9999999999999997e-5 and recipes would show it.
fn tenth(x: f64) -> f64 {
    format!("{x}e-1").parse().unwrap_or(x / 10.0)
}

/// Most optimizer steps of a run.
pub(super) const MAX_STEPS: u64 = 1 << 40;

/// Largest decay of a moment. Updates are in f32, where more would be 1: a moment that never learns, and an update of NaN.
const MAX_BETA: f64 = 0.999_999_9;

/// What updates the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW everywhere: <https://arxiv.org/abs/1711.05101>.
    AdamW,
    /// Muon for the matrices of the blocks, AdamW for the rest: <https://kellerjordan.github.io/posts/muon/>.
    Muon,
}

/// How the moments of matrices and the embedding are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moments {
    /// 4 bytes an element each.
    #[default]
    F32,
    /// 2 bytes.
    Bf16,
    /// 1 byte and a scale for each 128; Muon's momentum in bf16.
    #[serde(rename = "8bit")]
    Bits8,
}

/// How f32 weights become the bf16 that products read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightRounding {
    /// To nearest.
    #[default]
    Nearest,
    /// Up or down by chance, so that the mean is kept.
    Stochastic,
}

/// Whether a value is the default: keys that came later are left out then, so that older checkpoints can be resumed.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Learning rate, schedule and optimizer of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Optimization {
    /// Highest learning rate.
    pub lr: f64,
    /// Learning rate of the last step.
    pub min_lr: f64,
    /// The first steps, on which the rate grows linearly.
    pub warmup: Span,
    /// Shape after the warm-up.
    pub schedule: Shape,
    /// The last steps, on which the rate falls; of [`Shape::Linear`] only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<Span>,
    /// What updates the weights.
    pub optimizer: Optimizer,
    /// Highest learning rate of the matrices under [`Optimizer::Muon`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon_lr: Option<f64>,
    /// How moments are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub moments: Moments,
    /// How weights are rounded.
    #[serde(skip_serializing_if = "is_default")]
    pub weight_rounding: WeightRounding,
    /// Decoupled decay, of matrices only.
    pub weight_decay: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Largest global norm of the gradient; 0 does not clip.
    pub clip: f64,
}

impl Optimization {
    /// `lr` and `min_lr` are the defaults; a section with an `lr` of its own ends at a tenth of it.
    pub(super) fn read(section: &Section<'_>, lr: f64, min_lr: f64) -> Result<Self, TrainError> {
        let default_min_lr = (!section.has("lr")).then_some(min_lr);
        let lr = section.number("lr", Interval::POSITIVE.up_to(10.0))?.unwrap_or(lr);
        let min_lr = section.number("min_lr", Interval::NOT_NEGATIVE)?.or(default_min_lr).unwrap_or_else(|| tenth(lr));
        if min_lr > lr {
            return Err(section.bad("min_lr", min_lr, format!("use at most lr = {lr}")));
        }
        let schedule = section
            .choice("schedule", &[("cosine", Shape::Cosine), ("linear", Shape::Linear)])?
            .unwrap_or(Shape::Cosine);
        let cooldown = Span::read(section, "cooldown")?;
        let cooldown = match (schedule, cooldown) {
            (Shape::Linear, span) => Some(span.unwrap_or(Span::Share(0.4))),
            (Shape::Cosine, None) => None,
            (Shape::Cosine, Some(_)) => {
                let found = section.value("cooldown").map(ToString::to_string).unwrap_or_default();
                return Err(section.bad(
                    "cooldown",
                    found,
                    "a cosine falls all the way: set schedule = \"linear\", or leave cooldown out",
                ));
            }
        };
        let optimizer = section
            .choice("optimizer", &[("adamw", Optimizer::AdamW), ("muon", Optimizer::Muon)])?
            .unwrap_or(Optimizer::AdamW);
        let muon_lr = section.number("muon_lr", Interval::POSITIVE.up_to(10.0))?;
        let muon_lr = match (optimizer, muon_lr) {
            (Optimizer::Muon, rate) => Some(rate.unwrap_or(2e-3)),
            (Optimizer::AdamW, None) => None,
            (Optimizer::AdamW, Some(rate)) => {
                return Err(section.bad("muon_lr", rate, "set optimizer = \"muon\", or leave muon_lr out"));
            }
        };
        Ok(Self {
            lr,
            min_lr,
            warmup: Span::read(section, "warmup")?.unwrap_or(Span::Share(0.03)),
            schedule,
            cooldown,
            optimizer,
            muon_lr,
            moments: section
                .choice("moments", &[("f32", Moments::F32), ("bf16", Moments::Bf16), ("8bit", Moments::Bits8)])?
                .unwrap_or_default(),
            weight_rounding: section
                .choice(
                    "weight_rounding",
                    &[("nearest", WeightRounding::Nearest), ("stochastic", WeightRounding::Stochastic)],
                )?
                .unwrap_or_default(),
            weight_decay: section.number("weight_decay", Interval::NOT_NEGATIVE.up_to(10.0))?.unwrap_or(0.1),
            beta1: section.number("beta1", Interval::NOT_NEGATIVE.up_to(MAX_BETA))?.unwrap_or(0.9),
            beta2: section.number("beta2", Interval::NOT_NEGATIVE.up_to(MAX_BETA))?.unwrap_or(0.95),
            eps: section.number("eps", Interval::POSITIVE.up_to(1.0))?.unwrap_or(1e-8),
            clip: section.number("clip", Interval::NOT_NEGATIVE)?.unwrap_or(1.0),
        })
    }

    /// The schedule of a run of `steps` optimizer steps. A warm-up or cooldown longer than what is left is cut.
    pub fn schedule(&self, steps: u64) -> Schedule {
        let warmup = self.warmup.of(steps);
        Schedule {
            shape: self.schedule,
            steps,
            warmup,
            cooldown: self.cooldown.map_or(0, |span| span.of(steps)).min(steps - warmup),
            peak: self.lr,
            min: self.min_lr,
        }
    }

    /// Refuses a warm-up and a cooldown that do not fit in a run of `steps`.
    pub(super) fn check_fits(&self, section: &Section<'_>, steps: u64) -> Result<(), TrainError> {
        let counted = |span: Span| match span {
            Span::Share(_) => span.of(steps),
            Span::Steps(count) => count,
        };
        let warmup = counted(self.warmup);
        if warmup > steps {
            return Err(section.bad(
                "warmup",
                warmup,
                format!("the run has {steps} steps: use fewer, or a share like 0.03"),
            ));
        }
        let cooldown = self.cooldown.map_or(0, counted);
        // Two shares of exactly the whole may round to one step more.
        if warmup.saturating_add(cooldown) > steps.saturating_add(1) {
            return Err(section.bad(
                "cooldown",
                cooldown,
                format!("with {warmup} steps of warm-up it exceeds the {steps} steps of the run: shorten one of them"),
            ));
        }
        Ok(())
    }
}
