//! Numbers as people read them.

/// What stands for a number that was not measured.
pub(super) const NOT_MEASURED: &str = "–";

/// With a fixed number of decimals; "–" where not finite.
pub(super) fn decimals(x: f64, places: usize) -> String {
    if x.is_finite() { format!("{x:.places$}") } else { NOT_MEASURED.to_owned() }
}

/// Whole, its digits in groups of three: 12,345.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three digits with a unit of thousands: 7.40 M.
pub(crate) fn short(x: f64) -> String {
    let scaled = |factor: f64, unit: &str| {
        let y = x / factor;
        let places = if y.abs() >= 99.95 { 0 } else { 1 + usize::from(y.abs() < 9.995) };
        format!("{y:.places$} {unit}")
    };
    match x.abs() {
        _ if !x.is_finite() => NOT_MEASURED.to_owned(),
        size if size >= 999.5e9 => scaled(1e12, "T"),
        size if size >= 999.5e6 => scaled(1e9, "G"),
        size if size >= 999.5e3 => scaled(1e6, "M"),
        size if size >= 9_999.5 => scaled(1e3, "k"),
        _ => format!("{x:.0}"),
    }
}

/// Bytes, in units of a thousand.
pub(crate) fn bytes(n: u64) -> String {
    let text = short(n as f64);
    if text.contains(' ') { format!("{text}B") } else { format!("{text} B") }
}

/// The label of a tick: as short as it can be said.
pub(super) fn tick(x: f64) -> String {
    let size = x.abs();
    let (y, unit) = match size {
        _ if x == 0.0 => return "0".to_owned(),
        _ if size >= 1e12 => (x / 1e12, " T"),
        _ if size >= 1e9 => (x / 1e9, " G"),
        _ if size >= 1e6 => (x / 1e6, " M"),
        _ if size >= 1e3 => (x / 1e3, " k"),
        // Learning rates: all labels of their axis in one notation.
        _ if size < 1e-2 => return exponent(x),
        _ => (x, ""),
    };
    // Rounding undoes what adding up steps of 0.1 did.
    let digits = format!("{y:.6}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}{unit}")
}

fn exponent(x: f64) -> String {
    let text = format!("{x:.4e}");
    match text.split_once('e') {
        Some((digits, power)) if digits.contains('.') => {
            format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(decimals(1.447_4, 3), "1.447");
        assert_eq!(decimals(f64::NAN, 3), "–");
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), text);
        }
        for (x, text) in [
            (0.0, "0"),
            (9_999.0, "9999"),
            (12_345.0, "12.3 k"),
            (999_499.0, "999 k"),
            (999_600.0, "1.00 M"),
            (7.4e6, "7.40 M"),
            (12_999_936.0, "13.0 M"),
            (1e10, "10.0 G"),
            (2.4e19, "24000000 T"),
            (f64::INFINITY, "–"),
        ] {
            assert_eq!(short(x), text);
        }
        assert_eq!((bytes(512), bytes(8_900_000)), ("512 B".into(), "8.90 MB".into()));
    }

    #[test]
    fn ticks_are_short() {
        for (x, text) in [
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (1.5, "1.5"),
            (1000.0, "1 k"),
            (2.5e6, "2.5 M"),
            (1e10, "10 G"),
            (0.0003, "3e-4"),
            (0.002, "2e-3"),
            (0.05, "0.05"),
            (-0.5, "-0.5"),
            (0.00025, "2.5e-4"),
        ] {
            assert_eq!(tick(x), text);
        }
    }
}
