//! The sections of the page, each of one part of the data; an empty part gives an empty section.

use std::fmt::Write;

use super::chart::{Chart, Mark, Scale, Series, smoothed};
use super::data::{
    Answer, CleaningSummary, Compression, Evaluation, Exam, Fact, Point, Sample, SourceSummary, StageReport,
    TrainingPoint,
};
use super::format::{NOT_MEASURED, bytes, decimals, grouped, short};
use super::html::{Cell, escape, table};

/// The numbers shown large.
pub(super) fn headline(facts: &[Fact]) -> String {
    let mut out = String::new();
    if facts.is_empty() {
        return out;
    }
    out.push_str("<dl class=\"headline\">\n");
    for fact in facts {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}{}</dd></div>",
            escape(&fact.label),
            escape(&fact.value),
            note(&fact.note)
        );
    }
    out.push_str("</dl>\n");
    out
}

/// Names and values in two columns.
pub(super) fn facts(facts: &[Fact]) -> String {
    let mut out = String::new();
    if facts.is_empty() {
        return out;
    }
    out.push_str("<dl class=\"facts\">\n");
    for fact in facts {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}{}</dd></div>",
            escape(&fact.label),
            escape(&fact.value),
            note(&fact.note)
        );
    }
    out.push_str("</dl>\n");
    out
}

fn note(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" <small>{}</small>", escape(text)) }
}

/// Bits per byte beside the compressors, as numbers and as bars.
pub(super) fn compression(rows: &[Compression]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let measured = rows.iter().flat_map(|row| [Some(row.model), row.xz, row.gzip]).flatten();
    let most = measured.filter(|x| x.is_finite()).fold(0.0, f64::max);
    let bar = |name: &str, class: &str, value: Option<f64>| {
        let value = value.filter(|value| value.is_finite() && *value >= 0.0 && most > 0.0);
        value.map_or_else(String::new, |value| {
            let width = 100.0 * value / most;
            format!(
                "<span class=\"bar\"><span class=\"name\">{name}</span><span class=\"track\">\
                 <span class=\"fill {class}\" style=\"width:{width:.1}%\"></span></span></span>"
            )
        })
    };
    let number = |value: Option<f64>| value.map_or_else(|| NOT_MEASURED.to_owned(), |value| decimals(value, 3));
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            let bars =
                bar("model", "ours", Some(row.model)) + &bar("xz", "theirs", row.xz) + &bar("gzip", "theirs", row.gzip);
            let saved = row.xz.map_or(f64::NAN, |xz| 100.0 * (1.0 - row.model / xz));
            vec![
                Cell::Text(row.source.clone()),
                Cell::Number(bytes(row.bytes)),
                Cell::Number(decimals(row.model, 3)),
                Cell::Number(number(row.xz)),
                Cell::Number(number(row.gzip)),
                Cell::Number(if saved.is_finite() { format!("{saved:.0} %") } else { NOT_MEASURED.to_owned() }),
                Cell::Html(format!("<span class=\"bars\" aria-hidden=\"true\">{bars}</span>")),
            ]
        })
        .collect();
    let head = ["Held-out text", "Length", "Model", "xz -9e", "gzip -9", "Below xz", "Compared"];
    format!(
        "<p>How many bits the model needs for each byte of text it has never seen, beside what general compressors need \
         for the same bytes. Lower is better.</p>\n{}",
        table("Bits per byte of held-out text", &head, &cells)
    )
}

