//! How an optimizer's moments lie in memory: f32, bf16, or 8 bits an element with one scale a block.
//!
//! Rounding is stochastic. A moment changes by a small share of itself at each step (the second by 5 % and less), which
//! rounding to nearest undoes: with a step of 1/128 a bf16 second moment of `beta2 = 0.999` would never move again.
//!
//! **8 bits.** Blocks of [`MOMENT_BLOCK`] elements, the last one of a tensor shorter. A first moment is `(c s)²` with the
//! sign of the code `c` in -127..=127, a second one `(c² s)²` with `c` in 0..=255, where the step `s` makes the block's
//! largest element the largest code. So codes are even in `sqrt |m|` and in the fourth root of `v`: the two moments of an
//! element, of which the second is about the square of the first, are told apart at the same sizes, from the largest
//! down to `6e-5` of it for the first moment and `2e-10` for the second. A second moment that is not 0 never becomes 0:
//! it is what the first one is divided by. Compare the dynamic maps of Dettmers et al. 2022 (arXiv 2110.02861), whose
//! codes need a search where these need roots.
//!
//! A buffer of 8-bit moments is of u32: first the codes, four a word beginning with the lowest byte, of whole blocks; then
//! the blocks' steps, as the bits of an f32.

use crate::dtype::DType;

/// Elements that share a scale.
pub const MOMENT_BLOCK: usize = 128;
/// Words of a block's codes.
pub(crate) const BLOCK_WORDS: usize = MOMENT_BLOCK / 4;

/// How moments lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MomentFormat {
    /// 4 bytes an element.
    #[default]
    F32,
    /// 2 bytes, rounded stochastically.
    Bf16,
    /// 1 byte and a share of its block's scale: 1.03 bytes.
    Bits8,
}

impl MomentFormat {
    /// The type of the buffer, which tells the format.
    pub const fn dtype(self) -> DType {
        match self {
            MomentFormat::F32 => DType::F32,
            MomentFormat::Bf16 => DType::Bf16,
            MomentFormat::Bits8 => DType::U32,
        }
    }

    /// The format of a buffer of that type.
    pub const fn of(dtype: DType) -> MomentFormat {
        match dtype {
            DType::F32 => MomentFormat::F32,
            DType::Bf16 => MomentFormat::Bf16,
            DType::U32 => MomentFormat::Bits8,
        }
    }

    /// Elements of the buffer that holds moments of `len` elements.
    pub const fn buffer_len(self, len: usize) -> usize {
        match self {
            MomentFormat::F32 | MomentFormat::Bf16 => len,
            MomentFormat::Bits8 => len.div_ceil(MOMENT_BLOCK) * (BLOCK_WORDS + 1),
        }
    }

    /// Bytes of that buffer.
    pub const fn bytes(self, len: usize) -> usize {
        self.buffer_len(len) * self.dtype().size()
    }

    /// The name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            MomentFormat::F32 => "f32",
            MomentFormat::Bf16 => "bf16",
            MomentFormat::Bits8 => "8bit",
        }
    }
}

/// A number in (0, 1) of 16 random bits.
#[inline(always)]
fn fraction(random: u32) -> f32 {
    ((random & 0xffff) as f32 + 0.5) * (1.0 / 65536.0)
}

/// The root of a block's largest magnitude and, for the way back, what roots are multiplied by to be codes up to `top`:
/// `(step, inverse)`. Of a block of zeros both are 0. Larger magnitudes than [`LARGEST`], and infinite ones, count as that.
#[inline(always)]
pub(crate) fn block_step(largest: f32, top: f32) -> (f32, f32) {
    let largest = if largest < LARGEST { largest } else { LARGEST };
    let root = largest.sqrt();
    // The root of the smallest denormal is 4e-23: neither division leaves the range.
    (root / top, if root > 0.0 { top / root } else { 0.0 })
}

