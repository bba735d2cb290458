//! The chat: a generation engine, conversations, and their HTTP interface; and beside it the dashboard of training runs.
//!
//! What each part knows: `engine` token ids and nothing of text; `chatbot` text and nothing of HTTP; `store` SQLite
//! and nothing of models; `answers` how a stored conversation is answered; `runs` what stands in the folders of training
//! runs; `api` all of them, and alone holds wire types.

pub mod answers;
pub mod api;
pub mod chatbot;
pub mod engine;
pub mod overflow;
pub mod runs;
pub mod store;
