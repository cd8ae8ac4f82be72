//! Which variables are set where: `ARG` before the first `FROM`, `ARG` and `ENV` of a stage, what a
//! stage inherits from the one it is based on, and what every build has.
//! source: Dockerfile reference, "ARG", "Scope", "Predefined ARGs", "Automatic platform ARGs"

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::{Error, ExpandError};
use crate::expand::{Budget, Expander, Lookup};
use crate::instruction::{ArgPair, Located, Pair};
use crate::platform::Platform;
use crate::{ENVIRONMENT_LIMIT, Options};

/// Build arguments that need no `ARG`: a `RUN` has them in its environment, in both cases, but no
/// history and no cache key does.
pub const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Arguments that speak to a builder: no environment has them.
const BUILDER_ONLY: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// `PATH` where an image says nothing of it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variables {
    values: BTreeMap<String, (usize, String)>,
    bytes: usize,
}

impl Variables {
    fn set(&mut self, name: &str, value: &str) -> Result<(), ExpandError> {
        let next = self.values.len();
        match self.values.get_mut(name) {
            Some((_, old)) => {
                self.bytes = self.bytes - old.len() + value.len();
                value.clone_into(old);
            }
            None => {
                self.bytes += name.len() + value.len();
                let entry = (next, value.to_owned());
                self.values.insert(name.to_owned(), entry);
            }
        }
        if self.bytes > ENVIRONMENT_LIMIT {
            return Err(ExpandError::Environment(ENVIRONMENT_LIMIT));
        }
        Ok(())
    }

    fn ordered(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self.values.iter().collect();
        all.sort_by_key(|(_, (order, _))| *order);
        all.into_iter()
            .map(|(name, (_, value))| (name.clone(), value.clone()))
            .collect()
    }
}

impl Lookup for Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
    }

    fn names(&self) -> Vec<&str> {
        self.values.keys().map(String::as_str).collect()
    }
}

/// Arguments before the first `FROM`, with those that every build has. Only `FROM` sees them; a
/// stage asks for one by `ARG` and its name.
#[derive(Debug, Clone)]
pub struct Globals {
    variables: Variables,
    /// Declared, with or without a value.
    declared: BTreeSet<String>,
    build_args: Arc<BTreeMap<String, String>>,
    escape: char,
    budget: Budget,
}

impl Lookup for Globals {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name)
    }

    fn names(&self) -> Vec<&str> {
        self.variables.names()
    }
}

impl Globals {
    /// Those of the platforms and the target alone.
    pub(crate) fn new(options: &Options, target: &str, escape: char) -> Result<Self, ExpandError> {
        let mut globals = Self {
            variables: Variables::default(),
            declared: BTreeSet::new(),
            build_args: Arc::new(options.build_args.clone()),
            escape,
            budget: options.budget.clone(),
        };
        let side = |prefix: &str, platform: &Platform| {
            [
                (format!("{prefix}PLATFORM"), platform.to_string()),
                (format!("{prefix}OS"), platform.os.clone()),
                (format!("{prefix}OSVERSION"), String::new()),
                (format!("{prefix}ARCH"), platform.arch.clone()),
                (format!("{prefix}VARIANT"), platform.variant.clone()),
            ]
        };
        let target = if target.is_empty() { "default" } else { target };
        let all = side("BUILD", &options.build_platform)
            .into_iter()
            .chain(side("TARGET", &options.target_platform))
            .chain([("TARGETSTAGE".to_owned(), target.to_owned())]);
        for (name, value) in all {
            let value = options.build_args.get(&name).unwrap_or(&value);
            globals.variables.set(&name, value)?;
        }
        Ok(globals)
    }

    /// `ARG` before the first `FROM`.
    pub(crate) fn declare(&mut self, args: &Located<Vec<ArgPair>>) -> Result<(), Error> {
        for arg in &args.value {
            let value = match (self.build_args.get(&arg.name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let mut x = Expander::new(&self.variables, self.escape, &self.budget);
                    Some(x.word(default).map_err(|e| args.error(e))?)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                let set = self.variables.set(&arg.name, &value);
                set.map_err(|e| args.error(e))?;
            }
            self.declared.insert(arg.name.clone());
        }
        Ok(())
    }

    /// The same without what the user gives, to see what defaults alone make.
    pub(crate) fn without_build_args(mut self) -> Self {
        self.build_args = Arc::default();
        self
    }

    pub(crate) fn expander(&self) -> Expander<'_> {
        Expander::new(&self.variables, self.escape, &self.budget)
    }

    /// Every name that `FROM` may use.
    pub(crate) fn known(&self) -> BTreeSet<&str> {
        let declared = self.declared.iter().map(String::as_str);
        declared.chain(self.variables.names()).collect()
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// The variables of a stage, step by step.
///
/// `ENV` goes into the image and into what is based on it. `ARG` is set for what follows in the stage,
/// and in stages based on it. Of an `ENV` and an `ARG` of one name, what follows sees the later one,
/// and the image has the `ENV`.
#[derive(Debug, Clone)]
pub struct Scope {
    variables: Variables,
    image: Variables,
    args: Vec<(String, Option<String>)>,
    declared: BTreeSet<String>,
    globals: Arc<Globals>,
}

impl Lookup for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name)
    }

    fn names(&self) -> Vec<&str> {
        self.variables.names()
    }
}

