//! The kernels' texts, which the program carries, and how a module's translation unit is put together.
//!
//! A unit is: the module's defines, `prelude.cu` (types and small functions, no PTX), `ptx.cu` (the few functions that
//! hold all inline PTX) and the family's file. It needs no header and is compiled on the machine it runs on.

use super::driver::Kernel;
use crate::dtype::DType;

/// A file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// A bias for a product whose epilogue does not add it.
    Bias,
    /// Every primitive of `prelude.cu` and `ptx.cu` on its own: what a GPU is checked with first.
    Probe,
    /// GELU, SwiGLU, squared ReLU.
    Activation,
    /// AdamW.
    AdamW,
    /// Sums over rows, in two stages.
    Columns,
    /// Dropout, and the rounding of gradients.
    Dropout,
    /// The embedding and its gradient.
    Embedding,
    /// 8-bit operands of matrix products.
    Fp8,
    /// Softmax and cross-entropy.
    Head,
    /// Gathered, scattered and rounded values.
    Memory,
    /// Muon, but for its matrix products.
    Muon,
    /// Linear layers of few tokens.
    Matvec,
    /// LayerNorm and RMSNorm.
    Norm,
    /// Queries, keys and values: QK-norm and RoPE. Needs `HEAD_DIM`.
    Qkv,
    /// Quantised weights: few tokens, restored rows. Needs `BITS`.
    Quantized,
    /// Sum of squares.
    Squares,
    /// Attention on tensor cores, forward: bf16, heads of 64 and 128.
    AttentionForward,
    /// Its gradients.
    AttentionBackward,
    /// Attention of any storage type and head width; decoding.
    AttentionRows,
    /// Its gradients.
    AttentionRowsBackward,
}

impl Family {
    /// Every family.
    pub const ALL: &'static [Family] = &[
        Family::Bias,
        Family::Probe,
        Family::Activation,
        Family::AdamW,
        Family::Columns,
        Family::Dropout,
        Family::Embedding,
        Family::Fp8,
        Family::Head,
        Family::Matvec,
        Family::Memory,
        Family::Muon,
        Family::Norm,
        Family::Qkv,
        Family::Quantized,
        Family::Squares,
        Family::AttentionForward,
        Family::AttentionBackward,
        Family::AttentionRows,
        Family::AttentionRowsBackward,
    ];

    /// The file's name without its ending.
    pub fn name(self) -> &'static str {
        match self {
            Family::Bias => "bias",
            Family::Probe => "probe",
            Family::Activation => "activation",
            Family::AdamW => "adamw",
            Family::Columns => "columns",
            Family::Dropout => "dropout",
            Family::Embedding => "embedding",
            Family::Fp8 => "fp8",
            Family::Head => "head",
            Family::Matvec => "matvec",
            Family::Memory => "memory",
            Family::Muon => "muon",
            Family::Norm => "norm",
            Family::Qkv => "qkv",
            Family::Quantized => "quantized",
            Family::Squares => "squares",
            Family::AttentionForward => "attention_forward",
            Family::AttentionBackward => "attention_backward",
            Family::AttentionRows => "attention_rows",
            Family::AttentionRowsBackward => "attention_rows_backward",
        }
    }

    /// The file's text, behind that of the file it shares with another family.
    pub fn text(self) -> &'static str {
        match self {
            Family::Bias => include_str!("kernels/bias.cu"),
            Family::Probe => include_str!("kernels/probe.cu"),
            Family::Activation => include_str!("kernels/activation.cu"),
            Family::AdamW => concat!(
                include_str!("kernels/tally.cu"),
                include_str!("kernels/tensors.cu"),
                include_str!("kernels/stochastic.cu"),
                include_str!("kernels/moments.cu"),
                include_str!("kernels/adamw.cu")
            ),
            Family::Columns => include_str!("kernels/columns.cu"),
            Family::Dropout => concat!(include_str!("kernels/stochastic.cu"), include_str!("kernels/dropout.cu")),
            Family::Embedding => include_str!("kernels/embedding.cu"),
            Family::Fp8 => include_str!("kernels/fp8.cu"),
            Family::Head => concat!(include_str!("kernels/tally.cu"), include_str!("kernels/head.cu")),
            Family::Matvec => concat!(include_str!("kernels/vector.cu"), include_str!("kernels/matvec.cu")),
            Family::Memory => concat!(include_str!("kernels/stochastic.cu"), include_str!("kernels/memory.cu")),
            Family::Muon => concat!(
                include_str!("kernels/tally.cu"),
                include_str!("kernels/stochastic.cu"),
                include_str!("kernels/muon.cu")
            ),
            Family::Norm => include_str!("kernels/norm.cu"),
            Family::Qkv => include_str!("kernels/qkv.cu"),
            Family::Quantized => concat!(include_str!("kernels/vector.cu"), include_str!("kernels/quantized.cu")),
            Family::Squares => concat!(
                include_str!("kernels/tally.cu"),
                include_str!("kernels/tensors.cu"),
                include_str!("kernels/squares.cu")
            ),
            Family::AttentionForward => {
                concat!(include_str!("kernels/tile.cu"), include_str!("kernels/attention_forward.cu"))
            }
            Family::AttentionBackward => {
                concat!(include_str!("kernels/tile.cu"), include_str!("kernels/attention_backward.cu"))
            }
            Family::AttentionRows => {
                concat!(include_str!("kernels/rows.cu"), include_str!("kernels/attention_rows.cu"))
            }
            Family::AttentionRowsBackward => {
                concat!(include_str!("kernels/rows.cu"), include_str!("kernels/attention_rows_backward.cu"))
            }
        }
    }
}

