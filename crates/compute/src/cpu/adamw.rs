//! AdamW, with moments in any [`MomentFormat`]; and the rounding of a matrix that is not to nearest.

use std::ops::Range;

use super::buffer::CpuBuffer;
use super::isa::{Isa, Kernel, Math};
use super::linear::{BothForms, CpuMatrix};
use super::pool::{Pool, Shared};
use crate::device::AdamW;
use crate::dtype::{Bf16, Storage};
use crate::moments::{
    BLOCK_WORDS, FIRST_TOP, MOMENT_BLOCK, MomentFormat, SECOND_TOP, block_step, first_code, first_value, second_code,
    second_value,
};
use crate::stochastic;

/// Elements of a job: whole blocks.
const PIECE: usize = 1 << 14;
const _: () = assert!(PIECE.is_multiple_of(MOMENT_BLOCK));

/// What is the same for every element.
#[derive(Clone, Copy)]
struct Factors {
    update: AdamW,
    rate: f32,
    root: f32,
    keep: f32,
    key: u32,
}

impl Factors {
    fn new(update: AdamW) -> Self {
        let correction1 = 1.0 - f64::from(update.beta1).powf(update.step as f64);
        let correction2 = 1.0 - f64::from(update.beta2).powf(update.step as f64);
        Factors {
            update,
            rate: (f64::from(update.lr) / correction1) as f32,
            root: (1.0 / correction2.sqrt()) as f32,
            keep: 1.0 - update.lr * update.weight_decay,
            key: stochastic::key(update.seed),
        }
    }

    /// Updates a weight; its new moments.
    #[inline(always)]
    fn element<M: Math>(&self, w: &mut f32, g: f32, m: f32, v: f32) -> (f32, f32) {
        let AdamW { beta1, beta2, eps, gradient_scale, .. } = self.update;
        let g = g * gradient_scale;
        let m = M::mul_add(beta1, m, (1.0 - beta1) * g);
        let v = M::mul_add(beta2, v, (1.0 - beta2) * (g * g));
        *w = *w * self.keep - self.rate * m / M::mul_add(v.sqrt(), self.root, eps);
        (m, v)
    }
}

/// f32 or bf16 moments.
struct Plain<'a, T> {
    factors: Factors,
    /// Index of the first element in its tensor.
    at: usize,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    first: &'a mut [T],
    second: &'a mut [T],
}

/// A moment on its way to memory.
pub(super) trait Moment: Storage {
    fn keep(x: f32, random: impl Fn() -> u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn keep(x: f32, _: impl Fn() -> u32) -> Self {
        x
    }
}

impl Moment for Bf16 {
    #[inline(always)]
    fn keep(x: f32, random: impl Fn() -> u32) -> Self {
        stochastic::round(x, random())
    }
}

impl<T: Moment> Kernel for Plain<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Plain { factors, at, weight, gradient, first, second } = self;
        let rows = weight.iter_mut().zip(gradient).zip(first).zip(second);
        for (i, (((w, g), m), v)) in rows.enumerate() {
            let (new_m, new_v) = factors.element::<M>(w, *g, m.load(), v.load());
            let random = || stochastic::bits(factors.key, at + i);
            *m = T::keep(new_m, random);
            *v = T::keep(new_v, || random() >> 16);
        }
    }
}

