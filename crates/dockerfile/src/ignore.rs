//! `.dockerignore`, and the patterns of `COPY --exclude`: which files of a tree are left out.
//!
//! Patterns are Go's `filepath.Match` with `**`; the last one that matches a path decides, and one
//! that begins with `!` takes a path back in. What matches a directory matches what is in it.
//! A walk goes from the root down and hands on what a directory's patterns said, as Docker's does:
//!
//! ```text
//! let root = ignore.root();
//! let (is_out, dir) = ignore.enter(&root, "src");       of each directory
//! ignore.excludes_in(&dir, "src/main.rs")               of each file in it
//! ignore.can_skip("src")                                nothing in it can come back in
//! ```
//! Paths are relative, with `/`, and clean: `a/b`, not `./a//b/`.
//! source: Dockerfile reference, ".dockerignore file"; Go's `path/filepath`, "Match"

use crate::error::Lines;
use crate::path::clean;

/// Bytes of an ignore file.
pub const IGNORE_LIMIT: usize = 1 << 20;

/// Why patterns cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("an ignore file of more than {IGNORE_LIMIT} bytes")]
    TooLarge,
    #[error("line {line}: illegal exclusion pattern: \"!\"")]
    Bare { line: usize },
    #[error("line {line}: syntax error in pattern {pattern:?}: {what}")]
    Syntax {
        line: usize,
        pattern: String,
        what: &'static str,
    },
}

impl IgnoreError {
    /// Where it is, for an excerpt.
    #[must_use]
    pub fn lines(&self) -> Option<Lines> {
        match self {
            Self::TooLarge => None,
            Self::Bare { line } | Self::Syntax { line, .. } => Some(Lines::at(*line)),
        }
    }
}

/// Patterns, in their order.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// What the patterns said of a directory.
#[derive(Debug, Clone)]
pub struct Dir {
    matched: Box<[bool]>,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Clean, without `!`.
    text: String,
    /// It takes back in.
    is_exception: bool,
    matcher: Matcher,
}

impl Ignore {
    /// Reads an ignore file.
    ///
    /// # Errors
    /// A pattern that is none, with its line.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        if text.len() > IGNORE_LIMIT {
            return Err(IgnoreError::TooLarge);
        }
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        let lines = text.lines().enumerate();
        Self::read(
            lines
                .filter(|(_, line)| !line.starts_with('#'))
                .map(|(index, line)| (index + 1, line)),
        )
    }

    /// Takes patterns as they are: of `COPY --exclude`. An error's line is the pattern's number.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        Self::read((1..).zip(patterns))
    }

    fn read<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Self, IgnoreError> {
        let mut patterns = Vec::new();
        for (line, text) in lines {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let (is_exception, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            if text.is_empty() {
                return Err(IgnoreError::Bare { line });
            }
            let text = normal(text);
            if text.is_empty() {
                continue;
            }
            if is_exception && text == "/" {
                return Err(IgnoreError::Bare { line });
            }
            let matcher = Matcher::compile(&text).map_err(|what| IgnoreError::Syntax {
                line,
                pattern: text.clone(),
                what,
            })?;
            patterns.push(Pattern {
                text,
                is_exception,
                matcher,
            });
        }
        Ok(Self { patterns })
    }

    /// Nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Something may be taken back in.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|p| p.is_exception)
    }

    /// Whether everything at the root is left out by one pattern.
    pub(crate) fn excludes_all(&self) -> bool {
        self.patterns
            .iter()
            .any(|p| !p.is_exception && ["*", "**", "**/*"].contains(&p.text.as_str()))
    }

    /// Where a walk begins.
    #[must_use]
    pub fn root(&self) -> Dir {
        Dir {
            matched: vec![false; self.patterns.len()].into(),
        }
    }

    /// Whether a directory is left out, and what that means for what is in it. `parent` is the
    /// directory that it is in.
    #[must_use]
    pub fn enter(&self, parent: &Dir, path: &str) -> (bool, Dir) {
        let mut dir = parent.clone();
        let is_out = self.decide(parent, path, |index| dir.matched[index] = true);
        (is_out, dir)
    }

    /// Whether a file is left out that is in the directory `parent`.
    #[must_use]
    pub fn excludes_in(&self, parent: &Dir, path: &str) -> bool {
        self.decide(parent, path, |_| {})
    }

    fn decide(&self, parent: &Dir, path: &str, mut matches: impl FnMut(usize)) -> bool {
        let mut is_out = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let matched = parent.matched[index] || {
                // one that would change nothing is not asked
                pattern.is_exception == is_out && pattern.matcher.matches(path)
            };
            if matched {
                matches(index);
                is_out = !pattern.is_exception;
            }
        }
        is_out
    }

    /// Whether a path is left out, whatever it is in.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let mut dir = self.root();
        for (at, _) in path.match_indices('/') {
            dir = self.enter(&dir, &path[..at]).1;
        }
        self.excludes_in(&dir, path)
    }

    /// Whether nothing that is in a directory which is left out can be taken back in: a walk need not
    /// go there.
    #[must_use]
    pub fn can_skip(&self, path: &str) -> bool {
        let below = format!("{path}/");
        let mut exceptions = self.patterns.iter().filter(|p| p.is_exception);
        !exceptions.any(|pattern| {
            // up to the first character that may mean others
            let wild = pattern.text.find(['*', '?', '[', '\\']);
            match wild {
                Some(end) => {
                    let literal = &pattern.text[..end];
                    literal.starts_with(&below) || below.starts_with(literal)
                }
                None => pattern.text.starts_with(&below),
            }
        })
    }
}

