//! AdamW and Muon whose state is rounded: bf16, 8 bits; and matrices that are rounded stochastically.
//!
//! A device's f32 arithmetic may differ from the reference in the last bit, which turns about one rounding in 30,000 the
//! other way. So codes may differ by one, but only a few of them.

use super::check::Tolerance;
use super::optimizer::MUON;
use super::random::wide;
use super::stage::{Expected, Stage, Trial};
use crate::device::{AdamW, Device, MatrixUse, Muon, Rounding};
use crate::dtype::{Bf16, DType};
use crate::error::ComputeError;
use crate::moments::{BLOCK_WORDS, MOMENT_BLOCK, MomentFormat};
use crate::reference::{adamw, moments, muon};
use crate::stochastic;

/// One, odd, around a block, longer than any job.
const LENGTHS: [usize; 6] = [1, 17, 127, 129, 1_025, 33_001];
const SEED: u64 = 0x1234_5678_9abc;
const UPDATE: AdamW = AdamW {
    lr: 0.01,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    step: 20,
    gradient_scale: 0.75,
    seed: SEED,
    weight_rounding: Rounding::Nearest,
};

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>) {
    for len in LENGTHS {
        let (gradient, m, v) = operands(trial, len);
        in_bf16(trial, &gradient, &m, &v);
        in_8_bits(trial, "", &gradient, &m, &v);
    }
    for (name, [gradient, m, v]) in awkward() {
        in_8_bits(trial, name, &gradient, &m, &v);
    }
    for (row_blocks, columns) in [(&[48, 16, 16][..], 33), (&[17], 64)] {
        momentum_in_bf16(trial, row_blocks, columns);
    }
    for shape in [(1, 1), (15, 17), (33, 64), (130, 257)] {
        packed(trial, shape);
    }
}

fn operands<D: Device>(trial: &mut Trial<'_, D>, len: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let gradient = trial.random.normal(DType::F32, len, 0.5);
    let m = trial.random.normal(DType::F32, len, 0.3);
    let v = trial.random.normal(DType::F32, len, 0.5).iter().map(|x| x * x).collect();
    (gradient, m, v)
}

/// Blocks in which something is extreme; in most of them nothing has happened before.
fn awkward() -> Vec<(&'static str, [Vec<f32>; 3])> {
    let len = 200;
    let zeros = || vec![0.0; len];
    let all = |x: f32| (0..len).map(|i| if i % 3 == 0 { -x } else { x }).collect::<Vec<f32>>();
    let mut outlier = all(1e-4);
    outlier[5] = 3e3;
    let mut sparse = zeros();
    sparse[130] = -0.25;
    vec![
        ("zeros, ", [zeros(), zeros(), zeros()]),
        ("an outlier, ", [outlier, zeros(), zeros()]),
        ("one element, ", [sparse, zeros(), zeros()]),
        ("tiny, ", [all(1e-17), zeros(), zeros()]),
        ("denormal, ", [all(3e-40), zeros(), zeros()]),
        ("huge, ", [all(2e18), zeros(), zeros()]),
        ("no gradient any more, ", [zeros(), all(0.1), all(0.02).iter().map(|x| x.abs()).collect()]),
    ]
}

/// Where single roundings may go the other way, each by at most `step`.
fn few(len: usize, step: f64) -> Tolerance {
    Tolerance { largest: step, typical: step * ((3.0 + len as f64 / 2000.0) / len as f64).sqrt() }
}

fn weight_of(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 13) as f32 * 0.125 - 0.75).collect()
}

fn random_bits(seed: u64, index: usize) -> u32 {
    stochastic::bits(stochastic::key(seed), index)
}

