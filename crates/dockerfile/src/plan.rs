//! From a file to what a build of one target does: which stages it needs, in which order, and what
//! each of them is based on.
//! source: Dockerfile reference, "FROM", "COPY --from", "RUN --mount"; BuildKit for what it leaves open

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{Error, Lines, Problem};
use crate::expand::Budget;
use crate::instruction::{Copy, Instruction, Located, Onbuild};
use crate::platform::Platform;
use crate::scope::Globals;
use crate::suggest::near;
use crate::{Dockerfile, INSTRUCTION_LIMIT, parse};

/// What one build is asked for. Another build is asked with another: what expansions may cost is
/// spent, by checks too.
#[derive(Debug, Clone)]
pub struct Options {
    /// A stage's name or number; the last stage, where there is none.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// Where the build runs.
    pub build_platform: Platform,
    /// What it is for.
    pub target_platform: Platform,
    /// Names that `--build-context` gives to something else than a stage or an image.
    pub contexts: BTreeSet<String>,
    /// What expansions may cost.
    pub budget: Budget,
}

impl Options {
    /// The last stage for the platform on which it is built.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            build_platform: platform.clone(),
            target_platform: platform,
            contexts: BTreeSet::new(),
            budget: Budget::default(),
        }
    }
}

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// The end of an earlier stage.
    Stage(usize),
    /// An image, as the file names it.
    Image(String),
    /// A named context of [`Options::contexts`].
    Context(String),
}

/// Where `COPY --from` and `RUN --mount=from=` take files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Stage(usize),
    Image(String),
    Context(String),
    /// No files at all.
    Scratch,
}

/// A stage of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// In lower case.
    pub name: Option<String>,
    /// For people: the name, or `stage-0`.
    pub label: String,
    pub base: Base,
    /// `--platform`; that of the build, where there is none.
    pub platform: Option<Platform>,
    /// `FROM`'s text and place.
    pub from: Located<()>,
    /// The base's triggers, if that is a stage, then its own. Those of an image are the executor's
    /// to add, by [`crate::parse_trigger`].
    pub instructions: Vec<Located<Instruction>>,
    /// Stages whose files it takes, with the lines that do.
    pub(crate) needs: Vec<(usize, Lines)>,
}

/// A build of one target.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All of the file's, needed or not.
    pub stages: Vec<Stage>,
    pub target: usize,
    /// The stages that the target needs, itself the last; none before those that it needs. Two
    /// stages of which neither needs the other can be built at the same time.
    pub order: Vec<usize>,
    pub globals: Arc<Globals>,
    /// `\`, unless the file says otherwise.
    pub escape: char,
    contexts: BTreeSet<String>,
    names: BTreeMap<String, usize>,
}

impl Dockerfile {
    /// Plans a build.
    ///
    /// # Errors
    /// A target that is not there, a base without a name or platform, stages that need each other or
    /// a later one.
    pub fn plan(&self, options: &Options) -> Result<Plan, Error> {
        let escape = self.directives.escape;
        let target_name = match &options.target {
            Some(name) => name.clone(),
            None => self
                .stages
                .last()
                .and_then(|s| s.from.value.name.clone())
                .unwrap_or_default(),
        };
        let mut globals = Globals::new(options, &target_name, escape).map_err(Error::nowhere)?;
        for args in &self.globals {
            globals.declare(args)?;
        }
        let mut plan = Plan {
            stages: Vec::new(),
            target: 0,
            order: Vec::new(),
            globals: Arc::new(globals),
            escape,
            contexts: options.contexts.clone(),
            names: BTreeMap::new(),
        };
        plan.add_stages(self, options)?;
        plan.target = plan.find_target(options.target.as_deref())?;
        plan.find_needs()?;
        plan.refuse_circles()?;
        plan.order = plan.needed()?;
        Ok(plan)
    }
}

impl Plan {
    fn add_stages(&mut self, file: &Dockerfile, options: &Options) -> Result<(), Error> {
        let mut count = 0;
        for (index, written) in file.stages.iter().enumerate() {
            let from = &written.from;
            let name = from.value.name.clone();
            // a context in a stage's place is all of it
            let replaced = name
                .as_deref()
                .and_then(|name| named_context(&options.contexts, name));
            let is_replaced = replaced.is_some();
            let base = match replaced {
                Some(context) => Base::Context(context),
                None => self.base(from)?,
            };
            let mut instructions = Vec::new();
            if let Base::Stage(base) = base {
                for trigger in triggers(&file.stages[base].instructions) {
                    let found = parse::trigger(&trigger.trigger, self.escape, from.lines)?;
                    instructions.push(found);
                    // each stage gets its own copy
                    count += 1;
                    if count > INSTRUCTION_LIMIT {
                        return Err(from.error(Problem::TooManyInstructions));
                    }
                }
            }
            if !is_replaced {
                instructions.extend(written.instructions.iter().cloned());
            }
            self.stages.push(Stage {
                label: name.clone().unwrap_or(format!("stage-{index}")),
                base,
                platform: self.platform(from, options)?,
                from: from.with(()),
                instructions,
                needs: Vec::new(),
                name: name.clone(),
            });
            if let Some(name) = name {
                // of two stages with one name the later one is meant from there on
                self.names.insert(name, index);
            }
        }
        Ok(())
    }

