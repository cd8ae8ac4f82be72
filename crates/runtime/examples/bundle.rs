//! Runs a bundle's container to its end, as `run` of an OCI runtime does, with the caller's stdio.

#![expect(clippy::print_stderr, reason = "an example")]
#![expect(clippy::unwrap_used, reason = "an example")]

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use runtime::cgroup::Cgroup;
use runtime::{Asked, Choices, Descriptors, EncodedPlan, PlanInput, Rootfs, SeccompChoice};

fn main() {
    let bundle = std::env::args().nth(1).unwrap();
    let bundle = Path::new(&bundle);
    let config = match runtime::config::read(&std::fs::read(bundle.join("config.json")).unwrap()) {
        Ok(c) => c,
        Err(e) => return eprintln!("config.json: {e}"),
    };
    config
        .warnings
        .iter()
        .for_each(|w| eprintln!("warning: {w}"));
    let spec = config.spec;
    let facts = host::Facts::probe(Path::new("/tmp"), Duration::from_secs(10)).unwrap();
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let id = format!("bundle{}", std::process::id());
    let cgroup = Cgroup::of(&facts.cgroup, "plimsoll-bundle", &id, resources, None);
    let root = bundle.join(spec.root().as_ref().unwrap().path());
    let plan = runtime::plan(&PlanInput {
        spec: &spec,
        facts: &facts,
        rootfs: Rootfs::Path(&root),
        cgroup: (facts.process.uid == 0).then_some(&cgroup),
        seccomp: SeccompChoice::Spec,
        init: false,
        mount_names: BTreeMap::new(),
        asked: Asked::default(),
        create_cwd: true,
        die_with_parent: true,
        choices: Choices {
            strict_limits: true,
            bundle: Some(bundle.to_owned()),
            ..Choices::default()
        },
    });
    let plan = match plan {
        Ok(p) => p,
        Err(e) => {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            return eprintln!("plan: {e} {}", source.unwrap_or_default());
        }
    };
    plan.warnings()
        .iter()
        .for_each(|w| eprintln!("warning: {w}"));
    let encoded = EncodedPlan::decode(plan.encode()).unwrap();
    let (i, o, e) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let fds = Descriptors {
        root: None,
        stdio: [i.as_fd(), o.as_fd(), e.as_fd()],
        target: None,
        passed: &[],
    };
    match runtime::spawn(&encoded, &fds) {
        Ok(s) => {
            let pidfd = rustix::process::WaitId::PidFd(s.pidfd.as_fd());
            let exited = rustix::process::WaitIdOptions::EXITED;
            let status = rustix::process::waitid(pidfd, exited).unwrap().unwrap();
            if status.exit_status() != Some(0) {
                eprintln!("ended: {status:?}");
            }
        }
        Err(e) => eprintln!("start: {}", plan.explain(e)),
    }
    cgroup.remove(Duration::from_secs(5)).unwrap();
    Cgroup::remove_instance(&facts.cgroup, "plimsoll-bundle");
}
