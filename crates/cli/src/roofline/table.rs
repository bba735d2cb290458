//! The page for people: ceilings, then a table of each part, sorted by what is lost.

use super::{Page, Part, Row};
use casallm_compute::roofline::{Bound, Traced};

/// Terminals from this width on show sizes, FLOPs, bytes and extremes too.
const WIDE: usize = 160;
/// Where nobody says how wide the output may be.
const USUAL_WIDTH: usize = 80;

/// What the columns mean, for the narrowest terminal.
const LEGEND: [&str; 4] = [
    "calls: in a step or for a token. ms: of a call, the median of rounds. +-%: half",
    "of fastest to slowest. of%: share of the nearer ceiling, (c)ompute or (m)emory;",
    "above 100 where operands stayed in a cache. part%: share of the sum. lost ms: of",
    "all calls, what lies above the ceiling.",
];

/// Columns of the output: what `COLUMNS` says, else the terminal, else 80.
pub(super) fn width() -> usize {
    let told = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    told.or_else(asked).unwrap_or(USUAL_WIDTH)
}

/// Every line.
pub(super) fn lines(page: &Page, width: usize) -> Vec<String> {
    let text = |key: &str| page.machine[key].to_string().replace('"', "");
    let giga = |value: f64| format!("{:.0}", value / 1e9);
    let (ceilings, bandwidth) = (&page.ceilings, &page.ceilings.bandwidth);
    let mut lines = vec![
        format!("{}, {}, {} threads", text("device"), text("isa"), text("threads")),
        format!(
            "ceilings: {} GFLOP/s in bf16, {} in f32 (best of large products)",
            giga(ceilings.bf16),
            giga(ceilings.f32)
        ),
        format!(
            "          {:.1} GB/s read, {:.1} written, {:.1} copied; the largest counts",
            bandwidth.read / 1e9,
            bandwidth.write / 1e9,
            bandwidth.copy / 1e9
        ),
        format!(
            "model: {:.1} M weights in {}, {} rows of {} tokens",
            page.machine["params"].as_f64().unwrap_or(0.0) / 1e6,
            text("precision"),
            text("batch"),
            text("context")
        ),
    ];
    let wide = width >= WIDE;
    let token = format!("a token decoded on a full cache, weights in {}", text("weights"));
    for (part, title, measured) in [
        (Part::Train, "training step", Some(page.step)),
        (Part::Decode, &token, Some(page.token)),
        (Part::OtherOptimizer, "with the other --optimizer, in a training step", None),
    ] {
        lines.push(String::new());
        lines.push(title.to_owned());
        lines.push(header(wide));
        let sum = page.sum(part);
        lines.extend(page.of(part).map(|row| line(row, sum, wide)));
        let least: f64 = page.of(part).map(|row| row.calls() * row.least).sum();
        lines.push(format!("sum of kernels {} ms, at the ceilings {} ms", ms(sum), ms(least)));
        if let Some(measured) = measured {
            lines.push(format!(
                "measured as a whole {} ms; the sum is {:.0} % of it",
                ms(measured),
                100.0 * sum / measured
            ));
        }
    }
    lines.push(String::new());
    lines.extend(LEGEND.iter().map(|line| (*line).to_owned()));
    lines
}

fn header(wide: bool) -> String {
    let narrow = format!(
        "{:20}{:>6}{:>9}{:>5}{:>9}{:>7}{:>5}  {:>5}{:>9}",
        "kernel", "calls", "ms", "+-%", "GFLOP/s", "GB/s", "of%", "part%", "lost ms"
    );
    match wide {
        true => format!("{narrow}  {:>10}{:>10}{:>10}{:>10}  sizes", "MFLOP", "MB", "fastest", "slowest"),
        false => narrow,
    }
}

fn line(row: &Row, sum: f64, wide: bool) -> String {
    let Traced { work, calls, .. } = &row.traced;
    let narrow = format!(
        "{:20}{:>6}{:>9}{:>5.0}{:>9.1}{:>7.1}{:>5.0}{:1} {:>5.1} {:>9}",
        row.name(),
        calls,
        ms(row.timing.median),
        100.0 * row.spread(),
        row.flops_per_s() / 1e9,
        row.bytes_per_s() / 1e9,
        100.0 * row.share_of_ceiling(),
        if row.bound == Bound::Compute { "c" } else { "m" },
        100.0 * row.seconds() / sum,
        ms(row.lost()),
    );
    match wide {
        true => format!(
            "{narrow}  {:>10.1}{:>10.3}{:>10}{:>10}  {}",
            work.flops() as f64 / 1e6,
            work.bytes() as f64 / 1e6,
            ms(row.timing.fastest),
            ms(row.timing.slowest),
            work.shape()
        ),
        false => narrow,
    }
}

/// Milliseconds with as many digits as say something.
fn ms(seconds: f64) -> String {
    let ms = 1e3 * seconds;
    match ms.abs() {
        x if x >= 100.0 => format!("{ms:.0}"),
        x if x >= 1.0 => format!("{ms:.2}"),
        _ => format!("{ms:.4}"),
    }
}
