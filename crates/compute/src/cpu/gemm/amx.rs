//! The bf16 micro-kernel of AMX.
use super::{Left, MatElement, TILE};
use crate::dtype::Bf16;

pub(crate) fn is_available() -> bool {
    false
}

pub(super) fn takes<S: MatElement>(_left: &Left<S>) -> bool {
    false
}

#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply(
    _a: *const Bf16,
    _row_stride: usize,
    _b: *const Bf16,
    _panel_len: usize,
    _groups: usize,
    _rows: usize,
    _panels: usize,
    _tile: &mut [f32; TILE],
) {
    unreachable!()
}
