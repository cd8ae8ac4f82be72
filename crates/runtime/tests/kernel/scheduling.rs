//! Scheduler, affinity, memory policy, priorities, personality.

use serde_json::{Value, json};

use crate::Container;

fn refused(pointer: &str, value: Value) -> String {
    let c = Container::sh("true").set(pointer, value);
    c.plan().unwrap_err().to_string()
}

/// `policy` of /proc/self/sched, `nice` and `rt_priority` of /proc/self/stat.
fn scheduled(scheduler: Value) -> String {
    let script = "cut -d' ' -f19,40,41 /proc/self/stat";
    let c = Container::sh(script).set("/process/scheduler", scheduler);
    c.run().stdout.trim().to_owned()
}

#[test]
fn every_scheduling_policy() {
    // nice, real-time priority, policy
    assert_eq!(
        scheduled(json!({"policy": "SCHED_OTHER", "nice": 7})),
        "7 0 0"
    );
    assert_eq!(
        scheduled(json!({"policy": "SCHED_BATCH", "nice": 3})),
        "3 0 3"
    );
    assert_eq!(scheduled(json!({"policy": "SCHED_IDLE"})), "0 0 5");
    assert_eq!(
        scheduled(json!({"policy": "SCHED_FIFO", "priority": 10})),
        "0 10 1"
    );
    assert_eq!(
        scheduled(json!({"policy": "SCHED_RR", "priority": 5})),
        "0 5 2"
    );
    let deadline = json!({
        "policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 10_000_000,
        "period": 10_000_000, "flags": ["SCHED_RESET_ON_FORK"]
    });
    // its forks are ordinary again: the shell itself is asked
    let script = "while read -r line; do set -- $line; echo ${41}; done < /proc/self/stat";
    let out = Container::sh(script)
        .set("/process/scheduler", deadline)
        .run();
    assert_eq!(out.stdout, "6\n", "{out:?}");
}

#[test]
fn a_scheduler_that_contradicts_itself_is_refused() {
    let why = |v| refused("/process/scheduler", v);
    assert!(why(json!({"policy": "SCHED_OTHER", "priority": 3})).contains("priority"));
    assert!(why(json!({"policy": "SCHED_OTHER", "nice": 20})).contains("nice"));
    assert!(why(json!({"policy": "SCHED_FIFO", "priority": 1, "runtime": 5})).contains("DEADLINE"));
    let clamp = json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_UTIL_CLAMP_MIN"]});
    assert!(why(clamp).contains("no field"));
}

#[test]
fn an_exec_runs_on_its_processors() {
    let c = Container::sh("echo up; cat").in_cgroup();
    let r = c.start().unwrap();
    r.line();
    let allowed = |affinity: Value| {
        let args = ["grep", "Cpus_allowed_list", "/proc/self/status"];
        let out = c.exec(&r, &args, |p| p["execCPUAffinity"] = affinity);
        let out = out.unwrap().finish().stdout;
        out.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(allowed(json!({"initial": "0", "final": "1"})), "1");
    assert_eq!(allowed(json!({"initial": "0"})), "0");
    assert_eq!(allowed(json!({"final": "0-1"})), "0-1");
    // the container's first process keeps what it has
    let c = Container::new(&["grep", "Cpus_allowed_list", "/proc/self/status"])
        .set("/process/execCPUAffinity", json!({"final": "1"}));
    assert!(!c.run().stdout.trim().ends_with("\t1"));
}

#[test]
fn a_memory_policy() {
    let policy = |p: Value| {
        let c = Container::sh("cut -d' ' -f2 /proc/self/numa_maps | sort | head -n1");
        c.set("/linux/memoryPolicy", p).run().stdout
    };
    assert_eq!(
        policy(json!({"mode": "MPOL_BIND", "nodes": "0"})),
        "bind:0\n"
    );
    let interleave = json!({
        "mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]
    });
    assert_eq!(policy(interleave), "interleave=static:0\n");
    let why = |v| refused("/linux/memoryPolicy", v);
    assert!(why(json!({"mode": "MPOL_BIND"})).contains("needs nodes"));
    assert!(why(json!({"mode": "MPOL_LOCAL", "nodes": "0"})).contains("no nodes"));
    let c = Container::sh("true");
    let why = c
        .set(
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "77"}),
        )
        .fails();
    assert!(why.contains("memory policy"), "{why}");
}

#[test]
fn io_priority_and_personality() {
    let c = Container::sh("ionice; uname -m")
        .set(
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
        )
        .set("/linux/personality", json!({"domain": "LINUX32"}));
    let out = c.run();
    assert_eq!(out.stdout, "best-effort: prio 6\ni686\n", "{out:?}");
    let flags = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
    assert!(refused("/linux/personality", flags).contains("ADDR_NO_RANDOMIZE"));
}
