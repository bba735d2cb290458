//! A Starcoder2 as `transformers` documents it (`models/starcoder2/modeling_starcoder2.py`), in plain f64 loops over the names
//! of its files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Weights by name, as `[rows, columns]` in order, and the config.
pub struct Starcoder2 {
    weights: HashMap<String, Vec<f64>>,
    config: Value,
}

impl Starcoder2 {
    /// Reads a folder.
    pub fn load(folder: &Path) -> Self {
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(
            (&config["architectures"][0], &config["hidden_act"]),
            (&"Starcoder2ForCausalLM".into(), &"gelu".into())
        );
        assert_eq!(config["sliding_window"], Value::Null);
        let index: Value =
            serde_json::from_slice(&fs::read(folder.join("model.safetensors.index.json")).unwrap()).unwrap();
        let mut weights = HashMap::new();
        for (name, file) in index["weight_map"].as_object().unwrap() {
            let bytes = fs::read(folder.join(file.as_str().unwrap())).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let data = tensors.tensor(name).unwrap().data().to_vec();
            let values = data.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes)));
            weights.insert(name.clone(), values.collect());
        }
        Starcoder2 { weights, config }
    }

    fn number(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    fn of(&self, name: &str) -> &[f64] {
        &self.weights[name]
    }

    /// nn.Linear with its bias.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (self.of(&format!("{name}.weight")), self.of(&format!("{name}.bias")));
        let rows = weight.chunks_exact(x.len());
        rows.zip(bias).map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
    }

    /// nn.LayerNorm.
    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + self.config["norm_epsilon"].as_f64().unwrap()).sqrt();
        let (weight, bias) = (self.of(&format!("{name}.weight")), self.of(&format!("{name}.bias")));
        x.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) * scale * w + b).collect()
    }

    /// x * cos + rotate_half(x) * sin, for each head.
    fn rotate(&self, x: &mut [f64], position: usize, head_dim: usize) {
        let half = head_dim / 2;
        let theta = self.config["rope_theta"].as_f64().unwrap();
        for head in x.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let angle = position as f64 / theta.powf(2.0 * i as f64 / head_dim as f64);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + half] = b * angle.cos() + a * angle.sin();
            }
        }
    }

    /// Logits at every place.
    pub fn forward(&self, ids: &[u32]) -> Vec<Vec<f64>> {
        let (width, heads, kv_heads) =
            (self.number("hidden_size"), self.number("num_attention_heads"), self.number("num_key_value_heads"));
        let head_dim = width / heads;
        let embedding = self.of("model.embed_tokens.weight");
        let mut stream: Vec<Vec<f64>> =
            ids.iter().map(|&id| embedding[id as usize * width..][..width].to_vec()).collect();
        for layer in 0..self.number("num_hidden_layers") {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (place, state) in stream.iter_mut().enumerate() {
                let x = self.norm(&name("input_layernorm"), state);
                let mut query = self.linear(&name("self_attn.q_proj"), &x);
                let mut key = self.linear(&name("self_attn.k_proj"), &x);
                self.rotate(&mut query, place, head_dim);
                self.rotate(&mut key, place, head_dim);
                keys.push(key);
                values.push(self.linear(&name("self_attn.v_proj"), &x));
                let mut mixed = vec![0.0; width];
                for head in 0..heads {
                    let (q, kv) = (&query[head * head_dim..][..head_dim], head / (heads / kv_heads) * head_dim);
                    let scores: Vec<f64> = keys
                        .iter()
                        .map(|k| q.iter().zip(&k[kv..]).map(|(q, k)| q * k).sum::<f64>() / (head_dim as f64).sqrt())
                        .collect();
                    let most = scores.iter().copied().fold(f64::MIN, f64::max);
                    let shares: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                    let sum: f64 = shares.iter().sum();
                    for (share, value) in shares.iter().zip(&values) {
                        for i in 0..head_dim {
                            mixed[head * head_dim + i] += share / sum * value[kv + i];
                        }
                    }
                }
                let out = self.linear(&name("self_attn.o_proj"), &mixed);
                state.iter_mut().zip(out).for_each(|(x, out)| *x += out);
                let x = self.norm(&name("post_attention_layernorm"), state);
                let mut inner = self.linear(&name("mlp.c_fc"), &x);
                // nn.functional.gelu: by the error function.
                inner.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + libm::erf(*x / std::f64::consts::SQRT_2)));
                let out = self.linear(&name("mlp.c_proj"), &inner);
                state.iter_mut().zip(out).for_each(|(x, out)| *x += out);
            }
        }
        let logits = |x: &Vec<f64>| {
            let x = self.norm("model.norm", x);
            embedding.chunks_exact(width).map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum()).collect()
        };
        stream.iter().map(logits).collect()
    }
}
