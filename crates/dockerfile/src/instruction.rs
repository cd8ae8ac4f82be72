//! What instructions say, typed. Texts are as written, variables and all, until
//! [`Instruction::expand`] gives them values.

use std::fmt;
use std::time::Duration;

use crate::chmod::Mode;
use crate::error::{Error, ExpandError, Lines, Problem};
use crate::expand::Expander;
use crate::mount::MountFlag;

/// The instructions there are. source: Dockerfile reference, "Overview"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    pub(crate) const ALL: [Self; 18] = [
        Self::Add,
        Self::Arg,
        Self::Cmd,
        Self::Copy,
        Self::Entrypoint,
        Self::Env,
        Self::Expose,
        Self::From,
        Self::Healthcheck,
        Self::Label,
        Self::Maintainer,
        Self::Onbuild,
        Self::Run,
        Self::Shell,
        Self::StopSignal,
        Self::User,
        Self::Volume,
        Self::Workdir,
    ];

    /// In upper case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Arg => "ARG",
            Self::Cmd => "CMD",
            Self::Copy => "COPY",
            Self::Entrypoint => "ENTRYPOINT",
            Self::Env => "ENV",
            Self::Expose => "EXPOSE",
            Self::From => "FROM",
            Self::Healthcheck => "HEALTHCHECK",
            Self::Label => "LABEL",
            Self::Maintainer => "MAINTAINER",
            Self::Onbuild => "ONBUILD",
            Self::Run => "RUN",
            Self::Shell => "SHELL",
            Self::StopSignal => "STOPSIGNAL",
            Self::User => "USER",
            Self::Volume => "VOLUME",
            Self::Workdir => "WORKDIR",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|k| k.name().eq_ignore_ascii_case(word))
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something of the file and its place there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    /// The instruction's name as it is written.
    pub keyword: String,
    /// The instruction in one line, without comments and continuations: what a history and a
    /// progress line are made of.
    pub text: String,
    pub lines: Lines,
    /// The comments right above it.
    pub comments: Vec<String>,
    /// It is a trigger of the base, from `ONBUILD` there; its lines are those of `FROM`.
    pub is_trigger: bool,
}

impl<T> Located<T> {
    /// Another value in the same place.
    pub(crate) fn with<U>(&self, value: U) -> Located<U> {
        Located {
            value,
            keyword: self.keyword.clone(),
            text: self.text.clone(),
            lines: self.lines,
            comments: self.comments.clone(),
            is_trigger: self.is_trigger,
        }
    }

    /// What the comment above says of a stage or an argument: `# NAME description`.
    #[must_use]
    pub fn description(&self, name: &str) -> Option<&str> {
        self.comments
            .iter()
            .find_map(|c| c.strip_prefix(name)?.strip_prefix(' '))
    }

    pub(crate) fn error(&self, problem: impl Into<crate::Problem>) -> Error {
        Error::later(problem, self.lines)
    }
}

/// `FROM`, which begins a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// An image, a stage or `scratch`; may have variables.
    pub base: String,
    /// In lower case, whatever the file says.
    pub name: Option<String>,
    /// `--platform`; may have variables.
    pub platform: Option<String>,
    /// `AS` and the stage's name as they are written.
    pub(crate) written: Option<(String, String)>,
}

/// Everything but `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Add(Add),
    Arg(Vec<ArgPair>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(Vec<Pair>),
    /// Ports as written: see [`crate::port::exposed`].
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<Pair>),
    /// Deprecated for a label, but it still sets the image's author.
    Maintainer(String),
    Onbuild(Onbuild),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

impl Instruction {
    #[must_use]
    pub fn keyword(&self) -> Keyword {
        match self {
            Self::Add(_) => Keyword::Add,
            Self::Arg(_) => Keyword::Arg,
            Self::Cmd(_) => Keyword::Cmd,
            Self::Copy(_) => Keyword::Copy,
            Self::Entrypoint(_) => Keyword::Entrypoint,
            Self::Env(_) => Keyword::Env,
            Self::Expose(_) => Keyword::Expose,
            Self::Healthcheck(_) => Keyword::Healthcheck,
            Self::Label(_) => Keyword::Label,
            Self::Maintainer(_) => Keyword::Maintainer,
            Self::Onbuild(_) => Keyword::Onbuild,
            Self::Run(_) => Keyword::Run,
            Self::Shell(_) => Keyword::Shell,
            Self::StopSignal(_) => Keyword::StopSignal,
            Self::User(_) => Keyword::User,
            Self::Volume(_) => Keyword::Volume,
            Self::Workdir(_) => Keyword::Workdir,
        }
    }
}

