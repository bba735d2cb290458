//! The page of a sweep: the rank table, and the curves of the trials over each other.

use super::chart::{Chart, Mark, Scale, Series, smoothed};
use super::data::{Fact, Point};
use super::html::{Cell, table};
use super::page;
use super::sections;

/// Curves in one drawing: more could not be told apart.
const MOST_CURVES: usize = 12;

/// Everything on the page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SweepData {
    /// Title of the page.
    pub name: String,
    /// What was tried, in a sentence.
    pub description: String,
    /// When and by which version the page was made.
    pub made: String,
    /// The numbers that matter most.
    pub headline: Vec<Fact>,
    /// Titles of the rank table's columns.
    pub head: Vec<String>,
    /// Its rows, the best first.
    pub rows: Vec<Vec<String>>,
    /// What the trials are ranked by, with its unit.
    pub measure: String,
    /// Whether losses of training are means over pairs of answers, and not over tokens.
    pub pairs: bool,
    /// The trials' curves, the best first.
    pub curves: Vec<TrialCurve>,
    /// Trials that did not end as they should, and why.
    pub unfinished: Vec<(String, String)>,
    /// The command and the like.
    pub facts: Vec<Fact>,
}

/// A trial's curves, by tokens seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrialCurve {
    /// Its values.
    pub name: String,
    /// Its combination: seeds of one have one colour.
    pub colour: usize,
    /// What it is ranked by, on held-out data.
    pub validation: Vec<Point>,
    /// The loss of each step.
    pub training: Vec<Point>,
}

/// The whole page.
pub(super) fn render(data: &SweepData) -> String {
    let rows: Vec<Vec<Cell>> =
        data.rows.iter().map(|row| row.iter().map(|cell| Cell::Number(cell.clone())).collect()).collect();
    let head: Vec<&str> = data.head.iter().map(|title| if title.is_empty() { "Rank" } else { title }).collect();
    let drawn = &data.curves[..data.curves.len().min(MOST_CURVES)];
    let chart = |title: &str, y: &str, mark: fn(usize) -> Mark, points: &dyn Fn(&TrialCurve) -> Vec<Point>| {
        let series = drawn.iter().map(|c| Series { name: c.name.clone(), points: points(c), mark: mark(c.colour) });
        let chart = Chart {
            label: format!("{title} by tokens seen"),
            x_title: "tokens seen".into(),
            y_title: y.into(),
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series: series.collect(),
            height: 380.0,
        };
        format!("<h3>{title}</h3>\n{}", chart.render())
    };
    let mut curves = String::new();
    if !drawn.is_empty() {
        if data.curves.len() > drawn.len() {
            curves += &format!("<p>The best {} of {} trials.</p>\n", drawn.len(), data.curves.len());
        }
        curves += &chart("Validation", &data.measure, Mark::Marked, &|curve| curve.validation.clone());
        let title = sections::loss_title(data.pairs);
        curves += &chart("Training, mean of neighbours", title, Mark::Coloured, &|curve| smoothed(&curve.training));
    }
    let unfinished: Vec<Vec<Cell>> =
        data.unfinished.iter().map(|(name, why)| vec![Cell::Text(name.clone()), Cell::Text(why.clone())]).collect();
    let unfinished = match unfinished.is_empty() {
        true => String::new(),
        false => table("Trials without a result", &["Trial", "Why"], &unfinished),
    };
    page::document(
        &page::Head {
            kicker: "Sweep",
            title: &format!("{}: sweep", data.name),
            name: &data.name,
            lead: &data.description,
            made: &data.made,
        },
        &sections::headline(&data.headline),
        &[
            ("ranking", "Ranking", table("Combinations, the best first", &head, &rows)),
            ("curves", "Curves", curves),
            ("unfinished", "Without a result", unfinished),
            ("conditions", "Conditions", sections::facts(&data.facts)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_trial_and_no_script() {
        let points = |n: usize| (0..n).map(|i| Point { x: i as f64, y: 3.0 - i as f64 / n as f64 }).collect();
        let curve = |i: usize| TrialCurve {
            name: format!("lr = <{i}>"),
            colour: i,
            validation: points(4),
            training: points(500),
        };
        let data = SweepData {
            name: "tiny & co".into(),
            head: vec![String::new(), "pretrain.lr".into(), "bits/byte".into()],
            rows: vec![vec!["1".into(), "<1>".into(), "1.5".into()]],
            curves: (0..20).map(curve).collect(),
            unfinished: vec![("lr=9".into(), "the loss is <NaN>".into())],
            ..SweepData::default()
        };
        let html = render(&data);
        assert!(
            html.starts_with("<!DOCTYPE html>") && html.contains("default-src 'none'") && !html.contains("<script")
        );
        assert!(html.contains("tiny &amp; co") && html.contains("the loss is &lt;NaN&gt;") && !html.contains("<1>"));
        assert!(
            html.contains("The best 12 of 20 trials")
                && html.contains("lr = &lt;11&gt;")
                && !html.contains("lr = &lt;12&gt;")
        );
        // Colour and dash of number 7: in both drawings of two charts, and in their legends.
        assert_eq!(html.matches("series c1 d1").count(), 6);
        assert_eq!(html, render(&data));
    }
}
