//! What both endpoints take in common: sampling, length, stop strings and streaming.

use casallm_model::sampler::SamplerConfig;
use serde::Deserialize;

use super::super::bounds::{self, BOUNDS, within};
use super::super::error::ApiError;
use super::texts::Texts;

/// How tokens are chosen where a request says nothing, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// The settings; the seed is drawn anew for each request.
    pub sampling: SamplerConfig,
    /// Tokens of an answer.
    pub max_tokens: usize,
    /// The most that a request may ask for; more is cut to it.
    pub max_tokens_limit: usize,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::ToSchema)]
pub struct StreamOptions {
    /// A last chunk tells the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// The numbers of a request that choose tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Numbers {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub seed: Option<i64>,
}

impl Numbers {
    /// Checked, with the defaults filled in.
    pub(super) fn sampling(self, defaults: &SamplerConfig) -> Result<SamplerConfig, ApiError> {
        let mut config = defaults.clone();
        if let Some(value) = self.temperature {
            config.temperature = within("temperature", value, BOUNDS.temperature)? as f32;
        }
        if let Some(value) = self.top_p {
            config.top_p = within("top_p", value, BOUNDS.top_p)? as f32;
        }
        if let Some(value) = self.top_k {
            config.top_k = within("top_k", value as f64, BOUNDS.top_k)? as usize;
        }
        if let Some(value) = self.min_p {
            config.min_p = within("min_p", value, BOUNDS.min_p)? as f32;
        }
        let penalty = self.repetition_penalty;
        let penalty =
            penalty.map(|value| within("repetition_penalty", value, BOUNDS.repetition_penalty)).transpose()?;
        config = config.penalised(penalty.map(|value| value as f32));
        config.seed = match self.seed {
            Some(seed) => seed.cast_unsigned(),
            None => random_seed(),
        };
        Ok(config)
    }
}

fn random_seed() -> u64 {
    // Where the system has no randomness the answers are the same each time, which is no reason to refuse them.
    getrandom::u64().unwrap_or(0)
}

/// `max_tokens`, checked and cut to the server's limit.
pub(super) fn max_tokens(name: &str, asked: Option<u64>, default: usize, limit: usize) -> Result<usize, ApiError> {
    let tokens = match asked {
        Some(value) => within(name, value as f64, BOUNDS.max_tokens)? as usize,
        None => default,
    };
    Ok(tokens.min(limit))
}

/// Stop strings, checked.
pub(super) fn stops(stop: Option<Texts>) -> Result<Vec<String>, ApiError> {
    let stops = stop.map_or_else(Vec::new, |texts| texts.0);
    if stops.len() > bounds::STOPS {
        return Err(ApiError::field(
            "stop",
            format!("stop has {} strings; use at most {}", stops.len(), bounds::STOPS),
        ));
    }
    for (index, text) in stops.iter().enumerate() {
        if text.is_empty() || text.len() > bounds::STOP_BYTES {
            let message = format!("stop[{index}] has {} bytes; use from 1 to {} bytes", text.len(), bounds::STOP_BYTES);
            return Err(ApiError::field(format!("stop[{index}]"), message));
        }
    }
    Ok(stops)
}

/// `stream` and `stream_options`: whether the answer comes in pieces, and whether the last one tells the usage.
pub(super) fn streaming(stream: Option<bool>, options: Option<StreamOptions>) -> Result<(bool, bool), ApiError> {
    let stream = stream.unwrap_or(false);
    if options.is_some() && !stream {
        return Err(ApiError::field("stream_options", "stream_options is for \"stream\": true"));
    }
    Ok((stream, options.and_then(|options| options.include_usage).unwrap_or(false)))
}

/// `n` and `best_of`: one answer to a request.
pub(super) fn only_one(name: &str, value: Option<u64>) -> Result<(), ApiError> {
    match value {
        None | Some(1) => Ok(()),
        Some(_) => Err(ApiError::unsupported(name, "leave it out or use 1, and send several requests")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_0_is_greedy_unless_a_penalty_is_asked_for() {
        let usual = SamplerConfig { temperature: 0.7, repetition_penalty: 1.1, ..SamplerConfig::default() };
        for (temperature, asked, expected) in
            [(None, None, 1.1), (Some(0.5), None, 1.1), (Some(0.0), None, 1.0), (Some(0.0), Some(1.2), 1.2)]
        {
            let numbers = Numbers { temperature, repetition_penalty: asked, ..Numbers::default() };
            let config = numbers.sampling(&usual).unwrap();
            assert_eq!(config.repetition_penalty, expected, "{temperature:?} {asked:?}");
        }
    }
}
