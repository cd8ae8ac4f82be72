//! Build checks: what builds but is probably not meant. Names, words and cases are those of
//! BuildKit's rules, so that `# check=skip=...` means the same.
//! source: <https://docs.docker.com/reference/build-checks/>

use std::collections::BTreeSet;
use std::fmt;

use crate::error::{Error, Lines, Problem};
use crate::ignore::Ignore;
use crate::instruction::{Command, From, Instruction, Keyword, Located, Pair};
use crate::lines::split_directive;
use crate::mount::go_bool;
use crate::origin::Origin;
use crate::path::clean;
use crate::plan::{Base, Options, Plan};
use crate::platform::Platform;
use crate::scope::{Globals, Scope};
use crate::suggest::near;
use crate::{Dockerfile, ExpandError, Lookup, port};

/// Warnings of one report: what comes after so many is left out.
pub const WARNING_LIMIT: usize = 500;

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JsonArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// As `# check=skip=` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// What the rule asks for.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => "Stage names should be lowercase",
            Self::FromAsCasing => "The 'as' keyword should match the case of the 'from' keyword",
            Self::NoEmptyContinuation => {
                "Empty continuation lines will become errors in a future release"
            }
            Self::ConsistentInstructionCasing => {
                "All commands within the Dockerfile should use the same casing (either upper or lower)"
            }
            Self::DuplicateStageName => "Stage names should be unique",
            Self::ReservedStageName => "Reserved words should not be used as stage names",
            Self::JsonArgsRecommended => {
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
            }
            Self::MaintainerDeprecated => {
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
            }
            Self::UndefinedArgInFrom => "FROM command must use declared ARGs",
            Self::WorkdirRelativePath => {
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes"
            }
            Self::UndefinedVar => "Variables should be defined before their use",
            Self::MultipleInstructionsDisallowed => {
                "Multiple instructions of the same type should not be used in the same stage"
            }
            Self::LegacyKeyValueFormat => {
                "Legacy key/value format with whitespace separator should not be used"
            }
            Self::InvalidBaseImagePlatform => {
                "Base image platform does not match expected target platform"
            }
            Self::RedundantTargetPlatform => {
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
            }
            Self::SecretsUsedInArgOrEnv => {
                "Sensitive data should not be used in the ARG or ENV commands"
            }
            Self::InvalidDefaultArgInFrom => {
                "Default value for global ARG results in an empty or invalid base image name"
            }
            Self::FromPlatformFlagConstDisallowed => {
                "FROM --platform flag should not use a constant value"
            }
            Self::CopyIgnoredFile => "Attempting to Copy file that is excluded by .dockerignore",
            Self::InvalidDefinitionDescription => {
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment."
            }
            Self::ExposeProtoCasing => "Protocol in EXPOSE instruction should be lowercase",
            Self::ExposeInvalidFormat => {
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release"
            }
        }
    }

    /// Where the rule is explained; there is no page of a base image's platform.
    #[must_use]
    pub fn url(self) -> Option<String> {
        if self == Self::InvalidBaseImagePlatform {
            return None;
        }
        let mut page = String::new();
        let name = self.name().replace("JSON", "Json");
        for c in name.chars() {
            if c.is_ascii_uppercase() && !page.is_empty() {
                page.push('-');
            }
            page.push(c.to_ascii_lowercase());
        }
        Some(format!(
            "https://docs.docker.com/go/dockerfile/rule/{page}/"
        ))
    }

    /// Runs only where it is asked for by `experimental=`.
    #[must_use]
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which checks run: `skip=RULE,...`, `experimental=RULE,...`, both with `all`, and `error=true`,
/// which makes a build fail by them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    skip: BTreeSet<String>,
    experimental: BTreeSet<String>,
    pub error: bool,
}

