//! The rows of one stage as columns, which is how they are sent and drawn.

use std::collections::BTreeMap;

use super::line::{MOST_NAME, Preference, Row};

/// Names of what (nearly) every row has, in the order of [`StageColumns::dense`].
pub const DENSE: [&str; 16] = [
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "flop_utilisation",
    "memory_bytes",
    "gpu_load",
    "gpu_temperature_c",
    "gpu_power_w",
    "gpu_memory_bytes",
    "preference/loss",
    "preference/margin",
    "preference/accuracy",
    "preference/chosen_reward",
    "preference/rejected_reward",
    "preference/ranking",
];

/// Sources of validation beyond so many are left out: a file that names more is not one of ours.
const MOST_SPARSE: usize = 256;

/// Where in a stage something is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Place {
    step: f64,
    tokens: f64,
    seconds: f64,
}

/// Numbers that some rows have, each with its place, for there are few.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sparse {
    /// Steps done.
    pub step: Vec<f64>,
    /// Tokens trained on.
    pub tokens: Vec<f64>,
    /// Seconds of training.
    pub seconds: Vec<f64>,
    /// The numbers.
    pub values: Vec<f64>,
}

/// Sparse columns by name.
pub type Samples = BTreeMap<String, Sparse>;

/// One stage of a run. Row i is at index i of `step`, `tokens`, `seconds` and of each dense column that has any.
#[derive(Debug, Clone, Default)]
pub struct StageColumns {
    /// Its name.
    pub name: String,
    /// Optimizer steps done; ascending.
    pub step: Vec<f64>,
    /// Tokens trained on.
    pub tokens: Vec<f64>,
    /// Seconds of training; where a row does not say, as the row before.
    pub seconds: Vec<f64>,
    /// What is named in [`DENSE`], NaN where a row does not have it; empty where no row does.
    pub dense: [Vec<f32>; DENSE.len()],
    /// What some rows have: validation.
    pub sparse: Samples,
    /// Steps that the stage is to have, where an event has said so.
    pub planned: Option<u64>,
    /// Every so many-th row is held; 1 for all.
    pub stride: u64,
    /// Rows of the file, those that are not held included.
    pub seen: u64,
}

impl StageColumns {
    pub(super) fn new(name: &str) -> Self {
        StageColumns { name: name.to_owned(), stride: 1, ..Self::default() }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.step.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let dense = self.dense.iter().map(|column| 4 * column.capacity()).sum::<usize>();
        let sparse = self.sparse.values().map(|column| 32 * column.step.capacity()).sum::<usize>();
        8 * (self.step.capacity() + self.tokens.capacity() + self.seconds.capacity()) + dense + sparse
    }

    /// Adds a row. One of a step that is there already, or was passed, takes the place of all from there on; then, and
    /// where rows were thinned out, what was sent before is no longer a beginning of what there is: true.
    pub(super) fn push(&mut self, row: &Row<'_>, most_rows: usize) -> bool {
        let before = self.place(self.rows().wrapping_sub(1)).unwrap_or_default();
        let place = Place {
            step: row.step as f64,
            tokens: row.tokens as f64,
            seconds: row.timing.seconds.unwrap_or(before.seconds),
        };
        let mut changed = self.rows() > 0 && place.step <= before.step;
        if changed {
            self.cut(place.step);
        }
        self.push_sparse(row, place);
        self.seen += 1;
        if !(self.seen - 1).is_multiple_of(self.stride) {
            return changed;
        }
        self.push_dense(row, place);
        if self.rows() > most_rows {
            self.thin();
            changed = true;
        }
        changed
    }

    fn place(&self, row: usize) -> Option<Place> {
        Some(Place { step: *self.step.get(row)?, tokens: self.tokens[row], seconds: self.seconds[row] })
    }

    fn push_dense(&mut self, row: &Row<'_>, place: Place) {
        let rows = self.rows();
        self.step.push(place.step);
        self.tokens.push(place.tokens);
        self.seconds.push(place.seconds);
        for (column, value) in self.dense.iter_mut().zip(dense(row)) {
            if let Some(value) = value {
                // A column begins with the first row that has it.
                column.resize(rows, f32::NAN);
                column.push(value as f32);
            } else if !column.is_empty() {
                column.push(f32::NAN);
            }
        }
    }

    fn push_sparse(&mut self, row: &Row<'_>, place: Place) {
        let validation = [("val_loss", row.val_loss), ("bits_per_byte", row.bits_per_byte), ("accuracy", row.accuracy)];
        for (name, value) in validation.into_iter().chain([("checkpoint_s", row.timing.checkpoint_s)]) {
            self.add(name, value, place);
        }
        for (source, found) in row.val.iter().filter(|(source, _)| source.len() <= MOST_NAME) {
            self.add(&format!("val/{source}/loss"), found.loss, place);
            self.add(&format!("val/{source}/bits_per_byte"), found.bits_per_byte, place);
        }
        if let Some(found) = &row.val_preference {
            for (name, value) in DENSE[10..].iter().zip(preference(found)) {
                self.add(&format!("val_{name}"), value, place);
            }
        }
    }

