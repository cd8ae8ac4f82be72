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
    plan_with(&spec, mode, runtime::Choices::default()).unwrap()
}

fn plan_with(
    spec: &Spec,
    mode: CgroupMode,
    choices: runtime::Choices,
) -> Result<Plan, runtime::PlanError> {
    let facts = host(mode);
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let cgroup = Cgroup::of(&facts.cgroup, "plimsoll-0123abcd", "c1", resources, None);
    runtime::plan(&PlanInput {
        spec,
        facts: &facts,
        rootfs: Rootfs::Descriptor,
        cgroup: Some(&cgroup),
        seccomp: SeccompChoice::Default,
        init: false,
        mount_names: BTreeMap::from([("/data".into(), "volume data".into())]),
        asked: Asked::default(),
        create_cwd: true,
        die_with_parent: true,
        choices,
    })
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
        choices: runtime::Choices::default(),
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
    let label = json!("system_u:object_r:svirt_sandbox_file_t:s0");
    assert!(refused("/process/selinuxLabel", label).contains("SELinux"));
    assert!(refused("/linux/intelRdt", json!({})).contains("intelRdt"));
}

/// As under crun: there is nothing to label.
#[test]
fn a_mount_label_without_selinux_is_warned_of() {
    let label = json!("system_u:object_r:svirt_sandbox_file_t:s0");
    let c = crate::Container::sh("true").set("/linux/mountLabel", label);
    let warnings = c.plan().unwrap().warnings().join(" ");
    assert!(warnings.contains("linux.mountLabel"), "{warnings}");
}

/// The values a plan writes, by file.
fn written(resources: Value, mode: CgroupMode) -> Vec<String> {
    let mut spec = docker_spec(&["app"]);
    spec["linux"]["resources"] = resources;
    let text = plan_of(&spec, mode).describe();
    let lines = text.lines().filter_map(|l| l.strip_prefix("write "));
    lines
        .map(|l| {
            let l = l.replace('"', "");
            l.rsplit_once("/c1/").unwrap().1.to_owned()
        })
        .collect()
}

/// Version 1's values as version 2 has them, as runc converts.
#[test]
fn resources_are_converted_for_version_2() {
    let v2 = |r| written(r, CgroupMode::V2);
    let memory = json!({"memory": {"limit": 1000, "swap": 3000, "reservation": 500}});
    assert_eq!(
        v2(memory),
        ["memory.max 1000", "memory.swap.max 2000", "memory.low 500"]
    );
    let unlimited = json!({"memory": {"limit": -1}});
    assert_eq!(v2(unlimited), ["memory.max max", "memory.swap.max max"]);
    let cpu = json!({"cpu": {"shares": 1024, "quota": 0, "period": 50_000, "burst": 7, "idle": 1}});
    let expected = [
        "cpu.weight 100",
        "cpu.max max 50000",
        "cpu.max.burst 7",
        "cpu.idle 1",
    ];
    assert_eq!(v2(cpu), expected);
    let io = json!({"blockIO": {
        "weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]
    }});
    let expected = [
        "io.weight default 1",
        "io.weight 8:0 10000",
        "io.max 8:0 rbps=5",
        "io.max 8:0 wiops=max",
    ];
    assert_eq!(v2(io), expected);
    let unified = json!({"unified": {"memory.high": "77", "cgroup.max.depth": "3"}});
    assert_eq!(v2(unified), ["cgroup.max.depth 3", "memory.high 77"]);
    assert_eq!(v2(json!({"pids": {"limit": -1}})), ["pids.max max"]);
}

