//! Models of other programs: GGUF files of llama.cpp, and folders of `transformers` with safetensors.
//!
//! Models leave by [`export`]. [`ForeignModel::open`] reads and checks everything but the weights; [`ForeignModel::values`] then gives one parameter
//! at a time, so that [`crate::directory::save_model`] writes a model of any size in the memory of its largest tensor.
//! Files come from strangers: no length or count in them is believed before it is compared with the file's own, what the
//! forward pass would compute otherwise is refused by name, and so is a tensor that would be left over.
//!
//! Tokenizers are not read here. Their files, and the metadata of a GGUF file, are handed on.

mod elements;
mod error;
pub mod export;
mod gguf;
mod hf;
mod layout;
mod tensors;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub use elements::ElementType;
pub use error::FormatError;
pub use export::ExportError;
pub use gguf::Metadata;

use crate::config::ModelConfig;
use crate::directory::StoredDtype;
use crate::directory::checksums::{self, Checksums};
use crate::error::ModelError;
use crate::specification::ParameterSpec;
use layout::{Naming, Part};
use tensors::Tensors;

/// A model of another program whose settings and list of tensors have been read.
#[derive(Debug)]
pub struct ForeignModel {
    path: PathBuf,
    config: ModelConfig,
    tensors: Tensors,
    naming: Naming,
    interleaved: bool,
    /// Of a GGUF file.
    metadata: Option<Metadata>,
    /// Of a folder that was exported from here.
    sums: Checksums,
}

impl ForeignModel {
    /// Opens a GGUF file, or a folder with `config.json` and safetensors. Where checksums lie beside the files, as an export
    /// from here leaves them, all of the files are read once to compare.
    ///
    /// # Errors
    /// [`ModelError::Format`]: neither is there, it is damaged, or a kind of model that is not computed here;
    /// [`ModelError::Config`] for dimensions that no model can have; [`ModelError::Checksum`]; [`ModelError::Io`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mut model = if path.is_dir() { hf::open(path)? } else { gguf::open(path)? };
        model.config.validate()?;
        model.check_tensors()?;
        for path in model.tensors.paths() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if model.sums.expected(name).is_some() {
                model.sums.verify(path, name, checksums::of_file(path)?)?;
            }
        }
        Ok(model)
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The metadata of a GGUF file, its tokenizer among them; `None` of a folder.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Compares a text file of the folder with the checksum that lies beside it, if there is one.
    ///
    /// # Errors
    /// [`ModelError::Checksum`].
    pub fn check_text(&self, name: &str, contents: &[u8]) -> Result<(), ModelError> {
        self.sums.verify(&self.path.join(name), name, checksums::of(contents))
    }

    /// The type in which a model directory loses nothing: bf16 where all tensors are, else f32.
    pub fn stored_dtype(&self) -> StoredDtype {
        let mut used = self.tensors.iter().filter(|(name, _)| !self.is_spare(name));
        let bf16 = used.all(|(_, tensor)| tensor.element == ElementType::Bf16);
        if bf16 { StoredDtype::Bf16 } else { StoredDtype::F32 }
    }

    /// The types of the tensors, with how many there are of each, the most frequent first.
    pub fn element_types(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for (_, tensor) in self.tensors.iter() {
            let name = tensor.element.name();
            match counts.iter_mut().find(|(other, _)| *other == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        counts.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        counts
    }

    /// Keeps the rows of the first `tokens` ids only: models are given rows to spare, which stand for nothing.
    ///
    /// # Errors
    /// [`FormatError::Vocabulary`]: there are fewer rows.
    pub fn keep_vocabulary(&mut self, tokens: usize) -> Result<(), ModelError> {
        if tokens > self.config.vocab_size {
            return Err(FormatError::Vocabulary { tokens, rows: self.config.vocab_size }.into());
        }
        self.config.vocab_size = tokens;
        self.config.validate()
    }

    /// The values of one of the parameters of [`ForeignModel::config`], row-major.
    ///
    /// # Errors
    /// The file cannot be read, or holds a number that is not finite.
    pub fn values(&mut self, spec: &ParameterSpec) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::with_capacity(spec.len());
        let columns: usize = spec.shape.iter().skip(1).product();
        for Part { name, rows, heads, again } in layout::parts(self.naming, self.interleaved, &self.config, spec) {
            let first = values.len();
            self.tensors.read(&name, rows, &mut values)?;
            if heads {
                layout::halves(&mut values[first..], self.config.head_dim, columns);
            }
            if again {
                let (before, repeated) = values[first - rows * columns..].split_at(rows * columns);
                if before != repeated {
                    return Err(self.unsupported(
                        format!("tensor {name}"),
                        "another matrix than that of the gate, where hidden_act is \"relu\"",
                        "only squared ReLU, which has one matrix in both places, is computed here",
                    ));
                }
                values.truncate(first);
            }
        }
        Ok(values)
    }

    /// Holds the list of tensors to what the config implies: all there, of their shapes, and none left over.
    fn check_tensors(&mut self) -> Result<(), ModelError> {
        let mut used = HashSet::new();
        for spec in self.config.parameters() {
            for (name, rows) in layout::zeros(self.naming, &self.config, &spec) {
                if self.tensors.get(&name).is_some_and(|tensor| tensor.shape == [rows]) {
                    let mut values = Vec::new();
                    self.tensors.read(&name, rows, &mut values)?;
                    if let Some(found) = values.iter().find(|value| **value != 0.0) {
                        return Err(self.unsupported(
                            format!("tensor {name}"),
                            &format!("not all zeros: it holds {found}"),
                            "queries, keys and values have no biases here, and without them the answers would differ; import another model",
                        ));
                    }
                    used.insert(name);
                }
            }
            for Part { name, rows, .. } in layout::parts(self.naming, self.interleaved, &self.config, &spec) {
                let Some(tensor) = self.tensors.get(&name) else {
                    return Err(FormatError::MissingTensor { path: self.path.clone(), name }.into());
                };
                let expected = [&[rows], &spec.shape[1..]].concat();
                if tensor.shape != expected {
                    let found = tensor.shape.clone();
                    return Err(FormatError::Shape { path: self.path.clone(), name, found, expected }.into());
                }
                used.insert(name);
            }
        }
        match self.tensors.iter().find(|(name, _)| !used.contains(*name) && !self.is_spare(name)) {
            Some((name, _)) => Err(FormatError::ExtraTensor { path: self.path.clone(), name: name.to_owned() }.into()),
            None => Ok(()),
        }
    }

    fn unsupported(&self, what: String, found: &str, remedy: &'static str) -> ModelError {
        FormatError::Unsupported { path: self.path.clone(), what, found: found.to_owned(), remedy }.into()
    }

    /// Whether a tensor says only what is known without it: a copy of the embedding, a table that follows from the config.
    fn is_spare(&self, name: &str) -> bool {
        self.naming == Naming::HuggingFace
            && (name == "lm_head.weight" && self.config.tie_embeddings || name.ends_with(".rotary_emb.inv_freq"))
    }
}

#[cfg(test)]
mod tests;
