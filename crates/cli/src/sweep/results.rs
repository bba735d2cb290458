//! What the trials came to: measured from their `metrics.jsonl`, ranked, averaged over seeds.

use casallm_train::metrics::MetricsRow;
use casallm_train::recipe::Stage;
use serde::Serialize;
use serde_json::{Value, json};

use super::grid::Grid;

/// How a trial stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// All of its steps are done.
    Finished,
    /// It ended with an error.
    Failed(String),
    /// A signal came after so many steps, which are saved.
    Interrupted(u64),
    /// Its turn has not come.
    Waiting,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Finished => "finished",
            State::Failed(_) => "failed",
            State::Interrupted(_) => "interrupted",
            State::Waiting => "waiting",
        }
    }
}

/// What trials are ranked by; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Measure {
    /// Bits per byte of held-out text: independent of the tokenizer.
    BitsPerByte,
    /// Nats per supervised token of held-out text.
    ValLoss,
    /// The objective on held-out preference pairs.
    PairLoss,
    /// Share of held-out pairs that are not preferred as they should be: of trials whose objectives differ, so that the loss of
    /// one says nothing of that of another (a larger `beta` alone makes it smaller).
    PairErrors,
}

/// Keys by which the loss of a pair changes though the model does not.
const OF_THE_OBJECTIVE: [&str; 3] = ["dpo.beta", "dpo.label_smoothing", "dpo.length_normalised"];

impl Measure {
    /// For a stage in which these keys are varied: the first of these that every finished trial has.
    pub(super) fn choose<'a>(
        stage: Stage,
        mut varied: impl Iterator<Item = &'a str>,
        finished: impl Iterator<Item = &'a [MetricsRow]> + Clone,
    ) -> Self {
        let pairs = match varied.any(|key| OF_THE_OBJECTIVE.contains(&key)) {
            true => Measure::PairErrors,
            false => Measure::PairLoss,
        };
        let all_have = |measure: Measure| finished.clone().all(|rows| rows.iter().any(|row| measure.of(row).is_some()));
        match stage {
            Stage::Dpo if all_have(pairs) => pairs,
            _ if all_have(Measure::BitsPerByte) => Measure::BitsPerByte,
            _ => Measure::ValLoss,
        }
    }

    /// Of a row.
    pub(super) fn of(self, row: &MetricsRow) -> Option<f64> {
        match self {
            Measure::BitsPerByte => row.bits_per_byte,
            Measure::ValLoss => row.val_loss,
            Measure::PairLoss => row.val_preference.and_then(|pairs| pairs.loss),
            Measure::PairErrors => row.val_preference.map(|pairs| 1.0 - pairs.accuracy),
        }
    }

    /// In words.
    pub(super) fn title(self) -> &'static str {
        match self {
            Measure::BitsPerByte => "bits/byte",
            Measure::ValLoss => "validation loss",
            Measure::PairLoss => "pair loss",
            Measure::PairErrors => "pairs misjudged",
        }
    }
}

/// What a trial measured at one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Score {
    step: u64,
    val_loss: Option<f64>,
    bits_per_byte: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair_loss: Option<f64>,
    #[serde(skip)]
    measure: f64,
}

/// A trial in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Measured {
    steps: u64,
    tokens: u64,
    /// Of training, validations not counted.
    seconds: Option<f64>,
    tokens_per_s: Option<f64>,
    /// The last validation, and the best.
    last: Option<Score>,
    best: Option<Score>,
}

impl Measured {
    /// From the rows of the stage.
    pub(super) fn of(rows: &[MetricsRow], measure: Measure) -> Option<Self> {
        let end = rows.last()?;
        let score = |row: &MetricsRow| {
            Some(Score {
                step: row.step,
                val_loss: row.val_loss,
                bits_per_byte: row.bits_per_byte,
                pair_loss: Measure::PairLoss.of(row),
                measure: measure.of(row)?,
            })
        };
        let seconds = end.timing.seconds.filter(|seconds| *seconds > 0.0);
        Some(Measured {
            steps: end.step,
            tokens: end.tokens,
            seconds,
            tokens_per_s: seconds.map(|seconds| end.tokens as f64 / seconds),
            last: rows.iter().rev().find_map(score),
            best: rows.iter().filter_map(score).min_by(|a, b| a.measure.total_cmp(&b.measure)),
        })
    }
}

/// Mean of some values, and the deviation of the sample where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Mean {
    mean: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation: Option<f64>,
}