#[test]
fn resources_of_version_1() {
    let v1 = |r| written(r, CgroupMode::V1);
    let memory = json!({"memory": {
        "limit": 1000, "swap": 3000, "kernel": 1, "kernelTCP": 50, "disableOOMKiller": true,
        "useHierarchy": true, "checkBeforeUpdate": true
    }});
    let expected = [
        "memory.limit_in_bytes 1000",
        "memory.memsw.limit_in_bytes 3000",
        "memory.oom_control 1",
        "memory.kmem.tcp.limit_in_bytes 50",
    ];
    assert_eq!(v1(memory), expected);
    let cpu =
        json!({"cpu": {"realtimePeriod": 1000, "realtimeRuntime": 10, "cpus": "0-1", "mems": "0"}});
    let expected = [
        "cpu.rt_period_us 1000",
        "cpu.rt_runtime_us 10",
        "cpuset.cpus 0-1",
        "cpuset.mems 0",
    ];
    assert_eq!(v1(cpu), expected);
    let io = json!({"blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 9}]}});
    assert_eq!(v1(io), ["blkio.throttle.read_iops_device 8:0 9"]);
}

#[test]
fn limits_that_contradict_themselves_are_refused() {
    let refused = |resources: Value, mode, strict| {
        let mut spec = docker_spec(&["app"]);
        spec["linux"]["resources"] = resources;
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let choices = runtime::Choices {
            strict_limits: strict,
            ..Default::default()
        };
        plan_with(&spec, mode, choices).unwrap_err().to_string()
    };
    let swap = json!({"memory": {"limit": 3000, "swap": 1000}});
    assert!(refused(swap, CgroupMode::V2, false).contains("lower than that of memory"));
    let swap = json!({"memory": {"swap": 1000}});
    assert!(refused(swap, CgroupMode::V2, false).contains("needs a limit of memory"));
    let swappy = json!({"memory": {"swappiness": 101}});
    assert!(refused(swappy, CgroupMode::V1, false).contains("0 to 100"));
    let unified = json!({"unified": {"memory.high": "1"}});
    assert!(refused(unified, CgroupMode::V1, false).contains("version 2"));
    let unified = json!({"unified": {"rdma.max": "1"}});
    assert!(refused(unified, CgroupMode::V2, false).contains("controller rdma"));
    let path = json!({"unified": {"../x": "1"}});
    assert!(refused(path, CgroupMode::V2, false).contains("no file"));
    // an OCI runtime does not go on without what was asked for
    let rdma = json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}});
    assert!(refused(rdma, CgroupMode::V1, true).contains("rdma"));
    let huge = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]});
    assert!(refused(huge, CgroupMode::V2, true).contains("huge pages"));
    let class = json!({"network": {"classID": 1}});
    assert!(refused(class, CgroupMode::V1, true).contains("network class"));
}

/// Who reads a bundle of a stranger's gets a plan or an error, never a panic.
fn survives(bytes: &[u8]) {
    let Ok(config) = runtime::config::read(bytes) else {
        return;
    };
    for mode in [CgroupMode::V1, CgroupMode::V2] {
        if let Ok(plan) = plan_with(&config.spec, mode, runtime::Choices::default()) {
            assert!(EncodedPlan::decode(plan.encode()).is_ok());
        }
    }
}

#[test]
fn a_huge_configuration_is_planned_or_refused() {
    let mut spec = docker_spec(&["app"]);
    spec["process"]["env"] = json!(vec!["A=b".repeat(100); 20_000]);
    spec["linux"]["maskedPaths"] = json!(vec!["/a"; 20_000]);
    survives(spec.to_string().as_bytes());
    spec["process"]["user"]["additionalGids"] = json!(vec![1; 100_000]);
    survives(spec.to_string().as_bytes());
    spec["linux"]["uidMappings"] = json!(vec![
        json!({"containerID": 0, "hostID": 0, "size": 1});
        5000
    ]);
    survives(spec.to_string().as_bytes());
}

proptest! {
    #[test]
    fn a_changed_configuration_never_panics(at in 0..6000_usize, with in "[0-9a-z\"{}\\[\\],:-]{0,3}", cut in 0..4_usize) {
        let mut text = docker_spec(&["app"]).to_string();
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &with);
        survives(text.as_bytes());
    }

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
