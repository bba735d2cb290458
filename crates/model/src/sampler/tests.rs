use super::*;
use proptest::prelude::*;

/// Everything off but temperature 1.
fn plain() -> SamplerConfig {
    SamplerConfig { temperature: 1.0, top_k: 0, top_p: 1.0, ..SamplerConfig::default() }
}

/// How often each token is drawn out of `n`.
fn counts(config: SamplerConfig, logits: &[f32], history: &[u32], n: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(config).unwrap();
    let mut counts = vec![0; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(logits, history).unwrap() as usize] += 1;
    }
    counts
}

/// The tokens that are ever drawn.
fn support(config: SamplerConfig, logits: &[f32]) -> Vec<usize> {
    let counts = counts(config, logits, &[], 3000);
    counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(token, _)| token).collect()
}

fn ln(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() + 3.0).collect()
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(SamplerConfig::greedy()).unwrap();
    assert_eq!(sampler.sample(&[1.0, 5.0, -2.0, 5.0], &[]).unwrap(), 1);
    assert_eq!(sampler.sample(&[0.0, -0.0], &[]).unwrap(), 0);
    assert_eq!(sampler.sample(&[-0.0, 0.0], &[]).unwrap(), 0);
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, f32::MIN], &[]).unwrap(), 1);
}

#[test]
fn draws_follow_the_softmax() {
    let probabilities = [0.5, 0.3, 0.15, 0.05];
    let n = 20_000;
    for (count, p) in counts(plain(), &ln(&probabilities), &[], n).into_iter().zip(probabilities) {
        let expected = f64::from(p) * n as f64;
        let deviation = (expected * (1.0 - f64::from(p))).sqrt();
        assert!((count as f64 - expected).abs() < 5.0 * deviation, "{count} for {expected}");
    }
}

#[test]
fn temperature_sharpens_and_flattens() {
    let logits = ln(&[0.6, 0.4]);
    let share = |temperature| counts(SamplerConfig { temperature, ..plain() }, &logits, &[], 10_000)[0] as f64 / 1e4;
    // p^(1/T) / sum: 0.36 / 0.52 at T = 0.5; sqrt at T = 2.
    assert!((share(0.5) - 0.6923).abs() < 0.025);
    assert!((share(2.0) - 0.5505).abs() < 0.025);
    assert_eq!(share(1e-30), 1.0);
    assert!((share(1e30) - 0.5).abs() < 0.025);
}

#[test]
fn top_k_keeps_the_k_most_likely() {
    let logits = ln(&[0.1, 0.3, 0.2, 0.25, 0.15]);
    let with = |top_k| support(SamplerConfig { top_k, ..plain() }, &logits);
    assert_eq!(with(1), [1]);
    assert_eq!(with(2), [1, 3]);
    assert_eq!(with(4), [1, 2, 3, 4]);
    assert_eq!(with(0), [0, 1, 2, 3, 4]);
    assert_eq!(with(usize::MAX), [0, 1, 2, 3, 4]);
}

#[test]
fn among_ties_top_k_keeps_the_lowest_ids() {
    assert_eq!(support(SamplerConfig { top_k: 3, ..plain() }, &[1.0; 8]), [0, 1, 2]);
}

#[test]
fn top_p_keeps_the_fewest_that_hold_the_mass() {
    let logits = ln(&[0.1, 0.4, 0.2, 0.3]);
    let with = |top_p| support(SamplerConfig { top_p, ..plain() }, &logits);
    assert_eq!(with(1e-9), [1]);
    assert_eq!(with(0.39), [1]);
    assert_eq!(with(0.41), [1, 3]);
    assert_eq!(with(0.69), [1, 3]);
    assert_eq!(with(0.71), [1, 2, 3]);
    assert_eq!(with(1.0), [0, 1, 2, 3]);
}

