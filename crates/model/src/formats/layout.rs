//! Which foreign tensors make up each of our parameters.
//!
//! We fuse query, key and value, and gate and up, by rows; foreign files keep them apart. Files of llama.cpp's `llama`
//! architecture hold the rows of queries and keys in another order: it turns neighbours (2 i, 2 i + 1) where we and
//! Hugging Face turn halves (i, i + d / 2), so its converter interleaves the halves of each head (`permute` in
//! `convert_hf_to_gguf.py`), and here that is undone.

use crate::config::{Activation, ModelConfig};
use crate::specification::ParameterSpec;

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// llama.cpp's.
    Gguf,
    /// Those of Hugging Face's `transformers`.
    HuggingFace,
}

/// One foreign tensor of a parameter: rows of it, below those of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    /// Rows, or elements of a vector.
    pub(super) rows: usize,
    /// Whether the rows of each head are interleaved halves.
    pub(super) heads: bool,
    /// Whether they are the rows of the part before once more.
    pub(super) again: bool,
}

/// Names there of what stands between `layers.N.` and `.weight` or `.bias` here.
type Names = &'static [(&'static str, &'static str)];

const QKV: Names = &[("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"), ("attn_v", "self_attn.v_proj")];

fn in_layer(ours: &str, activation: Activation) -> Names {
    let gated = activation != Activation::Gelu;
    match ours {
        "norm1" => &[("attn_norm", "input_layernorm")],
        "attn.qkv" => QKV,
        "attn.q_norm" => &[("attn_q_norm", "self_attn.q_norm")],
        "attn.k_norm" => &[("attn_k_norm", "self_attn.k_norm")],
        "attn.out" => &[("attn_output", "self_attn.o_proj")],
        "norm2" => &[("ffn_norm", "post_attention_layernorm")],
        "mlp.up" if gated => &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj")],
        "mlp.up" => &[("ffn_up", "mlp.c_fc")],
        "mlp.down" if gated => &[("ffn_down", "mlp.down_proj")],
        "mlp.down" => &[("ffn_down", "mlp.c_proj")],
        _ => &[],
    }
}

/// The parts of a parameter, in the order of their rows. `interleaved` says whether queries and keys are.
///
/// Gated MLPs compute act(gate) * up. Squared ReLU is one of them, with `relu` and one matrix in both places:
/// relu(x) * x = relu(x)², to the bit.
pub(super) fn parts(naming: Naming, interleaved: bool, config: &ModelConfig, spec: &ParameterSpec) -> Vec<Part> {
    let (owner, kind) = spec.name.rsplit_once('.').unwrap_or((&spec.name, ""));
    let pick = |gguf: &str, hf: &str| match naming {
        Naming::Gguf => format!("{gguf}.{kind}"),
        Naming::HuggingFace => format!("{hf}.{kind}"),
    };
    let rows = spec.shape.first().copied().unwrap_or(0);
    let whole = |name: String| vec![Part { name, rows, heads: false, again: false }];
    match owner {
        "embed" => return whole(pick("token_embd", "model.embed_tokens")),
        "norm" => return whole(pick("output_norm", "model.norm")),
        "head" => return whole(pick("output", "lm_head")),
        _ => {}
    }
    let Some((layer, ours)) = owner.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
        return Vec::new();
    };
    let rows_of = |at: usize| match (ours, at) {
        ("attn.qkv", 0) => config.attention_width(),
        ("attn.qkv", _) => config.kv_width(),
        ("mlp.up", _) => config.n_ff,
        _ => rows,
    };
    let part = |(at, (gguf, hf)): (usize, &(&str, &str))| Part {
        name: pick(&format!("blk.{layer}.{gguf}"), &format!("model.layers.{layer}.{hf}")),
        rows: rows_of(at),
        heads: interleaved && ours == "attn.qkv" && at < 2,
        again: ours == "mlp.up" && at == 1 && config.activation == Activation::ReluSquared,
    };
    in_layer(ours, config.activation).iter().enumerate().map(part).collect()
}

