//! Variables in the arguments of instructions: quotes, escapes and substitutions, as BuildKit's
//! shell lexer reads them. It is like a shell's, but not one: there are no commands, no arithmetic,
//! and an unset variable is empty.
//! source: Dockerfile reference, "Environment replacement"; POSIX 1003.1, "Shell Command Language" 2.6.2

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::ExpandError;
use crate::glob::Pattern;
use crate::{DEPTH_LIMIT, VALUE_LIMIT, WORK_LIMIT};

/// Where the values of variables come from.
pub trait Lookup {
    /// The value of a variable, if it is set.
    fn get(&self, name: &str) -> Option<&str>;
    /// The names that are set, for hints.
    fn names(&self) -> Vec<&str>;
}

/// No variable is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Lookup for Nothing {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// What the expansions of one build may cost together, in bytes read and compared: a value that
/// doubles with each of ten thousand lines would otherwise take hours. Clones share what is left.
#[derive(Debug, Clone)]
pub struct Budget(Arc<AtomicU64>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(WORK_LIMIT)))
    }
}

impl Budget {
    pub(crate) fn spend(&self, cost: u64) -> Result<(), ExpandError> {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(cost)
            });
        taken.map(drop).map_err(|_| ExpandError::Exhausted)
    }
}

/// How a text is read; BuildKit has a different mixture of these for each of its uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) escape: char,
    /// Quotes stay in the result.
    pub(crate) keep_quotes: bool,
    /// Escapes stay in the result.
    pub(crate) keep_escapes: bool,
    /// A quote is a character like others.
    pub(crate) plain_quotes: bool,
    /// A variable that is not set stays as it is written.
    pub(crate) keep_unset: bool,
}

impl Reading {
    pub(crate) fn word(escape: char) -> Self {
        Self {
            escape,
            keep_quotes: false,
            keep_escapes: false,
            plain_quotes: false,
            keep_unset: false,
        }
    }
}

/// Expands texts in one environment and remembers which variables they named.
#[derive(Clone)]
pub struct Expander<'a> {
    env: &'a dyn Lookup,
    escape: char,
    budget: Budget,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander")
            .field("escape", &self.escape)
            .field("used", &self.used)
            .field("unset", &self.unset)
            .finish_non_exhaustive()
    }
}

