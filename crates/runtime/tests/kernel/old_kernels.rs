//! Kernels without the newest calls: a filter around the test answers ENOSYS for them.

use std::fs;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

use crate::Container;
use crate::harness::facts;

/// Runs `f` in a thread in which these calls don't exist.
fn without(calls: &[&str], f: impl FnOnce() + Send) {
    let profile: LinuxSeccomp = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    }))
    .unwrap();
    let filter = runtime::seccomp::compile(&profile).unwrap();
    facts();
    std::thread::scope(|s| {
        s.spawn(|| {
            sys::seccomp::install(filter.bytes(), 0).unwrap();
            f();
        });
    });
}

#[test]
fn linux_5_10() {
    without(
        &["mount_setattr", "close_range", "cachestat", "futex_waitv"],
        || {
            let c = Container::sh(
            "cat /ro/f; echo x > /ro/f || echo refused; echo x > /rw/f && echo fine; touch /x || echo ro; \
             echo 1 > /proc/sys/kernel/panic || echo masked; grep ' /ro ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1,2; ls /proc/self/fd",
        )
        .set("/root/readonly", json!(true));
            let (ro, rw) = (c.dir.path().join("ro"), c.dir.path().join("rw"));
            for d in [&ro, &rw] {
                fs::create_dir(d).unwrap();
                fs::write(d.join("f"), "old\n").unwrap();
            }
            let c = c
                .bind("/ro", &ro, &["rbind", "ro", "nosuid", "rprivate"])
                .bind("/rw", &rw, &["rbind", "rprivate"])
                .in_cgroup();
            let out = c.run();
            assert_eq!(
                out.stdout, "old\nrefused\nfine\nro\nmasked\nro,nosuid\n0\n1\n2\n3\n",
                "{out:?}"
            );
            let mut c = Container::sh("echo in");
            c.root_by_path = true;
            c.init = true;
            assert_eq!(c.run().stdout, "in\n");
        },
    );
}

#[test]
fn no_clone3() {
    // as inside another container's default filter
    without(&["clone3"], || {
        let out = Container::sh("echo $$; hostname").run();
        assert_eq!(out.stdout, "1\nbox\n", "{out:?}");
    });
}