    fn add(&mut self, name: &str, value: Option<f64>, place: Place) {
        let Some(value) = value else { return };
        if !self.sparse.contains_key(name) && self.sparse.len() >= MOST_SPARSE {
            return;
        }
        let column = self.sparse.entry(name.to_owned()).or_default();
        column.step.push(place.step);
        column.tokens.push(place.tokens);
        column.seconds.push(place.seconds);
        column.values.push(value);
    }

    /// Removes what is at `step` or beyond.
    fn cut(&mut self, step: f64) {
        let rows = self.step.partition_point(|at| *at < step);
        self.step.truncate(rows);
        self.tokens.truncate(rows);
        self.seconds.truncate(rows);
        self.dense.iter_mut().for_each(|column| column.truncate(rows));
        self.seen = rows as u64 * self.stride;
        for column in self.sparse.values_mut() {
            let kept = column.step.partition_point(|at| *at < step);
            column.step.truncate(kept);
            column.tokens.truncate(kept);
            column.seconds.truncate(kept);
            column.values.truncate(kept);
        }
    }

    /// Keeps every second row of those held.
    fn thin(&mut self) {
        fn half<T: Copy>(column: &mut Vec<T>) {
            *column = column.iter().step_by(2).copied().collect();
        }
        half(&mut self.step);
        half(&mut self.tokens);
        half(&mut self.seconds);
        self.dense.iter_mut().for_each(half);
        self.stride *= 2;
    }
}

/// In the order of [`DENSE`].
fn dense(row: &Row<'_>) -> [Option<f64>; DENSE.len()] {
    let timing = &row.timing;
    let gpu = timing.gpu.as_ref();
    let mut values = [None; DENSE.len()];
    values[..10].copy_from_slice(&[
        row.loss,
        row.lr,
        row.grad_norm,
        timing.tokens_per_s,
        timing.flop_utilisation,
        timing.memory_bytes,
        gpu.and_then(|gpu| gpu.load),
        gpu.and_then(|gpu| gpu.temperature_c),
        gpu.and_then(|gpu| gpu.power_w),
        gpu.and_then(|gpu| gpu.memory_bytes),
    ]);
    if let Some(found) = &row.preference {
        values[10..].copy_from_slice(&preference(found));
    }
    values
}

fn preference(found: &Preference) -> [Option<f64>; 6] {
    [found.loss, found.margin, found.accuracy, found.chosen_reward, found.rejected_reward, found.ranking]
}

#[cfg(test)]
mod tests {
    use super::super::line::Line;
    use super::*;

    fn push(columns: &mut StageColumns, line: &str, most: usize) -> bool {
        let Line::Row(row) = Line::parse(line.as_bytes()) else { panic!("{line}") };
        columns.push(&row, most)
    }

    fn row(step: u64) -> String {
        format!(r#"{{"step":{step},"stage":"sft","tokens":{},"loss":{},"lr":0.1}}"#, 10 * step, 100 - step)
    }

    #[test]
    fn a_column_begins_with_the_first_row_that_has_it() {
        let mut columns = StageColumns::new("sft");
        assert!(!push(&mut columns, &row(1), 100));
        assert!(columns.dense[3].is_empty());
        push(&mut columns, r#"{"step":2,"stage":"sft","val_loss":3.5,"timing":{"seconds":9,"tokens_per_s":7.5}}"#, 100);
        push(&mut columns, &row(3), 100);
        assert_eq!((columns.rows(), &columns.seconds), (3, &vec![0.0, 9.0, 9.0]));
        assert!(columns.dense[3][0].is_nan() && columns.dense[3][1] == 7.5 && columns.dense[3][2].is_nan());
        assert!(columns.dense[0][1].is_nan() && columns.dense[0][2] == 97.0);
        assert_eq!(
            (columns.sparse["val_loss"].step.as_slice(), columns.sparse["val_loss"].values[0]),
            (&[2.0][..], 3.5)
        );
    }

    #[test]
    fn a_step_that_comes_again_takes_the_place_of_what_followed() {
        let mut columns = StageColumns::new("sft");
        for step in 1..=9 {
            push(&mut columns, &row(step), 100);
        }
        assert!(push(&mut columns, &row(4), 100));
        assert_eq!(columns.step, [1.0, 2.0, 3.0, 4.0]);
        assert!(!push(&mut columns, &row(5), 100));
        assert!(columns.dense.iter().all(|column| column.is_empty() || column.len() == 5));
    }

    #[test]
    fn what_is_too_much_is_thinned_out_evenly() {
        let mut columns = StageColumns::new("sft");
        let changes = (0..100).filter(|step| push(&mut columns, &row(*step), 16)).count();
        assert_eq!((changes, columns.stride, columns.seen), (3, 8, 100));
        assert_eq!(columns.step, (0..100).step_by(8).map(f64::from).collect::<Vec<_>>());
        assert_eq!(columns.dense[0].len(), columns.rows());
    }
}
