//! Quantised weights on the CPU: what `selftest` cannot ask of every device.

use casallm_compute::{CpuBuffer, CpuDevice, DType, Device, Isa, MatrixFormat, MatrixUse, Out, ScratchShape};

const FORMATS: [MatrixFormat; 2] = [MatrixFormat::Q8, MatrixFormat::Q4];

fn buffer(device: &CpuDevice, dtype: DType, len: usize) -> CpuBuffer {
    let mut buffer = device.buffer("test", dtype, len).unwrap();
    let values: Vec<f32> = (0..len).map(|i| ((i * 37 % 1009) as f32 - 500.0) / 500.0).collect();
    device.write_f32(&mut buffer, 0, &values);
    buffer
}

/// The first `tokens` rows of an input by a matrix.
fn linear(device: &CpuDevice, format: MatrixFormat, (tokens, columns, rows): (usize, usize, usize)) -> Vec<f32> {
    let mut matrix = device.allocate_matrix("test", format, rows, columns, MatrixUse::Inference).unwrap();
    device.pack(&buffer(device, DType::F32, rows * columns), &mut matrix);
    let mut out = device.buffer("test", DType::F32, tokens * rows).unwrap();
    let x = buffer(device, DType::Bf16, tokens * columns);
    device.linear(&x, &matrix, None, tokens, Out::Store(&mut out));
    out.slice().to_vec()
}

#[test]
fn a_token_has_the_same_bits_in_every_company_and_on_every_number_of_threads() {
    let (columns, rows) = (139, 333);
    for isa in Isa::available() {
        for format in FORMATS {
            let one = CpuDevice::new(1, isa).unwrap();
            let alone = linear(&one, format, (1, columns, rows));
            for tokens in [2, 5, 12, 13, 40, 150] {
                let many = linear(&one, format, (tokens, columns, rows));
                assert_eq!(many[..rows], alone, "{} {} of {tokens}", isa.name(), format.name());
                let threads = CpuDevice::new(3, isa).unwrap();
                assert_eq!(linear(&threads, format, (tokens, columns, rows)), many, "{}", format.name());
            }
        }
    }
}

#[test]
fn products_stay_within_the_reserved_scratch() {
    for (columns, tokens) in [(70, 300), (2100, 9), (40_000, 13)] {
        for isa in Isa::available() {
            let device = CpuDevice::new(2, isa).unwrap();
            let shape = ScratchShape {
                dtype: DType::Bf16,
                matrices: MatrixFormat::Q4,
                tokens,
                width: columns,
                vocab_size: 10,
                n_embd: 64,
                sequence: tokens,
                n_head: 1,
                n_kv_head: 1,
                head_dim: 64,
                training: false,
            };
            device.reserve_scratch(&shape).unwrap();
            let held = device.scratch_held();
            for tokens in [1, 12.min(tokens), tokens] {
                for columns in [columns, columns - 1, columns / 3] {
                    linear(&device, MatrixFormat::Q4, (tokens, columns, 33));
                    assert_eq!(device.scratch_held(), held, "{tokens} x {columns}, {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn training_in_quantized_weights_is_refused() {
    let device = CpuDevice::new(1, Isa::Portable).unwrap();
    for format in FORMATS {
        let refused = device.allocate_matrix("layers.3.mlp.up.weight", format, 8, 8, MatrixUse::Training);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("layers.3.mlp.up.weight") && error.contains(format.name()), "{error}");
        assert!(error.contains("train in bf16"), "{error}");
    }
}

#[test]
fn bytes_are_those_of_the_format() {
    let device = CpuDevice::new(1, Isa::Portable).unwrap();
    let bits = |format| 8.0 * device.matrix_bytes(format, 1024, 1024, MatrixUse::Inference) as f64 / (1 << 20) as f64;
    assert_eq!(FORMATS.map(bits), [8.5, 4.5]);
}
