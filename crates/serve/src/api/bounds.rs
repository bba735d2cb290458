//! The range of every number that a request may hold. `/api/config` shows them to the page.

use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;

/// From and to, both included.
pub(super) type Range = [f64; 2];

/// The ranges.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Bounds {
    /// Divides the logits; 0 is greedy.
    pub temperature: [f64; 2],
    /// The k most likely tokens; 0 for all.
    pub top_k: [f64; 2],
    /// The most likely tokens that hold this probability.
    pub top_p: [f64; 2],
    /// Tokens at least so likely as this share of the likeliest.
    pub min_p: [f64; 2],
    /// Above 1, what was said becomes less likely.
    pub repetition_penalty: [f64; 2],
    /// Tokens of an answer.
    pub max_tokens: [f64; 2],
}

/// Of each setting.
pub(super) const BOUNDS: Bounds = Bounds {
    temperature: [0.0, 5.0],
    top_k: [0.0, 1_000_000.0],
    top_p: [0.000_1, 1.0],
    min_p: [0.0, 1.0],
    repetition_penalty: [0.1, 10.0],
    max_tokens: [1.0, 1_000_000.0],
};

/// Stop strings of a request, as many.
pub(super) const STOPS: usize = 16;
/// Bytes of a stop string.
pub(super) const STOP_BYTES: usize = 256;
/// Alternatives to each token.
pub(super) const TOP_LOGPROBS: Range = [0.0, 20.0];
/// Messages of a request.
pub(super) const MESSAGES: usize = 10_000;

/// A text that is not too long for the model's context to hold it.
pub(super) fn text(name: &str, text: &str, limit: usize) -> Result<(), ApiError> {
    if text.len() <= limit {
        return Ok(());
    }
    let message = format!("{name} has {} bytes; the model takes at most {limit}", text.len());
    Err(ApiError::context_length(name, message))
}

/// The value, if it lies within. NaN never does.
pub(super) fn within(name: &str, value: f64, [low, high]: Range) -> Result<f64, ApiError> {
    if value >= low && value <= high {
        return Ok(value);
    }
    Err(ApiError::field(name, format!("{name} is {value}; use a number from {low} to {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_slips_by() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, 5.1] {
            assert_eq!(within("temperature", value, BOUNDS.temperature).unwrap_err().status(), 400, "{value}");
        }
        assert_eq!(within("temperature", 5.0, BOUNDS.temperature).unwrap(), 5.0);
    }

    #[test]
    fn the_sampler_takes_whatever_is_within() {
        for edge in [0, 1] {
            let config = casallm_model::sampler::SamplerConfig {
                temperature: BOUNDS.temperature[edge] as f32,
                top_k: BOUNDS.top_k[edge] as usize,
                top_p: BOUNDS.top_p[edge] as f32,
                min_p: BOUNDS.min_p[edge] as f32,
                repetition_penalty: BOUNDS.repetition_penalty[edge] as f32,
                ..Default::default()
            };
            config.validate().unwrap();
        }
    }
}
