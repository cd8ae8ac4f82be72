//! How long the engine's calls take, without a front door: medians of so many rounds.
//!
//! `cargo run --release -p engine --example latency -- 100 [data root]`

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::{ContainerSpec, LogSpec, NetworkMode};
use engine::{Engine, EngineConfig, ExecSpec, RemoveOptions, WaitCondition};
use testkit::image::{BUSYBOX, Image};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if std::env::args().nth(1).as_deref() == Some("spawner") {
        let code = shim::spawner::main();
        return if code == 0 {
            Ok(())
        } else {
            Err(format!("the spawner ended with {code}").into())
        };
    }
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(100), |n| n.parse::<usize>())?;
    let root = std::env::args().nth(2).map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(measure(rounds, root))
}

fn spec(argv: &[&str]) -> ContainerSpec {
    let mut spec = ContainerSpec {
        image: BUSYBOX.to_owned(),
        command: Some(argv.iter().map(|w| (*w).to_owned()).collect()),
        ..ContainerSpec::default()
    };
    spec.host.network = NetworkMode::None;
    spec
}

struct Table(Vec<(&'static str, Vec<Duration>)>);

impl Table {
    fn add(&mut self, what: &'static str, since: Instant) {
        let took = since.elapsed();
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, all)) => all.push(took),
            None => self.0.push((what, vec![took])),
        }
    }

    #[expect(clippy::print_stdout, reason = "a measuring program prints")]
    fn print(mut self) {
        for (what, all) in &mut self.0 {
            all.sort();
            println!(
                "{what:32} median {:>9.3?}  p95 {:>9.3?}  n {}",
                all[all.len() / 2],
                all[all.len() * 95 / 100],
                all.len()
            );
        }
    }
}

async fn measure(rounds: usize, root: Option<PathBuf>) -> Result<(), Failure> {
    let dir = match root {
        Some(root) => tempfile::tempdir_in(root)?,
        None => tempfile::tempdir()?,
    };
    let data_root = dir.path().join("data");
    std::fs::create_dir_all(&data_root)?;
    let config = EngineConfig {
        facts: Arc::new(host::Facts::probe(&data_root, Duration::from_secs(10))?),
        data_root,
        exec_root: dir.path().join("exec"),
        labels: Vec::new(),
        log: LogSpec::default(),
        stop_timeout: 10,
        spawner: None,
        debug: false,
        cgroup_driver: engine::CgroupDriver::default(),
        networks: engine::NetworkSettings::default(),
        registries: engine::RegistrySettings::default(),
        cdi_dirs: Vec::new(),
    };
    let mut table = Table(Vec::new());
    let engine = Engine::start(config.clone()).await?;
    let archive = Image::busybox()?.archive();
    engine.load(Box::new(Cursor::new(archive)), None).await?;
    for _ in 0..rounds {
        one_that_lasts(&engine, &mut table).await?;
        one_that_does_not(&engine, &mut table).await?;
    }
    many(&engine, &mut table).await?;
    // adoption of what is there
    drop(engine);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = Instant::now();
    let engine = Engine::start(config).await?;
    table.add("adoption of 100, engine ready", begin);
    let running = || {
        let all = engine.snapshot();
        all.containers.iter().filter(|c| c.is_running()).count()
    };
    while running() < 100 && begin.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    table.add("adoption of 100, all adopted", begin);
    for view in &engine.snapshot().containers {
        engine.remove(view.id(), forced()).await?;
    }
    table.print();
    engine.shutdown().await;
    Ok(())
}

fn forced() -> RemoveOptions {
    RemoveOptions {
        force: true,
        volumes: true,
    }
}

async fn one_that_lasts(engine: &Engine, table: &mut Table) -> Result<(), Failure> {
    let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let begin = Instant::now();
    let id = engine.create(None, spec(&["sh", "-c", script])).await?.id;
    table.add("create", begin);
    let start = Instant::now();
    engine.start_container(&id).await?;
    table.add("start", start);
    table.add("create + start", begin);
    let exec = Instant::now();
    let wanted = ExecSpec {
        argv: vec!["true".to_owned()],
        attach_stdout: true,
        ..ExecSpec::default()
    };
    let exec_id = engine.exec_create(&id, wanted).await?;
    let stream = engine.exec_start(&exec_id, true, None).await?;
    table.add("exec (create, start)", exec);
    if let Some(stream) = stream {
        let mut buffer = [0; 64];
        loop {
            stream.readable().await?;
            if matches!(stream.try_read(&mut buffer), Ok(0)) {
                break;
            }
        }
    }
    table.add("exec true to its end", exec);
    let stop = Instant::now();
    engine.stop(&id, None, None).await?;
    table.add("stop (dies on TERM)", stop);
    let remove = Instant::now();
    engine.remove(&id, forced()).await?;
    table.add("remove", remove);
    Ok(())
}

async fn one_that_does_not(engine: &Engine, table: &mut Table) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut spec = spec(&["true"]);
    spec.host.auto_remove = true;
    let id = engine.create(None, spec).await?.id;
    let gone = engine.wait(&id, WaitCondition::Removed).await?;
    engine.start_container(&id).await?;
    table.add("--rm: create + start", begin);
    gone.await?;
    table.add("--rm true: create to removed", begin);
    Ok(())
}

async fn many(engine: &Engine, table: &mut Table) -> Result<(), Failure> {
    let begin = Instant::now();
    let clients = (0..8).map(|client| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for _ in (client..100).step_by(8) {
                let id = engine.create(None, spec(&["sleep", "1000"])).await?.id;
                engine.start_container(&id).await?;
            }
            Ok::<_, engine::Error>(())
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await??;
    }
    table.add("100 create + start, 8 clients", begin);
    Ok(())
}
