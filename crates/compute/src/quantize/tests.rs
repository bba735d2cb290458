//! The quantisers against llama.cpp's of the same sizes, and against the bounds that the module states.

use super::*;
use crate::cpu::isa::Isa;
use crate::reference::quantized::{dequantize, ggml_q4_0, ggml_q8_0};

/// Normal variates (Box and Muller).
fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    (0..len).map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos()).collect()
}

fn rms(errors: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = errors.fold((0.0, 0), |(sum, count), e| (sum + e * e, count + 1));
    (sum / f64::from(count)).sqrt()
}

fn rms_of(format: MatrixFormat, x: &[f32]) -> f64 {
    let back = dequantize(format, &blocks(format, x, x.len()), x.len());
    rms(back.iter().zip(x).map(|(a, b)| a - f64::from(*b)))
}

#[test]
fn q4_errs_by_a_sixth_less_than_q4_0_and_q8_no_more_than_q8_0() {
    let x: Vec<f32> = normal(1 << 16, 1).iter().map(|x| 0.02 * x).collect();
    let theirs = |back: Vec<f64>| rms(back.iter().zip(&x).map(|(a, b)| a - f64::from(*b)));
    let (ours4, theirs4) = (rms_of(MatrixFormat::Q4, &x), theirs(ggml_q4_0(&x)));
    let (ours8, theirs8) = (rms_of(MatrixFormat::Q8, &x), theirs(ggml_q8_0(&x)));
    assert!(ours4 < 0.84 * theirs4, "q4 {ours4:e}, Q4_0 {theirs4:e}");
    assert!(ours8 < 1.01 * theirs8, "q8 {ours8:e}, Q8_0 {theirs8:e}");
    // What the module's comment says of q4.
    assert!((ours4 / 0.02 - 0.071).abs() < 0.001 && (theirs4 / 0.02 - 0.086).abs() < 0.001, "{ours4:e} {theirs4:e}");
}

/// One block after the other, one trial after the other.
fn q4_alone(x: &[f32; BLOCK]) -> Block {
    let error = |scale: f32, zero: f32| {
        let mut parts = [0.0_f32; 8];
        for (i, (code, x)) in q4_codes(x, 1.0 / scale, zero).iter().zip(x).enumerate() {
            let error = (code - zero) * scale - x;
            parts[i % 8] += error * error;
        }
        let [a, b, c, d, e, f, g, h] = parts;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    };
    let (low, high) = x.iter().fold((0.0_f32, 0.0_f32), |(low, high), x| (low.min(*x), high.max(*x)));
    let smallest = 0.7 * (high - low) / 15.0;
    let first = (smallest.to_bits() >> 19).saturating_sub(LOWEST << 4).min(LAST_SCALE);
    let mut best = (f32::INFINITY, 0);
    for index in first..=(first + 13).min(LAST_SCALE) {
        let scale = q4_scale(index << 6);
        let centred = (4.0 * (7.5 - 0.5 * (low + high) * (1.0 / scale))).clamp(0.0, 63.0) as i32;
        for step in -2..=2 {
            let header = index << 6 | (centred + step).clamp(0, 63) as u32;
            let error = error(scale, q4_zero(header));
            if error < best.0 {
                best = (error, header);
            }
        }
    }
    q4_block(x, best.1)
}

/// The usual ones, and what is hard.
fn samples() -> Vec<[f32; BLOCK]> {
    let mut samples = vec![[0.0; BLOCK], [1.0; BLOCK], [-3.5e-5; BLOCK], [700.0; BLOCK]];
    for (seed, scale) in [(2, 1.0), (3, 1e-6), (4, 1e4), (5, 1e-12)] {
        for (i, block) in normal(64 * BLOCK, seed).as_chunks::<BLOCK>().0.iter().enumerate() {
            // Centred, off centre, all of one sign, with an outlier.
            let mut block = block.map(|x| scale * [x, x + 2.0, x.abs() + 0.1, 0.01 * x][i % 4]);
            block[i % BLOCK] *= [1.0, 1.0, 1.0, 1000.0][i % 4];
            samples.push(block);
        }
    }
    samples
}

#[test]
fn blocks_side_by_side_become_what_each_becomes_alone() {
    let mut samples = samples();
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40, -0.0] {
        let mut block = samples[samples.len() - 1];
        block[7] = odd;
        samples.push(block);
        samples.push([odd; BLOCK]);
    }
    let want: Vec<Block> = samples.iter().map(q4_alone).collect();
    let values = samples.as_flattened();
    // All in one row, and a block a row.
    for columns in [values.len(), BLOCK] {
        assert!(blocks(MatrixFormat::Q4, values, columns) == want, "{columns} columns");
    }
}

#[test]
fn errors_keep_to_their_bounds() {
    for x in samples() {
        let (low, high) = x.iter().fold((0.0_f32, 0.0_f32), |(low, high), x| (low.min(*x), high.max(*x)));
        let bound8 = f64::from(low.abs().max(high)) / 127.0 * 1.004 / 2.0 + 1e-40;
        for (back, x) in dequantize(MatrixFormat::Q8, &blocks(MatrixFormat::Q8, &x, BLOCK), BLOCK).iter().zip(x) {
            assert!((back - f64::from(x)).abs() <= bound8 * 1.0001, "q8: {back} for {x}");
        }
        let (error, bound) = (rms_of(MatrixFormat::Q4, &x), f64::from(high - low) / 28.0);
        assert!(error <= bound, "q4: {error} over {bound} of {x:?}");
    }
}

#[test]
fn zeros_stay_zeros_and_constants_are_close() {
    for format in [MatrixFormat::Q8, MatrixFormat::Q4] {
        assert_eq!(dequantize(format, &blocks(format, &[0.0; 40], 40), 40), [0.0; 40]);
        for back in dequantize(format, &blocks(format, &[0.3; 40], 40), 40) {
            assert!((back - 0.3).abs() < 0.01, "{back}");
        }
    }
}

#[test]
fn every_instruction_set_chooses_the_same_codes() {
    let x = normal(70 * 33, 6);
    for format in [MatrixFormat::Q8, MatrixFormat::Q4] {
        let want = blocks(format, &x, 70);
        for isa in Isa::available() {
            let mut got = Vec::new();
            isa.run(Rows { format, values: &x, columns: 70, put: |_, _, block| got.push(block) });
            assert_eq!(got, want, "{} {}", format.name(), isa.name());
        }
    }
}
