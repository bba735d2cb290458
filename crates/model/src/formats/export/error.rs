//! [`ExportError`]: why a model cannot leave in a form of another program.

/// What stands between a model directory and a form of another program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// No architecture that the other program computes is this model.
    #[error("config.json: {field} = {value} has no place in {form}: {remedy}")]
    Shape {
        /// Key of the config.
        field: &'static str,
        /// What it holds.
        value: String,
        /// The form asked for.
        form: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A value that the type asked for cannot hold.
    #[error("parameter {name} holds {value}, but {element} holds at most {largest}; export as {remedy}")]
    Value {
        /// The parameter.
        name: String,
        /// What it holds.
        value: f32,
        /// The type asked for.
        element: &'static str,
        /// Its largest number.
        largest: f32,
        /// A type that can.
        remedy: &'static str,
    },
    /// A NaN or an infinity.
    #[error("parameter {name} holds {value}: the model is damaged, train it again or export an earlier one")]
    NotFinite {
        /// The parameter.
        name: String,
        /// What it holds.
        value: f32,
    },
    /// Weights that are others than a moment ago.
    #[error("model.safetensors: tensor {found} where {expected} was: it is being written; export it again afterwards")]
    Order {
        /// What came.
        found: String,
        /// What lay there.
        expected: String,
    },
    /// A shard of no size.
    #[error("a shard of {bytes} bytes is too small; use at least {least}, like 1MB")]
    ShardSize {
        /// The size asked for.
        bytes: u64,
        /// The smallest one.
        least: u64,
    },
}
