use super::*;

/// A tokenizer without a merge: one id per byte.
pub(crate) fn byte_tokenizer() -> Tokenizer {
    let spellings: Vec<String> = (0..=255).map(|b| byte_chars::char_of(b).to_string()).collect();
    file::assemble(&spellings, &[], "test").unwrap()
}
