//! From a line of `metrics.jsonl` to what TensorBoard shows: the same keys, in three groups and by their path.

use casallm_train::events::{Event, What};
use casallm_train::metrics::MetricsRow;
use serde_json::Value;

use super::wire::{self, When};

/// Keys of a row that say which row it is.
const NAMES_OF_A_ROW: [&str; 2] = ["step", "stage"];
/// Keys of a row that are measured on held-out data.
const HELD_OUT: [&str; 5] = ["val_loss", "val", "val_preference", "bits_per_byte", "accuracy"];

/// Every number of a row with its tag: `train/loss`, `validation/loss`, `validation/SOURCE/bits_per_byte`,
/// `timing/tokens_per_s`. What was not measured is left out.
pub(super) fn scalars(row: &MetricsRow) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    if let Ok(Value::Object(keys)) = serde_json::to_value(row) {
        for (key, value) in keys.iter().filter(|(key, _)| !NAMES_OF_A_ROW.contains(&key.as_str())) {
            let tag = match key.as_str() {
                "timing" => key.clone(),
                // Sources of validation stand beside the whole of it.
                "val" => "validation".to_owned(),
                held_out if HELD_OUT.contains(&held_out) => {
                    format!("validation/{}", held_out.strip_prefix("val_").unwrap_or(held_out))
                }
                _ => format!("train/{key}"),
            };
            leaves(&tag, value, &mut found);
        }
    }
    found
}

fn leaves(tag: &str, value: &Value, found: &mut Vec<(String, f64)>) {
    match value {
        Value::Number(number) => found.extend(number.as_f64().map(|number| (tag.to_owned(), number))),
        Value::Object(keys) => keys.iter().for_each(|(key, value)| leaves(&format!("{tag}/{key}"), value, found)),
        _ => {}
    }
}

/// A row as a record.
pub(super) fn row_record(row: &MetricsRow, wall: f64) -> Vec<u8> {
    wire::scalars(When { wall, step: row.step }, &scalars(row))
}

/// An event as a record: its words, under its name. A sample is under its prompt.
pub(super) fn event_record(event: &Event, wall: f64) -> Vec<u8> {
    let at = When { wall, step: event.step };
    if let What::Sample { prompt, text } = &event.what {
        let tag = format!("samples/{}", in_a_tag(prompt));
        return wire::text(at, &tag, &format!("{}\n---\n\n{}", as_it_is(prompt), as_it_is(text)));
    }
    let named = serde_json::to_value(event).ok();
    let name = named.as_ref().and_then(|event| event["event"].as_str()).unwrap_or("note");
    wire::text(at, &format!("events/{name}"), &as_it_is(&event.to_string()))
}

/// The beginning of a prompt, by which its samples are found.
fn in_a_tag(prompt: &str) -> String {
    let words = prompt.split_whitespace().collect::<Vec<_>>().join(" ").replace('/', " ");
    words.chars().take(40).collect()
}

/// Markdown that shows a text as it is.
fn as_it_is(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use casallm_train::metrics::SourceValidation;
    use casallm_train::recipe::Stage;

    use super::*;

    #[test]
    fn every_number_has_a_tag_and_nothing_else_has() {
        let mut row = MetricsRow::before(Stage::Pretrain);
        (row.step, row.tokens, row.loss, row.lr) = (3, 96, Some(2.5), 1e-3);
        (row.val_loss, row.bits_per_byte) = (Some(2.25), Some(1.5));
        row.val.insert("tales".into(), SourceValidation { loss: Some(2.25), bits_per_byte: None });
        row.timing.tokens_per_s = Some(4.0);
        let mut found = scalars(&row);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("timing/tokens_per_s", 4.0),
            ("train/loss", 2.5),
            ("train/lr", 1e-3),
            ("train/tokens", 96.0),
            ("validation/bits_per_byte", 1.5),
            ("validation/loss", 2.25),
            ("validation/tales/loss", 2.25),
        ];
        assert_eq!(found, expected.map(|(tag, value)| (tag.to_owned(), value)));
    }
}
