//! How much a code for AdamW's moments costs: one small model, trained on this repository's sources, byte by byte, once for
//! each code, beside f32. Codes that the devices do not have are applied to f32 moments after each step.
//!
//!     cargo run --release -p casallm-train --example moment_codes -- 400 0.95
//!
//! Steps, then beta2. A line for each code: the mean loss of the last eighth, and its distance to f32's. How far apart two
//! runs are that differ in nothing that matters is in the line of f32 weights that are nudged in their last bits.

use std::sync::Arc;

use casallm_compute::{AdamW, CpuDevice, DType, Device, MomentFormat, Rounding};
use casallm_model::config::ModelConfig;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::training::{BatchView, Gradients};
use casallm_model::workspace::{Recompute, Workspace, WorkspaceShape};

const CONTEXT: usize = 64;
const ROWS: usize = 8;
const BLOCK: usize = 128;

/// A code applied to a tensor of f32 moments; the number is a random one in [0, 1) for each element.
type Code = fn(&mut [f32], &mut dyn FnMut() -> f32);

enum Kept {
    Format(MomentFormat),
    Coded([Code; 2]),
    Nudged,
}

fn nothing(_: &mut [f32], _: &mut dyn FnMut() -> f32) {}

/// To the nearest of some levels between 0 and 1 of the block's largest, or by chance to one of the two around it.
fn by_levels(x: &mut [f32], levels: &[f32], random: Option<&mut dyn FnMut() -> f32>) {
    let mut random = random;
    for block in x.chunks_mut(BLOCK) {
        let largest = block.iter().fold(0.0_f32, |most, x| x.abs().max(most));
        if largest == 0.0 {
            continue;
        }
        for x in block {
            let share = x.abs() / largest;
            let above = levels.partition_point(|level| *level <= share).clamp(1, levels.len() - 1);
            let (low, high) = (levels[above - 1], levels[above]);
            let threshold = random.as_mut().map_or(0.5, |random| random());
            let level = if (share - low) / (high - low) > threshold { high } else { low };
            *x = level * largest * x.signum();
        }
    }
}

/// bitsandbytes' dynamic map (Dettmers et al. 2022): its levels that are not negative.
fn dynamic(signed: bool) -> Vec<f32> {
    let mut levels = vec![0.0, 1.0];
    for i in 0..7 {
        let n = 1 << if signed { i } else { i + 1 };
        let edge = |k: i32| 0.1 + 0.9 * k as f32 / n as f32;
        levels.extend((0..n).map(|k| 10.0_f32.powi(i - 6) * 0.5 * (edge(k) + edge(k + 1))));
    }
    levels.sort_by(f32::total_cmp);
    levels
}

/// A small float's levels: `mantissa` bits, as many powers of two as there are, and 0.
fn float(bits: u32, mantissa: u32) -> Vec<f32> {
    let steps = 1 << mantissa;
    let count = 1 << (bits - mantissa);
    let mut levels = vec![0.0];
    for exponent in 0..count {
        levels.extend((0..steps).map(|i| 2.0_f32.powi(exponent - count) * (1.0 + i as f32 / steps as f32)));
    }
    let top = levels.last().copied().unwrap_or(1.0);
    levels.iter().map(|level| level / top).collect()
}

fn power(codes: i32, exponent: i32) -> Vec<f32> {
    (0..=codes).map(|c| (c as f32 / codes as f32).powi(exponent)).collect()
}

/// The same without the level 0 for what is not 0: a second moment is a denominator.
fn floored(x: &mut [f32], levels: &[f32], random: Option<&mut dyn FnMut() -> f32>) {
    let before = x.to_vec();
    by_levels(x, levels, random);
    for (x, before) in x.chunks_mut(BLOCK).zip(before.chunks(BLOCK)) {
        let largest = before.iter().fold(0.0_f32, |most, x| x.max(most));
        for (x, before) in x.iter_mut().zip(before) {
            if *before > 0.0 && *x == 0.0 {
                *x = levels[1] * largest;
            }
        }
    }
}

fn bf16_nearest(x: &mut [f32], _: &mut dyn FnMut() -> f32) {
    x.iter_mut().for_each(|x| *x = casallm_compute::Bf16::from_f32(*x).to_f32());
}

fn codes() -> Vec<(&'static str, Kept)> {
    vec![
        ("f32", Kept::Format(MomentFormat::F32)),
        ("f32, weights nudged", Kept::Nudged),
        ("bf16, stochastic (device)", Kept::Format(MomentFormat::Bf16)),
        ("bf16, nearest", Kept::Coded([bf16_nearest, bf16_nearest])),
        ("8 bits (device)", Kept::Format(MomentFormat::Bits8)),
        (
            "the same, nearest",
            Kept::Coded([|x, _| by_levels(x, &power(127, 2), None), |x, _| floored(x, &power(255, 4), None)]),
        ),
        (
            "dynamic, nearest",
            Kept::Coded([|x, _| by_levels(x, &dynamic(true), None), |x, _| by_levels(x, &dynamic(false), None)]),
        ),
        (
            "dynamic, stochastic",
            Kept::Coded([|x, r| by_levels(x, &dynamic(true), Some(r)), |x, r| floored(x, &dynamic(false), Some(r))]),
        ),
        (
            "float e4m3 / e5m3, nearest",
            Kept::Coded([|x, _| by_levels(x, &float(7, 3), None), |x, _| floored(x, &float(8, 3), None)]),
        ),
        (
            "float e4m3 / e5m3, stochastic",
            Kept::Coded([|x, r| by_levels(x, &float(7, 3), Some(r)), |x, r| floored(x, &float(8, 3), Some(r))]),
        ),
        (
            "linear / square, stochastic",
            Kept::Coded([|x, r| by_levels(x, &power(127, 1), Some(r)), |x, r| floored(x, &power(255, 2), Some(r))]),
        ),
        (
            "linear / linear, nearest",
            Kept::Coded([|x, _| by_levels(x, &power(127, 1), None), |x, _| by_levels(x, &power(255, 1), None)]),
        ),
        ("second moment alone, 8 bits", Kept::Coded([nothing, |x, r| floored(x, &power(255, 4), Some(r))])),
    ]
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Every Rust file below a folder, one after the other in order of name.
fn sources(folder: &std::path::Path, text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, text)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.extend(std::fs::read(path)?);
        }
    }
    Ok(())
}

