//! What an optimizer's moments become in little memory: rounded stochastically, to bf16 or to one of the levels of 8 bits.

/// A random number in `(0, 1)`, as the devices make one of 16 bits.
pub fn fraction(random: u32) -> f64 {
    (f64::from(random % 65536) + 0.5) / 65536.0
}

/// The bf16 next to zero or the one next to it: which, the lower 16 bits of `random` decide. A bf16 is the upper half of
/// an f32.
pub fn bf16(x: f32, random: u32) -> f32 {
    let (bits, random) = (u64::from(x.to_bits()), u64::from(random % 65536));
    let below = bits / 65536 * 65536;
    let up = bits - below + random >= 65536;
    f32::from_bits((below + if up { 65536 } else { 0 }) as u32)
}

/// What code `c` of a first moment stands for, in a block whose largest magnitude is `largest`: `(c / 127)²` of it, with
/// the sign of `c`.
pub fn first_level(c: i32, largest: f64) -> f64 {
    let c = f64::from(c);
    largest * c * c.abs() / (127.0 * 127.0)
}

/// What code `c` of a second moment stands for: `(c / 255)^4` of the block's largest.
pub fn second_level(c: i32, largest: f64) -> f64 {
    largest * (f64::from(c) / 255.0).powi(4)
}

/// The code of one of the two levels around `x`, the upper one with the probability of the place between them.
fn code(x: f64, top: i32, level: impl Fn(i32) -> f64, fraction: f64) -> i32 {
    let below = (0..=top).rev().find(|c| level(*c) <= x).unwrap_or(0);
    let place = (x - level(below)) / (level(below + 1) - level(below));
    if below < top && fraction < place { below + 1 } else { below }
}

/// A first moment's code.
pub fn first_code(m: f64, largest: f64, fraction: f64) -> i32 {
    if largest == 0.0 {
        return 0;
    }
    let magnitude = code(m.abs(), 127, |c| first_level(c, largest), fraction);
    if m < 0.0 { -magnitude } else { magnitude }
}

/// A second moment's code: 0 for 0 alone, since the first moment is divided by its root.
pub fn second_code(v: f64, largest: f64, fraction: f64) -> i32 {
    if v == 0.0 { 0 } else { code(v, 255, |c| second_level(c, largest), fraction).max(1) }
}