/// From the root of the context, which all paths are, and clean; spaces at the ends of what that
/// leaves do not count either.
fn normal(text: &str) -> String {
    let text = clean(text);
    let text = match text.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => &text,
    };
    match text.trim() {
        "" => String::new(),
        text => clean(text),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any but `/`.
    Any,
    /// `*`: any number of any but `/`.
    Star,
    /// `**/`, or `**` before something else: nothing, or anything up to a `/`.
    Deep,
    /// `**` at the end: anything.
    Rest,
    Class(Class),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    is_negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        let within = self.ranges.iter().any(|(lo, hi)| (*lo..=*hi).contains(&c));
        within != self.is_negated
    }
}

/// How a pattern is compared. All but the last are for speed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    Exact(String),
    /// `dir/**`
    Prefix(String),
    /// `**/name`: the name alone, or behind a `/`. `**name`: any end.
    Suffix(String),
    /// Part by part.
    Parts {
        parts: Vec<Part>,
        has_rest: bool,
    },
    /// Whatever else there is, such as `a**b` and `[^a]`, which may stand for a `/`.
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Any number of parts.
    Deep,
    Literal(String),
    Glob(Vec<Token>),
}

type Compiled<T> = Result<T, &'static str>;

impl Matcher {
    fn compile(pattern: &str) -> Compiled<Self> {
        let tokens = tokens(pattern)?;
        let is_plain = |tokens: &[Token]| tokens.iter().all(|t| matches!(t, Token::Char(_)));
        // an escape is not taken for the character that it stands for: see below
        let has_escape = pattern.contains('\\');
        match tokens.as_slice() {
            [Token::Rest] => return Ok(Self::Suffix(String::new())),
            plain if is_plain(plain) => return Ok(Self::Exact(text(plain))),
            [Token::Deep, plain @ ..] if is_plain(plain) && !has_escape => {
                return Ok(Self::Suffix(pattern[2..].to_owned()));
            }
            [plain @ .., Token::Rest] if is_plain(plain) && !has_escape => {
                return Ok(Self::Prefix(text(plain)));
            }
            _ => {}
        }
        Ok(match parts(&tokens) {
            Some((parts, has_rest)) => Self::Parts { parts, has_rest },
            None => Self::Tokens(tokens),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text.as_str()),
            Self::Suffix(text) => {
                path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path)
            }
            Self::Parts { parts, has_rest } => parts_match(parts, *has_rest, path),
            Self::Tokens(tokens) => tokens_match(tokens, path),
        }
    }
}

fn text(tokens: &[Token]) -> String {
    let chars = tokens.iter().filter_map(|t| match t {
        Token::Char(c) => Some(*c),
        _ => None,
    });
    chars.collect()
}

fn tokens(pattern: &str) -> Compiled<Vec<Token>> {
    let mut out = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                match chars.peek() {
                    None => Token::Rest,
                    Some(_) => Token::Deep,
                }
            }
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Char(chars.next().ok_or("nothing follows the \\ at its end")?),
            '[' => Token::Class(class(&mut chars)?),
            c => Token::Char(c),
        });
    }
    Ok(out)
}

/// What is between brackets: characters and ranges of them.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Compiled<Class> {
    const OPEN: &str = "a [ has no ]";
    let is_negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Ok(Class { is_negated, ranges });
        }
        let mut one = || match chars.next() {
            None => Err(OPEN),
            Some('-') => Err("a - between [ and ] is not part of a range: write \\-"),
            Some(']') => Err("nothing is between [ and ]"),
            Some('\\') => chars.next().ok_or(OPEN),
            Some(c) => Ok(c),
        };
        let lo = one()?;
        let hi = match chars.next_if_eq(&'-') {
            None => lo,
            Some(_) => match chars.next() {
                None => return Err(OPEN),
                Some('-' | ']') => return Err("a range has no end"),
                Some('\\') => chars.next().ok_or(OPEN)?,
                Some(c) => c,
            },
        };
        if lo > hi {
            return Err("a range ends before it begins");
        }
        ranges.push((lo, hi));
    }
}

