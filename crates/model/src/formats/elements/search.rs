//! Superblocks of 256 values: ggml's searches for the scales that leave the least error.
//!
//! `make_qkx2_quants`, `make_qx_quants`, `quantize_row_q4_K_ref` and `quantize_row_q6_K_ref` of `ggml-quants.c`, sum by
//! sum in their order: another order would find other scales where two are nearly as good.

use half::f16;

use super::scale_min;

/// Values of a superblock.
pub(super) const BLOCK: usize = 256;

/// Below it a group counts as zeros.
const SMALLEST: f32 = 1e-15;

/// To the nearest integer, halves to the even one.
fn nearest(value: f32) -> i32 {
    value.round_ties_even() as i32
}

/// Scale and (negated) minimum of 32 values, and their steps of 0 to 15: first straight from the extremes, then from 21
/// other scales, each mended by weighted least squares, if that leaves less.
fn scale_and_min(x: &[f32; 32], weights: &[f32; 32], steps: &mut [u8; 32]) -> (f32, f32) {
    const MOST: f32 = 15.0;
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x.iter().zip(weights).skip(1) {
        min = if x < min { x } else { min };
        max = if x > max { x } else { max };
        sum_w += w;
        sum_x += w * x;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        steps.fill(0);
        return (0.0, -min);
    }
    let step_of = |inverse: f32, x: f32, min: f32| nearest(inverse * (x - min)).clamp(0, MOST as i32) as u8;
    let inverse = MOST / (max - min);
    let mut scale = 1.0 / inverse;
    let mut least = 0.0f32;
    for ((step, &x), &w) in steps.iter_mut().zip(x).zip(weights) {
        *step = step_of(inverse, x, min);
        let off = scale * f32::from(*step) + min - x;
        least += w * (off * off);
    }
    let mut trial = [0u8; 32];
    for number in 0..=20 {
        // The minimum is that of the best so far.
        let inverse = (-1.0 + 0.1 * number as f32 + MOST) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((step, &x), &w) in trial.iter_mut().zip(x).zip(weights) {
            *step = step_of(inverse, x, min);
            let l = f32::from(*step);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut trial_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut trial_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if trial_min > 0.0 {
                trial_min = 0.0;
                trial_scale = sum_xl / sum_l2;
            }
            let mut left = 0.0f32;
            for ((&step, &x), &w) in trial.iter().zip(x).zip(weights) {
                let off = trial_scale * f32::from(step) + trial_min - x;
                left += w * (off * off);
            }
            if left < least {
                *steps = trial;
                (least, scale, min) = (left, trial_scale, trial_min);
            }
        }
    }
    (scale, -min)
}

/// See `q4_k` of the reading side for the layout.
pub(super) fn q4_k(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let groups = block.as_chunks::<32>().0;
    let mut steps = [[0u8; 32]; 8];
    let (mut scales, mut mins) = ([0.0f32; 8], [0.0f32; 8]);
    for (at, group) in groups.iter().enumerate() {
        let squares = group.iter().fold(0.0f32, |sum, x| sum + x * x);
        let usual = (squares / 32.0).sqrt();
        // Large values matter more.
        let weights = group.map(|x| usual + x.abs());
        (scales[at], mins[at]) = scale_and_min(group, &weights, &mut steps[at]);
    }
    let largest = |values: &[f32; 8]| values.iter().fold(0.0f32, |most, &v| if v > most { v } else { most });
    let (scale, min) = (largest(&scales), largest(&mins));
    let inverse = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
    let (inverse_scale, inverse_min) = (inverse(scale), inverse(min));
    let mut packed = [0u8; 12];
    for at in 0..8 {
        let s = (nearest(inverse_scale * scales[at]) as u8).min(63);
        let m = (nearest(inverse_min * mins[at]) as u8).min(63);
        if at < 4 {
            packed[at] = s;
            packed[at + 4] = m;
        } else {
            packed[at + 4] = (s & 15) | (m & 15) << 4;
            packed[at - 4] |= (s >> 4) << 6;
            packed[at] |= (m >> 4) << 6;
        }
    }
    let (scale, min) = (f16::from_f32(scale / 63.0), f16::from_f32(min / 63.0));
    // Once more, with the scales as they are stored.
    for (at, group) in groups.iter().enumerate() {
        let (s, m) = scale_min(&packed, at);
        let (d, m) = (scale.to_f32() * s, min.to_f32() * m);
        if d != 0.0 {
            steps[at] = group.map(|x| nearest((x + m) / d).clamp(0, 15) as u8);
        }
    }
    out.extend(scale.to_le_bytes());
    out.extend(min.to_le_bytes());
    out.extend(packed);
    for pair in steps.as_chunks::<2>().0 {
        out.extend(pair[0].iter().zip(&pair[1]).map(|(low, high)| low | high << 4));
    }
}

