//! [`GgufType`]: which type each tensor of a file gets.

use crate::config::ModelConfig;
use crate::formats::elements::ElementType;

/// In what numbers a file's matrices are; vectors are f32 in all. Mixtures and what takes the place of a type whose blocks
/// do not fit a row are those of `llama-quantize` (`llama-quant.cpp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// 8.5 bits a weight.
    Q8_0,
    /// 4.5 bits a weight; the head 6.6.
    Q4_0,
    /// 4.5 bits a weight; the head, and values and down-projections of half of the layers, 6.6.
    Q4KM,
}

impl GgufType {
    /// Every type, by the name that files and people use.
    pub const ALL: [(&'static str, GgufType); 6] = [
        ("F32", GgufType::F32),
        ("F16", GgufType::F16),
        ("BF16", GgufType::Bf16),
        ("Q8_0", GgufType::Q8_0),
        ("Q4_0", GgufType::Q4_0),
        ("Q4_K_M", GgufType::Q4KM),
    ];

    /// The value of `general.file_type`: llama.cpp's `llama_ftype`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Bf16 => 32,
        }
    }

    /// The type of a tensor.
    pub(super) fn element(self, config: &ModelConfig, name: &str, shape: &[usize]) -> ElementType {
        let &[_, columns] = shape else { return ElementType::F32 };
        let usual = match self {
            Self::F32 => return ElementType::F32,
            Self::F16 => return ElementType::F16,
            Self::Bf16 => return ElementType::Bf16,
            Self::Q8_0 => ElementType::Q8_0,
            Self::Q4_0 => ElementType::Q4_0,
            Self::Q4KM => ElementType::Q4K,
        };
        let is_head = name == "output.weight" || name == "token_embd.weight" && config.tie_embeddings;
        let chosen = match self {
            _ if is_head && !columns.is_multiple_of(usual.block_len()) => ElementType::Q8_0,
            Self::Q4_0 | Self::Q4KM if is_head => ElementType::Q6K,
            Self::Q4KM if more_bits(name, config.n_layer) => ElementType::Q6K,
            _ => usual,
        };
        // A row must be whole blocks.
        let smaller = match chosen {
            _ if columns.is_multiple_of(chosen.block_len()) => chosen,
            ElementType::Q4K => ElementType::Q5_0,
            ElementType::Q6K => ElementType::Q8_0,
            other => other,
        };
        if columns.is_multiple_of(smaller.block_len()) { smaller } else { ElementType::F16 }
    }
}

/// Whether a tensor is one of those whose errors cost most: values and down-projections of the first and last eighth of the
/// layers and of every third between.
fn more_bits(name: &str, n_layer: usize) -> bool {
    let Some((layer, owner)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else { return false };
    let Ok(layer) = layer.parse::<usize>() else { return false };
    let eighth = n_layer / 8;
    matches!(owner, "attn_v.weight" | "ffn_down.weight")
        && (layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2)
}
