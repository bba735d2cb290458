//! What a KV cache of 8 bits gives and costs, beside one of bf16.
//!
//!     cargo run --release -p casallm-model --example kv_cache -- speed 4096 8192
//!     cargo run --release -p casallm-model --example kv_cache -- loss MODEL VALIDATION.bin
//!
//! `speed`: 24 x 1024 with random weights of 8 bits decodes after so many tokens, both caches in turns, and prints medians. The
//! tokens are the same 512 again and again, put there without being read: time does not depend on what they are. `loss`: a trained model's loss on a run's validation tokens, read one by one as answers are, in rows of its context.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use casallm_compute::{CacheFormat, CpuDevice, MatrixFormat, MatrixUse};
use casallm_model::config::ModelConfig;
use casallm_model::directory::ModelDirectory;
use casallm_model::network::{KvCache, Network};
use casallm_model::parameters::Parameters;
use casallm_model::sequences::{Piece, Sequences};
use casallm_model::specification::init_parameter;

type Outcome<T> = Result<T, Box<dyn Error>>;
type Model<'a> = Sequences<&'a Network<CpuDevice>, CpuDevice>;

const FORMATS: [CacheFormat; 2] = [CacheFormat::Bf16, CacheFormat::Q8];
/// Tokens of a round of decoding, and rounds of each cache.
const TOKENS: usize = 8;
const ROUNDS: usize = 7;
/// Tokens of a pass of a prompt.
const PASS: usize = 512;
/// Rows that are read side by side, and all of them.
const BESIDE: usize = 16;
const ROWS: usize = 128;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn speed(held: &[usize]) -> Outcome<()> {
    let longest = held.iter().max().ok_or("give numbers of tokens")?;
    if held.iter().any(|held| *held < PASS) {
        return Err(format!("numbers of tokens from {PASS} on").into());
    }
    let capacity = longest + (ROUNDS + 1) * TOKENS;
    for config in
        [ModelConfig::classic(24, 1024, 16, 40_960, capacity)?, ModelConfig::modern(24, 1024, 16, 4, 40_960, capacity)?]
    {
        let device = Arc::new(CpuDevice::detect()?);
        let values = |spec: &_| Ok(init_parameter(spec, 1));
        let parameters = Parameters::new(device, &config, MatrixFormat::Q8, MatrixUse::Inference, values)?;
        let network = Network::new(config, MatrixFormat::Q8.activations(), parameters)?;
        for &held in held {
            measure(&network, held)?;
        }
    }
    Ok(())
}

fn measure(network: &Network<CpuDevice>, held: usize) -> Outcome<()> {
    let capacity = held + (ROUNDS + 1) * TOKENS;
    let open = |format| Sequences::with_cache(network, format, 1, capacity, PASS);
    let mut models: Vec<Model<'_>> = FORMATS.iter().map(|format| open(*format)).collect::<Result<_, _>>()?;
    let ids: Vec<u32> = (0..PASS as u32).map(|i| i.wrapping_mul(2_654_435_761) % 40_960).collect();
    let mut prompts = Vec::new();
    for model in &mut models {
        model.forward(&[Piece { sequence: 0, at: 0, ids: &ids, logits: false }])?;
        let rows = model.save(0, 0..PASS);
        for at in (PASS..held).step_by(PASS) {
            model.restore(0, at, PASS.min(held - at), &rows);
        }
        let begun = Instant::now();
        model.forward(&[Piece { sequence: 0, at: held - PASS, ids: &ids, logits: false }])?;
        prompts.push(begun.elapsed().as_secs_f64());
    }
    let mut seconds = vec![Vec::new(); FORMATS.len()];
    for round in 0..=ROUNDS {
        for (model, seconds) in models.iter_mut().zip(&mut seconds) {
            let begun = Instant::now();
            for i in 0..TOKENS {
                let at = held + round * TOKENS + i;
                model.forward(&[Piece { sequence: 0, at, ids: &[17], logits: true }])?;
            }
            if round > 0 {
                seconds.push(begun.elapsed().as_secs_f64() / TOKENS as f64);
            }
        }
    }
    for ((format, seconds), prompt) in FORMATS.iter().zip(seconds).zip(prompts) {
        let (least, most) = seconds.iter().fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
        println!(
            "{} key heads, {held} held, {:>4} cache: {:>7.0} MB, {:.1} tokens/s decoded ({:.1} to {:.1}), its last {PASS} read in {prompt:.2} s",
            network.config().n_kv_head,
            format.name(),
            KvCache::<()>::bytes(network.config(), *format, held) as f64 / 1e6,
            1.0 / median(seconds),
            1.0 / most,
            1.0 / least,
        );
    }
    Ok(())
}

fn loss(model: &Path, shard: &Path) -> Outcome<()> {
    let directory = ModelDirectory::open(model)?;
    let config = directory.config().clone();
    // llm.c's layout: 256 words, of which the second is the version (1: tokens of 16 bits), then the tokens.
    let bytes = std::fs::read(shard)?;
    let (head, tokens) = bytes.split_at_checked(1024).ok_or("a shard begins with 1024 bytes")?;
    if head[4..8] != [1, 0, 0, 0] {
        return Err("this reads shards of 16-bit tokens".into());
    }
    let tokens: Vec<u32> = tokens.chunks_exact(2).map(|two| u32::from(u16::from_le_bytes([two[0], two[1]]))).collect();
    let device = Arc::new(CpuDevice::detect()?);
    let parameters = Parameters::load(device, &directory, MatrixFormat::Bf16, MatrixUse::Inference)?;
    let network = Network::new(config.clone(), MatrixFormat::Bf16.activations(), parameters)?;
    let rows: Vec<&[u32]> = tokens.chunks_exact(config.context + 1).take(ROWS).collect();
    let mut bf16 = 0.0;
    for format in FORMATS {
        let mut model = Sequences::with_cache(&network, format, BESIDE, config.context, BESIDE)?;
        let (mut sum, mut counted) = (0.0, 0);
        for rows in rows.chunks(BESIDE) {
            for at in 0..config.context {
                let piece = |(sequence, row): (usize, &&'_ [u32])| (sequence, row[at]);
                let ids: Vec<(usize, u32)> = rows.iter().enumerate().map(piece).collect();
                let pieces: Vec<Piece<'_>> = ids
                    .iter()
                    .map(|(sequence, id)| Piece {
                        sequence: *sequence,
                        at,
                        ids: std::slice::from_ref(id),
                        logits: true,
                    })
                    .collect();
                let logits = model.forward(&pieces)?;
                for (logits, row) in logits.chunks_exact(config.vocab_size).zip(rows) {
                    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                    let total: f64 = logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
                    sum += largest + total.ln() - f64::from(logits[row[at + 1] as usize]);
                    counted += 1;
                }
            }
        }
        let loss = sum / f64::from(counted);
        bf16 = if format == CacheFormat::Bf16 { loss } else { bf16 };
        let more = 100.0 * (loss / bf16 - 1.0);
        println!(
            "{:>4} cache: {} bytes a token, loss {loss:.6} over {counted} tokens ({more:+.4} %)",
            format.name(),
            KvCache::<()>::bytes(&config, format, 1),
        );
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["speed", ref held @ ..] => speed(&held.iter().map(|x| x.parse()).collect::<Result<Vec<_>, _>>()?),
        ["loss", model, shard] => loss(Path::new(model), Path::new(shard)),
        _ => Err("speed TOKENS..., or loss MODEL VALIDATION.bin".into()),
    }
}
