//! What begins a text that is no conversation.

use serde_json::Value;

use super::Tokenizer;

impl Tokenizer {
    /// The token in front of every text; `settings` is the model's `tokenizer_config.json`. `<s>` where this program trained the
    /// model, for so it was trained; elsewhere what the tokenizer's own files put there.
    pub fn opening(&self, settings: &str) -> Option<u32> {
        if let Ok(special) = self.special() {
            return Some(special.bos);
        }
        let adds = |settings: &Value| settings.get("add_bos_token").and_then(Value::as_bool);
        match serde_json::from_str(settings).ok().as_ref().and_then(adds) {
            Some(true) => self.named(settings, "bos_token"),
            Some(false) => None,
            None => {
                let file: Value = serde_json::from_str(&self.to_json()).unwrap_or_default();
                self.control_id(opening_of(&file["post_processor"])?)
            }
        }
    }

    /// The control token that a model's `tokenizer_config.json` names by a key, such as `eos_token`.
    pub fn named(&self, settings: &str, key: &str) -> Option<u32> {
        let settings: Value = serde_json::from_str(settings).ok()?;
        let name = settings.get(key)?;
        // As text, or as an object that holds it.
        self.control_id(name.as_str().or_else(|| name.get("content")?.as_str())?)
    }
}

/// The control token that a post-processor puts in front of a text.
fn opening_of(processor: &Value) -> Option<&str> {
    match processor.get("type")?.as_str()? {
        "TemplateProcessing" => processor.get("single")?.get(0)?.get("SpecialToken")?.get("id")?.as_str(),
        "Sequence" => processor.get("processors")?.as_array()?.iter().find_map(opening_of),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_a_text_is_told_by_the_files_of_an_imported_model() {
        let template =
            |id: &str| serde_json::json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": id}}]});
        assert_eq!(opening_of(&template("<s>")), Some("<s>"));
        let sequence = serde_json::json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template("<b>")]});
        assert_eq!(opening_of(&sequence), Some("<b>"));
        assert_eq!(opening_of(&serde_json::json!({"type": "ByteLevel"})), None);
        assert_eq!(opening_of(&Value::Null), None);
    }
}