impl<'a> Expander<'a> {
    /// `escape` is the file's: `\`, unless it says otherwise.
    #[must_use]
    pub fn new(env: &'a dyn Lookup, escape: char, budget: &Budget) -> Self {
        Self {
            env,
            escape,
            budget: budget.clone(),
            used: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    /// A text whose quotes and escapes are removed and whose variables are replaced. Spaces stay.
    ///
    /// # Errors
    /// Quotes or braces that are not closed, an unknown modifier, `${NAME?}` without a value, a
    /// result beyond the limits.
    pub fn word(&mut self, text: &str) -> Result<String, ExpandError> {
        self.read(text, Reading::word(self.escape), None)
    }

    /// The same, split at spaces that are neither quoted nor escaped. Those of a variable's value
    /// split too.
    ///
    /// # Errors
    /// As [`Self::word`].
    pub fn words(&mut self, text: &str) -> Result<Vec<String>, ExpandError> {
        let mut words = Words::default();
        self.read(text, Reading::word(self.escape), Some(&mut words))?;
        Ok(words.finish())
    }

    /// The content of a heredoc: variables are replaced, quotes are characters like others. The
    /// escape is always `\`.
    ///
    /// # Errors
    /// As [`Self::word`].
    pub fn heredoc(&mut self, text: &str) -> Result<String, ExpandError> {
        let reading = Reading {
            plain_quotes: true,
            ..Reading::word('\\')
        };
        self.read(text, reading, None)
    }

    /// A text for people: what is set is replaced, all else stays, quotes too.
    ///
    /// # Errors
    /// As [`Self::word`].
    pub fn shown(&mut self, text: &str) -> Result<String, ExpandError> {
        let reading = Reading {
            keep_quotes: true,
            keep_unset: true,
            ..Reading::word(self.escape)
        };
        self.read(text, reading, None)
    }

    /// Variables that were named and are set.
    #[must_use]
    pub fn used(&self) -> &BTreeSet<String> {
        &self.used
    }

    /// Variables that were named and are not set.
    #[must_use]
    pub fn unset(&self) -> &BTreeSet<String> {
        &self.unset
    }

    fn read(
        &mut self,
        text: &str,
        reading: Reading,
        words: Option<&mut Words>,
    ) -> Result<String, ExpandError> {
        let mut lexer = Lexer {
            chars: text.chars().peekable(),
            reading,
            depth: 0,
            expander: self,
        };
        lexer
            .until(None, reading.keep_escapes, words)
            .map_err(|reason| ExpandError::Word {
                word: shortened(text),
                reason: Box::new(reason),
            })
    }
}

/// Splits a text as [`Expander::words`] does, with no variable set.
pub(crate) fn split_words(text: &str, reading: Reading) -> Result<Vec<String>, ExpandError> {
    let mut words = Words::default();
    Expander::new(&Nothing, reading.escape, &Budget::default()).read(
        text,
        reading,
        Some(&mut words),
    )?;
    Ok(words.finish())
}

/// A hostile word is not repeated in full in each message about it.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

#[derive(Debug, Default)]
struct Words {
    done: Vec<String>,
    word: String,
}

impl Words {
    fn character(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
        } else if !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

struct Lexer<'t, 'x, 'e> {
    chars: Peekable<Chars<'t>>,
    reading: Reading,
    depth: usize,
    expander: &'x mut Expander<'e>,
}

type Text = Result<String, ExpandError>;

impl Lexer<'_, '_, '_> {
    /// Reads up to `stop`, which is consumed, or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
        mut words: Option<&mut Words>,
    ) -> Text {
        let mut out = String::new();
        while let Some(&c) = self.chars.peek() {
            if Some(c) == stop {
                self.chars.next();
                return Ok(out);
            }
            let (piece, splits) = match c {
                '$' => (self.dollar()?, true),
                '\'' if !self.reading.plain_quotes => (self.single_quoted()?, false),
                '"' if !self.reading.plain_quotes => (self.double_quoted(keep_escapes)?, false),
                '<' => (self.angles(), false),
                _ => {
                    self.chars.next();
                    let escaped = c == self.reading.escape;
                    let mut piece = String::new();
                    if !escaped || keep_escapes {
                        piece.push(c);
                    }
                    if escaped {
                        // an escape at the very end stands for nothing
                        piece.extend(self.chars.next());
                    }
                    (piece, !escaped)
                }
            };
            self.append(&mut out, &piece)?;
            if let Some(words) = words.as_deref_mut() {
                if splits {
                    piece.chars().for_each(|c| words.character(c));
                } else {
                    words.word.push_str(&piece);
                }
            }
        }
        match stop {
            None => Ok(out),
            Some('/') => Err(ExpandError::MissingSlash),
            Some(_) => Err(ExpandError::MissingBrace),
        }
    }

    fn append(&self, out: &mut String, piece: &str) -> Result<(), ExpandError> {
        if out.len() + piece.len() > VALUE_LIMIT {
            return Err(ExpandError::TooLong);
        }
        out.push_str(piece);
        Ok(())
    }

    /// Everything is as it is up to the next quote, which cannot be escaped.
    fn single_quoted(&mut self) -> Text {
        let keep = self.reading.keep_quotes;
        let mut out = String::new();
        out.extend(self.chars.next().filter(|_| keep));
        loop {
            match self.chars.next() {
                None => return Err(ExpandError::Unclosed("single-quote")),
                Some('\'') => {
                    out.extend(Some('\'').filter(|_| keep));
                    return Ok(out);
                }
                Some(c) => out.push(c),
            }
        }
    }

