//! From the lines of a file to instructions in one line each: directives, comments, continuations
//! and heredocs.
//! source: Dockerfile reference, "Format", "Parser directives", "Here-Documents"

use crate::error::{Error, ExpandError, Lines, Problem};
use crate::expand::{Reading, split_words};
use crate::instruction::Heredoc;

/// A parser directive: `# syntax=docker/dockerfile:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Up to the first space; what follows is for people.
    pub value: String,
    pub line: usize,
}

/// The parser directives, which come before everything else in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// Which front end the file asks for.
    pub syntax: Option<Directive>,
    /// What the checks skip: see [`crate::lint::Config`].
    pub check: Option<Directive>,
    /// The character that escapes, and that continues lines: `\` or `` ` ``.
    pub escape: char,
    escape_seen: bool,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            syntax: None,
            check: None,
            escape: '\\',
            escape_seen: false,
        }
    }
}

impl Directives {
    /// Whether the file can be read by this crate: it asks for no front end, or for one of
    /// `docker/dockerfile`'s versions 1.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let Some(syntax) = &self.syntax else {
            return true;
        };
        let image = syntax.value.as_str();
        let image = image.strip_prefix("docker.io/").unwrap_or(image);
        // by digest it is still the same language
        let image = image.split('@').next().unwrap_or_default();
        let Some(tag) = image.strip_prefix("docker/dockerfile") else {
            return false;
        };
        matches!(tag, "" | ":latest" | ":labs" | ":1" | ":1-labs") || tag.starts_with(":1.")
    }

    /// Takes a line for a directive, or says that it is none.
    fn take(&mut self, line: &str, number: usize) -> Result<bool, Error> {
        let Some((name, value)) = split_directive(line) else {
            return Ok(false);
        };
        let once = |is_again: bool, name: &'static str| {
            if is_again {
                return Err(Error::parse(
                    Problem::RepeatedDirective(name),
                    Lines::at(number),
                ));
            }
            Ok(())
        };
        let directive = || Directive {
            value: value.split(' ').next().unwrap_or_default().to_owned(),
            line: number,
        };
        match name.to_ascii_lowercase().as_str() {
            "syntax" => {
                once(self.syntax.is_some(), "syntax")?;
                self.syntax = Some(directive());
            }
            "check" => {
                once(self.check.is_some(), "check")?;
                self.check = Some(directive());
            }
            "escape" => {
                once(self.escape_seen, "escape")?;
                self.escape_seen = true;
                self.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        let problem = Problem::EscapeToken(other.to_owned());
                        return Err(Error::parse(problem, Lines::at(number)));
                    }
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// `name = value` after the `#`.
pub(crate) fn split_directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#')?.trim_start().split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim());
    let mut chars = name.chars();
    let fits = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric());
    (fits && !value.is_empty()).then_some((name, value))
}

/// An instruction in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logical {
    /// Without comments, continuations and what surrounds it.
    pub(crate) text: String,
    pub(crate) lines: Lines,
    /// The comments right above it.
    pub(crate) comments: Vec<String>,
    /// An empty line was between its lines.
    pub(crate) has_empty_continuation: bool,
}

