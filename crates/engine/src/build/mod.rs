//! Builds: what a Dockerfile says, done step by step.
//!
//! ```text
//! context (tar) -> staging/build-*/context      `context`
//! Dockerfile    -> plan                          crate dockerfile
//! per stage     -> State: configuration, image with its files         `state`
//!   configuration alone   -> State, nothing on disk
//!   COPY, ADD, WORKDIR    -> files picked -> layer -> image           `copy`
//!   RUN                   -> container -> its changes -> image        `run`
//! key of a step = digest(what is below, the instruction, its files) -> image       `cache`
//! end of the target -> image, names -> answered
//! ```
//! Each step that makes files ends in an image of its own, which is durable and found again by its
//! key: a build that is killed leaves those and nothing else. Containers of a build are marked in
//! their record and removed at the next start.

mod cache;
mod context;
mod copy;
mod glob;
mod run;
mod state;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use dockerfile::{Base, Dockerfile, Instruction, Located, Options, Plan, Platform, Scope};
use sha2::{Digest as _, Sha256};
use store::images::steps::{Step, StepLayer};
use tokio::sync::mpsc;

pub use cache::PrunedCache;
pub(crate) use cache::{Builds, prune, usage};
pub(crate) use run::remove_left;

use crate::error::Error;
use crate::images::long;
use crate::inner::{Inner, now};
use crate::model::{ErrorKind, NetworkMode, Resources, Ulimit};
use crate::remote::Credentials;
use cache::InUse;
use context::Work;
use state::State;

/// What a build is asked for.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    pub names: Vec<String>,
    /// Path in the context; empty: `Dockerfile`.
    pub dockerfile: String,
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Nothing is taken from the cache; what is made goes into it.
    pub no_cache: bool,
    /// Base images are asked for again at their registries.
    pub pull: bool,
    pub platform: Option<String>,
    pub network: NetworkMode,
    pub extra_hosts: Vec<String>,
    pub shm_size: Option<u64>,
    pub resources: Resources,
    pub ulimits: Vec<Ulimit>,
    pub cgroup_parent: String,
    /// By registry, of who asks.
    pub credentials: BTreeMap<String, Credentials>,
}

/// What is told while it goes on.
#[derive(Debug, Clone)]
pub enum BuildMessage {
    Stream(String),
    Pull(crate::views::Progress),
}

pub type BuildSender = mpsc::Sender<BuildMessage>;

/// What came of it.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image's id.
    pub id: String,
    /// As shown.
    pub names: Vec<String>,
}

/// Why nothing came of it.
#[derive(Debug)]
pub struct BuildFailure {
    pub error: Error,
    /// The exit code of a `RUN`; 0 for everything else.
    pub code: i32,
}

impl From<Error> for BuildFailure {
    fn from(error: Error) -> Self {
        Self { error, code: 0 }
    }
}

struct Builder {
    engine: Arc<Inner>,
    request: BuildRequest,
    out: BuildSender,
    work: Work,
    plan: Plan,
    /// The file and its name, for excerpts.
    text: String,
    in_use: InUse,
    done: Vec<Option<Done>>,
    step: usize,
    steps: usize,
}

/// A stage at its end, or as far as it is.
#[derive(Debug, Clone)]
struct Done {
    state: State,
    scope: Scope,
}

pub(crate) async fn build(
    engine: &Arc<Inner>,
    request: BuildRequest,
    context: Box<dyn Read + Send>,
    out: BuildSender,
) -> Result<Built, BuildFailure> {
    for name in &request.names {
        let checked = store::images::steps::check_name(name);
        checked.map_err(|e| Error::invalid(format!("invalid reference {name:?}: {e}")))?;
    }
    let name = match request.dockerfile.as_str() {
        "" => "Dockerfile".to_owned(),
        name => name.to_owned(),
    };
    let (work, text) = context::receive(engine, context, name.clone()).await?;
    let platform = platform(request.platform.as_deref())?;
    let wrong = |e: dockerfile::Error, text: &str| file_error(&e, &name, text);
    let file = Dockerfile::parse(&text).map_err(|e| wrong(e, &text))?;
    let options = Options {
        target: request.target.clone(),
        build_args: request.args.clone(),
        target_platform: platform,
        ..Options::new(host_platform())
    };
    let plan = file.plan(&options).map_err(|e| wrong(e, &text))?;
    let own = plan
        .order
        .iter()
        .map(|i| 1 + plan.stages[*i].instructions.len());
    let steps = own.sum::<usize>() + usize::from(!request.labels.is_empty());
    let mut builder = Builder {
        in_use: InUse::new(engine),
        engine: Arc::clone(engine),
        done: vec![None; plan.stages.len()],
        request: BuildRequest {
            dockerfile: name,
            ..request
        },
        out,
        work,
        plan,
        text,
        step: 0,
        steps,
    };
    let built = builder.all().await;
    engine.refresh_images().await;
    built
}

