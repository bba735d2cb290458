//! Sequences beside one another: the same bits as alone, in whatever pieces a prompt is read, and with rows put back.

use std::sync::Arc;

use casallm_compute::{CacheFormat, CpuDevice, DType, Isa, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::error::ModelError;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::sequences::{Piece, Sequences};
use casallm_model::specification::{Init, ParameterKind, ParameterSpec, init_parameter};

const VOCAB_SIZE: usize = 61;
const CONTEXT: usize = 400;

fn network(dtype: DType, isa: Isa) -> Network<CpuDevice> {
    let config = ModelConfig::modern(3, 64, 4, 2, VOCAB_SIZE, CONTEXT).unwrap();
    let device = Arc::new(CpuDevice::new(2, isa).unwrap());
    // Blocks of this kind begin as the identity: of what they hold, nothing would show in the logits.
    let values = |spec: &ParameterSpec| {
        Ok(match spec.kind {
            ParameterKind::Vector => init_parameter(spec, 3),
            _ => init_parameter(&ParameterSpec { init: Init::Normal { std: 0.1 }, ..spec.clone() }, 3),
        })
    };
    let parameters = Parameters::new(device, &config, dtype.into(), MatrixUse::Inference, values).unwrap();
    Network::new(config, dtype, parameters).unwrap()
}

fn ids(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * i * 7 + seed * i + seed) % VOCAB_SIZE as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// A network and the format of its cache.
struct Kind {
    network: Network<CpuDevice>,
    cache: CacheFormat,
    name: String,
}

impl Kind {
    fn sequences(&self, count: usize) -> Sequences<&Network<CpuDevice>, CpuDevice> {
        Sequences::with_cache(&self.network, self.cache, count, CONTEXT, 512).unwrap()
    }
}

fn every_kind(test: impl Fn(&Kind)) {
    for isa in Isa::available() {
        for (dtype, cache) in [
            (DType::F32, CacheFormat::F32),
            (DType::Bf16, CacheFormat::Bf16),
            (DType::F32, CacheFormat::Q8),
            (DType::Bf16, CacheFormat::Q8),
        ] {
            let name = format!("{} {}, {} cache", isa.name(), dtype.name(), cache.name());
            test(&Kind { network: network(dtype, isa), cache, name });
        }
    }
}

#[test]
fn company_changes_no_bit() {
    every_kind(|kind| {
        let name = &kind.name;
        let texts = [ids(37, 1), ids(5, 2), ids(120, 3), ids(64, 4), ids(11, 5)];
        let alone: Vec<Vec<Vec<u32>>> = texts
            .iter()
            .map(|text| {
                let mut decoder = Decoder::with_cache(&kind.network, kind.cache, CONTEXT).unwrap();
                let first = bits(decoder.extend(text).unwrap());
                let rest = ids(20, 9).into_iter().map(|id| bits(decoder.extend(&[id]).unwrap()));
                std::iter::once(first).chain(rest.collect::<Vec<_>>()).collect()
            })
            .collect();
        let mut sequences = kind.sequences(texts.len());
        // All prompts in one pass, then one token each, a pass for all.
        let pieces: Vec<Piece<'_>> = texts.iter().enumerate().map(|(i, t)| piece(i, 0, t)).collect();
        let mut together = vec![bits(sequences.forward(&pieces).unwrap())];
        for (n, id) in ids(20, 9).into_iter().enumerate() {
            let one = [id];
            let pieces: Vec<_> = texts.iter().enumerate().map(|(i, t)| piece(i, t.len() + n, &one)).collect();
            together.push(bits(sequences.forward(&pieces).unwrap()));
        }
        for (n, logits) in together.iter().enumerate() {
            for (i, logits) in logits.chunks(VOCAB_SIZE).enumerate() {
                assert!(logits == alone[i][n], "{name}: sequence {i}, token {n}");
            }
        }
    });
}

fn piece(sequence: usize, at: usize, ids: &[u32]) -> Piece<'_> {
    Piece { sequence, at, ids, logits: true }
}

