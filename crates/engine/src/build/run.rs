//! `RUN`: a container of the engine's own, whose changes become a layer.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use dockerfile::instruction::{Command as Line, Network, Run, Script, Security};
use dockerfile::mount::{Mount, Owner, Sharing};
use dockerfile::{Instruction, Located, history};
use store::images::steps::{Step, StepLayer};
use store::pick::{self, Found};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::copy::{From, absolute};
use super::{BuildFailure, BuildMessage, Builder, Done, cache, context, digest, short};
use crate::container::Command;
use crate::error::Error;
use crate::images::long;
use crate::inner::{Inner, ask, now};
use crate::model::{ContainerSpec, HostSpec, LogSpec, MountKind, MountSpec, NetworkMode};
use crate::registry::Entry;
use crate::views::{AttachOptions, RemoveOptions, WaitCondition};

/// Bytes of a frame's header: the stream, three zeros, the length in network order.
const FRAME_HEADER: usize = 8;

/// What a `RUN` has besides its image.
#[derive(Default)]
struct Extras {
    mounts: Vec<MountSpec>,
    /// What the mounts are made of, for the key.
    sum: String,
    /// Held while it runs: caches that are one's at a time.
    turns: Vec<tokio::sync::OwnedMutexGuard<()>>,
}

impl Builder {
    pub(super) async fn run(
        &mut self,
        done: &mut Done,
        found: &Located<Instruction>,
    ) -> Result<(), BuildFailure> {
        let Instruction::Run(run) = &found.value else {
            return Err(Error::internal("not a RUN").into());
        };
        if run.security == Security::Insecure {
            let what = "RUN --security=insecure is not built: a build gets no more rights than a container";
            return Err(Error::unsupported(self.at(found, what).report()).into());
        }
        let extras = self.extras(done, found, run).await?;
        let shell = done.state.shell();
        let entry = history::entry(&found.value, &done.scope, &shell);
        let created_by = entry.map(|e| e.created_by).unwrap_or_default();
        let script = match run.script() {
            Script::File { content, .. } => content,
            _ => String::new(),
        };
        let flags = format!("{:?} {:?} {script}", run.network, self.request.network);
        let key = digest(&[&done.state.id, &created_by, &flags, &extras.sum]);
        if self.cached(&mut done.state, &key).await? {
            return Ok(());
        }
        let Some(image) = done.state.image.clone() else {
            let what = "RUN needs a program, and the stage has no files: begin it with an image, or COPY into it first";
            return Err(self.at(found, what).into());
        };
        let mut spec = self.spec(done, run, image)?;
        spec.host.mounts.extend(extras.mounts);
        let created = crate::create::create(&self.engine, None, spec);
        let container = Box::pin(created).await?.id;
        let ran = self
            .in_container(done, found, &container, created_by, key)
            .await;
        let removed = remove(&self.engine, &container).await;
        drop(extras.turns);
        let id = ran?;
        removed?;
        let line = format!(
            " ---> Removed intermediate container {}\n",
            short(&container)
        );
        self.say(line).await?;
        self.made(&mut done.state, &id).await
    }

