//! Dockerfiles: from text to a typed description of a build. Pure: nothing here reads a file, asks a
//! registry or runs anything; an executor does, step by step.
//!
//! ```text
//! text ── lines ──> instructions in one line each, with their heredocs
//!           │       directives, comments, continuations
//!         parse ──> Dockerfile: stages of typed instructions       words, flags, mount, port
//!           │
//!         plan  ──> Plan: which stages a target needs, what each is based on, the values of `FROM`
//!           │
//!        executor   per stage: Scope (ARG and ENV), Instruction::expand        expand, glob
//!
//! lint      checks of a plan, by BuildKit's rules
//! ignore    .dockerignore: which files of a context are sent
//! history   what an image says of how it was made
//! ```
//! The language is that of the front end `docker/dockerfile` 1.x. Where the reference and BuildKit
//! differ, BuildKit is followed, since files are written against it; an option that would be accepted
//! without effect is refused instead.
//! source: Dockerfile reference; BuildKit's tests of its front end, for behaviour
//!
//! ```
//! use dockerfile::{Base, Dockerfile, Instruction, Options, Platform, Scope};
//!
//! let text = "ARG V=3\nFROM alpine:$V AS base\nENV A=$V\nFROM base\nARG WHO=me\nUSER $WHO\n";
//! let file = Dockerfile::parse(text)?;
//! let linux = Platform { os: "linux".into(), arch: "amd64".into(), variant: String::new() };
//! let plan = file.plan(&Options::new(linux))?;
//! let mut scopes: Vec<Option<Scope>> = vec![None; plan.stages.len()];
//! for &index in &plan.order {
//!     let stage = &plan.stages[index];
//!     let mut scope = match &stage.base {
//!         Base::Stage(base) => scopes[*base].as_ref().expect("it was built before").inherited()?,
//!         // of an image, its environment
//!         _ => Scope::new(&plan.globals, &[])?,
//!     };
//!     for found in &stage.instructions {
//!         match found.expand(&mut scope.expander())?.value {
//!             Instruction::Arg(args) => drop(scope.arg(&args)?),
//!             Instruction::Env(pairs) => scope.env(&pairs)?,
//!             Instruction::User(user) => assert_eq!(user, "me"),
//!             other => unreachable!("{other:?}"),
//!         }
//!     }
//!     scopes[index] = Some(scope);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Files come from strangers. Reading takes time in proportion to a file's length, and no recursion
//! follows its nesting; what expansions could multiply has the limits below.

pub mod chmod;
mod duration;
pub mod error;
pub mod expand;
mod flags;
mod glob;
pub mod history;
pub mod ignore;
pub mod instruction;
mod lines;
pub mod lint;
pub mod mount;
pub mod origin;
mod parse;
mod path;
pub mod plan;
pub mod platform;
pub mod port;
pub mod scope;
mod suggest;
mod words;

pub use error::{Error, ExpandError, Lines, Problem, excerpt};
pub use expand::{Budget, Expander, Lookup, Nothing};
pub use instruction::{Instruction, Keyword, Located};
pub use lines::{Directive, Directives};
pub use plan::{Base, Options, Plan, Source, Stage};
pub use platform::Platform;
pub use scope::{Globals, Scope};

use instruction::{ArgPair, From, Heredoc};
use lines::Reader;

/// Bytes of a Dockerfile.
pub const FILE_LIMIT: usize = 4 << 20;
/// Instructions of a Dockerfile, and of all stages of a plan with the triggers of their bases.
pub const INSTRUCTION_LIMIT: usize = 10_000;
/// Substitutions within substitutions.
pub const DEPTH_LIMIT: usize = 100;
/// Bytes of one expanded text.
pub const VALUE_LIMIT: usize = 1 << 20;
/// Bytes of a stage's variables: as many as Linux gives a program at most where its stack has 8 MiB.
pub const ENVIRONMENT_LIMIT: usize = 2 << 20;
/// Bytes that the expansions of one build read and compare.
pub const WORK_LIMIT: u64 = 1 << 26;

/// Stands for a comment that is not UTF-8.
const LOST: &str = "#\u{FFFD}\n";

/// A stage as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenStage {
    pub from: Located<From>,
    pub instructions: Vec<Located<Instruction>>,
}