impl Mean {
    fn of(values: impl Iterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.flatten().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Mean { mean, deviation })
    }

    /// With so many decimals.
    fn shown(mean: Option<Self>, places: usize) -> String {
        match mean {
            None => "–".to_owned(),
            Some(Mean { mean, deviation: None }) => format!("{mean:.places$}"),
            Some(Mean { mean, deviation: Some(deviation) }) => format!("{mean:.places$} ± {deviation:.places$}"),
        }
    }
}

/// A combination, over its seeds.
#[derive(Clone, Debug)]
pub(super) struct Ranked {
    /// Counted from 0.
    pub(super) combination: usize,
    finished: usize,
    last: Option<Mean>,
    best: Option<Mean>,
    val_loss: Option<Mean>,
    tokens_per_s: Option<Mean>,
    seconds: Option<Mean>,
    steps: Option<u64>,
}

/// A table as text.
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The sweep so far.
pub(super) struct Results<'a> {
    pub(super) grid: &'a Grid,
    pub(super) measure: Measure,
    states: &'a [State],
    measured: Vec<Option<Measured>>,
    /// The best first, of those whose seeds are all done; behind them the others, those with the most first: what is missing of them
    /// may be what is bad.
    pub(super) ranking: Vec<Ranked>,
}

impl<'a> Results<'a> {
    /// `rows`: those of the stage, for each trial.
    pub(super) fn new(grid: &'a Grid, stage: Stage, states: &'a [State], rows: &[Vec<MetricsRow>]) -> Self {
        let finished = |trial: &usize| states[*trial] == State::Finished;
        let varied = grid.axes.iter().map(|axis| axis.key.as_str());
        let of_finished = (0..states.len()).filter(finished).map(|trial| rows[trial].as_slice());
        let measure = Measure::choose(stage, varied, of_finished);
        let measured: Vec<_> = rows.iter().map(|rows| Measured::of(rows, measure)).collect();
        let ranked = |combination: usize| {
            let own = (0..states.len()).filter(|trial| grid.trials[*trial].combination == combination);
            let done: Vec<Measured> = own.filter(finished).filter_map(|trial| measured[trial]).collect();
            let mean = |of: fn(&Measured) -> Option<f64>| Mean::of(done.iter().map(of));
            Ranked {
                combination,
                finished: done.len(),
                last: mean(|m| m.last.map(|score| score.measure)),
                best: mean(|m| m.best.map(|score| score.measure)),
                val_loss: mean(|m| m.last.and_then(|score| score.val_loss)),
                tokens_per_s: mean(|m| m.tokens_per_s),
                seconds: mean(|m| m.seconds),
                steps: done.iter().map(|m| m.steps).max(),
            }
        };
        let mut ranking: Vec<Ranked> = (0..grid.combinations.len()).map(ranked).collect();
        let key = |ranked: &Ranked| ranked.last.map_or(f64::INFINITY, |last| last.mean);
        ranking.sort_by(|a, b| b.finished.cmp(&a.finished).then(key(a).total_cmp(&key(b))));
        Results { grid, measure, states, measured, ranking }
    }

    fn seeds(&self) -> usize {
        self.grid.trials.len() / self.grid.combinations.len()
    }

    /// Whether a combination has a rank: all of its seeds are done.
    pub(super) fn has_rank(&self, ranked: &Ranked) -> bool {
        ranked.finished == self.seeds()
    }

    /// The rank table. With several seeds numbers are means and deviations.
    pub(super) fn table(&self) -> Table {
        let seeds = self.seeds();
        let mut head = vec![String::new()];
        head.extend(self.grid.axes.iter().map(|axis| axis.key.clone()));
        if seeds > 1 {
            head.push("seeds".to_owned());
        }
        head.extend([self.measure.title(), "best"].map(str::to_owned));
        if self.measure != Measure::ValLoss {
            head.push(Measure::ValLoss.title().to_owned());
        }
        head.extend(["tokens/s", "seconds", "steps"].map(str::to_owned));
        let row = |(rank, ranked): (usize, &Ranked)| {
            let mut row = vec![if self.has_rank(ranked) { format!("{}", rank + 1) } else { "–".to_owned() }];
            row.extend(self.grid.combinations[ranked.combination].iter().cloned());
            if seeds > 1 {
                row.push(format!("{} of {seeds}", ranked.finished));
            }
            row.extend([Mean::shown(ranked.last, 4), Mean::shown(ranked.best, 4)]);
            if self.measure != Measure::ValLoss {
                row.push(Mean::shown(ranked.val_loss, 4));
            }
            row.extend([Mean::shown(ranked.tokens_per_s, 0), Mean::shown(ranked.seconds, 1)]);
            row.push(ranked.steps.map_or_else(|| "–".to_owned(), |steps| steps.to_string()));
            row
        };
        Table { head, rows: self.ranking.iter().enumerate().map(row).collect() }
    }

