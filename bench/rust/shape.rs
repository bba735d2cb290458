// What both rivals are asked for, and how they answer: the flags and the JSON line of `casallm bench train`.

use std::time::Instant;

pub struct Shape {
    pub n_layer: usize,
    pub n_embd: usize,
    pub n_head: usize,
    pub vocab_size: usize,
    pub context: usize,
    pub batch: usize,
    pub steps: usize,
}

impl Shape {
    /// From `--name value` pairs, all of them.
    pub fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let value = |name: &str| {
            let pair = arguments.chunks(2).find(|pair| pair[0] == name);
            let text = pair.and_then(|pair| pair.get(1)).unwrap_or_else(|| panic!("{name} is missing"));
            text.parse().unwrap_or_else(|_| panic!("{name} {text}: not a number"))
        };
        Shape {
            n_layer: value("--n-layer"),
            n_embd: value("--n-embd"),
            n_head: value("--n-head"),
            vocab_size: value("--vocab-size"),
            context: value("--context"),
            batch: value("--batch"),
            steps: value("--steps"),
        }
    }

    /// Ids of `batch` rows, one more than the context each.
    pub fn ids(&self) -> Vec<u32> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % self.vocab_size as u32
        };
        (0..self.batch * (self.context + 1)).map(|_| next()).collect()
    }

    /// The inputs, or with 1 the targets: each row without its last id, or without its first.
    pub fn shifted(&self, by: usize) -> Vec<u32> {
        self.ids().chunks(self.context + 1).flat_map(|row| row[by..by + self.context].to_vec()).collect()
    }

    /// Cosines and sines of RoPE, `[context, head_dim / 2]`.
    pub fn rope(&self) -> (Vec<f32>, Vec<f32>) {
        let half = self.n_embd / self.n_head / 2;
        let angle = |t: usize, i: usize| t as f64 * 10_000_f64.powf(-(i as f64) / half as f64);
        let table = |f: fn(f64) -> f64| {
            (0..self.context).flat_map(|t| (0..half).map(move |i| f(angle(t, i)) as f32)).collect()
        };
        (table(f64::cos), table(f64::sin))
    }

    /// 0 where a query sees a key and minus infinity where it does not, `[context, context]`.
    pub fn mask(&self) -> Vec<f32> {
        let t = self.context;
        (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect()
    }

    /// Times `step`, which gives the loss, once to warm up and then `steps` times; prints the JSON line.
    pub fn time(&self, library: &str, params: usize, mut step: impl FnMut() -> f32) {
        let mut seconds = Vec::new();
        let mut losses = Vec::new();
        for _ in 0..=self.steps {
            let begun = Instant::now();
            losses.push(step());
            seconds.push(begun.elapsed().as_secs_f64());
        }
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        // With one batch again and again it has to fall, or nothing is being trained.
        assert!(losses[losses.len() - 1] < losses[0], "the loss does not fall: {losses:?}");
        let mut seconds = seconds.split_off(1);
        seconds.sort_by(f64::total_cmp);
        let tokens_per_s = (self.batch * self.context) as f64 / seconds[seconds.len() / 2];
        let flops = 6 * params + 6 * self.n_layer * self.n_embd * self.context;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib: u64 = peak.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
        println!(
            r#"{{"tokens_per_s":{tokens_per_s},"gflops_per_s":{},"params":{params},"peak_bytes":{},"isa":"{library}"}}"#,
            flops as f64 * tokens_per_s / 1e9,
            peak_kib * 1024,
        );
    }
}