/// A Dockerfile, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub directives: Directives,
    /// `ARG` before the first `FROM`.
    pub globals: Vec<Located<Vec<ArgPair>>>,
    /// At least one.
    pub stages: Vec<WrittenStage>,
    /// Last lines of instructions that have an empty line within.
    pub(crate) empty_continuations: Vec<usize>,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// [`Error`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > FILE_LIMIT {
            return Err(Error::nowhere(Problem::TooLarge));
        }
        let mut reader = Reader::new(text);
        let mut file = Self {
            directives: Directives::default(),
            globals: Vec::new(),
            stages: Vec::new(),
            empty_continuations: Vec::new(),
        };
        let mut count = 0;
        while let Some((found, empty_within)) = parse::next(&mut reader)? {
            count += 1;
            if count > INSTRUCTION_LIMIT {
                return Err(Error::parse(Problem::TooManyInstructions, found.lines));
            }
            file.empty_continuations.extend(empty_within);
            file.add(found)?;
        }
        file.directives = reader.directives.clone();
        if count == 0 {
            let end = Lines::at(reader.number().max(1));
            return Err(Error::parse(Problem::Empty, end));
        }
        if file.stages.is_empty() {
            return Err(Error::nowhere(Problem::NoStage));
        }
        Ok(file)
    }

    /// Reads a Dockerfile that may have comments in another encoding than UTF-8.
    ///
    /// # Errors
    /// As [`Self::parse`]; also an instruction that is not UTF-8.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Self::parse(text);
        }
        if bytes.len() > FILE_LIMIT {
            return Err(Error::nowhere(Problem::TooLarge));
        }
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        // comments go; what else has such bytes is not what its author wrote
        let mut text = String::with_capacity(bytes.len());
        let mut lost = Vec::new();
        for (index, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            let at = Lines::at(index + 1);
            match std::str::from_utf8(line) {
                Ok(line) => text.push_str(line),
                Err(_) if line.trim_ascii_start().starts_with(b"#") => {
                    lost.push(at.first);
                    text.push_str(LOST);
                }
                Err(_) => return Err(Error::parse(Problem::NotUtf8, at)),
            }
        }
        let file = Self::parse(&text)?;
        match file.lost_within(&lost) {
            None => Ok(file),
            Some(line) => Err(Error::parse(Problem::NotUtf8, Lines::at(line))),
        }
    }

    /// The first of the lines that is no comment, but a part of a heredoc.
    fn lost_within(&self, lost: &[usize]) -> Option<usize> {
        let stages = self.stages.iter().flat_map(|stage| &stage.instructions);
        stages
            .filter(|found| {
                let has = |heredocs: &[Heredoc]| heredocs.iter().any(|h| h.content.contains(LOST));
                match &found.value {
                    Instruction::Run(run) => has(&run.heredocs),
                    Instruction::Add(add) => has(&add.files.heredocs),
                    Instruction::Copy(copy) => has(&copy.files.heredocs),
                    Instruction::Onbuild(onbuild) => onbuild.trigger.contains(LOST),
                    _ => false,
                }
            })
            .find_map(|found| lost.iter().copied().find(|l| found.lines.contains(*l)))
    }

    fn add(&mut self, found: Located<parse::Parse>) -> Result<(), Error> {
        let place = found.with(());
        match found.value {
            parse::Parse::From(from) => self.stages.push(WrittenStage {
                from: place.with(from),
                instructions: Vec::new(),
            }),
            parse::Parse::Instruction(instruction) => match (self.stages.last_mut(), instruction) {
                (Some(stage), instruction) => stage.instructions.push(place.with(instruction)),
                (None, Instruction::Arg(args)) => self.globals.push(place.with(args)),
                (None, _) => {
                    let keyword = place.keyword;
                    let problem = Problem::BeforeFrom { keyword };
                    return Err(Error::parse(problem, place.lines));
                }
            },
        }
        Ok(())
    }
}

/// Reads a trigger that an image's configuration has from `ONBUILD`.
///
/// `lines` are those of the `FROM` that brought it, since the file has no others for it.
///
/// # Errors
/// What is no instruction, more than one, or none that a trigger can be.
pub fn parse_trigger(text: &str, lines: Lines) -> Result<Located<Instruction>, Error> {
    parse::trigger(text, '\\', lines)
}
