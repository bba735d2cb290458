//! Fields of OpenAI's requests that this server does not do. Ignoring one would answer another question than was asked;
//! refusing its mere presence would turn away clients that send it empty.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::error::ApiError;

/// Whether a field asks for something: not null, false, 0, "" nor an empty list or object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked(pub bool);

impl Asked {
    /// Refuses the field if it asks for something.
    pub(super) fn refuse(self, name: &str, remedy: &str) -> Result<(), ApiError> {
        if self.0 { Err(ApiError::unsupported(name, remedy)) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visit).map(Asked)
    }
}

struct Visit;

impl<'de> Visitor<'de> for Visit {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<bool, E> {
        Ok(value != 0)
    }

    fn visit_u64<E>(self, value: u64) -> Result<bool, E> {
        Ok(value != 0)
    }

    fn visit_f64<E>(self, value: f64) -> Result<bool, E> {
        Ok(value != 0.0)
    }

    fn visit_str<E>(self, value: &str) -> Result<bool, E> {
        Ok(!value.is_empty())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut any = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            any = true;
        }
        Ok(any)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut any = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            any = true;
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_not_asked() {
        for nothing in ["null", "false", "0", "0.0", "-0", "\"\"", "[]", "{}"] {
            assert_eq!(serde_json::from_str::<Asked>(nothing).unwrap(), Asked(false), "{nothing}");
        }
        for thing in ["true", "1", "-0.5", "\"x\"", "[null]", "{\"a\":null}"] {
            assert_eq!(serde_json::from_str::<Asked>(thing).unwrap(), Asked(true), "{thing}");
        }
    }
}