impl Instruction {
    /// The same with variables replaced, where the instruction has any: `ADD`, `COPY`, `ENV`,
    /// `EXPOSE`, `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME` and `WORKDIR`. Of `RUN` only the mounts do:
    /// see [`MountFlag::mount`]. `ARG` is [`crate::Scope::arg`]'s. `CMD`, `ENTRYPOINT`, `RUN`,
    /// `SHELL`, `HEALTHCHECK` and `ONBUILD` have none of their own: a shell sees theirs.
    /// source: Dockerfile reference, "Environment replacement"
    ///
    /// # Errors
    /// What cannot be expanded.
    pub fn expand(&self, x: &mut Expander<'_>) -> Result<Self, ExpandError> {
        Ok(match self {
            Self::Add(add) => Self::Add(Add {
                files: add.files.expand(x)?,
                checksum: optional(add.checksum.as_ref(), x)?,
                ..add.clone()
            }),
            Self::Copy(copy) => Self::Copy(Copy {
                files: copy.files.expand(x)?,
                ..copy.clone()
            }),
            Self::Env(pairs) => Self::Env(expand_pairs(pairs, x)?),
            Self::Label(pairs) => Self::Label(expand_pairs(pairs, x)?),
            Self::Expose(ports) => {
                let mut words = Vec::new();
                for port in ports {
                    words.append(&mut x.words(port)?);
                }
                Self::Expose(words)
            }
            Self::StopSignal(signal) => Self::StopSignal(x.word(signal)?),
            Self::User(user) => Self::User(x.word(user)?),
            Self::Volume(paths) => Self::Volume(all(paths, x)?),
            Self::Workdir(path) => Self::Workdir(x.word(path)?),
            Self::Arg(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Run(_)
            | Self::Shell(_) => self.clone(),
        })
    }
}

fn all(texts: &[String], x: &mut Expander<'_>) -> Result<Vec<String>, ExpandError> {
    texts.iter().map(|text| x.word(text)).collect()
}

fn optional(text: Option<&String>, x: &mut Expander<'_>) -> Result<Option<String>, ExpandError> {
    Ok(match text {
        Some(text) => Some(x.word(text)?).filter(|t| !t.is_empty()),
        None => None,
    })
}

fn expand_pairs(pairs: &[Pair], x: &mut Expander<'_>) -> Result<Vec<Pair>, ExpandError> {
    pairs
        .iter()
        .map(|pair| {
            Ok(Pair {
                name: x.word(&pair.name)?,
                value: x.word(&pair.value)?,
                is_legacy: pair.is_legacy,
            })
        })
        .collect()
}

impl Located<Instruction> {
    /// As [`Instruction::expand`], in its place.
    ///
    /// # Errors
    /// What cannot be expanded, and its lines.
    pub fn expand(&self, x: &mut Expander<'_>) -> Result<Self, Error> {
        let value = self.value.expand(x).map_err(|e| self.error(e))?;
        Ok(self.with(value))
    }
}

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Shell form: for the shell of the stage, as one argument.
    Shell(String),
    /// Exec form: a JSON array.
    Exec(Vec<String>),
}

impl Command {
    /// The arguments to execute, `shell` being those of `SHELL` or the platform's.
    #[must_use]
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Shell(line) => shell.iter().cloned().chain([line.clone()]).collect(),
            Self::Exec(argv) => argv.clone(),
        }
    }
}

/// A text within the file: `<<NAME`, up to a line that is `NAME` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// The number before `<<`; 0 where there is none.
    pub descriptor: u32,
    /// Variables in it are replaced: no part of the name is quoted.
    pub expand: bool,
    /// `<<-`: tabs at the beginning of each line do not count.
    pub chomp: bool,
    /// As it is in the file.
    pub content: String,
}