/// The curves of one stage.
pub(super) fn stage(stage: &StageReport) -> String {
    let mut out = format!("<h3>{}</h3>\n", escape(&stage.name));
    out.push_str(&facts(&stage.facts));
    let curve = |y: fn(&TrainingPoint) -> f64| -> Vec<Point> {
        stage.training.iter().map(|row| Point { x: row.tokens, y: y(row) }).collect()
    };
    let loss = curve(|row| row.loss);
    let mut series = Vec::new();
    // Few points need no mean.
    if loss.len() >= 100 {
        let smooth = smoothed(&loss);
        series.push(Series { name: "training, each step".into(), points: loss, mark: Mark::Faint });
        series.push(Series { name: "training, mean of neighbours".into(), points: smooth, mark: Mark::Line });
    } else {
        series.push(Series { name: "training".into(), points: loss, mark: Mark::Line });
    }
    for (number, validation) in stage.validation.iter().enumerate() {
        series.push(Series {
            name: format!("validation, {}", validation.name),
            points: validation.points.clone(),
            mark: Mark::Marked(number),
        });
    }
    let chart = Chart {
        label: format!("{}: loss by tokens seen", stage.name),
        x_title: axis_title("tokens seen", stage.tokens_scale),
        y_title: axis_title(loss_title(stage.pairs), stage.loss_scale),
        x_scale: stage.tokens_scale,
        y_scale: stage.loss_scale,
        series,
        height: 380.0,
    };
    out.push_str(&chart.render());
    out.push_str(&validation_table(stage));

    let small = |name: &str, points: Vec<Point>| {
        let measured = points.iter().any(|point| point.y.is_finite());
        let chart = Chart {
            label: format!("{}: {name} by tokens seen", stage.name),
            x_title: "tokens seen".into(),
            y_title: name.into(),
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series: vec![Series { name: name.into(), points, mark: Mark::Line }],
            height: 210.0,
        };
        if measured { chart.render() } else { String::new() }
    };
    let more = [
        small("learning rate", curve(|row| row.lr)),
        small("gradient norm", curve(|row| row.grad_norm)),
        small("tokens a second", curve(|row| row.tokens_per_s)),
    ]
    .concat();
    if !more.is_empty() {
        let _ = write!(
            out,
            "<details><summary>Learning rate, gradient norm and speed of {}</summary>\n{more}</details>\n",
            escape(&stage.name)
        );
    }
    out
}

/// What the axis of a loss is called.
pub(super) fn loss_title(pairs: bool) -> &'static str {
    if pairs { "loss, nats per pair" } else { "loss, nats per token" }
}

fn axis_title(title: &str, scale: Scale) -> String {
    match scale {
        Scale::Linear => title.to_owned(),
        Scale::Log => format!("{title} (log)"),
    }
}

/// The numbers behind the markers of the chart.
fn validation_table(stage: &StageReport) -> String {
    let mut tokens: Vec<f64> = stage.validation.iter().flat_map(|series| series.points.iter().map(|p| p.x)).collect();
    tokens.retain(|x| x.is_finite());
    tokens.sort_by(f64::total_cmp);
    tokens.dedup();
    if tokens.is_empty() {
        return String::new();
    }
    let mut head = vec!["Tokens seen"];
    head.extend(stage.validation.iter().map(|series| series.name.as_str()));
    let rows: Vec<Vec<Cell>> = tokens
        .iter()
        .map(|x| {
            let mut row = vec![Cell::Number(short(*x))];
            row.extend(stage.validation.iter().map(|series| {
                let y = series.points.iter().find(|p| p.x == *x).map_or(f64::NAN, |p| p.y);
                Cell::Number(decimals(y, 4))
            }));
            row
        })
        .collect();
    format!(
        "<details><summary>Validation losses of {} as a table</summary>\n{}</details>\n",
        escape(&stage.name),
        table(&format!("Validation {}", loss_title(stage.pairs)), &head, &rows)
    )
}

/// Benchmarks, model by model.
pub(super) fn evaluations(all: &[Evaluation]) -> String {
    let mut out = String::new();
    for evaluation in all {
        let rows: Vec<Vec<Cell>> = evaluation
            .judgements
            .iter()
            .map(|found| {
                let error = found.stderr.map(|error| format!(" ± {}", decimals(error, 3))).unwrap_or_default();
                vec![
                    Cell::Text(found.task.clone()),
                    Cell::Text(found.metric.clone()),
                    Cell::Number(format!("{}{error}", decimals(found.value, 3))),
                    Cell::Number(found.chance.map_or_else(|| NOT_MEASURED.to_owned(), |chance| decimals(chance, 3))),
                    Cell::Number(grouped(found.items)),
                    Cell::Number(grouped(found.fewshot)),
                ]
            })
            .collect();
        let head = ["Task", "Metric", "Value", "Guessing", "Items", "Examples"];
        let _ = write!(
            out,
            "<h3>{}</h3>\n{}",
            escape(&evaluation.model),
            table(&format!("Benchmarks of {}", evaluation.model), &head, &rows)
        );
    }
    out
}

