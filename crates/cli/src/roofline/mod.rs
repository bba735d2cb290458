//! `casallm bench roofline`: how near each kernel of a training step and of a decoded token comes to what this machine
//! can do. What a step consists of is not listed here: the trainer and the decoder run on a device that takes notes.

mod measure;
mod table;

use anyhow::{Result, bail};
use casallm_compute::Device;
use casallm_compute::roofline::{Bound, Ceilings, Timing, Traced, Work};
use serde_json::{Value, json};

use crate::Ended;
use crate::args::{BenchRoofline, Output};
use crate::bench::{MAX_TOKENS, config};
use crate::console::Console;
use crate::devices::{self, on_device};
use crate::streams::print;

/// Longest budget, a day: beyond it somebody has mistyped.
const MAX_SECONDS: f64 = 86_400.0;

/// What a kernel is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A training step, with the optimizer that was asked for.
    Train,
    /// A token decoded on a full cache.
    Decode,
    /// What a training step would consist of besides with the other optimizer.
    OtherOptimizer,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Decode => "decode",
            Part::OtherOptimizer => "other_optimizer",
        }
    }
}

/// A kernel, what it took, and what it could have taken.
struct Row {
    part: Part,
    traced: Traced,
    timing: Timing,
    /// Seconds of a call at the nearer ceiling.
    least: f64,
    bound: Bound,
}

impl Row {
    fn new(part: Part, traced: Traced, timing: Timing, ceilings: &Ceilings) -> Self {
        let (least, bound) = ceilings.least_seconds(&traced.work);
        Row { part, traced, timing, least, bound }
    }

    /// For people: what it does, and to which weight.
    fn name(&self) -> String {
        let Traced { label, work, .. } = &self.traced;
        let operation = match work {
            Work::LinearBackwardInput { .. } => "d_input",
            Work::LinearBackwardWeight { .. } => "d_weight",
            Work::AdamW { .. } => "adamw",
            Work::Muon { .. } => "muon",
            Work::Head { gradient: true, .. } => "head with gradient",
            Work::Clip { .. } => "gradient norm",
            work => work.operation(),
        };
        let sized = matches!(work, Work::FillZero { .. } | Work::Copy { .. } | Work::Dropout { .. });
        match (label.is_empty(), sized) {
            (false, _) => format!("{operation} {label}"),
            (true, true) => format!("{operation} {}", work.shape()),
            (true, false) => operation.to_owned(),
        }
    }

    fn calls(&self) -> f64 {
        self.traced.calls as f64
    }

    /// Of all calls of a step or a token.
    fn seconds(&self) -> f64 {
        self.calls() * self.timing.median
    }

    /// Of the nearer ceiling. Above one where operands were in a cache.
    fn share_of_ceiling(&self) -> f64 {
        self.least / self.timing.median
    }

    /// Seconds of a step above what the nearer ceiling allows.
    fn lost(&self) -> f64 {
        self.seconds() - self.calls() * self.least
    }

    fn flops_per_s(&self) -> f64 {
        self.traced.work.flops() as f64 / self.timing.median
    }

    fn bytes_per_s(&self) -> f64 {
        self.traced.work.bytes() as f64 / self.timing.median
    }

    /// Half of what lies between the fastest round and the slowest, as a share of the median.
    fn spread(&self) -> f64 {
        (self.timing.slowest - self.timing.fastest) / (2.0 * self.timing.median)
    }
}

/// Everything that was measured.
struct Page {
    /// The device, the model and the ceilings.
    machine: Value,
    ceilings: Ceilings,
    /// Sorted by what is lost.
    rows: Vec<Row>,
    /// Seconds of a whole training step and of a whole token, as they are.
    step: f64,
    token: f64,
}

impl Page {
    fn of(&self, part: Part) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.part == part)
    }

    /// Seconds of all kernels of a part.
    fn sum(&self, part: Part) -> f64 {
        self.of(part).map(Row::seconds).sum()
    }

    /// One object a line: the machine, the kernels, the sums.
    fn json(&self) -> Vec<Value> {
        let kernel = |row: &Row| {
            let Traced { label, work, calls } = &row.traced;
            json!({
                "row": "kernel",
                "part": row.part.name(),
                "operation": work.operation(),
                "label": label,
                "shape": work.shape(),
                "calls": calls,
                "flops": work.flops(),
                "bytes": work.bytes(),
                "seconds": row.timing.median,
                "seconds_fastest": row.timing.fastest,
                "seconds_slowest": row.timing.slowest,
                "rounds": row.timing.rounds,
                "calls_per_round": row.timing.calls,
                "flops_per_s": row.flops_per_s(),
                "bytes_per_s": row.bytes_per_s(),
                "bound": row.bound.name(),
                "share_of_ceiling": row.share_of_ceiling(),
                "share_of_part": row.seconds() / self.sum(row.part),
                "lost_seconds": row.lost(),
            })
        };
        let total = |part: Part, measured: f64| {
            let least: f64 = self.of(part).map(|row| row.calls() * row.least).sum();
            json!({
                "row": "total",
                "part": part.name(),
                "kernel_seconds": self.sum(part),
                "measured_seconds": measured,
                "least_seconds": least,
            })
        };
        let mut lines = vec![self.machine.clone()];
        lines.extend(self.rows.iter().map(kernel));
        lines.extend([total(Part::Train, self.step), total(Part::Decode, self.token)]);
        lines
    }
}

/// Measures and prints.
pub(crate) fn run(flags: &BenchRoofline) -> Result<Ended> {
    if flags.batch == 0 || flags.context == 0 {
        bail!("--batch and --context must be at least 1");
    }
    if flags.batch.checked_mul(flags.context).is_none_or(|tokens| tokens > MAX_TOKENS) {
        bail!("--batch {} of --context {}: use at most {MAX_TOKENS} tokens in all", flags.batch, flags.context);
    }
    if !(flags.seconds > 0.0 && flags.seconds <= MAX_SECONDS) {
        bail!("--seconds {}: use a number above 0 and at most {MAX_SECONDS}", flags.seconds);
    }
    let model = config(&flags.dimensions, flags.context)?;
    let mut console = Console::new(&Output { json: flags.json, quiet: false });
    let page = on_device!(devices::open(&flags.compute, 0)?, device => {
        measure::page(flags, &model, &device, &mut console)?
    });
    console.clear();
    if flags.json {
        page.json().iter().try_for_each(|line| print(&line.to_string()))?;
    } else {
        table::lines(&page, table::width()).iter().try_for_each(|line| print(line))?;
    }
    Ok(Ended::Done)
}

/// The device, the model and the ceilings, for machines.
fn machine<D: Device>(
    flags: &BenchRoofline,
    model: &casallm_model::config::ModelConfig,
    device: &D,
    ceilings: &Ceilings,
) -> Value {
    let info = device.info();
    json!({
        "row": "machine",
        "device": info.name,
        "isa": info.isa,
        "threads": info.threads,
        "precision": devices::matrices(flags.precision).name(),
        "weights": measure::weights(flags).name(),
        "params": model.n_params(),
        "batch": flags.batch,
        "context": flags.context,
        "f32_flops_per_s": ceilings.f32,
        "bf16_flops_per_s": ceilings.bf16,
        "read_bytes_per_s": ceilings.bandwidth.read,
        "write_bytes_per_s": ceilings.bandwidth.write,
        "copy_bytes_per_s": ceilings.bandwidth.copy,
        "wait_seconds": ceilings.wait,
    })
}
