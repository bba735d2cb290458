//! Columns as bytes: a million rows are typed arrays to the page, not text to be parsed.

use serde::Serialize;

use crate::runs::{DENSE, Run, StageColumns};

/// Rows of one response; the rest is asked for after them.
const MOST_ROWS: usize = 1 << 20;
const MAGIC: &[u8; 4] = b"CRC1";

/// What the bytes are.
#[derive(Debug, Serialize)]
struct Head<'a> {
    epoch: u64,
    /// `null` as long as the run has no row.
    stage: Option<&'a str>,
    stages: Vec<Stage<'a>>,
    /// The first row of these, from 0.
    from: usize,
    /// Rows of these.
    rows: usize,
    /// Rows held in all.
    total: usize,
    /// Every so many-th row of the file is held.
    stride: u64,
    /// Rows of the file.
    seen: u64,
    planned: Option<u64>,
    events: u64,
    damaged: u64,
    first_damaged: Option<u64>,
    dense: Vec<&'static str>,
    sparse: Vec<(&'a str, usize)>,
}

#[derive(Debug, Serialize)]
struct Stage<'a> {
    name: &'a str,
    rows: usize,
    planned: Option<u64>,
}

/// Rows of a stage from `from` on.
pub(super) fn encode(run: &Run, stage: Option<&str>, from: u64) -> Vec<u8> {
    let stages = run.stages().iter().filter(|stage| stage.rows() > 0);
    // An unknown stage is none: the run may have been begun anew.
    let columns = match stage {
        Some(name) => stages.clone().find(|stage| stage.name == name),
        None => stages.clone().next_back(),
    };
    let empty = StageColumns::default();
    let found = columns.unwrap_or(&empty);
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(found.rows());
    let end = (from + MOST_ROWS).min(found.rows());
    let dense: Vec<_> = (0..DENSE.len()).filter(|at| !found.dense[*at].is_empty()).collect();
    // Behind the last row that is known, up to the last of these; the last response has all that is left.
    let known = from.checked_sub(1).map_or(f64::NEG_INFINITY, |at| found.step[at]);
    let until = if end == found.rows() { f64::INFINITY } else { found.step[end - 1] };
    let sparse: Vec<_> = found
        .sparse
        .iter()
        .map(|(name, column)| {
            let first = column.step.partition_point(|step| *step <= known);
            let last = column.step.partition_point(|step| *step <= until);
            (name.as_str(), column, first..last.max(first))
        })
        .filter(|(_, _, range)| !range.is_empty())
        .collect();
    let (damaged, first_damaged) = run.damaged();
    let head = Head {
        epoch: run.epoch(),
        stage: columns.map(|stage| stage.name.as_str()),
        stages: stages.map(|stage| Stage { name: &stage.name, rows: stage.rows(), planned: stage.planned }).collect(),
        from,
        rows: end - from,
        total: found.rows(),
        stride: found.stride,
        seen: found.seen,
        planned: found.planned,
        events: run.event_count(),
        damaged,
        first_damaged,
        dense: dense.iter().map(|at| DENSE[*at]).collect(),
        sparse: sparse.iter().map(|(name, _, range)| (*name, range.len())).collect(),
    };
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let size = 64 + head.len() + (end - from) * (24 + 4 * dense.len());
    let mut bytes = Vec::with_capacity(size + sparse.iter().map(|(_, _, range)| 32 * range.len()).sum::<usize>());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&head);
    pad(&mut bytes);
    for column in [&found.step, &found.tokens, &found.seconds] {
        push(&mut bytes, &column[from..end], f64::to_le_bytes);
    }
    for at in dense {
        push(&mut bytes, &found.dense[at][from..end], f32::to_le_bytes);
    }
    pad(&mut bytes);
    for (_, column, range) in sparse {
        for values in [&column.step, &column.tokens, &column.seconds, &column.values] {
            push(&mut bytes, &values[range.clone()], f64::to_le_bytes);
        }
    }
    bytes
}

/// Typed arrays begin at multiples of their elements' size.
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
}

fn push<T: Copy, const N: usize>(bytes: &mut Vec<u8>, values: &[T], of: impl Fn(T) -> [u8; N]) {
    let from = bytes.len();
    bytes.resize(from + N * values.len(), 0);
    for (place, value) in bytes[from..].chunks_exact_mut(N).zip(values) {
        place.copy_from_slice(&of(*value));
    }
}