/// Reads instructions one by one.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    lines: std::str::SplitInclusive<'a, char>,
    number: usize,
    pub(crate) directives: Directives,
    in_directives: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        Self {
            lines: text.split_inclusive('\n'),
            number: 0,
            directives: Directives::default(),
            in_directives: true,
        }
    }

    /// Of a trigger, which is no file: it has no directives.
    pub(crate) fn of_trigger(text: &'a str) -> Self {
        Self {
            in_directives: false,
            ..Self::new(text)
        }
    }

    fn line(&mut self) -> Option<&'a str> {
        let line = self.lines.next()?;
        self.number += 1;
        Some(line)
    }

    /// The number of the last line that was read.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn instruction(&mut self) -> Result<Option<Logical>, Error> {
        let mut comments = Vec::new();
        while let Some(line) = self.line() {
            let line = without_end(line).trim_start();
            if self.directive(line)? {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            let (piece, continues) = self.continuation(line);
            if !continues && piece.is_empty() {
                continue;
            }
            let first = self.number;
            let mut text = piece.to_owned();
            let has_empty_continuation = continues && self.rest_of(&mut text);
            return Ok(Some(Logical {
                text: text.trim().to_owned(),
                lines: Lines::new(first, self.number),
                comments,
                has_empty_continuation,
            }));
        }
        Ok(None)
    }

    fn directive(&mut self, line: &str) -> Result<bool, Error> {
        if !self.in_directives {
            return Ok(false);
        }
        // a file can be made executable
        if self.number == 1 && line.starts_with("#!") {
            return Ok(true);
        }
        self.in_directives = self.directives.take(line, self.number)?;
        Ok(self.in_directives)
    }

    /// Appends the lines that continue an instruction; tells of empty ones among them.
    fn rest_of(&mut self, text: &mut String) -> bool {
        let mut has_empty = false;
        while let Some(line) = self.line() {
            let line = without_end(line);
            let content = line.trim_start();
            if content.starts_with('#') {
                continue;
            }
            if content.is_empty() {
                has_empty = true;
                continue;
            }
            let (piece, continues) = self.continuation(line);
            text.push_str(piece);
            if !continues {
                break;
            }
        }
        has_empty
    }

    /// The line without the escape at its end, and whether there was one. An escape that is escaped
    /// itself continues nothing.
    fn continuation<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let escape = self.directives.escape;
        let trimmed = line.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(escape) {
            Some(piece) if !piece.ends_with(escape) => (piece, true),
            _ => (line, false),
        }
    }

    /// Reads the contents of the heredocs that `text` begins.
    pub(crate) fn heredocs(&mut self, text: &str, first: usize) -> Result<Vec<Heredoc>, Error> {
        let mut heredocs = Vec::new();
        let words = heredoc_words(text)
            .map_err(|error| Error::parse(error, Lines::new(first, self.number)))?;
        for word in words {
            let found = parse_heredoc(&word).map_err(|reason| {
                let problem = Problem::Heredoc {
                    word: word.clone(),
                    reason: Box::new(reason),
                };
                Error::parse(problem, Lines::new(first, self.number))
            })?;
            let Some(mut heredoc) = found else {
                continue;
            };
            loop {
                let Some(line) = self.line() else {
                    let problem = Problem::UnterminatedHeredoc(heredoc.name);
                    return Err(Error::parse(problem, Lines::new(first, self.number)));
                };
                let mut end = without_end(line);
                if heredoc.chomp {
                    end = end.trim_start_matches('\t');
                }
                if end == heredoc.name {
                    break;
                }
                heredoc.content.push_str(line);
            }
            heredocs.push(heredoc);
        }
        Ok(heredocs)
    }
}

fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

/// Words of an instruction as they are written, with quotes and escapes. A text that cannot be
/// split, since it is for a shell to read, has no heredoc.
fn heredoc_words(text: &str) -> Result<Vec<String>, ExpandError> {
    if !text.contains("<<") {
        return Ok(Vec::new());
    }
    let reading = Reading {
        keep_quotes: true,
        keep_escapes: true,
        keep_unset: true,
        ..Reading::word('\\')
    };
    match split_words(text, reading) {
        Err(error) if error.is_limit() => Err(error),
        words => Ok(words.unwrap_or_default()),
    }
}

