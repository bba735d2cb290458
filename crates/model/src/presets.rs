//! Named sizes: the GPT-3 family (table 2.1 of <https://arxiv.org/abs/2005.14165>) and three smaller ones for laptops.

use crate::config::ModelConfig;
use crate::error::ModelError;
use serde::{Deserialize, Serialize};

/// Which of the two families a preset is built as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// [`ModelConfig::classic`].
    Classic,
    /// [`ModelConfig::modern`], with as many key-value heads as query heads; set `n_kv_head` for grouped queries.
    Modern,
}

/// A named size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// What a recipe or a flag calls it.
    pub name: &'static str,
    /// Blocks.
    pub n_layer: usize,
    /// Width.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
}

/// Context of every preset, in tokens.
pub const CONTEXT: usize = 2048;

/// All presets, smallest first.
pub const PRESETS: &[Preset] = &[
    Preset { name: "gpt3-nano", n_layer: 4, n_embd: 256, n_head: 4 },
    Preset { name: "gpt3-micro", n_layer: 6, n_embd: 384, n_head: 6 },
    Preset { name: "gpt3-mini", n_layer: 8, n_embd: 512, n_head: 8 },
    Preset { name: "gpt3-small", n_layer: 12, n_embd: 768, n_head: 12 },
    Preset { name: "gpt3-medium", n_layer: 24, n_embd: 1024, n_head: 16 },
    Preset { name: "gpt3-large", n_layer: 24, n_embd: 1536, n_head: 16 },
    // The paper prints 24 heads of 128 for width 2048; 16 of 128 is the pair that multiplies to it.
    Preset { name: "gpt3-xl", n_layer: 24, n_embd: 2048, n_head: 16 },
];

impl Preset {
    /// Finds a preset by its name.
    ///
    /// # Errors
    /// [`ModelError::UnknownPreset`], listing the names there are.
    pub fn by_name(name: &str) -> Result<&'static Self, ModelError> {
        PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| ModelError::UnknownPreset {
            name: name.to_owned(),
            known: PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The config of this size.
    ///
    /// # Errors
    /// When `vocab_size` is out of bounds.
    pub fn config(&self, block: Block, vocab_size: usize) -> Result<ModelConfig, ModelError> {
        let Self { n_layer, n_embd, n_head, .. } = *self;
        match block {
            Block::Classic => ModelConfig::classic(n_layer, n_embd, n_head, vocab_size, CONTEXT),
            Block::Modern => ModelConfig::modern(n_layer, n_embd, n_head, n_head, vocab_size, CONTEXT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_about_the_sizes_of_the_paper() {
        let millions = |name: &str, block| {
            let config = Preset::by_name(name).unwrap().config(block, 50_257).unwrap();
            config.n_params() as f64 / 1e6
        };
        for block in [Block::Classic, Block::Modern] {
            for (name, published) in
                [("gpt3-small", 125.0), ("gpt3-medium", 350.0), ("gpt3-large", 760.0), ("gpt3-xl", 1310.0)]
            {
                let ratio = millions(name, block) / published;
                assert!((0.95..1.05).contains(&ratio), "{name} as {block:?}: {ratio}");
            }
        }
    }

    #[test]
    fn presets_grow_and_their_names_differ() {
        for pair in PRESETS.windows(2) {
            let size = |p: &Preset| p.config(Block::Classic, 1000).unwrap().n_params();
            assert!(size(&pair[0]) < size(&pair[1]));
            assert_ne!(pair[0].name, pair[1].name);
        }
    }

    #[test]
    fn an_unknown_preset_is_answered_with_the_known_ones() {
        let message = Preset::by_name("gpt4").unwrap_err().to_string();
        assert!(message.contains("gpt4") && message.contains("gpt3-nano") && message.contains("gpt3-xl"));
    }
}
