//! Lists as Docker prints them: aligned columns, a template for each line, or JSON lines.

use serde_json::{Map, Value};

use crate::template::{Template, TemplateError};
use crate::verb::Failure;

/// A field of a list's lines: its name in templates and its heading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) field: &'static str,
    pub(crate) heading: &'static str,
}

pub(crate) const fn column(field: &'static str, heading: &'static str) -> Column {
    Column { field, heading }
}

/// One line of a list: fields to texts.
pub(crate) type Row = Map<String, Value>;

/// Makes a row of pairs.
pub(crate) fn row<const N: usize>(pairs: [(&str, String); N]) -> Row {
    pairs
        .into_iter()
        .map(|(k, v)| (k.to_owned(), Value::String(v)))
        .collect()
}

/// What `--format` asked for.
#[derive(Debug)]
pub(crate) enum Format {
    Table(String),
    Json,
    Lines(String),
}

impl Format {
    /// `default` is a list's own table, as a template without the word `table`.
    pub(crate) fn parse(
        given: Option<&str>,
        quiet: bool,
        quiet_template: &str,
        default: &str,
    ) -> Self {
        let unescape = |t: &str| {
            t.trim_matches(' ')
                .replace("\\t", "\t")
                .replace("\\n", "\n")
        };
        match given {
            Some("json") => Self::Json,
            // the list's own table, whatever its columns
            Some("table") | None if quiet => Self::Lines(quiet_template.to_owned()),
            Some("table") | None => Self::Table(default.to_owned()),
            Some(text) => match text.strip_prefix("table") {
                Some(rest) if rest.starts_with(' ') || rest.starts_with("\\t") => {
                    Self::Table(unescape(rest))
                }
                _ => Self::Lines(unescape(text)),
            },
        }
    }
}

/// A list ready to be printed.
pub(crate) struct Table<'a> {
    pub(crate) columns: &'a [Column],
    pub(crate) rows: &'a [Row],
}

impl Table<'_> {
    pub(crate) fn render(&self, format: &Format) -> Result<String, Failure> {
        match format {
            Format::Json => {
                let mut out = String::new();
                for row in self.rows {
                    out.push_str(&go_json(row));
                    out.push('\n');
                }
                Ok(out)
            }
            Format::Lines(text) => {
                let template = Template::parse(text).map_err(failure)?;
                let mut out = String::new();
                for row in self.rows {
                    out.push_str(&apply(&template, row)?);
                    out.push('\n');
                }
                Ok(out)
            }
            Format::Table(text) => {
                let template = Template::parse(text).map_err(failure)?;
                let mut lines = vec![self.headings(&template)?];
                for row in self.rows {
                    lines.push(apply(&template, row)?);
                }
                Ok(align(&lines, 10, 3))
            }
        }
    }

    fn headings(&self, template: &Template) -> Result<String, Failure> {
        let mut row = Row::new();
        for column in self.columns {
            row.insert(
                column.field.to_owned(),
                Value::String(column.heading.to_owned()),
            );
        }
        template
            .render_with(&Value::Object(row), &|_, name, args| {
                // the heading of `.Label "com.example.some-name"` is `some name`
                (name == "Label").then(|| {
                    let label = args.first().and_then(Value::as_str).unwrap_or_default();
                    let last = label.rsplit('.').next().unwrap_or_default();
                    Value::String(last.replace(['-', '_'], " "))
                })
            })
            .map_err(failure)
    }
}

/// Key under which a row keeps its labels for `.Label "x"`; not a field of its own.
pub(crate) const LABEL_MAP: &str = "\u{0}labels";

fn apply(template: &Template, row: &Row) -> Result<String, Failure> {
    let dot = Value::Object(row.clone());
    template
        .render_with(&dot, &|receiver, name, args| {
            (name == "Label").then(|| {
                receiver
                    .get(LABEL_MAP)
                    .and_then(|l| l.get(args.first()?.as_str()?))
                    .cloned()
                    .unwrap_or_else(|| Value::String(String::new()))
            })
        })
        .map_err(failure)
}

fn failure(error: TemplateError) -> Failure {
    Failure::say(error.to_string())
}

/// A row as Go's encoder writes a map: keys in order, `<`, `>` and `&` escaped.
pub(crate) fn go_json(row: &Row) -> String {
    let mut keys: Vec<&String> = row.keys().filter(|k| *k != LABEL_MAP).collect();
    keys.sort();
    let fields: Vec<String> = keys
        .iter()
        .map(|k| format!("{}:{}", Value::String((*k).clone()), row[k.as_str()]))
        .collect();
    format!("{{{}}}", fields.join(","))
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// Columns separated by tabs, aligned by spaces, as Go's tabwriter does: each at least `minimum`
/// wide, `padding` apart; what follows the last tab is left alone.
pub(crate) fn align(lines: &[String], minimum: usize, padding: usize) -> String {
    let cells: Vec<Vec<&str>> = lines
        .iter()
        .flat_map(|l| l.split('\n'))
        .map(|l| l.split('\t').collect())
        .collect();
    let columns = cells.iter().map(|c| c.len() - 1).max().unwrap_or(0);
    let width = |at: usize| {
        cells
            .iter()
            .filter(|c| c.len() > at + 1)
            .map(|c| c[at].chars().count() + padding)
            .max()
            .unwrap_or(0)
            .max(minimum)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in &cells {
        for (at, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if at + 1 < line.len() {
                let used = cell.chars().count();
                out.extend(std::iter::repeat_n(' ', widths[at].saturating_sub(used)));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[column("ID", "CONTAINER ID"), column("Names", "NAMES")];

    fn rows() -> Vec<Row> {
        let mut first = row([("ID", "abc".into()), ("Names", "a <b>".into())]);
        first.insert(LABEL_MAP.into(), serde_json::json!({"x.y-z": "1"}));
        vec![
            first,
            row([("ID", "defghijklmnopqrs".into()), ("Names", String::new())]),
        ]
    }

    fn render(format: Option<&str>) -> String {
        let rows = rows();
        let table = Table {
            columns: COLUMNS,
            rows: &rows,
        };
        let format = Format::parse(format, false, "{{.ID}}", "{{.ID}}\t{{.Names}}");
        match table.render(&format) {
            Ok(text) => text,
            Err(e) => format!("{e:?}"),
        }
    }

    #[test]
    fn tables() {
        insta::assert_snapshot!(render(None), @r"
        CONTAINER ID       NAMES
        abc                a <b>
        defghijklmnopqrs   
        ");
        insta::assert_snapshot!(render(Some(r#"table {{.Names}}\t{{.Label "x.y-z"}}"#)), @r"
        NAMES     y z
        a <b>     1
        ");
        insta::assert_snapshot!(render(Some("{{.ID}}:{{.Names}}")), @r"
        abc:a <b>
        defghijklmnopqrs:
        ");
        insta::assert_snapshot!(render(Some("json")), @r#"
        {"ID":"abc","Names":"a \u003cb\u003e"}
        {"ID":"defghijklmnopqrs","Names":""}
        "#);
        assert!(render(Some("{{.Foo}}")).contains("no entry for key"));
    }
}
