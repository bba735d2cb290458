//! A model's parameters on a device: f32 values, and matrices in the form the matrix kernels read.
//!
//! Training keeps the f32 values of everything; inference keeps them only for vectors.

use std::collections::HashMap;
use std::sync::Arc;

use casallm_compute::{DType, Device, MatrixFormat, MatrixUse};

use crate::config::ModelConfig;
use crate::directory::ModelDirectory;
use crate::error::ModelError;
use crate::specification::{ParameterKind, ParameterSpec, init_parameter};

/// Indices of one block's parameters in the canonical list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerIndex {
    pub(crate) norm1: NormIndex,
    pub(crate) qkv: usize,
    pub(crate) qk_norm: Option<(usize, usize)>,
    pub(crate) out: LinearIndex,
    pub(crate) norm2: NormIndex,
    pub(crate) up: LinearIndex,
    pub(crate) down: LinearIndex,
}

/// A norm's weight and bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormIndex {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

/// A linear layer's weight and bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearIndex {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

/// Where each parameter stands in the canonical list.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) embed: usize,
    pub(crate) layers: Vec<LayerIndex>,
    pub(crate) norm: NormIndex,
    /// The output head: the embedding again when tied.
    pub(crate) head: usize,
}

impl Index {
    fn new(config: &ModelConfig, specs: &[ParameterSpec]) -> Self {
        let find = |name: String| specs.iter().position(|s| s.name == name);
        let must = |name: String| find(name).unwrap_or(usize::MAX);
        let norm = |at: &str| NormIndex { weight: must(format!("{at}.weight")), bias: find(format!("{at}.bias")) };
        let linear = |at: &str| LinearIndex { weight: must(format!("{at}.weight")), bias: find(format!("{at}.bias")) };
        let layers = (0..config.n_layer).map(|i| LayerIndex {
            norm1: norm(&format!("layers.{i}.norm1")),
            qkv: must(format!("layers.{i}.attn.qkv.weight")),
            qk_norm: find(format!("layers.{i}.attn.q_norm.weight")).zip(find(format!("layers.{i}.attn.k_norm.weight"))),
            out: linear(&format!("layers.{i}.attn.out")),
            norm2: norm(&format!("layers.{i}.norm2")),
            up: linear(&format!("layers.{i}.mlp.up")),
            down: linear(&format!("layers.{i}.mlp.down")),
        });
        let embed = must("embed.weight".into());
        Index { embed, layers: layers.collect(), norm: norm("norm"), head: find("head.weight".into()).unwrap_or(embed) }
    }
}

/// One parameter on the device.
struct Slot<D: Device> {
    spec: ParameterSpec,
    values: Option<D::Buffer>,
    matrix: Option<D::Matrix>,
}

/// All parameters, in canonical order.
pub struct Parameters<D: Device> {
    device: Arc<D>,
    slots: Vec<Slot<D>>,
    index: Index,
}

impl<D: Device> Parameters<D> {
    /// Allocates and fills every parameter; `values` is asked for each in canonical order.
    ///
    /// # Errors
    /// The memory cannot be had, `values` fails or gives another number of values than the parameter has, or one that
    /// is not finite is to be quantised; quantised weights for training.
    pub fn new(
        device: Arc<D>,
        config: &ModelConfig,
        format: MatrixFormat,
        usage: MatrixUse,
        mut values: impl FnMut(&ParameterSpec) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        let specs = config.parameters();
        let index = Index::new(config, &specs);
        let mut slots = Vec::with_capacity(specs.len());
        for spec in specs {
            let given = values(&spec)?;
            if given.len() != spec.len() {
                return Err(ModelError::WrongCount { name: spec.name, found: given.len(), expected: spec.shape });
            }
            // A block that holds one has no scale, and would hide it.
            if format.is_quantized() && !given.iter().all(|value| value.is_finite()) {
                return Err(ModelError::NotFinite { name: spec.name, format: format.name() });
            }
            let mut buffer = device.allocate(&spec.name, DType::F32, spec.len())?;
            device.write_f32(&mut buffer, 0, &given);
            let mut slot = Slot { values: None, matrix: None, spec };
            if slot.spec.kind != ParameterKind::Vector {
                let (rows, columns) = (slot.spec.shape[0], slot.spec.shape[1]);
                let mut matrix = device.allocate_matrix(&slot.spec.name, format, rows, columns, usage)?;
                device.pack(&buffer, &mut matrix);
                slot.matrix = Some(matrix);
            }
            if slot.matrix.is_none() || usage == MatrixUse::Training {
                slot.values = Some(buffer);
            }
            slots.push(slot);
        }
        Ok(Parameters { device, slots, index })
    }

