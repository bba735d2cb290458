//! `tokenizer.json`, our own or another program's: whatever is read encodes any text, and decodes to it or to less.
#![no_main]

use casallm_data::chat::{ChatTemplate, Conversation};
use casallm_data::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

const TEXT: &str = "Hello, 12345 wörlds!\n\t</s><|im_end|> 漢字 \u{1F600}\0";

fuzz_target!(|bytes: &[u8]| {
    let _ = Tokenizer::from_bytes(bytes);
    let Ok(tokenizer) = Tokenizer::of_model(bytes) else { return };
    let ids = tokenizer.encode(TEXT);
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
    assert!(
        ids.iter().all(|id| tokenizer.controls().iter().all(|control| control.id != *id)),
        "a control token of text"
    );
    let _ = tokenizer.decode(&ids);
    let _ = tokenizer.to_gguf();
    if let Ok(template) = ChatTemplate::own(&tokenizer) {
        let _ = template.render(&Conversation::exchange(TEXT, TEXT), &tokenizer);
    }
});