    fn spec(&self, done: &Done, run: &Run, image: String) -> Result<ContainerSpec, Error> {
        let config = &done.state.config.config;
        let shell = done.state.shell();
        let argv = match run.script() {
            Script::Exec(argv) => argv,
            Script::Shell(line) => Line::Shell(line).argv(&shell),
            Script::File { name, .. } => Line::Shell(format!("/dev/pipes/{name}")).argv(&shell),
        };
        let env = done.scope.run_env().into_iter();
        let network = match run.network {
            Network::Default => self.request.network.clone(),
            Network::None => NetworkMode::None,
            Network::Host => NetworkMode::Host,
        };
        Ok(ContainerSpec {
            image,
            command: Some(argv),
            env: env.map(|(name, value)| format!("{name}={value}")).collect(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            attach_stdout: true,
            attach_stderr: true,
            host: HostSpec {
                of_build: true,
                network,
                extra_hosts: self.request.extra_hosts.clone(),
                shm_size: self.request.shm_size,
                resources: self.request.resources.clone(),
                ulimits: self.request.ulimits.clone(),
                cgroup_parent: self.request.cgroup_parent.clone(),
                log: LogSpec {
                    driver: "none".to_owned(),
                    options: BTreeMap::new(),
                },
                ..HostSpec::default()
            },
            ..ContainerSpec::default()
        })
    }

    /// Answers with the image that its changes make.
    async fn in_container(
        &mut self,
        done: &Done,
        found: &Located<Instruction>,
        container: &str,
        created_by: String,
        key: String,
    ) -> Result<String, BuildFailure> {
        self.say(format!(" ---> Running in {}\n", short(container)))
            .await?;
        let entry = self.engine.containers.find(container)?;
        let options = AttachOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachOptions::default()
        };
        let (stream, _) = crate::attach(&entry, options).await?;
        let waiter = crate::wait(&entry, WaitCondition::NextExit).await?;
        ask(&entry, |reply| Command::Start { reply }).await?;
        let cancelled = || Error::conflict("the build was cancelled: its client went away");
        let output = async {
            relay(stream, &self.out).await;
            waiter.await
        };
        let status = tokio::select! {
            status = output => status?,
            () = self.out.closed() => return Err(cancelled().into()),
        };
        if status.code != 0 {
            return Err(self.failed(done, found, status.code));
        }
        let record = entry.view.load().record.clone();
        let step = Step {
            parent: Some(record.image_id.clone()),
            config: done.state.with_layer(&created_by, now()),
            key,
            what: created_by,
        };
        let id = long(&self.engine, move |inner| {
            sys::fault::point("engine.build.commit").map_err(Error::io("make the step"))?;
            let exclude = crate::files::excluded(&record);
            let layer = StepLayer::Container {
                id: &record.id,
                exclude: &exclude,
            };
            let made = inner.store.build_step(step, &layer);
            made.map_err(cache::step_error)
        });
        Ok(id.await?)
    }

    fn failed(&self, done: &Done, found: &Located<Instruction>, code: i32) -> BuildFailure {
        let argv = match &found.value {
            Instruction::Run(run) => match run.script() {
                Script::Exec(argv) => argv,
                Script::Shell(line) => Line::Shell(line).argv(&done.state.shell()),
                Script::File { name, .. } => vec![format!("/dev/pipes/{name}")],
            },
            _ => Vec::new(),
        };
        let words = argv.join(" ");
        BuildFailure {
            error: Error::invalid(format!(
                "The command '{words}' returned a non-zero code: {code}"
            )),
            code,
        }
    }

    // ---- mounts

    async fn extras(
        &mut self,
        done: &Done,
        found: &Located<Instruction>,
        run: &Run,
    ) -> Result<Extras, BuildFailure> {
        let mut extras = Extras::default();
        let working_dir = &done.state.config.config.working_dir;
        for flag in &run.mounts {
            let mount = flag.mount(&mut done.scope.expander());
            let mount = mount.map_err(|e| self.at(found, e))?;
            if let Some(what) = refusal(&mount) {
                let refused = self.at(found, what).report();
                return Err(Error::unsupported(refused).into());
            }
            extras.sum = digest(&[&extras.sum, flag.text(), &format!("{mount:?}")]);
            self.mount(found, mount, working_dir, &mut extras).await?;
        }
        if let Script::File { name, content } = run.script() {
            extras.mounts.push(self.script(&name, content).await?);
        }
        Ok(extras)
    }

