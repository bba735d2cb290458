//! A block of a product by tiles: strips of 32 rows, which meet the block's panels two by two.

use super::{AHEAD, PAIRS, ROWS};
use crate::cpu::gemm::kernel::{Destination, State};
use crate::cpu::gemm::pack::{PANEL, PackedB};
use crate::cpu::gemm::{Epilogue, GAP, LONG, Left, LeftLayout, MatElement, TILE, Tile};
use crate::cpu::isa::Isa;

/// Rows of a strip.
const STRIP: usize = 2 * ROWS;
/// Panels of a tile.
const PANELS: usize = 2;
/// Pairs of a sum whose left operand stays in registers.
const SHORT: usize = 2 * PAIRS;

/// Rows `m.0..m.1` by panels `panels.0..panels.1`.
///
/// # Safety
/// The processor has AMX, which [`super::takes`] the left operand; the rows and panels exist.
pub(in crate::cpu::gemm) unsafe fn multiply<S: MatElement, E: Epilogue>(
    state: &mut State,
    left: &Left<S>,
    m: (usize, usize),
    right: &PackedB<'_, S>,
    panels: (usize, usize),
    epilogue: &E,
) {
    let mut tile = Tile([0.0; TILE]);
    let long = right.k >= LONG;
    let size = |row: usize, panel: usize| {
        let width = PANELS.min(panels.1 - panel);
        (STRIP.min(m.1 - row), width, (width * PANEL).min(right.n - panel * PANEL))
    };
    for row in (m.0..m.1).step_by(STRIP) {
        let (a, stride, _) = left.at(row);
        let mut first = panels.0;
        if right.groups() == SHORT {
            let rows = STRIP.min(m.1 - row);
            let whole = panels.1.min(right.n / PANEL).saturating_sub(first);
            if rows > ROWS && whole >= PANELS {
                let place = epilogue.destination(row, first * PANEL, rows, whole * PANEL).filter(|place| !place.add);
                if let Some(to) = place {
                    let b = right.panel(first).cast();
                    // SAFETY: as below, of whole panels.
                    unsafe { state.tiles.multiply_short(a.cast(), stride, b, right.panel_len(), rows, whole, to) };
                    first += whole;
                }
            }
        }
        let next_row = Some(row + STRIP).filter(|next| *next < m.1);
        let pairs = (panels.1 - first).div_ceil(PANELS).max(1);
        let share = next_row.and_then(|next| Share::of(left, next, right.groups(), pairs));
        for (pair, panel) in (first..panels.1).step_by(PANELS).enumerate() {
            let (rows, width, columns) = size(row, panel);
            let next_panel = Some((row, panel + PANELS)).filter(|(_, next)| *next < panels.1);
            if let Some((row, panel)) = next_panel.or(next_row.map(|next| (next, panels.0))).filter(|_| long) {
                let (rows, _, columns) = size(row, panel);
                epilogue.ask_for(row, panel * PANEL, rows, columns);
            }
            let ld = width * PANEL;
            let direct = epilogue.destination(row, panel * PANEL, rows, columns).filter(|_| columns == ld);
            let to = direct.unwrap_or(Destination { at: tile.0.as_mut_ptr(), stride: ld, add: false });
            let (b, ahead) = (right.panel(panel).cast(), share.as_ref().map_or(core::ptr::null(), |s| s.at(pair)));
            // SAFETY: the processor has AMX; the operands cover the rows and panels; a tile has room for the largest, an
            // epilogue's destination for what it was asked for.
            unsafe {
                let (groups, panel_len) = (right.groups(), right.panel_len());
                state.tiles.multiply(a.cast(), stride, b, panel_len, groups, rows, width, to, ahead);
            }
            if direct.is_none() {
                epilogue.store(Isa::Amx, row, panel * PANEL, rows, columns, &tile.0, ld);
            }
        }
    }
}

/// What is asked for of the next strip while a pair of panels is multiplied: its memory in equal parts.
struct Share {
    start: *const u8,
    bytes: usize,
}

impl Share {
    /// None where it would be little, or lies scattered.
    fn of<S: MatElement>(left: &Left<S>, row: usize, groups: usize, pairs: usize) -> Option<Self> {
        let LeftLayout::Rows(stride) = left.layout else { return None };
        let bytes = STRIP * stride * size_of::<S>() / pairs;
        // A step asks for two lines; parts that need less than one a step are soon there anyway.
        let worth_it = bytes >= groups / PAIRS * (AHEAD / 2) && groups * S::GROUP >= LONG;
        let together = stride <= groups * S::GROUP + GAP;
        (worth_it && together).then(|| Share { start: left.at(row).0.cast(), bytes })
    }

    fn at(&self, pair: usize) -> *const u8 {
        self.start.wrapping_add(pair * self.bytes)
    }
}
