use super::*;

use casallm_compute::{CpuDevice, DType, Isa, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::parameters::Parameters;
use casallm_model::specification::ParameterSpec;
use proptest::prelude::*;

const VOCAB_SIZE: usize = 61;
const CONTEXT: usize = 160;

fn network(dtype: DType) -> Network<CpuDevice> {
    let config = ModelConfig::modern(2, 32, 4, 2, VOCAB_SIZE, CONTEXT).unwrap();
    let device = Arc::new(CpuDevice::new(2, Isa::detect().unwrap()).unwrap());
    let parameters = Parameters::random(device, &config, dtype.into(), 3).unwrap();
    Network::new(config, dtype, parameters).unwrap()
}

/// A text read alone, one token after the other.
fn alone(network: &Network<CpuDevice>, request: &Request) -> (f64, bool) {
    let mut decoder = Decoder::new(network, CONTEXT).unwrap();
    let (mut logprob, mut leads) = (0.0, true);
    for (i, pair) in request.tokens.windows(2).enumerate() {
        let logits = decoder.extend(&pair[..1]).unwrap();
        if i + 1 < request.scored_from {
            continue;
        }
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
        let logit = logits[pair[1] as usize];
        logprob += f64::from(logit - max) - sum.ln();
        leads &= logit == max;
    }
    (logprob, leads)
}

fn all(network: &Network<CpuDevice>, groups: &[Group], shape: (usize, usize)) -> Vec<Vec<Score>> {
    let mut found = vec![Vec::new(); groups.len()];
    score_in(network, groups, shape, &mut |i, scores| {
        assert!(found[i].is_empty(), "group {i} ends twice");
        found[i] = scores;
        Ok(())
    })
    .unwrap();
    found
}

/// Groups whose texts begin alike, some of them as other groups do.
fn groups() -> impl Strategy<Value = Vec<Group>> {
    let id = 0..VOCAB_SIZE as u32;
    let text = move |range: std::ops::Range<usize>| prop::collection::vec(id.clone(), range);
    let group = (text(1..60), prop::collection::vec(text(1..20), 1..5), any::<bool>());
    (text(17..40), prop::collection::vec(group, 1..12)).prop_map(|(header, groups)| {
        let header: Arc<[u32]> = header.into();
        let group = |(context, ends, is_shared): (Vec<u32>, Vec<Vec<u32>>, bool)| {
            let context = if is_shared { [&header[..], &context[..]].concat() } else { context };
            let request = |end: Vec<u32>| Request {
                tokens: [&context[..], &end[..]].concat(),
                scored_from: context.len(),
                cut: 0,
            };
            let requests = ends.into_iter().map(request).collect();
            Group { shared: is_shared.then(|| header.clone()), requests, leads: true }
        };
        groups.into_iter().map(group).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn company_changes_nothing(groups in groups()) {
        let network = network(DType::F32);
        let together = all(&network, &groups, (PASS_TOKENS, MAX_SEQUENCES));
        for (group, scores) in groups.iter().zip(&together) {
            for (request, score) in group.requests.iter().zip(scores) {
                let (logprob, leads) = alone(&network, request);
                prop_assert!((score.logprob - logprob).abs() < 1e-4, "{} alone, {} in company", logprob, score.logprob);
                prop_assert_eq!(score.leads, leads);
                prop_assert_eq!(score.tokens, request.tokens.len() - request.scored_from);
            }
        }
        // On a processor not a bit: whatever was done before an interruption, the rest comes out the same.
        let (_, rest) = groups.split_at(groups.len() / 2);
        prop_assert_eq!(&all(&network, rest, (PASS_TOKENS, MAX_SEQUENCES))[..], &together[groups.len() / 2..]);
        prop_assert_eq!(&all(&network, &groups, (PASS_TOKENS, 1)), &together);
        // Passes so short that texts are cut into pieces.
        for (group, again) in together.iter().zip(all(&network, &groups, (24, 3))) {
            for (score, again) in group.iter().zip(again) {
                prop_assert!((score.logprob - again.logprob).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn what_texts_have_in_common_is_read_once() {
    let request = |tokens: &[u32], scored_from| Request { tokens: tokens.to_vec(), scored_from, cut: 0 };
    let read = |group: &Group| -> Vec<(usize, usize, usize, usize)> {
        steps(group, 0, 512).iter().map(|s| (s.request, s.from, s.to, s.targets.len())).collect()
    };
    // Four letters after one question: a single reading of the question, all four targets at its end.
    let requests = (10..14).map(|letter| request(&[1, 2, 3, letter], 3)).collect();
    assert_eq!(read(&Group { requests, ..Group::default() }), [(0, 0, 3, 4)]);
    // Longer answers: the second is read from where it departs; its first token is scored with the question.
    let requests = vec![request(&[1, 2, 3, 7, 8, 9], 3), request(&[1, 2, 3, 4, 5, 6], 3)];
    assert_eq!(read(&Group { requests, ..Group::default() }), [(0, 0, 5, 4), (1, 3, 5, 2)]);
}

#[test]
fn a_text_longer_than_the_context_is_an_error() {
    let network = network(DType::Bf16);
    let request = Request { tokens: vec![1; CONTEXT + 2], scored_from: 1, cut: 0 };
    let groups = [Group { requests: vec![request], ..Group::default() }];
    let error = score(&network, &groups, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, EvalError::Model(ModelError::ContextOverflow { tokens: 161, context: 160 })), "{error}");
}

#[test]
fn what_is_no_number_is_no_score() {
    let config = ModelConfig::modern(1, 32, 4, 2, VOCAB_SIZE, CONTEXT).unwrap();
    let device = Arc::new(CpuDevice::new(2, Isa::detect().unwrap()).unwrap());
    let damaged = |spec: &ParameterSpec| Ok(vec![f32::NAN; spec.len()]);
    let parameters = Parameters::new(device, &config, DType::F32.into(), MatrixUse::Inference, damaged).unwrap();
    let network = Network::new(config, DType::F32, parameters).unwrap();
    let request = Request { tokens: vec![1, 2, 3], scored_from: 2, cut: 0 };
    let groups = [Group { requests: vec![request], ..Group::default() }];
    let error = score(&network, &groups, &mut |_, _| panic!("a score")).unwrap_err().to_string();
    assert!(error.contains("NaN") && error.contains("--weights f32"), "{error}");
}