/// The parts between slashes, and whether something must follow them. Nothing where `**` is not a
/// part by itself, or where a class has the slash.
fn parts(tokens: &[Token]) -> Option<(Vec<Part>, bool)> {
    let mut parts: Vec<Part> = Vec::new();
    let mut part: Vec<Token> = Vec::new();
    let finish = |parts: &mut Vec<Part>, part: &mut Vec<Token>| {
        let part = std::mem::take(part);
        let is_plain = part.iter().all(|t| matches!(t, Token::Char(_)));
        parts.push(if is_plain {
            Part::Literal(text(&part))
        } else {
            Part::Glob(part)
        });
    };
    let mut at_start = true;
    let mut has_rest = false;
    for token in tokens {
        match token {
            Token::Char('/') => {
                finish(&mut parts, &mut part);
                at_start = true;
                continue;
            }
            Token::Deep | Token::Rest if !at_start => return None,
            Token::Deep => {
                if parts.last() != Some(&Part::Deep) {
                    parts.push(Part::Deep);
                }
                continue;
            }
            Token::Rest => {
                has_rest = true;
                continue;
            }
            Token::Class(class) if class.contains('/') => return None,
            token => part.push(token.clone()),
        }
        at_start = false;
    }
    if !has_rest {
        finish(&mut parts, &mut part);
    }
    Some((parts, has_rest))
}

fn split_first(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    }
}

/// Since a `**` takes whole parts, only the last one seen needs to take more of them when what
/// follows does not match.
fn parts_match(parts: &[Part], has_rest: bool, path: &str) -> bool {
    let mut index = 0;
    let mut rest = Some(path);
    let mut deep: Option<(usize, &str)> = None;
    loop {
        let goes_on = match (parts.get(index), rest) {
            (None, rest) if rest.is_some() == has_rest => return true,
            (None, _) => false,
            (Some(Part::Deep), Some(path)) => {
                index += 1;
                deep = Some((index, path));
                true
            }
            (Some(part), Some(path)) => {
                let (first, behind) = split_first(path);
                let matched = match part {
                    Part::Literal(text) => first == text,
                    Part::Glob(tokens) => glob_match(tokens, first),
                    Part::Deep => true,
                };
                if matched {
                    index += 1;
                    rest = behind;
                }
                matched
            }
            (Some(_), None) => false,
        };
        if !goes_on {
            let Some((again, path)) = deep else {
                return false;
            };
            let (_, Some(behind)) = split_first(path) else {
                return false;
            };
            (index, rest, deep) = (again, Some(behind), Some((again, behind)));
        }
    }
}

/// One part; only the last star seen needs to take more when what follows does not match.
fn glob_match(tokens: &[Token], part: &str) -> bool {
    let mut index = 0;
    let mut chars = part.chars();
    let mut star: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        let goes_on = match tokens.get(index) {
            Some(Token::Star) => {
                index += 1;
                if index == tokens.len() {
                    return true;
                }
                star = Some((index, chars.clone()));
                true
            }
            Some(token) => match chars.next() {
                Some(c) if one_matches(token, c) => {
                    index += 1;
                    true
                }
                _ => false,
            },
            None => {
                if chars.as_str().is_empty() {
                    return true;
                }
                false
            }
        };
        if !goes_on {
            let Some((again, from)) = &mut star else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            index = *again;
            chars = from.clone();
        }
    }
}

fn one_matches(token: &Token, c: char) -> bool {
    match token {
        Token::Char(wanted) => *wanted == c,
        Token::Class(class) => class.contains(c),
        Token::Any => c != '/',
        Token::Star | Token::Deep | Token::Rest => false,
    }
}

