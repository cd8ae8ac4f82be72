//! Who speaks: what a sink is told of the container, and the tag.

use std::collections::BTreeMap;

use crate::model::ContainerRecord;

/// Which labels and variables go along with each entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) labels: Vec<String>,
    pub(super) labels_regex: Option<String>,
    pub(super) env: Vec<String>,
    pub(super) env_regex: Option<String>,
}

impl Chosen {
    /// Variables win over labels of the same name, as in Docker.
    fn from(&self, record: &ContainerRecord) -> BTreeMap<String, String> {
        let fits = |expression: &Option<String>| {
            // compiled when the container was made
            expression
                .as_deref()
                .and_then(|e| regex_lite::Regex::new(e).ok())
        };
        let (labels_regex, env_regex) = (fits(&self.labels_regex), fits(&self.env_regex));
        let mut out = BTreeMap::new();
        for (key, value) in &record.spec.labels {
            if self.labels.contains(key) || labels_regex.as_ref().is_some_and(|r| r.is_match(key)) {
                out.insert(key.clone(), value.clone());
            }
        }
        for (key, value) in record.spec.env.iter().filter_map(|e| e.split_once('=')) {
            let named = self.env.iter().any(|name| name == key);
            if named || env_regex.as_ref().is_some_and(|r| r.is_match(key)) {
                out.insert(key.to_owned(), value.to_owned());
            }
        }
        out
    }
}

/// A container as a sink knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image_id: String,
    pub(super) image: String,
    pub(super) command: String,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Those that go along.
    pub(super) attributes: BTreeMap<String, String>,
}

impl Identity {
    pub(super) fn of(record: &ContainerRecord, chosen: &Chosen) -> Self {
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            image_id: record.image_id.clone(),
            image: record.spec.image.clone(),
            command: record.argv.join(" "),
            created: record.created.clone(),
            labels: record.spec.labels.clone(),
            attributes: chosen.from(record),
        }
    }

    /// Twelve digits, as people are shown it.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    fn field(&self, field: Field) -> String {
        let image = self.image_id.strip_prefix("sha256:");
        let image = image.unwrap_or(&self.image_id);
        match field {
            Field::Id => self.short_id().to_owned(),
            Field::FullId => self.id.clone(),
            Field::Name => self.name.clone(),
            Field::ImageId => image.get(..12).unwrap_or(image).to_owned(),
            Field::ImageFullId => self.image_id.clone(),
            Field::ImageName => self.image.clone(),
            Field::Command => self.command.clone(),
            Field::DaemonName => "plimsoll".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    FullId,
    Name,
    ImageId,
    ImageFullId,
    ImageName,
    Command,
    DaemonName,
}

const FIELDS: [(&str, Field); 8] = [
    (".ID", Field::Id),
    (".FullID", Field::FullId),
    (".Name", Field::Name),
    (".ImageID", Field::ImageId),
    (".ImageFullID", Field::ImageFullId),
    (".ImageName", Field::ImageName),
    (".Command", Field::Command),
    (".DaemonName", Field::DaemonName),
];

/// The part of Go's templates that tags are made of: fields, `upper`, `lower`, `json`, a label by `index`.
///
/// source: docs.docker.com/engine/logging/log_tags
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field, Case),
    Label(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    AsIs,
    Upper,
    Lower,
    /// In quotes.
    Json,
}

impl Template {
    pub(super) fn parse(mut text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        while let Some((before, rest)) = text.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (action, after) = rest.split_once("}}").ok_or("a {{ without its }}")?;
            parts.push(action_part(action.trim())?);
            text = after;
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        Ok(Self(parts))
    }

    pub(super) fn text(&self, identity: &Identity) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out += text,
                Part::Field(field, case) => {
                    let value = identity.field(*field);
                    out += &match case {
                        Case::AsIs => value,
                        Case::Upper => value.to_uppercase(),
                        Case::Lower => value.to_lowercase(),
                        Case::Json => serde_json::Value::from(value).to_string(),
                    };
                }
                Part::Label(key) => {
                    out += identity.labels.get(key).map_or("", String::as_str);
                }
            }
        }
        out
    }
}

fn action_part(action: &str) -> Result<Part, String> {
    let names = || FIELDS.map(|(name, _)| name).join(", ");
    if let Some(rest) = action.strip_prefix("index .ContainerLabels") {
        let key = rest
            .trim()
            .strip_prefix('"')
            .and_then(|k| k.strip_suffix('"'));
        let key = key.ok_or("index .ContainerLabels takes one label in quotes")?;
        return Ok(Part::Label(key.to_owned()));
    }
    let (case, field) = match action.split_once(' ') {
        Some(("upper", rest)) => (Case::Upper, rest.trim()),
        Some(("lower", rest)) => (Case::Lower, rest.trim()),
        Some(("json", rest)) => (Case::Json, rest.trim()),
        _ => (Case::AsIs, action),
    };
    let found = FIELDS.iter().find(|(name, _)| *name == field);
    found
        .map(|(_, field)| Part::Field(*field, case))
        .ok_or_else(|| {
            format!(
                "{{{{{action}}}}} is not a field that a tag can have ({}, upper, lower, json, index .ContainerLabels)",
                names()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        let identity = Identity {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            image: "busybox:1".to_owned(),
            image_id: "sha256:fedcba9876543210".to_owned(),
            labels: [("a.b".to_owned(), "c".to_owned())].into(),
            ..Identity::default()
        };
        for (template, wanted) in [
            ("plain", "plain"),
            ("{{.ID}}", "0123456789ab"),
            (
                "{{ .ImageName }}/{{upper .Name}}/{{.FullID}}",
                "busybox:1/WEB/0123456789abcdef",
            ),
            ("{{json .Name}}", "\"web\""),
            ("{{.ImageID}}-{{.DaemonName}}", "fedcba987654-plimsoll"),
            (
                "x{{index .ContainerLabels \"a.b\"}}y{{index .ContainerLabels \"no\"}}",
                "xcy",
            ),
        ] {
            assert_eq!(
                Template::parse(template).unwrap().text(&identity),
                wanted,
                "{template}"
            );
        }
        for wrong in [
            "{{.ID",
            "{{.Id}}",
            "{{range .}}",
            "{{index .ContainerLabels a}}",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
