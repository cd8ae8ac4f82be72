//! How the arguments of an instruction are split.

use serde_json::Value;

use crate::error::Problem;
use crate::instruction::{Command, Keyword, Pair};

/// What separates words where quotes have no meaning.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Splits at spaces, whatever is quoted.
pub(crate) fn fields(text: &str) -> Vec<String> {
    text.split(is_space)
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first word, and what follows the spaces behind it.
pub(crate) fn first_word(text: &str) -> (&str, Option<&str>) {
    match text.split_once(is_space) {
        Some((word, rest)) => (word, Some(rest.trim_start_matches(is_space))),
        None => (text, None),
    }
}

/// An instruction's name, its flags and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    pub(crate) keyword: &'a str,
    /// With their `--`, without quotes and escapes.
    pub(crate) flags: Vec<String>,
    pub(crate) rest: &'a str,
}

pub(crate) fn split_statement(text: &str, escape: char) -> Statement<'_> {
    let (keyword, rest) = first_word(text.trim());
    let (flags, rest) = split_flags(rest.unwrap_or_default(), escape);
    Statement {
        keyword,
        flags,
        rest: rest.trim(),
    }
}

/// The words that begin with `--`, up to the first that does not, or to `--` alone.
fn split_flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (flags, rest);
        }
        let (word, behind) = unquoted_word(rest, escape);
        rest = behind;
        if word == "--" {
            return (flags, rest);
        }
        flags.push(word);
    }
}

/// One word without its quotes and escapes, and what follows it.
fn unquoted_word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, &text[at..]),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
            _ => word.push(c),
        }
    }
    (word, "")
}

/// Splits at spaces that are neither quoted nor escaped. Quotes and escapes stay: expansion takes
/// them away.
pub(crate) fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            continue;
        }
        if c == escape && quote != Some('\'') {
            // one at the very end stands for nothing
            if let Some(next) = chars.next() {
                word.push(c);
                word.push(next);
            }
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `name=value ...`, or `name value`, which takes the rest of the line.
pub(crate) fn pairs(text: &str, keyword: Keyword, escape: char) -> Result<Vec<Pair>, Problem> {
    let name = keyword.name();
    let words = quoted_words(text, escape);
    let Some(first) = words.first() else {
        return Err(Problem::AtLeastOne { keyword: name });
    };
    if !first.contains('=') {
        let (key, value) = first_word(text);
        let value = value.ok_or(Problem::TwoArguments { keyword: name })?;
        return Ok(vec![Pair {
            name: key.to_owned(),
            value: value.to_owned(),
            is_legacy: true,
        }]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            None => Err(Problem::NoEquals(word)),
            Some(("", _)) => Err(Problem::BlankName { keyword: name }),
            Some((key, value)) => Ok(Pair {
                name: key.to_owned(),
                value: value.to_owned(),
                is_legacy: false,
            }),
        })
        .collect()
}

/// A JSON array of strings; nothing if the text is no JSON array.
///
/// # Errors
/// It is one, of other things too.
pub(crate) fn json(text: &str) -> Result<Option<Vec<String>>, Problem> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else {
        return Ok(None);
    };
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Ok(text),
            _ => Err(Problem::NotStrings),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Exec form where it is JSON, shell form otherwise.
pub(crate) fn command(text: &str) -> Result<Command, Problem> {
    Ok(match json(text)? {
        Some(argv) => Command::Exec(argv),
        None => Command::Shell(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements() {
        let split = |text| {
            let s = split_statement(text, '\\');
            (s.keyword.to_owned(), s.flags, s.rest.to_owned())
        };
        let is = |k: &str, f: &[&str], r: &str| {
            (
                k.to_owned(),
                f.iter().map(|f| (*f).to_owned()).collect(),
                r.to_owned(),
            )
        };
        assert_eq!(split("COPY  a b "), is("COPY", &[], "a b"));
        assert_eq!(
            split("copy\t--x=1 --y  a b"),
            is("copy", &["--x=1", "--y"], "a b")
        );
        assert_eq!(
            split("COPY --x=1 -- --a b"),
            is("COPY", &["--x=1"], "--a b")
        );
        assert_eq!(split("COPY -a b"), is("COPY", &[], "-a b"));
        assert_eq!(
            split("RUN --mount=type=bind,target=\"/x y\" --z='q\"' w"),
            is("RUN", &["--mount=type=bind,target=/x y", "--z=q\""], "w")
        );
        assert_eq!(split("RUN --a=b\\ c d"), is("RUN", &["--a=b c"], "d"));
        assert_eq!(split("RUN --a=ü d"), is("RUN", &["--a=ü"], "d"));
        assert_eq!(split("RUN --a"), is("RUN", &["--a"], ""));
        assert_eq!(split("RUN"), is("RUN", &[], ""));
    }

    #[test]
    fn words_keep_their_quotes() {
        let split = |text| quoted_words(text, '\\');
        assert_eq!(split("a  b"), ["a", "b"]);
        assert_eq!(split("a\\ b c"), ["a\\ b", "c"]);
        assert_eq!(split("a='b c' \"d e\"f"), ["a='b c'", "\"d e\"f"]);
        assert_eq!(split("a=\"b\\\" c\" d"), ["a=\"b\\\" c\"", "d"]);
        assert_eq!(
            split("'a\\' b"),
            ["'a\\'", "b"],
            "no escape in single quotes"
        );
        assert_eq!(split("föö bär\\"), ["föö", "bär"]);
        assert_eq!(split("\"\""), ["\"\""], "an empty word");
        assert_eq!(split(""), Vec::<String>::new());
    }

    #[test]
    fn pairs_of_both_forms() {
        let read = |text| {
            pairs(text, Keyword::Env, '\\').map(|pairs| {
                pairs
                    .into_iter()
                    .map(|p| (p.name, p.value, p.is_legacy))
                    .collect::<Vec<_>>()
            })
        };
        let is = |n: &str, v: &str, l| (n.to_owned(), v.to_owned(), l);
        assert_eq!(read("a b  c=d"), Ok(vec![is("a", "b  c=d", true)]));
        assert_eq!(
            read("a=b c='d e'"),
            Ok(vec![is("a", "b", false), is("c", "'d e'", false)])
        );
        assert_eq!(read("a="), Ok(vec![is("a", "", false)]));
        assert_eq!(read("a"), Err(Problem::TwoArguments { keyword: "ENV" }));
        assert_eq!(read(""), Err(Problem::AtLeastOne { keyword: "ENV" }));
        assert_eq!(read("a=b c"), Err(Problem::NoEquals("c".to_owned())));
        assert_eq!(read("=b"), Err(Problem::BlankName { keyword: "ENV" }));
    }

    #[test]
    fn arrays_of_strings() {
        let strings = |list: &[&str]| Ok(Some(list.iter().map(|s| (*s).to_owned()).collect()));
        assert_eq!(json("[]"), strings(&[]));
        assert_eq!(json(" [ \"a\" ,\t\"b\" ] "), strings(&["a", "b"]));
        assert_eq!(json(r#"["\u0041\n♥"]"#), strings(&["A\n♥"]));
        for text in ["", "a", "[", "['a']", "[\"a]", "[\"a\"] b", "{}"] {
            assert_eq!(json(text), Ok(None), "{text}");
        }
        for text in ["[1]", "[\"a\", null]", "[[\"a\"]]", "[true]", "[{}]"] {
            assert_eq!(json(text), Err(Problem::NotStrings), "{text}");
        }
    }
}
