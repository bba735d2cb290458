//! All of a stage's data in a few lines and histograms.

use casallm_data::lengths::Lengths;
use casallm_train::stages::{ConversationsReport, DocumentsReport, Inspected, InspectedData, PairsReport};

/// Characters of the longest bar.
const BAR: usize = 40;

/// The lines for people.
pub(super) fn lines(found: &Inspected) -> Vec<String> {
    let mut out = match &found.data {
        InspectedData::Documents(sources) => sources.iter().flat_map(documents).collect(),
        InspectedData::Conversations(report) => conversations(report),
        InspectedData::Pairs(report) => pairs(report),
    };
    out.push(format!("{}: {} steps of {} tokens", found.stage.name(), found.steps, found.step_tokens));
    out
}

fn documents(source: &DocumentsReport) -> Vec<String> {
    let DocumentsReport { name, weight, documents, tokens, bytes, held_out, lengths } = source;
    let each = *bytes as f64 / (*tokens).max(1) as f64;
    let mut out = vec![format!(
        "{name}: {documents} documents, {tokens} tokens of {each:.2} bytes, weight {weight}; {held_out} tokens held out"
    )];
    out.extend(histogram(&format!("tokens of a document, {name}"), lengths));
    out
}

fn conversations(report: &ConversationsReport) -> Vec<String> {
    let mut out = Vec::new();
    for source in &report.sources {
        let mut line = format!("{}: {} rows, {} taken", source.name, source.rows, source.taken);
        if !source.touched.is_empty() {
            let without = source.rows.saturating_sub(source.with_answer);
            line += &format!("; {} empty answers dropped, {without} rows have none", source.empty_answers);
        }
        out.push(line);
    }
    let touched: usize = report.cleaned.values().sum();
    let mut line = format!("identity cleaning: {touched} messages touched, {} conversations gone", report.cleaned_away);
    let rules: Vec<String> = report.cleaned.iter().map(|(rule, count)| format!("{count} {rule}")).collect();
    if !rules.is_empty() {
        line += &format!(" ({})", rules.join(", "));
    }
    out.push(line);
    if report.examined > 0 {
        out.push(format!(
            "{} conversations left out: they ask what the model is asked at its examination on the identity",
            report.examined
        ));
    }
    out.push(format!("mixed in: {} system messages", report.system_prompts));
    let answered = report.turns as f64 / report.conversations.max(1) as f64;
    out.push(format!(
        "{} conversations to train on, {} before the identity was mixed in, of {} turns, {answered:.1} each; {} held out",
        report.conversations, report.before_identity, report.turns, report.held_out
    ));
    let fit = &report.fit;
    let mut line = format!(
        "{} fit the context whole, {} were cut after an answer, {} are too long, {} have no answer; {} tokens lost",
        fit.whole, fit.cut, fit.too_long, fit.unsupervised, fit.tokens_lost
    );
    if let Some(refusal) = &fit.refusal {
        line += &format!("; {} are refused by the model's chat template: {refusal}", fit.refused);
    }
    out.push(line);
    let share = 100.0 * report.supervised as f64 / report.tokens.max(1) as f64;
    out.push(format!("{} tokens a pass, {} of them learned ({share:.1} %)", report.tokens, report.supervised));
    out.extend(histogram("tokens of a conversation", &report.lengths));
    out.extend(histogram("learned tokens of a conversation", &report.supervised_lengths));
    out
}

fn pairs(report: &PairsReport) -> Vec<String> {
    let PairsReport { trained, held_out, rows, prompts, chosen, rejected } = report;
    let mut out = vec![format!("{} rows: {trained} pairs to train on, {held_out} held out", rows.rows)];
    out.extend(rows.counts.iter().map(|(reason, count)| format!("{count} pairs left out: {}", reason.name())));
    if rows.shortened > 0 {
        out.push(format!("{} pairs lost their oldest exchanges to fit the context", rows.shortened));
    }
    for (title, lengths) in [
        ("tokens of a prompt", prompts),
        ("tokens of a chosen answer", chosen),
        ("tokens of a rejected answer", rejected),
    ] {
        out.extend(histogram(title, lengths));
    }
    out
}

/// A title with the numbers that count, and a bar a line.
fn histogram(title: &str, lengths: &Lengths) -> Vec<String> {
    let Lengths { count, least, median, p90, p99, most, bins, .. } = lengths;
    if *count == 0 {
        return Vec::new();
    }
    let mean = lengths.mean();
    let mut out = vec![
        String::new(),
        format!("{title}: {least} to {most}, mean {mean:.1}, median {median}, 90 % within {p90}, 99 % within {p99}"),
    ];
    let tallest = bins.iter().map(|bin| bin.count).max().unwrap_or(1);
    let label = |from: usize, to: usize| if from == to { from.to_string() } else { format!("{from}-{to}") };
    let width = bins.iter().map(|bin| label(bin.from, bin.to).len()).max().unwrap_or(0);
    for bin in bins {
        let bar = bar(bin.count, tallest);
        let space = if bar.is_empty() { "" } else { " " };
        out.push(format!("  {:>width$} {bar}{space}{}", label(bin.from, bin.to), bin.count));
    }
    out.push(String::new());
    out
}

/// A bar in eighths of a character; what is not nothing is seen.
fn bar(count: usize, tallest: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (count * BAR * 8).div_ceil(tallest.max(1));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_counts() {
        assert_eq!((bar(0, 10), bar(10, 10).chars().count()), (String::new(), BAR));
        assert_eq!(bar(1, 1_000_000), "▏");
        assert_eq!(bar(5, 10), "█".repeat(BAR / 2));
        let lines = histogram("lengths", &Lengths::of([1, 2, 3, 40]));
        assert_eq!(lines[1], "lengths: 1 to 40, mean 11.5, median 2, 90 % within 40, 99 % within 40");
        assert_eq!(lines[2], format!("    0-4 {} 3", "█".repeat(BAR)));
        assert_eq!(lines[3], "    5-9 0");
        assert!(histogram("nothing", &Lengths::of([])).is_empty());
    }
}
