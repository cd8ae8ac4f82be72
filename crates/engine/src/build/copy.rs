//! `COPY`, `ADD` and `WORKDIR`: layers that need no container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use dockerfile::chmod::Mode;
use dockerfile::ignore::Ignore;
use dockerfile::instruction::{Add, Copy, Files};
use dockerfile::origin::Origin;
use dockerfile::plan::Source;
use dockerfile::{Instruction, Located, history};
use store::images::steps::{Step, StepLayer};
use store::pick::{self, Choice, Found, Picked, Resolved, Rules};

use super::{BuildFailure, Builder, Done, cache, context, digest, glob, refused};
use crate::error::Error;
use crate::images::long;
use crate::inner::Inner;

/// Of directories that a destination lacks.
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Where files come from.
#[derive(Debug, Clone)]
pub(super) enum From {
    Context {
        dir: PathBuf,
        ignore: Arc<Ignore>,
    },
    Image(String),
    /// No files at all.
    Nothing,
}

/// All that making the layer needs, to be moved to where it may block.
#[derive(Debug, Clone)]
struct Job {
    keyword: &'static str,
    from: From,
    files: Files,
    parents: bool,
    unpack: bool,
    /// The image below.
    below: Option<String>,
    working_dir: String,
    exclude: Arc<Ignore>,
    mode: Option<Mode>,
    /// A directory for archives to be unpacked in.
    work: PathBuf,
}

impl Builder {
    pub(super) async fn copy(
        &mut self,
        done: &mut Done,
        found: &Located<Instruction>,
    ) -> Result<(), BuildFailure> {
        let (keyword, files, from, parents, unpack) = match &found.value {
            Instruction::Copy(copy) => {
                copy.check_sources().map_err(|e| self.at(found, e))?;
                let from = self.source_of(copy, found).await?;
                ("COPY", copy.files.clone(), from, copy.parents, false)
            }
            Instruction::Add(add) => {
                refuse_remote(add).map_err(|e| self.at(found, e.report()))?;
                let unpack = add.unpack.unwrap_or(true);
                ("ADD", add.files.clone(), self.context(), false, unpack)
            }
            _ => return Err(Error::internal("not an instruction that copies").into()),
        };
        let exclude = Ignore::new(files.exclude.iter().map(String::as_str));
        let job = Job {
            keyword,
            mode: files.mode().map_err(|e| self.at(found, e))?,
            exclude: Arc::new(exclude.map_err(|e| self.at(found, e))?),
            from,
            files,
            parents,
            unpack,
            below: done.state.image.clone(),
            working_dir: done.state.config.config.working_dir.clone(),
            work: self.work.dir.clone(),
        };
        let shell = done.state.shell();
        let entry = history::entry(&found.value, &done.scope, &shell);
        let created_by = entry.map(|e| e.created_by).unwrap_or_default();
        let sum = {
            let job = job.clone();
            long(&self.engine, move |inner| job.sum(inner)).await?
        };
        let key = digest(&[
            &done.state.id,
            &created_by,
            &format!("{parents} {unpack}"),
            &sum,
        ]);
        if self.cached(&mut done.state, &key).await? {
            return Ok(());
        }
        let make = move |inner: &Inner, step| job.make(inner, step);
        self.layer(&mut done.state, key, created_by, make).await
    }

    fn context(&self) -> From {
        From::Context {
            dir: self.work.context(),
            ignore: Arc::clone(&self.work.ignore),
        }
    }

    async fn source_of(
        &mut self,
        copy: &Copy,
        found: &Located<Instruction>,
    ) -> Result<From, BuildFailure> {
        let located = Located {
            value: copy.clone(),
            keyword: found.keyword.clone(),
            text: found.text.clone(),
            lines: found.lines,
            comments: Vec::new(),
            is_trigger: found.is_trigger,
        };
        let source = self
            .plan
            .copy_source(&located)
            .map_err(|e| self.wrong(&e))?;
        match source {
            None => Ok(self.context()),
            Some(source) => self.files_of(source, found).await,
        }
    }

    /// Files of a stage or an image.
    pub(super) async fn files_of(
        &mut self,
        source: Source,
        found: &Located<Instruction>,
    ) -> Result<From, BuildFailure> {
        match source {
            Source::Scratch => Ok(From::Nothing),
            Source::Context(name) => Err(refused(format!(
                "the named context {name:?} (--build-context) is not built: use a stage or an image"
            ))
            .into()),
            Source::Stage(index) => {
                let stage = self.done[index].as_ref();
                let stage = stage.ok_or_else(|| Error::internal("a stage before its source"))?;
                Ok(stage.state.image.clone().map_or(From::Nothing, From::Image))
            }
            Source::Image(name) => {
                let image = self.image(&name, None, &found.lines).await?;
                Ok(From::Image(image.id))
            }
        }
    }

