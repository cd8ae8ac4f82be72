//! Plans are values: what they look like, and that nothing but a plan decodes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use host::{CgroupFacts, CgroupHierarchy, CgroupMode, CgroupVersion, Facts};
use oci_spec::runtime::Spec;
use proptest::prelude::*;
use runtime::cgroup::Cgroup;
use runtime::{Asked, EncodedPlan, ExecInput, Plan, PlanInput, Rootfs, SeccompChoice};
use serde_json::{Value, json};

use crate::harness::docker_spec;

/// A made-up host, so that plans don't depend on this one.
fn host(mode: CgroupMode) -> Facts {
    let v1 = |name: &str| CgroupHierarchy {
        version: CgroupVersion::V1,
        mount: Path::new("/sys/fs/cgroup").join(name),
        own: Path::new("/sys/fs/cgroup").join(name),
        controllers: name.split(',').map(str::to_owned).collect(),
        writable: true,
    };
    let v2 = |controllers: &[&str]| CgroupHierarchy {
        version: CgroupVersion::V2,
        mount: PathBuf::from("/sys/fs/cgroup"),
        own: PathBuf::from("/sys/fs/cgroup/system.slice/plimsoll.service"),
        controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        writable: true,
    };
    let hierarchies = match mode {
        CgroupMode::V2 => vec![v2(&["cpuset", "cpu", "io", "memory", "pids"])],
        _ => [
            "memory",
            "cpu,cpuacct",
            "cpuset",
            "pids",
            "devices",
            "freezer",
            "blkio",
        ]
        .map(v1)
        .into(),
    };
    let mut facts = crate::harness::facts().clone();
    facts.cgroup = CgroupFacts {
        mode,
        hierarchies,
        files: BTreeSet::new(),
        clone_into_cgroup: mode == CgroupMode::V2,
        kill: mode == CgroupMode::V2,
        swap_accounting: true,
        pids: true,
        cpu_quota: true,
        systemd: false,
    };
    facts.lsm = host::LsmFacts {
        apparmor: true,
        ..Default::default()
    };
    facts.process.oom_score_adj = 0;
    facts.process.bounding = (0..41)
        .filter_map(|b| crate::harness::DEFAULT_CAPS.get(b).map(|c| (*c).to_owned()))
        .chain(["CAP_SYS_ADMIN".to_owned()])
        .collect();
    facts.mount.mount_setattr = true;
    facts
}

fn plan_of(spec: &Value, mode: CgroupMode) -> Plan {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let facts = host(mode);
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let cgroup = Cgroup::of(&facts.cgroup, "plimsoll-0123abcd", "c1", resources, None);
    runtime::plan(&PlanInput {
        spec: &spec,
        facts: &facts,
        rootfs: Rootfs::Descriptor,
        cgroup: Some(&cgroup),
        seccomp: SeccompChoice::Default,
        init: false,
        mount_names: BTreeMap::from([("/data".into(), "volume data".into())]),
        asked: Asked::default(),
        create_cwd: true,
        die_with_parent: true,
    })
    .unwrap()
}

#[test]
fn dockers_defaults_on_version_1() {
    let spec = docker_spec(&["postgres", "-c", "x=y"]);
    insta::assert_snapshot!(plan_of(&spec, CgroupMode::V1).describe());
}

#[test]
fn everything_asked_for_on_version_2() {
    let mut spec = docker_spec(&["/bin/app"]);
    let p = &mut spec["process"];
    p["terminal"] = json!(true);
    p["consoleSize"] = json!({"height": 24, "width": 80});
    p["user"] = json!({"uid": 999, "gid": 998, "additionalGids": [5], "umask": 0o077});
    p["noNewPrivileges"] = json!(true);
    p["apparmorProfile"] = json!("docker-default");
    p["oomScoreAdj"] = json!(300);
    p["cwd"] = json!("/srv");
    p["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}]);
    spec["root"]["readonly"] = json!(true);
    spec["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "/data", "type": "bind", "source": "/var/lib/plimsoll/volumes/data/_data", "options": ["rbind", "rprivate"]}),
        json!({"destination": "/etc/hosts", "type": "bind", "source": "/run/hosts", "options": ["bind", "ro"]}),
        json!({"destination": "/shared", "type": "bind", "source": "/mnt/shared", "options": ["rbind", "rshared", "rro"]}),
    ]);
    spec["linux"]["sysctl"] = json!({"net.core.somaxconn": "1024"});
    spec["linux"]["devices"] =
        json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
    spec["linux"]["resources"] = json!({
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}],
        "memory": {"limit": 1000, "swap": 3000, "swappiness": 5},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0-1"},
        "pids": {"limit": 100},
        "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}
    });
    let plan = plan_of(&spec, CgroupMode::V2);
    insta::assert_snapshot!(plan.describe());
    assert_eq!(
        plan.warnings(),
        ["this host can't limit swappiness: its kernel or control groups lack it"]
    );
    let encoded = EncodedPlan::decode(plan.encode()).unwrap();
    assert!(encoded.terminal());
    let paths: Vec<_> = encoded
        .cgroup()
        .unwrap()
        .paths()
        .map(Path::to_owned)
        .collect();
    assert_eq!(
        paths,
        [PathBuf::from("/sys/fs/cgroup/plimsoll-0123abcd/c1")]
    );
}

#[test]
fn an_exec() {
    let spec: Spec = serde_json::from_value(docker_spec(&["app"])).unwrap();
    let facts = host(CgroupMode::V1);
    let cgroup = Cgroup::of(&facts.cgroup, "plimsoll-0123abcd", "c1", None, None);
    let plan = runtime::plan_exec(&ExecInput {
        container: &spec,
        process: spec.process().as_ref().unwrap(),
        facts: &facts,
        cgroup: Some(&cgroup),
        seccomp: SeccompChoice::Default,
        asked: Asked::default(),
        die_with_parent: false,
    })
    .unwrap();
    insta::assert_snapshot!(plan.describe());
    assert!(
        EncodedPlan::decode(plan.encode())
            .unwrap()
            .cgroup()
            .is_none()
    );
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let refused = |pointer: &str, value: Value| {
        let mut c = crate::Container::sh("true");
        c = c.set(pointer, value);
        c.plan().unwrap_err().to_string()
    };
    let hooks = json!({"poststart": [{"path": "/bin/true"}]});
    assert!(refused("/hooks", hooks).contains("hooks"));
    assert!(refused("/linux/mountLabel", json!("system_u")).contains("linux.mountLabel"));
    assert!(refused("/linux/intelRdt", json!({})).contains("intelRdt"));
}

proptest! {
    #[test]
    fn damaged_plans_never_decode_into_a_panic(at in 0..20_000_usize, byte: u8, cut in 0..20_000_usize) {
        thread_local!(static PLAN: Vec<u8> = plan_of(&docker_spec(&["app"]), CgroupMode::V1).encode().to_vec());
        let mut bytes = PLAN.with(Clone::clone);
        let n = bytes.len();
        bytes[at % n] = byte;
        let whole = EncodedPlan::decode(&bytes).map(|p| p.cgroup()).is_ok();
        let _either = whole;
        prop_assert!(EncodedPlan::decode(&bytes[..cut % n]).is_err());
    }
}
