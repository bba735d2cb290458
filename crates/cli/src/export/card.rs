//! The model card: README.md, with the head in YAML that the Hub reads.

use anyhow::Result;
use casallm_data::chat::{ChatTemplate, Message, Turn};
use casallm_model::config::{Activation, Norm};
use casallm_model::directory::ModelDirectory;

use super::flags::Export;
use super::{Texts, gguf_keys, name_of};

/// Name of the card.
pub(super) const README: &str = "README.md";

/// The text of the card.
pub(super) fn of(flags: &Export, source: &ModelDirectory, texts: &Texts, dtype: &str) -> Result<String> {
    let config = source.config();
    let name = name_of(flags);
    let chats = gguf_keys::template(&texts.settings).is_some();
    let ours = texts.tokenizer.special().is_ok();
    let mut head = vec!["library_name: transformers".to_owned(), "pipeline_tag: text-generation".to_owned()];
    head.extend(flags.license.iter().map(|license| format!("license: {license}")));
    head.push("tags:".to_owned());
    head.push("- casallm".to_owned());
    if chats {
        head.push("- conversational".to_owned());
    }
    let origin = match ours {
        true => "A language model that was trained at home with CasaLLM, from raw text.",
        false => "A language model of another program that was kept by CasaLLM.",
    };
    let norm = match config.norm {
        Norm::LayerNorm => "LayerNorm",
        Norm::RmsNorm => "RMSNorm",
    };
    let activation = match config.activation {
        Activation::Gelu => "GELU (exact)",
        Activation::SwiGlu => "SwiGLU",
        Activation::ReluSquared => "squared ReLU, written as ReLU gated by the same matrix",
    };
    let rows = [
        ("Parameters", grouped(config.n_params())),
        ("Layers", config.n_layer.to_string()),
        ("Width", config.n_embd.to_string()),
        ("Heads", format!("{} of {}, {} of keys and values", config.n_head, config.head_dim, config.n_kv_head)),
        ("MLP", format!("{} wide, {activation}", config.n_ff)),
        ("Norm", norm.to_owned() + if config.qk_norm { ", and of queries and keys" } else { "" }),
        ("Positions", format!("RoPE, base {}", config.rope_theta)),
        ("Context", format!("{} tokens", config.context)),
        ("Vocabulary", format!("{} tokens, byte-level BPE", grouped(config.vocab_size))),
        ("Numbers", dtype.to_owned()),
    ];
    let table: Vec<String> = rows.iter().map(|(key, value)| format!("| {key} | {value} |")).collect();
    let mut card = format!(
        "---\n{}\n---\n\n# {name}\n\n{origin}\n\n| | |\n| --- | --- |\n{}\n\n## Use\n\n",
        head.join("\n"),
        table.join("\n")
    );
    let load = "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained(\"path/to/this/folder\")\ntokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n";
    card += load;
    card += if chats {
        "messages = [{\"role\": \"user\", \"content\": \"Hello!\"}]\ninputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors=\"pt\")\n"
    } else {
        "inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\", return_token_type_ids=False)\n"
    };
    card += "output = model.generate(**inputs, max_new_tokens=100)\nprint(tokenizer.decode(output[0]))\n```\n";
    if let Some(prompt) = prompt(texts) {
        card += &format!(
            "\nA prompt looks like this; `chat_template` in tokenizer_config.json writes it:\n\n```text\n{prompt}\n```\n"
        );
    }
    card += "\n## Limits\n\nNobody has examined what this model says. It may be wrong, biased or offensive, and knows nothing that was not in \
             its training data.\n";
    if flags.license.is_none() {
        card += "\nNo license is stated. Whoever gives this model away should state one, here and as `license:` in the head.\n";
    }
    Ok(card)
}

/// A question as the template writes it, with the names of control tokens.
fn prompt(texts: &Texts) -> Option<String> {
    let settings = texts.settings.to_string();
    let template = ChatTemplate::of_model(&settings, texts.generation_config.as_deref(), &texts.tokenizer).ok()?;
    let ids = template.render_prompt(&[Turn::of(&Message::user("Hello!"))], &texts.tokenizer).ok()?;
    let mut text = String::new();
    for id in ids {
        match texts.tokenizer.controls().iter().find(|control| control.id == id) {
            Some(control) => text += &control.content,
            None => text += &texts.tokenizer.decode(&[id]),
        }
    }
    // A fence would end in it.
    (!text.contains("```")).then_some(text)
}

/// With commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        let texts: Vec<String> = [7, 40_960, 344_000_000].into_iter().map(grouped).collect();
        assert_eq!(texts, ["7", "40,960", "344,000,000"]);
    }
}