    /// Its directory is made where it is not there, for the user of that moment.
    pub(super) async fn workdir(
        &mut self,
        done: &mut Done,
        found: &Located<Instruction>,
        path: &str,
    ) -> Result<(), BuildFailure> {
        if path.is_empty() {
            return Err(self
                .at(found, "WORKDIR needs a directory: its value is empty")
                .into());
        }
        let path = absolute(&done.state.config.config.working_dir, path);
        done.state.config.config.working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        let key = digest(&[&done.state.id, &created_by]);
        let user = done.state.config.config.user.clone();
        let below = done.state.image.clone();
        let wanted = path.clone();
        let is_there = long(&self.engine, move |inner| {
            let root = mount(inner, below.as_deref())?;
            Ok(place(root.as_ref(), &wanted)?.found == Found::Directory)
        })
        .await?;
        if is_there {
            done.state.note(&created_by);
            return Ok(());
        }
        if self.cached(&mut done.state, &key).await? {
            return Ok(());
        }
        let make = move |inner: &Inner, step: Step| {
            let root = mount(inner, step.parent.as_deref())?;
            let owner = owner(root.as_ref(), &user)?;
            let at = place(root.as_ref(), &path)?;
            let mut picked = Picked::default();
            for dir in at.missing.iter().chain([&at.path]) {
                picked.directory(dir, DIRECTORY_MODE, owner);
            }
            store(inner, step, &picked)
        };
        self.layer(&mut done.state, key, created_by, make).await
    }
}

fn refuse_remote(add: &Add) -> Result<(), Error> {
    for origin in add.origins().map_err(|e| Error::invalid(e.to_string()))? {
        match origin {
            Origin::Context(_) => {}
            Origin::Url { url, .. } => {
                return Err(refused(format!(
                    "ADD of a URL is not built ({url}): put the file into the context, or fetch it by a RUN"
                )));
            }
            Origin::Git(git) => {
                return Err(refused(format!(
                    "ADD of a git repository is not built ({}): put its files into the context, or fetch it by a RUN",
                    git.remote
                )));
            }
        }
    }
    Ok(())
}

fn store(inner: &Inner, step: Step, picked: &Picked<'_>) -> Result<String, Error> {
    sys::fault::point("engine.build.step").map_err(Error::io("make the step"))?;
    let made = inner.store.build_step(step, &StepLayer::Files(picked));
    made.map_err(cache::step_error)
}

/// The files of an image; none without one, or where it has no layers.
fn mount(inner: &Inner, image: Option<&str>) -> Result<Option<OwnedFd>, Error> {
    let Some(image) = image else { return Ok(None) };
    let found = inner.store.image(image);
    let found = found.map_err(Error::store("read the image"))?;
    if found.layers.is_empty() {
        return Ok(None);
    }
    crate::volumes::image_root(inner, image).map(Some)
}

fn place(root: Option<&OwnedFd>, path: &str) -> Result<Resolved, Error> {
    let at = pick::resolve(root.map(AsFd::as_fd), path.as_bytes());
    at.map_err(Error::store(format!("find {path} in the image")))
}

/// A path of the image's; what is relative is so to the working directory.
pub(super) fn absolute(working_dir: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{working_dir}/{path}"),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `user[:group]` by the image's own files. A number alone is the group's too.
fn owner(root: Option<&OwnedFd>, text: &str) -> Result<(u32, u32), Error> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = match is_number {
        true => format!("{text}:{text}"),
        false => text.to_owned(),
    };
    if text.is_empty() {
        return Ok((0, 0));
    }
    let none = without_accounts()?;
    let root = root.map_or(none.as_fd(), AsFd::as_fd);
    let found = runtime::users::resolve(root, &text, &[]);
    found
        .map(|who| (who.uid, who.gid))
        .map_err(|e| Error::invalid(e.to_string()))
}

/// A directory that has neither passwd nor group, for an image without files.
fn without_accounts() -> Result<OwnedFd, Error> {
    context::open(std::path::Path::new("/proc/self/fdinfo"))
}