fn in_bf16<D: Device>(trial: &mut Trial<'_, D>, gradient: &[f32], m: &[f32], v: &[f32]) {
    let len = gradient.len();
    let kept = |x: &[f32]| x.iter().map(|x| Bf16::from_f32(*x).to_f32()).collect::<Vec<f32>>();
    let (weight, m, v) = (weight_of(len), kept(m), kept(v));
    let (mut want, mut want_m, mut want_v) = (wide(&weight), wide(&m), wide(&v));
    adamw::step(&UPDATE, &mut want, &wide(gradient), [&mut want_m, &mut want_v]);
    for i in 0..len {
        let random = random_bits(SEED, i);
        want_m[i] = f64::from(moments::bf16(want_m[i] as f32, random));
        want_v[i] = f64::from(moments::bf16(want_v[i] as f32, random >> 16));
    }
    let step = 1.0 / 128.0;
    let expected = vec![
        Expected::new("weight", want, Tolerance::F32),
        Expected::new("first moment", want_m, few(len, step)),
        Expected::new("second moment", want_v, few(len, step)),
    ];
    trial.case("adamw", format!("{len}, moments in bf16"), expected, |stage| {
        let mut weight = stage.whole(&weight)?;
        let (mut first, mut second) = (bf16_buffer(stage, &m)?, bf16_buffer(stage, &v)?);
        stage.0.adamw(&UPDATE, &mut weight, &stage.whole(gradient)?, [&mut first, &mut second]);
        Ok(vec![stage.read(&weight), stage.read(&first), stage.read(&second)])
    });
}

fn bf16_buffer<D: Device>(stage: &Stage<'_, D>, values: &[f32]) -> Result<D::Buffer, ComputeError> {
    let mut buffer = stage.0.allocate("selftest", DType::Bf16, values.len())?;
    stage.0.write_f32(&mut buffer, 0, values);
    Ok(buffer)
}

/// The levels and codes of one of the two moments.
#[derive(Clone, Copy)]
struct Coding {
    top: f64,
    /// What the block's step is multiplied by and raised to, to be its largest element.
    level: fn(i32, f64) -> f64,
    code: fn(f64, f64, f64) -> i32,
    shift: u32,
    signed: bool,
}

const FIRST: Coding =
    Coding { top: 127.0, level: moments::first_level, code: moments::first_code, shift: 0, signed: true };
const SECOND: Coding =
    Coding { top: 65025.0, level: moments::second_level, code: moments::second_code, shift: 16, signed: false };

impl Coding {
    fn largest(block: &[f64]) -> f64 {
        block.iter().fold(0.0, |most, x| x.abs().max(most))
    }

    /// Codes and steps as they lie in memory, and the values that they stand for. The random bits are those of `random`.
    fn encode(&self, values: &[f64], random: impl Fn(usize) -> u32) -> (Vec<u32>, Vec<f64>) {
        let (mut words, mut steps, mut levels) = (Vec::new(), Vec::new(), Vec::new());
        for (b, block) in values.chunks(MOMENT_BLOCK).enumerate() {
            let largest = Self::largest(block);
            let mut codes = [0_u8; MOMENT_BLOCK];
            for (i, (code, x)) in codes.iter_mut().zip(block).enumerate() {
                let random = random(b * MOMENT_BLOCK + i) >> self.shift;
                let c = (self.code)(*x, largest, moments::fraction(random));
                levels.push((self.level)(c, largest));
                *code = c as u8;
            }
            words.extend(codes.as_chunks::<4>().0.iter().map(|code| u32::from_le_bytes(*code)));
            steps.push(((largest.sqrt() / self.top) as f32).to_bits());
        }
        words.extend(steps);
        (words, levels)
    }

    /// For each element its share of its block's largest; for each block its largest one. A buffer's bytes are read.
    fn decode(&self, bytes: &[u8], len: usize) -> (Vec<f64>, Vec<f64>) {
        let blocks = len.div_ceil(MOMENT_BLOCK);
        let steps = bytes[4 * BLOCK_WORDS * blocks..].as_chunks::<4>().0;
        let largest = steps.iter().map(|step| (f64::from(f32::from_le_bytes(*step)) * self.top).powi(2)).collect();
        let code = |code: &u8| if self.signed { i32::from(*code as i8) } else { i32::from(*code) };
        (bytes[..len].iter().map(|c| (self.level)(code(c), 1.0)).collect(), largest)
    }
}