impl Scope {
    /// Of a stage whose base is an image, with that image's environment; of one from `scratch` it
    /// has none. `PATH` is added where it is missing.
    ///
    /// # Errors
    /// The environment is too large.
    pub fn new(
        globals: &Arc<Globals>,
        environment: &[(String, String)],
    ) -> Result<Self, ExpandError> {
        let mut scope = Self {
            variables: Variables::default(),
            image: Variables::default(),
            args: Vec::new(),
            declared: BTreeSet::new(),
            globals: Arc::clone(globals),
        };
        for (name, value) in environment {
            scope.set_env(name, value)?;
        }
        if scope.image.get("PATH").is_none() {
            scope.set_env("PATH", DEFAULT_PATH)?;
        }
        Ok(scope)
    }

    /// Of a stage that is based on the one whose scope this is, at its end.
    ///
    /// # Errors
    /// The stages of the build have too many variables together.
    pub fn inherited(&self) -> Result<Self, ExpandError> {
        let args: usize = self
            .args
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len))
            .sum();
        let bytes = self.variables.bytes + self.image.bytes + args;
        self.globals.budget.spend(bytes as u64)?;
        Ok(self.clone())
    }

    /// What expands the next instruction.
    #[must_use]
    pub fn expander(&self) -> Expander<'_> {
        Expander::new(self, self.globals.escape, self.globals.budget())
    }

    fn set_env(&mut self, name: &str, value: &str) -> Result<(), ExpandError> {
        self.image.set(name, value)?;
        self.variables.set(name, value)
    }

    /// `ENV`, expanded.
    ///
    /// # Errors
    /// The environment is too large.
    pub fn env(&mut self, pairs: &[Pair]) -> Result<(), ExpandError> {
        pairs
            .iter()
            .try_for_each(|pair| self.set_env(&pair.name, &pair.value))
    }

    /// `ARG`: of each the value that it has from now on, if any. A build argument's is before a
    /// default, which is before that of an argument ahead of the first `FROM`.
    ///
    /// # Errors
    /// A default that cannot be expanded, or an environment that is too large.
    pub fn arg(&mut self, args: &[ArgPair]) -> Result<Vec<ArgPair>, ExpandError> {
        self.arg_noting(args, &mut BTreeSet::new())
    }

    /// As [`Self::arg`]; tells of variables that are not set, too.
    pub(crate) fn arg_noting(
        &mut self,
        args: &[ArgPair],
        unset: &mut BTreeSet<String>,
    ) -> Result<Vec<ArgPair>, ExpandError> {
        let mut out = Vec::new();
        for arg in args {
            let value = match (self.globals.build_args.get(&arg.name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let mut x = self.expander();
                    let value = x.word(default)?;
                    unset.extend(x.unset().iter().cloned());
                    Some(value)
                }
                (None, None) => self.globals.get(&arg.name).map(str::to_owned),
            };
            if let Some(value) = &value
                && !BUILDER_ONLY.contains(&arg.name.as_str())
            {
                self.variables.set(&arg.name, value)?;
            }
            self.declared.insert(arg.name.clone());
            self.args.push((arg.name.clone(), value.clone()));
            out.push(ArgPair {
                name: arg.name.clone(),
                default: value,
            });
        }
        Ok(out)
    }

    /// What the image's configuration has as its environment.
    #[must_use]
    pub fn image_env(&self) -> Vec<(String, String)> {
        self.image.ordered()
    }

    /// What a `RUN` has as its environment: all that is set, and the proxies that the user gave.
    #[must_use]
    pub fn run_env(&self) -> Vec<(String, String)> {
        let mut all = self.variables.ordered();
        for name in PROXY_ARGS {
            let given = self.globals.build_args.iter();
            let value = given.rev().find(|(n, _)| n.eq_ignore_ascii_case(name));
            if let (Some((_, value)), None) = (value, self.get(name)) {
                all.push((name.to_owned(), value.clone()));
            }
        }
        all
    }

    /// The arguments that the stage declared so far, in their order and each once, with the values
    /// that a `RUN` sees: a history has them before its command.
    #[must_use]
    pub fn args(&self) -> Vec<(String, String)> {
        let mut seen = BTreeSet::new();
        self.args
            .iter()
            .filter(|(name, _)| seen.insert(name.as_str()))
            .map(|(name, value)| {
                let value = self.get(name).or(value.as_deref()).unwrap_or_default();
                (name.clone(), value.to_owned())
            })
            .collect()
    }

    pub(crate) fn declares(&self, name: &str) -> bool {
        self.declared.contains(name)
    }
}
