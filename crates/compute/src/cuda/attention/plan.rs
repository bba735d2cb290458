//! Plans: spans cut into the items that blocks take.

use crate::device::{AttentionShape, Span};
use crate::dtype::DType;

/// Head widths that the tensor core kernels are written for.
pub(super) const TILED_HEADS: [usize; 2] = [64, 128];
/// Widest head that the row kernels hold in registers.
pub const WIDEST_HEAD: usize = 256;
/// Up to this many queries of a span are taken row by row even where there are tensor cores: a tile would be mostly empty.
const DECODE_QUERIES: usize = 8;
/// Most rows of a block of `attention_rows.cu`.
const MOST_BLOCK_ROWS: usize = 8;
/// Keys that are worth a block of their own while there are few blocks.
const RANGE_KEYS: usize = 128;
/// Blocks that fill any GPU: up to here a cache is cut into ranges. Bounds the scratch for parts.
const ENOUGH_BLOCKS: usize = 1024;
/// Rows of an item of the row-wise backward kernels.
const BACKWARD_ROWS: usize = 64;
/// u32 of an item.
const ITEM: usize = 8;
/// Item's mark that the block finishes its rows.
const NO_PART: u32 = u32::MAX;

/// Queries of a tile in `attention_forward.cu`.
pub(super) fn forward_tile(head_dim: usize) -> usize {
    if head_dim == 64 { 128 } else { 64 }
}

/// Keys of a block of `attention_backward_keys`.
pub(super) const BACKWARD_KEYS: usize = 128;

/// Queries of a block of `attention_backward_queries`.
pub(super) fn backward_queries(head_dim: usize) -> usize {
    if head_dim == 64 { 128 } else { 64 }
}

/// Tiles that the backward kernels have room for. Heads of 64 on Hopper want more than one at work and one on its way:
/// products of the last may still be going on, and the next has begun.
pub(super) fn backward_stages(head_dim: usize) -> usize {
    if head_dim == 64 { 4 } else { 2 }
}

/// Rows of a tile that the backward kernels walk over.
pub(super) fn backward_tile(head_dim: usize) -> usize {
    if head_dim == 64 { 64 } else { 32 }
}

/// Items of one kernel in a plan's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// u32 from the table's start.
    pub(super) offset: usize,
    /// How many.
    pub(super) items: usize,
}

/// Puts items at the end of a table.
fn append(table: &mut Vec<u32>, items: Vec<[u32; ITEM]>) -> Section {
    let section = Section { offset: table.len(), items: items.len() };
    table.extend(items.into_flattened());
    section
}

/// Whether tensor cores can be used.
pub(in crate::cuda) fn is_tiled(dtype: DType, head_dim: usize) -> bool {
    dtype == DType::Bf16 && TILED_HEADS.contains(&head_dim)
}

fn check(shape: AttentionShape) {
    let AttentionShape { n_head, n_kv_head, head_dim } = shape;
    assert!(n_kv_head > 0 && n_head.is_multiple_of(n_kv_head), "{n_head} heads do not share {n_kv_head} key heads");
    assert!(
        (2..=WIDEST_HEAD).contains(&head_dim) && head_dim.is_multiple_of(2),
        "heads of {head_dim}, not of 2, 4, ... 256"
    );
}

/// The first four numbers of every item.
fn head(span: &Span) -> [u32; 4] {
    [span.q_start, span.q_len, span.kv_start, span.kv_len].map(|n| u32::try_from(n).expect("a span beyond 2^32 rows"))
}

/// Tiles of `rows` of `len` rows each span has, as items in the order of decreasing work: the long ones must not be
/// the last to start.
fn tiles(spans: &[Span], rows: usize, len: fn(&Span) -> usize, work: fn(&Span, usize) -> usize) -> Vec<[u32; ITEM]> {
    let mut items: Vec<(usize, [u32; ITEM])> = Vec::new();
    for span in spans {
        let [q_start, q_len, kv_start, kv_len] = head(span);
        for tile in 0..len(span).div_ceil(rows) {
            let item = [q_start, q_len, kv_start, kv_len, tile as u32, 0, 0, 0];
            items.push((work(span, tile * rows), item));
        }
    }
    items.sort_by_key(|(work, _)| std::cmp::Reverse(*work));
    items.into_iter().map(|(_, item)| item).collect()
}

/// Keys that the query at `row` of a span sees.
fn keys_seen(span: &Span, row: usize) -> usize {
    span.kv_len - span.q_len + row
}

/// Queries that see the key at `row` of a span.
fn queries_seeing(span: &Span, row: usize) -> usize {
    span.kv_len - row
}

/// The forward pass over some spans.
#[derive(Clone, Debug)]
pub struct ForwardPlan {
    pub(super) shape: AttentionShape,
    pub(super) dtype: DType,
    /// Items of `attention_forward`.
    pub(super) tiles: Section,
    /// Items of `attention_rows`.
    pub(super) rows: Section,
    /// Items of `attention_combine`.
    pub(super) combine: Section,
    /// Rows of a block of `attention_rows`.
    pub(super) block_rows: usize,
    parts: usize,
    table: Vec<u32>,
}