    /// What has not ended as it should: names and why.
    pub(super) fn unfinished(&self) -> Vec<(String, String)> {
        let why = |state: &State| match state {
            State::Finished => None,
            State::Failed(error) => Some(error.clone()),
            State::Interrupted(step) => Some(format!("stopped and saved after step {step}")),
            State::Waiting => Some("not begun".to_owned()),
        };
        let named = self.grid.trials.iter().zip(self.states);
        named.filter_map(|(trial, state)| Some((trial.name.clone(), why(state)?))).collect()
    }

    /// A trial in a line.
    pub(super) fn line(&self, trial: usize) -> String {
        let name = &self.grid.trials[trial].name;
        match (&self.states[trial], self.measured[trial]) {
            (State::Finished, Some(Measured { steps, last: Some(last), tokens_per_s, seconds, .. })) => format!(
                "{name}: {steps} steps, {} {:.4}, {:.0} tokens/s, {:.1} s",
                self.measure.title(),
                last.measure,
                tokens_per_s.unwrap_or(0.0),
                seconds.unwrap_or(0.0)
            ),
            (State::Failed(error), _) => format!("{name}: failed: {error}"),
            (state, _) => format!("{name}: {}", state.name()),
        }
    }

    /// One trial for machines.
    pub(super) fn trial_json(&self, trial: usize) -> Value {
        let (state, found) = (&self.states[trial], &self.grid.trials[trial]);
        let error = if let State::Failed(error) = state { Some(error) } else { None };
        json!({
            "trial": found.name,
            "dir": found.recipe.run.dir,
            "values": self.values(found.combination),
            "seed": found.seed,
            "state": state.name(),
            "error": error,
            "measured": self.measured[trial],
        })
    }

    fn values(&self, combination: usize) -> Value {
        let pairs = self.grid.axes.iter().zip(&self.grid.combinations[combination]);
        pairs
            .map(|(axis, value)| (axis.key.clone(), Value::from(value.clone())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// All of it for machines.
    pub(super) fn json(&self) -> Value {
        let ranked = |(place, ranked): (usize, &Ranked)| {
            json!({
                "rank": self.has_rank(ranked).then_some(place + 1),
                "values": self.values(ranked.combination),
                "finished": ranked.finished,
                "last": ranked.last,
                "best": ranked.best,
                "val_loss": ranked.val_loss,
                "tokens_per_s": ranked.tokens_per_s,
                "seconds": ranked.seconds,
                "steps": ranked.steps,
            })
        };
        json!({
            "ranked_by": self.measure,
            "ranking": self.ranking.iter().enumerate().map(ranked).collect::<Vec<_>>(),
            "trials": (0..self.states.len()).map(|trial| self.trial_json(trial)).collect::<Vec<_>>(),
        })
    }
}

impl Table {
    /// In columns, for a terminal.
    pub(super) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.head]).map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let pad = " ".repeat(width(column) - cell.chars().count());
                format!("{pad}{cell}")
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        [&self.head].into_iter().chain(&self.rows).map(line).collect::<Vec<_>>().join("\n")
    }

    /// As Markdown.
    pub(super) fn markdown(&self) -> String {
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = vec!["---".to_owned(); self.head.len()];
        [&self.head, &rule].into_iter().chain(&self.rows).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use casallm_train::preference::PreferenceMetrics;
    use casallm_train::recipe::RawRecipe;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let mean = Mean::of([Some(1.0), None, Some(2.0), Some(3.0)].into_iter()).unwrap();
        assert_eq!((mean.mean, mean.deviation), (2.0, Some(1.0)));
        assert_eq!(Mean::of([Some(5.0)].into_iter()).unwrap().deviation, None);
        assert_eq!(Mean::of([None].into_iter()), None);
    }