    /// Variables are replaced; the escape takes the meaning of `"`, `$` and itself, and stays before
    /// anything else.
    fn double_quoted(&mut self, keep_escapes: bool) -> Text {
        let keep = self.reading.keep_quotes;
        let escape = self.reading.escape;
        let mut out = String::new();
        out.extend(self.chars.next().filter(|_| keep));
        loop {
            match self.chars.peek().copied() {
                None => return Err(ExpandError::Unclosed("double-quote")),
                Some('"') => {
                    out.extend(self.chars.next().filter(|_| keep));
                    return Ok(out);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.append(&mut out, &value)?;
                }
                Some(c) if c == escape => {
                    self.chars.next();
                    if keep_escapes {
                        out.push(c);
                    }
                    match self.chars.peek().copied() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == escape => {
                            out.extend(self.chars.next());
                        }
                        Some(_) => out.push(c),
                    }
                }
                Some(c) => {
                    self.chars.next();
                    out.push(c);
                }
            }
        }
    }

    /// `<<` holds on to the spaces behind it, so that `<< EOF` is one word.
    fn angles(&mut self) -> String {
        self.chars.next();
        let mut out = "<".to_owned();
        if self.chars.next_if_eq(&'<').is_some() {
            out.push('<');
            while let Some(space) = self.chars.next_if(|c| matches!(c, ' ' | '\t' | '\r')) {
                out.push(space);
            }
        }
        out
    }

    fn dollar(&mut self) -> Text {
        self.chars.next();
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name)? {
                Some(value) => value,
                None if self.reading.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        if self.depth == DEPTH_LIMIT {
            return Err(ExpandError::TooDeep);
        }
        self.depth += 1;
        let value = self.braces();
        self.depth -= 1;
        value
    }

    /// What follows `${`.
    fn braces(&mut self) -> Text {
        match self.chars.peek() {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let Some(c) = self.chars.next() else {
            return Err(ExpandError::MissingBrace);
        };
        match c {
            '}' => Ok(match self.value(&name)? {
                Some(value) => value,
                None if self.reading.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => {
                let modifier = self.chars.next().ok_or(ExpandError::MissingBrace)?;
                match modifier {
                    '-' | '+' | '?' => self.default(&name, modifier, true),
                    other => Err(ExpandError::Modifier(format!(":{other}"))),
                }
            }
            '-' | '+' | '?' => self.default(&name, c, false),
            '#' | '%' => self.trim(&name, c),
            '/' => self.replace(&name),
            other => Err(ExpandError::Modifier(other.to_string())),
        }
    }

    /// `${NAME-word}`, `+`, `?`, and these with `:`, for which an empty value is as none.
    fn default(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Text {
        let word = self.until(Some('}'), false, None)?;
        let value = self.value(name)?;
        if value.is_none() && self.reading.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let is_empty = value.as_ref().is_some_and(String::is_empty);
        let missing = value.is_none();
        let usable = value.filter(|v| !(empty_is_unset && v.is_empty()));
        match (modifier, usable) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, _) => Err(ExpandError::Required {
                name: name.to_owned(),
                message: match word {
                    word if !word.is_empty() => word,
                    _ if is_empty && !missing => "is not allowed to be empty".to_owned(),
                    _ => "is not allowed to be unset".to_owned(),
                },
            }),
        }
    }

    /// `${NAME#pattern}`, `##`, `%`, `%%`: without what matches at the beginning or at the end, the
    /// least or the most of it.
    fn trim(&mut self, name: &str, modifier: char) -> Text {
        let word = self.until(Some('}'), true, None)?;
        let value = self.value(name)?;
        if value.is_none() && self.reading.keep_unset {
            return Ok(format!("${{{name}{modifier}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (text, longest) = match word.strip_prefix(modifier) {
            Some(text) => (text, true),
            None => (word.as_str(), false),
        };
        let pattern = parse_pattern(text)?;
        let mut chars: Vec<char> = value.chars().collect();
        self.expander.budget.spend(pattern.cost(chars.len()))?;
        if modifier == '#' {
            let end = pattern.prefix(&chars, 0, longest).unwrap_or(0);
            return Ok(chars[end..].iter().collect());
        }
        chars.reverse();
        let end = pattern.reversed().prefix(&chars, 0, longest).unwrap_or(0);
        Ok(chars[end..].iter().rev().collect())
    }

    /// `${NAME/pattern/text}`, and with `//` for every match.
    fn replace(&mut self, name: &str) -> Text {
        let all = self.chars.next_if_eq(&'/').is_some();
        let text = self.until(Some('/'), true, None)?;
        let with = self.until(Some('}'), true, None)?;
        let value = self.value(name)?;
        if value.is_none() && self.reading.keep_unset {
            return Ok(format!("${{{name}/{text}/{with}}}"));
        }
        let value = value.unwrap_or_default();
        let pattern = parse_pattern(&text)?;
        let chars: Vec<char> = value.chars().collect();
        self.expander.budget.spend(pattern.cost(chars.len()))?;
        pattern
            .replace(&chars, &with, all, VALUE_LIMIT)
            .ok_or(ExpandError::TooLong)
    }

    /// A name, a positional parameter's digits, or one special parameter. Empty if none is there.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(digit) = self.chars.next_if(|c| c.is_numeric()) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.chars.next()),
            _ => {
                while let Some(c) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                }
            }
        }
        name
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, ExpandError> {
        let value = self.expander.env.get(name);
        let names = if value.is_some() {
            &mut self.expander.used
        } else {
            &mut self.expander.unset
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        let Some(value) = value else {
            return Ok(None);
        };
        self.expander.budget.spend(value.len() as u64 + 1)?;
        Ok(Some(value.to_owned()))
    }
}

fn parse_pattern(text: &str) -> Result<Pattern, ExpandError> {
    Pattern::parse(text).map_err(|escape| ExpandError::Pattern {
        pattern: shortened(text),
        escape,
    })
}