    fn base(&self, from: &Located<crate::instruction::From>) -> Result<Base, Error> {
        let written = &from.value.base;
        let mut x = self.globals.expander();
        let base = x.word(written).map_err(|e| from.error(e))?;
        if base.is_empty() {
            let options: Vec<&str> = self.globals.known().into_iter().collect();
            let meant = x
                .unset()
                .iter()
                .find_map(|name| near(name, options.iter().copied(), true));
            return Err(from.error(Problem::BlankBase(written.clone())).meant(meant));
        }
        Ok(match self.source(&base) {
            Source::Stage(index) => Base::Stage(index),
            Source::Scratch => Base::Scratch,
            Source::Context(name) => Base::Context(name),
            Source::Image(name) => Base::Image(name),
        })
    }

    fn platform(
        &self,
        from: &Located<crate::instruction::From>,
        options: &Options,
    ) -> Result<Option<Platform>, Error> {
        let Some(written) = &from.value.platform else {
            return Ok(None);
        };
        let mut x = self.globals.expander();
        let text = x.word(written).map_err(|e| from.error(e))?;
        let problem = if text.is_empty() {
            Problem::BlankPlatform(written.clone())
        } else {
            match Platform::parse(&text, &options.target_platform) {
                Ok(platform) => return Ok(Some(platform)),
                Err(reason) => Problem::Platform {
                    expression: written.clone(),
                    reason,
                },
            }
        };
        let known = self.globals.known();
        let meant = x
            .unset()
            .iter()
            .find_map(|name| near(name, known.iter().copied(), true));
        Err(from.error(problem).meant(meant))
    }

    /// What a name means to `COPY --from`, `RUN --mount=from=` and `FROM`: a stage before an image.
    /// Numbers are [`Self::copy_source`]'s.
    #[must_use]
    pub fn source(&self, name: &str) -> Source {
        if let Some(index) = self.names.get(&name.to_lowercase()) {
            return Source::Stage(*index);
        }
        if name == "scratch" {
            return Source::Scratch;
        }
        match named_context(&self.contexts, name) {
            Some(context) => Source::Context(context),
            None => Source::Image(name.to_owned()),
        }
    }

    /// What `COPY --from` means: a number is a stage's.
    ///
    /// # Errors
    /// There is no stage of that number, or the name has variables.
    pub fn copy_source(&self, copy: &Located<Copy>) -> Result<Option<Source>, Error> {
        self.copied_from(copy.value.from.as_deref(), copy.lines)
    }

    fn copied_from(&self, from: Option<&str>, lines: Lines) -> Result<Option<Source>, Error> {
        let Some(from) = from else {
            return Ok(None);
        };
        if from.bytes().all(|b| b.is_ascii_digit()) {
            return match from.parse::<usize>() {
                Ok(index) if index < self.stages.len() => Ok(Some(Source::Stage(index))),
                _ => {
                    let problem = Problem::StageIndex {
                        index: from.to_owned(),
                        stages: self.stages.len(),
                    };
                    Err(Error::later(problem, lines))
                }
            };
        }
        if from.contains('$') {
            return Err(Error::later(Problem::ExpandedFrom("--from"), lines));
        }
        Ok(Some(self.source(from)))
    }

    /// The stages whose files an instruction takes.
    ///
    /// # Errors
    /// As [`Self::copy_source`].
    pub fn needs_of(&self, found: &Located<Instruction>) -> Result<Vec<usize>, Error> {
        let sources: Vec<Source> = match &found.value {
            Instruction::Copy(copy) => self
                .copied_from(copy.from.as_deref(), found.lines)?
                .into_iter()
                .collect(),
            Instruction::Run(run) => {
                let from = run.mounts.iter().filter_map(|m| m.from());
                from.map(|name| self.source(name)).collect()
            }
            _ => Vec::new(),
        };
        Ok(sources
            .into_iter()
            .filter_map(|source| match source {
                Source::Stage(index) => Some(index),
                _ => None,
            })
            .collect())
    }

    /// The stage whose name is nearest to one that is neither a stage nor an image.
    #[must_use]
    pub fn near_stage(&self, name: &str) -> Option<String> {
        near(name, self.names.keys().map(String::as_str), true)
    }

    fn find_target(&self, target: Option<&str>) -> Result<usize, Error> {
        let Some(target) = target else {
            return Ok(self.stages.len() - 1);
        };
        if let Some(index) = self.names.get(&target.to_lowercase()) {
            return Ok(*index);
        }
        match target.parse::<usize>() {
            Ok(index) if index < self.stages.len() => Ok(index),
            _ => {
                Err(Error::nowhere(Problem::Target(target.to_owned()))
                    .meant(self.near_stage(target)))
            }
        }
    }

