//! `fp8.cu` on the simulator: codes and scales against the reference, to the bit; what the device does with them.

use std::sync::Arc;

use super::*;
use crate::cpu::CpuDevice;
use crate::cpu::isa::Isa;
use crate::cuda::simulator::Simulator;
use crate::device::{AdamW, AdamWTensor, Device, MatrixUse, Rounding, ScratchShape};
use crate::error::ComputeError;
use crate::matrix_format::MatrixFormat;
use crate::reference::{fp8 as reference, linear};

fn device(seed: u64) -> Option<CudaDevice> {
    Simulator::for_test(seed).map(|simulator: Arc<Simulator>| CudaDevice::new(simulator).unwrap())
}

/// Numbers without a pattern, of either sign and of magnitudes from about 2^-20 to 1.
fn sample(len: usize, salt: u32) -> Vec<f32> {
    let value = |i: u32| {
        let bits = (i.wrapping_mul(2_654_435_761) ^ salt.wrapping_mul(40_503)).wrapping_mul(0x9e37_79b1);
        // bf16 takes seven bits of mantissa.
        f32::from_bits(bits & 0x8000_0000 | (107 + (bits >> 8) % 20) << 23 | (bits >> 16 & 0x7f) << 16)
    };
    (0..len as u32).map(value).collect()
}

fn bytes(device: &CudaDevice, at: Address, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    device.driver().download(at, &mut bytes);
    device.check().unwrap();
    bytes
}

fn buffer(device: &CudaDevice, dtype: DType, values: &[f32]) -> CudaBuffer {
    let mut buffer = device.allocate("x", dtype, values.len()).unwrap();
    device.write_f32(&mut buffer, 0, values);
    buffer
}

/// Codes and scale as the kernels leave them.
fn quantised(device: &CudaDevice, format: Fp8, values: &[f32]) -> (Vec<u8>, f32) {
    let x = buffer(device, DType::Bf16, values);
    let mut result = (Vec::new(), 0.0);
    let mut places = None;
    device.with_scratch(
        |carver| layout(carver, values.len()),
        |scratch| {
            // What lies behind the codes must stay.
            places = Some(quantise(device, format, x.input(DType::Bf16, values.len()), values.len(), &scratch));
        },
    );
    if let Some(Fp8Operand { address, scale, .. }) = places {
        let scale = bytes(device, scale, 4);
        result = (bytes(device, address, values.len()), f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]));
    }
    result
}

#[test]
fn codes_and_scales_are_the_references_to_the_bit() {
    for seed in 0..2 {
        let Some(device) = device(seed) else { return };
        // One run, a part of a block, a block and a run, several rounds, several pieces.
        for len in [16, 48, 240, 4_096, 4_112, 16_400, 69_968] {
            for format in [Fp8::E4m3, Fp8::E5m2] {
                let x = sample(len, len as u32);
                assert!(quantised(&device, format, &x) == reference::quantise(&x, format), "{len}, {}", format.name());
            }
        }
    }
}

#[test]
fn the_largest_may_be_anything_and_anywhere() {
    let Some(device) = device(2) else { return };
    for largest in [0.0, 1e-38, 1e-30, 1.0, -3e38] {
        for place in [0, 4_111] {
            let mut x = vec![0.0; 4_112];
            x[place] = bf16(largest);
            assert_eq!(quantised(&device, Fp8::E4m3, &x), reference::quantise(&x, Fp8::E4m3), "{largest:e} at {place}");
        }
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = sample(4_112, 1);
        x[4_100] = bad;
        assert!(quantised(&device, Fp8::E5m2, &x).1.is_nan(), "{bad} is not hidden by saturation");
    }
}

fn bf16(x: f32) -> f32 {
    crate::dtype::Bf16::from_f32(x).to_f32()
}

