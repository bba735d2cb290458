//! Greedy ids and logits of a model directory, for comparisons with other programs: `bench/import_vs_llamacpp.py`,
//! `bench/export_vs_transformers.py` and `bench/export_vs_llamacpp.py` call it.
//!
//!     cargo run --release -p casallm-cli --example greedy_ids -- MODEL < requests.jsonl
//!
//! A request is a line of JSON. `{"text": ...}` gives `{"ids"}` of the text. `{"messages": [...], "tokens": n}` gives
//! `{"prompt", "jinja", "ids", "gaps"}`: the prompt's ids, the same by the model's template in Jinja, the n likeliest ids in
//! a row (whether one of them ends an answer or not), and by how much each one's logit is above the second best.
//! `{"prompt": [ids], "tokens": n}` goes on from ids. `{"ids": [ids], "logits": file}` writes `[ids, vocab_size]` logits as
//! little-endian f32. f32 throughout.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use casallm_compute::{CpuDevice, Isa, MatrixFormat, MatrixUse};
use casallm_data::chat::{ChatTemplate, Message, Turn};
use casallm_data::tokenizer::Tokenizer;
use casallm_model::decoder::Decoder;
use casallm_model::directory::{GENERATION_CONFIG, ModelDirectory, TOKENIZER, TOKENIZER_CONFIG};
use casallm_model::network::Network;
use casallm_model::parameters::Parameters;
use serde_json::{Value, json};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).context("give a model directory")?;
    let directory = ModelDirectory::open(Path::new(&path))?;
    let tokenizer = Tokenizer::of_model(directory.text(TOKENIZER)?.as_bytes())?;
    let generation = directory.text(GENERATION_CONFIG).ok();
    let settings = directory.text(TOKENIZER_CONFIG)?;
    let template = ChatTemplate::of_model(&settings, generation.as_deref(), &tokenizer)?;
    // Of our own models the template above is another implementation than the Jinja that they give away.
    let settings: Value = serde_json::from_str(&settings)?;
    let named = |key: &str| settings[key].as_str().or_else(|| settings[key]["content"].as_str());
    let jinja = settings["chat_template"].as_str();
    let jinja =
        jinja.map(|source| ChatTemplate::from_jinja(source, named("bos_token"), named("eos_token"), &tokenizer));
    let jinja = jinja.transpose()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let device = Arc::new(CpuDevice::new(threads, Isa::detect()?)?);
    let config = directory.config().clone();
    let context = config.context;
    let format = MatrixFormat::F32;
    let parameters = Parameters::load(device, &directory, format, MatrixUse::Inference)?;
    let network = Network::new(config, format.activations(), parameters)?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let ids_of = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone());
        let answer = if let Some(text) = request["text"].as_str() {
            json!({ "ids": tokenizer.encode(text) })
        } else if let Some(path) = request["logits"].as_str() {
            let ids = ids_of(&request["ids"])?;
            let mut decoder = Decoder::new(&network, ids.len())?;
            let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
            for id in &ids {
                for logit in decoder.extend(&[*id])? {
                    file.write_all(&logit.to_le_bytes())?;
                }
            }
            file.flush()?;
            json!({ "logits": path })
        } else {
            let (prompt, by_jinja) = match request["prompt"].is_array() {
                true => (ids_of(&request["prompt"])?, None),
                false => {
                    let messages: Vec<Message> = serde_json::from_value(request["messages"].clone())?;
                    let turns: Vec<Turn<'_>> = messages.iter().map(Turn::of).collect();
                    let by_jinja = jinja.as_ref().map(|jinja| jinja.render_prompt(&turns, &tokenizer)).transpose()?;
                    (template.render_prompt(&turns, &tokenizer)?, by_jinja)
                }
            };
            let tokens = request["tokens"].as_u64().context("tokens")? as usize;
            let mut decoder = Decoder::new(&network, (prompt.len() + tokens).min(context))?;
            let (mut ids, mut gaps, mut next) = (Vec::new(), Vec::new(), prompt.clone());
            while ids.len() < tokens {
                let logits = decoder.extend(&next)?;
                let (mut best, mut second) = (0, f32::NEG_INFINITY);
                for (id, &logit) in logits.iter().enumerate().skip(1) {
                    if logit > logits[best] {
                        second = logits[best];
                        best = id;
                    } else {
                        second = second.max(logit);
                    }
                }
                gaps.push(logits[best] - second);
                ids.push(best as u32);
                next = vec![best as u32];
            }
            json!({ "prompt": prompt, "jinja": by_jinja, "ids": ids, "gaps": gaps })
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
