use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Case {
    bytes: String,
    bits: Vec<u32>,
}

/// Written by `tests/fixtures/gguf_blocks.py` with llama.cpp's own package.
fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(include_str!("../../../tests/fixtures/gguf_blocks.json")).unwrap()
}

const ALL: [ElementType; 11] = [
    ElementType::F32,
    ElementType::F16,
    ElementType::Bf16,
    ElementType::Q4_0,
    ElementType::Q4_1,
    ElementType::Q5_0,
    ElementType::Q5_1,
    ElementType::Q8_0,
    ElementType::Q4K,
    ElementType::Q5K,
    ElementType::Q6K,
];

#[test]
fn every_type_gives_the_values_of_llama_cpp_to_the_bit() {
    let cases = cases();
    assert_eq!(cases.len(), ALL.len());
    for element in ALL {
        let case = &cases[element.name()];
        let digits = case.bytes.as_bytes().chunks_exact(2);
        let bytes: Vec<u8> =
            digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        let mut values = Vec::new();
        element.decode(&bytes, &mut values);
        assert_eq!(values.len(), bytes.len() / element.block_bytes() * element.block_len());
        assert!(values.len() > 30);
        let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
        let differing = bits.iter().zip(&case.bits).filter(|(ours, theirs)| ours != theirs).count();
        assert_eq!((bits.len(), differing), (case.bits.len(), 0), "{}", element.name());
    }
}

#[test]
fn types_are_known_by_their_numbers() {
    let found: Vec<ElementType> = (0..100).filter_map(ElementType::of_ggml).collect();
    assert_eq!(found.len(), ALL.len());
    assert!(ALL.iter().all(|element| found.contains(element) && KNOWN.contains(element.name())));
}

#[derive(Deserialize)]
struct Quantised {
    bits: Vec<u32>,
    bytes: BTreeMap<String, String>,
}

#[test]
fn every_written_type_has_the_bytes_of_llama_cpp() {
    // Written by `tests/fixtures/gguf_quantised.py` with llama.cpp's own quantiser.
    let fixture: Quantised = serde_json::from_str(include_str!("../../../tests/fixtures/gguf_quantised.json")).unwrap();
    let values: Vec<f32> = fixture.bits.iter().map(|&bits| f32::from_bits(bits)).collect();
    for (name, expected) in &fixture.bytes {
        let element = ALL.into_iter().find(|element| element.name() == name).unwrap();
        let mut bytes = Vec::new();
        element.encode(&values, &mut bytes);
        assert_eq!(bytes.len(), values.len() / element.block_len() * element.block_bytes(), "{name}");
        let ours: Vec<String> = bytes
            .chunks(element.block_bytes())
            .map(|block| block.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        let theirs: Vec<&str> = expected
            .as_bytes()
            .chunks(2 * element.block_bytes())
            .map(|block| std::str::from_utf8(block).unwrap())
            .collect();
        let differing: Vec<usize> = (0..ours.len()).filter(|&at| ours[at] != theirs[at]).collect();
        assert!(differing.is_empty(), "{name}: blocks {differing:?}");
    }
    assert_eq!(fixture.bytes.len(), 7);
}

#[test]
fn numbers_are_those_that_are_read() {
    assert!(ALL.into_iter().all(|element| ElementType::of_ggml(element.ggml()) == Some(element)));
}
