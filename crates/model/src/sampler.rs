//! Choosing the next token from logits. Called by generation, once per token; knows token ids only, no text.
//!
//! The steps, in the order usual in the field: repetition penalty, temperature, top-k, top-p, min-p, draw.

use crate::error::ModelError;
use crate::random::uniform;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// How to choose. The default is a mild truncation at temperature 0.8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerConfig {
    /// Divides the logits. 0 takes the most likely token, the one of lowest id among equals.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens that hold at least this probability together, in `(0, 1]`; 1 keeps all.
    /// <https://arxiv.org/abs/1904.09751>
    pub top_p: f32,
    /// Keeps tokens at least this many times as likely as the most likely one, in `[0, 1]`; 0 keeps all.
    /// <https://arxiv.org/abs/2407.01082>
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the history, but for those that are spared
    /// ([`Sampler::sparing`]); 1 does nothing.
    /// <https://arxiv.org/abs/1909.05858>
    pub repetition_penalty: f32,
    /// How many of the last tokens of the history are penalised; 0 for all.
    pub repetition_window: usize,
    /// Equal seeds and equal logits give equal tokens.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 50,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 0,
            seed: 0,
        }
    }
}

impl SamplerConfig {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// The same with the penalty that was asked for. Where none was, the usual one stays, but for temperature 0, which
    /// promises the most likely token.
    #[must_use]
    pub fn penalised(self, asked: Option<f32>) -> Self {
        let usual = if self.temperature == 0.0 { 1.0 } else { self.repetition_penalty };
        Self { repetition_penalty: asked.unwrap_or(usual), ..self }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// [`ModelError::Sampler`], naming the setting, its value and its range.
    pub fn validate(&self) -> Result<(), ModelError> {
        let check = |good: bool, field, value: f32, remedy| {
            if good { Ok(()) } else { Err(ModelError::Sampler { field, value: value.to_string(), remedy }) }
        };
        let t = self.temperature;
        check(t.is_finite() && t >= 0.0, "temperature", t, "use 0 for greedy, or a finite number above; 0.8 is usual")?;
        let p = self.top_p;
        check(p > 0.0 && p <= 1.0, "top_p", p, "use a number above 0 and at most 1; 1 keeps all tokens")?;
        let m = self.min_p;
        check((0.0..=1.0).contains(&m), "min_p", m, "use a number from 0 to 1; 0 keeps all tokens")?;
        let r = self.repetition_penalty;
        check(r.is_finite() && r > 0.0, "repetition_penalty", r, "use a finite number above 0; 1 is none, 1.1 mild")
    }
}

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    /// The logit; once temperature is applied, the unnormalised probability, at most 1. In f64, where no penalty or
    /// temperature of f32 range overflows.
    weight: f64,
}

impl Candidate {
    /// Most likely first, then by token id: a total order, so that ties never depend on the sorting algorithm.
    fn rank(&self, other: &Self) -> Ordering {
        other.weight.total_cmp(&self.weight).then(self.token.cmp(&other.token))
    }
}

/// Draws tokens. Holds the position in its random stream and buffers that are reused from token to token.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplerConfig,
    draws: u64,
    candidates: Vec<Candidate>,
    penalised: Vec<u32>,
    spared: Vec<u32>,
}

impl Sampler {
    /// A sampler at the start of its seed's stream.
    ///
    /// # Errors
    /// As [`SamplerConfig::validate`].
    pub fn new(config: SamplerConfig) -> Result<Self, ModelError> {
        Self::resume(config, 0)
    }

    /// A sampler that goes on after that many draws from its seed's stream; each token takes one, but at temperature 0.
    ///
    /// # Errors
    /// As [`SamplerConfig::validate`].
    pub fn resume(config: SamplerConfig, draws: u64) -> Result<Self, ModelError> {
        config.validate()?;
        Ok(Self { config, draws, candidates: Vec::new(), penalised: Vec::new(), spared: Vec::new() })
    }

