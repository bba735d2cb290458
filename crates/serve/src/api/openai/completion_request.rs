//! The body of `POST /v1/completions`, and its check.

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::bounds::within;
use super::super::error::ApiError;
use super::settings::{self, Numbers, StreamOptions};
use super::texts::Texts;
use super::unsupported::Asked;
use super::{Ask, Limits};

/// Tokens of a completion where the request does not say: OpenAI's number.
const MAX_TOKENS: usize = 16;

/// A request to continue a text. Unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The text, or a list of one. Token ids are not taken: they could be control tokens.
    #[schema(value_type = String)]
    prompt: Texts,
    /// The model's name; may be left out.
    model: Option<String>,
    /// Whether the text comes piece by piece, as server-sent events.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Longest continuation, in tokens; 16 if it is left out.
    max_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    /// Beyond OpenAI: the k most likely tokens; 0 for all.
    top_k: Option<u64>,
    /// Beyond OpenAI: tokens at least this share as likely as the likeliest.
    min_p: Option<f64>,
    /// Beyond OpenAI: above 1, what was said becomes less likely. Left out: the server's, but none at temperature 0.
    repetition_penalty: Option<f64>,
    seed: Option<i64>,
    #[schema(value_type = Option<Vec<String>>)]
    stop: Option<Texts>,
    /// 1.
    n: Option<u64>,
    /// 1.
    best_of: Option<u64>,
    /// How many of the likeliest tokens at each place, up to 5; the chosen one comes with them in any case.
    logprobs: Option<u64>,
    #[serde(default)]
    #[schema(ignore)]
    echo: Asked,
    #[serde(default)]
    #[schema(ignore)]
    suffix: Asked,
    #[serde(default)]
    #[schema(ignore)]
    logit_bias: Asked,
    #[serde(default)]
    #[schema(ignore)]
    frequency_penalty: Asked,
    #[serde(default)]
    #[schema(ignore)]
    presence_penalty: Asked,
}

/// A request that may be answered.
#[derive(Debug, Clone)]
pub(super) struct Completion {
    pub prompt: String,
    pub ask: Ask,
}

impl CompletionRequest {
    /// Checks everything.
    pub(super) fn check(mut self, limits: &Limits<'_>) -> Result<Completion, ApiError> {
        limits.model(self.model.as_deref())?;
        self.refuse()?;
        settings::only_one("n", self.n)?;
        settings::only_one("best_of", self.best_of)?;
        let (stream, include_usage) = settings::streaming(self.stream, self.stream_options)?;
        let prompts = &mut self.prompt.0;
        let prompt = match (prompts.pop(), prompts.is_empty()) {
            (Some(prompt), true) => prompt,
            _ => return Err(ApiError::field("prompt", "prompt has to be one text; send several requests for several")),
        };
        limits.text("prompt", &prompt)?;
        let top_logprobs = match self.logprobs {
            Some(top) => Some(within("logprobs", top as f64, [0.0, 5.0])? as usize),
            None => None,
        };
        let defaults = limits.defaults;
        let numbers = Numbers {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        };
        let ask = Ask {
            sampling: numbers.sampling(&defaults.sampling)?,
            max_tokens: settings::max_tokens("max_tokens", self.max_tokens, MAX_TOKENS, defaults.max_tokens_limit)?,
            stop: settings::stops(self.stop)?,
            top_logprobs,
            stream,
            include_usage,
        };
        Ok(Completion { prompt, ask })
    }

    fn refuse(&self) -> Result<(), ApiError> {
        self.echo.refuse("echo", "put the prompt before the text yourself")?;
        self.suffix.refuse("suffix", "the model continues, it does not fill in; leave it out")?;
        self.logit_bias.refuse("logit_bias", "leave it out")?;
        self.frequency_penalty.refuse("frequency_penalty", "use repetition_penalty, or leave it out")?;
        self.presence_penalty.refuse("presence_penalty", "use repetition_penalty, or leave it out")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::limits;
    use super::*;
    use serde_json::{Value, json};

    fn check(body: &Value) -> Result<Completion, ApiError> {
        let request: CompletionRequest = super::super::super::extract::parse(body.to_string().as_bytes())?;
        request.check(&limits())
    }

    #[test]
    fn one_text_is_taken() {
        let body = json!({"prompt": ["Once"], "echo": false, "suffix": null, "logprobs": 2, "best_of": 1});
        let completion = check(&body).unwrap();
        assert_eq!((completion.prompt.as_str(), completion.ask.max_tokens), ("Once", 16));
        assert_eq!(completion.ask.top_logprobs, Some(2));
    }

    #[test]
    fn refusals_name_the_field() {
        let cases = [
            (json!({"prompt": ["a", "b"]}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": [1, 2]}), "prompt[0]"),
            (json!({"prompt": "a", "echo": true}), "echo"),
            (json!({"prompt": "a", "suffix": "b"}), "suffix"),
            (json!({"prompt": "a", "best_of": 3}), "best_of"),
            (json!({"prompt": "a", "logprobs": 6}), "logprobs"),
        ];
        for (body, param) in cases {
            let error = check(&body).expect_err(&body.to_string());
            assert_eq!(error.body().error.param.as_deref(), Some(param), "{body}");
        }
    }
}