#[test]
fn top_p_is_of_what_top_k_left() {
    // Of 0.4 + 0.3, the first holds 0.57: it alone reaches 0.5, though not of the whole.
    let logits = ln(&[0.1, 0.4, 0.2, 0.3]);
    assert_eq!(support(SamplerConfig { top_k: 2, top_p: 0.5, ..plain() }, &logits), [1]);
}

#[test]
fn top_p_over_a_flat_vocabulary_needs_more_than_the_first_guess() {
    let config = SamplerConfig { top_p: 0.5, ..plain() };
    let drawn = support(config, &[0.25; 1000]);
    assert!(drawn.len() > 400 && drawn.iter().all(|&token| token < 501), "{}", drawn.len());
}

#[test]
fn min_p_is_relative_to_the_most_likely() {
    let logits = ln(&[0.1, 0.4, 0.21, 0.29]);
    let with = |min_p| support(SamplerConfig { min_p, ..plain() }, &logits);
    assert_eq!(with(0.5), [1, 2, 3]);
    assert_eq!(with(0.6), [1, 3]);
    assert_eq!(with(1.0), [1]);
    assert_eq!(with(0.0), [0, 1, 2, 3]);
}

#[test]
fn the_penalty_lowers_logits_of_either_sign_once() {
    let config = SamplerConfig { repetition_penalty: 2.0, ..SamplerConfig::greedy() };
    let greedy =
        |logits: &[f32], history: &[u32]| Sampler::new(config.clone()).unwrap().sample(logits, history).unwrap();
    assert_eq!(greedy(&[3.0, 2.0], &[]), 0);
    assert_eq!(greedy(&[3.0, 2.0], &[0]), 1);
    assert_eq!(greedy(&[-1.0, -1.5], &[0]), 1);
    // Twice in the history is penalised as once: 3 / 2 stays above 1.
    assert_eq!(greedy(&[3.0, 1.0], &[0, 0, 0]), 0);
    assert_eq!(greedy(&[3.0, 2.0], &[7, u32::MAX]), 0);
}

#[test]
fn the_window_ends_the_penalty() {
    let greedy = |repetition_window, history: &[u32]| {
        let config = SamplerConfig { repetition_penalty: 2.0, repetition_window, ..SamplerConfig::greedy() };
        Sampler::new(config).unwrap().sample(&[3.0, 2.0, 0.1], history).unwrap()
    };
    assert_eq!(greedy(2, &[0, 2, 2]), 0);
    assert_eq!(greedy(3, &[0, 2, 2]), 1);
    assert_eq!(greedy(0, &[0, 2, 2]), 1);
    assert_eq!(greedy(100, &[0, 2, 2]), 1);
}

#[test]
fn what_is_spared_is_not_penalised() {
    let config = SamplerConfig { repetition_penalty: 2.0, ..SamplerConfig::greedy() };
    let greedy = |spared: &[u32], history: &[u32]| {
        Sampler::new(config.clone()).unwrap().sparing(spared).sample(&[3.0, 2.0, 2.5], history).unwrap()
    };
    assert_eq!(greedy(&[], &[0, 1]), 2);
    assert_eq!(greedy(&[0], &[0, 1]), 0);
    assert_eq!(greedy(&[1, 9], &[0, 2]), 1);
}

#[test]
fn a_penalty_that_nobody_asked_for_leaves_greedy_what_it_promises() {
    let usual = |temperature| SamplerConfig { temperature, repetition_penalty: 2.0, ..SamplerConfig::default() };
    for (temperature, asked, expected) in
        [(0.0, None, 1.0), (0.0, Some(1.5), 1.5), (0.7, None, 2.0), (0.7, Some(1.0), 1.0)]
    {
        assert_eq!(usual(temperature).penalised(asked).repetition_penalty, expected, "{temperature} {asked:?}");
    }
}

