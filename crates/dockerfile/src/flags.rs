//! Flags of instructions: `--name`, `--name=value`.

use crate::error::Problem;
use crate::suggest::near;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// May be given more than once.
    Texts,
    Boolean,
}

/// A problem of an instruction whose lines are added by who knows them.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) problem: Problem,
    pub(crate) suggestion: Option<String>,
}

impl<P: Into<Problem>> From<P> for Wrong {
    fn from(problem: P) -> Self {
        Self {
            problem: problem.into(),
            suggestion: None,
        }
    }
}

impl Wrong {
    pub(crate) fn meant(problem: impl Into<Problem>, suggestion: Option<String>) -> Self {
        Self {
            problem: problem.into(),
            suggestion,
        }
    }
}

/// The flags of one instruction, all of them known to it.
#[derive(Debug)]
pub(crate) struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    pub(crate) fn read(
        words: &[String],
        known: &'static [(&'static str, Kind)],
    ) -> Result<Self, Wrong> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for word in words {
            let word = word.strip_prefix("--").unwrap_or(word);
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let Some((name, kind)) = known.iter().copied().find(|(n, _)| *n == name) else {
                let suggestion = near(name, known.iter().map(|(n, _)| *n), true);
                return Err(Wrong::meant(
                    Problem::UnknownFlag(name.to_owned()),
                    suggestion,
                ));
            };
            if kind != Kind::Texts && given.iter().any(|(n, _)| *n == name) {
                return Err(Problem::RepeatedFlag(name.to_owned()).into());
            }
            let value = match (kind, value) {
                (Kind::Boolean, value) => boolean(name, value)?.to_owned(),
                (_, Some(value)) => value.to_owned(),
                (_, None) => return Err(Problem::FlagWithoutValue(name.to_owned()).into()),
            };
            given.push((name, value));
        }
        Ok(Self { given })
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.texts(name).next()
    }

    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = String> {
        self.given
            .iter()
            .filter(move |(n, _)| *n == name)
            .map(|(_, v)| v.clone())
    }

    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.text(name).map(|v| v == "true")
    }
}

fn boolean(flag: &str, value: Option<&str>) -> Result<&'static str, Problem> {
    match value.map(str::to_lowercase).as_deref() {
        None | Some("true") => Ok("true"),
        Some("false") => Ok("false"),
        Some("") => Err(Problem::FlagWithoutValue(flag.to_owned())),
        Some(_) => Err(Problem::FlagNotBoolean {
            flag: flag.to_owned(),
            value: value.unwrap_or_default().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(&str, Kind)] = &[
        ("from", Kind::Text),
        ("exclude", Kind::Texts),
        ("link", Kind::Boolean),
    ];

    fn read(words: &[&str]) -> Result<Flags, Wrong> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Flags::read(&words, KNOWN)
    }

    #[test]
    fn are_typed() {
        let flags = read(&["--from=a=b", "--exclude=x", "--exclude=y", "--link"]).expect("flags");
        assert_eq!(flags.text("from").as_deref(), Some("a=b"));
        assert_eq!(flags.texts("exclude").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(flags.boolean("link"), Some(true));
        assert_eq!(
            read(&["--from="]).expect("empty").text("from").as_deref(),
            Some("")
        );
        assert_eq!(
            read(&["--link=False"]).expect("no").boolean("link"),
            Some(false)
        );
        assert_eq!(read(&[]).expect("none").boolean("link"), None);
    }

    #[test]
    fn are_refused_by_name() {
        let error = |words: &[&str]| {
            let wrong = read(words).expect_err("wrong");
            (wrong.problem.to_string(), wrong.suggestion)
        };
        let is = |text: &str| (text.to_owned(), None);
        assert_eq!(
            error(&["--form=x"]),
            ("unknown flag: --form".to_owned(), Some("from".to_owned()))
        );
        assert_eq!(error(&["--zzzzzz"]), is("unknown flag: --zzzzzz"));
        assert_eq!(
            error(&["--from=a", "--from=b"]),
            is("duplicate flag specified: --from")
        );
        assert_eq!(error(&["--from"]), is("missing a value on flag: --from"));
        assert_eq!(error(&["--link="]), is("missing a value on flag: --link"));
        assert_eq!(
            error(&["--link=yes"]),
            is("expecting boolean value for flag --link, not: yes")
        );
    }
}
