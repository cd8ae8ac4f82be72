//! An engine in directories of its own, and the check that it leaves nothing.

use std::io::{Cursor, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::{ContainerSpec, Phase};
use engine::{
    AttachOptions, ContainerView, Engine, EngineConfig, Error, ExecSpec, ExitStatus, RemoveOptions,
    WaitCondition,
};
use testkit::image::{BUSYBOX, Image};
use tokio::net::UnixStream;

/// Long enough for a loaded machine, short enough to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    engine: Option<Engine>,
    facts: Arc<host::Facts>,
}

impl Lab {
    /// An engine with the image `busybox:test`.
    pub(crate) async fn new() -> Self {
        let lab = Self::bare().await;
        let archive = Image::busybox().expect("the image is made").archive();
        lab.engine()
            .load(Box::new(Cursor::new(archive)), None)
            .await
            .expect("the image is loaded");
        lab
    }

    pub(crate) async fn bare() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root: they make namespaces, mounts and cgroups"
        );
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let facts = host::Facts::probe(&data, Duration::from_secs(10)).expect("the host is probed");
        let mut lab = Self {
            dir,
            engine: None,
            facts: Arc::new(facts),
        };
        lab.start().await;
        lab
    }

    pub(crate) fn config(&self) -> EngineConfig {
        EngineConfig {
            data_root: self.dir.path().join("data"),
            exec_root: self.dir.path().join("exec"),
            labels: Vec::new(),
            log: engine::model::LogSpec::default(),
            stop_timeout: 10,
            facts: self.facts.clone(),
            spawner: Some(testkit::instance::program()),
            debug: true,
            cgroup_driver: engine::CgroupDriver::default(),
            networks: engine::NetworkSettings::default(),
            registries: engine::RegistrySettings::default(),
            cdi_dirs: Vec::new(),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine runs")
    }

    /// Starts it again after [`Lab::drop_engine`].
    pub(crate) async fn start(&mut self) -> Duration {
        let begin = Instant::now();
        let engine = Engine::start(self.config()).await;
        let took = begin.elapsed();
        self.engine = Some(engine.unwrap_or_else(|e| panic!("engine does not start: {e:?}")));
        took
    }

    /// The engine is gone from one moment to the next, as far as that goes in one process:
    /// containers live on. Waits until its store can be opened again.
    pub(crate) async fn drop_engine(&mut self) {
        drop(self.engine.take());
        let lock = self.dir.path().join("data/lock");
        let begin = Instant::now();
        loop {
            let file = std::fs::File::open(&lock).unwrap();
            let flags = rustix::fs::FlockOperation::NonBlockingLockExclusive;
            if rustix::fs::flock(&file, flags).is_ok() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the store stays locked");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    // ---- containers

    pub(crate) async fn create(&self, spec: ContainerSpec) -> Result<String, Error> {
        let created = Box::pin(self.engine().create(None, spec));
        created.await.map(|c| c.id)
    }

    pub(crate) async fn run(&self, spec: ContainerSpec) -> String {
        let id = self
            .create(spec)
            .await
            .unwrap_or_else(|e| panic!("create: {}", e.report()));
        let started = self.engine().start_container(&id).await;
        started.unwrap_or_else(|e| panic!("start: {}", e.report()));
        id
    }

    /// Runs to its end; its code and its output, stdout and stderr together as logged.
    pub(crate) async fn output(&self, spec: ContainerSpec) -> (i32, String) {
        let id = self
            .create(spec)
            .await
            .unwrap_or_else(|e| panic!("create: {}", e.report()));
        let exit = self
            .engine()
            .wait(&id, WaitCondition::NextExit)
            .await
            .unwrap();
        let started = self.engine().start_container(&id).await;
        started.unwrap_or_else(|e| panic!("start: {}", e.report()));
        let status = within("the exit", exit).await.unwrap();
        (status.code, self.logs(&id).await)
    }

    pub(crate) async fn logs(&self, id: &str) -> String {
        let options = engine::LogOptions {
            stdout: true,
            stderr: true,
            ..engine::LogOptions::default()
        };
        let mut lines = self
            .engine()
            .logs(id, options)
            .await
            .expect("the log opens");
        let mut text = Vec::new();
        while let Some(line) = within("a line", lines.next()).await {
            text.extend(line.expect("a line is read").bytes);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(crate) fn view(&self, id: &str) -> Arc<ContainerView> {
        self.engine().find(id).unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) async fn phase(&self, id: &str, wanted: Phase) -> Arc<ContainerView> {
        self.until(&format!("{wanted:?}"), || {
            let view = self.view(id);
            (view.phase == wanted).then_some(view)
        })
        .await
    }

    pub(crate) async fn until<T>(&self, what: &str, mut f: impl FnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = f() {
                return found;
            }
            if begin.elapsed() > PATIENCE {
                let views: Vec<_> = self
                    .engine()
                    .snapshot()
                    .containers
                    .iter()
                    .map(|c| {
                        format!(
                            "{} {:?} pid {} code {} {}",
                            c.name(),
                            c.phase,
                            c.pid,
                            c.exit_code,
                            c.error
                        )
                    })
                    .collect();
                panic!("waited {PATIENCE:?} for {what}: {views:#?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn wait(&self, id: &str) -> ExitStatus {
        let waiter = self
            .engine()
            .wait(id, WaitCondition::NotRunning)
            .await
            .unwrap();
        within("the exit", waiter).await.unwrap()
    }

    pub(crate) async fn remove(&self, id: &str) {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        let removed = self.engine().remove(id, options).await;
        removed.unwrap_or_else(|e| panic!("remove: {}", e.report()));
    }

    /// Code and output of a program added to a container.
    pub(crate) async fn exec(&self, id: &str, argv: &[&str]) -> Result<(i32, String), Error> {
        let spec = ExecSpec {
            argv: words(argv),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecSpec::default()
        };
        let exec = self.engine().exec_create(id, spec).await?;
        let stream = self.engine().exec_start(&exec, true, None).await?;
        let bytes = read_all(stream.expect("attached")).await;
        let code = self
            .until("the exec's end", || {
                self.engine().exec_inspect(&exec).unwrap().exit_code
            })
            .await;
        Ok((code, stdout(&bytes)))
    }

    // ---- what must not stay

    fn instance(&self) -> String {
        runtime::cgroup::instance_name(&self.dir.path().join("exec"))
    }

    /// Cgroups below the instance's own, run directories, mounts that name our directories.
    pub(crate) fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        for hierarchy in &self.facts.cgroup.hierarchies {
            let parent = hierarchy.own.join(self.instance());
            for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    found.push(format!("cgroup {}", entry.path().display()));
                }
            }
        }
        let shims = self.dir.path().join("exec/shims");
        for entry in std::fs::read_dir(shims).into_iter().flatten().flatten() {
            found.push(format!("run directory {}", entry.path().display()));
        }
        let ours = self.dir.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        found.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&ours))
                .map(|l| format!("mount {l}")),
        );
        found
    }

    /// Everything removed, then nothing is left.
    pub(crate) async fn end(mut self) {
        for view in &self.engine().snapshot().containers {
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            let removed = self.engine().remove(view.id(), options).await;
            if let Err(error) = removed {
                assert_eq!(
                    error.kind(),
                    engine::model::ErrorKind::NotFound,
                    "remove {}: {}",
                    view.name(),
                    error.report()
                );
            }
        }
        let begin = Instant::now();
        while !self.remains().is_empty() {
            assert!(
                begin.elapsed() < PATIENCE,
                "left behind: {:#?}",
                self.remains()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let containers = self.dir.path().join("data/containers");
        let left: Vec<PathBuf> = std::fs::read_dir(containers)
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        self.engine().shutdown().await;
        self.engine = None;
    }
}

impl Drop for Lab {
    /// A test that failed leaves containers: their processes are killed by their cgroups.
    fn drop(&mut self) {
        let cgroup = &self.facts.cgroup;
        for stray in runtime::cgroup::Cgroup::strays(cgroup, &self.instance(), &[]) {
            for pid in stray.pids().unwrap_or_default() {
                // a shim that the test stopped has to be there for the end
                if std::path::Path::new(&format!("/proc/{pid}")).exists() && parent_of(pid) != 1 {
                    signal(parent_of(pid), rustix::process::Signal::CONT);
                }
            }
            drop(stray.remove(Duration::from_secs(5)));
        }
        // they write their last words into the directory that goes next
        let begin = Instant::now();
        let shims = self.dir.path().join("exec/shims");
        while begin.elapsed() < Duration::from_secs(5)
            && std::fs::read_dir(&shims).is_ok_and(|d| d.count() > 0)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        runtime::cgroup::Cgroup::remove_instance(cgroup, &self.instance());
    }
}

pub(crate) fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

/// A container of the test's image that runs this.
pub(crate) fn spec(argv: &[&str]) -> ContainerSpec {
    ContainerSpec {
        image: BUSYBOX.to_owned(),
        command: Some(words(argv)),
        ..ContainerSpec::default()
    }
}

pub(crate) fn sh(script: &str) -> ContainerSpec {
    spec(&["sh", "-c", script])
}

/// Runs until it is told to end, and ends at once then.
pub(crate) fn idle() -> ContainerSpec {
    sh("trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
}

pub(crate) async fn within<T>(what: &str, f: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, f)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

pub(crate) async fn read_all(stream: UnixStream) -> Vec<u8> {
    let stream: StdStream = stream.into_std().unwrap();
    let read = tokio::task::spawn_blocking(move || {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        let mut stream = stream;
        stream.read_to_end(&mut bytes).expect("the stream ends");
        bytes
    });
    read.await.unwrap()
}

pub(crate) async fn write_all(stream: &UnixStream, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        within("room to write", stream.writable()).await.unwrap();
        match stream.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("write: {e}"),
        }
    }
}

/// Reads until the text is seen on the stream.
pub(crate) async fn read_until(stream: &UnixStream, wanted: &str) -> Vec<u8> {
    let mut got = Vec::new();
    let begin = Instant::now();
    while !String::from_utf8_lossy(&got).contains(wanted) {
        assert!(
            begin.elapsed() < PATIENCE,
            "waited for {wanted:?} in {got:?}"
        );
        let mut buffer = [0; 4096];
        within("output", stream.readable()).await.unwrap();
        match stream.try_read(&mut buffer) {
            Ok(0) => panic!("the stream ended before {wanted:?}: {got:?}"),
            Ok(n) => got.write_all(&buffer[..n]).unwrap(),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => panic!("read: {e}"),
        }
    }
    got
}

pub(crate) fn stdout(frames: &[u8]) -> String {
    testkit::http::stream_text(frames, 1)
}

pub(crate) fn all_streams() -> AttachOptions {
    AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        logs: false,
    }
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("the process takes the signal");
}

/// A process is gone, or a zombie that its parent has not looked at yet.
pub(crate) fn is_dead(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| {
        s.rsplit(')')
            .next()
            .is_some_and(|r| r.trim().starts_with('Z'))
    })
}

pub(crate) fn parent_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find(|l| l.starts_with("PPid:")).unwrap();
    line[5..].trim().parse().unwrap()
}
