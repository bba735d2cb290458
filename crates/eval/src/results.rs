//! From items to numbers: accuracies with their standard errors, and the centred mean of DCLM's CORE.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::tasks::{Facts, Kind};

/// A mean over items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Metric {
    /// The mean.
    pub value: f64,
    /// Its standard error, where there are two items.
    pub stderr: Option<f64>,
}

/// What a task came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskResult {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// Items.
    pub items: usize,
    /// Items that did not fit the context: the beginning of what is read, examples first, was left out.
    pub cut: usize,
    /// Examples before each question.
    pub fewshot: usize,
    /// The split that was used.
    pub split: String,
    /// Its files.
    pub files: Vec<String>,
    /// Metrics by the harness' names.
    pub metrics: BTreeMap<&'static str, Metric>,
    /// The one that counts in the table and in CORE.
    pub metric: &'static str,
    /// What guessing reaches.
    pub chance: f64,
    /// `(value - chance) / (1 - chance)`, with what CORE takes for guessing, where the task is part of it.
    pub core_centred: Option<f64>,
    /// Accuracy by subject, of a task that has several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subjects: BTreeMap<String, f64>,
    /// Where each item's result is.
    pub journal: String,
    /// Time, and items in it; what was there before took none.
    pub timing: Timing,
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timing {
    /// Seconds, reading of data included.
    pub seconds: f64,
    /// Items of this run; those of earlier ones are not counted.
    pub items: usize,
    /// Their ratio.
    pub items_per_s: f64,
}

impl Timing {
    /// So many items in so many seconds.
    pub fn new(seconds: f64, items: usize) -> Self {
        Timing { seconds, items, items_per_s: if seconds > 0.0 { items as f64 / seconds } else { 0.0 } }
    }
}

/// The centred mean of DCLM (Li et al. 2024, arXiv 2406.11794, section 3.5) over those of its tasks that were run. With the
/// harness' prompts and numbers of examples, and without CORE's other tasks, it is no CORE of the paper's table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Core {
    /// The mean.
    pub value: f64,
    /// Over these.
    pub tasks: Vec<String>,
}

/// The aggregate, where there is one task at least.
pub fn core(results: &[TaskResult]) -> Option<Core> {
    mean_of(results.iter().filter_map(|result| Some((result.name.clone(), result.core_centred?))))
}

/// The aggregate of tasks by their names and centred values.
pub fn mean_of(centred: impl Iterator<Item = (String, f64)>) -> Option<Core> {
    let (tasks, values): (Vec<String>, Vec<f64>) = centred.unzip();
    let value = values.iter().sum::<f64>() / values.len() as f64;
    (!tasks.is_empty()).then_some(Core { value, tasks })
}

/// The mean of these, and its standard error as the harness takes it: from the sample's deviation.
pub fn mean(values: impl Iterator<Item = f64> + Clone) -> Metric {
    let count = values.clone().count() as f64;
    let value = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|x| (x - value).powi(2)).sum();
    Metric { value, stderr: (count > 1.0).then(|| (squares / (count - 1.0) / count).sqrt()) }
}

/// Places of the largest log-probability, as they are and by length: the first of equals.
pub fn best(logprobs: &[f64], lengths: impl Fn(usize) -> f64) -> usize {
    let value = |i: usize| logprobs[i] / lengths(i);
    (0..logprobs.len()).fold(0, |best, i| if value(i) > value(best) { i } else { best })
}

/// The metrics of a task from what was kept of its items, and the name of the one that counts.
pub fn metrics<'a>(
    facts: &Facts,
    items: impl Iterator<Item = &'a Value> + Clone,
) -> (BTreeMap<&'static str, Metric>, &'static str) {
    let of = |key: &'static str| {
        let truth = move |item: &Value| f64::from(u8::from(item[key].as_bool().unwrap_or(false)));
        (key, mean(items.clone().map(truth)))
    };
    match facts.kind {
        Kind::Choice { normalised: true } => ([of("acc"), of("acc_norm"), of("acc_bytes")].into(), "acc_norm"),
        Kind::Choice { normalised: false } => ([of("acc")].into(), "acc"),
        Kind::Word => {
            let logprob = mean(items.clone().map(|item| item["logprobs"][0].as_f64().unwrap_or(f64::NAN)));
            // The error of an exponential, to first order.
            let value = (-logprob.value).exp();
            let perplexity = Metric { value, stderr: logprob.stderr.map(|error| error * value) };
            ([of("acc"), ("perplexity", perplexity)].into(), "acc")
        }
        Kind::Generation => {
            ([of("exact_match,strict-match"), of("exact_match,flexible-extract")].into(), "exact_match,strict-match")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_standard_error_is_that_of_the_sample() {
        let metric = mean([1.0, 0.0, 1.0, 1.0].into_iter());
        assert_eq!(metric.value, 0.75);
        // sqrt(0.75 * 0.25 / 3)
        assert!((metric.stderr.unwrap() - 0.25).abs() < 1e-12);
        assert_eq!(mean([1.0].into_iter()), Metric { value: 1.0, stderr: None });
    }

    #[test]
    fn of_equals_the_first_is_chosen_and_length_divides() {
        assert_eq!(best(&[-3.0, -2.0, -2.0], |_| 1.0), 1);
        assert_eq!(best(&[-3.0, -2.0, -2.0], |i| [6.0, 2.0, 2.0][i]), 0);
    }

    #[test]
    fn core_is_the_mean_above_chance_of_the_tasks_that_are_part_of_it() {
        let result = |name: &str, core_centred| TaskResult {
            name: name.into(),
            items: 1,
            cut: 0,
            fewshot: 0,
            split: String::new(),
            files: Vec::new(),
            metrics: BTreeMap::new(),
            metric: "acc",
            chance: 0.5,
            core_centred,
            subjects: BTreeMap::new(),
            journal: String::new(),
            timing: Timing::default(),
        };
        assert_eq!(core(&[result("sciq", None)]), None);
        let found = core(&[result("sciq", None), result("piqa", Some(0.5)), result("boolq", Some(-0.25))]).unwrap();
        assert_eq!(found, Core { value: 0.125, tasks: vec!["piqa".into(), "boolq".into()] });
    }

    #[test]
    fn a_word_has_an_accuracy_and_a_perplexity() {
        let facts = crate::tasks::Task::Lambada.facts();
        let items = [json!({"acc": true, "logprobs": [-1.0]}), json!({"acc": false, "logprobs": [-3.0]})];
        let (metrics, primary) = metrics(&facts, items.iter());
        assert_eq!((metrics["acc"].value, primary), (0.5, "acc"));
        assert!((metrics["perplexity"].value - 2f64.exp()).abs() < 1e-12);
    }
}
