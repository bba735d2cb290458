//! The body of `POST /v1/chat/completions`, and its check.

use casallm_data::chat::{Message, Role};
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::bounds::{self, TOP_LOGPROBS, within};
use super::super::error::ApiError;
use super::settings::{self, Numbers, StreamOptions};
use super::texts::{Content, Texts};
use super::unsupported::Asked;
use super::{Ask, Limits};

/// A request for a chat's next message. Unknown fields are ignored, as OpenAI ignores them.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// Messages, oldest first.
    messages: Vec<WireMessage>,
    /// The model's name, as `/v1/models` tells it; may be left out.
    model: Option<String>,
    /// Whether the answer comes piece by piece, as server-sent events.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Longest answer, in tokens; the older name.
    max_tokens: Option<u64>,
    /// Longest answer, in tokens.
    max_completion_tokens: Option<u64>,
    /// 0 is greedy.
    temperature: Option<f64>,
    top_p: Option<f64>,
    /// Beyond OpenAI: the k most likely tokens; 0 for all.
    top_k: Option<u64>,
    /// Beyond OpenAI: tokens at least this share as likely as the likeliest.
    min_p: Option<f64>,
    /// Beyond OpenAI: above 1, what was said becomes less likely. Left out: the server's, but none at temperature 0.
    repetition_penalty: Option<f64>,
    /// Equal seeds give equal answers.
    seed: Option<i64>,
    /// Up to 16 strings that end the answer; they are not part of it.
    #[schema(value_type = Option<Vec<String>>)]
    stop: Option<Texts>,
    /// 1.
    n: Option<u64>,
    /// Whether each token's log probability is told.
    logprobs: Option<bool>,
    /// How many alternatives to each token, up to 20.
    top_logprobs: Option<u64>,
    /// `{"type":"text"}`.
    response_format: Option<ResponseFormat>,
    /// `["text"]`.
    modalities: Option<Vec<String>>,
    #[serde(default)]
    #[schema(ignore)]
    tools: Asked,
    #[serde(default)]
    #[schema(ignore)]
    functions: Asked,
    #[serde(default)]
    #[schema(ignore)]
    audio: Asked,
    #[serde(default)]
    #[schema(ignore)]
    prediction: Asked,
    #[serde(default)]
    #[schema(ignore)]
    web_search_options: Asked,
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

/// A message of a request.
#[derive(Debug, Deserialize, ToSchema)]
struct WireMessage {
    /// `system`, `developer` (the same), `user` or `assistant`.
    role: String,
    /// A string, or a list of parts of type `text`.
    #[schema(value_type = String)]
    content: Option<Content>,
    #[serde(default)]
    #[schema(ignore)]
    tool_calls: Asked,
    #[serde(default)]
    #[schema(ignore)]
    function_call: Asked,
}

/// `response_format`.
#[derive(Debug, Deserialize, ToSchema)]
struct ResponseFormat {
    /// `text`.
    #[serde(rename = "type")]
    kind: String,
}

/// A request that may be answered.
#[derive(Debug, Clone)]
pub(super) struct Chat {
    pub messages: Vec<Message>,
    pub ask: Ask,
}

impl ChatRequest {
    /// Checks everything.
    pub(super) fn check(self, limits: &Limits<'_>) -> Result<Chat, ApiError> {
        limits.model(self.model.as_deref())?;
        self.refuse()?;
        settings::only_one("n", self.n)?;
        let (stream, include_usage) = settings::streaming(self.stream, self.stream_options)?;
        let top_logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Some(within("top_logprobs", top.unwrap_or(0) as f64, TOP_LOGPROBS)? as usize),
            (false, None | Some(0)) => None,
            (false, Some(_)) => return Err(ApiError::field("top_logprobs", "top_logprobs needs \"logprobs\": true")),
        };
        let (name, asked) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(tokens), _) => ("max_completion_tokens", Some(tokens)),
            (None, tokens) => ("max_tokens", tokens),
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
            max_tokens: settings::max_tokens(name, asked, defaults.max_tokens, defaults.max_tokens_limit)?,
            stop: settings::stops(self.stop)?,
            top_logprobs,
            stream,
            include_usage,
        };
        Ok(Chat { messages: messages(self.messages, limits)?, ask })
    }

    fn refuse(&self) -> Result<(), ApiError> {
        let remedy = "leave it out";
        self.tools.refuse("tools", "the model calls none; leave it out")?;
        self.functions.refuse("functions", "the model calls none; leave it out")?;
        self.audio.refuse("audio", "it answers in text; leave it out")?;
        self.prediction.refuse("prediction", remedy)?;
        self.web_search_options.refuse("web_search_options", "it searches nothing; leave it out")?;
        self.logit_bias.refuse("logit_bias", remedy)?;
        self.frequency_penalty.refuse("frequency_penalty", "use repetition_penalty, or leave it out")?;
        self.presence_penalty.refuse("presence_penalty", "use repetition_penalty, or leave it out")?;
        if self.response_format.as_ref().is_some_and(|format| format.kind != "text") {
            return Err(ApiError::unsupported("response_format", "use {\"type\":\"text\"}, or leave it out"));
        }
        if self.modalities.iter().flatten().any(|kind| kind != "text") {
            return Err(ApiError::unsupported("modalities", "use [\"text\"], or leave it out"));
        }
        Ok(())
    }
}

