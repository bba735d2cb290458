//! The HTTP interface over real sockets, with a model without weights behind it.

mod client;
mod disconnects;
mod guards;
mod hostile;
mod openai;
mod page;
mod runs;
mod server;