/// Widest head that kernels are compiled for.
pub const MAX_HEAD_DIM: usize = 512;

/// The define of modules that are compiled for a head's width.
pub fn head_dim_define(head_dim: usize) -> &'static [(&'static str, u32)] {
    static TABLE: [[(&str, u32); 1]; MAX_HEAD_DIM + 1] = {
        let mut table = [[("HEAD_DIM", 0)]; MAX_HEAD_DIM + 1];
        let mut i = 0;
        while i <= MAX_HEAD_DIM {
            table[i][0].1 = i as u32;
            i += 1;
        }
        table
    };
    assert!(head_dim <= MAX_HEAD_DIM, "heads of at most {MAX_HEAD_DIM}");
    &TABLE[head_dim]
}

/// Heads of models: Qwen3's and most others', narrow ones of small models, GPT-2's and Phi's. Any other compiles as well.
const USUAL_HEADS: &[&[(&str, u32)]] =
    &[&[("HEAD_DIM", 32)], &[("HEAD_DIM", 64)], &[("HEAD_DIM", 80)], &[("HEAD_DIM", 128)], &[("HEAD_DIM", 256)]];

impl Family {
    /// The storage types that the family is compiled for.
    fn storages(self) -> &'static [Option<DType>] {
        match self {
            Family::Probe | Family::AdamW | Family::Fp8 | Family::Muon | Family::Squares => &[None],
            Family::AttentionForward | Family::AttentionBackward => &[None],
            Family::Bias | Family::Activation | Family::Columns | Family::Dropout | Family::Embedding => BOTH,
            Family::Head | Family::Matvec | Family::Memory | Family::Norm | Family::Qkv => BOTH,
            Family::AttentionRows | Family::AttentionRowsBackward => BOTH,
            Family::Quantized => &[Some(DType::Bf16)],
        }
    }

    /// The defines that the family is compiled with.
    fn variants(self) -> &'static [&'static [(&'static str, u32)]] {
        match self {
            Family::Qkv => USUAL_HEADS,
            Family::Quantized => &[&[("BITS", 8)], &[("BITS", 4)]],
            Family::AttentionForward | Family::AttentionBackward => &[&[("HEAD_DIM", 64)], &[("HEAD_DIM", 128)]],
            Family::AttentionRows => {
                &[&[("BLOCK_ROWS", 1)], &[("BLOCK_ROWS", 2)], &[("BLOCK_ROWS", 4)], &[("BLOCK_ROWS", 8)]]
            }
            _ => &[&[]],
        }
    }
}