fn file_error(error: &dockerfile::Error, name: &str, text: &str) -> Error {
    let excerpt = error.excerpt(name, text);
    match excerpt.is_empty() {
        true => Error::invalid(error.to_string()),
        false => Error::invalid(format!("{error}\n{}", excerpt.trim_end())),
    }
}

fn host_platform() -> Platform {
    let host = ::registry::Platform::host();
    Platform {
        os: host.os,
        arch: host.architecture,
        variant: host.variant,
    }
}

fn platform(asked: Option<&str>) -> Result<Platform, Error> {
    let host = host_platform();
    let Some(text) = asked.filter(|t| !t.is_empty()) else {
        return Ok(host);
    };
    Platform::parse(text, &host)
        .map_err(|e| Error::invalid(format!("failed to parse platform {text}: {e}")))
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

impl Builder {
    async fn all(&mut self) -> Result<Built, BuildFailure> {
        for index in self.plan.order.clone() {
            let done = self.stage(index).await?;
            self.done[index] = Some(done);
        }
        let target = self.done[self.plan.target].clone();
        let done = target.ok_or_else(|| Error::internal("the target was not built"))?;
        let image = done.state.image.clone().filter(|_| !done.state.pending);
        let id = image.ok_or_else(|| Error::internal("the target has no image"))?;
        let (image, names) = (id.clone(), self.request.names.clone());
        let names = self
            .engine
            .blocking("name the image", move |inner| {
                let named = inner.store.build_result(&image, &names);
                named.map_err(Error::store("name the image"))
            })
            .await?;
        for name in &names {
            self.engine.image_event("tag", &id, name);
        }
        Ok(Built { id, names })
    }

    async fn say(&self, text: impl Into<String>) -> Result<(), Error> {
        let gone = |_| Error::conflict("the build was cancelled: its client went away");
        self.out
            .send(BuildMessage::Stream(text.into()))
            .await
            .map_err(gone)
    }

    async fn say_step(&mut self, text: &str) -> Result<(), Error> {
        self.step += 1;
        let line = format!("Step {}/{} : {text}\n", self.step, self.steps);
        self.say(line).await
    }

    fn wrong(&self, error: &dockerfile::Error) -> Error {
        file_error(error, &self.request.dockerfile, &self.text)
    }

    /// A problem of one instruction, with its place.
    fn at(&self, found: &Located<Instruction>, what: impl std::fmt::Display) -> Error {
        let name = &self.request.dockerfile;
        let excerpt = dockerfile::excerpt(name, &self.text, &[found.lines]);
        Error::invalid(format!("{what}\n{}", excerpt.trim_end()))
    }

    async fn stage(&mut self, index: usize) -> Result<Done, BuildFailure> {
        let stage = self.plan.stages[index].clone();
        self.say_step(&stage.from.text).await?;
        let (mut done, triggers) = self.base(&stage).await?;
        self.say(format!(" ---> {}\n", short(&done.state.id)))
            .await?;
        if !triggers.is_empty() {
            let (count, s) = (triggers.len(), if triggers.len() == 1 { "" } else { "s" });
            self.steps += count;
            self.say(format!("# Executing {count} build trigger{s}\n"))
                .await?;
        }
        let all: Vec<_> = triggers.into_iter().chain(stage.instructions).collect();
        let is_target = index == self.plan.target;
        let labels = is_target && !self.request.labels.is_empty();
        let count = all.len();
        for (n, found) in all.into_iter().enumerate() {
            self.say_step(&found.text).await?;
            let last = is_target && !labels && n + 1 == count;
            self.instruction(&mut done, &found, last).await?;
            self.say(format!(" ---> {}\n", short(&done.state.id)))
                .await?;
        }
        if labels {
            self.labels(&mut done).await?;
        } else if is_target && (done.state.pending || done.state.image.is_none()) {
            self.settle(&mut done.state).await?;
        }
        Ok(done)
    }

    /// What a stage begins with, and the triggers of an image.
    async fn base(
        &mut self,
        stage: &dockerfile::Stage,
    ) -> Result<(Done, Vec<Located<Instruction>>), BuildFailure> {
        let globals = Arc::clone(&self.plan.globals);
        let failed = |e: dockerfile::ExpandError| Error::invalid(e.to_string());
        let name = match &stage.base {
            Base::Stage(base) => {
                let below = self.done[*base].as_ref();
                let below = below.ok_or_else(|| Error::internal("a stage before its base"))?;
                let mut state = below.state.clone();
                state.begin_on_stage();
                let scope = below.scope.inherited().map_err(failed)?;
                return Ok((Done { state, scope }, Vec::new()));
            }
            Base::Scratch => {
                let scope = Scope::new(&globals, &[]).map_err(failed)?;
                let state = State::scratch(&host_platform(), &scope);
                return Ok((Done { state, scope }, Vec::new()));
            }
            Base::Context(name) => {
                return Err(Error::unsupported(format!(
                    "the named context {name:?} (--build-context) is not built: use a stage or an image"
                ))
                .into());
            }
            Base::Image(name) => name.clone(),
        };
        let image = self
            .image(&name, stage.platform.as_ref(), &stage.from.lines)
            .await?;
        let mut state = State::of(&image);
        let scope = Scope::new(&globals, &state.environment()).map_err(failed)?;
        let mut triggers = Vec::new();
        for text in state.take_triggers() {
            let found = dockerfile::parse_trigger(&text, stage.from.lines);
            triggers.push(found.map_err(|e| self.wrong(&e))?);
        }
        Ok((Done { state, scope }, triggers))
    }

    /// An image by its name, fetched where it is not here.
    async fn image(
        &mut self,
        name: &str,
        platform: Option<&Platform>,
        lines: &dockerfile::Lines,
    ) -> Result<store::ImageInfo, BuildFailure> {
        let wanted = platform
            .map(ToString::to_string)
            .or(self.request.platform.clone());
        let fits = |image: &crate::views::ImageView| match &wanted {
            None => true,
            Some(text) => Platform::parse(text, &host_platform())
                .is_ok_and(|p| p.arch == image.architecture && p.os == image.os),
        };
        let here = self.engine.image(name).ok().filter(fits);
        if here.is_none() || self.request.pull {
            self.pull(name, wanted.as_deref()).await.map_err(|e| {
                let file = &self.request.dockerfile;
                let excerpt = dockerfile::excerpt(file, &self.text, &[*lines]);
                Error::new(e.kind(), format!("{}\n{}", e.report(), excerpt.trim_end()))
            })?;
        }
        let id = self.engine.image(name)?.id;
        self.in_use.add(&id);
        let read = move |inner: &Inner| {
            let image = inner.store.image(&id);
            image.map_err(Error::store("read the base image"))
        };
        Ok(self.engine.blocking("read the base image", read).await?)
    }

    async fn pull(&self, name: &str, platform: Option<&str>) -> Result<(), Error> {
        let (progress, mut lines) = mpsc::channel(64);
        let credentials = context::credentials_for(name, &self.request.credentials);
        let pulled = crate::remote::pull(&self.engine, name, platform, credentials, Some(progress));
        let relay = async {
            while let Some(line) = lines.recv().await {
                drop(self.out.send(BuildMessage::Pull(line)).await);
            }
        };
        tokio::join!(pulled, relay).0.map(drop)
    }

    async fn instruction(
        &mut self,
        done: &mut Done,
        found: &Located<Instruction>,
        last: bool,
    ) -> Result<(), BuildFailure> {
        let expanded = found.expand(&mut done.scope.expander());
        let expanded = expanded.map_err(|e| self.wrong(&e))?;
        match &expanded.value {
            Instruction::Copy(_) | Instruction::Add(_) => self.copy(done, &expanded).await?,
            Instruction::Workdir(path) => self.workdir(done, &expanded, path).await?,
            Instruction::Run(_) => return self.run(done, &expanded).await,
            Instruction::Arg(args) => {
                let set = done.scope.arg(args).map_err(|e| self.at(found, e))?;
                drop(set);
            }
            Instruction::Env(pairs) => {
                done.scope.env(pairs).map_err(|e| self.at(found, e))?;
                self.configure(done, &expanded)?;
            }
            _ => self.configure(done, &expanded)?,
        }
        if last && (done.state.pending || done.state.image.is_none()) {
            self.settle(&mut done.state).await?;
        }
        Ok(())
    }

    /// An instruction that changes the configuration alone.
    fn configure(&self, done: &mut Done, found: &Located<Instruction>) -> Result<(), Error> {
        let applied = done.state.apply(&found.value, &done.scope);
        applied.map_err(|what| self.at(found, what))
    }

    async fn labels(&mut self, done: &mut Done) -> Result<(), BuildFailure> {
        let labels = self.request.labels.clone();
        let pairs = labels
            .iter()
            .map(|(name, value)| dockerfile::instruction::Pair {
                name: name.clone(),
                value: value.clone(),
                is_legacy: false,
            });
        let label = Instruction::Label(pairs.collect());
        let words = labels.iter().map(|(k, v)| format!("{k}={v}"));
        let text = format!("LABEL {}", words.collect::<Vec<_>>().join(" "));
        self.say_step(&text).await?;
        done.state
            .apply(&label, &done.scope)
            .map_err(Error::invalid)?;
        self.settle(&mut done.state).await?;
        self.say(format!(" ---> {}\n", short(&done.state.id)))
            .await?;
        Ok(())
    }

    /// Makes an image of what changed the configuration since the last one, or finds it again.
    async fn settle(&mut self, state: &mut State) -> Result<(), BuildFailure> {
        let key = digest(&["end", &state.id]);
        if self.cached(state, &key).await? {
            return Ok(());
        }
        let step = Step {
            parent: state.image.clone(),
            config: state.dated(now()),
            key,
            what: "the configuration at the end".to_owned(),
        };
        let id = long(&self.engine, move |inner| {
            let made = inner.store.build_step(step, &StepLayer::None);
            made.map_err(cache::step_error)
        })
        .await?;
        self.made(state, &id).await
    }

    /// Takes the image that was made by this key before.
    async fn cached(&mut self, state: &mut State, key: &str) -> Result<bool, Error> {
        if self.request.no_cache {
            return Ok(false);
        }
        let key = key.to_owned();
        let found = self
            .engine
            .blocking("look into the build cache", move |inner| {
                let found = inner.store.cached_step(&key);
                found.map_err(Error::store("look into the build cache"))
            })
            .await?;
        let Some(image) = found else { return Ok(false) };
        self.in_use.add(&image.id);
        state.become_image(&image);
        self.say(" ---> Using cache\n").await?;
        Ok(true)
    }

    /// Makes the image of a step that adds files to what there is, and goes on from it.
    async fn layer(
        &mut self,
        state: &mut State,
        key: String,
        created_by: String,
        make: impl FnOnce(&Inner, Step) -> Result<String, Error> + Send + 'static,
    ) -> Result<(), BuildFailure> {
        let step = Step {
            parent: state.image.clone(),
            config: state.with_layer(&created_by, now()),
            key,
            what: created_by,
        };
        let id = long(&self.engine, move |inner| make(inner, step)).await?;
        self.made(state, &id).await
    }

    /// A step has become an image.
    async fn made(&mut self, state: &mut State, id: &str) -> Result<(), BuildFailure> {
        self.in_use.add(id);
        let id = id.to_owned();
        let read = move |inner: &Inner| {
            cache::obey_limit(inner);
            inner
                .store
                .image(&id)
                .map_err(Error::store("read the step's image"))
        };
        let image = self.engine.blocking("read the step's image", read).await?;
        self.engine.refresh_images().await;
        state.become_image(&image);
        Ok(())
    }
}

/// For `map_err`, where the request itself is at fault.
fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}