/// So large that no rounding on the way back makes it infinite.
const LARGEST: f32 = 3e38;
/// The largest code of a first moment, and what a second moment's root is divided into: 255².
pub(crate) const FIRST_TOP: f32 = 127.0;
pub(crate) const SECOND_TOP: f32 = 65025.0;

/// A first moment's value.
#[inline(always)]
pub(crate) fn first_value(code: u8, step: f32) -> f32 {
    let c = f32::from(code as i8);
    let root = c * step;
    root * root.abs()
}

/// A second moment's value.
#[inline(always)]
pub(crate) fn second_value(code: u8, step: f32) -> f32 {
    let c = f32::from(code);
    let root = c * c * step;
    root * root
}

/// The whole part of a code between two: of `sqrt(x) * inverse` or its root, brought to at most the largest code, which a
/// NaN becomes as well.
#[inline(always)]
fn whole(y: f32) -> i32 {
    debug_assert!((0.0..=255.0).contains(&y));
    // SAFETY: a product of roots is not negative, and the comparison with the largest code leaves no NaN and nothing above
    // it. A conversion that checks does not vectorise well, and takes most of the time of coding.
    unsafe { y.to_int_unchecked() }
}

/// A first moment's code, by the lower 16 random bits.
#[inline(always)]
pub(crate) fn first_code(m: f32, inverse: f32, random: u32) -> u8 {
    let y = m.abs().sqrt() * inverse;
    let y = if y < FIRST_TOP { y } else { FIRST_TOP };
    let c = whole(y);
    let below = c as f32;
    // Between below² and (below + 1)², where is y²?
    let up = fraction(random) * (2.0 * below + 1.0) < (y - below) * (y + below);
    let magnitude = c + i32::from(up);
    (if m < 0.0 { -magnitude } else { magnitude }) as u8
}