#[test]
fn a_weight_is_held_in_both_orientations() {
    let Some(device) = device(3) else { return };
    for (rows, columns) in [(16, 16), (16, 48), (64, 64), (80, 144), (272, 48)] {
        let values: Vec<f32> = sample(rows * columns, 7).iter().map(|x| x * 1.001).collect();
        let (codes, scale) = reference::quantise(&values, Fp8::E4m3);
        let format = MatrixFormat::Fp8;
        let mut matrix = device.allocate_matrix("w", format, rows, columns, MatrixUse::Training).unwrap();
        device.pack(&buffer(&device, DType::F32, &values), &mut matrix);
        let weight = matrix.fp8().unwrap();
        assert!(bytes(&device, weight.codes.address, codes.len()) == codes, "{rows} x {columns}");
        let transposed: Vec<u8> = (0..codes.len()).map(|i| codes[i % rows * columns + i / rows]).collect();
        assert!(bytes(&device, weight.transposed.address, codes.len()) == transposed, "{rows} x {columns}");
        assert_eq!(bytes(&device, weight.codes.scale, 4), scale.to_le_bytes());
    }
}

/// What 8 bits cost: against products that round nothing.
#[test]
fn the_error_of_a_layer_is_that_of_its_format() {
    let Some(device) = device(4) else { return };
    let (tokens, columns, rows) = (64, 256, 128);
    let (x, dy, w) = (sample(tokens * columns, 1), sample(tokens * rows, 2), sample(rows * columns, 3));
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
    let mut matrix = device.allocate_matrix("w", MatrixFormat::Fp8, rows, columns, MatrixUse::Training).unwrap();
    device.pack(&buffer(&device, DType::F32, &w), &mut matrix);
    let mut y = device.allocate("y", DType::Bf16, tokens * rows).unwrap();
    device.linear(&buffer(&device, DType::Bf16, &x), &matrix, None, tokens, Out::Store(&mut y));
    let mut dx = device.allocate("dx", DType::Bf16, tokens * columns).unwrap();
    device.linear_backward_input(&buffer(&device, DType::Bf16, &dy), &matrix, tokens, &mut dx);
    let error = |got: &CudaBuffer, want: &[f64]| {
        let mut values = vec![0.0; want.len()];
        device.read_f32(got, 0, &mut values);
        let squares: f64 = values.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        (squares / want.iter().map(|x| x * x).sum::<f64>()).sqrt()
    };
    let forward = error(&y, &linear::forward(&wide(&x), &wide(&w), None, columns));
    let backward = error(&dx, &linear::backward_input(&wide(&dy), &wide(&w), rows));
    // A mantissa of three bits errs by 2.6 % of a number in the root mean square, one of two bits by 5.2 %.
    assert!((0.02..0.045).contains(&forward), "forward {forward}");
    assert!((0.04..0.07).contains(&backward), "backward {backward}");
}

#[test]
fn what_is_not_finite_reaches_every_result() {
    let Some(device) = device(5) else { return };
    let mut matrix = device.allocate_matrix("w", MatrixFormat::Fp8, 16, 32, MatrixUse::Training).unwrap();
    let good = sample(512, 1);
    for (bad_x, bad_w) in [(f32::INFINITY, 0.0), (f32::NAN, 0.0), (0.0, f32::NEG_INFINITY)] {
        let (mut x, mut w) = (sample(64, 2), good.clone());
        x[40] += bad_x;
        w[300] += bad_w;
        device.pack(&buffer(&device, DType::F32, &w), &mut matrix);
        let mut y = device.allocate("y", DType::F32, 32).unwrap();
        device.linear(&buffer(&device, DType::Bf16, &x), &matrix, None, 2, Out::Store(&mut y));
        let mut values = vec![0.0; 32];
        device.read_f32(&y, 0, &mut values);
        assert!(values.iter().all(|y| y.is_nan()), "{bad_x}, {bad_w}: {values:?}");
    }
}