impl Heredoc {
    /// The content, without the tabs that do not count.
    #[must_use]
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
    pub mounts: Vec<MountFlag>,
    pub network: Network,
    pub security: Security,
}

/// What a `RUN` executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    Exec(Vec<String>),
    /// One argument for the shell.
    Shell(String),
    /// A heredoc with `#!`: a file, executable and readable by all, that is executed itself.
    /// BuildKit puts it at `/dev/pipes/<name>`.
    File {
        name: String,
        content: String,
    },
}

impl Run {
    /// What to execute, with heredocs in it.
    #[must_use]
    pub fn script(&self) -> Script {
        let line = match &self.command {
            Command::Exec(argv) => return Script::Exec(argv.clone()),
            Command::Shell(line) => line,
        };
        let Some(first) = self.heredocs.first() else {
            return Script::Shell(line.clone());
        };
        let is_alone = matches!(crate::lines::parse_heredoc(line), Ok(Some(_)));
        if is_alone {
            let content = first.text();
            if content.starts_with("#!") {
                return Script::File {
                    name: first.name.clone(),
                    content,
                };
            }
            return Script::Shell(content);
        }
        // the shell has heredocs too: it gets them back as they were
        let mut whole = line.clone();
        for heredoc in &self.heredocs {
            whole.push('\n');
            whole.push_str(&heredoc.content);
            whole.push_str(&heredoc.name);
        }
        Script::Shell(whole)
    }
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

/// `RUN --security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    #[default]
    Sandbox,
    /// Privileged; only where the builder was allowed it.
    Insecure,
}

/// `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub files: Files,
    /// Of a source that is a URL or a git repository: `sha256:...`, or a commit.
    pub checksum: Option<String>,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether archives are unpacked: by default local ones are, fetched ones are not.
    pub unpack: Option<bool>,
}

/// `COPY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub files: Files,
    /// A stage's name or number, an image or a context; never expanded.
    pub from: Option<String>,
    /// The directories of each source are made at the destination.
    pub parents: bool,
}

/// What `ADD` and `COPY` have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    pub sources: Vec<String>,
    /// Sources within the file; they become files of their names.
    pub heredocs: Vec<Heredoc>,
    pub destination: String,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    /// A layer of its own, which does not depend on those before it.
    pub link: bool,
    /// Patterns as in `.dockerignore`; never expanded.
    pub exclude: Vec<String>,
}

impl Files {
    /// What becomes of the files' modes, once expanded.
    ///
    /// # Errors
    /// What is no mode.
    pub fn mode(&self) -> Result<Option<Mode>, Problem> {
        self.chmod.as_deref().map(Mode::parse).transpose()
    }

    fn expand(&self, x: &mut Expander<'_>) -> Result<Self, ExpandError> {
        let heredocs = self.heredocs.iter().map(|heredoc| {
            let content = heredoc.text();
            Ok(Heredoc {
                content: if heredoc.expand {
                    x.heredoc(&content)?
                } else {
                    content
                },
                chomp: false,
                expand: false,
                ..heredoc.clone()
            })
        });
        let heredocs = heredocs.collect::<Result<_, ExpandError>>()?;
        Ok(Self {
            sources: all(&self.sources, x)?,
            heredocs,
            destination: x.word(&self.destination)?,
            chown: optional(self.chown.as_ref(), x)?,
            chmod: optional(self.chmod.as_ref(), x)?,
            link: self.link,
            exclude: self.exclude.clone(),
        })
    }
}

/// A name and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub name: String,
    pub value: String,
    /// `ENV name value`, without `=`.
    pub is_legacy: bool,
}

/// A name of `ARG` and its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgPair {
    pub name: String,
    pub default: Option<String>,
}

/// `HEALTHCHECK`. Zero and no value mean Docker's default: 30 s, 30 s, 0 s, 5 s and 3 tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`: not even the base image's.
    None,
    Command {
        command: Command,
        interval: Duration,
        timeout: Duration,
        start_period: Duration,
        start_interval: Duration,
        retries: u32,
    },
}

/// `ONBUILD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The instruction with its heredocs, as the image's configuration keeps it:
    /// [`crate::parse_trigger`] reads it.
    pub trigger: String,
}