    /// The same, with tokens that are never penalised. Those that end a message stand behind every message: penalised for it,
    /// none would end any more where the model wants it to.
    #[must_use]
    pub fn sparing(mut self, tokens: &[u32]) -> Self {
        self.spared = tokens.to_vec();
        self
    }

    /// Its settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Chooses the token after `history` from `logits` `[vocab_size]`. A logit of -infinity rules its token out. Tokens
    /// of the history beyond the vocabulary are ignored.
    ///
    /// # Errors
    /// [`ModelError::BadLogit`] for NaN or +infinity; [`ModelError::NoToken`] when every token is ruled out.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, ModelError> {
        self.candidates.clear();
        for (token, &value) in logits.iter().enumerate() {
            if value.is_nan() || value == f32::INFINITY {
                return Err(ModelError::BadLogit { token, value });
            }
            // Adding +0 makes -0 equal to it in the total order, as it is in any other sense.
            self.candidates.push(Candidate { token: token as u32, weight: f64::from(value) + 0.0 });
        }
        self.penalise(history);
        let best = self.candidates.iter().copied().min_by(Candidate::rank);
        let Some(best) = best.filter(|best| best.weight > f64::NEG_INFINITY) else {
            return Err(ModelError::NoToken { vocab_size: logits.len() });
        };
        if self.config.temperature == 0.0 {
            return Ok(best.token);
        }
        let temperature = f64::from(self.config.temperature);
        for candidate in &mut self.candidates {
            candidate.weight = libm::exp((candidate.weight - best.weight) / temperature);
        }
        self.keep_top_k();
        self.keep_top_p();
        // The most likely token has weight 1, so this needs no normalisation.
        let least = f64::from(self.config.min_p);
        self.candidates.retain(|candidate| candidate.weight >= least && candidate.weight > 0.0);
        Ok(self.draw().unwrap_or(best.token))
    }

    fn penalise(&mut self, history: &[u32]) {
        let penalty = f64::from(self.config.repetition_penalty);
        if penalty == 1.0 {
            return;
        }
        let window = match self.config.repetition_window {
            0 => history.len(),
            n => n.min(history.len()),
        };
        self.penalised.clear();
        self.penalised.extend_from_slice(&history[history.len() - window..]);
        // Once each, however often a token occurred.
        self.penalised.sort_unstable();
        self.penalised.dedup();
        self.penalised.retain(|token| !self.spared.contains(token));
        for &token in &self.penalised {
            if let Some(candidate) = self.candidates.get_mut(token as usize) {
                let w = candidate.weight;
                candidate.weight = if w > 0.0 { w / penalty } else { w * penalty };
            }
        }
    }

    fn keep_top_k(&mut self) {
        let k = self.config.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, Candidate::rank);
            self.candidates.truncate(k);
            // Selection leaves an order of its own; the draw walks in this one.
            self.candidates.sort_unstable_by(Candidate::rank);
        }
    }

    fn keep_top_p(&mut self) {
        if self.config.top_p >= 1.0 {
            return;
        }
        let wanted = f64::from(self.config.top_p) * total(&self.candidates);
        // The nucleus is small as a rule: sort only as much of the vocabulary as holds it.
        let mut prefix = 64;
        while prefix < self.candidates.len() {
            self.candidates.select_nth_unstable_by(prefix - 1, Candidate::rank);
            if total(&self.candidates[..prefix]) >= wanted {
                self.candidates.truncate(prefix);
            }
            prefix *= 4;
        }
        self.candidates.sort_unstable_by(Candidate::rank);
        let mut held = 0.0;
        let enough = self.candidates.iter().position(|candidate| {
            held += candidate.weight;
            held >= wanted
        });
        self.candidates.truncate(enough.map_or(usize::MAX, |last| last + 1));
    }

    /// One candidate, by its weight.
    fn draw(&mut self) -> Option<u32> {
        let mut left = uniform(self.config.seed, self.draws) * total(&self.candidates);
        self.draws += 1;
        for candidate in &self.candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding may leave a hair above zero after the last.
        self.candidates.last().map(|candidate| candidate.token)
    }
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

#[cfg(test)]
mod tests;