/// Both ways of updating a weight leave the codes of the new one.
#[test]
fn an_update_refreshes_the_codes() {
    let Some(device) = device(6) else { return };
    let (rows, columns) = (32, 48);
    let mut weight = buffer(&device, DType::F32, &sample(rows * columns, 1));
    let mut matrix = device.allocate_matrix("w", MatrixFormat::Fp8, rows, columns, MatrixUse::Training).unwrap();
    device.pack(&weight, &mut matrix);
    let old = bytes(&device, matrix.fp8().unwrap().codes.address, rows * columns);
    let gradient = buffer(&device, DType::F32, &sample(rows * columns, 2));
    let mut moments = [(); 2].map(|()| device.allocate("moment", DType::F32, rows * columns).unwrap());
    let [first, second] = &mut moments;
    let mut tally = device.allocate_tally().unwrap();
    device.clear_tally(&mut tally);
    device.clip(&[&gradient], 0.0, &mut tally);
    let update = AdamW {
        lr: 0.5,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        gradient_scale: 1.0,
        weight_rounding: Rounding::Nearest,
        seed: 1,
    };
    let tensor = AdamWTensor {
        weight: &mut weight,
        matrix: Some(&mut matrix),
        gradient: &gradient,
        moments: [first, second],
        weight_decay: 0.0,
        seed: 1,
    };
    device.adamw_all(&update, vec![tensor], &tally);
    let mut values = vec![0.0; rows * columns];
    device.read_f32(&weight, 0, &mut values);
    let (codes, _) = reference::quantise(&values, Fp8::E4m3);
    assert!(codes != old && bytes(&device, matrix.fp8().unwrap().codes.address, rows * columns) == codes);
}

#[test]
fn scratch_is_reserved_for_the_widest_operand() {
    let Some(device) = device(7) else { return };
    let shape = ScratchShape {
        dtype: DType::Bf16,
        matrices: MatrixFormat::Fp8,
        tokens: 2_000,
        width: 8_192,
        vocab_size: 32,
        n_embd: 32,
        sequence: 100,
        n_head: 2,
        n_kv_head: 2,
        head_dim: 16,
        training: true,
    };
    let plain = ScratchShape { matrices: MatrixFormat::Bf16, ..shape };
    assert!(device.scratch_bytes(&shape) > device.scratch_bytes(&plain));
    device.reserve_scratch(&shape).unwrap();
    let held = device.scratch_held();
    let mut matrix = device.allocate_matrix("w", MatrixFormat::Fp8, 16, 8_192, MatrixUse::Inference).unwrap();
    device.pack(&buffer(&device, DType::F32, &sample(16 * 8_192, 1)), &mut matrix);
    let mut y = device.allocate("y", DType::Bf16, 32_000).unwrap();
    device.linear(&buffer(&device, DType::Bf16, &sample(2_000 * 8_192, 1)), &matrix, None, 2_000, Out::Store(&mut y));
    device.check().unwrap();
    assert_eq!(device.scratch_held(), held);
}

#[test]
fn devices_without_8_bit_products_say_what_to_choose() {
    let cpu = CpuDevice::new(1, Isa::Portable).unwrap();
    let error = cpu.allocate_matrix("w", MatrixFormat::Fp8, 16, 16, MatrixUse::Training).err().unwrap();
    assert!(matches!(error, ComputeError::NoFp8 { .. }));
    let text = error.to_string();
    assert!(text.contains("8.9") && text.contains("portable") && text.contains("precision = \"bf16\""), "{text}");
    let Ok(simulator) = Simulator::new(0) else { return };
    let old = CudaDevice::new(Arc::new(simulator.without_fp8())).unwrap();
    let text = old.allocate_matrix("w", MatrixFormat::Fp8, 16, 16, MatrixUse::Training).err().unwrap().to_string();
    assert!(text.contains("sm_86") && text.contains("precision = \"bf16\""), "{text}");
    assert!(old.supports(MatrixFormat::Bf16).is_ok());
}