/// `<<NAME`, `3<<-'NAME'`, with neither content nor end. Nothing if the word is no heredoc's.
///
/// # Errors
/// Quotes of the name that are not closed.
pub(crate) fn parse_heredoc(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (descriptor, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name = rest.trim_start();
    if name.is_empty() || name.contains('<') {
        return Ok(None);
    }
    let quoted = Reading {
        keep_unset: true,
        ..Reading::word('\\')
    };
    let raw = Reading {
        keep_quotes: true,
        ..quoted
    };
    let words = split_words(name, quoted)?;
    let written = split_words(name, raw)?;
    let ([name], [written]) = (words.as_slice(), written.as_slice()) else {
        return Ok(None);
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        descriptor: descriptor.parse().unwrap_or(0),
        // a quote that is gone was a quote, not a part of the name
        expand: quotes(name) == quotes(written),
        name: name.clone(),
        chomp,
        content: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(file: &str) -> Vec<String> {
        let mut reader = Reader::new(file);
        let mut out = Vec::new();
        while let Some(logical) = reader.instruction().expect("it reads") {
            out.push(logical.text);
        }
        out
    }

    #[test]
    fn continuations() {
        assert_eq!(texts("RUN a\\\n  b\\\nc"), ["RUN a  bc"]);
        assert_eq!(texts("RUN a \\  \t\nb\n"), ["RUN a b"], "spaces behind it");
        assert_eq!(texts("RUN a\\\\\nRUN b"), ["RUN a\\\\", "RUN b"]);
        assert_eq!(texts("RUN a \\\n # no\n\n  b"), ["RUN a   b"]);
        assert_eq!(texts("RUN a \\\n \\\n b \\\n\\\nc"), ["RUN a   b c"]);
        assert_eq!(texts("RUN a \\"), ["RUN a"], "at the end of the file");
        assert_eq!(
            texts("# escape=`\nRUN a `\nb \\\nRUN c"),
            ["RUN a b \\", "RUN c"]
        );
        assert_eq!(
            texts("RUN a \\\r\n  b\r\nRUN c\r\n"),
            ["RUN a   b", "RUN c"]
        );
        assert_eq!(texts("\u{FEFF}FROM a"), ["FROM a"]);
        // a comment's end continues nothing
        assert_eq!(texts("# a \\\nRUN b"), ["RUN b"]);
    }

    #[test]
    fn lines_are_counted() {
        let file = "#c\n\nFROM a\nRUN b \\\n\n c\n\n# one\n# two\nCMD x";
        let mut reader = Reader::new(file);
        let mut found = Vec::new();
        while let Some(logical) = reader.instruction().expect("it reads") {
            found.push((
                logical.lines.first,
                logical.lines.last,
                logical.has_empty_continuation,
                logical.comments.len(),
            ));
        }
        assert_eq!(
            found,
            [(3, 3, false, 1), (4, 6, true, 0), (10, 10, false, 2)]
        );
    }

    #[test]
    fn directives_come_first() {
        let read = |text| {
            let mut reader = Reader::new(text);
            reader.instruction().map(|_| reader.directives)
        };
        let directives = read("#!/usr/bin/env x\n# Syntax = a/b:1 // why\n#check=skip=all;error=true\n#escape=`\nFROM a").expect("it reads");
        let value = |d: &Option<Directive>| d.as_ref().map(|d| (d.value.clone(), d.line));
        assert_eq!(value(&directives.syntax), Some(("a/b:1".to_owned(), 2)));
        assert_eq!(
            value(&directives.check),
            Some(("skip=all;error=true".to_owned(), 3))
        );
        assert_eq!(directives.escape, '`');
        // anything else ends them
        for text in [
            "# what\n# escape=`",
            "\n# escape=`",
            "FROM a\n# escape=`",
            "#a=b\n#escape=`",
        ] {
            assert_eq!(read(text).expect("it reads").escape, '\\', "{text}");
        }
        assert!(read("# escape=x\nFROM a").is_err());
        let twice = read("# escape=`\n# escape=`\nFROM a").expect_err("twice");
        assert_eq!(
            twice.to_string(),
            "dockerfile parse error on line 2: only one escape parser directive can be used"
        );
    }

    #[test]
    fn which_front_ends_are_ours() {
        let ours = |image: &str| {
            let text = format!("# syntax={image}\nFROM a");
            let mut reader = Reader::new(&text);
            reader.instruction().expect("it reads");
            reader.directives.is_ours()
        };
        for image in [
            "docker/dockerfile:1",
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1.7-labs",
            "docker/dockerfile:1@sha256:00",
        ] {
            assert!(ours(image), "{image}");
        }
        for image in ["docker/dockerfile:2", "docker/dockerfile-upstream:1", "x"] {
            assert!(!ours(image), "{image}");
        }
    }

    fn heredoc(word: &str) -> Option<(String, bool, bool)> {
        parse_heredoc(word)
            .expect("it reads")
            .map(|h| (h.name, h.expand, h.chomp))
    }

    #[test]
    fn words_of_heredocs() {
        let is = |name: &str, expand, chomp| Some((name.to_owned(), expand, chomp));
        assert_eq!(heredoc("<<EOF"), is("EOF", true, false));
        assert_eq!(heredoc("<<-EOF"), is("EOF", true, true));
        assert_eq!(heredoc("<<'EOF'"), is("EOF", false, false));
        assert_eq!(heredoc("<<E\"O\"F"), is("EOF", false, false));
        assert_eq!(heredoc("<<eo\\'f"), is("eo'f", true, false));
        assert_eq!(heredoc("<<'one two'"), is("one two", false, false));
        assert_eq!(heredoc("<<  EOF"), is("EOF", true, false));
        assert_eq!(heredoc("<<$EOF"), is("$EOF", true, false));
        assert_eq!(heredoc("3<<EOF"), is("EOF", true, false));
        for word in ["EOF", "<EOF", "<<", "<<-", "<<<EOF", "<<EOF sh", "x<<EOF"] {
            assert_eq!(heredoc(word), None, "{word}");
        }
        assert!(parse_heredoc("<<'EOF").is_err());
    }

    #[test]
    fn contents_of_heredocs() {
        let read = |file| {
            let mut reader = Reader::new(file);
            let logical = reader.instruction().expect("it reads").expect("one");
            reader.heredocs(&logical.text, logical.lines.first)
        };
        let found = read("COPY <<a <<-b /x\n1\n# c\na\n\t2\n\tb\nRUN x").expect("it reads");
        assert_eq!(found[0].content, "1\n# c\n");
        assert_eq!(found[1].content, "\t2\n");
        assert_eq!(found[1].text(), "2\n");
        // of a file with Windows's line ends
        assert_eq!(
            read("RUN <<a\r\n1\r\na\r\n").expect("it reads")[0].content,
            "1\r\n"
        );
        assert!(read("RUN echo \"<<a\"").expect("it reads").is_empty());
        assert!(read("RUN echo '<<a").expect("it reads").is_empty());
        let error = read("RUN <<a\n1\n").expect_err("no end");
        assert_eq!(error.places, [Lines::new(1, 2)]);
    }
}
