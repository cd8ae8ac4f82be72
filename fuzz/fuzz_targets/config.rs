//! A config.json from a stranger's bundle: an error, or a plan that decodes; never a panic.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use host::{CgroupFacts, CgroupHierarchy, CgroupMode, CgroupVersion, Facts};
use libfuzzer_sys::fuzz_target;
use runtime::cgroup::Cgroup;
use runtime::{Asked, Choices, EncodedPlan, PlanInput, Rootfs, SeccompChoice};

/// A host that has everything, so that no plan ends early.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(|| {
        let mut facts = Facts::probe(Path::new("/tmp"), std::time::Duration::from_secs(10))
            .expect("/proc is there");
        facts.process.uid = 0;
        let all = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_KILL"].map(str::to_owned);
        facts.process.capabilities = all.clone().into();
        facts.process.bounding = all.into();
        (
            facts.mount.fsopen,
            facts.mount.move_mount,
            facts.mount.open_tree,
        ) = (true, true, true);
        facts.mount.mount_setattr = true;
        (facts.lsm.apparmor, facts.lsm.selinux) = (true, true);
        let controllers = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb", "rdma"];
        facts.cgroup = CgroupFacts {
            mode: CgroupMode::V2,
            hierarchies: vec![CgroupHierarchy {
                version: CgroupVersion::V2,
                mount: PathBuf::from("/sys/fs/cgroup"),
                own: PathBuf::from("/sys/fs/cgroup"),
                controllers: controllers.map(str::to_owned).into(),
                writable: true,
            }],
            files: BTreeSet::new(),
            clone_into_cgroup: true,
            kill: true,
            swap_accounting: true,
            pids: true,
            cpu_quota: true,
            systemd: false,
        };
        facts
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = runtime::config::read(bytes) else {
        return;
    };
    let resources = config
        .spec
        .linux()
        .as_ref()
        .and_then(|l| l.resources().as_ref());
    let cgroup = Cgroup::of(&facts().cgroup, "fuzz", "c1", resources, None);
    let plan = runtime::plan(&PlanInput {
        spec: &config.spec,
        facts: facts(),
        rootfs: Rootfs::Path(Path::new("/rootfs")),
        cgroup: Some(&cgroup),
        seccomp: SeccompChoice::Spec,
        init: false,
        mount_names: BTreeMap::new(),
        asked: Asked::default(),
        create_cwd: true,
        die_with_parent: true,
        choices: Choices {
            strict_limits: true,
            bundle: Some(PathBuf::from("/bundle")),
            ..Choices::default()
        },
    });
    if let Ok(plan) = plan {
        assert!(EncodedPlan::decode(plan.encode()).is_ok(), "a plan decodes");
        assert!(!plan.describe().is_empty());
    }
});