#[test]
fn a_prompt_in_pieces_of_five_tokens_or_more_gives_the_same_bits() {
    every_kind(|kind| {
        let name = &kind.name;
        let text = ids(333, 1);
        let mut sequences = kind.sequences(2);
        let whole = bits(sequences.forward(&[piece(0, 0, &text)]).unwrap());
        let rows = sequences.save(0, 0..333);
        for chunk in [5, 16, 37, 64, 128, 200] {
            let mut at = 0;
            let mut last = Vec::new();
            while at < text.len() {
                // What is left for the end is never less than five.
                let left = text.len() - at;
                let len = if left < chunk + 5 { left } else { chunk };
                last = bits(sequences.forward(&[piece(1, at, &text[at..at + len])]).unwrap());
                at += len;
            }
            assert!(last == whole, "{name}: pieces of {chunk}");
            assert!(sequences.save(1, 0..333) == rows, "{name}: keys and values of pieces of {chunk}");
        }
    });
}

#[test]
fn a_pass_that_is_broken_off_leaves_what_was_held_before_it() {
    every_kind(|kind| {
        let name = &kind.name;
        let text = ids(90, 1);
        let mut sequences = kind.sequences(1);
        sequences.forward(&[piece(0, 0, &text[..50])]).unwrap();
        let wanted = bits(sequences.forward(&[piece(0, 50, &text[50..])]).unwrap());
        let blocks = kind.network.config().n_layer;
        for allowed in 0..=blocks {
            let asked = std::sync::atomic::AtomicUsize::new(0);
            let go_on = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < allowed;
            let logits = sequences.forward_while(&[piece(0, 50, &ids(40, 7))], &go_on).unwrap();
            assert_eq!(logits.is_some(), allowed == blocks, "{name}: {allowed} of {blocks} blocks");
            assert!(bits(sequences.forward(&[piece(0, 50, &text[50..])]).unwrap()) == wanted, "{name}: {allowed}");
        }
    });
}

#[test]
fn rows_that_are_put_back_serve_as_if_read_here() {
    every_kind(|kind| {
        let name = &kind.name;
        let (text, other) = (ids(90, 1), ids(200, 6));
        let mut sequences = kind.sequences(3);
        sequences.forward(&[piece(0, 0, &text)]).unwrap();
        let rows = sequences.save(0, 0..90);
        assert_eq!(rows.len(), 90 * sequences.bytes_a_token());
        let wanted = bits(sequences.forward(&[piece(0, 90, &ids(30, 2))]).unwrap());
        sequences.forward(&[piece(2, 0, &other)]).unwrap();
        sequences.restore(2, 0, 90, &rows);
        assert!(bits(sequences.forward(&[piece(2, 90, &ids(30, 2))]).unwrap()) == wanted, "{name}");
        // A part of what was saved, and the rest read again.
        sequences.forward(&[piece(1, 0, &other)]).unwrap();
        sequences.restore(1, 0, 40, &rows);
        sequences.forward(&[piece(1, 40, &text[40..])]).unwrap();
        assert!(bits(sequences.forward(&[piece(1, 90, &ids(30, 2))]).unwrap()) == wanted, "{name}: a part");
    });
}

#[test]
fn what_cannot_be_read_is_refused_and_nothing_is() {
    let network = network(DType::F32, Isa::available()[0]);
    let mut sequences = Sequences::new(&network, 2, 50, 64).unwrap();
    let text = ids(20, 1);
    let wanted = bits(sequences.forward(&[piece(0, 0, &text)]).unwrap());
    let long = ids(65, 1);
    for pieces in [
        vec![piece(0, 0, &[])],
        vec![piece(2, 0, &text)],
        vec![piece(0, 0, &text), piece(0, 20, &text)],
        vec![piece(1, 0, &[0, VOCAB_SIZE as u32])],
    ] {
        assert!(matches!(sequences.forward(&pieces), Err(ModelError::Batch(_))), "{pieces:?}");
    }
    for (at, ids) in [(31, &text[..]), (0, &long[..51]), (usize::MAX, &text[..])] {
        assert!(matches!(sequences.forward(&[piece(1, at, ids)]), Err(ModelError::ContextOverflow { .. })));
    }
    let both = [piece(0, 0, &long[..40]), piece(1, 0, &long[..40])];
    assert!(matches!(sequences.forward(&both), Err(ModelError::Batch(_))));
    let again = bits(sequences.forward(&[piece(0, 10, &text[10..])]).unwrap());
    assert!(again == wanted);
}
