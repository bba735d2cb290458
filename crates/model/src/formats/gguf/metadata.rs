//! [`Metadata`]: the keys and values at the head of a GGUF file.

use std::collections::BTreeMap;

use super::reader::Reader;
use crate::error::ModelError;
use crate::formats::tensors::damaged;

/// More than any file has.
const MAX_KEYS: u64 = 1 << 12;
const MAX_KEY: u64 = 1 << 10;
/// A license, a chat template.
const MAX_TEXT: u64 = 1 << 24;
/// Four times the largest vocabulary.
const MAX_ELEMENTS: u64 = 1 << 22;
/// All of it: the largest vocabularies take about 10 MB.
const MAX_BYTES: u64 = 1 << 27;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Texts(Vec<String>),
    /// An array of a kind that nothing here asks for.
    Other,
}

/// Keys and values of a GGUF file.
#[derive(Debug)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

/// Types of values, by the number that stands before them.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Metadata {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, ModelError> {
        let count = reader.u64("the number of metadata keys")?;
        if count > MAX_KEYS {
            let found = format!("{count}, above {MAX_KEYS}");
            return Err(damaged(reader.path(), "the number of metadata keys", found).into());
        }
        let mut values = BTreeMap::new();
        for index in 0..count {
            let key = reader.text(MAX_KEY, &format!("metadata key {index}"))?;
            let kind = reader.u32(&key)?;
            let value = if kind == ARRAY { array(reader, &key)? } else { scalar(reader, kind, &key)? };
            if reader.at() > MAX_BYTES {
                return Err(damaged(reader.path(), key, format!("past {MAX_BYTES} bytes of metadata")).into());
            }
            if values.insert(key.clone(), value).is_some() {
                return Err(damaged(reader.path(), format!("metadata key {key}"), "there twice").into());
            }
        }
        Ok(Metadata { values })
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.values.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// A list of integers of at most 32 bits.
    pub fn integers(&self, key: &str) -> Option<Vec<i32>> {
        match self.values.get(key)? {
            Value::Integers(list) => list.iter().map(|&n| i32::try_from(n).ok()).collect(),
            _ => None,
        }
    }

    /// An integer from 0 on.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match self.values.get(key)? {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A floating-point number.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// A truth value.
    pub fn truth(&self, key: &str) -> Option<bool> {
        match self.values.get(key)? {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// Whether a key is there, whatever its value.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A value as people read it; lists by their kind.
    pub(super) fn shown(&self, key: &str) -> String {
        match self.values.get(key) {
            None => "missing".to_owned(),
            Some(Value::Integer(n)) => n.to_string(),
            Some(Value::Float(x)) => x.to_string(),
            Some(Value::Bool(truth)) => truth.to_string(),
            Some(Value::Text(text)) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Some(Value::Integers(_) | Value::Texts(_) | Value::Other) => "a list".to_owned(),
        }
    }
}

fn scalar(reader: &mut Reader<'_>, kind: u32, key: &str) -> Result<Value, ModelError> {
    Ok(match kind {
        6 => Value::Float(f32::from_le_bytes(reader.array(key)?).into()),
        12 => Value::Float(f64::from_le_bytes(reader.array(key)?)),
        7 => Value::Bool(reader.array::<1>(key)? != [0]),
        TEXT => Value::Text(reader.text(MAX_TEXT, key)?),
        kind => Value::Integer(integer(reader, kind, key)?),
    })
}

fn integer(reader: &mut Reader<'_>, kind: u32, key: &str) -> Result<i128, ModelError> {
    Ok(match kind {
        0 => u8::from_le_bytes(reader.array(key)?).into(),
        1 => i8::from_le_bytes(reader.array(key)?).into(),
        2 => u16::from_le_bytes(reader.array(key)?).into(),
        3 => i16::from_le_bytes(reader.array(key)?).into(),
        4 => u32::from_le_bytes(reader.array(key)?).into(),
        5 => i32::from_le_bytes(reader.array(key)?).into(),
        10 => u64::from_le_bytes(reader.array(key)?).into(),
        11 => i64::from_le_bytes(reader.array(key)?).into(),
        _ => return Err(damaged(reader.path(), key, format!("of type {kind}, not 0 to 12")).into()),
    })
}

fn array(reader: &mut Reader<'_>, key: &str) -> Result<Value, ModelError> {
    let kind = reader.u32(key)?;
    let count = reader.u64(key)?;
    // Every element has at least a byte.
    let possible = MAX_ELEMENTS.min(reader.length() - reader.at());
    if count > possible {
        return Err(damaged(reader.path(), key, format!("{count} long, where {possible} are possible")).into());
    }
    // Grown as the file gives, not by what it promises.
    match kind {
        TEXT => {
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(reader.text(MAX_TEXT, key)?);
                if reader.at() > MAX_BYTES {
                    return Err(damaged(reader.path(), key, format!("past {MAX_BYTES} bytes of metadata")).into());
                }
            }
            Ok(Value::Texts(texts))
        }
        ARRAY => Err(damaged(reader.path(), key, "a list of lists").into()),
        6 | 7 | 12 => {
            for _ in 0..count {
                scalar(reader, kind, key)?;
            }
            Ok(Value::Other)
        }
        kind => {
            let mut list = Vec::new();
            for _ in 0..count {
                list.push(i64::try_from(integer(reader, kind, key)?).unwrap_or(i64::MAX));
            }
            Ok(Value::Integers(list))
        }
    }
}
