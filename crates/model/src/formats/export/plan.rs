//! [`Plan`]: every tensor that will be written, in the order of the parameters that it is made of.

use std::cmp::Reverse;

use super::error::ExportError;
use crate::config::ModelConfig;
use crate::formats::elements::ElementType;
use crate::formats::layout::{self, Naming, Part};
use crate::formats::tensors::data_bytes;
use crate::specification::ParameterSpec;

/// Values that are converted at a time: whole blocks of every type.
const CHUNK: usize = 1 << 16;

/// One tensor to write.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) name: String,
    /// Dimensions, row-major.
    pub(super) shape: Vec<usize>,
    pub(super) element: ElementType,
    pub(super) content: Content,
}

/// What a tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Rows of its parameter from `first` on, in the order of interleaved heads if so.
    Rows { first: usize, interleaved: bool },
    /// Nothing but zeros.
    Zeros,
}

/// The tensors of each parameter.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) parameters: Vec<(ParameterSpec, Vec<Planned>)>,
    head_dim: usize,
}

impl Plan {
    /// `parameters` are those of `config` in the order in which they will come. `element` chooses a type for a tensor of this name and shape.
    pub(super) fn new(
        config: &ModelConfig,
        parameters: Vec<ParameterSpec>,
        naming: Naming,
        interleaved: bool,
        mut element: impl FnMut(&str, &[usize]) -> ElementType,
    ) -> Self {
        let mut planned = |name: String, shape: Vec<usize>, content| {
            let element = element(&name, &shape);
            Planned { name, shape, element, content }
        };
        let parameters = parameters.into_iter().map(|spec| {
            let mut tensors = Vec::new();
            let mut next = 0;
            for Part { name, rows, heads, again } in layout::parts(naming, interleaved, config, &spec) {
                let first = if again { next - rows } else { next };
                next = first + rows;
                let shape = [&[rows], &spec.shape[1..]].concat();
                tensors.push(planned(name, shape, Content::Rows { first, interleaved: heads }));
            }
            for (name, rows) in layout::zeros(naming, config, &spec) {
                tensors.push(planned(name, vec![rows], Content::Zeros));
            }
            (spec, tensors)
        });
        Plan { parameters: parameters.collect(), head_dim: config.head_dim }
    }

    /// Every tensor.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Planned> {
        self.parameters.iter().flat_map(|(_, tensors)| tensors)
    }

    /// The types of the tensors, with how many there are of each, the most frequent first.
    pub(super) fn element_types(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for name in self.tensors().map(|tensor| tensor.element.name()) {
            match counts.iter_mut().find(|(other, _)| *other == name) {
                Some((_, count)) => *count += 1,
                None => counts.push((name, 1)),
            }
        }
        counts.sort_by_key(|(name, count)| (Reverse(*count), *name));
        counts
    }

    /// Gives `put` the bytes of a tensor, piece by piece, from the values of its parameter.
    pub(super) fn write<E: From<ExportError>>(
        &self,
        spec: &ParameterSpec,
        tensor: &Planned,
        values: &[f32],
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let count: usize = tensor.shape.iter().product();
        let columns: usize = tensor.shape.iter().skip(1).product();
        let zeros;
        let mut rearranged = Vec::new();
        let values = match tensor.content {
            Content::Zeros => {
                zeros = vec![0.0; count];
                &zeros[..]
            }
            Content::Rows { first, interleaved } => {
                let rows = &values[first * columns..][..count];
                if interleaved {
                    rearranged.extend_from_slice(rows);
                    layout::interleave(&mut rearranged, self.head_dim, columns);
                    &rearranged[..]
                } else {
                    rows
                }
            }
        };
        check(spec, tensor.element, values)?;
        // Searching for scales takes far longer than reading and writing.
        let threads = match tensor.element.searched() {
            true => std::thread::available_parallelism().map_or(1, usize::from),
            false => 1,
        };
        let mut buffers = vec![Vec::new(); threads];
        for chunks in values.chunks(CHUNK * threads) {
            std::thread::scope(|scope| {
                let mut work = chunks.chunks(CHUNK).zip(&mut buffers);
                let own = work.next();
                for (chunk, buffer) in work {
                    scope.spawn(|| tensor.element.encode(chunk, buffer));
                }
                if let Some((chunk, buffer)) = own {
                    tensor.element.encode(chunk, buffer);
                }
            });
            for buffer in &mut buffers {
                put(buffer)?;
                buffer.clear();
            }
        }
        Ok(())
    }
}

impl Planned {
    /// Bytes of its data.
    pub(super) fn bytes(&self) -> u64 {
        // A type was chosen of which a row is whole blocks, and the config was validated.
        data_bytes(&self.shape, self.element).unwrap_or(u64::MAX)
    }
}

fn check(spec: &ParameterSpec, element: ElementType, values: &[f32]) -> Result<(), ExportError> {
    let largest = element.largest();
    match values.iter().find(|value| !value.is_finite() || value.abs() > largest) {
        None => Ok(()),
        Some(&value) if value.is_finite() => Err(ExportError::Value {
            name: spec.name.clone(),
            value,
            element: element.name(),
            largest,
            remedy: if element == ElementType::Bf16 { "f32" } else { "bf16 or f32" },
        }),
        Some(&value) => Err(ExportError::NotFinite { name: spec.name.clone(), value }),
    }
}