/// What f32 holds of it.
fn narrow(values: &mut [f64]) {
    values.iter_mut().for_each(|x| *x = f64::from(*x as f32));
}

fn in_8_bits<D: Device>(trial: &mut Trial<'_, D>, name: &str, gradient: &[f32], m: &[f32], v: &[f32]) {
    let len = gradient.len();
    let blocks = len.div_ceil(MOMENT_BLOCK);
    let weight = weight_of(len);
    let (m_words, mut want_m) = FIRST.encode(&wide(m), |_| 0x8000);
    let (v_words, mut want_v) = SECOND.encode(&wide(v), |_| 0x8000_0000);
    let mut want = wide(&weight);
    adamw::step(&UPDATE, &mut want, &wide(gradient), [&mut want_m, &mut want_v]);
    narrow(&mut want_m);
    narrow(&mut want_v);
    let shares = |coding: &Coding, values: &[f64]| {
        let levels = coding.encode(values, |i| random_bits(SEED, i)).1;
        let largest: Vec<f64> = values.chunks(MOMENT_BLOCK).map(Coding::largest).collect();
        let share = |(i, x): (usize, &f64)| match largest[i / MOMENT_BLOCK] {
            0.0 => 0.0,
            largest => x / largest,
        };
        (levels.iter().enumerate().map(share).collect::<Vec<f64>>(), largest)
    };
    let ((m_shares, m_largest), (v_shares, v_largest)) = (shares(&FIRST, &want_m), shares(&SECOND, &want_v));
    let is_denominator: Vec<bool> = want_v.iter().map(|v| *v > 0.0).collect();
    // What is not 0 is compared as a quotient: blocks differ by orders of magnitude.
    let ones = |largest: &[f64]| largest.iter().map(|x| if *x == 0.0 { 0.0 } else { 1.0 }).collect::<Vec<f64>>();
    let expected = vec![
        Expected::new("weight", want, Tolerance::F32),
        Expected::new("first moment, share of the block's largest", m_shares, few(len, 0.03)),
        Expected::new("largest first moment, of what is expected", ones(&m_largest), Tolerance::of(1e-3)),
        Expected::new("second moment, share of the block's largest", v_shares, few(len, 0.03)),
        Expected::new("largest second moment, of what is expected", ones(&v_largest), Tolerance::of(1e-3)),
        Expected::new("second moments that became 0", vec![0.0], Tolerance::EXACT),
    ];
    trial.case("adamw", format!("{name}{len}, moments in 8 bits"), expected, |stage| {
        let mut weight = stage.whole(&weight)?;
        let buffer = |words: &[u32]| {
            let format = MomentFormat::Bits8;
            let mut buffer = stage.0.allocate("selftest", format.dtype(), format.buffer_len(len))?;
            stage.0.write_u32(&mut buffer, 0, words);
            Ok::<_, ComputeError>(buffer)
        };
        let (mut first, mut second) = (buffer(&m_words)?, buffer(&v_words)?);
        stage.0.adamw(&UPDATE, &mut weight, &stage.whole(gradient)?, [&mut first, &mut second]);
        let mut observed = vec![stage.read(&weight)];
        for (coding, buffer, want) in [(FIRST, &first, &m_largest), (SECOND, &second, &v_largest)] {
            let (shares, largest) = coding.decode(&stage.0.bytes(buffer), len);
            assert_eq!(largest.len(), blocks);
            let quotient = |(got, want): (&f64, &f64)| if *want == 0.0 { *got } else { got / want };
            observed.extend([shares, largest.iter().zip(want).map(quotient).collect()]);
        }
        let lost = observed[3].iter().zip(&is_denominator).filter(|(share, is)| **is && **share == 0.0).count();
        observed.push(vec![lost as f64]);
        Ok(observed)
    });
}