/// 8-bit moments: codes and steps of the blocks of the weights.
struct Blocks<'a> {
    factors: Factors,
    at: usize,
    weight: &'a mut [f32],
    gradient: &'a [f32],
    codes: [&'a mut [u32]; 2],
    steps: [&'a mut [u32]; 2],
}

#[inline(always)]
fn unpack(words: &[u32]) -> [u8; MOMENT_BLOCK] {
    let mut codes = [0; MOMENT_BLOCK];
    for (code, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *code = word.to_le_bytes();
    }
    codes
}

#[inline(always)]
fn pack(codes: &[u8; MOMENT_BLOCK], words: &mut [u32]) {
    for (code, word) in codes.as_chunks::<4>().0.iter().zip(words) {
        *word = u32::from_le_bytes(*code);
    }
}

#[inline(always)]
fn largest(values: &[f32; MOMENT_BLOCK]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for chunk in values.as_chunks::<16>().0 {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            let x = x.abs();
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.into_iter().fold(0.0, |a, b| if b > a { b } else { a })
}

impl Kernel for Blocks<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let Blocks { factors, at, weight, gradient, codes: [first, second], steps: [first_steps, second_steps] } = self;
        let weights = weight.chunks_mut(MOMENT_BLOCK).zip(gradient.chunks(MOMENT_BLOCK));
        for (block, (weight, gradient)) in weights.enumerate() {
            let words = block * BLOCK_WORDS..(block + 1) * BLOCK_WORDS;
            let (mut m_codes, mut v_codes) = (unpack(&first[words.clone()]), unpack(&second[words.clone()]));
            let (m_step, v_step) = (f32::from_bits(first_steps[block]), f32::from_bits(second_steps[block]));
            // Behind the end of the last block there are zeros.
            let (mut g, mut w) = ([0.0; MOMENT_BLOCK], [0.0; MOMENT_BLOCK]);
            g[..gradient.len()].copy_from_slice(gradient);
            w[..weight.len()].copy_from_slice(weight);
            let (mut m, mut v) = ([0.0; MOMENT_BLOCK], [0.0; MOMENT_BLOCK]);
            for i in 0..MOMENT_BLOCK {
                let moments = (first_value(m_codes[i], m_step), second_value(v_codes[i], v_step));
                (m[i], v[i]) = factors.element::<M>(&mut w[i], g[i], moments.0, moments.1);
            }
            weight.copy_from_slice(&w[..weight.len()]);
            let (m_step, m_inverse) = block_step(largest(&m), FIRST_TOP);
            let (v_step, v_inverse) = block_step(largest(&v), SECOND_TOP);
            let start = at + block * MOMENT_BLOCK;
            for i in 0..MOMENT_BLOCK {
                let random = stochastic::bits(factors.key, start + i);
                m_codes[i] = first_code(m[i], m_inverse, random);
                v_codes[i] = second_code(v[i], v_inverse, random);
            }
            pack(&m_codes, &mut first[words.clone()]);
            pack(&v_codes, &mut second[words]);
            (first_steps[block], second_steps[block]) = (m_step.to_bits(), v_step.to_bits());
        }
    }
}

/// Updates a range of a tensor's elements; those of 8-bit moments begin and end with a block, or the tensor.
type Update<'a> = Box<dyn Fn(Range<usize>) + Sync + Send + 'a>;

/// One AdamW step.
pub(super) fn adamw(pool: &Pool, update: AdamW, weight: &mut [f32], gradient: &[f32], moments: [&mut CpuBuffer; 2]) {
    let len = weight.len();
    let update = updating(pool.isa(), Factors::new(update), Shared::new(weight), gradient, moments);
    pool.for_ranges(len, PIECE, update);
}

/// One AdamW step of a matrix. Where its forms can be written by rows they are, while the rows are in the caches: a pass of their
/// own would read them from memory again, and takes as long as the update. Whether they were.
pub(super) fn adamw_and_pack(
    pool: &Pool,
    update: AdamW,
    weight: &mut [f32],
    gradient: &[f32],
    moments: [&mut CpuBuffer; 2],
    matrix: &mut CpuMatrix,
) -> bool {
    const { assert!((BothForms::ROWS * 32).is_multiple_of(MOMENT_BLOCK)) };
    let (len, columns) = (matrix.rows * matrix.columns, matrix.columns);
    let whole = len == weight.len() && len == gradient.len();
    let Some(forms) = matrix.both_forms(pool.isa()).filter(|_| whole) else {
        adamw(pool, update, weight, gradient, moments);
        return false;
    };
    let weight = Shared::new(weight);
    let update = updating(pool.isa(), Factors::new(update), weight, gradient, moments);
    pool.for_ranges(len, BothForms::ROWS * columns, |range| {
        update(range.clone());
        // SAFETY: ranges are disjoint; the update of this one is over.
        unsafe { forms.write(range.start / columns, weight.slice_mut(range.start, range.len())) };
    });
    true
}

