//! The host side of attention: which kernel takes which rows of which span, and how it is started.
//!
//! Two ways to compute it: on tensor cores (bf16, heads of 64 and 128: training and prefill), and row by row (any storage
//! type and head width, and decoding). A plan is made from the spans alone, on the host; its table is uploaded once for
//! all layers. Which rows go together, and into how many ranges a long cache is cut, are functions of the shape and the
//! spans, never of the GPU: results repeat to the bit, also on another of its architecture.

mod plan;
#[cfg(test)]
mod tests;

pub use plan::{BackwardPlan, ForwardPlan, WIDEST_HEAD, most_part_bytes, most_table_len};

use super::driver::{Address, Argument, Driver, Kernel, Launch};
use super::kernels::Family;
use crate::dtype::DType;
pub(super) use plan::is_tiled;
use plan::{Section, TILED_HEADS};

/// Operands of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// `S [rows, n_head * head_dim]`.
    pub q: Address,
    /// `S [slots, n_kv_head * head_dim]`.
    pub k: Address,
    /// `S [slots, n_kv_head * head_dim]`.
    pub v: Address,
    /// `S [rows, n_head * head_dim]`, overwritten in the rows of spans.
    pub out: Address,
    /// f32 `[rows, n_head]`, overwritten in the rows of spans.
    pub lse: Option<Address>,
}

/// Operands of the backward pass; shapes as in [`Forward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backward {
    /// Queries.
    pub q: Address,
    /// Keys.
    pub k: Address,
    /// Values.
    pub v: Address,
    /// What the forward pass returned.
    pub out: Address,
    /// What the forward pass returned.
    pub lse: Address,
    /// Gradient of `out`.
    pub d_out: Address,
    /// Overwritten in the rows of spans.
    pub dq: Address,
    /// Overwritten in the rows of spans.
    pub dk: Address,
    /// Overwritten in the rows of spans.
    pub dv: Address,
}

/// `HEAD_DIM` for the tiled kernels.
fn head_defines(head_dim: usize) -> &'static [(&'static str, u32)] {
    match head_dim {
        64 => &[("HEAD_DIM", 64)],
        128 => &[("HEAD_DIM", 128)],
        other => panic!("heads of {other} are not among {TILED_HEADS:?}"),
    }
}

/// `BLOCK_ROWS` for the row kernels.
fn row_defines(rows: usize) -> &'static [(&'static str, u32)] {
    match rows {
        1 => &[("BLOCK_ROWS", 1)],
        2 => &[("BLOCK_ROWS", 2)],
        4 => &[("BLOCK_ROWS", 4)],
        _ => &[("BLOCK_ROWS", 8)],
    }
}

/// A kernel's part of the work.
struct Work<'a> {
    driver: &'a dyn Driver,
    table: Address,
}

impl Work<'_> {
    /// One block for each item and head; `arguments` is given the items' address.
    fn start<const N: usize>(
        &self,
        kernel: Kernel,
        section: Section,
        heads: usize,
        threads: u32,
        shared_bytes: usize,
        arguments: impl FnOnce(Argument) -> [Argument; N],
    ) {
        if section.items == 0 {
            return;
        }
        let blocks = u32::try_from(section.items * heads).expect("more blocks of attention than a grid has");
        let launch = Launch::linear(blocks, threads).with_shared(shared_bytes as u32);
        self.driver.launch(kernel, launch, &arguments(self.table.offset(section.offset * 4).into()));
    }
}

fn count(n: usize) -> Argument {
    Argument::U32(n as u32)
}

