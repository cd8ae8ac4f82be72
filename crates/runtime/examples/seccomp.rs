//! How long a filter takes to compile, cold: the default, and a profile in OCI's format with a rule
//! a name, as runtimes above hand it down.
//!
//! `cargo run --release -p runtime --example seccomp`

#![expect(clippy::print_stdout, reason = "an example")]
#![expect(clippy::unwrap_used, reason = "an example")]

use std::time::Instant;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

/// Runs `f` with another input each time: nothing it keeps helps the next.
fn measure(what: &str, mut f: impl FnMut(u64) -> usize) {
    let mut times: Vec<_> = (0..200)
        .map(|n| {
            let begin = Instant::now();
            let length = f(n);
            (begin.elapsed().as_nanos() / 1000, length)
        })
        .collect();
    let (first, length) = times[0];
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2].0, times[times.len() - 1].0);
    println!("{what}: first {first} us, median {median} us, most {most} us; {length} instructions");
}

fn profile(n: u64, names: &[String]) -> LinuxSeccomp {
    let alone = |name: &String| json!({"names": [name], "action": "SCMP_ACT_ALLOW"});
    let mut rules: Vec<_> = names.iter().map(alone).collect();
    rules.push(json!({
        "names": ["personality"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": n + 100, "op": "SCMP_CMP_EQ"}]
    }));
    serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules
    }))
    .unwrap()
}

fn main() {
    // capabilities nobody has: each is another filter
    measure("default", |n| {
        runtime::seccomp::default_filter(n << 41).len()
    });
    let names = runtime::seccomp::allowed_names();
    println!("{} names", names.len());
    let profiles: Vec<_> = (0..200).map(|n| profile(n, &names)).collect();
    measure("profile", |n| {
        let p = &profiles[usize::try_from(n).unwrap()];
        runtime::seccomp::compile_once(p).unwrap().len()
    });
}