    /// Fresh parameters for training from a seed.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn random(device: Arc<D>, config: &ModelConfig, format: MatrixFormat, seed: u64) -> Result<Self, ModelError> {
        Self::new(device, config, format, MatrixUse::Training, |spec| Ok(init_parameter(spec, seed)))
    }

    /// The weights of a model directory.
    ///
    /// # Errors
    /// The directory is damaged, or the memory cannot be had.
    pub fn load(
        device: Arc<D>,
        directory: &ModelDirectory,
        format: MatrixFormat,
        usage: MatrixUse,
    ) -> Result<Self, ModelError> {
        let mut loaded = HashMap::new();
        directory.read_weights(|spec, _, values| {
            loaded.insert(spec.name.clone(), values);
            Ok(())
        })?;
        Self::new(device, directory.config(), format, usage, |spec| Ok(loaded.remove(&spec.name).unwrap_or_default()))
    }

    /// Bytes of the parameters as [`Parameters::new`] allocates them.
    pub fn bytes(device: &D, config: &ModelConfig, format: MatrixFormat, usage: MatrixUse) -> u64 {
        let one = |spec: &ParameterSpec| {
            let values = 4 * spec.len() as u64;
            match spec.kind {
                ParameterKind::Vector => values,
                ParameterKind::Embedding | ParameterKind::Matrix => {
                    let matrix = device.matrix_bytes(format, spec.shape[0], spec.shape[1], usage);
                    matrix + if usage == MatrixUse::Training { values } else { 0 }
                }
            }
        };
        config.parameters().iter().map(one).sum()
    }

    /// Number of parameters tensors.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none; never so.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What parameter `i` is.
    pub fn spec(&self, i: usize) -> &ParameterSpec {
        &self.slots[i].spec
    }

    /// The f32 values of parameter `i`; `None` for a matrix held for inference.
    pub fn values(&self, i: usize) -> Option<&D::Buffer> {
        self.slots[i].values.as_ref()
    }

    /// Lets `update` change the values of parameter `i`, then refreshes its matrix.
    pub fn update(&mut self, i: usize, update: impl FnOnce(&mut D::Buffer)) {
        let slot = &mut self.slots[i];
        if let Some(values) = &mut slot.values {
            update(values);
            if let Some(matrix) = &mut slot.matrix {
                self.device.pack(values, matrix);
            }
        }
    }

    /// Every parameter that can be trained, in canonical order: its values and its matrix, which whoever changes the values
    /// must refresh.
    pub fn all_mut(&mut self) -> impl Iterator<Item = (&mut D::Buffer, Option<&mut D::Matrix>)> {
        self.slots.iter_mut().filter_map(|slot| Some((slot.values.as_mut()?, slot.matrix.as_mut())))
    }

    /// Copies parameter `i` to the host; `None` for a matrix held for inference.
    pub fn read(&self, i: usize) -> Option<Vec<f32>> {
        let slot = &self.slots[i];
        let mut values = vec![0.0; slot.spec.len()];
        self.device.read_f32(slot.values.as_ref()?, 0, &mut values);
        Some(values)
    }

    /// The device that holds them.
    pub fn device(&self) -> &Arc<D> {
        &self.device
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn vector(&self, i: usize) -> &D::Buffer {
        self.slots[i].values.as_ref().expect("vectors keep their values")
    }

    pub(crate) fn matrix(&self, i: usize) -> &D::Matrix {
        self.slots[i].matrix.as_ref().expect("matrices are packed")
    }
}
