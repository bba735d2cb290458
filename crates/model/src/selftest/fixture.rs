//! PyTorch's results, as `make_fixtures.py` wrote them; a part of the program.

use safetensors::{Dtype, SafeTensors};

use crate::config::ModelConfig;
use crate::error::ModelError;

/// A config with parameters, a batch, and what PyTorch makes of them.
pub(super) struct Fixture {
    pub(super) name: &'static str,
    pub(super) config: ModelConfig,
    tensors: SafeTensors<'static>,
}

/// One of each block.
const FILES: [(&str, &[u8]); 4] = [
    ("classic", include_bytes!("../../tests/fixtures/classic.safetensors")),
    ("modern", include_bytes!("../../tests/fixtures/modern.safetensors")),
    ("modern_relu_squared_untied", include_bytes!("../../tests/fixtures/modern_relu_squared_untied.safetensors")),
    ("llama", include_bytes!("../../tests/fixtures/llama.safetensors")),
];

/// All of them.
///
/// # Errors
/// A config that this version of the program does not know: a fixture has to be made anew.
pub(super) fn all() -> Result<Vec<Fixture>, ModelError> {
    FILES.iter().map(|(name, bytes)| Fixture::open(name, bytes)).collect()
}

impl Fixture {
    fn open(name: &'static str, bytes: &'static [u8]) -> Result<Self, ModelError> {
        let broken = |error: safetensors::SafeTensorError| ModelError::ConfigSyntax(format!("fixture {name}: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let config = header.metadata().as_ref().and_then(|entries| entries.get("config"));
        let config = ModelConfig::from_json(config.map_or("", String::as_str))?;
        Ok(Fixture { name, config, tensors: SafeTensors::deserialize(bytes).map_err(broken)? })
    }

    fn data(&self, name: &str) -> (Dtype, &[u8]) {
        let tensor = self.tensors.tensor(name).unwrap_or_else(|_| panic!("the fixture {} holds {name}", self.name));
        (tensor.dtype(), tensor.data())
    }

    /// Values of f32 or bf16.
    pub(super) fn f32(&self, name: &str) -> Vec<f32> {
        match self.data(name) {
            (Dtype::BF16, bytes) => {
                bytes.chunks_exact(2).map(|b| f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]]))).collect()
            }
            (_, bytes) => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }

    /// Indices.
    pub(super) fn u32(&self, name: &str) -> Vec<u32> {
        self.data(name).1.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}
