//! Many texts scored in few passes: what texts of a group have in common is read once.
//!
//! Each group (an item's answers) has a sequence of the KV cache to itself. Its texts are read there one after the other, each
//! from where it departs from the one before; a pass takes a piece of as many groups as it has room for. What groups have in
//! common beyond that (the examples of an MMLU subject) is read once, kept, and copied into a sequence.
//!
//! Where a text is cut into pieces depends on its group alone. On a processor a score has the same bits in whatever company it is
//! computed, and so after an interruption.

use std::collections::VecDeque;
use std::sync::Arc;

use casallm_compute::Device;
use casallm_model::error::ModelError;
use casallm_model::network::{KvCache, Network};
use casallm_model::scoring::Wanted;
use casallm_model::sequences::{Piece, Sequences};

use crate::encoding::Request;
use crate::error::EvalError;

/// Tokens of a pass, and of a piece: the matrix kernels are at their best, and a long text leaves room for others.
const PASS_TOKENS: usize = 1024;
const PIECE_TOKENS: usize = 512;
/// Sequences beside one another at most; more would not fill a pass better.
const MAX_SEQUENCES: usize = 48;
/// Bytes that their keys and values may take. One sequence is there in any case.
const CACHE_BYTES: u64 = 1 << 30;
/// Shorter beginnings are read again: copying them costs as much.
const MIN_SHARED: usize = 16;

/// Texts that belong together, in an order in which neighbours begin alike.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Tokens that other groups begin with too; those that all texts of this group begin with are taken from it.
    pub shared: Option<Arc<[u32]>>,
    /// What is scored.
    pub requests: Vec<Request>,
    /// Whether it is asked if every scored token leads.
    pub leads: bool,
}

/// What was found of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Sum of the log-probabilities of the scored tokens, in nats.
    pub logprob: f64,
    /// Whether each of them leads; false where that was not asked.
    pub leads: bool,
    /// How many they are.
    pub tokens: usize,
}

/// A target, and the text that it counts for.
#[derive(Clone, Copy)]
struct Target {
    position: usize,
    target: u32,
    request: usize,
}

/// A run of a text's tokens that is read in one pass.
struct Step {
    request: usize,
    from: usize,
    to: usize,
    targets: Vec<Target>,
}

/// What is to be read for a group, in pieces of at most so many tokens.
fn steps(group: &Group, held: usize, piece_tokens: usize) -> VecDeque<Step> {
    let mut steps: VecDeque<Step> = VecDeque::new();
    // The step that reads each position of the text at hand.
    let mut reads: Vec<usize> = Vec::new();
    for (i, request) in group.requests.iter().enumerate() {
        let inputs = &request.tokens[..request.tokens.len() - 1];
        let departs = match i.checked_sub(1).map(|before| &group.requests[before].tokens) {
            Some(before) => common(&before[..before.len() - 1], inputs),
            None => held,
        };
        reads.truncate(departs);
        reads.resize(departs, usize::MAX);
        let mut from = departs;
        while from < inputs.len() {
            let to = inputs.len().min(from + piece_tokens);
            reads.resize(to, steps.len());
            steps.push_back(Step { request: i, from, to, targets: Vec::new() });
            from = to;
        }
        for position in request.scored_from - 1..inputs.len() {
            let target = Target { position, target: request.tokens[position + 1], request: i };
            steps[reads[position]].targets.push(target);
        }
    }
    steps
}

/// Tokens that two texts begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A group at work.
struct Lane {
    group: usize,
    steps: VecDeque<Step>,
    scores: Vec<Score>,
}

/// Keys and values of a beginning.
struct Kept {
    tokens: Arc<[u32]>,
    bytes: Vec<u8>,
}

/// Scores every group; `done` gets the number of a group and the scores of its texts, as groups end, in no order.
///
/// # Errors
/// A text longer than the model's context and one, a model that computes what is no number, memory that cannot be had, a device
/// that fails, and whatever `done` returns.
pub fn score<D: Device>(
    network: &Network<D>,
    groups: &[Group],
    done: &mut dyn FnMut(usize, Vec<Score>) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    score_in(network, groups, (PASS_TOKENS, MAX_SEQUENCES), done)
}