/// One source, found.
#[derive(Debug)]
struct Chosen {
    /// As it lies below the root, without links.
    path: Vec<u8>,
    /// Its name at the destination.
    name: String,
    /// With `--parents`: the directories that are made for it.
    parents: String,
    is_directory: bool,
}

impl Job {
    fn open(&self, inner: &Inner) -> Result<Option<OwnedFd>, Error> {
        match &self.from {
            From::Context { dir, .. } => context::open(dir).map(Some),
            From::Image(id) => mount(inner, Some(id)),
            From::Nothing => Ok(None),
        }
    }

    /// What is copied, apart from its times.
    fn sum(&self, inner: &Inner) -> Result<String, Error> {
        if let From::Image(id) = &self.from {
            let image = inner.store.image(id);
            let image = image.map_err(Error::store("read the image that is copied from"))?;
            let layers: Vec<&str> = image.layers.iter().map(|l| l.chain.as_str()).collect();
            let top = layers.last().copied().unwrap_or_default();
            return Ok(digest(&["image", top, &format!("{:?}", self.files)]));
        }
        let root = self.open(inner)?;
        let mut picked = Picked::default();
        let sources = self.sources(root.as_ref())?;
        if let Some(root) = &root {
            let index = picked.root(root.as_fd());
            for (n, source) in sources.iter().enumerate() {
                let to = format!("{n}/{}/{}", source.parents, source.name);
                let to = absolute("/", &to);
                let take = self.take(&mut picked, index, source, &to.as_bytes()[1..], (0, 0));
                take.map_err(Error::store("read the build context"))?;
            }
        }
        for (n, heredoc) in self.files.heredocs.iter().enumerate() {
            let name = format!("heredoc-{n}-{}", heredoc.name);
            let bytes = heredoc.content.clone().into_bytes();
            picked.file(name.as_bytes(), bytes, FILE_MODE, (0, 0));
        }
        let sum = picked.digest();
        let sum = sum.map_err(Error::store("read the build context"))?;
        Ok(digest(&[&sum, &format!("{:?}", self.files)]))
    }

    fn take(
        &self,
        picked: &mut Picked<'_>,
        root: usize,
        source: &Chosen,
        to: &[u8],
        owner: (u32, u32),
    ) -> Result<(), pick::PickError> {
        let base = source.path.clone();
        let choose = |path: &[u8]| {
            let below = path.strip_prefix(base.as_slice()).unwrap_or(path);
            let below = below.strip_prefix(b"/").unwrap_or(below);
            let own = match below.is_empty() {
                true => source.name.as_bytes(),
                false => below,
            };
            let excluded = match below.is_empty() && source.is_directory {
                true => Choice::Take,
                false => context::chosen(&self.exclude, own),
            };
            let ignored = match &self.from {
                From::Context { ignore, .. } => context::chosen(ignore, path),
                _ => Choice::Take,
            };
            match (excluded, ignored) {
                (Choice::Leave, _) | (_, Choice::Leave) => Choice::Leave,
                (Choice::Below, _) | (_, Choice::Below) => Choice::Below,
                _ => Choice::Take,
            }
        };
        let mode = |mode: u32, is_directory: bool| match &self.mode {
            Some(wanted) => wanted.apply(mode, is_directory),
            None => mode,
        };
        // from the context all is root's; an image's files keep their owners
        let keeps = self.files.chown.is_none() && matches!(self.from, From::Image(_));
        let rules = Rules {
            choose: &choose,
            owner: (!keeps).then_some(owner),
            mode: &mode,
        };
        let contents = source.is_directory && !self.parents;
        picked.take(root, &source.path, to, contents, &rules)
    }

    fn make(&self, inner: &Inner, step: Step) -> Result<String, Error> {
        let below = mount(inner, self.below.as_deref())?;
        let from = self.open(inner)?;
        let owner = owner(below.as_ref(), self.files.chown.as_deref().unwrap_or(""))?;
        let sources = self.sources(from.as_ref())?;
        let unpacked = self.unpack_all(from.as_ref(), &sources)?;
        let mut picked = Picked::default();
        let count = sources.len() + self.files.heredocs.len();
        let into = self.destination(below.as_ref(), count)?;
        for dir in &into.missing {
            picked.directory(dir, DIRECTORY_MODE, owner);
        }
        let failed = || Error::store(format!("{} failed", self.keyword));
        if let Some(from) = &from {
            let index = picked.root(from.as_fd());
            for (source, unpacked) in sources.iter().zip(&unpacked) {
                if let Some(dir) = unpacked {
                    self.unpacked(&mut picked, dir.as_fd(), &into, owner)?;
                    continue;
                }
                let to = self.target(below.as_ref(), &into, source, owner, &mut picked)?;
                self.take(&mut picked, index, source, &to, owner)
                    .map_err(failed())?;
            }
        }
        for heredoc in &self.files.heredocs {
            let to = match into.is_directory {
                true => join(&into.path, &heredoc.name),
                false => into.path.clone(),
            };
            let mode = self
                .mode
                .as_ref()
                .map_or(FILE_MODE, |m| m.apply(FILE_MODE, false));
            picked.file(&to, heredoc.content.clone().into_bytes(), mode, owner);
        }
        store(inner, step, &picked)
    }

