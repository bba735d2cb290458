//! The files of a sweep: `sweep.json` for machines, `sweep.md` to paste into a log, `sweep.html` with the curves.

use std::path::Path;

use anyhow::Result;
use casallm_data::durable::write_file;
use casallm_train::metrics::MetricsRow;
use casallm_train::recipe::{Recipe, Stage};
use serde_json::{Value, json};

use super::results::Results;
use crate::report::gather::made;
use crate::report::{Fact, Point, SweepData, TrialCurve, render_sweep};

/// What all trials have in common.
pub(super) struct Conditions {
    pub(super) stage: Stage,
    /// The recipe's file.
    pub(super) recipe: String,
    /// As it was typed.
    pub(super) command: String,
    /// What computes.
    pub(super) device: String,
    pub(super) jobs: usize,
}

impl Conditions {
    fn facts(&self, recipe: &Recipe) -> Vec<Fact> {
        let mut facts = vec![
            Fact::new("Command", &self.command),
            Fact::new("Recipe", &self.recipe),
            Fact::new("Stage", self.stage.name()),
            Fact::new("Computed on", &self.device),
            Fact::new("Trials at a time", self.jobs.to_string()),
        ];
        if let Some((context, step)) = recipe.stage_tokens(self.stage) {
            facts.push(Fact::new("Tokens", format!("{step} a step, {context} a row (of the first trial)")));
        }
        facts
    }
}

/// The arguments of this process as one would type them again.
pub(super) fn typed() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,/:+@%".contains(c);
    let quoted = |text: String| match text.chars().all(plain) && !text.is_empty() {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    };
    let arguments = std::env::args_os().skip(1).map(|argument| quoted(argument.to_string_lossy().into_owned()));
    std::iter::once("casallm".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Writes all three.
///
/// # Errors
/// The disk refuses.
pub(super) fn write(out: &Path, on: &Conditions, results: &Results<'_>, rows: &[Vec<MetricsRow>]) -> Result<()> {
    write_file(&out.join("sweep.json"), format!("{:#}\n", as_json(on, results)).as_bytes())?;
    write_file(&out.join("sweep.md"), as_markdown(on, results).as_bytes())?;
    write_file(&out.join("sweep.html"), render_sweep(&as_page(on, results, rows)).as_bytes())?;
    Ok(())
}

/// All of it for machines.
pub(super) fn as_json(on: &Conditions, results: &Results<'_>) -> Value {
    let mut whole = json!({
        "recipe": on.recipe,
        "stage": on.stage,
        "command": on.command,
        "device": on.device,
        "jobs": on.jobs,
        "grid": results.grid.axes.iter().map(|axis| json!({ "key": axis.key, "values": axis.values })).collect::<Vec<_>>(),
    });
    if let (Value::Object(whole), Value::Object(rest)) = (&mut whole, results.json()) {
        whole.extend(rest);
    }
    whole
}

/// What is varied, in words.
fn varied(results: &Results<'_>) -> String {
    match results.grid.axes.as_slice() {
        [] => "seeds".to_owned(),
        axes => axes.iter().map(|axis| axis.key.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn as_markdown(on: &Conditions, results: &Results<'_>) -> String {
    let made = made();
    let date = made.split(',').next().unwrap_or_default();
    let mut text = format!("## {date}: sweep over {}\n\n    {}\n\n", varied(results), on.command);
    text += &format!(
        "{} of {} trials of {}, {}, {} at a time; {} on held-out data, less is better{}.\n\n{}",
        results.grid.trials.len() - results.unfinished().len(),
        results.grid.trials.len(),
        on.stage.name(),
        on.device,
        on.jobs,
        results.measure.title(),
        if results.grid.trials.len() > results.grid.combinations.len() {
            "; mean ± deviation over seeds; no rank while seeds are missing"
        } else {
            ""
        },
        results.table().markdown()
    );
    for (name, why) in results.unfinished() {
        text += &format!("\n- `{name}`: {why}");
    }
    text.trim_end().to_owned() + "\n"
}

fn as_page(on: &Conditions, results: &Results<'_>, rows: &[Vec<MetricsRow>]) -> SweepData {
    let (grid, table) = (results.grid, results.table());
    let mut curves = Vec::new();
    for ranked in &results.ranking {
        for (trial, rows) in grid.trials.iter().zip(rows).filter(|(trial, _)| trial.combination == ranked.combination) {
            let points = |of: &dyn Fn(&MetricsRow) -> Option<f64>| {
                rows.iter().filter_map(|row| Some(Point { x: row.tokens as f64, y: of(row)? })).collect::<Vec<_>>()
            };
            let title = grid.title(trial.combination);
            let seeds = grid.trials.len() > grid.combinations.len();
            let curve = TrialCurve {
                name: if seeds { format!("{title}, seed {}", trial.seed) } else { title },
                colour: trial.combination,
                validation: points(&|row| results.measure.of(row)),
                training: points(&|row| row.loss),
            };
            if !curve.training.is_empty() {
                curves.push(curve);
            }
        }
    }
    let best = table.rows.first().zip(results.ranking.first().filter(|first| results.has_rank(first)));
    let column = |title: &str| table.head.iter().position(|head| head == title);
    let mut headline = vec![Fact::new("Trials", grid.trials.len().to_string())];
    if let Some((row, first)) = best {
        headline.push(Fact::new("Best", grid.title(first.combination)));
        let value = column(results.measure.title()).map(|at| row[at].clone());
        headline.extend(value.map(|value| Fact::new(results.measure.title(), value)));
    }
    SweepData {
        name: format!("Sweep over {}", varied(results)),
        description: format!("Trials of {} with the recipe {}.", on.stage.name(), on.recipe),
        made: made(),
        headline,
        head: table.head,
        rows: table.rows,
        measure: results.measure.title().to_owned(),
        pairs: on.stage == Stage::Dpo,
        curves,
        unfinished: results.unfinished(),
        facts: on.facts(&grid.trials[0].recipe),
    }
}
