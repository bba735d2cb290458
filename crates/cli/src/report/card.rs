//! The model card: what the report says, in Markdown, for whoever gets the model without the run. Its head is what the Hub of
//! Hugging Face reads.

use std::fmt::Write;

use super::data::{Fact, ReportData};
use super::format::{NOT_MEASURED, bytes, decimals, grouped, short};

/// The whole card.
pub(super) fn render(report: &ReportData) -> String {
    let mut out = format!(
        "---\nlibrary_name: casallm\npipeline_tag: text-generation\ntags:\n- casallm\n---\n\n# {}\n\n{}\n\n",
        plain(&report.name),
        plain(&report.description)
    );
    out.push_str(
        "A small language model, trained from scratch with CasaLLM. It is wrong about \
         many facts, and it knows nothing that its training data did not say. Do not rely on what it writes.\n",
    );
    facts(&mut out, "The numbers that matter most", &report.headline);
    facts(&mut out, "Model", &report.model);
    for stage in &report.stages {
        facts(&mut out, &stage.name, &stage.facts);
        for series in &stage.validation {
            if let Some(last) = series.points.iter().rev().find(|point| point.y.is_finite()) {
                let _ = writeln!(out, "- Validation loss on {}: {}", plain(&series.name), decimals(last.y, 4));
            }
        }
    }
    facts(&mut out, "Trained on", &report.hardware);
    if !report.compression.is_empty() {
        heading(&mut out, "Held-out text");
        out.push_str("| Text | Length | Bits per byte | xz -9e |\n| --- | ---: | ---: | ---: |\n");
        for row in &report.compression {
            let xz = row.xz.map_or_else(|| NOT_MEASURED.to_owned(), |xz| decimals(xz, 3));
            let _ =
                writeln!(out, "| {} | {} | {} | {xz} |", plain(&row.source), bytes(row.bytes), decimals(row.model, 3));
        }
    }
    for evaluation in &report.evaluations {
        heading(&mut out, &format!("Benchmarks of {}", evaluation.model));
        out.push_str(
            "| Task | Metric | Value | Guessing | Items | Examples |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
        );
        for found in &evaluation.judgements {
            let error = found.stderr.map(|error| format!(" ± {}", decimals(error, 3))).unwrap_or_default();
            let chance = found.chance.map_or_else(|| NOT_MEASURED.to_owned(), |chance| decimals(chance, 3));
            let _ = writeln!(
                out,
                "| {} | {} | {}{error} | {chance} | {} | {} |",
                plain(&found.task),
                plain(&found.metric),
                decimals(found.value, 3),
                grouped(found.items),
                grouped(found.fewshot)
            );
        }
    }
    for exam in &report.exams {
        heading(&mut out, &exam.name);
        let right = exam.answers.iter().filter(|answer| answer.right).count();
        let _ = writeln!(out, "{right} of {} right. {}", exam.answers.len(), plain(&exam.rule));
    }
    if !report.sources.is_empty() {
        heading(&mut out, "Training data");
        out.push_str(
            "| Source | Used for | Documents | Text | Tokens | Held out |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
        );
        for source in &report.sources {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} |",
                plain(&source.name),
                plain(&source.stage),
                grouped(source.documents),
                bytes(source.bytes),
                short(source.tokens as f64),
                short(source.validation_tokens as f64)
            );
        }
    }
    if !report.cleaning.is_empty() {
        heading(&mut out, "Cleaning");
        for row in &report.cleaning {
            let (rows, dropped, rewritten) = (grouped(row.rows), grouped(row.dropped), grouped(row.rewritten));
            let _ = writeln!(
                out,
                "- {}: {rows} rows, {dropped} dropped, {rewritten} rewritten or shortened",
                plain(&row.source)
            );
        }
    }
    if !report.samples.is_empty() {
        heading(&mut out, "Samples");
        for sample in &report.samples {
            let _ = writeln!(
                out,
                "{}:\n\n{}",
                plain(&sample.settings),
                fenced(&format!("{}{}", sample.prompt, sample.text))
            );
        }
    }
    if !report.recipe.is_empty() {
        heading(&mut out, "Recipe");
        let _ = writeln!(out, "SHA-256 `{}`\n\n{}", plain(&report.recipe_hash), fenced(&report.recipe));
    }
    let _ = writeln!(out, "\nMade {}.", plain(&report.made));
    out
}

fn heading(out: &mut String, title: &str) {
    let _ = write!(out, "\n## {}\n\n", plain(title));
}

fn facts(out: &mut String, title: &str, facts: &[Fact]) {
    if facts.is_empty() {
        return;
    }
    heading(out, title);
    for fact in facts {
        let note = if fact.note.is_empty() { String::new() } else { format!(" ({})", plain(&fact.note)) };
        let _ = writeln!(out, "- {}: {}{note}", plain(&fact.label), plain(&fact.value));
    }
}

/// Text in one line that Markdown and HTML leave as it is.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A block of text as it is, between fences longer than any in it.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    format!("{fence}\n{}\n{fence}\n", text.trim_end())
}