/// Any pattern, by all the places at once where it may be: in time proportional to the length of the
/// path times that of the pattern.
fn tokens_match(tokens: &[Token], path: &str) -> bool {
    if let Some(Token::Char(first)) = tokens.first()
        && !path.starts_with(*first)
    {
        return false;
    }
    let count = tokens.len();
    // at a token; and within a `**` that has taken something, which only a `/` ends
    let [mut at, mut within] = [vec![false; count + 1], vec![false; count + 1]];
    let [mut next, mut next_within] = [at.clone(), within.clone()];
    let settle = |at: &mut [bool]| {
        for index in 0..count {
            let may_skip = matches!(tokens[index], Token::Star | Token::Deep | Token::Rest);
            at[index + 1] |= at[index] && may_skip;
        }
    };
    at[0] = true;
    settle(&mut at);
    for c in path.chars() {
        next.fill(false);
        next_within.fill(false);
        for (index, token) in tokens.iter().enumerate() {
            match token {
                Token::Deep if at[index] || within[index] => {
                    next_within[index] = true;
                    next[index + 1] |= c == '/';
                }
                Token::Rest => next[index] |= at[index],
                Token::Star => next[index] |= at[index] && c != '/',
                token => next[index + 1] |= at[index] && one_matches(token, c),
            }
        }
        settle(&mut next);
        std::mem::swap(&mut at, &mut next);
        std::mem::swap(&mut within, &mut next_within);
    }
    at[count]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn excludes(patterns: &[&str], path: &str) -> bool {
        Ignore::new(patterns.iter().copied())
            .unwrap_or_else(|e| panic!("{patterns:?}: {e}"))
            .excludes(path)
    }

    #[test]
    fn single_patterns() {
        let yes = [
            ("**", "file"),
            ("**", "dir/file"),
            ("**/", "dir/file"),
            ("**/**", "dir/file"),
            ("dir/**", "dir/a/b"),
            ("**/dir", "dir/file"),
            ("**/dir", "x/dir/file"),
            ("**/dir2/*", "dir/dir2/file"),
            ("**/dir2/**", "dir/dir2/dir3/file"),
            ("**file", "dir/file"),
            ("**file", "dir/myfile"),
            ("**/file*.txt", "dir/dir/file1.txt"),
            ("**/**/*.txt", "file.txt"),
            ("a**/*.txt", "a/dir/dir/file.txt"),
            ("a/*.txt**", "a/file.txt.gz"),
            ("a/*.txt", "a/file.txt"),
            ("*", "a/b/c"),
            ("dir", "dir/a/b"),
            ("/dir/", "dir/a"),
            ("./a/../b", "b/c"),
            ("a[b-d]e", "ace"),
            ("a[^b-d]e", "aze"),
            ("[a-ζ]*", "α"),
            ("a?b", "a☺b"),
            (".*", ".foo"),
            ("a\\*b", "a*b"),
            ("a\\\\", "a\\"),
            ("[\\]a]", "]"),
            ("[\\-x]", "-"),
            ("a(b)c/d+$|", "a(b)c/d+$|"),
            ("**/.foo", ".foo"),
        ];
        for (pattern, path) in yes {
            assert!(excludes(&[pattern], path), "{pattern} {path}");
        }
        let no = [
            ("dir/**", "dir"),
            ("**/**/*.txt", "dir/file.txt2"),
            ("a/*.txt", "a/dir/file.txt"),
            ("a*/b", "a/c/b"),
            ("**/file", "dir/myfile"),
            ("**/.foo", "bar.foo"),
            ("a[b-d]e", "ae"),
            ("a[^a]b", "aab"),
            ("abc.def", "abcZdef"),
            ("a?b", "a/b"),
            ("*[a-ζ]", "A"),
            ("a\\*b", "axb"),
            ("dir", "dir2"),
            ("", "a"),
            (".", "a"),
        ];
        for (pattern, path) in no {
            assert!(!excludes(&[pattern], path), "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_one_that_matches_decides() {
        assert!(!excludes(&["docs", "!docs/README.md"], "docs/README.md"));
        assert!(excludes(&["docs", "!docs/README.md"], "docs/other"));
        assert!(excludes(&["!a.go", "*.go"], "a.go"));
        assert!(!excludes(&["*.go", "!a.go"], "a.go"));
        assert!(!excludes(&["**", "!util/web"], "util/web/foo"));
        assert!(excludes(
            &["**", "!util/web", "util/web/foo"],
            "util/web/foo"
        ));
        assert!(excludes(
            &["*.md", "!README*.md", "README-secret.md"],
            "README-secret.md"
        ));
        assert!(!excludes(
            &["*.md", "README-secret.md", "!README*.md"],
            "README-secret.md"
        ));
    }

    #[test]
    fn files_are_read() {
        let text = "\u{FEFF}# comment\n/abs\n  trailing  \n\n! back \nback\r\n #x\n!/back/a\n";
        let ignore = Ignore::parse(text).expect("it reads");
        let texts: Vec<(&str, bool)> = ignore
            .patterns
            .iter()
            .map(|p| (p.text.as_str(), p.is_exception))
            .collect();
        assert_eq!(
            texts,
            [
                ("abs", false),
                ("trailing", false),
                ("back", true),
                ("back", false),
                ("#x", false),
                ("back/a", true)
            ]
        );
        assert!(ignore.excludes("abs/x"));
        assert!(ignore.excludes("back/b") && !ignore.excludes("back/a"));
        assert!(Ignore::parse("").expect("empty").is_empty());
    }

    #[test]
    fn errors_name_their_line() {
        let error = |text| Ignore::parse(text).expect_err("wrong").to_string();
        assert_eq!(
            error("a\n\n!\n"),
            "line 3: illegal exclusion pattern: \"!\""
        );
        assert_eq!(
            error("#\n[a\n"),
            "line 2: syntax error in pattern \"[a\": a [ has no ]"
        );
        for pattern in [
            "[", "[^", "[]a]", "[-x]", "[x-]", "[a-b-c]", "a\\", "[z-a]", "[a-",
        ] {
            assert!(Ignore::new([pattern]).is_err(), "{pattern}");
        }
        let large = "a\n".repeat(IGNORE_LIMIT);
        assert_eq!(Ignore::parse(&large).err(), Some(IgnoreError::TooLarge));
    }

    #[test]
    fn a_walk_skips_what_cannot_come_back() {
        let ignore = Ignore::new(["a", "b", "c", "!b/x/y", "!c*/z"]).expect("patterns");
        assert!(ignore.can_skip("a"));
        assert!(!ignore.can_skip("b"));
        assert!(!ignore.can_skip("b/x"));
        assert!(ignore.can_skip("b/q"));
        assert!(!ignore.can_skip("c"));
        assert!(!ignore.can_skip("c/q"), "a star may be anything");
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        // each of these takes a backtracking matcher for ever
        let path = format!("{}b", "a".repeat(2_000));
        let deep = format!("{}b", "a/".repeat(1_000));
        for pattern in [
            "*a".repeat(200),
            "**a".repeat(200),
            "[^b]*".repeat(100),
            "**/a*".repeat(100),
        ] {
            let pattern = format!("{pattern}x");
            assert!(!excludes(&[&pattern], &path));
            let matcher = Matcher::compile(&pattern).expect("a pattern");
            assert!(!matcher.matches(&deep));
        }
    }

    /// Go's regular expression of a pattern, matched in the obvious way.
    fn obvious(tokens: &[Token], path: &[char]) -> bool {
        let Some((token, rest)) = tokens.split_first() else {
            return path.is_empty();
        };
        let ends = 0..=path.len();
        match token {
            Token::Star => ends
                .take_while(|n| !path[..*n].contains(&'/'))
                .any(|n| obvious(rest, &path[n..])),
            Token::Rest => ends.into_iter().any(|n| obvious(rest, &path[n..])),
            Token::Deep => {
                let mut after_slash = ends.filter(|n| *n == 0 || path[n - 1] == '/');
                after_slash.any(|n| obvious(rest, &path[n..]))
            }
            token => {
                path.first().is_some_and(|c| one_matches(token, *c)) && obvious(rest, &path[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn every_way_of_matching_agrees(
            pattern in "(a|b|/|\\*|\\*\\*|\\*\\*/|\\?|\\[ab\\]|\\[\\^a\\]|\\[a-b\\]){1,7}",
            path in "[ab]{1,3}(/[ab]{1,2}){0,3}",
        ) {
            let pattern = clean(&pattern);
            let Ok(tokens) = tokens(&pattern) else { return Ok(()) };
            let matcher = Matcher::compile(&pattern).expect("it has tokens");
            let chars: Vec<char> = path.chars().collect();
            let expected = obvious(&tokens, &chars);
            prop_assert_eq!(tokens_match(&tokens, &path), expected);
            match matcher {
                // Docker's `**name` is any end, though its `**name*` is a part
                Matcher::Suffix(_) => prop_assert!(matcher.matches(&path) || !expected),
                _ => prop_assert_eq!(matcher.matches(&path), expected, "{:?}", matcher),
            }
        }

        #[test]
        fn nothing_skipped_comes_back(
            patterns in proptest::collection::vec("!?[ab*]{1,2}(/[ab*]{1,2}){0,2}", 1..5),
            dir in "[ab]{1,2}(/[ab])?",
            below in "[ab]{1,2}",
        ) {
            let ignore = Ignore::new(patterns.iter().map(String::as_str)).expect("patterns");
            if ignore.excludes(&dir) && ignore.can_skip(&dir) {
                let path = format!("{dir}/{below}");
                prop_assert!(ignore.excludes(&path), "{:?} {}", patterns, path);
            }
        }
    }
}