fn messages(wire: Vec<WireMessage>, limits: &Limits<'_>) -> Result<Vec<Message>, ApiError> {
    if wire.is_empty() || wire.len() > bounds::MESSAGES {
        let message = format!("messages has {} entries; use from 1 to {}", wire.len(), bounds::MESSAGES);
        return Err(ApiError::field("messages", message));
    }
    wire.into_iter().enumerate().map(|(index, message)| read_message(index, message, limits)).collect()
}

fn read_message(index: usize, message: WireMessage, limits: &Limits<'_>) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let role = match message.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => {
            let other: String = other.chars().take(40).collect();
            let text = format!("{} is {other:?}; use system, developer, user or assistant", at("role"));
            return Err(ApiError::field(at("role"), text));
        }
    };
    message.tool_calls.refuse(&at("tool_calls"), "leave it out")?;
    message.function_call.refuse(&at("function_call"), "leave it out")?;
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut text = String::new();
            for (part, number) in parts.into_iter().zip(0..) {
                let at = format!("messages[{index}].content[{number}]");
                match (part.kind.as_str(), part.text) {
                    ("text", Some(piece)) => text += &piece,
                    ("text", None) => {
                        return Err(ApiError::missing(format!("{at}.text")));
                    }
                    _ => return Err(ApiError::unsupported(&format!("{at}.type"), "use parts of type text")),
                }
            }
            text
        }
        None | Some(Content::Nothing) => {
            return Err(ApiError::missing(at("content")));
        }
    };
    limits.text(&at("content"), &content)?;
    Ok(Message { role, content })
}

#[cfg(test)]
mod tests {
    use super::super::tests::limits;
    use super::*;
    use serde_json::{Value, json};

    fn check(body: &Value) -> Result<Chat, ApiError> {
        let request: ChatRequest = super::super::super::extract::parse(body.to_string().as_bytes())?;
        request.check(&limits())
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        body[field] = value;
        body
    }

    #[test]
    fn what_clients_send_is_taken() {
        let body = json!({
            "model": "casa", "user": "u", "metadata": {"a": 1}, "tools": [], "tool_choice": "none", "logit_bias": null,
            "frequency_penalty": 0, "stop": "x", "seed": -1, "temperature": 0, "top_k": 3, "max_tokens": 5,
            "response_format": {"type": "text"}, "n": 1, "unknown": {"deep": [1, 2]}, "logprobs": true,
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "Hi", "name": "n"},
            ],
        });
        let chat = check(&body).unwrap();
        assert_eq!(chat.messages, [Message::system("ab"), Message::user("Hi")]);
        assert_eq!((chat.ask.max_tokens, chat.ask.top_logprobs, chat.ask.stop), (5, Some(0), vec!["x".to_owned()]));
        assert_eq!(
            (chat.ask.sampling.temperature, chat.ask.sampling.top_k, chat.ask.sampling.seed),
            (0.0, 3, u64::MAX)
        );
    }

    #[test]
    fn refusals_name_the_field() {
        let cases = [
            ("tools", json!([{"type": "function"}]), "tools"),
            ("response_format", json!({"type": "json_object"}), "response_format"),
            ("n", json!(2), "n"),
            ("temperature", json!(5.5), "temperature"),
            ("temperature", json!("hot"), "temperature"),
            ("top_p", json!(0), "top_p"),
            ("max_tokens", json!(0), "max_tokens"),
            ("max_tokens", json!(-1), "max_tokens"),
            ("max_tokens", json!(1.5), "max_tokens"),
            ("seed", json!(1e30), "seed"),
            ("stop", json!(["a", ""]), "stop[1]"),
            ("stop", json!([1]), "stop[0]"),
            ("top_logprobs", json!(3), "top_logprobs"),
            ("messages", json!([]), "messages"),
            ("messages", json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
            ("messages", json!([{"role": "user"}]), "messages[0].content"),
            ("messages", json!([{"content": "x"}]), "messages[0].role"),
            ("messages", json!([{"role": "user", "content": 3}]), "messages[0].content"),
            ("messages", json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0].type"),
            ("model", json!("gpt-4o"), "model"),
            ("stream_options", json!({"include_usage": true}), "stream_options"),
            ("modalities", json!(["audio"]), "modalities"),
        ];
        for (field, value, param) in cases {
            let error = check(&with(field, value.clone())).expect_err(&format!("{field} = {value}"));
            assert_eq!(error.body().error.param.as_deref(), Some(param), "{field} = {value}: {error:?}");
            assert!(error.status().is_client_error());
        }
        let long = with("messages", json!([{"role": "user", "content": "x".repeat(limits().message_bytes + 1)}]));
        assert_eq!(check(&long).unwrap_err().body().error.code, Some("context_length_exceeded"));
    }
}