fn momentum_in_bf16<D: Device>(trial: &mut Trial<'_, D>, row_blocks: &[usize], columns: usize) {
    let len = row_blocks.iter().sum::<usize>() * columns;
    let weight = trial.random.normal(DType::F32, len, 1.0);
    let gradient = trial.random.normal(DType::F32, len, 1.0);
    let momentum = trial.random.normal(DType::Bf16, len, 0.3);
    let update = Muon { seed: SEED, gradient_scale: 0.75, ..MUON };
    let (mut want, mut m) = (wide(&weight), wide(&momentum));
    let mut at = 0;
    for rows in row_blocks {
        let part = at..at + rows * columns;
        at = part.end;
        muon::step(&update, columns, &mut want[part.clone()], &wide(&gradient[part.clone()]), &mut m[part]);
    }
    let rounded = |(i, x): (usize, &f64)| f64::from(moments::bf16(*x as f32, random_bits(SEED, i)));
    let m = m.iter().enumerate().map(rounded).collect();
    let expected =
        vec![Expected::new("weight", want, Tolerance::MUON), Expected::new("momentum", m, few(len, 1.0 / 128.0))];
    trial.case("muon", format!("{row_blocks:?} x {columns}, momentum in bf16"), expected, |stage| {
        let (mut weight, mut momentum) = (stage.whole(&weight)?, bf16_buffer(stage, &momentum)?);
        stage.0.muon(&update, row_blocks, columns, &mut weight, &stage.whole(&gradient)?, &mut momentum);
        Ok(vec![stage.read(&weight), stage.read(&momentum)])
    });
}

/// What a matrix of these f32 weights holds once they are rounded stochastically.
pub(super) fn rounded_weights(dtype: DType, weight: &[f32], seed: u64) -> Vec<f64> {
    let key = stochastic::weights_key(stochastic::key(seed));
    let round = |(i, x): (usize, &f32)| match dtype {
        DType::Bf16 => f64::from(moments::bf16(*x, stochastic::bits(key, i))),
        _ => f64::from(*x),
    };
    weight.iter().enumerate().map(round).collect()
}

/// Both forms of a matrix: rows by the embedding, columns by the input gradient of unit vectors.
fn packed<D: Device>(trial: &mut Trial<'_, D>, (rows, columns): (usize, usize)) {
    for dtype in [DType::F32, DType::Bf16] {
        let weight = trial.random.normal(DType::F32, rows * columns, 1.0);
        let want = rounded_weights(dtype, &weight, SEED);
        let expected = vec![
            Expected::new("rows", want.clone(), Tolerance::EXACT),
            Expected::new("by unit vectors", want, Tolerance::EXACT),
        ];
        let units: Vec<f32> = (0..rows * rows).map(|i| if i / rows == i % rows { 1.0 } else { 0.0 }).collect();
        let ids: Vec<u32> = (0..rows as u32).collect();
        trial.case("pack_stochastically", format!("{rows} x {columns}, {}", dtype.name()), expected, |stage| {
            let mut matrix = stage.0.allocate_matrix("selftest", dtype.into(), rows, columns, MatrixUse::Training)?;
            stage.0.pack_stochastically(&stage.whole(&weight)?, &mut matrix, SEED);
            let mut by_rows = stage.output(DType::F32, rows * columns)?;
            stage.0.embedding(&matrix, &stage.indices(&ids)?, rows, &mut by_rows);
            let mut by_units = stage.output(dtype, rows * columns)?;
            stage.0.linear_backward_input(&stage.input(dtype, &units)?, &matrix, rows, &mut by_units);
            Ok(vec![stage.read(&by_rows), stage.read(&by_units)])
        });
    }
}