    async fn mount(
        &mut self,
        found: &Located<Instruction>,
        mount: Mount,
        working_dir: &str,
        extras: &mut Extras,
    ) -> Result<(), BuildFailure> {
        match mount {
            Mount::Tmpfs {
                target,
                size,
                read_only,
            } => {
                let target = absolute(working_dir, &target);
                let mut spec = MountSpec::plain(MountKind::Tmpfs, "", &target);
                (spec.tmpfs_size, spec.read_only) = (size, read_only);
                extras.mounts.push(spec);
            }
            Mount::Bind {
                from,
                source,
                target,
                ..
            } => {
                let target = absolute(working_dir, &target);
                let (spec, sum) = self.bind(found, from.as_deref(), &source, &target).await?;
                extras.sum = digest(&[&extras.sum, &sum]);
                extras.mounts.push(spec);
            }
            Mount::Cache {
                id,
                target,
                read_only,
                sharing,
                owner,
                ..
            } => {
                let target = absolute(working_dir, &target);
                let dir = self.cache_dir(&digest(&["cache", &id]), owner).await?;
                if sharing != Sharing::Shared {
                    extras.turns.push(self.engine.builds.turn(&id).await);
                }
                let source = dir.to_string_lossy().into_owned();
                let mut spec = MountSpec::plain(MountKind::Bind, &source, &target);
                spec.read_only = read_only;
                extras.mounts.push(spec);
            }
            Mount::Secret {
                id, required: true, ..
            } => {
                let what = format!(
                    "secret {id} not found: the classic endpoint has no way to send one; leave required out, or copy it into a stage that is not kept"
                );
                return Err(self.at(found, what).into());
            }
            // a secret that is not there is not mounted, as it is said; others were refused
            Mount::Secret { .. } | Mount::Ssh { .. } => {}
        }
        Ok(())
    }

    /// A file with `#!` that is executed itself.
    async fn script(&self, name: &str, content: String) -> Result<MountSpec, Error> {
        let path = self
            .work
            .dir
            .join(format!("script-{}", crate::names::new_id()));
        let source = path.to_string_lossy().into_owned();
        let target = format!("/dev/pipes/{name}");
        self.engine
            .blocking("write the script of a RUN", move |_| {
                use std::os::unix::fs::PermissionsExt as _;
                let failed = || Error::io("write the script of a RUN");
                std::fs::write(&path, content).map_err(failed())?;
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(&path, mode).map_err(failed())
            })
            .await?;
        let mut spec = MountSpec::plain(MountKind::Bind, &source, &target);
        spec.read_only = true;
        Ok(spec)
    }

    async fn cache_dir(&self, name: &str, owner: Owner) -> Result<PathBuf, Error> {
        let name = name.to_owned();
        self.engine
            .blocking("make a cache's directory", move |inner| {
                let mode = owner.mode.unwrap_or(0o755);
                let ids = (owner.uid.unwrap_or(0), owner.gid.unwrap_or(0));
                let dir = inner.store.build_dir(&name, mode, ids);
                dir.map_err(Error::store("make a cache's directory"))
            })
            .await
    }

    /// A mount of files that are there, and what stands for their content.
    async fn bind(
        &mut self,
        found: &Located<Instruction>,
        from: Option<&str>,
        source: &str,
        target: &str,
    ) -> Result<(MountSpec, String), BuildFailure> {
        let source = absolute("/", source);
        let files = match from {
            None => None,
            Some(name) => Some(self.files_of(self.plan.source(name), found).await?),
        };
        match files {
            Some(From::Image(id)) => {
                let mut spec = MountSpec::plain(MountKind::Image, &id, target);
                spec.read_only = true;
                spec.subpath = Some(source[1..].to_owned()).filter(|s| !s.is_empty());
                let chain = self.chain_of(&id).await?;
                Ok((spec, chain))
            }
            Some(_) => Err(self
                .at(found, "the stage that is mounted from has no files")
                .into()),
            None => {
                let dir = self.work.context();
                let ignore = Arc::clone(&self.work.ignore);
                let wanted = source.clone();
                let (path, sum) = long(&self.engine, move |_| {
                    let root = context::open(&dir)?;
                    let failed = || Error::store("read the build context");
                    let at = pick::resolve(Some(root.as_fd()), wanted.as_bytes());
                    let at = at.map_err(failed())?;
                    if at.found == Found::Nothing {
                        return Err(Error::not_found(format!(
                            "RUN --mount=type=bind: {wanted} is not in the build context"
                        )));
                    }
                    let mut picked = pick::Picked::default();
                    let index = picked.root(root.as_fd());
                    let rules = pick::Rules {
                        choose: &|path| context::chosen(&ignore, path),
                        owner: None,
                        mode: &|mode, _| mode,
                    };
                    let taken = picked.take(index, &at.path, b"at", false, &rules);
                    taken.map_err(failed())?;
                    let sum = picked.digest().map_err(failed())?;
                    let path = String::from_utf8_lossy(&at.path).into_owned();
                    Ok((dir.join(path), sum))
                })
                .await?;
                let path = path.to_string_lossy().into_owned();
                let mut spec = MountSpec::plain(MountKind::Bind, &path, target);
                spec.read_only = true;
                Ok((spec, sum))
            }
        }
    }