impl ForwardPlan {
    /// Plans for activations of `dtype`. Spans without queries are skipped.
    ///
    /// # Panics
    /// Heads are odd or wider than 256, or `n_kv_head` does not divide `n_head`, or a span has more queries than keys.
    pub fn new(shape: AttentionShape, dtype: DType, spans: &[Span]) -> ForwardPlan {
        check(shape);
        assert!(spans.iter().all(|span| span.q_len <= span.kv_len), "a span has more queries than keys");
        let tiled = |span: &Span| is_tiled(dtype, shape.head_dim) && span.q_len > DECODE_QUERIES;
        let (by_tile, by_row): (Vec<Span>, Vec<Span>) =
            spans.iter().copied().filter(|span| span.q_len > 0).partition(tiled);
        let mut table = Vec::new();
        let by_tile = tiles(&by_tile, forward_tile(shape.head_dim), |span| span.q_len, keys_seen);
        let tiles = append(&mut table, by_tile);

        let group = shape.n_head / shape.n_kv_head;
        let most_rows = by_row.iter().map(|span| span.q_len * group).max().unwrap_or(1);
        let block_rows = most_rows.next_power_of_two().min(MOST_BLOCK_ROWS);
        let row_blocks = |span: &Span| (span.q_len * group).div_ceil(block_rows);
        let blocks = by_row.iter().map(row_blocks).sum::<usize>() * shape.n_kv_head;
        let most_ranges = (ENOUGH_BLOCKS / blocks.max(1)).max(1);
        let (mut rows, mut combine, mut parts) = (Vec::new(), Vec::new(), 0);
        for span in &by_row {
            let [q_start, q_len, kv_start, kv_len] = head(span);
            let ranges = span.kv_len.div_ceil(RANGE_KEYS).min(most_ranges);
            let keys = span.kv_len.div_ceil(ranges);
            for block in 0..row_blocks(span) {
                let first = (block * block_rows) as u32;
                if ranges > 1 {
                    combine.push([q_start, q_len, first, parts as u32, ranges as u32, 0, 0, 0]);
                }
                for range in 0..ranges {
                    let (begin, end) = (range * keys, ((range + 1) * keys).min(span.kv_len));
                    let part = if ranges > 1 { parts as u32 } else { NO_PART };
                    rows.push([q_start, q_len, kv_start, kv_len, first, begin as u32, end as u32, part]);
                    parts += usize::from(ranges > 1);
                }
            }
        }
        let rows = append(&mut table, rows);
        let combine = append(&mut table, combine);
        ForwardPlan { shape, dtype, tiles, rows, combine, block_rows, parts, table }
    }

    /// What the kernels read; to be uploaded.
    pub fn table(&self) -> &[u32] {
        &self.table
    }

    /// Bytes of scratch for parts of rows.
    pub fn part_bytes(&self) -> usize {
        self.parts * self.shape.n_kv_head * self.block_rows * (self.shape.head_dim + 2) * 4
    }
}

/// The backward pass over some spans.
#[derive(Clone, Debug)]
pub struct BackwardPlan {
    pub(super) shape: AttentionShape,
    pub(super) dtype: DType,
    /// Whether on tensor cores.
    pub(super) tiled: bool,
    /// Items of the row-wise kernels that own queries.
    pub(super) rows: Section,
    /// Items of the kernel that owns queries.
    pub(super) queries: Section,
    /// Items of the kernel that owns keys.
    pub(super) keys: Section,
    table: Vec<u32>,
}

impl BackwardPlan {
    /// Plans for activations of `dtype`.
    ///
    /// # Panics
    /// As [`ForwardPlan::new`], and where a span has not as many queries as keys.
    pub fn new(shape: AttentionShape, dtype: DType, spans: &[Span]) -> BackwardPlan {
        check(shape);
        assert!(spans.iter().all(|span| span.q_len == span.kv_len), "backward over a span with a cache");
        let tiled = is_tiled(dtype, shape.head_dim);
        let (query_rows, key_rows) =
            if tiled { (backward_queries(shape.head_dim), BACKWARD_KEYS) } else { (BACKWARD_ROWS, BACKWARD_ROWS) };
        let mut table = Vec::new();
        let rows = append(&mut table, tiles(spans, BACKWARD_ROWS, |span| span.q_len, keys_seen));
        let queries = if query_rows == BACKWARD_ROWS {
            rows
        } else {
            append(&mut table, tiles(spans, query_rows, |span| span.q_len, keys_seen))
        };
        let keys = append(&mut table, tiles(spans, key_rows, |span| span.kv_len, queries_seeing));
        BackwardPlan { shape, dtype, tiled, rows, queries, keys, table }
    }

    /// What the kernels read; to be uploaded.
    pub fn table(&self) -> &[u32] {
        &self.table
    }
}