fn train(device: &Arc<CpuDevice>, text: &[u8], kept: &Kept, steps: u64, beta2: f32) -> Vec<f64> {
    let model = ModelConfig::modern(3, 96, 4, 4, 256, CONTEXT).expect("a small model");
    let tokens = ROWS * CONTEXT;
    let parameters = Parameters::random(device.clone(), &model, DType::Bf16.into(), 3).expect("memory");
    let mut network = Network::new(model.clone(), DType::Bf16, parameters).expect("memory");
    let (dtype, training) = (DType::Bf16, Some(Recompute::Light));
    let shape = WorkspaceShape { tokens, sequence: CONTEXT, dtype, matrices: dtype.into(), training };
    let mut workspace = Workspace::new(&**device, &model, shape).expect("memory");
    let mut gradients = Gradients::new(&**device, &model).expect("memory");
    let format = if let Kept::Format(format) = kept { *format } else { MomentFormat::F32 };
    let formats: Vec<MomentFormat> = (0..network.parameters.len())
        .map(|i| if network.parameters.spec(i).decays() { format } else { MomentFormat::F32 })
        .collect();
    let moment = |i: usize| {
        let len = formats[i].buffer_len(network.parameters.spec(i).len());
        device.allocate("moment", formats[i].dtype(), len).expect("memory")
    };
    let mut moments: Vec<_> = (0..formats.len()).map(|i| [moment(i), moment(i)]).collect();
    let (mut losses, mut place, mut chance) = (Vec::new(), 1, 2);
    for step in 0..steps {
        let rows: Vec<usize> = (0..ROWS).map(|_| next(&mut place) as usize % (text.len() - CONTEXT - 1)).collect();
        let ids = |shift: usize| -> Vec<u32> {
            rows.iter().flat_map(|row| &text[row + shift..row + shift + CONTEXT]).map(|b| u32::from(*b)).collect()
        };
        let (ids, targets, weights) = (ids(0), ids(1), vec![1.0; tokens]);
        let cu_seqlens: Vec<u32> = (0..=ROWS).map(|r| (r * CONTEXT) as u32).collect();
        let batch = BatchView { tokens: &ids, targets: &targets, weights: &weights, cu_seqlens: &cu_seqlens };
        gradients.clear(&**device);
        let result = network
            .loss_and_gradients(&mut workspace, batch, 1.0 / tokens as f32, 0, &mut gradients)
            .expect("a batch that fits");
        losses.push(result.weighted_loss / tokens as f64);
        let norm = gradients.norm(&**device);
        let lr = 3e-3 * ((step + 1) as f32 / 20.0).min(1.0) * (1.0 - 0.9 * step as f32 / steps as f32);
        for (i, [m, v]) in moments.iter_mut().enumerate() {
            let decays = network.parameters.spec(i).decays();
            let update = AdamW {
                lr,
                beta1: 0.9,
                beta2,
                eps: 1e-8,
                weight_decay: if decays { 0.1 } else { 0.0 },
                step: step + 1,
                gradient_scale: (1.0 / norm).min(1.0) as f32,
                seed: step * 1000 + i as u64,
                weight_rounding: Rounding::Nearest,
            };
            network.parameters.update(i, |w| {
                device.adamw(&update, w, gradients.get(i), [m, v]);
                if let (Kept::Nudged, true) = (kept, step == 0) {
                    w.slice_mut::<f32>().iter_mut().for_each(|w| *w *= 1.0 + 2e-7);
                }
            });
            if let (Kept::Coded(codes), true) = (kept, decays) {
                let mut random = || next(&mut chance) as f32 / (1_u64 << 31) as f32;
                codes[0](m.slice_mut(), &mut random);
                codes[1](v.slice_mut(), &mut random);
            }
        }
    }
    losses
}

fn main() {
    let argument = |i: usize, default: f64| std::env::args().nth(i).and_then(|x| x.parse().ok()).unwrap_or(default);
    let (steps, beta2) = (argument(1, 400.0) as u64, argument(2, 0.95) as f32);
    let mut text = Vec::new();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    sources(&root, &mut text).expect("the sources");
    let device = Arc::new(CpuDevice::detect().expect("a processor"));
    let tail = (steps / 8).max(1) as usize;
    let mut plain = Vec::new();
    println!("{} bytes of text, {steps} steps, beta2 {beta2}", text.len());
    for (name, kept) in codes() {
        let losses = train(&device, &text, &kept, steps, beta2);
        let last = &losses[losses.len() - tail..];
        let mean = last.iter().sum::<f64>() / tail as f64;
        if plain.is_empty() {
            plain = losses.clone();
        }
        let want = &plain[plain.len() - tail..];
        let off = mean - want.iter().sum::<f64>() / tail as f64;
        let apart = last.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / tail as f64;
        println!("{name:<32} loss {mean:.4}   to f32's {off:+.4}   root mean square {:.4}", apart.sqrt());
    }
}
