//! 8-bit floating-point numbers: two formats, and what their codes mean.

/// An 8-bit floating-point format (Micikevicius et al. 2022, arXiv 2209.05433).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// 4 bits of exponent, 3 of mantissa, largest 448, no infinities: weights and activations.
    E4m3,
    /// 5 bits of exponent, 2 of mantissa, largest 57,344: gradients, whose magnitudes lie further apart.
    E5m2,
}

/// What a NaN is written as in either format.
const NAN: u8 = 0x7f;

impl Fp8 {
    /// The lower-case name used in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Fp8::E4m3 => "e4m3",
            Fp8::E5m2 => "e5m2",
        }
    }

    /// Bits of the mantissa.
    const fn mantissa(self) -> u32 {
        match self {
            Fp8::E4m3 => 3,
            Fp8::E5m2 => 2,
        }
    }

    /// The code of the largest number.
    const fn largest_code(self) -> u8 {
        match self {
            Fp8::E4m3 => 0x7e,
            Fp8::E5m2 => 0x7b,
        }
    }

    /// The largest number.
    pub const fn largest(self) -> f32 {
        match self {
            Fp8::E4m3 => 448.0,
            Fp8::E5m2 => 57_344.0,
        }
    }

    /// What a code stands for, exactly.
    pub fn decode(self, code: u8) -> f32 {
        let (mantissa_bits, magnitude) = (self.mantissa(), code & 0x7f);
        let exponent_bits = 7 - mantissa_bits;
        let bias = (1 << (exponent_bits - 1)) - 1;
        let exponent = i32::from(magnitude >> mantissa_bits);
        let mantissa = f32::from(magnitude & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits) as f32;
        let value = match magnitude {
            _ if self == Fp8::E5m2 && magnitude == 0x7c => f32::INFINITY,
            _ if magnitude > self.largest_code() => f32::NAN,
            // Subnormal: no hidden one.
            _ if exponent == 0 => mantissa * f32::powi(2.0, 1 - bias),
            _ => (1.0 + mantissa) * f32::powi(2.0, exponent - bias),
        };
        if code & 0x80 == 0 { value } else { -value }
    }

    /// The code nearest to a number, of two equally near the even one; the largest for everything beyond it, infinities
    /// included; for a NaN a NaN. Tries all codes: the kernels' conversions are held to this.
    pub fn encode(self, x: f32) -> u8 {
        if x.is_nan() {
            return NAN;
        }
        let magnitude = f64::from(x.abs().min(self.largest()));
        let distance = |code: &u8| (f64::from(self.decode(*code)) - magnitude).abs();
        let nearest = (0..=self.largest_code()).min_by(|a, b| {
            let order = distance(a).total_cmp(&distance(b));
            order.then((a & 1).cmp(&(b & 1)))
        });
        nearest.unwrap_or(NAN) | if x.is_sign_negative() { 0x80 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_the_paper_tabulates() {
        let e4m3 = |code| Fp8::E4m3.decode(code);
        assert_eq!((e4m3(0x7e), e4m3(0x08), e4m3(0x07), e4m3(0x01)), (448.0, 0.015_625, 0.013_671_875, 0.001_953_125));
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let e5m2 = |code| Fp8::E5m2.decode(code);
        assert_eq!(
            (e5m2(0x7b), e5m2(0x04), e5m2(0x03), e5m2(0x01)),
            (57_344.0, 6.103_515_6e-5, 4.577_636_7e-5, 1.525_878_9e-5)
        );
        assert_eq!((e5m2(0x7c), e5m2(0xfc)), (f32::INFINITY, f32::NEG_INFINITY));
        assert!((0x7d..=0x7f).all(|code| e5m2(code).is_nan()));
        assert_eq!((e4m3(0x38), e4m3(0xb8), e5m2(0x3c)), (1.0, -1.0, 1.0));
        assert!(e4m3(0x80) == 0.0 && e4m3(0x80).is_sign_negative());
    }

    #[test]
    fn every_code_comes_back_and_between_two_the_nearer_is_taken() {
        for format in [Fp8::E4m3, Fp8::E5m2] {
            for code in 0..=255_u8 {
                let value = format.decode(code);
                if value.is_finite() {
                    assert_eq!(format.encode(value), code, "{} {code:#x}", format.name());
                }
            }
            for code in 0..format.largest_code() {
                let (low, high) = (format.decode(code), format.decode(code + 1));
                let middle = low + (high - low) / 2.0;
                let even = code + (code & 1);
                assert!(low < high, "codes rise with values");
                assert_eq!(format.encode(middle), even, "a tie above {low:e}");
                assert_eq!(format.encode(f32::from_bits(middle.to_bits() - 1)), code, "just below a tie");
                assert_eq!(format.encode(-f32::from_bits(middle.to_bits() + 1)), (code + 1) | 0x80, "just above a tie");
            }
        }
    }

    #[test]
    fn what_is_too_large_is_the_largest_and_a_nan_stays_one() {
        for format in [Fp8::E4m3, Fp8::E5m2] {
            for x in [f32::INFINITY, f32::MAX, format.largest() * 1.5] {
                assert_eq!(format.decode(format.encode(x)), format.largest());
                assert_eq!(format.decode(format.encode(-x)), -format.largest());
            }
            assert!(format.decode(format.encode(f32::NAN)).is_nan());
            assert_eq!((format.encode(1e-30), format.encode(-1e-30)), (0, 0x80));
        }
    }
}