/// Names and lengths of the vectors that stand beside a parameter there and are zeros here: the biases of queries, keys and
/// values, which a Starcoder2 with biases has and this program's models have not.
pub(super) fn zeros(naming: Naming, config: &ModelConfig, spec: &ParameterSpec) -> Vec<(String, usize)> {
    if !(config.bias && spec.name.ends_with(".attn.qkv.weight")) {
        return Vec::new();
    }
    let bias = |part: Part| (part.name.replace(".weight", ".bias"), part.rows);
    parts(naming, false, config, spec).into_iter().map(bias).collect()
}

/// Puts the rows of each head, `[n_head * head_dim, columns]`, from halves one after the other to interleaved halves.
pub(super) fn interleave(values: &mut [f32], head_dim: usize, columns: usize) {
    rearrange(values, head_dim, columns, |row| row % 2 * (head_dim / 2) + row / 2);
}

/// Puts the rows of each head, `[n_head * head_dim, columns]`, from interleaved halves to halves one after the other.
pub(super) fn halves(values: &mut [f32], head_dim: usize, columns: usize) {
    let half = head_dim / 2;
    rearrange(values, head_dim, columns, |row| 2 * (row % half) + row / half);
}

/// Gives each row of each head the values that row `from` of it had.
fn rearrange(values: &mut [f32], head_dim: usize, columns: usize, from: impl Fn(usize) -> usize) {
    let mut head_before = Vec::with_capacity(head_dim * columns);
    for head in values.chunks_exact_mut(head_dim * columns) {
        head_before.clear();
        head_before.extend_from_slice(head);
        for (row, values) in head.chunks_exact_mut(columns).enumerate() {
            values.copy_from_slice(&head_before[from(row) * columns..][..columns]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_of_the_shape_has_its_parts() {
        let config = ModelConfig { tie_embeddings: false, n_ff: 20, ..ModelConfig::modern(2, 8, 4, 2, 11, 4).unwrap() };
        let squared = config.clone().with_activation(Activation::ReluSquared);
        for config in [&config, &squared, &ModelConfig::classic(2, 8, 4, 11, 4).unwrap()] {
            for naming in [Naming::Gguf, Naming::HuggingFace] {
                for spec in config.parameters() {
                    let parts = parts(naming, true, config, &spec);
                    let rows: usize = parts.iter().filter(|part| !part.again).map(|part| part.rows).sum();
                    assert_eq!(rows, spec.shape[0], "{}", spec.name);
                }
            }
        }
        let qkv = config.parameters().into_iter().find(|spec| spec.name == "layers.1.attn.qkv.weight").unwrap();
        let found = parts(Naming::Gguf, true, &config, &qkv);
        let found: Vec<_> = found.iter().map(|part| (part.name.as_str(), part.rows, part.heads)).collect();
        let expected =
            [("blk.1.attn_q.weight", 8, true), ("blk.1.attn_k.weight", 4, true), ("blk.1.attn_v.weight", 4, false)];
        assert_eq!(found, expected);
    }

    #[test]
    fn halves_undo_the_converters_permutation() {
        // Two heads of six rows of two: row r holds 2 r and 2 r + 1.
        let (head_dim, columns) = (6, 2);
        let straight: Vec<f32> = (0..24).map(|value| value as f32).collect();
        // permute: reshape(n_head, 2, head_dim / 2, columns).swapaxes(1, 2)
        let mut interleaved = Vec::new();
        for head in 0..2 {
            for pair in 0..3 {
                for side in 0..2 {
                    let row = head * head_dim + side * 3 + pair;
                    interleaved.extend_from_slice(&straight[row * columns..][..columns]);
                }
            }
        }
        assert_ne!(interleaved, straight);
        let expected = interleaved.clone();
        halves(&mut interleaved, head_dim, columns);
        assert_eq!(interleaved, straight);
        interleave(&mut interleaved, head_dim, columns);
        assert_eq!(interleaved, expected);
    }
}
