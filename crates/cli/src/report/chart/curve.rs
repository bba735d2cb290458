//! Curves of many thousand steps, made smooth and short enough to draw.

use super::super::data::Point;

/// The mean over a window of about a fiftieth of the curve, centred, shorter at the beginning, where the loss falls
/// steeply and a mean of later steps would lie above it. Gaps stay gaps.
pub(in super::super) fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = points.len() / 100;
    (0..points.len())
        .map(|i| {
            let reach = reach.min(i / 4);
            let window = &points[i - reach..=(i + reach).min(points.len() - 1)];
            let finite = window.iter().map(|p| p.y).filter(|y| y.is_finite());
            let (sum, count) = finite.fold((0.0, 0), |(sum, count), y| (sum + y, count + 1));
            let y = if count == 0 || !points[i].y.is_finite() { f64::NAN } else { sum / f64::from(count) };
            Point { x: points[i].x, y }
        })
        .collect()
}

/// At most two points for each of `columns` of the drawing: the lowest and the highest, in their order. `position`
/// tells where a point lies, in `[0, 1]`.
pub(super) fn thinned(points: &[Point], columns: usize, position: impl Fn(f64) -> f64) -> Vec<Point> {
    if points.len() <= 2 * columns {
        return points.to_vec();
    }
    let column = |point: &Point| (position(point.x) * columns as f64).floor();
    let mut out = Vec::with_capacity(2 * columns);
    for group in points.chunk_by(|a, b| column(a) == column(b) && a.y.is_finite() == b.y.is_finite()) {
        let by_y = |a: &(usize, &Point), b: &(usize, &Point)| a.1.y.total_cmp(&b.1.y);
        let low = group.iter().enumerate().min_by(by_y).map(|(i, _)| i);
        let high = group.iter().enumerate().max_by(by_y).map(|(i, _)| i);
        if let (Some(low), Some(high)) = (low, high) {
            out.push(group[low.min(high)]);
            if low != high {
                out.push(group[low.max(high)]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: usize, y: impl Fn(usize) -> f64) -> Vec<Point> {
        (0..n).map(|i| Point { x: i as f64, y: y(i) }).collect()
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_flattens_noise() {
        let straight = line(1000, |i| i as f64);
        for (a, b) in smoothed(&straight).iter().zip(&straight).take(990) {
            assert!((a.y - b.y).abs() < 1e-9);
        }
        let noisy = line(1000, |i| if i % 2 == 0 { 1.0 } else { -1.0 });
        assert!(smoothed(&noisy)[500].y.abs() < 0.06);
        assert!(smoothed(&[]).is_empty());
        assert_eq!(smoothed(&line(1, |_| 3.0))[0].y, 3.0);
    }

    #[test]
    fn a_gap_stays_a_gap_and_spoils_no_neighbour() {
        let gap = line(1000, |i| if i == 500 { f64::NAN } else { 2.0 });
        let smooth = smoothed(&gap);
        assert!(smooth[500].y.is_nan());
        assert!(smooth.iter().enumerate().all(|(i, p)| i == 500 || p.y == 2.0));
        let thin = thinned(&gap, 100, |x| x / 1000.0);
        assert_eq!(thin.iter().filter(|p| p.y.is_nan()).count(), 1);
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let spiky = line(100_000, |i| if i == 77_777 { 9.0 } else { (i % 7) as f64 * 0.1 });
        let thin = thinned(&spiky, 300, |x| x / 100_000.0);
        assert!(thin.len() <= 602 && thin.iter().any(|p| p.y == 9.0));
        assert!(thin.windows(2).all(|pair| pair[0].x < pair[1].x));
    }
}