impl Config {
    /// The value of the directive `check`, or of the build argument `BUILDKIT_DOCKERFILE_CHECK`.
    ///
    /// # Errors
    /// The option that is none.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut config = Self::default();
        if text.trim().is_empty() {
            return Ok(config);
        }
        let names = |value: &str| value.split(',').map(|n| n.trim().to_owned()).collect();
        for option in text.trim().splitn(3, ';') {
            let wrong = || Problem::CheckOption(option.to_owned());
            let (key, value) = option.split_once('=').ok_or_else(wrong)?;
            match key.trim() {
                "skip" => config.skip = names(value),
                "experimental" => config.experimental = names(value),
                "error" => config.error = go_bool(value.trim()).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            }
        }
        Ok(config)
    }

    fn runs(&self, rule: Rule) -> bool {
        let has = |set: &BTreeSet<String>| set.contains("all") || set.contains(rule.name());
        if rule.is_experimental() {
            has(&self.experimental)
        } else {
            !has(&self.skip)
        }
    }

    /// With what the comments above an instruction say: `# check=skip=RULE`.
    fn with_comments(&self, comments: &[String]) -> Self {
        let mut merged = self.clone();
        let directive = comments.iter().find_map(|comment| {
            let line = format!("#{comment}");
            let (name, value) = split_directive(&line)?;
            let value = value.split(' ').next().unwrap_or_default();
            name.eq_ignore_ascii_case("check")
                .then(|| Self::parse(value))
        });
        if let Some(Ok(own)) = directive {
            merged.skip.extend(own.skip);
            merged.experimental.extend(own.experimental);
        }
        merged
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    pub rule: Rule,
    pub message: String,
    pub lines: Lines,
}

/// `StageNameCasing: Stage name 'X' should be lowercase (line 2)`.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (line {})",
            self.rule, self.message, self.lines.first
        )
    }
}

/// What the checks found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// By line.
    pub warnings: Vec<Warning>,
    /// Why the file cannot be built: what comes after it was not checked.
    pub error: Option<Error>,
    fails: bool,
}

impl Report {
    /// The error of a build whose checks are to make it fail, and found something.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        if !self.fails || self.warnings.is_empty() {
            return None;
        }
        let rules: BTreeSet<&str> = self.warnings.iter().map(|w| w.rule.name()).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        let places = self.warnings.iter().map(|w| w.lines).collect();
        Some(Error::nowhere(Problem::Lint(rules.join(", "))).over(places))
    }
}

/// What is known of a base image.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub environment: Vec<(String, String)>,
    /// It has a `SHELL` of its own.
    pub has_shell: bool,
    pub platform: Option<Platform>,
}

/// What the checks know beside the file.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The image that a stage's base names, by the stage's number. Without it, variables that
    /// nothing in the file sets are not complained of.
    pub image: &'a dyn Fn(usize) -> Option<Image>,
    /// The context's `.dockerignore`.
    pub ignore: Option<&'a Ignore>,
    /// Stages that the target does not need are checked too.
    pub all_stages: bool,
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts")
            .field("ignore", &self.ignore)
            .field("all_stages", &self.all_stages)
            .finish_non_exhaustive()
    }
}

/// Checks a file as a build with `options` would read it.
#[must_use]
pub fn check(file: &Dockerfile, options: &Options, facts: Facts<'_>) -> Report {
    let directive = file.directives.check.as_ref();
    let given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    let text = given.or(directive.map(|d| &d.value));
    let config = match Config::parse(text.map_or("", String::as_str)) {
        Ok(config) => config,
        Err(problem) => {
            let error = match (given, directive) {
                (None, Some(directive)) => Error::later(problem, Lines::at(directive.line)),
                _ => Error::nowhere(problem),
            };
            return Report {
                error: Some(error),
                ..Report::default()
            };
        }
    };
    let mut checker = Checker {
        config,
        warnings: Vec::new(),
    };
    checker.text(file);
    let error = checker
        .bases(file, options)
        .and_then(|()| file.plan(options))
        .and_then(|plan| Walk::new(&plan, facts, &mut checker).stages())
        .err();
    checker.warnings.sort_by_key(|w| w.lines.first);
    Report {
        warnings: checker.warnings,
        error,
        fails: checker.config.error,
    }
}

struct Checker {
    config: Config,
    warnings: Vec<Warning>,
}

impl Checker {
    fn warn<T>(&mut self, at: &Located<T>, rule: Rule, message: impl FnOnce() -> String) {
        self.warn_at(&at.comments, at.lines, rule, message);
    }

    fn warn_at(
        &mut self,
        comments: &[String],
        lines: Lines,
        rule: Rule,
        message: impl FnOnce() -> String,
    ) {
        if self.warnings.len() == WARNING_LIMIT {
            return;
        }
        let runs = if comments.is_empty() {
            self.config.runs(rule)
        } else {
            self.config.with_comments(comments).runs(rule)
        };
        if runs {
            self.warnings.push(Warning {
                rule,
                message: message(),
                lines,
            });
        }
    }