/// What happened on the way.
pub(super) fn events(events: &[String]) -> String {
    if events.is_empty() {
        return String::new();
    }
    let items: String = events.iter().map(|event| format!("<li>{}</li>\n", escape(event))).collect();
    format!("<ol class=\"events\">\n{items}</ol>\n")
}

/// What the model wrote.
pub(super) fn samples(samples: &[Sample]) -> String {
    let mut out = String::new();
    for sample in samples {
        out.push_str("<figure class=\"sample\"><blockquote>");
        if !sample.prompt.is_empty() {
            let _ = write!(out, "<span class=\"prompt\">{}</span>", escape(&sample.prompt));
        }
        let _ = write!(out, "{}</blockquote>", escape(&sample.text));
        if !sample.settings.is_empty() {
            let _ = write!(out, "<figcaption>{}</figcaption>", escape(&sample.settings));
        }
        out.push_str("</figure>\n");
    }
    out
}

/// Every question with its answer and mark.
pub(super) fn exams(exams: &[Exam]) -> String {
    let mut out = String::new();
    for exam in exams.iter().filter(|exam| !exam.answers.is_empty()) {
        let right = exam.answers.iter().filter(|answer| answer.right).count();
        let _ = writeln!(
            out,
            "<h3>{} <span class=\"score\">{right} of {}</span></h3>\n<p>{}</p>\n<ol class=\"answers\">",
            escape(&exam.name),
            exam.answers.len(),
            escape(&exam.rule)
        );
        for Answer { question, answer, right } in &exam.answers {
            let (class, mark) = if *right { ("right", "✓ right") } else { ("wrong", "✗ wrong") };
            let _ = writeln!(
                out,
                "<li class=\"{class}\"><p class=\"question\">{}</p><p class=\"answer\">{}</p><p class=\"mark\">{mark}</p></li>",
                escape(question),
                if answer.trim().is_empty() { "<em>no answer</em>".to_owned() } else { escape(answer) }
            );
        }
        out.push_str("</ol>\n");
    }
    out
}

/// What it learned from, and what cleaning did.
pub(super) fn data(sources: &[SourceSummary], cleaning: &[CleaningSummary]) -> String {
    let mut out = String::new();
    if !sources.is_empty() {
        let rows: Vec<Vec<Cell>> = sources
            .iter()
            .map(|source| {
                vec![
                    Cell::Text(source.name.clone()),
                    Cell::Text(source.stage.clone()),
                    Cell::Number(grouped(source.documents)),
                    Cell::Number(bytes(source.bytes)),
                    Cell::Number(short(source.tokens as f64)),
                    Cell::Number(short(source.validation_tokens as f64)),
                ]
            })
            .collect();
        out.push_str(&table("Sources", &["Source", "Used for", "Documents", "Text", "Tokens", "Held out"], &rows));
    }
    if !cleaning.is_empty() {
        let rows: Vec<Vec<Cell>> = cleaning
            .iter()
            .map(|row| {
                let reasons: Vec<String> =
                    row.reasons.iter().map(|(reason, count)| format!("{reason}: {}", grouped(*count))).collect();
                vec![
                    Cell::Text(row.source.clone()),
                    Cell::Number(grouped(row.rows)),
                    Cell::Number(grouped(row.dropped)),
                    Cell::Number(grouped(row.rewritten)),
                    Cell::Text(if reasons.is_empty() { "nothing to clean".into() } else { reasons.join("; ") }),
                ]
            })
            .collect();
        out.push_str("<h3>Cleaning</h3>\n<p>Conversations that would have taught a wrong identity.</p>\n");
        out.push_str(&table("Cleaning", &["Source", "Conversations", "Dropped", "Rewritten", "Why"], &rows));
    }
    out
}

/// The recipe as it was run.
pub(super) fn recipe(toml: &str, hash: &str) -> String {
    if toml.is_empty() {
        return String::new();
    }
    format!(
        "<p>Every value that was used. SHA-256 of this text: <code class=\"hash\">{}</code></p>\n\
         <details open><summary>Recipe</summary>\n<pre tabindex=\"0\"><code>{}</code></pre></details>\n",
        escape(hash),
        escape(toml)
    )
}
