//! `starcoder2-with-candle FOLDER TOKENS ID...`: the folder of a model for `transformers`, computed by candle in f32.
//!
//! One JSON object on stdout: `whole`, the logits behind each beginning of the ids, each read at once; `one_by_one`, the same
//! read id by id through candle's cache; and `continuation`, the likeliest ids after them, as many as `TOKENS`.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::starcoder2::{Config, Model};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn load(folder: &Path) -> Result<Model> {
    let config: Config = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    let mut tensors = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            tensors.extend(candle_core::safetensors::load(path, &Device::Cpu)?);
        }
    }
    Ok(Model::new(&config, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?)
}

/// Logits behind `ids`, of which `held` others are in the cache already.
fn logits(model: &mut Model, ids: &[u32], held: usize) -> Result<Vec<f32>> {
    let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
    Ok(model.forward(&ids, held)?.flatten_all()?.to_vec1()?)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, tokens, ids @ ..] = arguments.as_slice() else { return Err("FOLDER TOKENS ID...".into()) };
    let tokens: usize = tokens.parse()?;
    let mut ids = ids.iter().map(|id| id.parse()).collect::<std::result::Result<Vec<u32>, _>>()?;
    let mut model = load(Path::new(folder))?;
    let mut whole = Vec::new();
    for end in 1..=ids.len() {
        model.clear_kv_cache();
        whole.push(logits(&mut model, &ids[..end], 0)?);
    }
    model.clear_kv_cache();
    let mut one_by_one = Vec::new();
    for place in 0..ids.len() {
        one_by_one.push(logits(&mut model, &ids[place..=place], place)?);
    }
    let read = ids.len();
    let mut last = one_by_one.last().ok_or("no ids")?.clone();
    while ids.len() < read + tokens {
        let most = last.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).ok_or("no logits")?.0;
        ids.push(most as u32);
        last = logits(&mut model, &[most as u32], ids.len() - 1)?;
    }
    println!("{}", serde_json::json!({ "whole": whole, "one_by_one": one_by_one, "continuation": ids[read..] }));
    Ok(())
}
