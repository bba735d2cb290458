//! Typed access to one table of a recipe; every error names the file or flag, the key's path, the value, the remedy.

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

use super::schema;
use crate::error::TrainError;

/// Where values come from: the file, or the flag that overrode them.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) file: String,
    /// Path of a key to the flag that set it.
    pub(super) flags: BTreeMap<String, String>,
}

impl Origin {
    pub(super) fn of(&self, key: &str) -> String {
        self.flags.get(key).map_or_else(|| self.file.clone(), |flag| format!("flag {flag}"))
    }
}

/// An interval of real numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    min: f64,
    max: f64,
    min_included: bool,
    max_included: bool,
}

impl Interval {
    pub(super) const FINITE: Self = Self { min: f64::MIN, max: f64::MAX, min_included: true, max_included: true };
    pub(super) const POSITIVE: Self = Self { min: 0.0, max: f64::MAX, min_included: false, max_included: true };
    pub(super) const NOT_NEGATIVE: Self = Self { min_included: true, ..Self::POSITIVE };
    /// `[0, 1)`.
    pub(super) const BELOW_ONE: Self = Self { min: 0.0, max: 1.0, min_included: true, max_included: false };
    /// `(0, 1)`.
    pub(super) const INSIDE_UNIT: Self = Self { min_included: false, ..Self::BELOW_ONE };

    pub(super) const fn up_to(self, max: f64) -> Self {
        Self { max, max_included: true, ..self }
    }

    pub(super) const fn below(self, max: f64) -> Self {
        Self { max, max_included: false, ..self }
    }

    pub(super) const fn above(min: f64) -> Self {
        Self { min, ..Self::POSITIVE }
    }

    fn contains(&self, x: f64) -> bool {
        let above = x > self.min || (self.min_included && x == self.min);
        let below = x < self.max || (self.max_included && x == self.max);
        above && below
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == f64::MIN && self.max == f64::MAX {
            return f.write_str("a finite number");
        }
        write!(f, "a finite number {}{}", if self.min_included { "from " } else { "above " }, self.min)?;
        match (self.max == f64::MAX, self.max_included) {
            (true, _) => write!(f, "{}", if self.min_included { " up" } else { "" }),
            (false, true) => write!(f, " to {}", self.max),
            (false, false) => write!(f, " to below {}", self.max),
        }
    }
}

/// One table of a recipe, its keys already checked against the schema.
pub(super) struct Section<'a> {
    origin: &'a Origin,
    path: String,
    table: &'a Table,
}