#[test]
fn the_seed_decides() {
    let draw = |seed| {
        let mut sampler = Sampler::new(SamplerConfig { seed, ..plain() }).unwrap();
        (0..64).map(|_| sampler.sample(&[0.0; 16], &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn logits_that_are_no_numbers_are_refused_and_ruled_out_tokens_never_drawn() {
    for config in [plain(), SamplerConfig::greedy(), SamplerConfig::default()] {
        let mut sampler = Sampler::new(config).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let result = sampler.sample(&[0.0, bad], &[]);
            assert!(matches!(result, Err(ModelError::BadLogit { token: 1, .. })), "{result:?}");
        }
        for none in [&[][..], &[f32::NEG_INFINITY; 3]] {
            let result = sampler.sample(none, &[]);
            assert!(matches!(result, Err(ModelError::NoToken { vocab_size }) if vocab_size == none.len()));
        }
        let one = [f32::NEG_INFINITY, f32::MIN, f32::NEG_INFINITY];
        assert!((0..100).all(|_| sampler.sample(&one, &[0, 1]).unwrap() == 1));
    }
}

#[test]
fn every_bad_setting_is_refused_by_its_name() {
    let refused = |change: fn(&mut SamplerConfig)| {
        let mut config = plain();
        change(&mut config);
        match Sampler::new(config) {
            Err(ModelError::Sampler { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|c| c.temperature = -0.1), "temperature");
    assert_eq!(refused(|c| c.temperature = f32::NAN), "temperature");
    assert_eq!(refused(|c| c.temperature = f32::INFINITY), "temperature");
    assert_eq!(refused(|c| c.top_p = 0.0), "top_p");
    assert_eq!(refused(|c| c.top_p = 1.1), "top_p");
    assert_eq!(refused(|c| c.top_p = f32::NAN), "top_p");
    assert_eq!(refused(|c| c.min_p = -0.1), "min_p");
    assert_eq!(refused(|c| c.min_p = 1.1), "min_p");
    assert_eq!(refused(|c| c.repetition_penalty = 0.0), "repetition_penalty");
    assert_eq!(refused(|c| c.repetition_penalty = f32::INFINITY), "repetition_penalty");
}

#[test]
fn an_unknown_setting_is_named() {
    let error = serde_json::from_str::<SamplerConfig>("{\"topk\": 3}").unwrap_err();
    assert!(error.to_string().contains("topk"));
    let config: SamplerConfig = serde_json::from_str("{\"top_k\": 3}").unwrap();
    assert_eq!(config, SamplerConfig { top_k: 3, ..SamplerConfig::default() });
}

proptest! {
    /// Against the definition: full sort, no partial selection.
    #[test]
    fn only_tokens_that_the_definitions_keep_are_drawn(
        logits in prop::collection::vec(-6.0f32..6.0, 1..400),
        top_k in 0usize..450,
        top_p in 0.01f32..=1.0,
        min_p in 0.0f32..0.5,
        seed: u64,
    ) {
        let mut ranked: Vec<(f64, usize)> = logits.iter().enumerate().map(|(i, &l)| (f64::from(l).exp(), i)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if top_k > 0 {
            ranked.truncate(top_k);
        }
        let all: f64 = ranked.iter().map(|r| r.0).sum();
        let mut before = 0.0;
        let allowed: Vec<usize> = ranked
            .iter()
            .filter(|(weight, _)| {
                // A hair of slack on both limits, where rounding decides.
                let kept = before < f64::from(top_p) * all * (1.0 + 1e-9)
                    && *weight >= f64::from(min_p) * ranked[0].0 * (1.0 - 1e-9);
                before += weight;
                kept
            })
            .map(|r| r.1)
            .collect();
        let mut sampler = Sampler::new(SamplerConfig { top_k, top_p, min_p, seed, ..plain() }).unwrap();
        for _ in 0..8 {
            let token = sampler.sample(&logits, &[]).unwrap() as usize;
            prop_assert!(allowed.contains(&token));
        }
    }
}