    #[test]
    fn the_best_is_by_the_measure_and_the_last_is_the_last_that_was_measured() {
        let row = |step, bits: Option<f64>| {
            let mut row = MetricsRow::before(Stage::Pretrain);
            (row.step, row.tokens, row.bits_per_byte, row.val_loss) = (step, 10 * step, bits, bits.map(|b| 3.0 - b));
            row.timing.seconds = Some(step as f64);
            row
        };
        let rows = [row(1, Some(2.0)), row(2, Some(1.0)), row(3, Some(1.5)), row(4, None)];
        let choose = |stage, key, rows: &[MetricsRow]| Measure::choose(stage, [key].into_iter(), [rows].into_iter());
        assert_eq!(choose(Stage::Pretrain, "pretrain.lr", &rows), Measure::BitsPerByte);
        assert_eq!(choose(Stage::Dpo, "dpo.beta", &rows), Measure::BitsPerByte);
        // Losses of pairs under different objectives do not compare; how many are judged right does.
        let pairs = PreferenceMetrics { loss: Some(0.5), accuracy: 0.75, ..PreferenceMetrics::default() };
        let judged = [MetricsRow { val_preference: Some(pairs), ..row(1, Some(2.0)) }];
        assert_eq!(choose(Stage::Dpo, "dpo.lr", &judged), Measure::PairLoss);
        for key in OF_THE_OBJECTIVE {
            assert_eq!(choose(Stage::Dpo, key, &judged), Measure::PairErrors);
        }
        assert_eq!(Measure::PairErrors.of(&judged[0]), Some(0.25));
        let found = Measured::of(&rows, Measure::BitsPerByte).unwrap();
        assert_eq!((found.last.unwrap().step, found.best.unwrap().step), (3, 2));
        assert_eq!((found.steps, found.tokens_per_s), (4, Some(10.0)));
        assert_eq!(Measured::of(&rows, Measure::ValLoss).unwrap().best.unwrap().step, 1);
    }

    #[test]
    fn one_good_seed_does_not_win_over_all_of_another() {
        let text = "[tokenizer]\nvocab_size = 300\n[[data.pretrain]]\nname = \"a\"\npath = \"embedded:openstax\"\n[model]\nn_layer = 1\n\
                    n_embd = 32\nn_head = 2\ncontext = 64\n[run]\ndir = \"run\"\n[pretrain]\nsteps = 4\nbatch_tokens = 64\n";
        let raw = RawRecipe::parse(text, "test.toml", Path::new("")).unwrap();
        let axes = ["pretrain.lr=1e-3,2e-3,3e-3".to_owned()];
        let grid = Grid::new(&raw, (&axes, &[], 2), Stage::Pretrain, None).unwrap();
        let of = |combination: usize, values: [Option<f64>; 2]| {
            let own = grid.trials.iter().enumerate().filter(move |(_, trial)| trial.combination == combination);
            own.map(|(trial, _)| trial).zip(values).collect::<Vec<_>>()
        };
        let found = [of(0, [Some(1.0), None]), of(1, [Some(1.4), Some(1.6)]), of(2, [Some(1.1), Some(1.3)])].concat();
        let (mut states, mut rows) = (vec![State::Failed("diverged".into()); 6], vec![Vec::new(); 6]);
        for (trial, value) in found {
            let Some(value) = value else { continue };
            let mut row = MetricsRow::before(Stage::Pretrain);
            (row.step, row.val_loss, row.bits_per_byte) = (4, Some(value), Some(value));
            (states[trial], rows[trial]) = (State::Finished, vec![row]);
        }
        let results = Results::new(&grid, Stage::Pretrain, &states, &rows);
        let order: Vec<usize> = results.ranking.iter().map(|ranked| ranked.combination).collect();
        assert_eq!(order, [2, 1, 0]);
        let ranks: Vec<String> = results.table().rows.iter().map(|row| row[0].clone()).collect();
        assert_eq!(ranks, ["1", "2", "–"]);
        let json = results.json();
        let ranks: Vec<Option<u64>> = (0..3).map(|place| json["ranking"][place]["rank"].as_u64()).collect();
        assert_eq!(ranks, [Some(1), Some(2), None]);
    }

    #[test]
    fn a_table_is_aligned_and_its_bars_are_escaped() {
        let table = Table { head: vec!["a".into(), "bb".into()], rows: vec![vec!["1 ± 2".into(), "x|y".into()]] };
        assert_eq!(table.text(), "    a   bb\n1 ± 2  x|y");
        assert_eq!(table.markdown(), "| a | bb |\n| --- | --- |\n| 1 ± 2 | x\\|y |\n");
    }
}