impl<'a> Section<'a> {
    /// # Errors
    /// [`TrainError::RecipeUnknownKey`] for the first key that the schema does not have here.
    pub(super) fn new(origin: &'a Origin, path: &str, table: &'a Table) -> Result<Self, TrainError> {
        let section = Self { origin, path: path.to_owned(), table };
        let known = schema::keys_of(path);
        match table.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            None => Ok(section),
            Some((key, value)) => Err(TrainError::RecipeUnknownKey {
                file: origin.of(&section.key(key)),
                key: section.key(key),
                found: shown(value),
                remedy: schema::remedy_for_unknown(path, key),
            }),
        }
    }

    /// The section under `key`, `None` when absent.
    pub(super) fn section(&self, key: &str) -> Result<Option<Section<'a>>, TrainError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Section::new(self.origin, &self.key(key), table).map(Some),
            Some(other) => Err(self.wrong_type(key, other, &format!("a section, written [{}]", self.key(key)))),
        }
    }

    /// The sections of an array of tables, empty when absent.
    pub(super) fn sections(&self, key: &str) -> Result<Vec<Section<'a>>, TrainError> {
        let expected = format!("a list of sections, each written [[{}]]", self.key(key));
        match self.table.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(index, item)| match item {
                    Value::Table(table) => Section::new(self.origin, &format!("{}[{index}]", self.key(key)), table),
                    other => Err(self.wrong_type(key, other, &expected)),
                })
                .collect(),
            Some(other) => Err(self.wrong_type(key, other, &expected)),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, TrainError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => {
                Err(self.bad(key, "\"\"", "write some text between the quotes, or leave the key out"))
            }
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong_type(key, other, "text in quotes, like \"this\"")),
        }
    }

    /// A list of texts, none of them blank; the list itself may be empty.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, TrainError> {
        const EXPECTED: &str = "a list of texts in quotes, like [\"this\", \"that\"]";
        let one = |value: &Value| match value {
            Value::String(text) if text.trim().is_empty() => {
                Err(self.bad(key, "\"\"", "write some text between the quotes, or leave the entry out"))
            }
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wrong_type(key, other, EXPECTED)),
        };
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => values.iter().map(one).collect::<Result<_, _>>().map(Some),
            Some(other) => Err(self.wrong_type(key, other, EXPECTED)),
        }
    }

    /// As [`Section::texts`], or one text for a list of it.
    pub(super) fn text_or_texts(&self, key: &str) -> Result<Option<Vec<String>>, TrainError> {
        match self.table.get(key) {
            Some(Value::String(_)) => Ok(self.text(key)?.map(|text| vec![text])),
            _ => self.texts(key),
        }
    }

    /// A whole number from `min` to `max`.
    pub(super) fn integer(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, TrainError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => match u64::try_from(*number) {
                Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
                _ => Err(self.bad(key, number, format!("use a whole number from {min} to {max}"))),
            },
            Some(other) => Err(self.wrong_type(key, other, "a whole number, like 2_000_000")),
        }
    }

    /// As [`Section::integer`], for sizes.
    pub(super) fn size(&self, key: &str, min: usize, max: usize) -> Result<Option<usize>, TrainError> {
        let found = self.integer(key, min as u64, max as u64)?;
        // The bound came from a usize.
        Ok(found.map(|number| number as usize))
    }

    pub(super) fn number(&self, key: &str, interval: Interval) -> Result<Option<f64>, TrainError> {
        let number = match self.table.get(key) {
            None => return Ok(None),
            Some(Value::Float(number)) => *number,
            Some(Value::Integer(number)) => *number as f64,
            Some(other) => return Err(self.wrong_type(key, other, "a number, like 3e-4")),
        };
        if !interval.contains(number) {
            return Err(self.bad(key, number, format!("use {interval}")));
        }
        Ok(Some(number))
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, TrainError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(key, other, "true or false")),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, TrainError> {
        let Some(found) = self.text(key)? else { return Ok(None) };
        match choices.iter().find(|(name, _)| *name == found) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
                let (last, others) = names.split_last().expect("a choice of something");
                let either = if others.is_empty() { String::new() } else { format!("{} or ", others.join(", ")) };
                Err(self.bad(key, format!("\"{found}\""), format!("use {either}{last}")))
            }
        }
    }

    /// The raw value, for keys that take more than one type.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.table.get(key)
    }

    pub(super) fn require<T>(&self, key: &str, value: Option<T>, remedy: &str) -> Result<T, TrainError> {
        value.ok_or_else(|| TrainError::RecipeMissingKey {
            file: self.origin.file.clone(),
            key: self.key(key),
            remedy: remedy.to_owned(),
        })
    }

    pub(super) fn bad(&self, key: &str, found: impl fmt::Display, remedy: impl Into<String>) -> TrainError {
        TrainError::RecipeValue {
            file: self.origin.of(&self.key(key)),
            key: self.key(key),
            found: found.to_string(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn wrong_type(&self, key: &str, found: &Value, expected: &str) -> TrainError {
        TrainError::RecipeWrongType {
            file: self.origin.of(&self.key(key)),
            key: self.key(key),
            found: format!("{} ({})", shown(found), found.type_str()),
            expected: expected.to_owned(),
        }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A value in one line that does not flood a message.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    };
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 60 {
        line = line.chars().take(57).chain("...".chars()).collect();
    }
    line
}

/// Every value of a tree of tables by the path of its key.
pub(super) fn leaves(value: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Table(table) => {
                for (key, value) in table {
                    walk(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, out);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(&format!("{path}[{index}]"), item, out);
                }
            }
            leaf => {
                out.insert(path.to_owned(), leaf.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_contain_their_included_ends_and_never_nan() {
        assert!(!Interval::POSITIVE.contains(0.0) && Interval::POSITIVE.contains(1e-300));
        assert!(Interval::NOT_NEGATIVE.contains(0.0) && !Interval::NOT_NEGATIVE.contains(-0.1));
        assert!(!Interval::BELOW_ONE.contains(1.0));
        assert!(!Interval::INSIDE_UNIT.contains(0.0));
        assert!(Interval::POSITIVE.up_to(0.1).contains(0.1) && !Interval::above(1.0).contains(1.0));
        for interval in [Interval::POSITIVE, Interval::NOT_NEGATIVE, Interval::BELOW_ONE, Interval::above(1.0)] {
            assert!(!interval.contains(f64::NAN) && !interval.contains(f64::INFINITY));
        }
    }

    #[test]
    fn intervals_read_as_english() {
        assert_eq!(Interval::POSITIVE.to_string(), "a finite number above 0");
        assert_eq!(Interval::NOT_NEGATIVE.to_string(), "a finite number from 0 up");
        assert_eq!(Interval::BELOW_ONE.to_string(), "a finite number from 0 to below 1");
        assert_eq!(Interval::FINITE.to_string(), "a finite number");
        assert_eq!(Interval::POSITIVE.up_to(0.1).to_string(), "a finite number above 0 to 0.1");
    }
}
