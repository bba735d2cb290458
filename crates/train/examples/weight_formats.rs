//! What formats of weights cost: a trained model on its run's held-out text.
//!
//!     cargo run --release -p casallm-train --example weight_formats -- runs/quickstart
//!
//! The model of pre-training, on the run's own validation rows. Above: weights quantised and restored, all else in f32,
//! ours beside llama.cpp's of the same sizes. Below: the formats as `chat --weights` runs them.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use casallm_compute::quantize::blocks;
use casallm_compute::reference::quantized::{dequantize, ggml_q4_0, ggml_q8_0};
use casallm_compute::{CpuDevice, DType, MatrixFormat, MatrixUse};
use casallm_data::loader::ValidationLoader;
use casallm_data::shards::ShardSet;
use casallm_data::split::Split;
use casallm_data::tokenizer::Tokenizer;
use casallm_model::directory::ModelDirectory;
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use casallm_model::specification::{ParameterKind, ParameterSpec};
use casallm_model::workspace::{Recompute, Workspace, WorkspaceShape};
use casallm_train::recipe::{Recipe, Stage};
use casallm_train::stages::RunDir;
use casallm_train::validation::{ValidationSet, evaluate, from_loader};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What becomes of a row of a matrix.
type Restore = fn(&[f32]) -> Vec<f64>;

fn ours(format: MatrixFormat, row: &[f32]) -> Vec<f64> {
    dequantize(format, &blocks(format, row, row.len()), row.len())
}

struct Measured {
    device: Arc<CpuDevice>,
    directory: ModelDirectory,
    sets: Vec<ValidationSet>,
    rows: usize,
}

impl Measured {
    fn open(dir: &Path) -> Outcome<Self> {
        let recipe = Recipe::load::<&str>(&dir.join("recipe.toml"), &[])?;
        let run = RunDir::new(dir);
        let tokenizer = Tokenizer::load(&run.tokenizer())?;
        let stage = recipe.pretrain()?;
        let open = |name: &str| ShardSet::open(&run.shards(name), Split::Val, &tokenizer);
        let shards = recipe.data.pretrain.iter().map(|source| open(&source.name)).collect::<Result<_, _>>()?;
        let rows = stage.eval_tokens.div_ceil(stage.context as u64);
        // A row at a time where the run chose for itself.
        let micro_batch = stage.micro_batch.given().unwrap_or(1);
        let loader = ValidationLoader::new(shards, stage.context, rows, &tokenizer)?;
        Ok(Measured {
            device: Arc::new(CpuDevice::detect()?),
            directory: ModelDirectory::open(&run.model(Stage::Pretrain))?,
            sets: from_loader(&loader, micro_batch, &tokenizer.byte_lengths())?,
            rows: micro_batch,
        })
    }

    fn row(&self, name: &str, parameters: Parameters<CpuDevice>, dtype: DType, bytes: u64) -> Outcome<()> {
        let config = self.directory.config();
        let network = Network::new(config.clone(), dtype, parameters)?;
        let tokens = self.rows * config.context;
        let (matrices, training) = (dtype.into(), Some(Recompute::Light));
        let shape = WorkspaceShape { tokens, sequence: config.context, dtype, matrices, training };
        let mut workspace = Workspace::new(&*self.device, config, shape)?;
        let result = evaluate(&network, &mut workspace, &self.sets)?;
        let bits = result.bits_per_byte.unwrap_or(f64::NAN);
        println!("{name:<20} {:>8.2} MB  loss {:.5}  {bits:.5} bits/byte", bytes as f64 / 1e6, result.loss);
        Ok(())
    }

    /// Weights restored, activations in f32.
    fn restored(&self, name: &str, bits: f64, restore: Restore) -> Outcome<()> {
        let mut matrices = 0;
        let mut all = Vec::new();
        self.directory.read_weights(|spec, _, mut values| {
            if spec.kind != ParameterKind::Vector {
                matrices += values.len();
                for row in values.chunks_exact_mut(spec.shape[1]) {
                    let restored = restore(row);
                    row.iter_mut().zip(restored).for_each(|(to, from)| *to = from as f32);
                }
            }
            all.push((spec.name.clone(), values));
            Ok(())
        })?;
        let take = |spec: &ParameterSpec| {
            let found = all.iter_mut().find(|(name, _)| *name == spec.name);
            Ok(found.map(|(_, values)| std::mem::take(values)).unwrap_or_default())
        };
        let (config, usage) = (self.directory.config(), MatrixUse::Inference);
        let parameters = Parameters::new(self.device.clone(), config, MatrixFormat::F32, usage, take)?;
        self.row(name, parameters, DType::F32, (matrices as f64 * bits / 8.0) as u64)
    }

    /// As the device runs them.
    fn as_run(&self, format: MatrixFormat) -> Outcome<()> {
        let (config, usage) = (self.directory.config(), MatrixUse::Inference);
        let bytes = Parameters::bytes(&*self.device, config, format, usage);
        let parameters = Parameters::load(self.device.clone(), &self.directory, format, usage)?;
        self.row(&format!("--weights {}", format.name()), parameters, format.activations(), bytes)
    }
}

fn main() -> Outcome<()> {
    let dir = std::env::args().nth(1).ok_or("give the folder of a run, such as runs/quickstart")?;
    let measured = Measured::open(Path::new(&dir))?;
    measured.restored("f32", 32.0, |row| row.iter().map(|x| f64::from(*x)).collect())?;
    measured.restored("q8", 8.5, |row| ours(MatrixFormat::Q8, row))?;
    measured.restored("llama.cpp's Q8_0", 8.5, ggml_q8_0)?;
    measured.restored("q4", 4.5, |row| ours(MatrixFormat::Q4, row))?;
    measured.restored("llama.cpp's Q4_0", 4.5, ggml_q4_0)?;
    for format in [MatrixFormat::F32, MatrixFormat::Bf16, MatrixFormat::Q8, MatrixFormat::Q4] {
        measured.as_run(format)?;
    }
    Ok(())
}