    async fn chain_of(&self, image: &str) -> Result<String, Error> {
        let image = image.to_owned();
        let read = move |inner: &Inner| {
            let found = inner.store.image(&image);
            let found = found.map_err(Error::store("read the image that is mounted"))?;
            Ok(found
                .layers
                .last()
                .map(|l| l.chain.clone())
                .unwrap_or_default())
        };
        self.engine
            .blocking("read the image that is mounted", read)
            .await
    }
}

/// What would be accepted without effect.
fn refusal(mount: &Mount) -> Option<&'static str> {
    match mount {
        Mount::Ssh { .. } => {
            Some("RUN --mount=type=ssh is not built: the classic endpoint has no way to an agent")
        }
        Mount::Bind {
            read_only: false, ..
        } => Some("RUN --mount=type=bind,rw is not built: copy what is to be written"),
        Mount::Cache { from: Some(_), .. } => {
            Some("RUN --mount=type=cache,from= is not built: fill the cache by a RUN")
        }
        _ => None,
    }
}

async fn remove(engine: &Arc<Inner>, container: &str) -> Result<(), Error> {
    let entry = engine.containers.find(container)?;
    remove_entry(&entry).await
}

async fn remove_entry(entry: &Entry) -> Result<(), Error> {
    let options = RemoveOptions {
        force: true,
        volumes: true,
    };
    ask(entry, |reply| Command::Remove { options, reply }).await
}

/// Containers of builds that an earlier engine did not end.
pub(crate) async fn remove_left(entries: Vec<Arc<Entry>>) {
    for entry in entries {
        if let Err(error) = remove_entry(&entry).await {
            tracing::warn!(container = &*entry.id, error = %error.report(), "a build's container stays");
        }
    }
}

/// Tells what it writes until it has closed its streams.
async fn relay(mut stream: UnixStream, out: &super::BuildSender) {
    // what of a character each stream has written so far
    let mut begun: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
    let mut header = [0_u8; FRAME_HEADER];
    while stream.read_exact(&mut header).await.is_ok() {
        let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut left = len as usize;
        let which = usize::from(header[0] == 2);
        let mut buffer = vec![0; left.min(64 << 10)];
        while left > 0 {
            let n = left.min(buffer.len());
            if stream.read_exact(&mut buffer[..n]).await.is_err() {
                return;
            }
            left -= n;
            begun[which].extend_from_slice(&buffer[..n]);
            let text = take_text(&mut begun[which]);
            if !text.is_empty() {
                // a client that went away is noticed elsewhere
                drop(out.send(BuildMessage::Stream(text)).await);
            }
        }
    }
    for rest in begun.into_iter().filter(|b| !b.is_empty()) {
        let text = String::from_utf8_lossy(&rest).into_owned();
        drop(out.send(BuildMessage::Stream(text)).await);
    }
}

/// All but a character at the end that is not whole yet.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        Err(_) => bytes.len(),
    };
    let rest = bytes.split_off(whole);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

#[cfg(test)]
mod tests {
    use super::take_text;

    #[test]
    fn characters_are_not_torn() {
        let mut bytes = "aä".as_bytes()[..2].to_vec();
        assert_eq!(take_text(&mut bytes), "a");
        bytes.push(0xa4);
        assert_eq!(take_text(&mut bytes), "ä");
        let mut wrong = vec![b'x', 0xff, b'y'];
        assert_eq!(take_text(&mut wrong), "x\u{fffd}y");
        assert!(wrong.is_empty());
    }
}