/// Scale of 16 values with steps of -32 to 31: the extreme value at -32, then 18 other scales, if one leaves less.
/// Values weigh as their squares.
fn symmetric_scale(x: &[f32; 16], steps: &mut [i8; 16]) -> f32 {
    const MOST: i32 = 32;
    let extreme = x.iter().fold(0.0f32, |extreme, &value| if value.abs() > extreme.abs() { value } else { extreme });
    if extreme.abs() < SMALLEST {
        steps.fill(0);
        return 0.0;
    }
    let step_of = |inverse: f32, x: f32| nearest(inverse * x).clamp(-MOST, MOST - 1);
    let sums = |inverse: f32| {
        x.iter().fold((0.0f32, 0.0f32), |(sum_lx, sum_l2), &x| {
            let (l, w) = (step_of(inverse, x) as f32, x * x);
            (sum_lx + w * x * l, sum_l2 + w * l * l)
        })
    };
    let stored = |inverse: f32| x.map(|x| (step_of(inverse, x) + MOST) as i8);
    let inverse = -MOST as f32 / extreme;
    *steps = stored(inverse);
    let (sum_lx, sum_l2) = sums(inverse);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for number in (-9..=9).filter(|number| *number != 0) {
        let inverse = -(MOST as f32 + 0.1 * number as f32) / extreme;
        let (sum_lx, sum_l2) = sums(inverse);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            *steps = stored(inverse);
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    scale
}

/// See `q6_k` of the reading side for the layout.
pub(super) fn q6_k(block: &[f32; BLOCK], out: &mut Vec<u8>) {
    let groups = block.as_chunks::<16>().0;
    let mut steps = [[0i8; 16]; 16];
    let mut scales = [0.0f32; 16];
    let mut extreme = 0.0f32;
    for (at, group) in groups.iter().enumerate() {
        scales[at] = symmetric_scale(group, &mut steps[at]);
        if scales[at].abs() > extreme.abs() {
            extreme = scales[at];
        }
    }
    if extreme.abs() < SMALLEST {
        out.resize(out.len() + 210, 0);
        return;
    }
    let inverse = -128.0 / extreme;
    let d = f16::from_f32(1.0 / inverse);
    let packed = scales.map(|scale| nearest(inverse * scale).min(127) as i8);
    for (at, group) in groups.iter().enumerate() {
        let scale = d.to_f32() * f32::from(packed[at]);
        if scale != 0.0 {
            steps[at] = group.map(|x| (nearest(x / scale).clamp(-32, 31) + 32) as i8);
        }
    }
    let six = |i: usize| steps[i / 16][i % 16] as u8;
    for half in [0, 128] {
        // Groups of 32 share bytes: the first with the third, the second with the fourth.
        for pair in [0, 32] {
            out.extend((half + pair..half + pair + 32).map(|i| (six(i) & 15) | (six(i + 64) & 15) << 4));
        }
    }
    for half in [0, 128] {
        let two = |i: usize, group: usize| (six(i + 32 * group) >> 4) << (2 * group);
        out.extend((half..half + 32).map(|i| two(i, 0) | two(i, 1) | two(i, 2) | two(i, 3)));
    }
    out.extend(packed.map(|scale| scale as u8));
    out.extend(d.to_le_bytes());
}