/// Most u32 of any plan's table for that many query rows and heads.
pub fn most_table_len(rows: usize, n_head: usize) -> usize {
    // Forward, a row is in one tile or, with its group, in up to n_head blocks of rows, each cut into ranges while all
    // are few, and merged. Backward, it begins at most one tile of rows, one of queries and one of keys.
    let forward = rows * n_head * 2 + ENOUGH_BLOCKS;
    ITEM * forward.max(3 * rows)
}

/// Most bytes of any forward plan's scratch for parts.
pub fn most_part_bytes(head_dim: usize) -> usize {
    ENOUGH_BLOCKS * MOST_BLOCK_ROWS * (head_dim + 2) * 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(n_head: usize, n_kv_head: usize, head_dim: usize) -> AttentionShape {
        AttentionShape { n_head, n_kv_head, head_dim }
    }

    fn spans(pairs: &[(usize, usize)]) -> Vec<Span> {
        let (mut q_start, mut kv_start) = (5, 7);
        let mut spans = Vec::new();
        for (q_len, kv_len) in pairs.iter().copied() {
            spans.push(Span { q_start, q_len, kv_start, kv_len });
            q_start += q_len + 1;
            kv_start += kv_len;
        }
        spans
    }

    /// Every row of every span and head has one block, every key of it one range.
    #[test]
    fn ranges_of_a_cache_cover_it_once() {
        for (n_head, n_kv_head) in [(1, 1), (6, 2), (16, 16), (32, 4)] {
            for pairs in [&[(1, 1)][..], &[(1, 5000), (3, 255), (8, 100_000), (1, 256)], &[(2, 700); 300]] {
                let plan = ForwardPlan::new(shape(n_head, n_kv_head, 128), DType::Bf16, &spans(pairs));
                assert_eq!(plan.tiles.items, 0);
                let items = |section: Section| -> &[[u32; ITEM]] {
                    plan.table()[section.offset..][..section.items * ITEM].as_chunks().0
                };
                let group = (n_head / n_kv_head) as u32;
                for span in spans(pairs) {
                    let [q_start, q_len, _, kv_len] = head(&span);
                    for first in (0..q_len * group).step_by(plan.block_rows) {
                        let mut at = 0;
                        let mine = |item: &&[u32; ITEM]| item[0] == q_start && item[4] == first;
                        let ranges: Vec<_> = items(plan.rows).iter().filter(mine).collect();
                        for item in &ranges {
                            assert!(item[5] == at && item[6] > at, "{item:?} after {at}");
                            at = item[6];
                        }
                        assert_eq!(at, kv_len);
                        let mine = |item: &&[u32; ITEM]| item[0] == q_start && item[2] == first;
                        let merges: Vec<_> = items(plan.combine).iter().filter(mine).collect();
                        if ranges.len() == 1 {
                            assert!(ranges[0][7] == NO_PART && merges.is_empty());
                        } else {
                            assert_eq!((merges.len(), merges[0][4] as usize), (1, ranges.len()));
                            let parts: Vec<u32> = ranges.iter().map(|item| item[7]).collect();
                            assert_eq!(parts, (merges[0][3]..).take(ranges.len()).collect::<Vec<_>>());
                        }
                    }
                }
                assert!(plan.part_bytes() <= most_part_bytes(128), "{n_head} {n_kv_head} {pairs:?}");
                let rows = pairs.iter().map(|(q, _)| q).sum();
                assert!(plan.table().len() <= most_table_len(rows, n_head), "{n_head} {n_kv_head} {pairs:?}");
            }
        }
    }

    #[test]
    fn few_queries_and_odd_heads_go_by_rows() {
        let spans = spans(&[(1, 40), (64, 64), (9, 9), (0, 3)]);
        let items = |dtype, head_dim| {
            let plan = ForwardPlan::new(shape(2, 1, head_dim), dtype, &spans);
            (plan.tiles.items, plan.rows.items)
        };
        assert_eq!(items(DType::Bf16, 64), (2, 1));
        assert_eq!(items(DType::Bf16, 128), (2, 1));
        assert_eq!(items(DType::F32, 64), (0, 1 + 16 + 3));
        assert_eq!(items(DType::Bf16, 18), (0, 1 + 16 + 3));
    }

    #[test]
    fn the_longest_tiles_come_first() {
        let spans = spans(&[(200, 200), (130, 500)]);
        let plan = ForwardPlan::new(shape(1, 1, 64), DType::Bf16, &spans);
        let tiles: Vec<(u32, u32)> = plan.table().chunks(ITEM).map(|item| (item[1], item[4])).collect();
        assert_eq!(tiles, [(130, 1), (130, 0), (200, 1), (200, 0)]);
        let spans = &spans[..1];
        let plan = BackwardPlan::new(shape(1, 1, 128), DType::Bf16, spans);
        let keys: Vec<u32> = plan.table()[plan.keys.offset..].chunks(ITEM).map(|item| item[4]).collect();
        assert_eq!(keys, [0, 1]);
        let queries: Vec<u32> = plan.table()[..plan.keys.offset].chunks(ITEM).map(|item| item[4]).collect();
        assert_eq!(queries, [3, 2, 1, 0]);
    }
}