fn updating<'a>(
    isa: Isa,
    factors: Factors,
    weight: Shared<'a, f32>,
    gradient: &'a [f32],
    [first, second]: [&'a mut CpuBuffer; 2],
) -> Update<'a> {
    match MomentFormat::of(first.dtype()) {
        MomentFormat::F32 => plain::<f32>(isa, factors, weight, gradient, [first.slice_mut(), second.slice_mut()]),
        MomentFormat::Bf16 => plain::<Bf16>(isa, factors, weight, gradient, [first.slice_mut(), second.slice_mut()]),
        MomentFormat::Bits8 => blocks(isa, factors, weight, gradient, [first.slice_mut(), second.slice_mut()]),
    }
}

fn plain<'a, T: Moment>(
    isa: Isa,
    factors: Factors,
    weight: Shared<'a, f32>,
    gradient: &'a [f32],
    moments: [&'a mut [T]; 2],
) -> Update<'a> {
    let [first, second] = moments.map(Shared::new);
    Box::new(move |range| {
        let (at, n) = (range.start, range.len());
        // SAFETY: ranges are disjoint.
        let (weight, first, second) =
            unsafe { (weight.slice_mut(at, n), first.slice_mut(at, n), second.slice_mut(at, n)) };
        isa.run(Plain { factors, at, weight, gradient: &gradient[range], first, second });
    })
}

fn blocks<'a>(
    isa: Isa,
    factors: Factors,
    weight: Shared<'a, f32>,
    gradient: &'a [f32],
    moments: [&'a mut [u32]; 2],
) -> Update<'a> {
    let words = gradient.len().div_ceil(MOMENT_BLOCK) * BLOCK_WORDS;
    let moments = moments.map(|words_and_steps| {
        let (codes, steps) = words_and_steps.split_at_mut(words);
        (Shared::new(codes), Shared::new(steps))
    });
    Box::new(move |range| {
        let (at, n) = (range.start, range.len());
        let (block, count) = (at / MOMENT_BLOCK, n.div_ceil(MOMENT_BLOCK));
        // SAFETY: ranges are disjoint and of whole blocks, but for the last.
        let weight = unsafe { weight.slice_mut(at, n) };
        // SAFETY: as above.
        let codes =
            moments.each_ref().map(|(codes, _)| unsafe { codes.slice_mut(block * BLOCK_WORDS, count * BLOCK_WORDS) });
        // SAFETY: as above.
        let steps = moments.each_ref().map(|(_, steps)| unsafe { steps.slice_mut(block, count) });
        isa.run(Blocks { factors, at, weight, gradient: &gradient[range], codes, steps });
    })
}

/// One panel of a matrix that is rounded stochastically.
struct RoundedPanel<'a> {
    values: &'a [f32],
    /// Of the matrix: rows, columns.
    shape: (usize, usize),
    key: u32,
    panel: usize,
    /// Whether the panel's lanes are rows of the matrix, or columns.
    of_rows: bool,
    out: &'a mut [Bf16],
}

impl Kernel for RoundedPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: Math>(self) {
        let (rows, columns) = self.shape;
        let (k, n) = if self.of_rows { (columns, rows) } else { (rows, columns) };
        let first = self.panel * CpuMatrix::PANEL;
        for (group, pairs) in self.out.chunks_exact_mut(2 * CpuMatrix::PANEL).enumerate() {
            for (i, slot) in pairs.iter_mut().enumerate() {
                let (at, lane) = (2 * group + i % 2, first + i / 2);
                *slot = if at < k && lane < n {
                    let index = if self.of_rows { lane * columns + at } else { at * columns + lane };
                    stochastic::round(self.values[index], stochastic::bits(self.key, index))
                } else {
                    Bf16::default()
                };
            }
        }
    }
}