const BOTH: &[Option<DType>] = &[Some(DType::F32), Some(DType::Bf16)];

/// Every module that the program may ask for, its entry left empty; of those for any width of head the usual ones. The one
/// list: a driver refuses what is not in it, and the compile gate compiles all that is.
pub fn modules() -> Vec<Kernel> {
    let mut modules = Vec::new();
    for family in Family::ALL {
        for storage in family.storages() {
            for defines in family.variants() {
                modules.push(Kernel { family: *family, storage: *storage, defines, entry: "" });
            }
        }
    }
    modules
}

/// Whether the kernel's module is one of [`modules`], or differs from one in its width of head.
pub fn is_listed(kernel: &Kernel) -> bool {
    let Kernel { family, storage, defines, .. } = *kernel;
    let any_head = family == Family::Qkv && matches!(defines, [("HEAD_DIM", 1..)]);
    family.storages().contains(&storage) && (any_head || family.variants().contains(&defines))
}

/// Types and small functions that every kernel may use.
pub const PRELUDE: &str = include_str!("kernels/prelude.cu");
/// The functions that hold inline PTX.
pub const PTX: &str = include_str!("kernels/ptx.cu");

/// The `#define` lines of a module.
pub fn defines(kernel: &Kernel) -> String {
    let mut text = String::new();
    let storage = kernel.storage.map(|dtype| match dtype {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::U32 => panic!("indices used as activations"),
    });
    if let Some(bf16) = storage {
        text += &format!("#define STORAGE_BF16 {bf16}\n");
    }
    for (name, value) in kernel.defines {
        text += &format!("#define {name} {value}u\n");
    }
    text
}

/// What a CUDA compiler is given.
pub fn translation_unit(kernel: &Kernel) -> String {
    [&defines(kernel), PRELUDE, PTX, kernel.family.text()].join("\n")
}

/// The entries of a family's text and the most threads in their `__launch_bounds__`, found by the one form in which they
/// are written: `extern "C" __global__ __launch_bounds__(N) void name(`, or `(N, M)` where M blocks a multiprocessor
/// are wanted.
pub fn entries(text: &str) -> Vec<(&str, &str)> {
    const START: &str = "extern \"C\" __global__ __launch_bounds__(";
    const MIDDLE: &str = ") void ";
    text.match_indices(START)
        .filter_map(|(at, _)| {
            let (bounds, rest) = text[at + START.len()..].split_once(MIDDLE)?;
            let (name, _) = rest.split_once('(')?;
            let threads = bounds.split_once(',').map_or(bounds, |(threads, _)| threads);
            Some((name.trim(), threads))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel written in another word order would be invisible to the simulator.
    #[test]
    fn every_global_function_is_found() {
        for family in Family::ALL {
            let text = family.text();
            assert_eq!(entries(text).len(), text.matches("__global__").count(), "{}.cu", family.name());
            for (entry, bounds) in entries(text) {
                let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
                assert!(!entry.is_empty() && entry.chars().all(named), "{}.cu: entry '{entry}'", family.name());
                assert!(bounds.len() < 40, "{}.cu: {entry} has bounds '{bounds}'", family.name());
            }
        }
    }

    #[test]
    fn bounds_may_say_how_many_blocks() {
        let text = "extern \"C\" __global__ __launch_bounds__(N, 4) void one(u32 x) {}\n\
                    extern \"C\" __global__ __launch_bounds__(32) void two(\n";
        assert_eq!(entries(text), [("one", "N"), ("two", "32")]);
    }

    #[test]
    fn a_unit_starts_with_its_defines() {
        let kernel =
            Kernel { family: Family::Probe, storage: Some(DType::Bf16), defines: &[("HEAD_DIM", 64)], entry: "x" };
        assert!(translation_unit(&kernel).starts_with("#define STORAGE_BF16 1\n#define HEAD_DIM 64u\n"));
    }
}
