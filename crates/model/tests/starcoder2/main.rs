//! An exported classic model, computed by others: by a Starcoder2 that is written apart, with nothing of this crate but the
//! folder that it wrote, and by candle's. `bench/export_vs_transformers.py` compares with `transformers` itself.

mod candle;
mod plain;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use casallm_compute::{CpuDevice, Isa, MatrixFormat, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::decoder::Decoder;
use casallm_model::directory::{ModelDirectory, StoredDtype, save_model};
use casallm_model::formats::export::{HfDtype, HfOptions, export_hf};
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::specification::{ParameterKind, init_parameter};
use plain::Starcoder2;
use tempfile::TempDir;

/// Tokens that are read.
const READ: usize = 24;
/// Tokens that are written.
const WRITTEN: usize = 40;

/// A model, and the folder that it left in.
struct Exported {
    folder: TempDir,
    config: ModelConfig,
}

impl Exported {
    fn new() -> Self {
        let config = ModelConfig {
            n_kv_head: 2,
            rope_theta: 500.0,
            norm_eps: 1e-3,
            ..ModelConfig::classic(3, 32, 4, 50, READ + WRITTEN).unwrap()
        };
        let exported = Exported { folder: tempfile::tempdir().unwrap(), config };
        save_model(&exported.model(), &exported.config, StoredDtype::F32, &[], |spec| {
            // Weights large enough that attention looks somewhere, GELU bends, and the next token is not the last one again;
            // biases and shifts that are not zero.
            let scale = match spec.kind {
                ParameterKind::Vector => 1.0,
                ParameterKind::Embedding => 8.0,
                _ => 16.0,
            };
            let values = init_parameter(spec, 3).into_iter().enumerate();
            Ok(values
                .map(|(i, value)| value * scale + if spec.decays() { 0.0 } else { (i % 7) as f32 / 20.0 - 0.1 })
                .collect())
        })
        .unwrap();
        let source = ModelDirectory::open(&exported.model()).unwrap();
        let options = HfOptions { dtype: HfDtype::F32, max_shard_bytes: 20_000, token_ids: serde_json::Map::new() };
        export_hf(&source, &exported.hf(), &options, &[], &mut |_| Ok(())).unwrap();
        exported
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn hf(&self) -> PathBuf {
        self.folder.path().join("hf")
    }

    /// Our logits behind each of the ids, and the likeliest ids after them.
    fn ours(&self, ids: &[u32]) -> (Vec<Vec<f32>>, Vec<u32>) {
        let device = Arc::new(CpuDevice::new(1, Isa::detect().unwrap()).unwrap());
        let source = ModelDirectory::open(&self.model()).unwrap();
        let parameters = Parameters::load(device, &source, MatrixFormat::F32, MatrixUse::Inference).unwrap();
        let network = Network::new(self.config.clone(), MatrixFormat::F32.activations(), parameters).unwrap();
        let mut decoder = Decoder::new(&network, READ + WRITTEN).unwrap();
        let mut logits: Vec<Vec<f32>> = ids.iter().map(|id| decoder.extend(&[*id]).unwrap().to_vec()).collect();
        let read = logits.clone();
        let mut written = Vec::new();
        while written.len() < WRITTEN {
            let last = logits.pop().unwrap();
            let most = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32;
            written.push(most);
            logits.push(decoder.extend(&[most]).unwrap().to_vec());
        }
        (read, written)
    }
}

fn ids() -> Vec<u32> {
    (0..READ as u32).map(|place| place * place * 7 % 50).collect()
}

/// Within what was promised, and of a size that says something.
fn agree<A: Copy + Into<f64>, B: Copy + Into<f64>>(ours: &[Vec<A>], theirs: &[Vec<B>], what: &str) {
    assert_eq!(ours.len(), theirs.len());
    let (mut worst, mut largest) = (0.0f64, 0.0f64);
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            let (ours, theirs): (f64, f64) = ((*ours).into(), (*theirs).into());
            worst = worst.max((ours - theirs).abs());
            largest = largest.max(theirs.abs());
        }
    }
    assert!(largest > 1.0, "{what}: logits up to {largest} tell nothing");
    assert!(worst < 1e-4, "{what}: logits are {worst} apart, where the largest is {largest}");
    println!("{what}: logits are at most {worst:.1e} apart, the largest is {largest:.1}");
}

#[test]
fn an_exported_classic_model_has_our_logits_as_a_starcoder2() {
    let exported = Exported::new();
    assert!(fs::read_dir(exported.hf()).unwrap().count() > 3, "it is to be in several files");
    let theirs = Starcoder2::load(&exported.hf()).forward(&ids());
    agree(&exported.ours(&ids()).0, &theirs, "written apart, f64");
}

#[test]
fn an_exported_classic_model_has_our_logits_and_goes_on_as_ours_in_candle() {
    let exported = Exported::new();
    let Some(told) = candle::told(&exported.hf(), &ids(), WRITTEN) else { return };
    let (logits, written) = exported.ours(&ids());
    agree(&logits, &told.whole, "candle, read at once");
    agree(&logits, &told.one_by_one, "candle, one by one");
    let different: std::collections::BTreeSet<u32> = written.iter().copied().collect();
    assert!(different.len() > 5, "{written:?} would be the same by chance");
    assert_eq!(told.continuation, written);
}
