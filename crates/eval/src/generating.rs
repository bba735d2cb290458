//! Many texts continued in few passes, always by the likeliest token.

use casallm_compute::Device;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::network::Network;
use casallm_model::sequences::{Piece, Sequences};

use crate::error::EvalError;

/// Tokens of a pass, and of a piece of a prompt in it.
const PASS_TOKENS: usize = 512;
const PIECE_TOKENS: usize = 256;
/// Texts beside one another.
const SEQUENCES: usize = 16;

/// When an answer ends.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Most tokens of it.
    pub max_tokens: usize,
    /// Texts before the first of which it ends.
    pub stops: Vec<String>,
    /// Tokens that end it, and are no part of it.
    pub stop_ids: Vec<u32>,
}

/// One answer in the making.
struct Lane {
    prompt: usize,
    /// Tokens of prompt and answer that have been read.
    read: usize,
    answer: Vec<u32>,
}

/// Continues every prompt; `done` gets the number of a prompt and its answer, as answers end, in no order. Of a prompt that
/// leaves no room for an answer the end is kept.
///
/// # Errors
/// Memory that cannot be had, a device that fails, and whatever `done` returns.
pub fn generate<D: Device>(
    network: &Network<D>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    ending: &Ending,
    done: &mut dyn FnMut(usize, String) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let context = network.config().context;
    let max_tokens = ending.max_tokens.clamp(1, context.saturating_sub(1).max(1));
    let room = context.saturating_sub(max_tokens).max(1);
    let prompts: Vec<&[u32]> = prompts.iter().map(|p| &p[p.len().saturating_sub(room)..]).collect();
    let Some(longest) = prompts.iter().map(|p| p.len()).max() else { return Ok(()) };
    let count = SEQUENCES.min(prompts.len());
    let mut sequences = Sequences::new(network, count, longest + max_tokens, PASS_TOKENS)?;
    let mut lanes: Vec<Option<Lane>> = (0..count).map(|_| None).collect();
    let mut next = 0;
    loop {
        for lane in &mut lanes {
            while lane.is_none() && next < prompts.len() {
                if prompts[next].is_empty() {
                    done(next, String::new())?;
                } else {
                    *lane = Some(Lane { prompt: next, read: 0, answer: Vec::new() });
                }
                next += 1;
            }
        }
        let (mut pieces, mut tokens) = (Vec::new(), 0);
        for (sequence, lane) in lanes.iter().enumerate() {
            let Some(lane) = lane else { continue };
            let prompt = prompts[lane.prompt];
            let (ids, logits) = match lane.answer.last() {
                Some(id) => (std::slice::from_ref(id), true),
                None => {
                    let end = prompt.len().min(lane.read + PIECE_TOKENS);
                    (&prompt[lane.read..end], end == prompt.len())
                }
            };
            if tokens + ids.len() <= PASS_TOKENS {
                tokens += ids.len();
                pieces.push(Piece { sequence, at: lane.read, ids, logits });
            }
        }
        if pieces.is_empty() {
            return Ok(());
        }
        let vocab_size = network.config().vocab_size;
        let logits = sequences.forward(&pieces)?;
        let mut likeliest = logits.chunks_exact(vocab_size).map(first_largest);
        let told: Vec<(usize, usize, Option<u32>)> = pieces
            .iter()
            .map(|piece| (piece.sequence, piece.ids.len(), if piece.logits { likeliest.next() } else { None }))
            .collect();
        for (sequence, read, id) in told {
            let Some(lane) = &mut lanes[sequence] else { continue };
            lane.read += read;
            let Some(id) = id else { continue };
            let ends = ending.stop_ids.contains(&id);
            if !ends {
                lane.answer.push(id);
            }
            let (said, stopped) = cut(tokenizer.decode(&lane.answer), &ending.stops);
            if ends || stopped || lane.answer.len() >= max_tokens {
                let prompt = lane.prompt;
                lanes[sequence] = None;
                done(prompt, said)?;
            }
        }
    }
}

/// A text up to the first of some others, and whether one of them is there.
fn cut(mut text: String, stops: &[String]) -> (String, bool) {
    let at = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
    text.truncate(at.unwrap_or(text.len()));
    (text, at.is_some())
}

/// The place of the first of the largest values.
fn first_largest(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_before_the_first_stop() {
        let stops = ["Question:".to_owned(), "</s>".to_owned()];
        assert_eq!(cut("4 </s> Question: 5".into(), &stops), ("4 ".to_owned(), true));
        assert_eq!(cut("4".into(), &stops), ("4".to_owned(), false));
    }

    #[test]
    fn of_equals_the_first_is_taken() {
        assert_eq!(first_largest(&[1.0, 3.0, 3.0, 2.0]), 1);
    }
}
