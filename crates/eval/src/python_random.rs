//! `random.Random(seed).sample(...)` of Python 3, by which lm-evaluation-harness draws the examples that precede a question.

use std::collections::HashSet;

use rand_mt::Mt;

/// Python's generator.
pub struct PythonRandom(Mt);

impl PythonRandom {
    /// The state of `random.Random(seed)`.
    pub fn new(seed: u32) -> Self {
        PythonRandom(Mt::new_with_key([seed]))
    }

    /// A number below `n`, which is at least 1: bits are drawn until they make one.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.0.next_u32() >> (32 - bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `count` different places of `0..n`, as `sample(range(n), count)` gives them. `n` is below 2^32.
    ///
    /// # Panics
    /// `count` is more than `n`.
    pub fn sample(&mut self, n: usize, count: usize) -> Vec<usize> {
        assert!(count <= n, "a sample is no larger than what it is of");
        // Python keeps the smaller of two structures: a list of all, or a set of those chosen.
        let mut set_size = 21;
        if count > 5 {
            set_size += 4_usize.pow((count as f64 * 3.0).log(4.0).ceil() as u32);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..count)
                .map(|i| {
                    let at = self.below(n - i);
                    let last = pool[n - i - 1];
                    std::mem::replace(&mut pool[at], last)
                })
                .collect();
        }
        let mut chosen = HashSet::new();
        std::iter::repeat_with(|| self.below(n)).filter(|at| chosen.insert(*at)).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_those_of_python() {
        // python3 -c "import random; r = random.Random(1234); print([r.sample(range(n), k) for n, k in ...])"
        let mut random = PythonRandom::new(1234);
        SAMPLES.iter().for_each(|(n, count, expected)| assert_eq!(random.sample(*n, *count), *expected, "{n} {count}"));
    }

    const SAMPLES: [(usize, usize, &[usize]); 5] = [
        (5, 3, &[3, 0, 4]),
        (21, 5, &[2, 18, 1, 20, 3]),
        (39905, 10, &[23241, 15519, 1142, 2019, 1038, 22681, 31735, 30379, 9735, 5982]),
        (285, 5, &[93, 58, 7, 257, 249]),
        (86, 25, &[31, 8, 69, 59, 84, 76, 11, 65, 74, 5, 34, 71, 81, 38, 61, 45, 75, 85, 25, 58, 2, 9, 0, 21, 64]),
    ];
}