/// A second moment's code, by the upper 16 random bits.
#[inline(always)]
pub(crate) fn second_code(v: f32, inverse: f32, random: u32) -> u8 {
    let square = v.sqrt() * inverse;
    let square = if square < SECOND_TOP { square } else { SECOND_TOP };
    let c = whole(square.sqrt());
    let below = (c * c) as f32;
    let gap = (2 * c + 1) as f32;
    // Between below² and (below + gap)², where is square²?
    let up = fraction(random >> 16) * (gap * (2.0 * below + gap)) < (square - below) * (square + below);
    let code = c + i32::from(up);
    // 0 is for what is 0.
    (if v > 0.0 && code == 0 { 1 } else { code }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuDevice;
    use crate::cpu::isa::Isa;
    use crate::device::{AdamW, Device, Rounding};
    use crate::dtype::Bf16;

    #[test]
    fn codes_keep_the_mean() {
        const N: u32 = 1 << 12;
        let (m_step, m_inverse) = block_step(3.0, FIRST_TOP);
        let (v_step, v_inverse) = block_step(3.0, SECOND_TOP);
        for x in [3.0_f32, 2.9, 1.0, 0.1, 1e-3, 1e-4] {
            let mean = |value: &dyn Fn(u32) -> f32| {
                let random = |i: u32| (i * (65536 / N)) * 0x0001_0001;
                (0..N).map(|i| f64::from(value(random(i)))).sum::<f64>() / f64::from(N)
            };
            for x in [x, -x] {
                let mean = mean(&|random| first_value(first_code(x, m_inverse, random), m_step));
                assert!((mean / f64::from(x) - 1.0).abs() < 2e-3, "first moment {x}: {mean}");
            }
            let mean = mean(&|random| second_value(second_code(x, v_inverse, random), v_step));
            assert!((mean / f64::from(x) - 1.0).abs() < 2e-3, "second moment {x}: {mean}");
        }
    }

    #[test]
    fn what_is_extreme_has_a_code() {
        for random in [0, 0x7fff_7fff, u32::MAX] {
            for largest in [1e-45_f32, 1e-39, 1e-20, 1.0, 1e30, f32::MAX, f32::INFINITY] {
                let (step, inverse) = block_step(largest, FIRST_TOP);
                assert!(step.is_finite() && inverse.is_finite());
                assert_eq!(first_code(0.0, inverse, random), 0);
                assert_eq!(first_code(-largest, inverse, random) as i8, -127, "{largest}");
                let back = first_value(127, step) / largest.min(LARGEST);
                assert!((back - 1.0).abs() < 1e-5 || largest < 1e-38, "{largest}: {back}");
                let (step, inverse) = block_step(largest, SECOND_TOP);
                assert_eq!(second_code(0.0, inverse, random), 0);
                assert_eq!(second_code(largest, inverse, random), 255, "{largest}");
                // However much smaller than the largest, never 0: it is a denominator.
                assert!(second_code(1e-45, inverse, random) > 0);
                assert!(second_value(255, step).is_finite());
            }
            let (step, inverse) = block_step(0.0, SECOND_TOP);
            assert_eq!((step, inverse, second_code(0.0, inverse, random)), (0.0, 0.0, 0));
            // A NaN has some code: the weight that it made is NaN, which the next loss shows.
            assert_eq!(first_code(f32::NAN, 1.0, random), 127);
        }
    }

    /// The mean of second moments that begin at 1 and should fall towards the square of a gradient of 0.5.
    fn after_steps(format: MomentFormat, steps: u64) -> f64 {
        const LEN: usize = 1 << 12;
        let device = CpuDevice::new(1, Isa::Portable).unwrap();
        let buffer = || device.allocate("moment", format.dtype(), format.buffer_len(LEN)).unwrap();
        let (mut weight, mut gradient, mut first, mut second) = (
            device.allocate("w", DType::F32, LEN).unwrap(),
            device.allocate("g", DType::F32, LEN).unwrap(),
            buffer(),
            buffer(),
        );
        device.write_f32(&mut gradient, 0, &[0.5; LEN]);
        if format == MomentFormat::Bits8 {
            let codes = [u32::MAX; LEN / 4];
            device.write_u32(&mut second, 0, &codes);
            device.write_u32(&mut second, LEN / 4, &[(1.0 / SECOND_TOP).to_bits(); LEN / MOMENT_BLOCK]);
        } else {
            device.write_f32(&mut second, 0, &[1.0; LEN]);
        }
        for step in 1..=steps {
            let update = AdamW {
                lr: 0.0,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.0,
                step,
                gradient_scale: 1.0,
                seed: step,
                weight_rounding: Rounding::Nearest,
            };
            device.adamw(&update, &mut weight, &gradient, [&mut first, &mut second]);
        }
        let values: Vec<f32> = if format == MomentFormat::Bits8 {
            let words = second.slice::<u32>();
            let step = |i: usize| f32::from_bits(words[LEN / 4 + i / MOMENT_BLOCK]);
            let code = |i: usize| words[i / 4].to_le_bytes()[i % 4];
            (0..LEN).map(|i| second_value(code(i), step(i))).collect()
        } else {
            let mut values = vec![0.0; LEN];
            device.read_f32(&second, 0, &mut values);
            values
        };
        values.iter().map(|v| f64::from(*v)).sum::<f64>() / LEN as f64
    }

    /// Why rounding is stochastic: to nearest, a second moment in bf16 does not move at all.
    #[test]
    fn small_changes_arrive_where_rounding_to_nearest_loses_them() {
        const STEPS: u64 = 1000;
        let mut nearest = 1.0_f32;
        for _ in 0..STEPS {
            nearest = Bf16::from_f32(0.999_f32.mul_add(nearest, 0.001 * 0.25)).to_f32();
        }
        assert_eq!(nearest, 1.0);
        let want = after_steps(MomentFormat::F32, STEPS);
        assert!((want - 0.526).abs() < 1e-3, "{want}");
        for format in [MomentFormat::Bf16, MomentFormat::Bits8] {
            let got = after_steps(format, STEPS);
            assert!((got / want - 1.0).abs() < 0.01, "{format:?}: {got}, not {want}");
        }
    }
}
