//! GPT-2's printable stand-ins for bytes: tokenizer.json spells each byte of a token as one character.

use std::sync::LazyLock;

/// The character that stands for each byte.
static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut shifted = 256;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            char::from(byte)
        } else {
            shifted += 1;
            // 256..=323 are letters of Latin Extended-A: always characters.
            char::from_u32(shifted - 1).unwrap_or_default()
        }
    })
});

/// The character for one byte.
pub(super) fn char_of(byte: u8) -> char {
    CHARS[usize::from(byte)]
}

/// Appends the spelling of `bytes` to `out`.
pub(super) fn spell(bytes: &[u8], out: &mut String) {
    out.extend(bytes.iter().map(|&byte| char_of(byte)));
}

/// The bytes that `spelling` stands for; `None` when a character stands for no byte.
pub(super) fn bytes_of(spelling: &str) -> Option<Box<[u8]>> {
    spelling.chars().map(byte_of).collect()
}

fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) => (char_of(byte) == character).then_some(byte),
        Err(_) => (0..=u8::MAX).find(|&byte| char_of(byte) == character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn alphabet_is_that_of_the_field() {
        let ours: std::collections::HashSet<char> = (0..=255).map(char_of).collect();
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0)), ('Ġ', 'Ċ', 'Ā'));
    }

    #[test]
    fn spelling_is_undone() {
        let all: Vec<u8> = (0..=255).collect();
        let mut spelling = String::new();
        spell(&all, &mut spelling);
        assert_eq!(bytes_of(&spelling).as_deref(), Some(all.as_slice()));
        assert_eq!(bytes_of("a b"), None);
        assert_eq!(bytes_of("漢"), None);
    }
}
