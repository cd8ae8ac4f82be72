//! Docker Engine API wire types, versions 1.24 to 1.51; no I/O.
//!
//! Field names, omission and nulls are exactly those of dockerd 28: what Go writes as `null` (a nil
//! slice or map without `omitempty`) is an `Option` without `skip_serializing_if`; what Go leaves out
//! (`omitempty`) is skipped here. Maps are ordered, as Go's encoder orders them.
//!
//! Both sides use these types. Go reads `null` as "not given" everywhere, serde does not, so bodies
//! are read by [`decode`], never by `serde_json::from_slice`.

pub mod base64;
pub mod container;
pub mod exec;
pub mod image;
pub mod network;
pub mod stats;
pub mod stream;
pub mod system;
pub mod version;
pub mod volume;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use version::{ApiVersion, ParseVersionError};

/// Go's set: a map whose values are empty objects.
pub type Set = BTreeMap<String, Empty>;
/// Labels, options and the like.
pub type StringMap = BTreeMap<String, String>;

/// `{}`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Body of every answer with a status of 400 or above.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorResponse {
    pub message: String,
}

/// `{"Id": ...}`: exec create, commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct IdResponse {
    pub id: String,
}

/// A body that is not JSON, or not of the shape asked for.
#[derive(Debug, thiserror::Error)]
#[error("the JSON is not what was expected")]
pub struct DecodeError(#[from] serde_json::Error);

/// Reads JSON as Go reads it: `null` is the same as absent, unknown fields are tolerated.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes)?;
    drop_nulls(&mut value);
    Ok(T::deserialize(value)?)
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Serde helpers for Go's conventions.
pub(crate) mod go {
    use serde::{Deserialize, Deserializer};

    /// `omitempty` of numbers, booleans, strings, slices and maps.
    pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
        *value == T::default()
    }

    /// Docker takes a string where a list of words is meant (`"Cmd": "ls"`).
    pub(crate) fn words<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Words {
            Many(Vec<String>),
            One(String),
        }
        Ok(match Option::<Words>::deserialize(d)? {
            Some(Words::Many(list)) => Some(list),
            Some(Words::One(word)) => Some(vec![word]),
            None => None,
        })
    }
}

/// The `filters` query parameter: JSON, either `{"name": ["a", "b"]}` or the older
/// `{"name": {"a": true}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, Vec<String>>);

impl Filters {
    pub fn parse(text: &str) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            List(Vec<String>),
            Set(BTreeMap<String, bool>),
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let raw: BTreeMap<String, Values> = decode(text.as_bytes())?;
        Ok(Self(
            raw.into_iter()
                .map(|(key, values)| {
                    let list = match values {
                        Values::List(list) => list,
                        Values::Set(set) => set
                            .into_iter()
                            .filter(|(_, on)| *on)
                            .map(|(v, _)| v)
                            .collect(),
                    };
                    (key, list)
                })
                .collect(),
        ))
    }

    pub fn add(&mut self, key: &str, value: &str) {
        self.0
            .entry(key.to_owned())
            .or_default()
            .push(value.to_owned());
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(Vec::is_empty)
    }

    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub fn contains(&self, key: &str) -> bool {
        !self.get(key).is_empty()
    }

    /// True where nothing is asked of `key`, else where one of its values satisfies `test`.
    pub fn any(&self, key: &str, test: impl FnMut(&String) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(test)
    }

    /// `label=k` or `label=k=v`: all must hold.
    pub fn labels_match(&self, labels: &StringMap) -> bool {
        self.all_labels("label", labels)
    }

    /// `label!=`: none may hold.
    pub fn labels_excluded(&self, labels: &StringMap) -> bool {
        self.get("label!")
            .iter()
            .any(|want| has_label(labels, want))
    }

    fn all_labels(&self, key: &str, labels: &StringMap) -> bool {
        self.get(key).iter().all(|want| has_label(labels, want))
    }

    /// A key that is not among `known`.
    pub fn unknown<'a>(&'a self, known: &[&str]) -> Option<&'a str> {
        self.0
            .keys()
            .map(String::as_str)
            .find(|key| !known.contains(key))
    }

    /// As a client writes it into the query.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_default()
    }
}

fn has_label(labels: &StringMap, want: &str) -> bool {
    match want.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(want),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_both_shapes() {
        let list = Filters::parse(r#"{"status":["running","paused"]}"#).unwrap();
        let set =
            Filters::parse(r#"{"status":{"paused":true,"running":true,"dead":false}}"#).unwrap();
        assert_eq!(list.get("status").len(), 2);
        assert_eq!(set.get("status"), ["paused", "running"]);
        assert!(Filters::parse("").unwrap().is_empty());
        assert!(Filters::parse("[1]").is_err());
    }

    #[test]
    fn labels() {
        let mut filters = Filters::default();
        filters.add("label", "a=1");
        filters.add("label", "b");
        let mut labels = StringMap::from([("a".to_owned(), "1".to_owned())]);
        assert!(!filters.labels_match(&labels));
        labels.insert("b".to_owned(), String::new());
        assert!(filters.labels_match(&labels));
    }

    #[test]
    fn nulls_are_absent() {
        let config: container::Config =
            decode(br#"{"Cmd":null,"Labels":null,"Hostname":null,"Env":["A=1"]}"#).unwrap();
        assert_eq!(config.cmd, None);
        assert_eq!(config.env, Some(vec!["A=1".to_owned()]));
    }
}