    /// What the text alone shows.
    fn text(&mut self, file: &Dockerfile) {
        for line in &file.empty_continuations {
            let message = || "Empty continuation line".to_owned();
            self.warn_at(&[], Lines::at(*line), Rule::NoEmptyContinuation, message);
        }
        for args in &file.globals {
            let names = args.value.iter().map(|a| a.name.as_str()).collect();
            self.description(args, Keyword::Arg, names);
        }
        let mut seen = BTreeSet::new();
        for stage in &file.stages {
            self.from(&stage.from, &mut seen);
            for found in &stage.instructions {
                match &found.value {
                    Instruction::Maintainer(_) => {
                        self.warn(found, Rule::MaintainerDeprecated, || {
                            "Maintainer instruction is deprecated in favor of using label".into()
                        });
                    }
                    Instruction::Arg(args) => {
                        let names = args.iter().map(|a| a.name.as_str()).collect();
                        self.description(found, Keyword::Arg, names);
                    }
                    _ => {}
                }
            }
        }
        self.casing(file);
    }

    fn from<'f>(&mut self, from: &'f Located<From>, seen: &mut BTreeSet<&'f str>) {
        if let Some((keyword, name)) = &from.value.written {
            if *name != name.to_lowercase() {
                self.warn(from, Rule::StageNameCasing, || {
                    format!("Stage name '{name}' should be lowercase")
                });
            }
            // of a FROM in neither case another rule complains
            let matches = match case(&from.keyword) {
                Some(Case::Lower) => *keyword == keyword.to_lowercase(),
                Some(Case::Upper) => *keyword == keyword.to_uppercase(),
                None => true,
            };
            if !matches {
                self.warn(from, Rule::FromAsCasing, || {
                    format!(
                        "'{keyword}' and '{}' keywords' casing do not match",
                        from.keyword
                    )
                });
            }
        }
        let Some(name) = &from.value.name else {
            return;
        };
        self.description(from, Keyword::From, vec![name]);
        if name == "scratch" || name == "context" {
            self.warn(from, Rule::ReservedStageName, || {
                format!("Stage name should not use the same name as reserved stage {name:?}")
            });
        }
        if !seen.insert(name) {
            self.warn(from, Rule::DuplicateStageName, || {
                format!("Duplicate stage name {name:?}, stage names should be unique")
            });
        }
    }

    fn description<T>(&mut self, at: &Located<T>, keyword: Keyword, names: Vec<&str>) {
        let (Some(last), Some(first)) = (at.comments.last(), names.first()) else {
            return;
        };
        let word = last.split(' ').next().unwrap_or_default();
        if names.contains(&word) {
            return;
        }
        let example = if names.len() > 1 { "<arg_key>" } else { first };
        self.warn(at, Rule::InvalidDefinitionDescription, || {
            format!("Comment for {keyword} should follow the format: `# {example} <description>`")
        });
    }

    /// All names in the case of most of them.
    fn casing(&mut self, file: &Dockerfile) {
        let all = || {
            file.stages.iter().flat_map(|stage| {
                let from = (&stage.from.keyword, stage.from.lines, &stage.from.comments);
                let own = stage.instructions.iter();
                [from]
                    .into_iter()
                    .chain(own.map(|found| (&found.keyword, found.lines, &found.comments)))
            })
        };
        let count = |wanted: Case| all().filter(|(k, ..)| case(k) == Some(wanted)).count();
        let is_lower = count(Case::Lower) > count(Case::Upper);
        for (name, lines, comments) in all() {
            let (right, is_right) = if is_lower {
                ("lowercase", *name == name.to_lowercase())
            } else {
                ("uppercase", *name == name.to_uppercase())
            };
            if !is_right {
                let message = || {
                    format!(
                        "Command '{name}' should match the case of the command majority ({right})"
                    )
                };
                self.warn_at(comments, lines, Rule::ConsistentInstructionCasing, message);
            }
        }
    }

    /// What `FROM` names.
    fn bases(&mut self, file: &Dockerfile, options: &Options) -> Result<(), Error> {
        let target = options.target.clone().unwrap_or_default();
        let escape = file.directives.escape;
        let mut globals = Globals::new(options, &target, escape).map_err(Error::nowhere)?;
        let mut defaults = globals.clone().without_build_args();
        let defaults_work = file
            .globals
            .iter()
            .all(|args| defaults.declare(args).is_ok());
        for args in &file.globals {
            globals.declare(args)?;
        }
        for stage in &file.stages {
            let from = &stage.from;
            let name = defaults.expander().word(&from.value.base);
            if defaults_work && name.is_ok_and(|name| !is_image_name(&name)) {
                self.warn(from, Rule::InvalidDefaultArgInFrom, || {
                    let base = &from.value.base;
                    format!(
                        "Default value for ARG {base} results in empty or invalid base image name"
                    )
                });
            }
            let mut x = globals.expander();
            x.word(&from.value.base).map_err(|e| from.error(e))?;
            self.undefined(from, &globals, x.unset());
            if let Some(written) = &from.value.platform {
                self.platform_of(from, written, &globals)?;
            }
        }
        Ok(())
    }

    fn undefined(&mut self, from: &Located<From>, globals: &Globals, unset: &BTreeSet<String>) {
        let known = globals.known();
        for name in unset.iter().filter(|name| !known.contains(name.as_str())) {
            self.warn(from, Rule::UndefinedArgInFrom, || {
                let meant = near(name, known.iter().copied(), true)
                    .map(|meant| format!(" (did you mean {meant}?)"));
                let meant = meant.unwrap_or_default();
                format!("FROM argument '{name}' is not declared{meant}")
            });
        }
    }

    fn platform_of(
        &mut self,
        from: &Located<From>,
        written: &str,
        globals: &Globals,
    ) -> Result<(), Error> {
        let mut x = globals.expander();
        let text = x.word(written).map_err(|e| from.error(e))?;
        self.undefined(from, globals, x.unset());
        if x.unset().is_empty()
            && x.used().iter().eq(["TARGETPLATFORM"])
            && globals.get("TARGETPLATFORM") == Some(&text)
        {
            self.warn(from, Rule::RedundantTargetPlatform, || {
                format!(
                    "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
                )
            });
        }
        let is_constant = x.used().is_empty() && x.unset().is_empty();
        let default = Platform {
            os: "linux".into(),
            arch: "amd64".into(),
            variant: String::new(),
        };
        if let (true, Ok(platform)) = (is_constant, Platform::parse(&text, &default)) {
            // a stage may be for one platform, and say so
            let name = from.value.name.as_deref().unwrap_or_default();
            if !name.contains(&platform.os) && !name.contains(&platform.arch) {
                self.warn(from, Rule::FromPlatformFlagConstDisallowed, || {
                    format!("FROM --platform flag should not use constant value {text:?}")
                });
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

fn case(word: &str) -> Option<Case> {
    if word == word.to_lowercase() {
        Some(Case::Lower)
    } else if word == word.to_uppercase() {
        Some(Case::Upper)
    } else {
        None
    }
}

/// What a stage is like at its end, for those based on it.
#[derive(Clone)]
struct State {
    scope: Scope,
    /// Every variable that may be set is known.
    is_known: bool,
    has_shell: bool,
    has_workdir: bool,
}

/// Follows the stages as an executor does.
struct Walk<'a> {
    plan: &'a Plan,
    facts: Facts<'a>,
    checker: &'a mut Checker,
    states: Vec<Option<State>>,
}

impl<'a> Walk<'a> {
    fn new(plan: &'a Plan, facts: Facts<'a>, checker: &'a mut Checker) -> Self {
        Self {
            plan,
            facts,
            checker,
            states: vec![None; plan.stages.len()],
        }
    }

    fn stages(mut self) -> Result<(), Error> {
        let all: Vec<usize> = if self.facts.all_stages {
            (0..self.plan.stages.len()).collect()
        } else {
            self.plan.order.clone()
        };
        for index in all {
            let state = self.stage(index)?;
            self.states[index] = Some(state);
        }
        Ok(())
    }

    fn begin(&mut self, index: usize) -> Result<State, Error> {
        let stage = &self.plan.stages[index];
        let image = match &stage.base {
            Base::Stage(base) => {
                if let Some(state) = &self.states[*base] {
                    let scope = state.scope.inherited().map_err(|e| stage.from.error(e))?;
                    return Ok(State {
                        scope,
                        ..state.clone()
                    });
                }
                None
            }
            Base::Scratch => Some(Image::default()),
            Base::Image(name) => {
                let image = (self.facts.image)(index);
                if let Some(actual) = image.as_ref().and_then(|i| i.platform.as_ref()) {
                    self.base_platform(index, name, actual);
                }
                image
            }
            Base::Context(_) => (self.facts.image)(index),
        };
        let is_known = image.is_some();
        let image = image.unwrap_or_default();
        let scope = Scope::new(&self.plan.globals, &image.environment);
        Ok(State {
            scope: scope.map_err(|e| stage.from.error(e))?,
            is_known,
            has_shell: image.has_shell,
            has_workdir: false,
        })
    }

    fn base_platform(&mut self, index: usize, name: &str, actual: &Platform) {
        let stage = &self.plan.stages[index];
        let asked = self.plan.globals.get("TARGETPLATFORM").unwrap_or_default();
        let expected = stage
            .platform
            .clone()
            .or_else(|| Platform::parse(asked, actual).ok());
        let Some(expected) = expected else {
            return;
        };
        if (&expected.os, &expected.arch) != (&actual.os, &actual.arch) {
            self.checker
                .warn(&stage.from, Rule::InvalidBaseImagePlatform, || {
                    format!(
                        "Base image {name} was pulled with platform \"{actual}\", expected \"{expected}\" for current build"
                    )
                });
        }
    }

    fn stage(&mut self, index: usize) -> Result<State, Error> {
        let mut state = self.begin(index)?;
        let plan = self.plan;
        let mut last: [Option<&Located<Instruction>>; 3] = [None; 3];
        for found in &plan.stages[index].instructions {
            let only_one = match found.value {
                Instruction::Cmd(_) => Some(0),
                Instruction::Entrypoint(_) => Some(1),
                Instruction::Healthcheck(_) => Some(2),
                _ => None,
            };
            if let Some(kind) = only_one
                && let Some(before) = last[kind].replace(found)
            {
                // at the earlier one, which has no effect, with what is said of the later one
                let name = &found.keyword;
                let message = || {
                    format!(
                        "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
                    )
                };
                let rule = Rule::MultipleInstructionsDisallowed;
                self.checker
                    .warn_at(&found.comments, before.lines, rule, message);
            }
            self.instruction(found, &mut state)?;
        }
        Ok(state)
    }

    fn instruction(
        &mut self,
        found: &Located<Instruction>,
        state: &mut State,
    ) -> Result<(), Error> {
        let fails = |e: ExpandError| found.error(e);
        if let Instruction::Arg(args) = &found.value {
            for arg in args {
                self.secret(found, "ARG", &arg.name);
                let mut unset = BTreeSet::new();
                let set = state
                    .scope
                    .arg_noting(std::slice::from_ref(arg), &mut unset);
                set.map_err(fails)?;
                self.unset(found, state, &unset);
            }
            return Ok(());
        }
        let (expanded, unset) = {
            let mut x = state.scope.expander();
            let expanded = found.value.expand(&mut x).map_err(fails)?;
            if let Instruction::Run(run) = &expanded {
                for mount in &run.mounts {
                    mount.mount(&mut x).map_err(|p| found.error(p))?;
                }
            }
            (expanded, x.unset().clone())
        };
        self.unset(found, state, &unset);
        match &expanded {
            Instruction::Env(pairs) => {
                self.legacy(found, pairs);
                for pair in pairs {
                    self.secret(found, "ENV", &pair.name);
                }
                state.scope.env(pairs).map_err(fails)?;
            }
            Instruction::Label(pairs) => self.legacy(found, pairs),
            Instruction::Shell(_) => state.has_shell = true,
            Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_))
                if !state.has_shell =>
            {
                let name = &found.keyword;
                self.checker.warn(found, Rule::JsonArgsRecommended, || {
                        format!(
                            "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
                        )
                    });
            }
            Instruction::Workdir(path) => {
                if !state.has_workdir && !path.starts_with('/') {
                    self.checker.warn(found, Rule::WorkdirRelativePath, || {
                        format!(
                            "Relative workdir {path:?} can have unexpected results if the base image changes"
                        )
                    });
                }
                state.has_workdir = true;
            }
            Instruction::Expose(ports) => self.ports(found, ports)?,
            Instruction::Copy(_) | Instruction::Add(_) => self.files(found, &expanded)?,
            _ => {}
        }
        Ok(())
    }

    fn unset(&mut self, found: &Located<Instruction>, state: &State, unset: &BTreeSet<String>) {
        if !state.is_known {
            return;
        }
        for name in unset {
            if state.scope.declares(name) || name.starts_with("BUILDKIT_SBOM_SCAN_") {
                continue;
            }
            self.checker.warn(found, Rule::UndefinedVar, || {
                let meant = near(name, state.scope.names(), true)
                    .map(|meant| format!(" (did you mean ${meant}?)"));
                let meant = meant.unwrap_or_default();
                format!("Usage of undefined variable '${name}'{meant}")
            });
        }
    }

    fn legacy(&mut self, found: &Located<Instruction>, pairs: &[Pair]) {
        if pairs.iter().any(|p| p.is_legacy) {
            let name = &found.keyword;
            self.checker.warn(found, Rule::LegacyKeyValueFormat, || {
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format")
            });
        }
    }

    fn secret(&mut self, found: &Located<Instruction>, keyword: &str, name: &str) {
        if looks_secret(name) {
            self.checker.warn(found, Rule::SecretsUsedInArgOrEnv, || {
                format!(
                    "Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})"
                )
            });
        }
    }

    fn ports(&mut self, found: &Located<Instruction>, specs: &[String]) -> Result<(), Error> {
        for spec in specs {
            let port = port::parse(spec).map_err(|e| found.error(e))?;
            if port.protocol != port.protocol.to_lowercase() {
                self.checker.warn(found, Rule::ExposeProtoCasing, || {
                    format!("Defined protocol '{spec}' in EXPOSE instruction should be lowercase")
                });
            }
            if port.has_host {
                self.checker.warn(found, Rule::ExposeInvalidFormat, || {
                    format!(
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'"
                    )
                });
            }
        }
        Ok(())
    }

    /// `COPY` and `ADD`, expanded.
    fn files(&mut self, found: &Located<Instruction>, expanded: &Instruction) -> Result<(), Error> {
        let fails = |problem: Problem| found.error(problem);
        match expanded {
            Instruction::Copy(copy) => {
                copy.check_sources().map_err(fails)?;
                copy.files.mode().map_err(fails)?;
                if copy.from.is_none() {
                    self.ignored(found, "Copy", &copy.files.sources);
                }
            }
            Instruction::Add(add) => {
                add.files.mode().map_err(fails)?;
                let origins = add.origins().map_err(fails)?;
                let paths = origins.into_iter().filter_map(|origin| match origin {
                    Origin::Context(path) => Some(path),
                    _ => None,
                });
                self.ignored(found, "Add", &paths.collect::<Vec<_>>());
            }
            _ => {}
        }
        Ok(())
    }

    fn ignored(&mut self, found: &Located<Instruction>, verb: &str, sources: &[String]) {
        // what is taken back in cannot be told from a name alone
        let Some(ignore) = self.facts.ignore.filter(|i| !i.has_exceptions()) else {
            return;
        };
        for source in sources {
            let path = clean(source);
            let path = path.trim_start_matches('/');
            let is_root = path.is_empty() || path == ".";
            let is_out = if is_root {
                ignore.excludes_all()
            } else {
                ignore.excludes(path)
            };
            if is_out {
                let path = if is_root { "." } else { path };
                self.checker.warn(found, Rule::CopyIgnoredFile, || {
                    format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore")
                });
            }
        }
    }
}

/// A word of the name, first, last or between underscores, is that of a secret.
fn looks_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

/// Whether a text can be the name of an image: `[registry/]repository[:tag][@digest]`.
fn is_image_name(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let is_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        })
    };
    let slash = rest.rfind('/').map_or(0, |i| i + 1);
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_tag = |tag: &str| {
        tag.len() <= 128
            && tag.starts_with(word)
            && tag.chars().all(|c| word(c) || c == '.' || c == '-')
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), path)
        }
        _ => (None, name),
    };
    let in_domain = |c: char| c.is_ascii_alphanumeric() || ".:-[]".contains(c);
    let is_part = |part: &str| {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(ends)
            && part.ends_with(ends)
            && part.chars().all(|c| ends(c) || "._-".contains(c))
    };
    digest.is_none_or(is_digest)
        && tag.is_none_or(is_tag)
        && domain.is_none_or(|d| d.chars().all(in_domain))
        && path.split('/').all(is_part)
}
