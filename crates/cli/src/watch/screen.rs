//! The lines of a screen: what a state looks like in so many columns and rows.

use console::{measure_text_width, style, truncate_str};

use super::plot::braille;
use super::state::State;
use crate::console::duration;
use crate::report::format;

/// Columns left of the curve.
const MARGIN: usize = 9;
/// Lines of the curve, at least and at most.
const CURVE: [usize; 2] = [4, 16];
/// Lines below the curve: its axis, events, the last line.
const BELOW: usize = 8;

/// At most `height` lines of at most `width` columns.
pub(super) fn lines(state: &State, width: usize, height: usize) -> Vec<String> {
    let width = width.max(20);
    let mut lines = head(state, width);
    if state.stage.is_empty() {
        lines.push(match state.word {
            "preparing" => "the tokenizer and the data are made first; the curve begins with the first step".to_owned(),
            _ => "no step was taken, and no process works on it".to_owned(),
        });
    } else {
        lines.extend(wrapped(&numbers(state), width));
        lines.push(String::new());
        let rows = height.saturating_sub(lines.len() + BELOW).clamp(CURVE[0], CURVE[1]);
        lines.extend(curve(state, width, rows));
    }
    if state.damaged > 0 {
        lines.push(
            style(format!("{} lines of metrics.jsonl cannot be read and are left out", state.damaged))
                .yellow()
                .to_string(),
        );
    }
    if let Some((prompt, text)) = &state.sample {
        lines.push(format!("{} {}{text}", style("sample").dim(), style(prompt).bold()));
    }
    let left = height.saturating_sub(lines.len() + 1);
    let newest = state.events.len().saturating_sub(left);
    lines.extend(state.events[newest..].iter().cloned());
    lines.truncate(height);
    lines.iter().map(|line| truncate_str(line, width, "…").into_owned()).collect()
}

fn head(state: &State, width: usize) -> Vec<String> {
    let word = match state.word {
        "training" | "preparing" => style(state.word).green(),
        "stalled" => style(state.word).red().bold(),
        "stopped" => style("stopped before its end").yellow(),
        "empty" => style("not begun").dim(),
        word => style(word).dim(),
    };
    let mut lines = vec![format!("{}  {}  {word}", style(&state.name).bold(), state.stage)];
    let step = thousands(state.step);
    if state.stage.is_empty() {
        return lines;
    }
    let Some(planned) = state.planned else {
        lines.push(format!("step {step}"));
        return lines;
    };
    let share = (state.step / planned as f64).clamp(0.0, 1.0);
    let left = match state.left.filter(|_| state.word == "training") {
        Some(left) => format!("  about {} left", duration(left)),
        None => String::new(),
    };
    let told = format!("  {:.0} %  step {step} of {}{left}", 100.0 * share, thousands(planned as f64));
    let bar = width.saturating_sub(measure_text_width(&told)).clamp(8, 60);
    let full = (share * bar as f64).round() as usize;
    lines.push(format!("{}{}{told}", style("━".repeat(full)).green(), style("━".repeat(bar - full)).dim()));
    lines
}

fn numbers(state: &State) -> Vec<String> {
    let mut told = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            told.push(format!("{} {}", style(name).dim(), style(value).bold()));
        }
    };
    let of = |name: &str| state.number(name);
    add("loss", state.loss_smoothed.map(|loss| format!("{loss:.3}")));
    add("validation", of("val_loss").map(|loss| format!("{loss:.3}")));
    add("bits/byte", of("bits_per_byte").map(|bits| format!("{bits:.3}")));
    add("pairs preferred", of("val_preference/accuracy").map(percent));
    add("margin", of("preference/margin").map(|margin| format!("{margin:.3}")));
    add("gradient norm", of("grad_norm").map(|norm| format!("{norm:.2}")));
    add("learning rate", of("lr").map(|lr| format!("{lr:.2e}")));
    add("tokens/s", of("tokens_per_s").map(thousands));
    add("of peak", of("flop_utilisation").map(percent));
    add("memory", of("memory_bytes").map(|bytes| format::bytes(bytes as u64)));
    add("GPU", of("gpu_load").map(percent));
    add("at", of("gpu_temperature_c").map(|celsius| format!("{celsius:.0} °C")));
    add("tokens", (state.tokens > 0.0).then(|| format::short(state.tokens)));
    add("time", (state.seconds > 0.0).then(|| duration(state.seconds)));
    told
}

/// The curve with its axes.
fn curve(state: &State, width: usize, rows: usize) -> Vec<String> {
    let columns = width.saturating_sub(MARGIN + 1);
    let (drawn, [least, most]) = braille(&state.curve, columns, rows);
    let mut lines = Vec::new();
    for (row, line) in drawn.into_iter().enumerate() {
        let value = match row {
            0 => format!("{most:.3}"),
            _ if row + 1 == rows => format!("{least:.3}"),
            _ => String::new(),
        };
        lines.push(format!("{} {}", style(format!("{value:>MARGIN$}")).dim(), style(line).green()));
    }
    let first = thousands(state.curve.first().map_or(0.0, |(step, _)| *step));
    let last = thousands(state.step);
    let gap = columns.saturating_sub(first.len() + last.len());
    lines.push(style(format!("{:>MARGIN$} {first}{}{last}", "loss", " ".repeat(gap))).dim().to_string());
    if state.smoothing > 1.0 {
        lines.push(
            style(format!("{:>MARGIN$} smoothed over {} rows", "", thousands(state.smoothing))).dim().to_string(),
        );
    }
    lines
}

/// As many in a line as there is room for.
fn wrapped(parts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if measure_text_width(line) + 3 + measure_text_width(part) <= width => {
                line.push_str("   ");
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// 12,345.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let grouped = digits.char_indices().map(|(at, digit)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3) && digits.as_bytes()[at - 1].is_ascii_digit();
        if comma { format!(",{digit}") } else { digit.to_string() }
    });
    grouped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            name: "evening".to_owned(),
            word: "training",
            stage: "pretrain".to_owned(),
            step: 600.0,
            planned: Some(1200),
            left: Some(300.0),
            loss_smoothed: Some(2.5),
            curve: (1..=600).map(|step| (f64::from(step), 9.0 / f64::from(step))).collect(),
            events: (0..40).map(|n| format!("event {n}")).collect(),
            numbers: vec![("tokens_per_s", 20_500.0), ("memory_bytes", 17_465_220.0)],
            tokens: 6197.0,
            ..State::default()
        }
    }

    #[test]
    fn a_screen_is_never_larger_than_it_may_be() {
        for (width, height) in [(80, 24), (200, 60), (40, 12), (20, 5), (1, 1)] {
            let lines = lines(&state(), width, height);
            assert!(lines.len() <= height, "{width} x {height}: {}", lines.len());
            assert!(
                lines.iter().all(|line| measure_text_width(line) <= width.max(20)),
                "{width} x {height}: {lines:#?}"
            );
        }
        let text = lines(&state(), 80, 24).join("\n");
        for wanted in [
            "evening",
            "50 %",
            "step 600 of 1,200",
            "about 5 min left",
            "20,500",
            "17.5 MB",
            "6197",
            "4.110",
            "event 39",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0.0, 999.0, 1000.0, 1_234_567.0, -1000.0].map(thousands),
            ["0", "999", "1,000", "1,234,567", "-1,000"]
        );
    }
}