/// Attention of every span of the plan. `table` holds [`ForwardPlan::table`]; `parts` is scratch of at least
/// [`ForwardPlan::part_bytes`] bytes.
pub fn forward(driver: &dyn Driver, plan: &ForwardPlan, table: Address, parts: Address, operands: &Forward) {
    let shape = plan.shape;
    let (d, n_head, n_kv_head) = (shape.head_dim, shape.n_head, shape.n_kv_head);
    let scale = std::f32::consts::LOG2_E / (d as f32).sqrt();
    let Forward { q, k, v, out, lse } = *operands;
    let lse = lse.unwrap_or(Address::NULL);
    let work = Work { driver, table };
    if plan.tiles.items > 0 {
        let kernel = Kernel {
            family: Family::AttentionForward,
            storage: None,
            defines: head_defines(d),
            entry: "attention_forward",
        };
        // Queries, and keys and values, of heads of 64 on Hopper in two stages.
        let shared = 48 << 10;
        work.start(kernel, plan.tiles, n_head, 128, shared, |items| {
            let [q, k, v, out, lse] = [q, k, v, out, lse].map(Argument::from);
            [q, k, v, out, lse, items, count(n_head), count(n_kv_head), scale.into()]
        });
    }
    let kernel = |entry| Kernel {
        family: Family::AttentionRows,
        storage: Some(plan.dtype),
        defines: row_defines(plan.block_rows),
        entry,
    };
    let rows = plan.block_rows;
    // A staging of 32 x 65 and weights of 32 x rows a warp, or later its part of each row.
    let shared = 4 * (d * rows + 4 * (32 * (65 + rows)).max(rows * (d + 2)));
    work.start(kernel("attention_rows"), plan.rows, n_kv_head, 128, shared, |items| {
        let [q, k, v, out, lse, parts] = [q, k, v, out, lse, parts].map(Argument::from);
        [q, k, v, out, lse, parts, items, count(n_head), count(n_kv_head), count(d), scale.into()]
    });
    work.start(kernel("attention_combine"), plan.combine, n_kv_head, 128, 0, |items| {
        [out.into(), lse.into(), parts.into(), items, count(n_head), count(n_kv_head), count(d)]
    });
}

/// Gradients of attention. `table` holds [`BackwardPlan::table`]; `delta` is scratch, f32 `[rows, n_head]`.
pub fn backward(driver: &dyn Driver, plan: &BackwardPlan, table: Address, delta: Address, operands: &Backward) {
    let shape = plan.shape;
    let (d, n_head, n_kv_head) = (shape.head_dim, shape.n_head, shape.n_kv_head);
    let scale = 1.0 / (d as f32).sqrt();
    let score_scale = std::f32::consts::LOG2_E * scale;
    let Backward { q, k, v, out, lse, d_out, dq, dk, dv } = *operands;
    let work = Work { driver, table };
    let rows = |entry| Kernel { family: Family::AttentionRowsBackward, storage: Some(plan.dtype), defines: &[], entry };
    let [q, k, v, lse, delta, d_out] = [q, k, v, lse, delta, d_out].map(Argument::from);
    let scales = [score_scale.into(), scale.into()];
    work.start(rows("attention_delta"), plan.rows, n_head, 128, 0, |items| {
        [out.into(), d_out, delta, items, count(n_head), count(d)]
    });
    if plan.tiled {
        let tiles =
            |entry| Kernel { family: Family::AttentionBackward, storage: None, defines: head_defines(d), entry };
        let (queries, keys) = (plan::backward_queries(d), plan::BACKWARD_KEYS);
        let staged = 2 * plan::backward_tile(d) * plan::backward_stages(d);
        // Keys and values, stages of queries and gradients, their statistics.
        let shared = (2 * keys + staged) * d * 2 + staged * 4;
        work.start(tiles("attention_backward_keys"), plan.keys, n_kv_head, 2 * keys as u32, shared, |items| {
            let [head, kv_head, score_scale, scale] = [count(n_head), count(n_kv_head), scales[0], scales[1]];
            [q, k, v, lse, delta, d_out, dk.into(), dv.into(), items, head, kv_head, score_scale, scale]
        });
        // Stages of keys and values.
        let (threads, shared) = (2 * queries as u32, staged * d * 2);
        work.start(tiles("attention_backward_queries"), plan.queries, n_head, threads, shared, |items| {
            let [head, kv_head, score_scale, scale] = [count(n_head), count(n_kv_head), scales[0], scales[1]];
            [q, k, v, lse, delta, d_out, dq.into(), items, head, kv_head, score_scale, scale]
        });
        return;
    }
    // Two rows, a staging and two times 32 weights a warp.
    let shared = 4 * 4 * (2 * d + 32 * 65 + 64);
    let heads = [count(n_head), count(n_kv_head), count(d)];
    work.start(rows("attention_rows_backward_keys"), plan.keys, n_kv_head, 128, shared, |items| {
        let [n_head, n_kv_head, d] = heads;
        [q, k, v, lse, delta, d_out, dk.into(), dv.into(), items, n_head, n_kv_head, d, scales[0], scales[1]]
    });
    work.start(rows("attention_rows_backward_queries"), plan.rows, n_head, 128, shared, |items| {
        let [n_head, n_kv_head, d] = heads;
        [q, k, v, lse, delta, d_out, dq.into(), items, n_head, n_kv_head, d, scales[0], scales[1]]
    });
}

/// Bytes of `delta`, the scratch of [`backward`].
pub fn delta_bytes(rows: usize, n_head: usize) -> usize {
    rows * n_head * DType::F32.size()
}
