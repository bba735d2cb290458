use casallm_compute::{CpuDevice, DType, Isa, MatrixUse};
use casallm_data::tokenizer::TrainOptions;
use casallm_model::decoder::Decoder;
use casallm_model::parameters::Parameters;
use casallm_model::specification::init_parameter;

use super::*;

const VOCAB_SIZE: usize = 270;

fn tokenizer() -> Arc<Tokenizer> {
    let texts = (0..40).map(|i| Ok(format!("Some words {i} to learn bytes and a few pairs of letters from.")));
    let options = TrainOptions { vocab_size: VOCAB_SIZE, ..TrainOptions::default() };
    Arc::new(Tokenizer::train(texts, &options, &mut |_| {}).unwrap())
}

/// A network whose weights are large enough for what it writes to depend on what it has read.
fn network(context: usize) -> Network<CpuDevice> {
    let device = Arc::new(CpuDevice::new(2, Isa::Portable).unwrap());
    let model = ModelConfig::modern(2, 16, 2, 1, VOCAB_SIZE, context).unwrap();
    let values = |spec: &_| Ok(init_parameter(spec, 3).iter().map(|value| 20.0 * value).collect());
    let parameters = Parameters::new(device, &model, MatrixFormat::F32, MatrixUse::Training, values).unwrap();
    Network::new(model, DType::F32, parameters).unwrap()
}

fn samples(texts: &[&str], context: usize) -> (Samples, Vec<Prompt>) {
    let tokenizer = tokenizer();
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    let template = ChatTemplate::own(&tokenizer).unwrap();
    let prompts = given(Stage::Pretrain, &texts, &tokenizer, &template, context).unwrap();
    (Samples::new(prompts.clone(), tokenizer, &template, context, 7), prompts)
}

/// One sequence alone, token by token.
fn alone(network: &Network<CpuDevice>, samples: &Samples, prompt: &Prompt) -> String {
    let config = SamplerConfig { temperature: 0.7, top_p: 0.9, seed: 7, ..SamplerConfig::default() };
    let mut sampler = Sampler::new(config).unwrap();
    let mut decoder = Decoder::new(network, network.config().context).unwrap();
    let (mut ids, mut written) = (prompt.ids.clone(), Vec::new());
    let mut logits = decoder.extend(&ids).unwrap().to_vec();
    while written.len() < NEW_TOKENS && ids.len() < network.config().context {
        let id = sampler.sample(&logits, &ids).unwrap();
        if samples.stop.contains(&id) {
            break;
        }
        ids.push(id);
        written.push(id);
        if ids.len() < network.config().context {
            logits = decoder.extend(&[id]).unwrap().to_vec();
        }
    }
    samples.tokenizer.decode(&written)
}

#[test]
fn written_together_as_alone_and_again_the_same() {
    for context in [24, 256] {
        let network = network(context);
        let (samples, prompts) = samples(&["Some", "a few pairs of", "letters"], context);
        let written = samples.write(&network).unwrap();
        assert_eq!(written.len(), 3);
        for ((prompt, text), asked) in written.iter().zip(&prompts) {
            assert_eq!(*prompt, asked.text);
            assert_eq!(*text, alone(&network, &samples, asked), "{prompt} in {context}");
            assert!(!text.is_empty());
        }
        assert_ne!(written[0].1, written[1].1, "it does not matter what is read");
        assert_eq!(samples.write(&network).unwrap(), written);
    }
}

#[test]
fn the_memory_is_what_was_planned() {
    let network = network(256);
    let device = network.device().clone();
    let (samples, prompts) = samples(&["Some", "words"], 256);
    let before = device.allocated_bytes();
    let held = samples.sequences(&network).unwrap();
    let planned = bytes(&*device, network.config(), MatrixFormat::F32, prompts.len());
    assert_eq!(device.allocated_bytes() - before, planned);
    drop(held);
    assert_eq!(bytes(&*device, network.config(), MatrixFormat::F32, 0), 0);
}

#[test]
fn prompts_that_do_not_fit_are_refused_or_left_out() {
    let tokenizer = tokenizer();
    let long = vec!["short".to_owned(), "word ".repeat(60)];
    let template = ChatTemplate::own(&tokenizer).unwrap();
    let error = given(Stage::Sft, &long, &tokenizer, &template, 4096).unwrap_err().to_string();
    assert!(error.contains("sft.samples[1]") && error.contains("shorten it to 64"), "{error}");
    let prompts = given(Stage::Pretrain, &long[..1], &tokenizer, &template, 4096).unwrap();
    assert!(Samples::new(prompts, tokenizer, &template, 2, 1).prompts.is_empty());
    let (none, _) = samples(&[], 64);
    assert!(none.write(&network(64)).unwrap().is_empty());
}

#[test]
fn without_prompts_held_out_documents_are_gone_on_from() {
    let tokenizer = tokenizer();
    let special = tokenizer.special().unwrap();
    let document = |text: &str| [&[special.bos][..], &tokenizer.encode(text), &[special.eos]].concat();
    let batch = |tokens: Vec<u32>| Batch { tokens, ..Batch::default() };
    let batches = [
        batch(
            [&tokenizer.encode("the end of one")[..], &document("Some words to learn bytes and a few pairs")].concat(),
        ),
        batch(tokenizer.encode("no document begins here")),
        batch(document("it")),
    ];
    let found = beginnings(batches.iter(), &tokenizer).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found[0].text.starts_with("Some") && found[0].ids.len() == 1 + BEGINNING, "{found:?}");
    assert_eq!((found[1].text.as_str(), found[1].ids[0]), ("it", special.bos));
}
