//! What is wrong with a Dockerfile, where, and how to say it.

use std::fmt;

use crate::{DEPTH_LIMIT, FILE_LIMIT, INSTRUCTION_LIMIT, VALUE_LIMIT};

/// Lines of a file, counted from 1, the last one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    pub first: usize,
    pub last: usize,
}

impl Lines {
    #[must_use]
    pub fn new(first: usize, last: usize) -> Self {
        Self { first, last }
    }

    #[must_use]
    pub fn at(line: usize) -> Self {
        Self::new(line, line)
    }

    #[must_use]
    pub fn contains(self, line: usize) -> bool {
        (self.first..=self.last).contains(&line)
    }
}

/// What is wrong. The words are BuildKit's where it has any, since people search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the Dockerfile is larger than {FILE_LIMIT} bytes")]
    TooLarge,
    #[error("more than {INSTRUCTION_LIMIT} instructions")]
    TooManyInstructions,
    #[error("this line is not UTF-8: save the file in that encoding")]
    NotUtf8,
    #[error("file with no instructions")]
    Empty,
    #[error("dockerfile contains no stages to build: begin one with FROM")]
    NoStage,
    #[error("no build stage in current context: {keyword} comes before the first FROM")]
    BeforeFrom { keyword: String },
    #[error("only one {0} parser directive can be used")]
    RepeatedDirective(&'static str),
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    #[error("unterminated heredoc: no line is {0:?} alone")]
    UnterminatedHeredoc(String),
    #[error("invalid heredoc {word:?}: {reason}")]
    Heredoc {
        word: String,
        reason: Box<ExpandError>,
    },
    #[error("{keyword} cannot accept a heredoc as a destination")]
    HeredocDestination { keyword: &'static str },
    #[error("{keyword} takes a heredoc as one word: write <<NAME without spaces, not <<{name:?}")]
    HeredocWord { keyword: &'static str, name: String },
    #[error("heredoc {0:?} becomes a file: its name can't be a path")]
    HeredocName(String),
    #[error("{keyword} requires at least one argument")]
    AtLeastOne { keyword: &'static str },
    #[error("{keyword} requires exactly one argument")]
    ExactlyOne { keyword: &'static str },
    #[error(
        "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination { keyword: &'static str },
    #[error("{keyword} requires the arguments to be in JSON form")]
    NotJson { keyword: &'static str },
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStrings,
    #[error("{keyword} must have two arguments")]
    TwoArguments { keyword: &'static str },
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoEquals(String),
    #[error("{keyword} names can not be blank")]
    BlankName { keyword: &'static str },
    #[error("unknown flag: --{0}")]
    UnknownFlag(String),
    #[error("duplicate flag specified: --{0}")]
    RepeatedFlag(String),
    #[error("missing a value on flag: --{0}")]
    FlagWithoutValue(String),
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagNotBoolean { flag: String, value: String },
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    #[error(
        "invalid name for build stage: {0:?}, name can't start with a number or contain symbols"
    )]
    StageName(String),
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    #[error("onbuild trigger should be a single expression: {0:?}")]
    OnbuildMany(String),
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNone,
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthcheckCommand,
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthcheckType(String),
    #[error("invalid duration {value:?} for --{flag}: such as 1m30s, with ns, us, ms, s, m or h")]
    Duration { flag: &'static str, value: String },
    #[error("Interval {flag:?} cannot be less than 1ms")]
    Interval { flag: &'static str },
    #[error("--retries {0:?} is not a number from 0 to 2147483647")]
    Retries(String),
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("invalid network mode {0:?}: default, none or host")]
    Network(String),
    #[error("security {0:?} is not valid: sandbox or insecure")]
    Security(String),
    #[error(
        "invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777, or changes such as u=rwX,go=rX"
    )]
    Chmod(String),
    #[error("source {url:?}: {what}")]
    Git { url: String, what: String },
    #[error("inconsistent keep-git-dir configuration: the flag and the URL differ")]
    KeepGitDir,
    #[error("checksum mismatch {0:?} != {1:?}: the flag and the URL differ")]
    Checksums(String, String),
    #[error("checksum can't be specified for multiple sources")]
    ChecksumOfMany,
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumOfFile,
    #[error("source can't be a URL for COPY: use ADD")]
    CopyUrl,
    #[error("source can't be a git ref for COPY: use ADD")]
    CopyGit,
    #[error(transparent)]
    Mount(#[from] MountProblem),
    #[error("'{0}' doesn't support variable expansion, define alias stage instead")]
    ExpandedFrom(&'static str),
    #[error(transparent)]
    Expand(#[from] ExpandError),
    #[error(transparent)]
    Port(#[from] PortProblem),
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    #[error("empty platform value from expression {0}")]
    BlankPlatform(String),
    #[error("failed to parse platform {expression}: {reason}")]
    Platform { expression: String, reason: String },
    #[error("target stage {0:?} could not be found")]
    Target(String),
    #[error("invalid stage index {index}: there are {stages} stages, the first one is 0")]
    StageIndex { index: String, stages: usize },
    #[error("circular dependency detected on stage: {0}")]
    Circle(String),
    #[error(
        "cannot {verb} from stage {from:?}, it needs to be defined before current stage {stage:?}"
    )]
    Later {
        verb: &'static str,
        from: String,
        stage: String,
    },
    #[error(
        "invalid check option {0:?}: skip=RULE,..., experimental=RULE,... and error=true, separated by ;"
    )]
    CheckOption(String),
    #[error("lint violation found for rules: {0}")]
    Lint(String),
}

/// Why a text with variables has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    #[error("unexpected end of statement while looking for matching {0}")]
    Unclosed(&'static str),
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{escape}'")]
    Pattern { pattern: String, escape: String },
    /// `${NAME:?message}`.
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("substitutions are nested more than {DEPTH_LIMIT} deep")]
    TooDeep,
    #[error("expands to more than {VALUE_LIMIT} bytes")]
    TooLong,
    #[error("the variables of the stage take more than {0} bytes together")]
    Environment(usize),
    #[error("variables of this build are expanded too often: the work has a limit")]
    Exhausted,
    /// What was being expanded, around any of the others.
    #[error("failed to process {word:?}: {reason}")]
    Word { word: String, reason: Box<Self> },
}

impl ExpandError {
    /// The text may be right, but there is too much of it.
    pub(crate) fn is_limit(&self) -> bool {
        match self {
            Self::Word { reason, .. } => reason.is_limit(),
            Self::TooDeep | Self::TooLong | Self::Environment(_) | Self::Exhausted => true,
            _ => false,
        }
    }
}

/// What is wrong with `RUN --mount=...`. source: Dockerfile reference, "RUN --mount"
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountProblem {
    #[error("failed to parse csv mounts: {0:?}")]
    Csv(String),
    #[error("unsupported mount type {0:?}: bind, cache, tmpfs, secret or ssh")]
    Type(String),
    #[error("unexpected key '{key}' in '{field}'")]
    Key { key: String, field: String },
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    KeyOfOther { key: String, kind: &'static str },
    #[error("invalid field '{0}' must be a key=value pair")]
    NoValue(String),
    #[error("invalid value for {key}: {value}")]
    Value { key: String, value: String },
    #[error("unsupported sharing value {0:?}: shared, private or locked")]
    Sharing(String),
    #[error("invalid secret mount. one of id, target required")]
    SecretWithoutName,
    #[error("both source and id can't be set")]
    SourceAndId,
    #[error("invalid mount target {0:?}")]
    Target(String),
}

/// What is wrong with a port of `EXPOSE`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortProblem {
    #[error("invalid port: {0:?}: no port specified")]
    Missing(String),
    #[error("invalid port: {port:?}: invalid proto: {protocol}")]
    Protocol { port: String, protocol: String },
    #[error("invalid containerPort: {0}: a number from 0 to 65535, or a range such as 8000-8010")]
    Container(String),
    #[error("invalid hostPort: {0}: a number from 0 to 65535, or a range such as 8000-8010")]
    Host(String),
    #[error("invalid IP address: {0}")]
    Address(String),
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    Ranges { container: String, host: String },
    #[error("EXPOSE names more than {0} ports")]
    TooMany(usize),
}

/// Whether an error is of the text alone, which BuildKit says in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Parse,
    Later,
}

/// A problem and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub problem: Problem,
    /// The lines at fault; more than one range where several instructions are, as in a circle.
    pub places: Vec<Lines>,
    /// What was probably meant.
    pub suggestion: Option<String>,
    phase: Phase,
}

impl std::error::Error for Error {}

/// As BuildKit prints it: `dockerfile parse error on line 3: unknown instruction: FORM (did you
/// mean FROM?)`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Phase::Parse, Some(place)) = (self.phase, self.places.first()) {
            write!(f, "dockerfile parse error on line {}: ", place.first)?;
        }
        write!(f, "{}", self.problem)?;
        if let Some(meant) = &self.suggestion {
            write!(f, " (did you mean {meant}?)")?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn parse(problem: impl Into<Problem>, lines: Lines) -> Self {
        Self {
            problem: problem.into(),
            places: vec![lines],
            suggestion: None,
            phase: Phase::Parse,
        }
    }

    pub(crate) fn later(problem: impl Into<Problem>, lines: Lines) -> Self {
        Self {
            phase: Phase::Later,
            ..Self::parse(problem, lines)
        }
    }

    /// Of the whole file, or of what the caller asked for.
    pub(crate) fn nowhere(problem: impl Into<Problem>) -> Self {
        Self {
            problem: problem.into(),
            places: Vec::new(),
            suggestion: None,
            phase: Phase::Later,
        }
    }

    pub(crate) fn over(mut self, places: Vec<Lines>) -> Self {
        self.places = places;
        self
    }

    pub(crate) fn meant(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    /// The excerpt of the file around this error, marked: see [`excerpt`]. Empty for an error
    /// without a place.
    #[must_use]
    pub fn excerpt(&self, name: &str, text: &str) -> String {
        excerpt(name, text, &self.places)
    }
}

/// An instruction's lines beyond this many are left out of an excerpt.
const EXCERPT_LINES: usize = 40;
/// Of a longer line only the beginning is shown.
const EXCERPT_COLUMNS: usize = 200;

/// The lines of a file around `places`, in the manner of BuildKit:
///
/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM alpine
///    2 | >>> RUM echo
///    3 |     CMD true
/// --------------------
/// ```
/// Empty where there is no place, or none within the file.
#[must_use]
pub fn excerpt(name: &str, text: &str, places: &[Lines]) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let (Some(first), Some(last)) = (
        places.iter().map(|p| p.first).min(),
        places.iter().map(|p| p.last).max(),
    ) else {
        return String::new();
    };
    if first == 0 || first > lines.len() {
        return String::new();
    }
    let last = last.clamp(first, lines.len());
    let around = if first == last { 4 } else { 2 };
    let (mut from, mut to, mut added) = (first, last, 0);
    while added < around {
        if from > 1 {
            from -= 1;
            added += 1;
        }
        if to < lines.len() {
            to += 1;
            added += 1;
        }
        added += 1;
    }
    let rule = "-".repeat(20);
    let mut out = format!("{name}:{first}\n{rule}\n");
    let left_out = (to - from + 1).saturating_sub(EXCERPT_LINES);
    for number in from..=(to - left_out) {
        let marked = places.iter().any(|p| p.contains(number));
        let mark = if marked { ">>>" } else { "   " };
        let line = lines[number - 1].trim_end_matches('\r');
        let (line, more) = match line.char_indices().nth(EXCERPT_COLUMNS) {
            Some((cut, _)) => (&line[..cut], "..."),
            None => (line, ""),
        };
        out.push_str(&format!(" {number:3} | {mark} {line}{more}\n"));
    }
    if left_out > 0 {
        out.push_str(&format!("     | ... {left_out} lines more\n"));
    }
    out.push_str(&rule);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "one\ntwo\nthree\nfour\nfive\nsix\r\nseven\n";

    #[test]
    fn an_excerpt_shows_what_is_around() {
        let at = |first, last| excerpt("Dockerfile", FILE, &[Lines::new(first, last)]);
        insta::assert_snapshot!(at(4, 4), @r"
        Dockerfile:4
        --------------------
           2 |     two
           3 |     three
           4 | >>> four
           5 |     five
           6 |     six
        --------------------
        ");
        insta::assert_snapshot!(at(2, 3), @r"
        Dockerfile:2
        --------------------
           1 |     one
           2 | >>> two
           3 | >>> three
           4 |     four
        --------------------
        ");
        assert!(at(1, 1).contains("   1 | >>> one\n   2 |     two\n"));
        assert!(at(7, 7).contains("   7 | >>> seven\n"));
        assert_eq!(at(9, 9), "", "outside the file");
        assert_eq!(excerpt("x", FILE, &[]), "");
    }

    #[test]
    fn an_excerpt_is_bounded() {
        let long = "x".repeat(1 << 20);
        assert!(excerpt("x", &long, &[Lines::at(1)]).len() < 300);
        let tall = "RUN \\\n".repeat(10_000);
        let text = excerpt("x", &tall, &[Lines::new(1, 10_000)]);
        assert!(text.lines().count() < 50, "{text}");
        assert!(text.contains("9961 lines more"), "{text}");
    }
}
