//! Buffers: writing, reading, zeroing, copying, gathering, the sum of squares.

use super::check::Tolerance;
use super::random::{round, wide};
use super::stage::{Expected, Trial};
use crate::device::Device;
use crate::dtype::DType;
use crate::reference;

/// One, odd, longer than any job.
const LENGTHS: [usize; 4] = [1, 17, 4_095, 140_001];

pub(super) fn run<D: Device>(trial: &mut Trial<'_, D>) {
    for dtype in [DType::F32, DType::Bf16] {
        for len in LENGTHS {
            transfers(trial, dtype, len);
        }
        for (rows, width) in [(1, 1), (15, 17), (33, 65)] {
            gather(trial, dtype, rows, width);
        }
    }
    for len in LENGTHS {
        indices(trial, len);
        let x = trial.random.normal(DType::F32, len, 1.0);
        let want = vec![reference::sum_of_squares(&wide(&x))];
        // f64 throughout: 2^-53 a term at worst.
        let expected = vec![Expected::new("sum", want, Tolerance::of(1e-11))];
        trial.case("sum_of_squares", format!("{len}"), expected, |stage| {
            Ok(vec![vec![stage.0.sum_of_squares(&stage.whole(&x)?)]])
        });
    }
    // A gradient that explodes has a norm all the same.
    let expected = vec![Expected::new("sum", vec![2.0 * f64::from(1e30f32).powi(2)], Tolerance::of(1e-11))];
    trial.case("sum_of_squares", "beyond f32".into(), expected, |stage| {
        Ok(vec![vec![stage.0.sum_of_squares(&stage.whole(&[1e30, 0.0, -1e30])?)]])
    });
}

/// Indices arrive, and the bytes of a buffer are its elements, little-endian.
fn indices<D: Device>(trial: &mut Trial<'_, D>, len: usize) {
    let values = trial.random.indices(len, u32::MAX as usize);
    let want = values.iter().map(|x| f64::from(*x)).collect();
    let expected = vec![Expected::new("bytes", want, Tolerance::EXACT)];
    trial.case("write_u32", format!("{len}"), expected, |stage| {
        let mut buffer = stage.0.allocate("selftest", DType::U32, len)?;
        stage.0.write_u32(&mut buffer, len / 2, &values[len / 2..]);
        stage.0.write_u32(&mut buffer, 0, &values[..len / 2]);
        let bytes = stage.0.bytes(&buffer);
        Ok(vec![bytes.as_chunks::<4>().0.iter().map(|word| f64::from(u32::from_le_bytes(*word))).collect()])
    });
}

fn transfers<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, len: usize) {
    let x = trial.random.normal(DType::F32, len, 1.0);
    let rounded: Vec<f64> = x.iter().map(|x| round(dtype, *x).into()).collect();
    let half = len / 2;
    let shifted: Vec<f64> = rounded[half..].to_vec();
    let name = format!("{len}, {}", dtype.name());
    let bytes = rounded.iter().flat_map(|x| {
        let bits = (*x as f32).to_le_bytes();
        bits[4 - dtype.size()..].iter().map(|byte| f64::from(*byte)).collect::<Vec<f64>>()
    });
    let expected = vec![
        Expected::new("values", rounded.clone(), Tolerance::EXACT),
        Expected::new("tail", shifted, Tolerance::EXACT),
        Expected::new("bytes", bytes.collect(), Tolerance::EXACT),
    ];
    trial.case("write_f32", name.clone(), expected, |stage| {
        let mut buffer = stage.output(dtype, len)?;
        stage.0.write_f32(&mut buffer, half, &x[half..]);
        stage.0.write_f32(&mut buffer, 0, &x[..half]);
        let mut tail = vec![0.0; len - half];
        stage.0.read_f32(&buffer, half, &mut tail);
        let bytes = stage.0.bytes(&buffer)[..len * dtype.size()].iter().map(|byte| f64::from(*byte)).collect();
        Ok(vec![stage.read(&buffer), wide(&tail), bytes])
    });
    let mut part = vec![f64::NAN; len];
    part[..len - half].copy_from_slice(&rounded[half..]);
    let expected = vec![Expected::new("moved", part, Tolerance::EXACT)];
    trial.case("write_bytes", name.clone(), expected, |stage| {
        let from = stage.input(dtype, &x)?;
        let mut to = stage.output(dtype, len)?;
        stage.0.write_bytes(&mut to, 0, &stage.0.read_bytes(&from, half, len - half));
        Ok(vec![stage.read(&to)])
    });
    let mut part = rounded.clone();
    part[half..].fill(f64::NAN);
    let expected =
        vec![Expected::new("all", rounded, Tolerance::EXACT), Expected::new("a part", part, Tolerance::EXACT)];
    trial.case("copy", name.clone(), expected, |stage| {
        let from = stage.input(dtype, &x)?;
        let (mut all, mut part) = (stage.output(dtype, len)?, stage.output(dtype, len)?);
        stage.0.copy(&from, len, &mut all);
        stage.0.copy(&from, half, &mut part);
        Ok(vec![stage.read(&all), stage.read(&part)])
    });
    trial.case("fill_zero", name, vec![Expected::new("values", vec![0.0; len], Tolerance::EXACT)], |stage| {
        let mut buffer = stage.0.allocate("selftest", dtype, len)?;
        let fresh = stage.read(&buffer);
        stage.0.write_f32(&mut buffer, 0, &x);
        stage.0.fill_zero(&mut buffer);
        // A fresh buffer is zero as well.
        Ok(vec![stage.read(&buffer).iter().zip(fresh).map(|(a, b)| a + b).collect()])
    });
}

fn gather<D: Device>(trial: &mut Trial<'_, D>, dtype: DType, rows: usize, width: usize) {
    let from = trial.random.normal(dtype, rows * width, 1.0);
    let picked = trial.random.indices(rows + 3, rows);
    let want = reference::embedding::forward(&wide(&from), &picked, width);
    let expected = vec![Expected::new("rows", want, Tolerance::EXACT)];
    trial.case("gather_rows", format!("{} of {rows} x {width}, {}", rows + 3, dtype.name()), expected, |stage| {
        let mut to = stage.output(dtype, (rows + 3) * width)?;
        stage.0.gather_rows(&stage.input(dtype, &from)?, width, &picked, &mut to);
        Ok(vec![stage.read(&to)])
    });
}