    fn find_needs(&mut self) -> Result<(), Error> {
        for index in 0..self.stages.len() {
            let mut needs = Vec::new();
            for found in &self.stages[index].instructions {
                for need in self.needs_of(found)? {
                    needs.push((need, found.lines));
                }
            }
            self.stages[index].needs = needs;
        }
        Ok(())
    }

    /// Every stage that one needs directly.
    fn direct(&self, index: usize) -> impl Iterator<Item = (usize, Lines)> + '_ {
        let stage = &self.stages[index];
        let base = match stage.base {
            Base::Stage(base) => Some((base, stage.from.lines)),
            _ => None,
        };
        base.into_iter().chain(stage.needs.iter().copied())
    }

    /// Stages that need each other, or themselves. A walk without recursion: the file decides how
    /// deep it is.
    fn refuse_circles(&self) -> Result<(), Error> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.stages.len()];
        for start in 0..self.stages.len() {
            if marks[start] != Mark::New {
                continue;
            }
            marks[start] = Mark::Open;
            let mut path = vec![(start, self.direct(start), Lines::at(0))];
            while let Some((at, rest, _)) = path.last_mut() {
                let at = *at;
                let Some((next, lines)) = rest.next() else {
                    marks[at] = Mark::Done;
                    path.pop();
                    continue;
                };
                match marks[next] {
                    Mark::Done => {}
                    Mark::New => {
                        marks[next] = Mark::Open;
                        path.push((next, self.direct(next), lines));
                    }
                    Mark::Open => {
                        let circle = path.iter().skip_while(|(i, ..)| *i != next).skip(1);
                        let mut places: Vec<Lines> = circle.map(|(.., lines)| *lines).collect();
                        places.push(lines);
                        let problem = Problem::Circle(self.stages[next].label.clone());
                        return Err(Error::later(problem, lines).over(places));
                    }
                }
            }
        }
        Ok(())
    }

    /// What the target needs. Since no stage may need a later one, the file's order is one in which
    /// they can be built.
    fn needed(&self) -> Result<Vec<usize>, Error> {
        let mut is_needed = vec![false; self.stages.len()];
        is_needed[self.target] = true;
        let mut left = vec![self.target];
        while let Some(index) = left.pop() {
            for (need, lines) in self.direct(index) {
                if need > index {
                    return Err(self.later(index, need, lines));
                }
                if !is_needed[need] {
                    is_needed[need] = true;
                    left.push(need);
                }
            }
        }
        let all = (0..self.stages.len()).filter(|i| is_needed[*i]);
        Ok(all.collect())
    }

    fn later(&self, index: usize, need: usize, lines: Lines) -> Error {
        let stage = &self.stages[index];
        let is_mount = stage
            .instructions
            .iter()
            .any(|i| i.lines == lines && matches!(i.value, Instruction::Run(_)));
        let problem = Problem::Later {
            verb: if is_mount { "mount" } else { "copy" },
            from: self.stages[need].label.clone(),
            stage: stage.label.clone(),
        };
        Error::later(problem, lines)
    }

    /// Build arguments that no `ARG` asks for: a misspelling, more often than not.
    #[must_use]
    pub fn unused_build_args(&self, file: &Dockerfile, options: &Options) -> Vec<String> {
        let mut asked: BTreeSet<&str> = crate::scope::PROXY_ARGS.into();
        asked.extend(BUILDER_ARGS);
        asked.extend(self.globals.known());
        let globals = file.globals.iter().flat_map(|args| &args.value);
        let stages = self.stages.iter().flat_map(|stage| &stage.instructions);
        let own = stages.flat_map(|found| match &found.value {
            Instruction::Arg(args) => args.as_slice(),
            _ => &[],
        });
        asked.extend(globals.chain(own).map(|arg| arg.name.as_str()));
        options
            .build_args
            .keys()
            .filter(|name| !asked.contains(name.as_str()))
            .filter(|name| !name.starts_with("BUILDKIT_"))
            .cloned()
            .collect()
    }
}

/// Arguments that mean something to a builder itself.
const BUILDER_ARGS: [&str; 1] = ["SOURCE_DATE_EPOCH"];

fn triggers(instructions: &[Located<Instruction>]) -> impl Iterator<Item = &Onbuild> {
    instructions.iter().filter_map(|found| match &found.value {
        Instruction::Onbuild(onbuild) => Some(onbuild),
        _ => None,
    })
}

/// The context that stands for a name, which may be that of an image, in short or in full.
fn named_context(contexts: &BTreeSet<String>, name: &str) -> Option<String> {
    let short = |name: &str| {
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let name = name.strip_prefix("library/").unwrap_or(name);
        name.strip_suffix(":latest").unwrap_or(name).to_lowercase()
    };
    let wanted = short(name);
    if wanted == "scratch" || wanted == "context" {
        return None;
    }
    contexts.iter().find(|c| short(c) == wanted).cloned()
}
