//! Results as a table for people.

use casallm_eval::identity::Right;
use casallm_eval::results::TaskResult;

use super::Found;
use crate::console::duration;

/// A task in one line, as soon as it is done.
pub(super) fn headline(result: &TaskResult) -> String {
    let value = result.metrics[result.metric].value;
    let pace = match result.timing.items {
        0 => "from earlier runs".to_owned(),
        _ => format!("{}, {:.1} items/s", duration(result.timing.seconds), result.timing.items_per_s),
    };
    format!("{}: {} {value:.4} over {} items ({pace})", result.name, result.metric, result.items)
}

/// All of it.
pub(super) fn lines(found: &Found) -> Vec<String> {
    let mut lines = Vec::new();
    if !found.tasks.is_empty() {
        lines.push(format!(
            "{:<15} {:>6} {:>5}  {:<11} {:<28} {:>7}   {:>6}  {:>6}",
            "task", "items", "shots", "split", "metric", "value", "stderr", "chance"
        ));
    }
    for result in &found.tasks {
        for (i, (name, metric)) in result.metrics.iter().enumerate() {
            let first = i == 0;
            let (task, items, shots) = match first {
                true => (result.name.as_str(), result.items.to_string(), result.fewshot.to_string()),
                false => ("", String::new(), String::new()),
            };
            let stderr = metric.stderr.map_or(String::new(), |error| format!("{error:.4}"));
            let chance = if *name == "perplexity" { String::new() } else { format!("{:.2}", result.chance) };
            let split = if first { result.split.as_str() } else { "" };
            let line = format!(
                "{task:<15} {items:>6} {shots:>5}  {split:<11} {name:<28} {:>7.4} ± {stderr:>6}  {chance:>6}",
                metric.value
            );
            lines.push(line.trim_end().to_owned());
        }
    }
    for result in found.tasks.iter().filter(|result| result.cut > 0) {
        lines.push(format!(
            "{}: {} of {} items were longer than the context and lost their beginning",
            result.name, result.cut, result.items
        ));
    }
    if let Some(core) = &found.core {
        lines.push(format!(
            "CORE tasks, centred mean of {}: {:.4} ({})",
            core.tasks.len(),
            core.value,
            core.tasks.join(", ")
        ));
    }
    for text in &found.texts {
        lines.push(format!(
            "{}: {:.4} bits per byte ({} documents, {} bytes, {} tokens)",
            text.path, text.bits_per_byte, text.documents, text.bytes, text.tokens
        ));
    }
    if let Some(identity) = &found.identity {
        let of = |right: Right| format!("{} of {}", right.right, right.of);
        lines.push(format!("{}: knows its name {}", identity.name, of(identity.identity)));
        lines.push(format!("  of these, greets with it          {}", of(identity.greetings)));
        lines.push(format!("  taken for another, stays itself   {}", of(identity.refusals)));
        lines.push(format!("  asked anything else, answers that {}", of(identity.ordinary)));
        lines.push(format!("  answers that claim to be another  {}", identity.claims_another));
    }
    for (name, reason) in &found.left_out {
        lines.push(format!("left out: {name}: {reason}"));
    }
    lines
}
