//! Keys and values at the head of a GGUF file.

use super::GgufType;
use crate::config::ModelConfig;
use crate::formats::export::Family;
use crate::formats::gguf::{ACTIVATION, DROPOUT, EXACT_GELU};

/// A value of GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// An integer from 0 on.
    U32(u32),
    /// An integer.
    I32(i32),
    /// A number.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of integers.
    Integers(Vec<i32>),
}

impl MetadataValue {
    /// Appends type and value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut kind = |number: u32| out.extend(number.to_le_bytes());
        match self {
            Self::U32(n) => {
                kind(4);
                out.extend(n.to_le_bytes());
            }
            Self::I32(n) => {
                kind(5);
                out.extend(n.to_le_bytes());
            }
            Self::F32(x) => {
                kind(6);
                out.extend(x.to_le_bytes());
            }
            Self::Bool(truth) => {
                kind(7);
                out.push(u8::from(*truth));
            }
            Self::Text(value) => {
                kind(8);
                text(value, out);
            }
            Self::Texts(texts) => {
                kind(9);
                kind(8);
                out.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|one| text(one, out));
            }
            Self::Integers(list) => {
                kind(9);
                kind(5);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }
}

/// Appends a length of 8 bytes and a text.
pub(super) fn text(value: &str, out: &mut Vec<u8>) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

/// What llama.cpp asks for to compute a model of this shape.
pub(super) fn of_shape(config: &ModelConfig, family: Family, kind: GgufType) -> Vec<(String, MetadataValue)> {
    let arch = family.name();
    let general = |name: &str, value| (format!("general.{name}"), value);
    // The config's bounds are far below 2^32.
    let number = |name: &str, value: usize| (format!("{arch}.{name}"), MetadataValue::U32(value as u32));
    let mut keys = vec![
        general("architecture", MetadataValue::Text(arch.to_owned())),
        general("type", MetadataValue::Text("model".to_owned())),
        general("file_type", MetadataValue::U32(kind.file_type())),
        general("quantization_version", MetadataValue::U32(2)),
        number("vocab_size", config.vocab_size),
        number("block_count", config.n_layer),
        number("context_length", config.context),
        number("embedding_length", config.n_embd),
        number("feed_forward_length", config.n_ff),
        number("attention.head_count", config.n_head),
        number("attention.head_count_kv", config.n_kv_head),
        number("rope.dimension_count", config.head_dim),
        (format!("{arch}.rope.freq_base"), MetadataValue::F32(config.rope_theta)),
    ];
    if config.dropout > 0.0 {
        keys.push((DROPOUT.to_owned(), MetadataValue::F32(config.dropout)));
    }
    let epsilon = match family {
        Family::Starcoder2 => {
            keys.push((ACTIVATION.to_owned(), MetadataValue::Text(EXACT_GELU.to_owned())));
            "attention.layer_norm_epsilon"
        }
        Family::Qwen3 | Family::Llama => {
            keys.push(number("attention.key_length", config.head_dim));
            keys.push(number("attention.value_length", config.head_dim));
            "attention.layer_norm_rms_epsilon"
        }
    };
    keys.push((format!("{arch}.{epsilon}"), MetadataValue::F32(config.norm_eps)));
    keys
}