    /// Where one source goes, with the directories that it needs there.
    fn target<'a>(
        &self,
        below: Option<&OwnedFd>,
        into: &Into,
        source: &Chosen,
        owner: (u32, u32),
        picked: &mut Picked<'a>,
    ) -> Result<Vec<u8>, Error> {
        if self.parents {
            let dir = String::from_utf8_lossy(&into.path).into_owned();
            let whole = absolute("/", &format!("{dir}/{}/{}", source.parents, source.name));
            let at = place(below, &whole)?;
            for dir in &at.missing {
                picked.directory(dir, DIRECTORY_MODE, owner);
            }
            return Ok(at.path);
        }
        if source.is_directory {
            if !into.is_there {
                picked.directory(&into.path, DIRECTORY_MODE, owner);
            }
            return Ok(into.path.clone());
        }
        if into.is_directory {
            if !into.is_there {
                picked.directory(&into.path, DIRECTORY_MODE, owner);
            }
            return Ok(join(&into.path, &source.name));
        }
        Ok(into.path.clone())
    }

    fn destination(&self, below: Option<&OwnedFd>, count: usize) -> Result<Into, Error> {
        let text = &self.files.destination;
        let named = text.ends_with('/') || text.ends_with("/.") || text == ".";
        if count > 1 && !named {
            return Err(Error::invalid(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                self.keyword
            )));
        }
        let at = place(below, &absolute(&self.working_dir, text))?;
        let is_there = at.found == Found::Directory;
        if at.found == Found::Other && named {
            return Err(Error::invalid(format!(
                "{} failed: the destination {text} is not a directory",
                self.keyword
            )));
        }
        Ok(Into {
            is_directory: named || is_there,
            is_there,
            path: at.path,
            missing: at.missing,
        })
    }

    // ---- sources

    fn sources(&self, root: Option<&OwnedFd>) -> Result<Vec<Chosen>, Error> {
        let mut all = Vec::new();
        for source in &self.files.sources {
            let found = match root {
                Some(root) => self.find(root, source)?,
                None => Vec::new(),
            };
            if found.is_empty() && !glob::is_pattern(source) {
                return Err(self.not_found(source));
            }
            all.extend(found);
        }
        if all.is_empty() && self.files.heredocs.is_empty() {
            return Err(Error::invalid(format!(
                "{} failed: no source files were specified",
                self.keyword
            )));
        }
        Ok(all)
    }

    fn not_found(&self, source: &str) -> Error {
        let place = match self.from {
            From::Context { .. } => "file not found in build context or excluded by .dockerignore",
            _ => "file not found in what it is copied from",
        };
        Error::not_found(format!(
            "{} failed: {place}: stat {source}: file does not exist",
            self.keyword
        ))
    }

    /// What a source means; a pattern may mean nothing.
    fn find(&self, root: &OwnedFd, source: &str) -> Result<Vec<Chosen>, Error> {
        let failed = || Error::store(format!("{} failed: find {source}", self.keyword));
        // what comes before `/./` is not made with --parents
        let pivot = match self.parents {
            true => source
                .find("/./")
                .map_or(0, |at| absolute("/", &source[..at]).len()),
            false => 0,
        };
        let clean = absolute("/", source);
        let parts: Vec<&str> = clean[1..].split('/').filter(|p| !p.is_empty()).collect();
        let mut found: Vec<String> = vec![String::new()];
        for part in parts {
            let mut next = Vec::new();
            for dir in &found {
                if !glob::is_pattern(part) {
                    next.push(format!("{dir}/{part}"));
                    continue;
                }
                let at = pick::resolve(Some(root.as_fd()), dir.as_bytes()).map_err(failed())?;
                if at.found != Found::Directory {
                    continue;
                }
                let names = pick::names(root.as_fd(), &at.path).map_err(failed())?;
                let names = names.iter().map(|n| String::from_utf8_lossy(n));
                let fitting = names.filter(|n| glob::matches(part, n));
                next.extend(fitting.map(|n| format!("{dir}/{n}")));
            }
            found = next;
        }
        let mut out = Vec::new();
        for path in found {
            let at = pick::resolve(Some(root.as_fd()), path.as_bytes()).map_err(failed())?;
            let is_ignored = match &self.from {
                From::Context { ignore, .. } => {
                    context::chosen(ignore, &at.path) == Choice::Leave
                        || context::chosen(ignore, path.trim_start_matches('/').as_bytes())
                            == Choice::Leave
                }
                _ => false,
            };
            if at.found == Found::Nothing || is_ignored {
                continue;
            }
            let behind = &path[pivot.min(path.len())..];
            let (parents, name) = behind.rsplit_once('/').unwrap_or(("", behind));
            out.push(Chosen {
                is_directory: at.found == Found::Directory,
                path: at.path,
                name: name.to_owned(),
                parents: match self.parents {
                    true => parents.to_owned(),
                    false => String::new(),
                },
            });
        }
        Ok(out)
    }

    // ---- archives

    /// Archives among the sources of an `ADD`, each unpacked in a directory of the build's own.
    fn unpack_all(
        &self,
        root: Option<&OwnedFd>,
        sources: &[Chosen],
    ) -> Result<Vec<Option<OwnedFd>>, Error> {
        let mut all = Vec::new();
        for source in sources {
            let archive = match root {
                Some(root) if self.unpack && !source.is_directory => {
                    self.is_archive(root.as_fd(), source)?
                }
                _ => false,
            };
            let (true, Some(root)) = (archive, root) else {
                all.push(None);
                continue;
            };
            let dir = self
                .work
                .join(format!("archive-{}", crate::names::new_id()));
            std::fs::create_dir(&dir).map_err(Error::io("make a directory to unpack in"))?;
            let dir = context::open(&dir)?;
            let unpacked = pick::unpack_archive(root.as_fd(), &source.path, dir.as_fd());
            unpacked.map_err(|e| {
                let error = Error::store(format!("ADD failed: unpack {}", source.name))(e);
                Error::new(crate::model::ErrorKind::InvalidArgument, error.report())
            })?;
            all.push(Some(dir));
        }
        Ok(all)
    }

    fn is_archive(&self, root: BorrowedFd<'_>, source: &Chosen) -> Result<bool, Error> {
        let found = pick::is_archive(root, &source.path);
        let found = found.map_err(Error::store(format!("ADD failed: read {}", source.name)))?;
        found.map_err(|packing| {
            refused(format!(
                "ADD of {}: unpacking {packing} is not built: compress it with gzip or zstd, or copy it as it is by COPY or ADD --unpack=false",
                source.name
            ))
        })
    }

    fn unpacked<'a>(
        &self,
        picked: &mut Picked<'a>,
        dir: BorrowedFd<'a>,
        into: &Into,
        owner: (u32, u32),
    ) -> Result<(), Error> {
        if !into.is_there {
            picked.directory(&into.path, DIRECTORY_MODE, owner);
        }
        let root = picked.root(dir);
        let mode = |mode: u32, is_directory: bool| match &self.mode {
            Some(wanted) => wanted.apply(mode, is_directory),
            None => mode,
        };
        let rules = Rules {
            choose: &|_| Choice::Take,
            owner: self.files.chown.as_ref().map(|_| owner),
            mode: &mode,
        };
        let taken = picked.take(root, b"", &into.path, true, &rules);
        taken.map_err(Error::store("ADD failed: take what was unpacked"))
    }
}

/// Where things go.
#[derive(Debug)]
struct Into {
    path: Vec<u8>,
    is_directory: bool,
    is_there: bool,
    missing: Vec<Vec<u8>>,
}

fn join(dir: &[u8], name: &str) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
    path
}

#[cfg(test)]
mod tests {
    use super::absolute;

    #[test]
    fn paths_are_the_images() {
        for (dir, path, want) in [
            ("", "a", "/a"),
            ("/app", "a/./b", "/app/a/b"),
            ("/app", "../../x", "/x"),
            ("/app", "/x/", "/x"),
            ("/", ".", "/"),
        ] {
            assert_eq!(absolute(dir, path), want, "{dir} {path}");
        }
    }
}
