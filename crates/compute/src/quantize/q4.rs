//! The search for q4's headers: scales from 0.7 of the full range upwards, with zero points about the one that centres the
//! range; what has the smallest sum of squared errors is taken. Sixteen blocks are searched side by side, each in a lane:
//! one alone waits for each of its sums.

use super::{BLOCK, LAST_SCALE, LOWEST, ZERO_STEPS, q4_scale, q4_zero, round};

/// Blocks side by side.
pub(super) const LANES: usize = 16;
/// A number of each block.
type Lanes = [f32; LANES];

/// Scales tried above the smallest, which is 0.7 of what covers the block's whole range: the steps are at least 1/32.
const SCALES: u32 = 13;
/// Zero points tried on each side of the one that centres the range.
const ZEROS: i32 = 2;
/// Sums that a block's squared errors are added up in.
const PARTS: usize = 8;

/// The headers of blocks.
#[inline(always)]
pub(super) fn headers(blocks: &[[f32; BLOCK]; LANES]) -> [u32; LANES] {
    let mut x = [[0.0; LANES]; BLOCK];
    for (lane, block) in blocks.iter().enumerate() {
        for (x, value) in x.iter_mut().zip(block) {
            x[lane] = *value;
        }
    }
    let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for x in &x {
        for lane in 0..LANES {
            (low[lane], high[lane]) = (low[lane].min(x[lane]), high[lane].max(x[lane]));
        }
    }
    let mut first = [0; LANES];
    for lane in 0..LANES {
        let smallest = 0.7 * (high[lane] - low[lane]) / 15.0;
        first[lane] = (smallest.to_bits() >> 19).saturating_sub(LOWEST << 4).min(LAST_SCALE);
    }
    let (mut best, mut chosen) = ([f32::INFINITY; LANES], [0; LANES]);
    for further in 0..=SCALES {
        let mut index = [0; LANES];
        let (mut scale, mut inverse, mut centred) = ([0.0; LANES], [0.0; LANES], [0; LANES]);
        for lane in 0..LANES {
            index[lane] = (first[lane] + further).min(LAST_SCALE);
            scale[lane] = q4_scale(index[lane] << 6);
            inverse[lane] = 1.0 / scale[lane];
            let zero = ZERO_STEPS as f32 * (7.5 - 0.5 * (low[lane] + high[lane]) * inverse[lane]);
            centred[lane] = zero.clamp(0.0, 63.0) as i32;
        }
        for step in -ZEROS..=ZEROS {
            let (mut header, mut zero) = ([0; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                header[lane] = index[lane] << 6 | (centred[lane] + step).clamp(0, 63) as u32;
                zero[lane] = q4_zero(header[lane]);
            }
            let error = errors(&x, &scale, &inverse, &zero);
            for lane in 0..LANES {
                let better = error[lane] < best[lane];
                best[lane] = if better { error[lane] } else { best[lane] };
                chosen[lane] = if better { header[lane] } else { chosen[lane] };
            }
        }
    }
    chosen
}

/// Each block's sum of squared errors, added up in one order: element `i` in sum `i % 8`, then halves.
#[inline(always)]
fn errors(x: &[Lanes; BLOCK], scale: &Lanes, inverse: &Lanes, zero: &Lanes) -> Lanes {
    let mut parts = [[0.0; LANES]; PARTS];
    // Four terms in one expression: the compiler keeps the sum of a loop in memory.
    let (quarters, _) = x.as_chunks::<PARTS>();
    for (i, part) in parts.iter_mut().enumerate() {
        let [a, b, c, d] = [&quarters[0][i], &quarters[1][i], &quarters[2][i], &quarters[3][i]];
        for lane in 0..LANES {
            let square = |x: f32| {
                let code = round((x * inverse[lane] + zero[lane]).clamp(0.0, 15.0));
                let error = (code - zero[lane]) * scale[lane] - x;
                error * error
            };
            part[lane] = square(a[lane]) + square(b[lane]) + square(c[lane]) + square(d[lane]);
        }
    }
    let [a, b, c, d, e, f, g, h] = parts;
    let mut sums = [0.0; LANES];
    for lane in 0..LANES {
        sums[lane] = ((a[lane] + e[lane]) + (c[lane] + g[lane])) + ((b[lane] + f[lane]) + (d[lane] + h[lane]));
    }
    sums
}
