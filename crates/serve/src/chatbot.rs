//! STAND-IN until the real one lands on main.
use casallm_data::chat::Message;
use casallm_model::sampler::SamplerConfig;
pub struct Turn {
    pub message: Message,
    pub ids: Option<Vec<u32>>,
}
#[derive(Clone, Copy, Default)]
pub enum Priority {
    #[default]
    Interactive,
    Background,
}
pub struct AnswerRequest {
    pub turns: Vec<Turn>,
    pub sampling: SamplerConfig,
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
    pub top_logprobs: Option<usize>,
    pub continue_ids: Vec<u32>,
    pub priority: Priority,
}
#[derive(Debug, Clone)]
pub struct Candidate {
    pub bytes: Vec<u8>,
    pub logprob: f32,
}
#[derive(Debug, Clone)]
pub struct TokenLogprobs {
    pub bytes: Vec<u8>,
    pub logprob: f32,
    pub top: Vec<Candidate>,
}
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub completion_tokens: usize,
}
#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    pub first_token_ms: f64,
    pub tokens_per_second: f64,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    Length,
    Context,
}
#[derive(Debug, Clone)]
pub struct Done {
    pub finish: FinishReason,
    pub usage: Usage,
    pub timing: Timing,
    pub ids: Vec<u32>,
}
#[derive(Debug)]
pub enum AnswerEvent {
    Started { prompt_tokens: usize, cached_tokens: usize },
    Reading { read: usize, of: usize },
    Text { text: String, ids: Vec<u32>, logprobs: Vec<TokenLogprobs> },
    Done(Done),
    Failed(ChatError),
}
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    #[error("queue")]
    QueueFull,
    #[error("too long")]
    TooLong,
    #[error("down")]
    ShuttingDown,
    #[error("bad")]
    Other,
}
pub struct Chatbot {
    pub context: usize,
}
pub struct Answer;
impl Chatbot {
    pub fn answer(&self, _: AnswerRequest) -> Result<Answer, ChatError> {
        Err(ChatError::Other)
    }
    pub fn complete(&self, _: &str, _: AnswerRequest) -> Result<Answer, ChatError> {
        Err(ChatError::Other)
    }
    pub fn context(&self) -> usize {
        self.context
    }
}
impl Answer {
    pub async fn next(&mut self) -> Option<AnswerEvent> {
        None
    }
}
