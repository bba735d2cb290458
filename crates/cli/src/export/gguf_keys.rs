//! The keys of a GGUF file that say what the texts of a model directory say.

use casallm_data::tokenizer::GgufTokenizer;
use casallm_eval::encoding::Encoding;
use casallm_model::formats::export::MetadataValue;
use serde_json::Value;

use super::Texts;

/// The key that holds all of tokenizer.json, which an import from here reads back.
pub(crate) const TOKENIZER_JSON: &str = "tokenizer.huggingface.json";

/// Name, tokenizer, template and sampling.
pub(super) fn of(name: &str, tokenizer: GgufTokenizer, texts: &Texts) -> Vec<(String, MetadataValue)> {
    let text = |value: &str| MetadataValue::Text(value.to_owned());
    let ggml = |key: &str, value| (format!("tokenizer.ggml.{key}"), value);
    let mut keys = vec![
        ("general.name".to_owned(), text(name)),
        ggml("model", text("gpt2")),
        ggml("pre", text(tokenizer.pre)),
        ggml("tokens", MetadataValue::Texts(tokenizer.tokens)),
        ggml("token_type", MetadataValue::Integers(tokenizer.token_types)),
        ggml("merges", MetadataValue::Texts(tokenizer.merges)),
    ];
    let special = |name: &str, id: &str| {
        // A token may be given by its name, or as an object that has it.
        let named = &texts.settings[name];
        let named = named.as_str().or_else(|| named["content"].as_str());
        let named = named.and_then(|name| texts.tokenizer.control_id(name));
        let stated = &texts.generation[id];
        named.or_else(|| stated.as_u64().or_else(|| stated[0].as_u64()).and_then(|id| u32::try_from(id).ok()))
    };
    for (key, name, id) in [
        ("bos_token_id", "bos_token", "bos_token_id"),
        ("eos_token_id", "eos_token", "eos_token_id"),
        ("padding_token_id", "pad_token", "pad_token_id"),
    ] {
        if let Some(id) = special(name, id) {
            keys.push(ggml(key, MetadataValue::U32(id)));
        }
    }
    // Without the key tokenizer.json says it, as of Llama 3; llama.cpp would go by the name of the way of cutting.
    let begins = texts.settings["add_bos_token"].as_bool().unwrap_or_else(|| {
        let opening = Encoding::new(&texts.tokenizer, &texts.tokenizer_config).opening();
        opening.is_some() && opening == special("bos_token", "bos_token_id")
    });
    keys.push(ggml("add_bos_token", MetadataValue::Bool(begins)));
    if let Some(template) = template(&texts.settings) {
        keys.push(("tokenizer.chat_template".to_owned(), text(template)));
    }
    for (key, name) in [("temp", "temperature"), ("top_p", "top_p")] {
        if let Some(value) = texts.generation[name].as_f64() {
            keys.push((format!("general.sampling.{key}"), MetadataValue::F32(value as f32)));
        }
    }
    if let Some(k) = texts.generation["top_k"].as_i64().and_then(|k| i32::try_from(k).ok()) {
        keys.push(("general.sampling.top_k".to_owned(), MetadataValue::I32(k)));
    }
    keys.push((TOKENIZER_JSON.to_owned(), text(&texts.tokenizer_json)));
    keys
}

/// The chat template in Jinja: the only one, or of several by name the default one.
pub(super) fn template(settings: &Value) -> Option<&str> {
    match &settings["chat_template"] {
        Value::String(template) => Some(template),
        Value::Array(named) => named.iter().find(|one| one["name"] == "default")?["template"].as_str(),
        _ => None,
    }
}
