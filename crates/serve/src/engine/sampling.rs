//! Probabilities to report.

use super::request::TokenLogprobs;

/// Log-softmax of `logits` at the chosen token and at the `top` likeliest ones.
pub(super) fn logprobs(logits: &[f32], chosen: u32, top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|x| libm::exp(f64::from(x - max))).sum();
    let norm = f64::from(max) + libm::log(total);
    let of = |x: f32| (f64::from(x) - norm) as f32;
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let top = top.min(order.len());
    // Likeliest first, the lowest id among equals.
    let rank = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if 0 < top && top < order.len() {
        order.select_nth_unstable_by(top - 1, rank);
    }
    order.truncate(top);
    order.sort_unstable_by(rank);
    let at = |id: u32| (id, of(logits[id as usize]));
    TokenLogprobs { chosen: at(chosen).1, top: order.into_iter().map(at).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_logarithms_of_probabilities_in_order() {
        let found = logprobs(&[1.0, 3.0, 2.0, 3.0], 2, 3);
        let total: f64 = [1f64, 3.0, 2.0, 3.0].iter().map(|x| x.exp()).sum();
        let close = |a: f32, logit: f64| (f64::from(a) - (logit - total.ln())).abs() < 1e-6;
        assert!(close(found.chosen, 2.0));
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        assert!(close(found.top[0].1, 3.0) && close(found.top[2].1, 2.0));
        assert!(logprobs(&[1.0, f32::NEG_INFINITY], 0, 0).top.is_empty());
        assert_eq!(logprobs(&[1.0, 0.0], 0, 9).top.len(), 2);
    }
}
