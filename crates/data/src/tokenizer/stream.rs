//! [`StreamDecoder`]: text from tokens as they come. Called by whoever shows an answer while it is made.

use super::Tokenizer;

/// Holds back the bytes of a character until it is whole.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that `id` completes; empty for control tokens and in the middle of a character.
    /// Bytes that can never become UTF-8 give U+FFFD, as in [`Tokenizer::decode`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.pending.extend_from_slice(tokenizer.token_bytes(id).unwrap_or_default());
        let whole = self.pending.len() - incomplete_tail(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }

    /// What is left at the end of the text: a character that never became whole gives U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Bytes at the end that may be the beginning of a character: 0 to 3.
fn incomplete_tail(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|&tail| {
            let end = &bytes[bytes.len() - tail..];
            end[0] >= 0xC0 && std::str::from_utf8(end).is_err_and(|e| e.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::byte_tokenizer;
    use super::*;
    use proptest::prelude::*;

    fn ids_of(bytes: &[u8]) -> Vec<u32> {
        let tokenizer = byte_tokenizer();
        let id_of = |byte: &u8| (6..262).find(|&id| tokenizer.token_bytes(id) == Some(&[*byte]));
        bytes.iter().filter_map(id_of).collect()
    }

    #[test]
    fn character_is_held_back_until_whole() {
        let tokenizer = byte_tokenizer();
        let mut decoder = StreamDecoder::new();
        let pieces: Vec<String> = ids_of("aé€😀".as_bytes()).iter().map(|&id| decoder.push(&tokenizer, id)).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "€", "", "", "", "😀"]);
        assert_eq!(decoder.push(&tokenizer, 0), "");
        assert_eq!(decoder.finish(), "");
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let tokenizer = byte_tokenizer();
            let ids = ids_of(&bytes);
            let mut decoder = StreamDecoder::new();
            let mut text: String = ids.iter().map(|&id| decoder.push(&tokenizer, id)).collect();
            text += &decoder.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