/// The same in passes of so many tokens and with at most so many sequences.
fn score_in<D: Device>(
    network: &Network<D>,
    groups: &[Group],
    (pass_tokens, most): (usize, usize),
    done: &mut dyn FnMut(usize, Vec<Score>) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let inputs = |request: &Request| request.tokens.len() - 1;
    let Some(longest) = groups.iter().flat_map(|g| &g.requests).map(inputs).max() else { return Ok(()) };
    let context = network.config().context;
    if longest > context {
        return Err(ModelError::ContextOverflow { tokens: longest, context }.into());
    }
    let shared = groups.iter().filter_map(|g| g.shared.as_ref()).map(|s| s.len().min(context)).max();
    let capacity = longest.max(shared.unwrap_or(0));
    let mut sequences = Sequences::new(network, count(network, capacity, groups.len(), most), capacity, pass_tokens)?;
    let mut lanes: Vec<Option<Lane>> = (0..sequences.count()).map(|_| None).collect();
    let (mut next, mut kept) = (0, None);
    let mut first = 0;
    loop {
        for (sequence, lane) in lanes.iter_mut().enumerate() {
            while lane.is_none() && next < groups.len() {
                let group = &groups[next];
                let held = begin(&mut sequences, sequence, group, &mut kept)?;
                let scores = vec![Score { logprob: 0.0, leads: group.leads, tokens: 0 }; group.requests.len()];
                let steps = steps(group, held, PIECE_TOKENS.min(pass_tokens));
                if steps.is_empty() {
                    done(next, scores)?;
                } else {
                    *lane = Some(Lane { group: next, steps, scores });
                }
                next += 1;
            }
        }
        // Begins where the last pass ended, so that nobody waits for ever.
        let (mut chosen, mut tokens) = (Vec::new(), 0);
        let mut skipped = None;
        for sequence in (first..lanes.len()).chain(0..first) {
            let Some(step) = lanes[sequence].as_ref().and_then(|lane| lane.steps.front()) else { continue };
            if tokens + (step.to - step.from) <= pass_tokens {
                tokens += step.to - step.from;
                chosen.push(sequence);
            } else {
                skipped = skipped.or(Some(sequence));
            }
        }
        first = skipped.unwrap_or(0);
        if chosen.is_empty() {
            return Ok(());
        }
        pass(&mut sequences, groups, &mut lanes, &chosen)?;
        for sequence in chosen {
            let lane = &mut lanes[sequence];
            if lane.as_ref().is_some_and(|lane| lane.steps.is_empty())
                && let Some(Lane { group, scores, .. }) = lane.take()
            {
                done(group, scores)?;
            }
        }
    }
}

/// How many sequences of a length there is memory for.
fn count<D: Device>(network: &Network<D>, capacity: usize, wanted: usize, most: usize) -> usize {
    let one = KvCache::<D::Buffer>::bytes(network.config(), network.dtype().into(), capacity).max(1);
    let room = network.device().available_bytes().map_or(CACHE_BYTES, |bytes| (bytes / 4).min(CACHE_BYTES));
    ((room / one) as usize).clamp(1, most.min(wanted))
}

/// One pass over the first steps of the chosen lanes.
fn pass<D: Device>(
    sequences: &mut Sequences<&Network<D>, D>,
    groups: &[Group],
    lanes: &mut [Option<Lane>],
    chosen: &[usize],
) -> Result<(), EvalError> {
    let (mut pieces, mut wanted, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = 0;
    for &sequence in chosen {
        let Some(lane) = &mut lanes[sequence] else { continue };
        let Some(step) = lane.steps.pop_front() else { continue };
        let group = &groups[lane.group];
        let ids = &group.requests[step.request].tokens[step.from..step.to];
        pieces.push(Piece { sequence, at: step.from, ids, logits: false });
        for target in step.targets {
            wanted.push(Wanted { row: row + target.position - step.from, target: target.target, leads: group.leads });
            owners.push((sequence, target.request));
        }
        row += ids.len();
    }
    let scored = sequences.score(&pieces, &wanted)?;
    if let Some(wrong) = scored.iter().find(|scored| !scored.logprob.is_finite()) {
        return Err(EvalError::NotFinite { value: wrong.logprob });
    }
    for ((sequence, request), scored) in owners.into_iter().zip(scored) {
        if let Some(lane) = &mut lanes[sequence] {
            let score = &mut lane.scores[request];
            score.logprob += f64::from(scored.logprob);
            score.leads &= scored.leads;
            score.tokens += 1;
        }
    }
    Ok(())
}

/// Puts what a group shares with others into its sequence; how many of its tokens are held then.
fn begin<D: Device>(
    sequences: &mut Sequences<&Network<D>, D>,
    sequence: usize,
    group: &Group,
    kept: &mut Option<Kept>,
) -> Result<usize, EvalError> {
    let Some(shared) = &group.shared else { return Ok(0) };
    // Nothing that counts is predicted from what is only copied.
    let of =
        |request: &Request| common(shared, &request.tokens[..request.tokens.len() - 1]).min(request.scored_from - 1);
    let held = group.requests.iter().map(of).min().unwrap_or(0).min(sequences.capacity());
    if held < MIN_SHARED {
        return Ok(0);
    }
    if kept.as_ref().is_none_or(|kept| kept.tokens != *shared) {
        let len = shared.len().min(sequences.capacity());
        let chunk = PIECE_TOKENS.min(sequences.pass_tokens());
        for (i, ids) in shared[..len].chunks(chunk).enumerate() {
            sequences.forward(&[Piece { sequence, at: i * chunk, ids, logits: false }])?;
        }
        *kept = Some(Kept { tokens: shared.clone(), bytes: sequences.save(sequence, 0..len) });
    }
    if let Some(kept) = kept {
        sequences.restore(sequence, 0, held, &kept.bytes);
    }
    Ok(held)
}

#[cfg(test)]
mod tests;
