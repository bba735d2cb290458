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

/// Continues every prompt within `context`, the tokens of prompt and answer together; `done` gets the number of a prompt and its
/// answer, as answers end, in no order. An answer may be as long as its prompt leaves room for; of a prompt that leaves none the
/// end is kept, of which `done` is told nothing.
///
/// # Errors
/// A model that computes what is no number, memory that cannot be had, a device that fails, and whatever `done` returns.
pub fn generate<D: Device>(
    network: &Network<D>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    context: usize,
    ending: &Ending,
    done: &mut dyn FnMut(usize, String) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let room = context.saturating_sub(1).max(1);
    let prompts: Vec<&[u32]> = prompts.iter().map(|p| &p[p.len().saturating_sub(room)..]).collect();
    let Some(longest) = prompts.iter().map(|p| p.len()).max() else { return Ok(()) };
    let count = SEQUENCES.min(prompts.len());
    let capacity = (longest + ending.max_tokens).min(context).max(longest);
    let mut sequences = Sequences::new(network, count, capacity, PASS_TOKENS)?;
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
        if let Some(value) = logits.iter().copied().find(|logit| logit.is_nan()) {
            return Err(EvalError::NotFinite { value });
        }
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
            let prompt = lane.prompt;
            if ends || stopped || lane.answer.len() >= ending.max_tokens.min(capacity - prompts[prompt].len()) {
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

    use std::sync::Arc;

    use casallm_compute::{CpuDevice, DType, Isa};
    use casallm_data::tokenizer::TrainOptions;
    use casallm_model::config::ModelConfig;
    use casallm_model::decoder::Decoder;
    use casallm_model::parameters::Parameters;

    #[test]
    fn a_prompt_is_read_whole_and_an_answer_takes_the_room_that_is_left() {
        const CONTEXT: usize = 64;
        let options = TrainOptions { vocab_size: 280, ..TrainOptions::default() };
        let text = "the cat and the dog and the bird were there ".repeat(20);
        let tokenizer = Tokenizer::train([Ok(text)].into_iter(), &options, &mut |_| {}).unwrap();
        let vocab_size = tokenizer.vocab_size();
        let config = ModelConfig::modern(2, 32, 4, 2, vocab_size, CONTEXT).unwrap();
        let device = Arc::new(CpuDevice::new(2, Isa::detect().unwrap()).unwrap());
        let parameters = Parameters::random(device, &config, DType::F32.into(), 3).unwrap();
        let network = Network::new(config, DType::F32, parameters).unwrap();
        let prompt = |i: usize, len: usize| (0..len).map(|at| (10 + i + 7 * at) as u32 % vocab_size as u32).collect();
        let prompts: Vec<Vec<u32>> =
            [3, 40, 62, 63, 64, 90].iter().enumerate().map(|(i, len)| prompt(i, *len)).collect();
        // What is longer keeps its end.
        let alone = |prompt: &[u32]| {
            let prompt = &prompt[prompt.len().saturating_sub(CONTEXT - 1)..];
            let mut decoder = Decoder::new(&network, CONTEXT).unwrap();
            let mut answer = vec![first_largest(decoder.extend(prompt).unwrap())];
            while answer.len() < 30.min(CONTEXT - prompt.len()) {
                answer.push(first_largest(decoder.extend(&answer[answer.len() - 1..]).unwrap()));
            }
            tokenizer.decode(&answer)
        };
        let mut found = vec![String::new(); prompts.len()];
        let ending = Ending { max_tokens: 30, ..Ending::default() };
        let mut done = |i: usize, answer: String| {
            found[i] = answer;
            Ok(())
        };
        generate(&network, &tokenizer, &prompts, CONTEXT, &ending, &mut done).unwrap();
        assert_eq!(found, prompts.iter().map(|prompt| alone(prompt)).collect::<Vec<_>>());
    }

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