/// Packs a bf16 matrix, rounding stochastically: an element is rounded alike in both forms.
pub(super) fn pack_stochastically(pool: &Pool, values: &[f32], matrix: &mut CpuMatrix, seed: u64) {
    let key = stochastic::weights_key(stochastic::key(seed));
    let shape = (matrix.rows, matrix.columns);
    let (forward, backward) = matrix.bf16_panels_mut();
    let forms = [(true, Some(forward)), (false, backward)];
    for (of_rows, panels) in forms {
        let Some(panels) = panels else { continue };
        let (k, n) = if of_rows { (shape.1, shape.0) } else { shape };
        let (len, count) = (k.next_multiple_of(2) * CpuMatrix::PANEL, n.div_ceil(CpuMatrix::PANEL));
        let panels = Shared::new(panels);
        pool.for_each(count, |panel| {
            // SAFETY: panels are disjoint.
            let out = unsafe { panels.slice_mut(panel * len, len) };
            pool.isa().run(RoundedPanel { values, shape, key, panel, of_rows, out });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuDevice;
    use crate::cpu::gemm::{pack::packed_len, pack_columns, pack_transposed};
    use crate::device::{Device, MatrixUse, Rounding};
    use crate::dtype::DType;
    use crate::matrix_format::MatrixFormat;

    fn values(n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|i| scale * ((i * 7919 % 1013) as f32 - 500.0) / 777.0).collect()
    }

    /// In one pass or in two: the same weights, moments and packed forms, whatever the shape and the format of moments.
    #[test]
    fn an_update_that_packs_is_an_update_and_a_packing() {
        let update = AdamW {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 3,
            gradient_scale: 0.5,
            seed: 7,
            weight_rounding: Rounding::Nearest,
        };
        for isa in Isa::available() {
            for threads in [1, 2] {
                let device = CpuDevice::new(threads, isa).unwrap();
                for (rows, columns) in [(16, 32), (48, 96), (64, 1056), (17, 32), (32, 40), (5, 7)] {
                    for format in [MomentFormat::F32, MomentFormat::Bf16, MomentFormat::Bits8] {
                        let n = rows * columns;
                        let what = format!("{} {threads} threads, {rows} x {columns}, {format:?}", isa.name());
                        let float = |scale: f32| {
                            let mut buffer = device.allocate("test", DType::F32, n).unwrap();
                            buffer.slice_mut().copy_from_slice(&values(n, scale));
                            buffer
                        };
                        let gradient = float(0.3);
                        let run = |together: bool| {
                            let mut weight = float(1.0);
                            let usage = MatrixUse::Training;
                            let mut matrix =
                                device.allocate_matrix("test", MatrixFormat::Bf16, rows, columns, usage).unwrap();
                            let moment = || device.allocate("test", format.dtype(), format.buffer_len(n)).unwrap();
                            let (mut first, mut second) = (moment(), moment());
                            let moments = [&mut first, &mut second];
                            if together {
                                device.adamw_and_pack(&update, &mut weight, &gradient, moments, &mut matrix);
                            } else {
                                device.adamw(&update, &mut weight, &gradient, moments);
                                let pool = Pool::new(1, isa).unwrap();
                                let (forward, backward) = matrix.bf16_panels_mut();
                                let values = weight.slice::<f32>();
                                pack_transposed(&pool, values, columns, (columns, rows), forward);
                                pack_columns(&pool, values, columns, (rows, columns), backward.unwrap());
                            }
                            let (forward, backward) = matrix.bf16_panels_mut();
                            let forward = forward[..packed_len::<Bf16>(columns, rows)].to_vec();
                            let backward = backward.unwrap()[..packed_len::<Bf16>(rows, columns)].to_vec();
                            let bytes = [&weight, &first, &second].map(|x| x.as_bytes().to_vec());
                            (bytes, forward, backward)
                        };
                        assert!(run(true) == run(false), "{what}");
                    }
                }
            }
        }
    }
}
