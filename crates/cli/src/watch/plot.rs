//! A curve in letters: Unicode's braille patterns, two dots wide and four high in each.

/// Which bit is the dot in column 0 or 1, row 0 to 3.
const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// `height` lines of `width` letters of a curve whose x ascend, and the least and the largest value that they show. Each
/// column of dots shows the mean of its points, joined with the one before.
pub(super) fn braille(points: &[(f64, f64)], width: usize, height: usize) -> (Vec<String>, [f64; 2]) {
    let (columns, rows) = (2 * width, 4 * height);
    let mut cells = vec![vec![0_u8; width]; height];
    let means = joined(means(points, columns));
    let of = |pick: fn(f64, f64) -> f64, from| means.iter().flatten().fold(from, |a, b| pick(a, *b));
    let (least, most) = (of(f64::min, f64::INFINITY), of(f64::max, f64::NEG_INFINITY));
    let lines = |cells: Vec<Vec<u8>>| {
        let letter = |bits: u8| char::from_u32(0x2800 + u32::from(bits)).unwrap_or(' ');
        cells.into_iter().map(|row| row.into_iter().map(letter).collect()).collect()
    };
    if least > most || rows == 0 {
        return (lines(cells), [0.0, 0.0]);
    }
    let place = |value: f64| {
        let share = if most > least { (value - least) / (most - least) } else { 0.5 };
        ((1.0 - share) * (rows - 1) as f64).round() as usize
    };
    let mut before = None;
    for (column, mean) in means.iter().enumerate() {
        let Some(row) = mean.map(place) else { continue };
        let joined = match before {
            Some(before) if before < row => before + 1..=row,
            Some(before) if before > row => row..=before - 1,
            _ => row..=row,
        };
        for row in joined {
            cells[row / 4][column / 2] |= DOTS[column % 2][row % 4];
        }
        before = Some(row);
    }
    (lines(cells), [least, most])
}

/// Parts without a value that lie between others have what lies on the straight line between those.
fn joined(mut means: Vec<Option<f64>>) -> Vec<Option<f64>> {
    let mut before: Option<(usize, f64)> = None;
    for column in 0..means.len() {
        let Some(value) = means[column] else { continue };
        if let Some((from, first)) = before {
            for (offset, gap) in means[from..column].iter_mut().enumerate().skip(1) {
                *gap = Some(first + (value - first) * offset as f64 / (column - from) as f64);
            }
        }
        before = Some((column, value));
    }
    means
}

/// The mean of the values of each of so many equal parts of the x axis.
fn means(points: &[(f64, f64)], columns: usize) -> Vec<Option<f64>> {
    let (Some((first, _)), Some((last, _))) = (points.first(), points.last()) else { return vec![None; columns] };
    let mut sums = vec![(0.0, 0.0); columns];
    for (x, value) in points {
        let share = if last > first { (x - first) / (last - first) } else { 0.0 };
        let column = ((share * columns as f64) as usize).min(columns.saturating_sub(1));
        if let Some((sum, count)) = sums.get_mut(column) {
            *sum += value;
            *count += 1.0;
        }
    }
    sums.into_iter().map(|(sum, count)| (count > 0.0).then(|| sum / count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_curve_falls() {
        let points: Vec<_> = (0..8).map(|x| (f64::from(x), f64::from(7 - x))).collect();
        let (lines, range) = braille(&points, 4, 2);
        assert_eq!((lines, range), (vec!["⠑⢄⠀⠀".to_owned(), "⠀⠀⠑⢄".to_owned()], [0.0, 7.0]));
    }

    #[test]
    fn few_points_one_point_and_none() {
        assert_eq!(braille(&[(0.0, 1.0), (9.0, 2.0)], 2, 1).0, ["⡠⠊"]);
        assert_eq!(braille(&[(3.0, 1.0)], 2, 1), (vec!["⠄⠀".to_owned()], [1.0, 1.0]));
        assert_eq!(braille(&[], 2, 1).0, ["⠀⠀"]);
        assert!(braille(&[(3.0, 1.0)], 0, 0).0.is_empty());
    }
}
